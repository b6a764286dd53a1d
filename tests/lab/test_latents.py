"""The stage that compares autoencoders by what is drawn in their latents, at the smallest size (chapter 9)."""

import json

import pytest
import torch
from conftest import SMOKE, empty_house
from PIL import Image

from ldm_course.lab.claims import ledger, verdicts
from ldm_course.lab.profiles import PROFILES
from ldm_course.lab.records import load_record
from ldm_course.lab.reference import STAGES, run_stages
from ldm_course.lab.stages import latents
from ldm_course.measure.complexity import autoencoder_flops, unet_flops

STAGE = "latents-emoji-64"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    home = empty_house(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LDM_HOME", str(home))
        assert run_stages([STAGE], SMOKE, home / "out", say=print) == []
        yield home / "out"


def results(out):
    return load_record(f"{STAGE}-smoke", out / "records")["results"]


def test_every_autoencoder_is_judged_by_what_it_keeps_and_by_what_is_drawn(out):
    found = results(out)
    rows = {row["method"]: row for row in found["rows"]}
    assert set(rows) == set(latents.VARIANTS) and found["finished"] and found["data"]["size"] == 64
    for name, row in rows.items():
        variant, first, denoiser = latents.VARIANTS[name], row["autoencoder"], row["denoiser"]
        side = 64 // variant.f
        assert row["shape"] == [variant.channels, side, side] and row["values"] == variant.channels * side**2
        # equal budgets, and what they cost
        assert (first["training_images"], denoiser["training_images"]) == (32, 48)
        network = SMOKE.latents_unet.for_channels(variant.channels)
        assert denoiser["training_flops"] == 48 * unet_flops(network, side, backward=True).total
        own = latents.convolutional(type("R", (), {"profile": SMOKE}), variant.f, variant.channels, variant.codes)
        assert first["training_flops"] == 32 * autoencoder_flops(own, 32, "both", backward=True).total
        assert row["training_flops"] == first["training_flops"] + denoiser["training_flops"]
        assert row["evaluations"] == found["steps"] == SMOKE.match_steps
        # what is rebuilt and what is drawn is held against the same pictures, in the same number
        rebuilt, drawn = row["reconstruction"]["quality"], row["quality"]
        for same in ("n_generated", "n_reference", "kd_e_floor", "fd_e_floor"):
            assert rebuilt[same] == drawn[same]
        assert drawn["n_generated"] == SMOKE.eval_count and drawn["kd_e_error"] > 0
        power, modes = torch.tensor(row["latents"]["spectrum"]), len(row["latents"]["spectrum"][0])
        assert power.shape == (variant.channels, modes) and 0 < row["latents"]["fine_share"] < 1
        assert row["latents"]["smoothness_of_pictures"]["half the size"] < 1e-9
        assert (row["latents"]["noise_share"] == 0) == (variant.codes is not None)
        assert len(row["latents"]["loss_by_level"]["loss"]) == 10
    assert len({row["values"] for name, row in rows.items() if name in ("standard", "f2 c1", "f8 c16")}) == 1
    assert 1 <= rows["codebook"]["latents"]["perplexity"] <= rows["codebook"]["latents"]["vectors_used"]
    assert rows["equivariant"]["autoencoder"]["equivariant"] == 0.5
    assert rows["not perceptual"]["autoencoder"]["perceptual_weight"] == 0
    weights = [rows[name]["autoencoder"]["kl_weight"] for name in ("less KL", "standard", "more KL")]
    assert weights == pytest.approx([1e-6, 1e-4, 1e-2])


def test_rows_are_sorted_by_reconstruction_and_ranks_are_of_them(out):
    found = results(out)
    rebuilt = [row["reconstruction"]["quality"]["kd_e"] for row in found["rows"]]
    drawn = [row["quality"]["kd_e"] for row in found["rows"]]
    assert rebuilt == sorted(rebuilt) and set(found["ranks"]["drawn"]) == set(latents.MEASURES)
    n = len(rebuilt)
    agree = sum((drawn[j] > drawn[i]) - (drawn[j] < drawn[i]) for i in range(n) for j in range(i + 1, n))
    first = found["ranks"]["drawn"][latents.REBUILT]
    assert first["n"] == n == 11 and first["tau"] == pytest.approx(2 * agree / (n * (n - 1)))
    assert 0 < first["chance"] <= 1 and first["error"] > 0
    psnr = [row["reconstruction"]["psnr"] for row in found["rows"]]
    agree = sum((psnr[j] < psnr[i]) - (psnr[j] > psnr[i]) for i in range(n) for j in range(i + 1, n))
    assert found["ranks"]["rebuilt"][latents.NEAR]["tau"] == pytest.approx(2 * agree / (n * (n - 1)))


def test_a_row_of_the_picture_for_each_and_no_verdict_from_so_little(out):
    found = results(out)
    with Image.open(out / "records" / f"{STAGE}-smoke.png") as picture:
        assert picture.height == len(found["rows_of_the_picture"]) * 66 - 2 and len(found["rows_of_the_picture"]) == 12
    judged = ledger.CLAIMS["C9.1"].judge({STAGE: found})
    assert judged.verdict == verdicts.NOT_HERE and "epochs of training" in judged.found


def test_what_was_finished_before_a_stop_is_kept_and_the_rest_goes_on(out, monkeypatch):
    before = results(out)
    (out / "records" / f"{STAGE}-smoke.json").unlink()
    gone = out / "states" / f"{STAGE}-smoke" / "f8"
    row = json.loads((gone / "found.json").read_text())
    assert not (gone / "denoiser").exists() and not (gone / "autoencoder").exists()
    (gone / "found.json").unlink()
    trained, real = [], latents.trainer_of_images
    monkeypatch.setattr(latents, "trainer_of_images", lambda run, *a, **k: trained.append(a[1]) or real(run, *a, **k))
    assert run_stages([STAGE], SMOKE, out, say=print) == []
    assert len(trained) == 1 and trained[0].downsample == 8
    after = {r["method"]: r for r in results(out)["rows"]}
    assert after["f8"]["quality"] == row["quality"]  # the same again, from the same seed
    assert {k: v for k, v in after.items() if k != "f8"} == {
        r["method"]: r for r in before["rows"] if r["method"] != "f8"
    }


def test_hours_are_enough_for_a_verdict():
    drawings = 3558  # to train on
    scale = PROFILES["hours"].scale
    assert scale.latent_images / drawings >= verdicts.rules.epochs
    assert PROFILES["hours"].eval_count >= verdicts.rules.pictures and STAGES[STAGE].is_for(PROFILES["hours"])
