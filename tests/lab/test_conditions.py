"""The stages on control at the smallest size: a CLIP, and one network under four conditions (chapter 8)."""

from dataclasses import replace

import pytest
import torch
from conftest import SMOKE, empty_house
from PIL import Image

from ldm_course import checkpoints
from ldm_course.data.latents import encode_pictures
from ldm_course.data.loaders import load_data
from ldm_course.data.prompts import held_out, parse
from ldm_course.lab.claims import ledger, verdicts
from ldm_course.lab.profiles import PROFILES
from ldm_course.lab.records import load_record
from ldm_course.lab.reference import run_stages
from ldm_course.lab.stages import clip, conditions, text2image
from ldm_course.lab.stages.base import Run
from ldm_course.measure import detection
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.clip import CLIP
from ldm_course.networks.detector import Detector
from ldm_course.networks.text import SPECIAL
from ldm_course.training.recipes import seeded


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Where both stages were run, with untrained stand-ins for the first stage and the detector."""
    home = empty_house(tmp_path_factory)
    stand_ins = {
        conditions.FIRST_STAGE.name: seeded(0, Autoencoder, SMOKE.autoencoder),
        conditions.READER: seeded(0, Detector, detection.NETWORK),
    }
    for name, model in stand_ins.items():
        checkpoints.save_model(home / "checkpoints" / f"{name}-smoke.safetensors", model)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LDM_HOME", str(home))
        ran(home / "out")
        yield home / "out"


def ran(out):
    assert run_stages(["conditions-scenes-64"], SMOKE, out, say=print) == []  # and the CLIP, which it needs
    return results(out, "conditions-scenes-64")


def results(out, stage):
    return load_record(f"{stage}-smoke", out / "records")["results"]


def test_a_clip_with_either_encoder_is_examined_and_the_transformer_is_shipped(out):
    found = results(out, "clip-64")
    assert tuple(found["encoders"]) == clip.ENCODERS and found["finished"]
    whole, bag = found["encoders"].values()
    assert whole["network"]["text"]["causal"] and bag["network"]["text"]["layers"] == 0
    for of in (whole, bag):
        assert of["training"]["images"] == SMOKE.scale.clip_images
        assert set(of["scenes"]["classes"]) == {"shape", "colour", "pattern", "tint"}
        assert of["scenes"]["retrieval"]["text of a picture"]["at_5"]["n"] == SMOKE.limit
        assert of["new drawings"]["classes"]["group"]["n"] > 100
        assert of["scale"] == pytest.approx(1 / 0.07, rel=0.1)
    assert {of["right"] for of in bag["scenes"]["binding"].values()} == {0.5}
    model, meta = checkpoints.load_model(out / "checkpoints" / "clip-64-smoke.safetensors")
    assert isinstance(model, CLIP) and model.config.text.causal and meta["record"] == "clip-64-smoke"
    assert len(model.config.words) == found["words"] and not whole["network"]["words"]
    with Image.open(out / "records" / "clip-64-smoke.png") as picture:
        assert picture.height == len(found["rows_of_the_picture"]) * 66 - 2


def test_the_courses_clip_is_small_enough_to_be_shipped(tmp_path):
    config = PROFILES["hours"].clip
    words = 1660  # of emoji and scenes
    model = CLIP(replace(config, text=replace(config.text, vocab_size=SPECIAL + words)))
    path = checkpoints.save_model(tmp_path / "clip.safetensors", model, eight_bit=True)
    assert path.stat().st_size < 0.8 * 2**20


def test_a_scene_has_texts_that_leave_out_anything_but_the_shapes():
    scenes = load_data("scenes", 64, limit=64).captions
    drawing, *texts = text2image.texts_of(["red heart"], scenes, 3)
    assert drawing == ("red heart",) * 4
    said = []
    for caption, (whole, *less) in zip(scenes, texts, strict=True):
        assert whole == caption and len(less) == 3
        for text in map(parse, less):
            assert [thing.shape for thing in text.things] == [thing.shape for thing in parse(caption).things]
            said += [text.things[0].colour is not None, text.tint is not None]
    assert 0.4 < sum(said) / len(said) < 0.6


def test_every_condition_is_asked_for_the_same_and_judged_by_the_whole_caption(out):
    found = results(out, "conditions-scenes-64")
    rows = [(r["condition"], r["kind"], r["guidance"]) for r in found["rows"]]
    assert rows == [(c, kind, w) for c in conditions.CONDITIONS for kind in ("known", "new") for w in (1.0, 3.0)]
    for row in found["rows"]:
        n = found["prompts"][row["kind"]]
        assert row["obeyed"]["everything"]["n"] == row["obeyed"]["count"]["n"] == n > 20
        assert ("quality" in row) == (row["kind"] == "known")
    assert {about["images"] for about in found["conditions"].values()} == {SMOKE.scale.condition_images}
    frozen, learnt, bag, label = found["conditions"].values()
    assert frozen["trained_parameters"] < frozen["parameters"]
    text = [about["text"] | {"vocab_size": None} for about in (frozen, learnt, label)]
    assert text[0] == text[1] == text[2] and bag["text"]["layers"] == 0
    assert label["text"]["vocab_size"] == SPECIAL + 8 and learnt["trained_parameters"] == learnt["parameters"]
    assert set(found["most"]) == set(found["chance"]) == {"known", "new"}
    with Image.open(out / "records" / "conditions-scenes-64-smoke.png") as picture:
        assert picture.height == len(found["rows_of_the_picture"]) * 66 - 2
    judged = ledger.CLAIMS["C8.3"].judge({"conditions-scenes-64": found})
    assert judged.verdict == verdicts.NOT_HERE and "epochs of training" in judged.found


def test_what_was_trained_before_a_stop_is_kept(out, monkeypatch):
    before = results(out, "conditions-scenes-64")["rows"]
    (out / "records" / "conditions-scenes-64-smoke.json").unlink()
    monkeypatch.setattr(conditions, "denoiser_trainer", lambda *args, **options: pytest.fail("trained again"))
    assert ran(out)["rows"] == before


def test_known_captions_have_pairs_that_were_seen_and_new_ones_have_others():
    asked = conditions.captioned({"known": 30, "new": 20}, None)
    assert {kind: len(of) for kind, of in asked.items()} == {"known": 30, "new": 20}
    assert {kind: {held_out(parse(text)) for text in of.captions} for kind, of in asked.items()} == {
        "known": {False},
        "new": {True},
    }


def test_a_frozen_encoder_stays_as_it_is_and_a_label_is_one_word(out):
    run = Run("conditions-scenes-64", SMOKE, out, 1.0, torch.device("cpu"))
    scenes = load_data("scenes", 64, limit=32)
    model, _ = checkpoints.load_model(out / "checkpoints" / "clip-64-smoke.safetensors")
    latents = encode_pictures(seeded(0, Autoencoder, SMOKE.autoencoder), scenes)
    changed = {}
    for name in conditions.CONDITIONS:
        trainer = conditions._trainer(run, name, scenes, latents, model)
        before = {k: v.clone() for k, v in trainer.model.text.state_dict().items()}
        trainer.run(until=2)
        after = trainer.snapshot().text.state_dict()
        changed[name] = any(not torch.equal(before[k], after[k]) for k in before)
        if name == "frozen CLIP":
            assert all(torch.equal(after[k], v) for k, v in model.text.state_dict().items())
            assert trainer.model.tokenizer.number == model.tokenizer.number
        if name == "label":
            words = list(trainer.model.config.words)
            assert [words[n - SPECIAL] for n in trainer.objective.condition[:, 1]] == [
                parse(caption).things[0].shape for caption in scenes.captions
            ]
    assert changed == {name: name != "frozen CLIP" for name in conditions.CONDITIONS}
