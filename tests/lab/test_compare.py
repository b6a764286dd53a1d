"""The comparison: one small run of it all, its arithmetic redone by hand, and what it refuses before it begins."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMOKE
from PIL import Image

from ldm_course.checkpoints import load_denoiser
from ldm_course.lab import compare as module
from ldm_course.lab import report
from ldm_course.lab.compare import MATCHES, break_even, compare, make_setting
from ldm_course.lab.records import load_record, stamp
from ldm_course.measure.complexity import autoencoder_flops, count_parameters, unet_flops
from ldm_course.page import plotting

NAME = "compare-scenes-32-smoke"
BATCH, COUNT, BUDGET = SMOKE.batch_size, 40, 0.6
PIXEL, LATENT = SMOKE.unet, SMOKE.unet.for_channels(4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One comparison, its folder, and what it said."""
    out, said = tmp_path_factory.mktemp("compare") / "new" / "folder", []
    torch.manual_seed(11)
    record = compare("scenes", SMOKE, budget=BUDGET, limit=COUNT, seed=3, out=out, say=said.append, show=False)
    return record, out, said


@pytest.fixture(scope="module")
def results(run):
    return run[0]["results"]


# ------------------------------------------------------------------------------------------ the record


def test_the_record_is_on_the_disk_with_its_provenance(run):
    record, out, _ = run
    assert load_record(NAME, out) == record
    assert (record["kind"], record["seed"], record["profile"]) == ("compare", 3, "smoke")
    assert record["data_source"] and record["config"]["schedule"] == "cosine" and record["config"]["prediction"] == "v"
    assert record["config"]["unet"]["block_out_channels"] == list(SMOKE.unet.block_out_channels)
    assert record["results"]["data"] == {"name": "scenes", "size": 32, "train": COUNT, "test": COUNT}
    assert record["results"]["budget_seconds"] == BUDGET
    assert not re.search(r"/(tmp|home|work|root)\b", json.dumps(record))


def test_it_announces_what_it_will_do(run):
    assert "40 pictures of 32 x 32, profile smoke" in run[2][0]
    assert re.search(r"0\.6 s of training for each space; all in all about .+ on this machine", run[2][0])


def test_costs_are_the_closed_forms(results):
    cost = results["cost"]
    assert (cost["pixel"]["shape"], cost["latent"]["shape"]) == ([3, 32, 32], [4, 8, 8])
    for space, network, side in (("pixel", PIXEL, 32), ("latent", LATENT, 8)):
        assert cost[space]["flops_step"] == unet_flops(network, side).total
        assert cost[space]["training_flops_image"] == unet_flops(network, side, backward=True).total
        assert cost[space]["attention_share"] == unet_flops(network, side).share("attention")
        assert cost[space]["activation_bytes_image"] > 0
        assert set(cost[space]["step_seconds"]) == {"1", "8"}
        assert all(t["low"] <= t["median"] <= t["high"] for t in cost[space]["step_seconds"].values())
    assert cost["decode"]["flops"] == autoencoder_flops(SMOKE.autoencoder, 32, "decode").total
    assert cost["pixel"]["activation_bytes_image"] > 8 * cost["latent"]["activation_bytes_image"]


def test_the_autoencoders_account(results):
    a = results["autoencoder"]
    assert a["training_flops"] == a["training_images"] * autoencoder_flops(SMOKE.autoencoder, 32, backward=True).total
    assert a["encode_flops"] == COUNT * autoencoder_flops(SMOKE.autoencoder, 32, "encode").total
    assert a["training_images"] % BATCH == 0 and a["training_seconds"] >= SMOKE.autoencoder_share * BUDGET
    assert a["encode_seconds"] > 0 and a["held_out"] == SMOKE.eval_count
    # reconstructions are held against the rest of their originals, never against themselves
    assert a["reconstruction"]["n_generated"] + a["reconstruction"]["n_reference"] == a["held_out"]
    assert 0 < a["psnr"] < 60 and a["ssim"] < 1 and a["latent_scale"] > 0


def test_every_match_is_one(results):
    cost, paid = results["cost"], sum(results["autoencoder"][k] for k in ("training_seconds", "encode_seconds"))
    rows = {row["match"]: row for row in results["matched"]}
    assert list(rows) == list(MATCHES) == ["images", "flops", "denoiser_seconds", "all_seconds"]
    for row in rows.values():
        for space in ("pixel", "latent"):
            side = row[space]
            assert side["images"] == BATCH * side["step"] > 0
            assert side["flops"] == side["images"] * cost[space]["training_flops_image"]
            assert side["seconds"] > 0 and side["quality"]["n_generated"] == SMOKE.eval_count
    assert rows["images"]["pixel"]["images"] == rows["images"]["latent"]["images"]

    flops = [rows["flops"][space]["flops"] for space in ("pixel", "latent")]
    assert abs(flops[0] - flops[1]) <= BATCH * cost["pixel"]["training_flops_image"]

    latent = max(BUDGET - paid, 0.1 * BUDGET)
    for match, seconds in (
        ("denoiser_seconds", {"pixel": latent, "latent": latent}),
        ("all_seconds", {"pixel": paid + latent, "latent": latent}),
    ):
        for space in ("pixel", "latent"):  # the first step at which so many seconds had passed
            side = rows[match][space]
            assert side["seconds"] >= seconds[space] * (1 - 1e-9)
            assert side["seconds"] * (side["step"] - 1) / side["step"] < seconds[space] + 0.3
    assert rows["all_seconds"]["latent"]["step"] == rows["denoiser_seconds"]["latent"]["step"]


def test_a_training_image_costs_what_the_longest_snapshot_says(results):
    for space in ("pixel", "latent"):
        end = results["matched"][-1][space]
        assert results["cost"][space]["training_seconds_image"] == pytest.approx(end["seconds"] / end["images"])


def test_the_sampling_table_is_arithmetic_on_the_costs(results):
    cost = results["cost"]
    rows = [(r["space"], r["method"], r["steps"], r["made"]) for r in results["sampling"]]
    assert rows[:3] == [("pixel", "ddpm", 20, 4), ("pixel", "ddim", 4, 16), ("latent", "ddim", 2, 16)]
    assert rows[3:] == [("pixel", "ddim", 2, 16), ("latent", "ddim", 4, 16), ("latent", "ddpm", 20, 4)]
    for r in results["sampling"]:
        decodes = r["space"] == "latent"
        expected = r["steps"] * cost[r["space"]]["flops_step"] + decodes * cost["decode"]["flops"]
        assert r["flops_picture"] == expected
        for batch in ("1", "8"):
            steps = r["steps"] * cost[r["space"]]["step_seconds"][batch]["median"] / int(batch)
            decode = decodes * cost["decode"]["seconds"][batch]["median"] / int(batch)
            assert r["seconds_picture_without_decoder"][batch] == pytest.approx(steps)
            assert r["seconds_picture"][batch] == pytest.approx(steps + decode)
        q = r["quality"]
        assert q["n_generated"] == r["made"] and q["fd_e"] > 0 and q["fd_e_floor"] > 0
        assert q["n_generated"] + q["n_reference"] == COUNT


def test_the_stored_break_even_is_that_of_the_stored_results(results):
    assert results["break_even"] == break_even(results)


# ------------------------------------------------------------------------------------ the other files


def test_the_stored_models_are_those_that_were_measured(run):
    record, out, _ = run
    for space in ("pixel", "latent"):
        d = load_denoiser(out / f"{space}.safetensors")
        assert d.space.name == space and d.prediction == "v" and d.meta["record"] == NAME
        assert d.meta["data"] == "scenes"
        assert count_parameters(d.model) == record["results"]["parameters"][space]
        if torch.cuda.is_available():
            continue
        made = d.generate(16, method="ddim", steps=4, seed=3)
        with Image.open(out / f"{space}-ddim-4.png") as stored:
            assert np.array_equal(np.asarray(stored.convert("RGB")), plotting.grid_image(made[:4], 8, scale=3))


def test_every_picture_is_in_the_report_and_in_the_folder(run):
    record, out, _ = run
    text = (out / "report.md").read_text(encoding="utf-8")
    linked = re.findall(r"!\[[^\]]+\]\(([^)]+\.png)\)", text)
    assert sorted(linked) == sorted(p.name for p in out.glob("*.png")) and len(linked) == 9
    for name in linked:
        with Image.open(out / name) as image:
            image.verify()
            assert min(image.size) >= 96
    captions = re.findall(r"^!\[(.+)\]\(.+\)\n\n\*(.+)\*$", text, re.MULTILINE)
    assert len(captions) == 9 and all(told == below for told, below in captions)
    assert stamp(record)[1:] in text and record["data_source"] in text
    assert "0.6 s of training for each space" in text and "not FID" in text
    assert report.as_markdown(record) in text
    assert sorted(p.suffix for p in out.iterdir() if p.suffix != ".png") == [".json", ".md"] + 3 * [".safetensors"]


def test_tables_say_what_the_record_says(run, results):
    text = report.as_text(run[0])
    for title in ("What one picture costs", "Quality at matched budgets", "Sampling, decoder included", "Break-even"):
        assert title in text
    lines = [re.split(r"  +", line.strip()) for line in text.splitlines()]
    assert ["values", "3072", "256", "12x"] in lines and ["positions", "1024", "64", "16x"] in lines
    assert sum(line[:2] == ["pixel", "DDIM"] for line in lines) == 2
    found = report.computed_in(results)
    assert {found["step"], found["training"]} <= {"bf16", "float32", "fp16"} and found["decode"] == "float32"
    named = {line[0] for line in lines}
    assert {f"training, an image, {found['training']}", f"a step, batch 8, {found['step']}"} <= named
    assert f"steps in {found['step']}, decoding in float32" in text
    assert sum(line[:2] == ["latent", "DDPM"] for line in lines) == 1
    for says in MATCHES.values():
        assert says in text
    cost = results["cost"]
    ratio = cost["pixel"]["flops_step"] / cost["latent"]["flops_step"]
    (row,) = [line for line in lines if line[0] == "FLOPs of a denoising step"]
    assert row[-1] == f"{ratio:.3g}x"
    markdown = report.as_markdown(run[0])
    for block in markdown.split("\n\n"):
        widths = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(widths) <= 1  # as many cells in each row as in the head


def test_older_records_timed_in_float32_what_they_drew_in_bf16():
    found = report.computed_in({"training_precision": "bf16"})
    assert found == {"training": "bf16", "step": "float32", "decode": "float32"}
    assert report.computed_in({"training_precision": "no"})["training"] == "float32"


# ----------------------------------------------------------------------------------- break-even by hand


def made_up(pixel_image=0.5, latent_image=0.1, pixel_picture=3.0, latent_picture=1.0):
    def row(space, method, steps, seconds):
        return {"space": space, "method": method, "steps": steps, "seconds_picture": {"1": 99.0, "64": seconds}}

    return {
        "cost": {
            "pixel": {"training_seconds_image": pixel_image},
            "latent": {"training_seconds_image": latent_image},
        },
        "autoencoder": {"training_seconds": 30.0, "encode_seconds": 2.0},
        "sampling": [
            row("pixel", "ddpm", 1000, 77.0),
            row("pixel", "ddim", 100, 55.0),
            row("latent", "ddim", 50, latent_picture),
            row("pixel", "ddim", 50, pixel_picture),
            row("latent", "ddim", 100, 44.0),
            row("latent", "ddpm", 50, 88.0),
        ],
    }


def test_break_even_by_hand():
    found = break_even(made_up())
    assert found["autoencoder_seconds"] == 32
    assert found["saved_seconds"] == pytest.approx({"training_image": 0.4, "picture": 2.0})
    assert found["after"] == pytest.approx({"training_image": 80.0, "picture": 16.0})


def test_what_saves_nothing_is_never_earned_back():
    found = break_even(made_up(latent_image=0.6, latent_picture=3.0))
    assert found["saved_seconds"] == pytest.approx({"training_image": -0.1, "picture": 0.0})
    assert found["after"] == {"training_image": None, "picture": None}
    _, _, rows = report._break_even({"results": {"break_even": found}})
    assert [row[-1] for row in rows] == ["never", "never"] and rows[0][1] == "-100 ms"


# --------------------------------------------------------------------------------------------- refusals


@pytest.fixture
def few(tmp_path):
    folder = tmp_path / "few"
    folder.mkdir()
    for i in range(12):
        Image.new("RGB", (32, 32), (20 * i, 0, 99)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    "options, says",
    [
        ({"size": 36}, "size=36; the latent's U-Net needs a multiple of 8 in profile 'smoke'"),
        ({"size": 16}, "size=16; .*perceptual loss takes 32 or more"),
        ({"size": 0}, "size=0"),
        ({"budget": 0}, "budget=0; expected more than 0"),
        ({"budget": -1.0}, "budget=-1.0"),
        ({"budget": math.nan}, "budget=nan"),
        ({"budget": math.inf}, "budget=inf"),
        ({"budget": "10"}, "budget='10'; expected a valid number"),
        ({"limit": 0}, "limit=0"),
        ({"limit": 31}, "scenes has 31 training and 31 test pictures; .* needs 32 training pictures"),
        ({"data": "nothing"}, "there is no data called 'nothing'"),
        ({"data": "few"}, "few has 9 training and 3 test pictures"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_and_writes_nothing(options, says, few, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_announcement", lambda setting: pytest.fail("it began"))
    data = str(few) if options.get("data") == "few" else options.pop("data", "scenes")
    options.pop("data", None)
    with pytest.raises(ValueError, match=says) as error:
        compare(data, SMOKE, out=tmp_path / "out", say=print, **options)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["few"]


def test_a_file_in_the_way_is_noticed_before_and_not_after(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_announcement", lambda setting: pytest.fail("it began"))
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ValueError, match="takes no files"):
        compare("scenes", SMOKE, limit=COUNT, out=tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_both_sides_share_shuffled_pictures_and_settings():
    a = make_setting("scenes", SMOKE, None, None, COUNT, 0)
    b = make_setting("scenes", SMOKE, None, None, COUNT, 0)
    assert torch.equal(a.train.images, b.train.images) and a.budget == SMOKE.budget
    assert a.train_config(5.0) == replace(b.train_config(1.0), seconds=5.0)
    assert len(a.train) == COUNT and a.train.split == "train" and a.test.split == "test"
