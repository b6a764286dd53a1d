"""Chapter 2's plumbing: the source's table by its own clock, and budgets that are equal where they say so."""

import math
from dataclasses import replace

import pytest
import torch

from ldm_course.checkpoints import save_denoiser
from ldm_course.config import AutoencoderConfig, UNetConfig
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.lab import empirical
from ldm_course.lab.claims import ch2_results
from ldm_course.lab.claims.rates import Rates
from ldm_course.lab.profiles import PROFILES
from ldm_course.measure.complexity import autoencoder_flops, unet_flops
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.unet import UNet
from ldm_course.spaces import LatentSpace, PixelSpace
from ldm_course.training.recipes import seeded

RATES = Rates(pixel=0.5, latent=0.1, first_stage=2.0, encode=0.01, says="bf16, batches of 64")
T = {
    "pixel": 1.0,
    "latent": 0.1,
    "two of DDPM": 2.2,
    "decode": 0.5,
    "no network": 0.01,
    "one picture": 0.02,
    "guided": 0.15,
    "wider 4": 0.6,
    "wider 10": 4.1,
}


def judged(kd, n=1000, error=0.01):
    return {
        "fd_e": 100 * kd,
        "fd_e_error": 1.0,
        "fd_e_floor": 9.0,
        "kd_e": kd,
        "kd_e_error": error,
        "n_generated": n,
    }


def denoiser(points, first=None, **results):
    marks = [{"images": n, "flops": f, "quality": judged(kd)} for n, f, kd in points]
    return {"results": {"points": marks, "first_stage": first, **results}}


# a latent image costs a tenth of the FLOPs
PIXEL = denoiser([(100, 1000, 4.0), (400, 4000, 2.0), (1600, 16000, 0.0)])
LATENT = denoiser([(100, 100, 2.0), (400, 400, 1.5), (1600, 1600, 1.0)], {"training_flops": 13_000})
FIRST = {"results": {"data": {"train": 50}, "variants": {"perceptual": {"training_images": 200}}}}


@pytest.fixture(scope="module")
def pair():
    config = UNetConfig(block_out_channels=(16, 16), attention=(False, True), attention_head_dim=16, norm_num_groups=4)
    first = seeded(0, Autoencoder, AutoencoderConfig(block_out_channels=(16, 16), norm_num_groups=4)).eval()
    spaces = {"pixel": PixelSpace(16), "latent": LatentSpace(16, first)}
    made = {}
    for name, space in spaces.items():
        network = seeded(0, UNet, config.for_channels(space.shape[0])).eval()
        made[name] = Denoiser(network, space, make_schedule("cosine"), "v")
    return made


def test_the_parts_run_and_a_wider_network_is_wider(pair):
    calls = empirical.parts(pair["pixel"], pair["latent"], 2)
    assert set(calls) == set(T)
    shapes = {name: tuple(call().shape) for name, call in calls.items()}
    assert shapes["pixel"] == shapes["two of DDPM"] == (2, 3, 16, 16) == shapes["decode"]
    assert shapes["latent"] == shapes["no network"] == shapes["wider 4"] == (2, 4, 8, 8)
    assert shapes["one picture"][0] == 1 and shapes["guided"][0] == 4
    assert empirical.drawing(pair["latent"], 2, 1)().dtype == torch.uint8


def test_a_picture_is_its_steps_and_one_decoding():
    assert empirical.run_seconds(T, "pixel", 50) == 50 and empirical.run_seconds(T, "latent", 50) == pytest.approx(5.5)
    assert list(empirical.speedups(T).values()) == pytest.approx([11, 200, 100 / 5.5, 50 / 5.5])
    assert list(empirical.claimed_speedups().values()) == pytest.approx([13.54, 7.87, 0.582, 0.291], rel=1e-3)


def test_recorded_speed_ups_hold_the_decoder():
    def row(f, step, **decode):
        return {"side": 32, "f": f, "step": {"seconds_image": step}, **decode}

    rows = [row(1, 1.0), row(4, 0.1, decode={"seconds_image": 5.0})]
    found = empirical.recorded_speedups({"results": {"rows": rows}})
    assert list(found.values()) == pytest.approx([10, 100, 10, 5])


def test_suspects_are_weighed_by_the_sources_clock_and_a_first_call_is_not_carried_over():
    step = 0.82 / 100
    assert empirical.SOURCE_STEP == step
    needed = empirical.missing(T)
    assert needed == pytest.approx(1.41 - 50 * 0.1 * step)
    found = {s.name: s.seconds for s in empirical.suspects(T, 64, {"first call": 1.5})}
    assert found["decoding"] == pytest.approx(0.5 * step)
    assert found["guidance"] == pytest.approx(50 * 0.05 * step)
    assert found["pictures one by one"] == pytest.approx(50 * (64 * 0.02 - 0.1) * step)
    assert found["a U-Net 10 times as wide"] == pytest.approx(50 * 4.0 * step)
    assert found["first call"] == 1.5  # in seconds as it is
    slow = {name: 100 * taken for name, taken in T.items()}  # another machine
    assert {s.name: s.seconds for s in empirical.suspects(slow, 64, {"first call": 1.5})} == pytest.approx(found)
    (axes,) = empirical.suspects_figure(empirical.suspects(T, 64, {"first call": 1.5}), needed).axes
    said = [text.get_text() for text in axes.texts]
    assert said[-1] == said[-2] == "enough" and "times too short" in said[0]


def test_a_start_up_is_what_exceeds_the_pace():
    history = [{"step": 10, "seconds": 3.0}, {"step": 30, "seconds": 5.0}]
    assert empirical.start_up({"results": {"history": history}}) == pytest.approx(2.0)


def test_a_readers_number_is_compared_with_the_record():
    assert empirical.beside(10, 9.4) == "recorded: 9.4x"
    assert "go by the record" in empirical.beside(3, 9.4, " epochs") and "no record" in empirical.beside(3, None)


def test_the_first_calls_are_timed_in_a_process_of_their_own(pair, tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    save_denoiser(tmp_path / "checkpoints" / "tiny.safetensors", pair["pixel"])
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    found = empirical.first_calls("tiny", 2, 3)
    assert len(found) == 3 and min(found) > 0
    with pytest.raises(RuntimeError, match="no pretrained checkpoint"):
        empirical.first_calls("other", 2)


def test_the_bill_has_the_networks_of_the_chapter():
    pixel, latent, first = ch2_results.training_bill(32, 50, math.inf)
    network = UNetConfig()
    assert pixel == unet_flops(network.for_channels(3), 32, backward=True).total
    assert latent == unet_flops(network.for_channels(4), 8, backward=True).total
    assert first == pytest.approx(0.5 * autoencoder_flops(AutoencoderConfig(), 32, "both", backward=True).total)
    rows = empirical.bill_rows(32, 50, "one for all sizes")
    assert rows[-1][:2] == ["speed-up", f"{pixel / (latent + first):.3g}x"] and rows[0][2:] == ["1.00", 1.0]
    assert empirical.bill_rows(32, 0, "built for the size")[2][1] == "0 FLOP"


def test_rates_here_are_those_of_the_stage(monkeypatch):
    smoke = PROFILES["smoke"]
    p = replace(smoke, batch_size=4, autoencoder_batch_size=4, scale=replace(smoke.scale, call_seconds=0.1))
    found = empirical.live_rates(p)
    assert min(found.pixel, found.latent, found.first_stage, found.encode) > 0 and "batches of 4" in found.says
    head, (row,) = empirical.rates_table({"here": RATES})
    assert row == ["here", "500", "100", "2e+03", "10", "5x"] and len(head) == len(row)


def test_five_budgets_may_have_different_winners():
    found = {m.name: m for m in empirical.matched(PIXEL, LATENT, FIRST, RATES)}
    assert found["images"].nearer == "pixel"
    flops = found["FLOPs"]  # the latent's last 1,600 buy 160 pictures in pixels
    assert flops.nearer == "latent" and flops.pixel["images"] == pytest.approx(160)
    seconds = found["seconds"]  # 160 s
    assert seconds.nearer == "latent" and seconds.pixel["images"] == pytest.approx(320)
    paid = found["FLOPs, autoencoder included"]  # 14,600
    assert paid.nearer == "pixel" and paid.pixel["images"] == pytest.approx(1460)
    late = found["seconds, autoencoder included"]  # 160 + 400.5
    assert late.pixel["images"] == pytest.approx(1121) and late.latent["images"] == 1600
    head, body = empirical.matched_table(list(found.values()))
    assert len(body) == 5 and all(len(row) == len(head) for row in body)
    assert body[0] == ["images", "1.6 k", "0.000 ± 0.010", "1.6 k", "1.000 ± 0.010", "pixel"]
    left, right = empirical.overview(list(found.values()), 0.1).axes
    assert [t.get_text() for t in left.texts] == ["0.083", "3.4", "0.1"]
    assert len(right.get_yticks()) == 5


def test_a_lead_within_the_scatter_of_seeds_is_none_and_no_common_budget_is_no_row():
    def run(space, kd):
        point = {"images": 64, "quality": judged(kd), "again": judged(kd), "loss_test": 0.1, "step": 9}
        return {"space": space, "times": 1, "points": [point], "spikes": {"loss": []}}

    runs = [run(space, kd) for space in ("pixel", "latent") for kd in (0.2, 1.0, 1.8)]
    scattered = {"results": {"images": 64, "runs": runs}}
    (by_images, *_) = empirical.matched(PIXEL, LATENT, FIRST, RATES, scattered)
    assert by_images.name == "images" and by_images.nearer == "not told apart"
    late = denoiser([(100, 100, 2.0), (400, 400, 1.0)], {"training_flops": 10**9})
    names = [m.name for m in empirical.matched(PIXEL, late, FIRST, RATES)]
    assert "FLOPs, autoencoder included" not in names and "images" in names


def test_samplers_stand_in_a_column_for_each_count():
    def sampled(*rows):
        listed = [
            {"method": m, "steps": s, "quality": judged(kd, n), "quality_few": judged(kd + 1, 512)}
            for m, s, kd, n in rows
        ]
        return {"results": {"rows": listed}}

    records = {
        "pixel": sampled(("ddpm", 1000, 1.0, 512), ("ddim", 100, 2.0, 1000), ("ddim", 50, 3.0, 1000)),
        "latent": sampled(("ddim", 50, 4.0, 1000)),
    }
    head, body = empirical.samplers_table(records)
    assert head[3:] == ["FD-E of 512 (floor 9)", "FD-E of 1,000 (floor 9)"]
    assert body[0] == ["pixel, DDPM", "1000", "90.93", "100 ± 1", "–"]
    assert body[3] == ["latent, DDIM", "50", "85 to 90", "500 ± 1", "400 ± 1"]
    assert empirical.by_count(records["pixel"], "ddim", 100)[1000]["kd_e"] == 2.0


def test_figures_have_what_they_are_of():
    (axes,) = empirical.cost_by_steps(T).axes
    latent = next(line for line in axes.lines if line.get_label().startswith("latent"))
    assert list(latent.get_ydata())[:2] == pytest.approx([0.6, 0.7])
    assert [text.get_text() for text in axes.texts] == ["pixel, DDPM", "pixel, DDIM", "latent, DDIM"]
    (axes,) = empirical.bill_figure(
        {"your machine": [5.0, 2.5], "recorded": [4.0, 2.0]}, 4 / 3, {"your machine": 1, "recorded": 2}
    ).axes
    assert {line.get_label() for line in axes.lines} >= {"your machine", "recorded", "claimed"}
