"""The stage on clips at the smallest size (chapter 9)."""

import numpy as np
import pytest
import torch
from conftest import SMOKE, empty_house
from PIL import Image

from ldm_course import checkpoints
from ldm_course.files import place_of
from ldm_course.lab import reference
from ldm_course.lab.claims import ledger, verdicts
from ldm_course.lab.records import load_record
from ldm_course.lab.reference import run_stages
from ldm_course.lab.stages import video
from ldm_course.measure import coherence, detection
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.detector import Detector
from ldm_course.training.clips import load_clip_denoiser
from ldm_course.training.recipes import seeded

STAGE = "video-scenes-64"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Where the stage was run, with untrained stand-ins for the first stage and the detector."""
    home = empty_house(tmp_path_factory)
    stand_ins = {
        video.FIRST_STAGE.name: seeded(0, Autoencoder, SMOKE.autoencoder),
        video.READER: seeded(0, Detector, detection.NETWORK),
    }
    for name, model in stand_ins.items():
        checkpoints.save_model(home / "checkpoints" / f"{name}-smoke.safetensors", model)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LDM_HOME", str(home))
        patched.setenv("LDM_CACHE", str(home / "cache"))
        ran(home / "out")
        yield home / "out"


def ran(out):
    assert run_stages([STAGE], SMOKE, out, say=print) == []
    return load_record(f"{STAGE}-smoke", out / "records")["results"]


def results(out):
    return load_record(f"{STAGE}-smoke", out / "records")["results"]


def rows(out):
    return {(row["size"], row["method"]): row for row in results(out)["rows"]}


def test_every_method_is_judged_by_the_same_measures_on_as_many_clips(out):
    found = rows(out)
    real = [video.REAL, video.DECODED]
    large = [*real, video.SHUFFLED, video.MIXED, video.ALONE, video.ONE_NOISE, video.SCRATCH, video.ALIGNED]
    small = [*real, video.PIXEL, video.LATENT, video.LATENT_LONGER]
    assert list(found) == [(64, name) for name in large] + [(32, name) for name in small]
    for row in found.values():
        assert row["clips"] == video.FRAMES and set(row["coherence"]) == set(coherence.MEASURES)
        for quality in row["quality"].values():
            assert quality["n_generated"] == row["clips"] and quality["kd_e_error"] > 0
    for (_, name), row in found.items():
        assert ("copied" in row) == (name in large[-2:] + small[-3:])
        assert "copied" not in row or (0 <= row["copied"]["share"] <= 1 and row["copied"]["n"] == video.FRAMES)
    judged = ledger.CLAIMS["C9.4"].judge({STAGE: results(out)})
    assert judged.verdict == verdicts.NOT_HERE and "epochs of training" in judged.found


def test_the_budgets_are_equal(out):
    found = rows(out)
    trained = [found[64, name] for name in (video.ALONE, video.ONE_NOISE, video.SCRATCH, video.ALIGNED)]
    assert {row["images"] for row in trained} == {SMOKE.scale.video_images}
    assert trained[0]["training_flops"] < trained[3]["training_flops"] < trained[2]["training_flops"]
    assert trained[0]["clip_flops"] == video.FRAMES * trained[1]["clip_flops"] < trained[2]["clip_flops"]
    pixel, latent, longer = (found[32, name] for name in (video.PIXEL, video.LATENT, video.LATENT_LONGER))
    assert (
        pixel["images"] == latent["images"] == SMOKE.batch_size and latent["training_flops"] < pixel["training_flops"]
    )
    assert pixel["parameters"] == pytest.approx(latent["parameters"], rel=0.05)
    step = longer["training_flops"] / longer["steps_of_training"]
    spent = longer["training_flops"] + results(out)["encoding_flops"]["32"]
    assert longer["steps_of_training"] == 2 or abs(spent - pixel["training_flops"]) <= step


def test_one_noise_is_a_still_and_the_files_are_small(out):
    still = rows(out)[64, video.ONE_NOISE]["coherence"]
    assert still["flicker"]["mean"] == 0 and still["step"]["mean"] in (0, None)
    path = place_of("film", f"{STAGE}-smoke", out)
    with Image.open(path) as film:
        side, lines = 66, len(results(out)["rows_of_the_film"])
        assert film.size == (video.FRAMES * (video.SHOWN * side - 2), lines * side - 2)
    assert path.stat().st_size < 300_000
    with Image.open(place_of("picture", f"{STAGE}-smoke", out)) as picture:
        assert picture.height == len(results(out)["rows_of_the_picture"]) * 66 - 2


def test_a_clip_as_one_picture_holds_its_frames_one_below_the_other():
    clips = torch.arange(2 * 3 * 3 * 4 * 5).view(2, 3, 3, 4, 5)
    tall = video._tall(clips)
    assert tall.shape == (2, 3, 12, 5) and all(
        torch.equal(tall[:, :, 4 * k : 4 * k + 4], clips[:, k]) for k in range(3)
    )


def test_the_film_is_published_with_the_record(out):
    reference.collect(SMOKE, out, [STAGE], say=lambda line: None)
    here, there = (place_of("film", f"{STAGE}-smoke", root) for root in (out, None))
    assert here.read_bytes() == there.read_bytes() and here != there


def test_the_network_of_clips_is_kept_and_draws(out):
    d = load_clip_denoiser(out / "checkpoints" / f"{STAGE}-smoke.safetensors")
    assert d.meta["record"] == f"{STAGE}-smoke" and d.space.name == "latent"
    assert d.generate(2, steps=2).shape == (2, video.FRAMES, 3, 64, 64)


def test_what_compressing_time_would_save_is_counted(out):
    saved = results(out)["compressing_time"]
    assert saved["here"]["times fewer"] == {
        "values": 4,
        "positions": 4,
        "pairs_apart": pytest.approx(4.09, abs=0.01),
    } | {"pairs_together": 16}
    usual = saved["17 frames of 256"]["times fewer"]  # the figures that follow from VidTok's sizes
    assert round(usual["positions"], 1) == 3.4 and round(usual["pairs_together"], 1) == 11.6


def test_what_was_done_before_a_stop_is_kept(out, monkeypatch):
    before = results(out)["rows"]
    (out / "records" / f"{STAGE}-smoke.json").unlink()
    for name in ("clip_trainer", "denoiser_trainer"):
        monkeypatch.setattr(video, name, lambda *args, **options: pytest.fail("trained again"))
    monkeypatch.setattr(video.coherence, "coherence", lambda *args: pytest.fail("judged again"))
    assert ran(out)["rows"] == before


def test_a_frame_of_the_film_is_of_one_time(out):
    """The first clip of the first row, at each time, is a real clip, encoded and decoded."""
    with Image.open(place_of("film", f"{STAGE}-smoke", out)) as film:
        sheet = np.asarray(film.convert("RGB")).astype(float)
    wide = sheet.shape[1] // video.FRAMES
    first = torch.stack([torch.from_numpy(sheet[:64, k * wide : k * wide + 64]) for k in range(video.FRAMES)])
    assert (first - first[:1]).abs().mean((1, 2, 3))[1:].min() > 0
