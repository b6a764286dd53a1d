"""The reference stages at the smallest size: what they record, that they go on after a stop, and what is kept."""

import dataclasses
import io
import json
import math
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMOKE, empty_house, stand_in_for_cifar10
from diffusers import UNet2DConditionModel
from PIL import Image

from ldm_course import checkpoints
from ldm_course.cli import main
from ldm_course.config import AutoencoderConfig
from ldm_course.data import scenes
from ldm_course.data.loaders import load_data
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.lab import figures, profiles, reference
from ldm_course.lab.claims import ledger, verdicts
from ldm_course.lab.claims.rates import Rates, picture_seconds
from ldm_course.lab.profiles import PROFILES
from ldm_course.lab.records import load_record, make_record, save_record
from ldm_course.lab.reference import STAGES, Stage, find, known_record, run_stages, status
from ldm_course.lab.stages import (
    autoencoders,
    cost,
    denoisers,
    fine_structures,
    obedience,
    perception,
    quality,
    sampling,
    stable_diffusion,
    texture,
)
from ldm_course.lab.stages.base import Run, autoencoder_of, names_of
from ldm_course.measure import bits, cost_model, detection, distances, probes, structures
from ldm_course.measure.complexity import autoencoder_flops, count_flops, count_parameters, unet_flops
from ldm_course.networks import foreign
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.detector import Detector
from ldm_course.networks.text import TextEncoder
from ldm_course.networks.unet import UNet
from ldm_course.spaces import PixelSpace
from ldm_course.training.recipes import seeded

PIXEL, LATENT, FIRST = "denoiser-cifar10-32-pixel", "denoiser-cifar10-32-latent", "autoencoder-cifar10-32-f4"


@pytest.fixture(autouse=True)
def house(tmp_path_factory, monkeypatch):
    """The course's folders, empty, and a CIFAR-10 of scenes."""
    home = empty_house(tmp_path_factory)
    stand_in_for_cifar10(home)
    monkeypatch.setenv("LDM_DATA", str(home))
    monkeypatch.setenv("LDM_HOME", str(home))
    return home


def results(out, stage):
    return load_record(f"{stage}-smoke", out / "records")["results"]


def ran(out, *names, **options):
    assert run_stages(list(names), SMOKE, out, say=lambda line: None, **options) == []
    return [results(out, name) for name in names]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tmp_path_factory.mktemp("reference")


def test_the_denoisers_share_flops_and_are_judged_on_their_way(trained):
    run_stages([LATENT], SMOKE, trained, minutes=0.01, say=print)  # what it needs was run before it
    (trained / "records" / f"{LATENT}-smoke.json").unlink()
    first, (pixel, latent) = results(trained, FIRST), ran(trained, PIXEL, LATENT, minutes=5)  # and now to their ends
    assert pixel["shape"] == [3, 32, 32] and latent["shape"] == [4, 8, 8]
    assert pixel["training"]["images"] == SMOKE.scale.images == 64
    for found in (pixel, latent):
        spent, points = found["training"], found["points"]
        network = SMOKE.unet.for_channels(found["shape"][0])
        assert found["training_flops_image"] == unet_flops(network, found["shape"][1], backward=True).total
        assert spent["flops"] == found["training_flops_image"] * spent["images"]
        assert points[-1]["images"] == spent["images"] and points[-1]["flops"] == spent["flops"]
        assert [p["images"] for p in points] == sorted({p["images"] for p in points})
        assert all(p["quality"]["n_generated"] == SMOKE.eval_count for p in points)
    assert latent["training"]["flops"] == pytest.approx(pixel["training"]["flops"], rel=0.2)  # a batch more or less
    assert pixel["first_stage"] is None
    assert latent["first_stage"]["training_seconds"] == first["variants"]["perceptual"]["training_seconds"]
    d = checkpoints.load_denoiser(trained / "checkpoints" / f"{LATENT}-smoke.safetensors")
    assert d.space.name == "latent" and d.space.shape == (4, 8, 8)
    assert (trained / "records" / f"{PIXEL}-smoke.png").stat().st_size > 1000


def test_the_page_draws_what_was_recorded(trained):
    pixel, latent, first = (load_record(f"{name}-smoke", trained / "records") for name in (PIXEL, LATENT, FIRST))
    quiet = Rates(0.4, 0.02, 3.0, 0.5, "bf16")
    panels = figures.progress({"pixel": pixel, "latent": latent}, first, {"two cores": quiet}).axes
    drawn = [{c.get_label(): c for c in axes.containers} for axes in panels]
    spent = [{"pixel": lambda p: p["images"]}, {"pixel": lambda p: p["flops"]}, {"pixel": lambda p: 0.4 * p["images"]}]
    for i, latents in enumerate((lambda p: p["images"], lambda p: p["flops"], lambda p: 0.02 * p["images"])):
        for label, record, x in (("pixel", pixel, spent[i]["pixel"]), ("latent", latent, latents)):
            line, points = drawn[i][label].lines[0], record["results"]["points"]
            assert list(line.get_xdata()) == pytest.approx([x(p) for p in points])
            assert list(line.get_ydata()) == [p["quality"]["kd_e"] for p in points]
        dotted = [line for line in panels[i].lines if line.get_linestyle() == ":"]
        seen = first["results"]["variants"]["perceptual"]["training_images"]
        paid = [None, latent["results"]["first_stage"]["training_flops"], 3.0 * seen + 0.5 * 96][i]
        assert len(dotted) == (paid is not None)
        if dotted:
            assert dotted[0].get_xdata()[0] == pytest.approx(latents(latent["results"]["points"][0]) + paid)
    assert len(figures.progress({"pixel": pixel}).axes) == 2  # without its counterpart, and without a clock


def test_ratios_are_pixel_over_latent_and_blank_where_nothing_was_measured():
    def cost_row(side, f, step, decode=None):
        row = {"side": side, "f": f, "step": {"seconds_image": step}, "kept_for_backward": 160 / f**2}
        return row | {"training": {"largest_batch": 2 * f}} | ({"decode": {"seconds_image": decode}} if decode else {})

    rows = [cost_row(32, 1, 0.8), cost_row(32, 4, 0.1, decode=5.0), cost_row(256, 1, 9.0)]
    found = figures.ratios(None, None, {"results": {"rows": rows}}, None)
    shown = {row[0]: row[1:] for row in figures.ratio_table(found)}
    assert shown["a sampling step, 32 a side"] == ["12x", "–", "8x"]
    assert shown["50 steps and decoding, 32 a side"] == ["0.29x", "–", "4x"]  # 40 s over 5 + 5
    assert shown["50 steps and decoding, 256 a side"] == ["–", "3.7x", "–"]
    assert shown["kept for the backward pass, an image"][2] == "16x"
    assert shown["largest batch that fits, 32 a side, LDM's 256 (latent / pixel)"] == ["–", "5.7x", "4x"]
    assert shown["training, seconds an image"] == ["1.3x", "2.7x", "–"]
    assert [picture_seconds(row, 50) for row in (None, rows[1], rows[2])] == [None, 10.0, 450.0]
    (axes,) = figures.ratio_figure(found).axes
    marks = {line.get_label(): list(line.get_xdata()) for line in axes.get_lines()}
    assert marks["recorded"] == pytest.approx([8, 4, 16, 4]) and marks["claimed"][1] == 12


def test_ratios_take_the_rates_of_a_quiet_machine_and_networks_built_for_the_size():
    pair = [{"results": {"training": {"images": 100, "images_per_s": rate}}} for rate in (10.0, 50.0)]
    trained = {"precision": "bf16", "seconds_image": {"3x32x32": 0.2, "4x8x8": 0.02}}
    first = {"training_seconds_image": 1.0, "encode_seconds_image": 1.0}
    speed = {"results": {"batch": 64, "as_trained": trained, "first_stage": first}}
    own = {"results": {"variants": {"perceptual": {"training_images": 3}}, "data": {"train": 2}}}

    def shown(*more):
        return {row[0]: row[3] for row in figures.ratio_table(figures.ratios(*pair, *more))}

    assert shown(None, None)["training, seconds an image"] == "–"  # their own clocks are no measure
    assert shown(None, None, speed)["training, seconds an image"] == "10x"
    assert shown(None, None, speed)["the same run, autoencoder included"] == "–"
    assert shown(None, None, speed, own)["the same run, autoencoder included"] == "2.9x"  # 20 s over 2 + 5
    rows = []
    for f, step, network in ((1, 9.0, "standard"), (1, 2.0, "built for the size"), (4, 0.1, None)):
        row = {"side": 256, "f": f, "step": {"seconds_image": step}, "training": {}, "decode": {"seconds_image": 5.0}}
        rows.append(row | {"network": network or "standard", "serves_both": network is None})
    found = shown({"results": {"rows": rows}}, None)
    assert found["50 steps and decoding, 256 a side, networks built for the size"] == "10x"  # 100 s over 5 + 5


def test_each_autoencoder_has_one_loss_more_than_the_one_before(trained):
    (found,) = ran(trained, FIRST)
    weights = [[v[f"{name}_weight"] > 0 for name in ("perceptual", "adversarial")] for v in found["variants"].values()]
    assert weights == [[False, False], [True, False], [True, True]]
    assert all(v["psnr"] > 5 and v["reconstruction"]["fd_e"] > 0 for v in found["variants"].values())
    assert found["rows_of_the_picture"] == ["held-out pictures", "l1", "perceptual", "adversarial"]


def test_one_network_draws_again_and_again_and_the_scatter_is_held_against_the_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "REDRAWS", 3)
    found = ran(tmp_path, "denoiser-cifar10-32-latent", "redraws-cifar10-32-latent")[1]
    kd = [q["kd_e"] for q in found["draws"]]
    assert len(set(kd)) == 3
    stated = math.sqrt(sum(q["kd_e_error"] ** 2 for q in found["draws"]) / 3)
    assert found["over_stated"]["kd_e"] == pytest.approx(np.std(kd, ddof=1) / stated)
    assert found["expected_error"] == pytest.approx(0.5)


def test_every_sampler_gets_every_number_of_steps(trained, monkeypatch):
    ran(trained, "denoiser-cifar10-32-latent")  # judged in earnest, before the judge is replaced
    assert set(sampling.ROWS) == {(method, steps) for method in sampling.METHODS for steps in sampling.STEPS}
    assert sampling.ROWS[:3] == sampling.SOURCE and len(sampling.ROWS) == len(set(sampling.ROWS))
    every = [(method, steps) for steps in (2, 3) for method in ("ddpm", "ddim", "dpmpp")]
    monkeypatch.setattr(sampling, "ROWS", every[::-1])  # whatever comes first
    monkeypatch.setattr(distances, "evaluate", lambda made, reference: {"fd_e": float(len(made))})
    (found,) = ran(trained, "sampling-cifar10-32-latent")
    assert [(r["method"], r["steps"]) for r in found["rows"]] == every and found["finished"]
    assert {r["quality"]["fd_e"] for r in found["rows"]} == {SMOKE.eval_count}
    assert {r["quality_few"]["fd_e"] for r in found["rows"]} == {SMOKE.ddpm_count}  # one count for all rows
    assert found["trained"] == f"{LATENT}-smoke"


def row(seconds, kd, error=0.0, n=64):
    return {"seconds_picture": seconds, "quality": {"kd_e": kd, "kd_e_error": error, "n_generated": n}}


def test_the_pareto_front_is_what_no_other_row_dominates():
    slow, bad, mid, tie, good = row(4, 0.9), row(1, 0.9), row(2, 0.5), row(2, 0.5), row(3, 0.4)
    assert figures.pareto([slow, good, mid, tie, bad]) == [bad, mid, tie, good]  # by seconds; ties stay
    assert figures.pareto([row(2, 0.6), mid]) == [mid] == figures.pareto([row(3, 0.5), mid])
    assert figures.pareto([]) == []
    with pytest.raises(ValueError, match="16, 64 pictures"):
        figures.pareto([mid, row(1, 1.0, n=16)])


def test_beyond_the_scatter_the_front_only_grows():
    rows = [row(1, 0.9, 0.1), row(2, 0.5, 0.1), row(3, 0.7, 0.1), row(3, 0.9, 0.1), row(4, 0.45, 0.1)]
    front = figures.pareto(rows, beyond_scatter=True)  # 2 * hypot(0.1, 0.1) is 0.28
    assert front == [rows[0], rows[1], rows[2], rows[4]]  # 0.7 is not resolvably behind 0.5, and 0.9 is
    random = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)).tolist()
    rows = [row(round(s, 1), round(kd, 1), std / 10) for s, kd, std in random]
    plain, wide = figures.pareto(rows), figures.pareto(rows, beyond_scatter=True)
    assert 0 < len(plain) < len(wide) < len(rows) and all(r in wide for r in plain)


def test_few_pictures_are_told_from_others(trained):
    (found,) = ran(trained, "few-cifar10-32-latent", minutes=0.02)
    last = found["points"][-1]
    assert found["data"]["train"] == 96 and last["loss_train"] != last["loss_test"]
    assert last["nearest_train"] > 0 and last["nearest_test"] > 0
    assert 0 <= last["copied"] <= 1 and 0 < last["copied_error"] <= 0.5
    assert found["first_stage"]["record"] == "autoencoder-cifar10-few-32-f4-smoke"
    record = load_record("few-cifar10-32-latent-smoke", trained / "records")
    _, right = figures.overfitting({"latent": record}).axes
    (curve, *_), (chance,) = right.lines, right.collections
    assert list(curve.get_ydata()) == [p["copied"] for p in found["points"]] and "share" in right.get_ylabel()
    widest = max(p["copied_error"] for p in found["points"])
    assert chance.get_datalim(right.transData).height == pytest.approx(4 * widest, rel=1e-3)
    for point in record["results"]["points"]:  # an older record counts no copies
        del point["copied"]
    _, right = figures.overfitting({"latent": record}).axes
    assert right.lines[0].get_ydata()[-1] == last["nearest_train"] / last["nearest_test"]


def test_every_seed_sees_the_same_number_of_images_and_is_judged_twice(trained):
    (found,) = ran(trained, "seeds-cifar10-32", minutes=5)
    runs, images = found["runs"], SMOKE.scale.seed_images
    plan = [(seed, 1) for seed in range(SMOKE.scale.seeds)] + [(0, times) for times in quality.RATES]
    assert [(r["space"], r["seed"], r["times"]) for r in runs] == [
        (space, *which) for which in plan for space in ("pixel", "latent")
    ]
    assert found["images"] == images and all(r["points"][0]["images"] == images for r in runs)
    for space in ("pixel", "latent"):
        mine = [r for r in runs if r["space"] == space]
        assert len({tuple(p["images"] for p in r["points"]) for r in mine if r["times"] == 1}) == 1
        assert all(r["lr"] == r["times"] * SMOKE.lr and len(r["points"]) == 1 for r in mine if r["times"] > 1)
        assert len({r["points"][0]["loss_test"] for r in mine}) == len(mine)  # each is another network
    for r in runs:
        point, steps = r["points"][0], r["points"][-1]["step"]
        assert point["quality"]["n_generated"] == point["again"]["n_generated"] == SMOKE.eval_count
        assert point["quality"]["kd_e"] != point["again"]["kd_e"]
        assert len(r["curves"]["loss"]) == len(r["curves"]["grad_norm"]) == min(steps, quality.BLOCKS)
        assert 0 <= r["clipped"] <= 1 and min(r["curves"]["grad_norm"]) > 0
    assert not list((trained / "states" / "seeds-cifar10-32-smoke").glob("*/state.safetensors"))
    record = load_record("seeds-cifar10-32-smoke", trained / "records")
    rows = figures.seed_rows(record)
    assert [row[0] for row in rows] == ["KD-E, same images", "KD-E, same seconds", "held-out loss"] and rows[0][
        1
    ] != "–"
    drawn = [len(axes.lines) for axes in figures.seed_curves(record).axes]
    record["results"]["runs"][-1] |= {"points": [], "diverged": "the loss is nan"}
    record["results"]["runs"][-1]["curves"]["loss"][-1] = None
    assert figures.seed_rows(record) == rows
    assert [len(axes.lines) for axes in figures.seed_curves(record).axes] == [drawn[0], drawn[1] - 1]


def test_seeds_that_were_stopped_go_on(trained, tmp_path, monkeypatch):
    """The networks that were done are read back, and the others end with what they would have had."""
    whole = results(trained, "seeds-cifar10-32")["runs"]
    judged, judge, stopping = [], distances.evaluate, True

    def stops(made, reference):
        judged.append(len(made))
        if stopping and len(judged) == 8:
            raise KeyboardInterrupt
        return judge(made, reference)

    monkeypatch.setattr(distances, "evaluate", stops)
    monkeypatch.setattr(quality, "_faster", lambda run, shapes: 2)
    for kind in ("records", "checkpoints"):
        (tmp_path / kind).mkdir()
        for path in (trained / kind).glob(f"{FIRST}-smoke.*"):
            (tmp_path / kind / path.name).write_bytes(path.read_bytes())
    with pytest.raises(KeyboardInterrupt):
        run_stages(["seeds-cifar10-32"], SMOKE, tmp_path, minutes=5, say=print)
    stopping, before = False, len(judged)
    (found,) = ran(tmp_path, "seeds-cifar10-32", minutes=5)
    points = [p for r in found["runs"] for p in r["points"]]
    assert len(judged) - before == 2 * (len(points) - 3)  # the fourth was begun twice
    for now, then in zip(found["runs"], whole):
        same = now["points"][0], then["points"][0]
        assert same[0]["loss_test"] == same[1]["loss_test"] and same[0]["quality"] == same[1]["quality"]


def test_the_filters_of_the_noise_stage_are_judged_on_the_same_pictures(trained):
    (found,) = ran(trained, "noise-cifar10-32")
    assert found["rows"][0]["std"] == 0 and found["autoencoder"] == f"{FIRST}-smoke"
    # a covariance of 96 pictures knows enough of others for loud noise
    assert all(row["linear"] > row["noisy"] for row in found["rows"] if row["std"] >= 0.2)
    assert all(row["lead"] == pytest.approx(row["autoencoder"] - row["linear"]) for row in found["rows"][1:])


def test_a_model_that_copies_is_nearer_to_what_it_was_trained_on(tmp_path, monkeypatch):
    """The stage's own measure, of a model that gives its training pictures back, and of one that gives new ones."""
    drawn = {"copies": scenes.render(0, range(8), 32), "new": scenes.render(0, range(500, 508), 32)}
    ratios, copied = {}, {}
    for name, pictures in drawn.items():
        monkeypatch.setattr(denoisers.Training, "drawn", lambda *args, pictures=pictures, **kwargs: pictures)
        (found,) = ran(tmp_path / name, "few-cifar10-32-pixel", minutes=0.005)
        last = found["points"][-1]
        ratios[name] = last["nearest_train"] / last["nearest_test"]
        copied[name] = last["copied"] - 0.5, last["copied_error"]
    assert ratios["copies"] < 0.01 and ratios["new"] > 0.5
    assert copied["copies"][0] == 0.5 > 2 * copied["copies"][1]
    assert abs(copied["new"][0]) < 3 * copied["new"][1]


def test_the_comparison_is_a_stage(trained):
    (found,) = ran(trained, "compare-cifar10-32")
    record = load_record("compare-cifar10-32-smoke", trained / "records")
    assert record["kind"] == "compare" and record["data_source"] == "scenes that stand in for CIFAR-10"
    assert [row["match"] for row in found["matched"]] == ["images", "flops", "denoiser_seconds", "all_seconds"]
    assert (trained / "records" / "compare-cifar10-32-smoke.png").is_file()


@pytest.fixture
def stored_networks(house, monkeypatch):
    """Untrained stand-ins for the weights that chapter 4's stages take from others."""
    first = seeded(0, Autoencoder, SMOKE.autoencoder)
    checkpoints.save_model(house / "checkpoints" / "first-stage-f4-smoke.safetensors", first)
    network, levels = seeded(0, UNet, dataclasses.replace(SMOKE.unet, num_classes=3)), make_schedule("cosine")
    path = house / "checkpoints" / "denoiser-emoji-64-pixel-smoke.safetensors"
    checkpoints.save_denoiser(path, Denoiser(network, PixelSpace(64), levels, "v"))
    for stage in perception.STAGES:
        assert set(stage.needs) <= {"first-stage-f4", "denoiser-emoji-64-pixel"} <= set(STAGES)
        monkeypatch.setitem(reference.STAGES, stage.name, dataclasses.replace(stage, needs=()))


def test_what_chapter_4_measures_is_recorded_so_that_the_ledger_can_judge_it(tmp_path, stored_networks, monkeypatch):
    monkeypatch.setattr(probes, "PROBE_LEVELS", (200, 600))
    monkeypatch.setattr(profiles.Sizes, "of", lambda p: profiles.Sizes(2, 16, 64, 10, 2))
    drawings, things = ran(tmp_path, "perception-emoji-64", "perception-scenes-32")
    assert drawings["pictures"] == 8 and len(drawings["rmse"]) == len(drawings["levels"]) == len(bits.LEVELS)
    assert (drawings["grid"], things["grid"]) == (8, 4)
    assert drawings["networks"] == ["denoiser-emoji-64-pixel-smoke", "first-stage-f4-smoke"]
    assert things["probes"]["seeds"] == perception.SEEDS and things["probes"]["scenes"] == 40
    assert things["changes"]["texture 1"]["strength"] == pytest.approx(2, rel=0.2)
    for name, side in (("perception-emoji-64", 64), ("perception-scenes-32", 64)):  # the small pictures twice as large
        record = load_record(f"{name}-smoke", tmp_path / "records")
        rows = record["results"]["rows_of_the_picture"]
        shown = np.asarray(Image.open(tmp_path / "records" / f"{name}-smoke.png"))
        assert shown.shape[0] == len(rows) * (side + 2) - 2 and record["seconds"] > 0
    live = {"perception-emoji-64": drawings, "perception-scenes-32": things}
    for id in ("C3.6", "C4.1", "C4.3", "C4.4"):
        assert ledger.CLAIMS[id].judge(live).verdict in (verdicts.CONFIRMED, verdicts.REFINED, verdicts.REFUTED)


def test_texture_is_varied_alone_and_judged_at_the_same_marks(tmp_path):
    found = ran(tmp_path, "texture-scenes-32")[0]
    rows, steps = found["runs"], SMOKE.scale.texture_images // SMOKE.batch_size
    seeds = range(SMOKE.scale.seeds)
    assert [(r["strength"], r["seed"]) for r in rows] == [(s, seed) for seed in seeds for s in texture.STRENGTHS]
    for row in rows:
        assert [p["step"] for p in row["points"]] == list(range(1, steps + 1))
        for p in row["points"]:
            assert p["images"] == p["step"] * SMOKE.batch_size and len(p["by_level"]) == len(found["levels"])
            assert p["content"] == pytest.approx(math.sqrt(np.mean(np.square(p["by_level"]))))
    first = {(r["strength"], r["seed"]): r["points"][0]["content"] for r in rows}
    assert first[0, 0] == pytest.approx(first[4, 0], rel=0.01) != pytest.approx(first[0, 1], rel=0.01)
    assert found["textures"]["4"]["block_means"] < 0.1 * found["textures"]["4"]["pixels"]
    assert set(found["against_plain"]) == {"1", "4"} and len(found["against_plain"]["4"]["ratio"]) == steps
    left, right = figures.texture_curves(load_record("texture-scenes-32-smoke", tmp_path / "records")).axes
    drawn = {line.get_label(): line for line in left.lines if not line.get_label().startswith("_")}
    assert list(drawn) == ["no texture", "texture 1, 2 grey levels", "texture 4, 7 grey levels"]
    plain = [[p["content"] for p in r["points"]] for r in rows if r["strength"] == 0]
    assert list(drawn["no texture"].get_ydata()) == pytest.approx(np.mean(plain, 0))
    bars = right.containers[-1].lines[0]
    assert list(bars.get_ydata()) == [ratio for ratio, _ in found["against_plain"]["4"]["ratio"]]
    (tmp_path / "records" / "texture-scenes-32-smoke.json").unlink()
    assert ran(tmp_path, "texture-scenes-32")[0]["runs"] == rows  # what was trained before a stop is kept


def test_where_texture_is_given_time_the_first_training_sets_the_steps_of_all(tmp_path):
    scale = dataclasses.replace(SMOKE.scale, texture_images=None)
    here = Run("texture-scenes-32", dataclasses.replace(SMOKE, scale=scale), tmp_path, 48.0, torch.device("cpu"))
    marks = texture._marks(here, [])
    assert [m["until_seconds"] for m in marks] == pytest.approx([8 * 2 ** (-k / 2) for k in range(8, -1, -1)])
    points = [{"step": 3}, {"step": 7}]
    assert texture._marks(here, [{"points": points}]) == [{"until": 3}, {"until": 7}]


def test_autoencoders_are_drawn_by_f(trained):
    ran(trained, FIRST)
    record = load_record(f"{FIRST}-smoke", trained / "records")
    left, middle, right = figures.by_f({4: record, 8: record}, {4: 27.0}).axes
    variants = record["results"]["variants"]
    drawn = {line.get_label(): line for line in left.lines}
    assert set(drawn) == {*variants, "published"}
    assert all(list(drawn[loss].get_ydata()) == [v["psnr"]] * 2 for loss, v in variants.items())
    bars = [c for c in middle.containers]
    assert [list(b[0].get_ydata()) for b in bars] == [[v["reconstruction"]["kd_e"]] * 2 for v in variants.values()]
    assert list(right.lines[0].get_ydata()) == [127.5 * h["l1"] for h in variants["l1"]["history"]]
    for v in variants.values():
        del v["reconstruction"]["kd_e_error"]  # as in a record of before
    figures.by_f({4: record, 8: record})


def test_the_rows_of_a_stored_picture_are_the_pictures(trained, house, capsys):
    ran(trained, FIRST)
    record = load_record(f"{FIRST}-smoke", trained / "records")
    with pytest.raises(ValueError, match="is missing; run: ldm-course reference --stage autoencoder"):
        figures.stored_rows(record)
    shutil.copy(trained / "records" / f"{FIRST}-smoke.png", house / "records")
    rows = figures.stored_rows(record)
    assert list(rows) == ["held-out pictures", "l1", "perceptual", "adversarial"]
    assert torch.equal(rows["held-out pictures"], load_data("cifar10", 32, "test", limit=256).images[:8])
    assert all(r.shape == (8, 3, 32, 32) and not torch.equal(r, rows["l1"]) for n, r in rows.items() if n != "l1")
    shown = figures.stored_picture(record, rows=2)
    with Image.open(io.BytesIO(shown.data)) as sheet:
        assert sheet.size == (8 * 66 - 2, 2 * 66 - 2)
    assert figures.stored_picture({"name": "nothing"}) is None
    figures.show_stored(record)
    assert capsys.readouterr().out.startswith(f"{FIRST}, from the top: held-out pictures, l1, perceptual, adversarial.")
    figures.show_stored({"name": "nothing"})
    assert capsys.readouterr().out == ""
    record["results"]["rows_of_the_picture"].append("one more")
    with pytest.raises(ValueError, match="expected 5 rows of 8"):
        figures.stored_rows(record)


def test_cost_counts_and_leaves_out_what_would_take_too_long(tmp_path, monkeypatch):
    small = profiles.Scale(images=1, sides=(32, 512), call_seconds=0.5, memory=2**26)
    run = dataclasses.replace(SMOKE, scale=small)
    monkeypatch.setitem(globals(), "SMOKE", run)
    (found,) = ran(tmp_path, "cost")
    rows = cost_model.rows(found)
    assert set(rows) == {(side, f) for side in (32, 512) for f in (1, 2, 4, 8)}
    for (side, f), row in rows.items():
        network = SMOKE.unet.for_channels(4 if f > 1 else 3)
        assert row["flops_step"] == unet_flops(network, side // f).total
        assert row["shape"] == [3 if f == 1 else 4, side // f, side // f]
        assert ("decode" in row) == (f > 1) and row["precision"] in ("bf16", "float32")
    near = rows[32, 1]["training"]
    assert near["flop_per_s"] == pytest.approx(rows[32, 1]["flops_training"] / near["seconds_image"])
    assert near["largest_batch"] * rows[32, 1]["kept_for_backward"] <= small.memory
    assert "left out" in rows[512, 1]["training"]["why"] and rows[512, 1]["kept_for_backward"] is None
    assert rows[32, 1]["kept_for_backward"] > 8 * rows[32, 4]["kept_for_backward"]
    head, body = figures.cost_table({"results": found})
    assert [row[:2] for row in body] == [["32", "standard"], ["512", "standard"], ["512", "built for the size"]]
    assert len(head) == len(body[0])


def test_growth_has_rows_of_the_networks_built_for_the_size(tmp_path, monkeypatch):
    run = dataclasses.replace(SMOKE, scale=profiles.Scale(images=1, sides=(32, 512), call_seconds=1e-6))
    monkeypatch.setitem(globals(), "SMOKE", run)
    (found,) = ran(tmp_path, "cost")
    standard, built = (cost_model.rows(found, network) for network in (cost_model.STANDARD, cost_model.BUILT))
    assert set(standard) == set(built)
    for (side, f), row in built.items():
        network = SMOKE.unet.for_channels(4 if f > 1 else 3).attending_up_to(32, side // f)
        assert row["flops_step"] == unet_flops(network, side // f).total
        others = side == 512  # two levels: the last attends on grids of 256 to 32, and so does the decoder on 64
        assert row["network"] == ("built for the size" if others else "standard") and row["serves_both"] != others
    attending, not_attending = (rows[512, 8]["decode"]["flops"] for rows in (standard, built))
    assert not_attending < attending and standard[512, 8]["flops_step"] == built[512, 8]["flops_step"]
    old = {"rows": [{"side": 32, "f": 1}, {"side": 512, "f": 1}]}
    assert len(cost_model.rows(old)) == 2 and not cost_model.rows(old, cost_model.BUILT)


@pytest.mark.parametrize("holds", (1.5, 2, 9, 700, 5000))
@pytest.mark.parametrize("second", (0.5, 1.0, 1.4))
def test_the_largest_batch_of_a_gpu_is_found_by_trying(monkeypatch, holds, second):
    """A GPU that holds so many pictures, whose second picture takes less or more than the others."""
    tried = []

    def need(batch):
        return batch + (second - 1) * (batch == 2)

    def peak(make, batch):
        tried.append(batch)
        return int(1000 * need(batch)) if need(batch) <= holds else None

    had = type("Properties", (), {"total_memory": int(1000 * holds)})
    monkeypatch.setattr(cost, "_peak", peak)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: had)
    run = Run("cost", SMOKE, None, 1.0, torch.device("cuda"))
    found = cost._largest_batch(run, None, flops=1, state=0, each=None)
    best = max(2**k for k in range(11) if need(2**k) <= holds)
    assert found == {"largest_batch": best, "peak_bytes": int(1000 * need(best))} and len(tried) < 8


def test_the_ladder_of_speed(tmp_path):
    (found,) = ran(tmp_path, "training-speed")
    for name, (channels, side) in {"3x32x32": (3, 32), "4x8x8": (4, 8), "4x16x16": (4, 16), "3x64x64": (3, 64)}.items():
        rungs = [r for r in found["rungs"] if r["input"] == name]
        assert [r["rung"] for r in rungs] == ["float32", "half precision", "channels_last"][: len(rungs)]
        flops = SMOKE.batch_size * unet_flops(SMOKE.unet.for_channels(channels), side, backward=True).total
        for r in rungs:
            assert r["flop_per_s"] == pytest.approx(flops / r["seconds"]["median"])
            assert r["seconds_image"] == pytest.approx(r["seconds"]["median"] / SMOKE.batch_size)
            assert r["precision"] == ("float32" if r["rung"] == "float32" else "bf16")
        trained = next(r for r in rungs if r["rung"] == found["as_trained"]["rung"])
        assert found["as_trained"]["seconds_image"][name] == trained["seconds_image"]
        assert found["as_trained"]["precision"] == trained["precision"]
    assert found["rungs"][-1]["seconds_image"] > found["rungs"][0]["seconds_image"]  # four times the pixels
    first = found["first_stage"]
    assert first["training_seconds_image"] > first["encode_seconds_image"] > 0 and first["f"] == 4


@pytest.fixture
def as_published():
    """The networks of Stable Diffusion 1 at their true size, where nothing takes memory."""
    unet, first, text = stable_diffusion.networks(stable_diffusion.WIDTH)
    assert first == foreign.STABLE_DIFFUSION_AUTOENCODER
    with torch.device("meta"):
        return {"unet": UNet(unet), "autoencoder": Autoencoder(first), "text": TextEncoder(text)}


def test_a_step_of_stable_diffusion(tmp_path, as_published):
    published = {name: count_parameters(model) for name, model in as_published.items()}
    assert published == {"unet": 859_520_964, "autoencoder": 83_653_863, "text": 123_060_480}  # as the model card says
    (found,) = ran(tmp_path, "stable-diffusion-step")
    assert found["width"] == 40 and not found["true_size"] and found["shape"] == [4, 8, 8] and found["tokens"] == 77
    unet, first, text = stable_diffusion.networks(40)
    assert found["networks"]["unet"]["block_out_channels"] == [40, 80, 160, 160]
    assert found["parameters"]["autoencoder"] == count_parameters(Autoencoder(first))
    for part in ("encode", "decode"):
        assert found[part]["flops"] == autoencoder_flops(first, 64, part).total
    assert found["guided"]["flops"] == 2 * found["step"]["flops"]

    with torch.device("meta"):  # diffusers' own network takes as many
        theirs = UNet2DConditionModel(
            block_out_channels=unet.block_out_channels,
            norm_num_groups=unet.norm_num_groups,
            cross_attention_dim=unet.cross_attention_dim,
        )
        x, context = torch.empty(1, 4, 8, 8), torch.empty(1, 77, text.width)
        counted = count_flops(theirs, x, torch.empty(1), encoder_hidden_states=context)
    assert found["step"]["flops"] == counted.total

    size = 2 if found["precision"] == "bf16" else 4
    weights = {"step": "unet", "guided": "unet", "decode": "autoencoder", "encode": "autoencoder", "text": "text"}
    for call, part in weights.items():
        entry = found[call]
        assert entry["flop_per_s"] == pytest.approx(entry["flops"] / entry["seconds_alone"])
        assert entry["spread"][0] <= entry["seconds_alone"] <= entry["spread"][1] and entry["repeats"] >= 3
        assert entry["weight_bytes"] == size * found["parameters"][part]
        if call != "guided" and (call != "text" or found["compared_with"]["transformers"]):
            assert entry["difference"] < 1e-5
    assert found["guided"]["difference"] is None
    assert picture_seconds(found, 100, alone=True) == pytest.approx(
        100 * found["step"]["seconds_alone"] + found["decode"]["seconds_alone"]
    )


def test_a_step_that_differs_from_diffusers_is_seen(monkeypatch):
    run = Run("stable-diffusion-step", SMOKE, None, 1.0, torch.device("cpu"))
    model = Autoencoder(stable_diffusion.networks(40)[1]).eval()
    calls = {"decode": (Autoencoder.decode, (torch.randn(1, 4, 8, 8),))}
    assert stable_diffusion._differences(run, model, calls)["decode"] < 1e-5
    twice = {"decode": (lambda model, z: 2 * model.decode(z), calls["decode"][1])}
    assert stable_diffusion._differences(run, model, twice)["decode"] == pytest.approx(1, rel=1e-4)
    monkeypatch.setitem(sys.modules, "diffusers", None)  # as where it is not installed
    assert stable_diffusion._differences(run, model, calls) == {}


def test_fine_structures_are_judged_by_what_was_trained_on_them_and_by_controls(tmp_path, monkeypatch):
    run = Run("fine-structures-32", SMOKE, tmp_path, math.inf, torch.device("cpu"))
    first = Autoencoder(autoencoder_of(SMOKE, 4))
    checkpoints.save_model(tmp_path / "checkpoints" / "first-stage-f4-smoke.safetensors", first)
    surveyed, whole = [], structures.survey

    def survey(passed, widths, **options):
        surveyed.append(options)
        return whole(passed, widths[:1], **options)

    monkeypatch.setattr(structures, "survey", survey)
    found = fine_structures.fine_structures(run, 32)
    controls, trained = ["bicubic", "linear code"], structures.TRAINED
    ways = {2: [*controls, trained], 4: [*controls, structures.GENERAL, trained], 8: [*controls, trained]}
    assert [(w["f"], w["way"]) for w in found["ways"]] == [(f, way) for f, of in ways.items() for way in of]
    assert {w["way"]: w.get("images") for w in found["ways"]}[trained] == SMOKE.scale.structures == 256
    assert all(("images" in w) == (w["way"] == trained) for w in found["ways"])
    assert len(found["rows"]) == 10 * len(structures.KINDS) and {r["width"] for r in found["rows"]} == {1}
    assert surveyed == 10 * [{"count": SMOKE.eval_count // 4, "size": 32, "device": run.device}]
    kept = structures.kept_kinds(found["rows"], 1)
    assert kept[2, "linear code"] == len(structures.KINDS) and kept[8, "bicubic"] == 0
    assert found["rows_of_the_picture"][:2] == ["as drawn", "f = 2, bicubic"]
    exact = [way | {"psnr": None} for way in found["ways"]]  # as JSON keeps an infinite one
    assert {row[-2] for row in figures.structure_rows({"results": found | {"ways": exact}})[1]} == {"exact"}
    head, rows = figures.structure_rows({"results": found})
    assert head[1:3] == ["1 px", "structures, PSNR"] and len(rows) == 10
    assert rows[1][:2] == ["f = 2, linear code", "6/6"] and rows[2][-1] == "256"


def test_an_autoencoder_of_structures_that_was_stopped_goes_on(tmp_path, monkeypatch):
    """All trainings end at their last image, as the decay does, so that a second run only judges."""
    monkeypatch.setattr(fine_structures.FIRST_STAGE.__class__, "is_for", lambda stage, profile: False)
    run = Run("fine-structures-32", SMOKE, tmp_path, math.inf, torch.device("cpu"))
    drawn = structures.training_set(64, 32, (1,))
    ways, spent = fine_structures._ways(run, drawn, 8)
    assert structures.GENERAL not in ways and spent[structures.TRAINED]["images"] == 64
    x = drawn.batch(range(4))
    again, _ = fine_structures._ways(run, drawn, 8)
    assert torch.equal(again[structures.TRAINED](x), ways[structures.TRAINED](x))


def test_the_detector_of_scenes_is_judged_by_its_file_and_by_what_must_fail(tmp_path, house, monkeypatch):
    """The stage with a network that learns for a moment, and then with one that makes no mistake."""
    first = Autoencoder(autoencoder_of(SMOKE, 4))
    checkpoints.save_model(house / "checkpoints" / "first-stage-f4-smoke.safetensors", first)
    (found,) = ran(tmp_path, "scene-detector-64", minutes=5)
    assert found["training"]["images"] == SMOKE.scale.detector_scenes == 64 and found["finished"]
    weights, meta = checkpoints.load_model(tmp_path / "checkpoints" / "scene-detector-64-smoke.safetensors")
    assert isinstance(weights, Detector) and meta["record"] == "scene-detector-64-smoke"
    assert found["data"]["test"] == found["real"]["count"]["n"] == SMOKE.limit > found["held_out_pairs"]["count"]["n"]
    with Image.open(tmp_path / "records" / "scene-detector-64-smoke.png") as picture:
        assert picture.width == 6 * 134 and picture.height > 4 * 134

    numbers = range(2**40, 2**40 + SMOKE.limit)
    known = scenes.factors_of(0, numbers)
    pictures = {image.numpy().tobytes(): scene for image, scene in zip(scenes.render(0, numbers, 64), known)}
    judged = []

    def seen(scene, mirrored=False):
        places = [(1 - t.x if mirrored else t.x, t.y) for t in scene.things]
        things = (detection.Found(t.shape, t.colour, t.size, *at, t.radius) for t, at in zip(scene.things, places))
        return detection.Seen(tuple(things), scene.pattern, scene.tint)

    def sees(model, images):
        """First it is asked for the pictures, then for what the first stage makes of them, then for mirrored ones."""
        judged.append(model)
        if len(judged) == 2:
            return list(map(seen, known))
        upright = images if len(judged) == 1 else images.flip(3)
        return [seen(pictures[x.numpy().tobytes()], mirrored=len(judged) == 3) for x in upright]

    monkeypatch.setattr(detection, "detect", sees)
    run = Run("scene-detector-64", SMOKE, tmp_path / "again", math.inf, torch.device("cpu"))
    found = obedience.scene_detector(run)
    assert all(share.right == 1 for name in ("real", "decoded", "held_out_pairs") for share in found[name].values())
    assert all((v == v.half()).all() for model in judged for v in model.state_dict().values())  # as they are shipped
    other, exchanged, mirrored = (found["controls"][n] for n in ("another prompt", "colours exchanged", "mirrored"))
    assert other["everything"].right == 0 and other["count"].right < 0.5
    assert exchanged["shape"].right == exchanged["colour"].right == 1 and exchanged["shape and colour"].right < 0.05
    assert mirrored["size, shape and colour"].right == 1 and mirrored["place"].right == 0
    assert mirrored["relation"].right < 0.05  # two like things may be each other's mirror image


def test_weights_of_a_smaller_machine_are_taken_where_there_are_no_others(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    run = Run("prompts-64", PROFILES["hours"], tmp_path / "out", 1.0, torch.device("cpu"))
    for kind in ("cpu", "reference", "hours"):
        path = tmp_path / "checkpoints" / f"scene-detector-64-{kind}.safetensors"
        path.touch()
        assert run.weights("scene-detector-64") == path


def test_a_stage_without_the_first_stage_says_so(tmp_path):
    run = Run("fine-structures-32", SMOKE, tmp_path, 1.0, torch.device("cpu"))
    with pytest.raises(ValueError, match="fine-structures-32 needs the weights of first-stage-f4; run:"):
        fine_structures.fine_structures(run, 32)


def test_a_stage_that_its_profile_does_not_have_is_not_needed(tmp_path, monkeypatch):
    ran_stages = []
    monkeypatch.setattr(reference, "_run_one", lambda stage, *args: ran_stages.append(stage.name))
    for name in ("cpu", "smoke"):
        run_stages(["fine-structures-32"], PROFILES[name], tmp_path, say=lambda line: None)
    assert ran_stages == ["fine-structures-32", "first-stage-f4", "fine-structures-32"]


def test_a_stage_that_was_stopped_goes_on(tmp_path, monkeypatch):
    judged, stop = [], distances.evaluate

    def stops(made, reference):
        judged.append(len(made))
        if len(judged) == 3:
            raise KeyboardInterrupt
        return stop(made, reference)

    monkeypatch.setattr(distances, "evaluate", stops)
    with pytest.raises(KeyboardInterrupt):
        run_stages([PIXEL], SMOKE, tmp_path, minutes=5, say=print)
    kept = json.loads((tmp_path / "states" / f"{PIXEL}-smoke" / "points.json").read_text())
    assert len(kept) == 2
    (found,) = ran(tmp_path, PIXEL, minutes=5)
    assert found["points"][:2] == kept and found["training"]["images"] == 64
    assert len(judged) == 1 + len(found["points"])  # the third was begun twice, the others once


def test_one_failure_does_not_lose_the_others(tmp_path, monkeypatch):
    def fails(run):
        raise OSError("the disk\nis full")

    stages_now = {
        "a": Stage("a", "fails", fails, {"smoke": 1}),
        "b": Stage("b", "needs a", lambda run: {"found": run.weights("a")}, {"smoke": 1}, needs=("a",)),
        "c": Stage("c", "works", lambda run: {"x": {"y": 0.25}}, {"smoke": 1}, shows={"y": "x.y"}),
    }
    monkeypatch.setattr(reference, "STAGES", stages_now)
    said = []
    assert run_stages(None, SMOKE, tmp_path, say=said.append) == ["a", "b"]
    assert "a: FAILED, the disk is full" in "\n".join(said)
    assert "b needs the weights of a; run: ldm-course reference --stage a" in "\n".join(said)
    assert "OSError" in (tmp_path / "states" / "a-smoke" / "error.txt").read_text()
    lines = status(SMOKE, tmp_path)
    assert [line.split()[:2] for line in lines[:3]] == [["a", "missing,"], ["b", "missing,"], ["c", "done"]]
    assert lines[2].endswith(": y 0.25") and lines[3].startswith("1 of 3 done in profile smoke; left to do: 2 min")
    said.clear()
    assert run_stages(["c"], SMOKE, tmp_path, say=said.append) == [] and said == ["c: done before"]


@pytest.mark.parametrize("found", [{"training": {"seconds": 1234.0}}, {"points": [{"seconds": 5}, {"seconds": 1234}]}])
def test_a_run_that_goes_on_counts_what_was_trained_before_the_stop(found, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "STAGES", {"c": Stage("c", "was trained before", lambda run: found, {"smoke": 1})})
    run_stages(["c"], SMOKE, tmp_path, say=print)
    assert load_record("c-smoke", tmp_path / "records")["seconds"] == 1234


def test_a_run_in_parts_has_the_seconds_of_all(tmp_path, monkeypatch):
    clock, stops = [0.0], [True, True, False, False]

    def parts(run):
        (run.folder / "state").touch()
        clock[0] += 100.0
        if stops.pop(0):
            raise KeyboardInterrupt
        return {}

    monkeypatch.setattr(reference, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(reference, "STAGES", {"c": Stage("c", "goes on", parts, {"smoke": 1})})
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_stages(["c"], SMOKE, tmp_path, say=print)
    run_stages(["c"], SMOKE, tmp_path, say=print)
    assert load_record("c-smoke", tmp_path / "records")["seconds"] == 300
    (tmp_path / "records" / "c-smoke.json").unlink()  # and begins anew
    run_stages(["c"], SMOKE, tmp_path, say=print)
    assert load_record("c-smoke", tmp_path / "records")["seconds"] == 100


def test_published_weights_are_few_and_small(tmp_path, house, monkeypatch):
    out = tmp_path / "out"
    for kind in ("records", "checkpoints"):
        (out / kind).mkdir(parents=True)
    save_record(make_record("c-smoke", "reference", {}, command="x", seconds=1), out / "records")
    stage = Stage("c", "works", lambda run: {}, {"smoke": 1})
    monkeypatch.setattr(reference, "STAGES", {"c": stage})
    weights, said = out / "checkpoints" / "c-smoke.safetensors", []
    checkpoints.save_model(weights, Autoencoder(AutoencoderConfig(3, 4, (8, 8), norm_num_groups=4)))
    size = weights.stat().st_size
    monkeypatch.setattr(reference, "SMALL", size - 1)
    run_stages(["c"], SMOKE, out, publish=True, say=said.append)
    assert (house / "records" / "c-smoke.json").is_file() and not list((house / "checkpoints").iterdir())
    assert "stay in" in said[-1]
    monkeypatch.setattr(reference, "SMALL", size)
    (house / "checkpoints" / "other.safetensors").write_bytes(bytes(50))
    monkeypatch.setattr(reference, "ALL_WEIGHTS", size + 49)
    run_stages(["c"], SMOKE, out, publish=True, say=said.append)
    assert not (house / "checkpoints" / weights.name).exists()
    monkeypatch.setattr(reference, "ALL_WEIGHTS", size + 50)
    run_stages(["c"], SMOKE, out, publish=True, say=said.append)
    assert (house / "checkpoints" / weights.name).read_bytes() == weights.read_bytes()
    reference.collect(SMOKE, out, say=said.append)
    assert said[-1] == "published 1: c"

    before = {path: path.read_bytes() for path in house.rglob("*.*")}
    save_record(make_record("c-smoke", "reference", {"new": 1}, command="x", seconds=1), out / "records")
    good = (out / "records" / "c-smoke.json").read_text()
    for kind, content in (
        ("weights", "cut"),
        ("picture", "cut"),
        ("film", "<html>"),
        ("record", "{"),
        ("record", good.replace('"c-smoke"', '"d-smoke"')),
    ):
        path = reference.place_of(kind, "c-smoke", out)
        whole = path.read_bytes() if path.exists() else None
        path.write_text(content)
        for publish in (lambda: reference.collect(SMOKE, out), lambda: run_stages(["c"], SMOKE, out, publish=True)):
            with pytest.raises(ValueError, match="c-smoke"):
                publish()
        assert {path: path.read_bytes() for path in house.rglob("*.*")} == before, kind
        path.unlink() if whole is None else path.write_bytes(whole)
    (out / "records" / "c-smoke.json").unlink()
    for empty in (out, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"nothing of profile smoke in {empty} to publish"):
            reference.collect(SMOKE, empty)


def test_the_stages_are_named_and_ordered_so_that_what_is_needed_comes_first():
    seen = set()
    for name, stage in STAGES.items():
        assert stage.name == name and set(stage.needs) <= seen
        profiles_of = set(stage.minutes)
        assert "smoke" in profiles_of <= set(PROFILES) and profiles_of & {"cpu", "reference"}
        assert "reference" not in profiles_of or stage.expected(PROFILES["reference"]) < 660
        seen.add(name)
    with pytest.raises(ValueError, match="no stage 'costs'; did you mean cost"):
        find("costs")


def test_a_cpu_never_takes_the_name_of_a_gpus_record(tmp_path):
    stage = find("cost")
    save_record({"name": "cost-cpu", "schema": 1}, tmp_path / "records")
    assert known_record(stage, PROFILES["reference"], tmp_path) is None


def test_the_command_says_what_is_missing(tmp_path, capsys):
    assert main.main(["reference", "--status", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    there = [PROFILES[name] for name in ("reference", "hours", "cpu")]
    assert all(f"profile {p.name}" in text for p in there)
    assert text.count("missing, about") == sum(stage.is_for(p) for stage in STAGES.values() for p in there)
    assert 2 < sum(stage.is_for(PROFILES["hours"]) for stage in STAGES.values()) < len(STAGES)
    assert main.main(["reference", "--stage", "nothing"]) == 2
    assert "there is no stage 'nothing'" in capsys.readouterr().err
    assert main.main(["reference", "--minutes", "0"]) == 2


def test_the_autoencoders_have_the_levels_that_f_needs():
    for f in (2, 4, 8):
        config = autoencoder_of(PROFILES["cpu"], f)
        assert config.downsample == f and len(config.block_out_channels) == math.log2(f) + 1
    assert autoencoder_of(PROFILES["cpu"], 4) == PROFILES["cpu"].autoencoder


def test_a_latent_run_goes_on_with_an_autoencoder_that_only_the_stored_records_have(trained, house, tmp_path):
    ran(trained, FIRST, minutes=0.01)
    for kind in ("records", "checkpoints"):
        for path in (trained / kind).glob(f"{FIRST}-smoke.*"):
            shutil.copy(path, house / kind)
    ran(tmp_path, LATENT, minutes=0.01)  # which copies the autoencoder's weights, and not its record
    (tmp_path / "records" / f"{LATENT}-smoke.json").unlink()
    (again,) = ran(tmp_path, LATENT, minutes=5)
    assert again["first_stage"]["record"] == f"{FIRST}-smoke"
    d = checkpoints.load_denoiser(tmp_path / "checkpoints" / f"{LATENT}-smoke.safetensors")
    assert d.space.autoencoder.config == autoencoder_of(SMOKE, 4)


# ------------------------------------------------------------------------------------------- runs of hours


def patient(images):
    """The smallest profile, with trainings that end after their images and leave a record at each mark."""
    return dataclasses.replace(SMOKE, scale=dataclasses.replace(SMOKE.scale, long=True, images=images))


def test_a_run_of_hours_leaves_a_record_at_each_mark_and_goes_on_from_what_was_published(tmp_path, house, monkeypatch):
    monkeypatch.setattr(denoisers, "FIRST_MARK", 32)
    known, real = [], reference.save_record

    def keep(record, out):
        known.append(record["results"])
        return real(record, out)

    monkeypatch.setattr(reference, "save_record", keep)
    assert run_stages([PIXEL], patient(96), tmp_path / "one", say=print) == []
    assert [r["training"]["images"] for r in known] == [32, 48, 64, 96, 96]  # and once more at the end
    assert [r["finished"] for r in known] == [False, False, False, True, True]
    assert known[-1]["network"]["num_classes"] == 2
    reference.collect(SMOKE, tmp_path / "one", say=print)
    assert {p.name for p in (house / "checkpoints").iterdir()} == {f"{PIXEL}-smoke.safetensors"}

    stored = load_record(f"{PIXEL}-smoke")  # as one finds it on another machine, before its end
    stored["results"]["finished"] = False
    save_record(stored, house / "records")
    assert any("so far" in line for line in status(patient(128), tmp_path / "two"))
    assert run_stages([PIXEL], patient(128), tmp_path / "two", say=print) == []
    after = results(tmp_path / "two", PIXEL)
    assert [p["images"] for p in after["points"]] == [32, 48, 64, 96, 128]
    assert after["points"][:4] == stored["results"]["points"] and after["training"]["steps"] == 8
    assert after["points"][-1]["seconds"] > after["points"][3]["seconds"]


def test_the_first_stage_for_all_sizes_learns_from_crops_and_is_judged_on_whole_pictures(tmp_path):
    (found,) = ran(tmp_path, "first-stage-f4", minutes=5)
    assert found["finished"] and found["data"]["train"] == 5 * SMOKE.scale.limit and found["data"]["size"] == 32
    assert [p["images"] for p in found["points"]] == [16, 32, 64]
    judged = found["variants"]["perceptual"]
    assert judged["training_images"] == judged["wanted_images"] == SMOKE.scale.crops
    last = found["points"][-1]["psnr"]
    assert set(judged["held_out"]) == set(last) == {f"{data} at {size}" for data, size in autoencoders.FIRST_STAGE_SETS}
    for name, psnr in last.items():
        assert judged["held_out"][name]["psnr"] == pytest.approx(psnr)
    assert not found["network"]["mid_attention"]
    with Image.open(tmp_path / "records" / "first-stage-f4-smoke.png") as picture:
        assert picture.height > 10 * 128  # a row of originals and one of reconstructions for each set


def test_a_stage_that_a_profile_does_not_have_is_named(tmp_path):
    with pytest.raises(ValueError, match="cost is not run in profile hours, but in smoke, cpu, gpu, reference"):
        run_stages(["cost"], PROFILES["hours"], tmp_path, say=print)


def test_a_profile_takes_weights_of_its_own_or_of_a_larger_machine_and_never_of_a_smaller_one():
    assert names_of("cost", PROFILES["hours"]) == ["cost-hours", "cost-reference", "cost-gpu"]
    assert names_of("cost", PROFILES["reference"]) == ["cost-reference"]
    assert names_of("cost", PROFILES["smoke"])[:2] == ["cost-smoke", "cost-reference"]
