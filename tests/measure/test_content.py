"""Chapter 4's measurements: on maps and networks whose answer is known."""

import math

import pytest
import torch
from conftest import SMOKE

from ldm_course.data import scenes
from ldm_course.data.pictures import to_float
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.lab.profiles import PROFILES, Sizes
from ldm_course.measure import bits, content, probes
from ldm_course.measure.bits import Errors
from ldm_course.measure.content import Passed, answer_to_grain, grey, jackknife, passed, rms
from ldm_course.measure.probes import Readings
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.spaces import LatentSpace, PixelSpace

SCHEDULE = make_schedule("cosine")


def test_a_jackknife_of_a_mean_gives_its_standard_error():
    x = torch.randn(40, generator=torch.Generator().manual_seed(0)).double()
    mean, error = jackknife(40, lambda rows: x[rows].mean().item(), blocks=40)
    assert mean == pytest.approx(x.mean().item()) and error == pytest.approx(2 * x.std().item() / 40**0.5)


# -------------------------------------------------------------------------------------- what a denoiser spends


def wave(f, size=16):
    """One wave of f cycles across, of mean square 1."""
    row = math.sqrt(2) * torch.cos(2 * math.pi * f * torch.arange(size) / size)
    return row.expand(2, 3, size, size).double()


def errors(off, levels=(0, 200, 999)):
    """Guesses that are wrong by off[i] at level i."""
    x0 = torch.zeros(2, 3, 16, 16)
    return Errors(x0, {t: x0 + e for t, e in zip(levels, off)}, SCHEDULE)


def test_an_error_of_one_grey_level_is_all_finer_than_two_and_none_finer_than_a_half():
    found = errors([wave(3) / 127.5] * 3)
    assert found.distortion.tolist() == pytest.approx([1.0] * 1000, rel=1e-6)
    above, below = found.finer_than(2), found.finer_than(0.5)
    assert set(above) == {"noise levels", "training loss", "bits"} and set(below.values()) == {0.0}
    assert above["noise levels"] == above["training loss"] == 1 and above["bits"] == pytest.approx(1, abs=1e-6)


def test_where_only_the_first_levels_are_fine_the_parts_are_those_of_their_weights():
    off = [e / 127.5 * wave(3) for e in (1.0, 1.0, 50.0)]
    found = errors(off, levels=(0, 499, 500))
    parts, snr = found.finer_than(2), SCHEDULE.snr
    fine, coarse = (1 + snr[:500]).sum(), 2500 * (1 + snr[500:]).sum()
    assert parts["noise levels"] == 0.5
    assert parts["training loss"] == pytest.approx((fine / (fine + coarse)).item(), rel=1e-6)
    bits = 0.5 / math.log(2) / 127.5**2 * -snr.diff()
    spent = bits[:499].sum().item() + found.last_bits
    assert parts["bits"] == pytest.approx(spent / (spent + 2500 * bits[499:].sum().item()), rel=1e-4)


def test_the_loss_above_the_grid_is_that_of_its_waves():
    assert errors([wave(6)] * 3).loss_above_grid() == pytest.approx(1)
    half = errors([wave(2) + wave(6)] * 3)
    assert half.above_grid.tolist() == pytest.approx([0.5] * 3) and half.loss_above_grid() == pytest.approx(0.5)


def test_only_a_pixel_denoiser_of_v_is_taken():
    model, x = torch.nn.Linear(1, 1), torch.zeros(1, 3, 32, 32)
    latent = LatentSpace(32, Autoencoder(SMOKE.autoencoder))
    for space, prediction in ((PixelSpace(32), "eps"), (latent, "v")):
        with pytest.raises(ValueError, match="expected v in pixel space"):
            bits.errors_of(Denoiser(model, space, SCHEDULE, prediction, {}), x)


# ------------------------------------------------------------------------------------ what an autoencoder passes


@pytest.fixture(scope="module")
def changed():
    return content.changed_scenes(24)


def test_the_movement_is_as_faint_as_the_texture_and_the_other_scene_is_not(changed):
    plain, others = changed
    strength = {name: rms(x - plain) for name, x in others.items()}
    assert strength["a small movement"] == pytest.approx(strength["texture 1"], rel=0.2)
    assert strength["another scene"] > 10 * strength["texture 1"]


def test_the_movement_is_as_faint_as_the_texture_at_other_sizes_too():
    plain, others = content.changed_scenes(24, 64)
    strength = {name: rms(x - plain) for name, x in others.items()}
    assert plain.shape == (24, 3, 64, 64)
    assert strength["a small movement"] == pytest.approx(strength["texture 1"], rel=0.2)
    assert content.grid_of(64) == 8 and content.grid_of(32) == content.GRID == 4 and content.grid_of(64, 8) == 4


def test_a_filter_lets_every_change_through_alike(changed):
    found = passed(lambda x: 0.5 * x, *changed)
    assert [found.beyond_grid(name) for name in changed[1]] == pytest.approx([0.5] * 4)
    ratio, error = found.texture_to_movement()
    assert ratio == pytest.approx(1) and error < 1e-6
    averages = passed(content.averaged, *changed)
    assert max(averages.beyond_grid(name) for name in changed[1]) < 0.1
    assert averages.gains["another scene"][1] > 0.85


def test_a_map_that_tells_texture_from_movement_is_found_out(changed):
    before = {name: x - changed[0] for name, x in changed[1].items()}
    kept = {"texture 1": 0.1, "texture 4": 0.1, "a small movement": 0.4, "another scene": 0.8}
    found = Passed(before, {name: kept[name] * x for name, x in before.items()}).results()
    assert found["texture_to_movement"] == pytest.approx(0.25)
    assert {n: c["beyond_grid"] for n, c in found["changes"].items()} == pytest.approx(kept)
    for c in found["changes"].values():
        assert c["decoded"] / c["strength"] == pytest.approx(c["beyond_grid"])


def test_marks_of_the_decoders_own_are_no_answer_to_grain(changed):
    plain, textured = changed[0], changed[1]["texture 1"]
    marks = 0.02 * torch.randn(plain.shape[1:], generator=torch.Generator().manual_seed(0))
    same = answer_to_grain(lambda x: x, plain, textured)
    assert same["answer"] == pytest.approx(1) and same["before"] == same["after"]
    painted = answer_to_grain(lambda x: torch.zeros_like(x) + marks, plain, textured)
    assert painted["answer"] < 1e-6 and painted["after"]["with texture"] > 1
    assert answer_to_grain(lambda x: 0.5 * x + marks, plain, textured)["answer"] == pytest.approx(0.5, rel=1e-4)


# ----------------------------------------------------------------------------------------- what can be read


def test_scenes_of_one_thing_come_with_their_own_factors():
    x, factors = probes.alone(content.HELD_OUT, 6)
    assert x.shape == (6, 3, 32, 32) and {k: len(v) for k, v in factors.items()} == dict(shape=6, colour=6, place=6)
    numbers = [i for i in range(content.HELD_OUT, content.HELD_OUT + 30) if len(scenes.factors(0, i).things) == 1][:6]
    for k, i in enumerate(numbers):
        scene = scenes.factors(0, i)
        assert list(scenes.COLOURS)[factors["colour"][k]] == scene.things[0].colour
        assert list(scenes.PLACES)[factors["place"][k]] == scene.place
        assert (grey(x[k]) - grey(to_float(scenes.render(0, [i], 32))[0])).abs().max() == 0
    assert torch.equal(probes.alone(content.HELD_OUT, 1, 64)[0], to_float(scenes.render(0, numbers[:1], 64)))


def test_the_controls_have_the_latents_grid_or_its_scale():
    model = Autoencoder(SMOKE.autoencoder).eval()
    seen, new = (torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(s)) * 2 - 1 for s in (0, 1))
    inputs = probes.probe_inputs(model, seen, new)
    shapes = {name: tuple(pair[1].shape[1:]) for name, pair in inputs.items()}
    assert shapes["coarse pixels"] == (3, 8, 8) and shapes["latents"] == (4, 8, 8)
    assert shapes["pixels"] == shapes["scaled pixels"] == shapes["decoded"] == (3, 32, 32)
    assert (inputs["decoded"][1] - model.reconstruct(new)).abs().max() < 1e-5
    for name in ("coarse pixels", "scaled pixels"):
        assert inputs[name][0].mean().item() == pytest.approx(0, abs=1e-5)
        assert inputs[name][0].std().item() == pytest.approx(1, rel=0.02)
    slope = (inputs["scaled pixels"][1] / new).median()
    assert (inputs["scaled pixels"][1].diff(dim=3) - slope * new.diff(dim=3)).abs().max() < 0.1


def readings(clean, noisy, chance=0.25):
    """Of one factor, from (seeds, scenes) and (seeds, levels, scenes) by input."""
    clean, noisy = ({name: {"shape": torch.as_tensor(x).float()} for name, x in of.items()} for of in (clean, noisy))
    checked = {name: {"shape": of["shape"].mean().item()} for name, of in clean.items()}
    return Readings((25, 75), clean, noisy, clean, checked, {"shape": chance})


def test_a_difference_is_paired_and_its_error_covers_scenes_and_seeds():
    pixels, latents = torch.ones(2, 100), torch.ones(2, 100)
    latents[0, :20], latents[1, :10] = 0.0, 0.0
    found = readings({"pixels": pixels, "latents": latents}, {n: torch.ones(2, 2, 100) for n in ("pixels", "latents")})
    mean, error = found.difference("latents", "pixels", "shape")
    scenes_ = latents.mean(0).var() / 100
    seeds = torch.tensor([0.8, 0.9]).var() / 2
    assert mean == pytest.approx(-0.15) and error == pytest.approx(2 * (scenes_ + seeds).sqrt().item(), rel=1e-5)
    assert found.difference("latents", "pixels", "shape", noisy=True) == (0.0, 0.0)
    one = readings(
        {"pixels": pixels[:1], "latents": latents[:1]}, {n: torch.ones(1, 2, 100) for n in ("pixels", "latents")}
    )
    assert one.difference("latents", "pixels", "shape")[1] == pytest.approx(2 * (latents[0].var() / 100).sqrt().item())


def test_content_is_undecided_below_nine_tenths_of_what_is_readable_beyond_chance():
    def level(share):
        return (torch.arange(1000) < 1000 * share).float()

    clean = {n: level(0.65)[None] for n in ("pixels", "latents")}  # 0.25 + 0.9 (0.65 - 0.25) = 0.61
    noisy = {
        "pixels": [[level(0.62).tolist(), level(0.62).tolist()]],
        "latents": [[level(0.62).tolist(), level(0.6).tolist()]],
    }
    found = readings(clean, noisy)
    assert found.undecided("pixels") == {"shape": 0.0} and found.undecided("latents") == {"shape": 0.5}
    lead, error = found.lead()
    assert lead == 0.5 and error > 0.3  # a percent from the edge, a draw of scenes decides
    assert found.lead("pixels", "pixels") == (0.0, 0.0)


def test_what_is_read_from_decoded_pictures_is_in_the_latents():
    def level(share):
        return (torch.arange(1000) < 1000 * share).float().expand(2, 1000)

    clean = {"pixels": level(0.9), "latents": level(0.6), "decoded": level(0.8)}
    noisy = {name: level(0.5)[:, None].expand(2, 2, 1000) for name in ("pixels", "latents")}
    found = readings(clean, noisy)
    said = found.results()
    assert (said["seeds"], said["scenes"]) == (2, 1000)
    assert said["clean"]["pixels"]["shape"] == pytest.approx(0.9) and set(said["undecided"]) == {"pixels", "latents"}
    kept = said["kept"]["shape"]
    assert kept["read_from"] == "decoded" and kept["read"] == pytest.approx(0.8)
    assert kept["against_pixels"] == found.difference("decoded", "pixels", "shape")
    # it is chosen by what was checked, not by what is counted
    found.checked["latents"]["shape"] = 0.95
    assert found.kept("shape")["read_from"] == "latents" and found.kept("shape")["read"] == pytest.approx(0.6)


def test_probes_of_several_seeds_are_read_at_every_level():
    x = torch.zeros(64, 1, 8, 8)
    which = torch.arange(64) % 2
    x[which == 1] = 1.0
    found = probes.read_factors(
        {"pixels": (x, x[:10])}, {"half": which}, {"half": which[:10]}, SCHEDULE, steps=30, seeds=2, levels=(50, 999)
    )
    assert found.clean["pixels"]["half"].shape == (2, 10) and found.noisy["pixels"]["half"].shape == (2, 2, 10)
    assert found.chance == {"half": 0.5} and found.clean["pixels"]["half"].mean() > 0.9


def test_sizes_grow_with_the_profile_up_to_what_probes_need():
    smoke, cpu, large = (Sizes.of(PROFILES[name]) for name in ("smoke", "cpu", "reference"))
    assert smoke.drawings == 16 and cpu.seen == PROFILES["cpu"].reference_count
    assert large.steps == 256 and large.seen == 4096
