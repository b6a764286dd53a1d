"""The stage of flows and transformers at the smallest size (chapter 9)."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import SMOKE, empty_house, stand_in_for_cifar10
from PIL import Image

from ldm_course import checkpoints
from ldm_course.config import DiTConfig, UNetConfig
from ldm_course.lab.profiles import PROFILES
from ldm_course.lab.records import load_record, make_record, save_record
from ldm_course.lab.reference import find, run_stages
from ldm_course.lab.stages import flow
from ldm_course.lab.stages.base import Run
from ldm_course.lab.stages.denoisers import network_for
from ldm_course.measure.complexity import autoencoder_flops, dit_flops, unet_flops
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.dit import DiT
from ldm_course.training.recipes import seeded

STAGE = "flow-cifar10-32"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Where the stage was run, with an untrained stand-in for the first stage."""
    home = empty_house(tmp_path_factory)
    model, name = seeded(0, Autoencoder, SMOKE.autoencoder), f"{flow.FIRST}-smoke"
    checkpoints.save_model(home / "checkpoints" / f"{name}.safetensors", model)
    paid = {"variants": {"perceptual": {"training_seconds": 1.0, "training_images": 10}}, "training_flops_image": 7}
    common = dict(command=[], seconds=1.0, data_source=None, profile="smoke", seed=0, config={}, device="cpu")
    save_record(make_record(name, "reference", paid | {"stage": flow.FIRST}, **common), home / "records")
    with pytest.MonkeyPatch.context() as patched:
        stand_in_for_cifar10(home, 300)
        patched.setenv("LDM_DATA", str(home))
        patched.setenv("LDM_HOME", str(home))
        assert run_stages([STAGE], SMOKE, home / "out", say=print) == []
        yield home / "out"


def results(out):
    return load_record(f"{STAGE}-smoke", out / "records")["results"]


def test_every_method_has_its_rows_and_all_that_a_table_needs(out):
    found = results(out)
    assert found["finished"] and list(found["methods"]) == [m.name for m in flow.METHODS]
    assert found["first_stage"]["training_flops"] == 70
    rows = [(r["method"], r["sampler"], r["evaluations"]) for r in found["rows"]]
    samplers = {"latent": ("ddim", "heun"), "pixel": ("ddim",)}
    assert rows == [(m.name, sampler, 3) for m in flow.METHODS for sampler in samplers[m.space]]
    assert {(r["sampler"], r["steps"]) for r in found["rows"]} == {("ddim", 3), ("heun", 2)}
    for row in found["rows"]:
        of = found["methods"][row["method"]]
        assert row["space"] == of["space"] and row["parameters"] == of["parameters"] > 1000
        assert row["training_flops"] == of["training_flops_image"] * of["images"]
        assert row["picture_flops"] == row["evaluations"] * of["evaluation_flops"] + of["decoding_flops"]
        quality = row["quality"]
        assert quality["n_generated"] == SMOKE.eval_count and {"kd_e_error", "fd_e_error"} <= quality.keys()
    with Image.open(out / "records" / f"{STAGE}-smoke.png") as picture:
        assert picture.height == len(found["rows_of_the_picture"]) * 66 - 2


def test_methods_are_what_their_names_say_and_see_the_same(out):
    methods = results(out)["methods"]
    assert {of["images"] for of in methods.values()} == {SMOKE.scale.flow_images}
    for name, of in methods.items():
        assert ("DiT" in name) == ("patch_size" in of["network"])
        assert ("flow" in name or "predicting" in name) == (of["schedule"] == "flow") == (of["times"] is not None)
        side, channels = (8, 4) if of["space"] == "latent" else (32, 3)
        if of["patch"] is None:
            network, count = replace(SMOKE.unet, num_classes=None).for_channels(channels), unet_flops
        else:
            network, count = replace(SMOKE.dit, patch_size=of["patch"]).for_channels(channels), dit_flops
            assert of["patch_values"] == of["patch"] ** 2 * channels
        assert of["evaluation_flops"] == count(network, side).total
        decoded = autoencoder_flops(SMOKE.autoencoder, 32, "decode").total if of["space"] == "latent" else 0
        assert of["decoding_flops"] == decoded
        assert of["straightness"]["s"] >= -1e-6  # rounded: a path may be straight
        assert of["straightness"]["error"] > 0 < of["straightness"]["span"]
    said = {(of["patch"], of["prediction"]) for of in methods.values() if of["space"] == "pixel"}
    assert said == {(None, "v"), *((patch, p) for patch in (4, 8) for p in ("x0", "eps", "u"))}


def test_the_dit_of_the_latents_can_be_drawn_from(out):
    d = checkpoints.load_denoiser(out / "checkpoints" / f"{STAGE}-smoke.safetensors")
    assert isinstance(d.model, DiT) and (d.schedule.name, d.prediction) == ("flow", "u")
    assert d.generate(2, steps=2).shape == (2, 3, 32, 32)


def test_what_was_trained_before_a_stop_is_kept_and_the_rest_is_done(out, monkeypatch, tmp_path):
    before = results(out)
    (out / "records" / f"{STAGE}-smoke.json").unlink()
    gone = out / "states" / f"{STAGE}-smoke" / "latent-U-Net-as-a-flow"
    shutil.move(gone, tmp_path / "gone")
    trained = []
    trainer = flow.Setting.trainer
    monkeypatch.setattr(flow.Setting, "trainer", lambda self, m, **k: trained.append(m.name) or trainer(self, m, **k))
    assert run_stages([STAGE], SMOKE, out, say=print) == []
    assert trained == ["latent U-Net as a flow"]
    after = results(out)
    quality = [[row["quality"] for row in found["rows"]] for found in (before, after)]
    assert json.dumps(quality[0]) == json.dumps(quality[1])  # also what was trained again: it is the same to the bit


def test_trainings_in_one_space_see_the_same_pictures_under_the_same_noise(out):
    """Of two methods that differ in what is predicted alone, the network is asked the same."""
    run = Run(STAGE, SMOKE, out, 1.0, torch.device("cpu"))
    setting, _ = flow._setting(run)
    assert len(setting.train) == flow.LEAST_PICTURES
    asked = []
    for method in (flow.METHODS[4], flow.METHODS[6]):
        trainer = setting.trainer(method)
        trainer.model.register_forward_pre_hook(lambda _, inputs: asked.append(inputs))
        trainer.run(until=1)
    assert all(torch.equal(a, b) for a, b in zip(*asked))


@pytest.mark.parametrize("name", ["cpu", "hours", "gpu", "reference"])
def test_in_latents_the_dit_costs_what_the_u_net_costs(name):
    """At the profiles' sizes, in training FLOPs and, where both are the course's own, in parameters."""
    profile = PROFILES[name]
    assert find(STAGE).is_for(profile)
    unet, dit = profile.unet.for_channels(4), replace(profile.dit, patch_size=flow.LATENT_PATCH).for_channels(4)
    ratio = dit_flops(dit, 8, backward=True).total / unet_flops(unet, 8, backward=True).total
    if profile.unet == UNetConfig():
        assert 0.9 < ratio < 1.1 and profile.dit == DiTConfig()
    large, small = (dit_flops(replace(profile.dit, patch_size=p), 32).total for p in (flow.LARGE_PATCH, 4))
    assert large == pytest.approx(dit_flops(dit, 8).total, rel=0.05) and 3.5 < small / large < 4.5
    assert 3 * flow.SMALL_PATCH**2 < profile.dit.width < 3 * flow.LARGE_PATCH**2


def test_dit_knows_classes_where_the_u_net_does(out):
    long = replace(SMOKE, scale=replace(SMOKE.scale, long=True))
    run = Run(STAGE, long, out, 1.0, torch.device("cpu"))
    setting, _ = flow._setting(run)
    assert setting.network(flow.SHIPPED).num_classes == len(setting.train.classes) == 2
    assert network_for(run, setting.train, setting.spaces["pixel"]).num_classes == 2
