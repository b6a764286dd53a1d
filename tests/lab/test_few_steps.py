"""The stage of few steps at the smallest size (chapter 9)."""

import pytest
from conftest import SMOKE, empty_house, stand_in_for_cifar10
from PIL import Image

from ldm_course import checkpoints
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.consistency import ConsistencyModel
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.lab.claims import ledger, verdicts
from ldm_course.lab.profiles import PROFILES
from ldm_course.lab.records import figure, load_record, make_record, save_record
from ldm_course.lab.reference import run_stages
from ldm_course.lab.stages import few_steps
from ldm_course.measure.complexity import autoencoder_flops, unet_flops
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.unet import UNet
from ldm_course.spaces import LatentSpace, PixelSpace
from ldm_course.training.recipes import seeded
from ldm_course.training.trainer import Diverged, Trainer

STAGE = "few-steps-cifar10-32"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Where the stage was run, with untrained stand-ins for the two denoisers."""
    home = empty_house(tmp_path_factory)
    autoencoder = seeded(0, Autoencoder, SMOKE.autoencoder).eval()
    checkpoints.save_model(home / "checkpoints" / "autoencoder-smoke.safetensors", autoencoder)
    for space in (PixelSpace(32), LatentSpace(32, autoencoder)):
        net = seeded(0, UNet, SMOKE.unet.for_channels(space.shape[0])).eval()
        d, name = Denoiser(net, space, make_schedule("cosine"), "v"), f"denoiser-cifar10-32-{space.name}-smoke"
        about = {"autoencoder": "autoencoder-smoke.safetensors"} if space.name == "latent" else {}
        checkpoints.save_denoiser(home / "checkpoints" / f"{name}.safetensors", d, data="cifar10", **about)
        training = {"training": {"images": 64, "epochs": 0.25, "flops": 10**9}}
        made = make_record(name, "reference", training, command="x", seconds=1, config=None, data_source=None)
        save_record(made, home / "records")
    with pytest.MonkeyPatch.context() as patched:
        stand_in_for_cifar10(home, 300)
        patched.setenv("LDM_DATA", str(home))
        patched.setenv("LDM_HOME", str(home))
        assert run_stages([STAGE], SMOKE, home / "out", say=print) == []
        yield home / "out"


def results(out):
    return load_record(f"{STAGE}-smoke", out / "records")["results"]


def test_each_space_has_a_teacher_and_two_ways_at_the_same_cost(out):
    found = results(out)
    rows = [(r["space"], r["method"], r["sampler"], r["steps"]) for r in found["rows"]]
    teacher = [("teacher", s, n) for n in (1, 2, 4, 10, 20, 50) for s in ("ddim", "dpmpp")]
    ways = [(way, "multistep", n) for way in few_steps.WAYS for n in (1, 2, 4)]
    assert rows == [(space, *row) for space in ("pixel", "latent") for row in (*teacher, *ways)]
    pixel, latent = unet_flops(SMOKE.unet, 32).total, unet_flops(SMOKE.unet.for_channels(4), 8).total
    decoding = autoencoder_flops(SMOKE.autoencoder, 32, "decode").total
    for r in found["rows"]:
        call, fixed = (pixel, 0) if r["space"] == "pixel" else (latent, decoding)
        assert r["flops_picture"] == r["steps"] * call + fixed and r["seconds_picture"] > 0
        assert r["quality"]["n_generated"] == SMOKE.eval_count and r["parameters"] > 10_000
        own = found["trainings"].get(f"{r['space']}, {r['method']}", {"images": 64, "training_flops": 10**9})
        assert (r["images"], r["training_flops"]) == (own["images"], own["training_flops"])
    images = SMOKE.scale.few_step_images
    for space, seen, side in (("pixel", images, 32), ("latent", images * pixel / latent, 8)):
        taught, alone = (found["trainings"][f"{space}, {way}"] for way in few_steps.WAYS)
        assert taught["images"] == alone["images"] == pytest.approx(seen, rel=0.02)
        network = SMOKE.unet.for_channels(3 if space == "pixel" else 4)
        forward, both = unet_flops(network, side).total, unet_flops(network, side, backward=True).total
        assert taught["training_flops"] == taught["images"] * (both + 2 * forward)
        assert alone["training_flops"] == alone["images"] * (both + forward)
        assert found["teachers"][space]["epochs"] == 0.25 and taught["epochs"] == taught["images"] / SMOKE.limit


def test_the_record_says_where_a_training_went_astray(out):
    for about in results(out)["trainings"].values():
        assert [p["intervals"] for p in about["points"]] == [8, 16, 32, 64]
        assert about["points"][-1]["step"] == about["steps"]
        assert all(p["loss"] > 0 and p["grad_norm"] > 0 and p["quality"]["kd_e"] for p in about["points"])
        assert "the teacher in one step" in about["course"] or "than just before" in about["course"]

    def point(kd, intervals=8):
        return {"intervals": intervals, "quality": {"kd_e": kd, "kd_e_error": 0.01, "n_generated": 100}}

    start = point(1.0)["quality"]
    for kds, said in (
        ((0.8, 0.5, 0.5, 0.49), "better than the teacher in one step, and never"),
        ((0.8, 0.5, 0.6, 0.4), "better than the teacher in one step; with 32 intervals worse than just before"),
        ((0.8, 0.9, 0.7, 1.1), "no better than the teacher in one step; with 16 and 64 intervals worse than"),
        ((1.0, 0.99, 0.98, 0.98), "no better than the teacher in one step"),
    ):
        points = [point(kd, 8 * 2**i) for i, kd in enumerate(kds)]
        assert few_steps.course(points, start).startswith(said)
    assert few_steps._divisions(9) == [(0, 2), (2, 4), (4, 6), (6, 9)]


def test_the_decoder_is_weighed_against_one_step(out):
    pixel, latent = results(out)["one_step"].values()
    assert all(of["decoder"] == of["decoder_share"] == 0 for of in pixel.values())
    decoding = autoencoder_flops(SMOKE.autoencoder, 32, "decode").total
    whole = decoding + unet_flops(SMOKE.unet.for_channels(4), 8).total
    assert latent["flops"]["decoder_share"] == pytest.approx(decoding / whole)
    assert all(0 < latent[name]["decoder_share"] < 1 for name in ("seconds", "seconds_alone"))


def test_the_picture_has_a_row_for_each_name_and_the_weights_jump(out):
    found = results(out)
    assert len(found["rows_of_the_picture"]) == 18
    with Image.open(out / "records" / f"{STAGE}-smoke.png") as picture:
        assert picture.height == len(found["rows_of_the_picture"]) * 66 - 2
    d = checkpoints.load_denoiser(out / "checkpoints" / f"{STAGE}-smoke.safetensors")
    assert isinstance(d.model, ConsistencyModel) and d.space.name == "latent"
    assert d.jump(2, steps=2).shape == (2, 3, 32, 32)
    where = "results.rows[space=pixel,method=distilled,steps=1].quality.kd_e"
    assert isinstance(figure(load_record(f"{STAGE}-smoke", out / "records"), where), float)


def test_too_little_for_a_verdict(out):
    judged = ledger.CLAIMS["C9.3"].judge({STAGE: results(out)})
    assert judged.verdict == verdicts.NOT_HERE and "epochs" in judged.found


def test_what_was_done_before_a_stop_is_kept(out, monkeypatch):
    before = results(out)
    (out / "records" / f"{STAGE}-smoke.json").unlink()
    monkeypatch.setattr(few_steps, "consistency_trainer", lambda *args, **options: pytest.fail("trained again"))
    assert run_stages([STAGE], SMOKE, out, say=print) == []
    assert results(out)["rows"] == before["rows"]


def test_a_training_that_diverges_leaves_its_points_and_no_rows(out, monkeypatch):
    (out / "records" / f"{STAGE}-smoke.json").unlink()
    folder = out / "states" / f"{STAGE}-smoke" / "pixel" / "without-a-teacher"
    for name in ("found.json", "points.json"):
        (folder / name).unlink()
    run = Trainer.run

    def diverging(trainer, *, until, **options):
        if until > 2:
            raise Diverged("the loss is nan")
        return run(trainer, until=until, **options)

    monkeypatch.setattr(Trainer, "run", diverging)
    assert run_stages([STAGE], SMOKE, out, say=print) == []
    found = results(out)
    about = found["trainings"]["pixel, without a teacher"]
    assert about["course"] == "diverged at 32 intervals: the loss is nan"
    assert [p["intervals"] for p in about["points"]] == [8, 16]
    ways = [r["method"] for r in found["rows"] if r["space"] == "pixel"]
    assert "distilled" in ways and "without a teacher" not in ways


def test_long_trainings_are_enough_for_a_verdict_in_latents():
    for name in ("hours", "reference"):
        p = PROFILES[name]
        times = p.scale.latent_times or unet_flops(p.unet, 32).total / unet_flops(p.unet.for_channels(4), 8).total
        assert p.scale.few_step_images * times >= verdicts.rules.epochs * 50_000
        assert p.eval_count >= verdicts.rules.pictures
