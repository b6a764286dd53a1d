"""The cost model: what a fit must find again, what it must not invent, and break-even points known in closed form."""

import math
from dataclasses import replace

import pytest

from ldm_course.config import AutoencoderConfig, UNetConfig
from ldm_course.lab.profiles import PROFILES
from ldm_course.lab.records import NotRecorded, make_record, recorded_together, save_record
from ldm_course.measure import cost_model
from ldm_course.measure.complexity import autoencoder_flops, unet_flops
from ldm_course.measure.cost_model import (
    Call,
    CallModel,
    CostModel,
    Prices,
    Work,
    bill,
    fit,
    held_out,
    kept_per_position,
    off_by,
    total,
)

TRUE = CallModel(overhead=0.01, product=5e-12, attention=9e-12)


def made(model, sides=(32, 64, 128, 256), off=lambda side: 1.0):
    """Calls that take exactly what the model says, times `off(side)`."""
    found = []
    for side in sides:
        for batch in (1, 16):
            flops = unet_flops(UNetConfig(), side)
            by_hand = model.overhead + batch * (
                model.product * (flops.conv + flops.linear) + model.attention * flops.attention
            )
            found.append(Call(flops, batch, off(side) * by_hand, side, 1))
    return found


def test_a_fit_finds_the_model_that_made_the_calls():
    found = fit(made(TRUE))
    for name in ("overhead", "product", "attention"):
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=1e-6)
    assert off_by(held_out(made(TRUE)))[-1] == pytest.approx(1, abs=1e-6)
    with pytest.raises(ValueError, match="2 calls for a model of three numbers"):
        fit(made(TRUE)[:2])


def test_no_number_is_negative_even_where_that_would_fit_better():
    less = [replace(c, seconds=1e-12 * c.flops.total * c.batch - 1e-5) for c in made(TRUE)]  # an overhead below 0
    found = fit(less)
    assert found.overhead == 0 and found.product > 0 and found.attention >= 0


def test_errors_are_relative_so_that_a_small_call_counts_as_much_as_a_large_one():
    """At the fit, no small step of any number makes the sum of squared relative errors less."""
    wrong = iter([1.3, 0.8, 1.1, 0.9, 1.2, 0.85, 0.95, 1.15])
    calls = [replace(c, seconds=c.seconds * next(wrong)) for c in made(TRUE)]

    def error(model):
        return sum((c.batch * model.seconds(c.flops, c.batch) / c.seconds - 1) ** 2 for c in calls)

    found = fit(calls)
    for name in ("overhead", "product", "attention"):
        for factor in (0.99, 1.01):
            assert error(replace(found, **{name: factor * getattr(found, name)})) > error(found)


def test_a_side_is_predicted_by_the_others_alone():
    calls = made(TRUE, off=lambda side: 3.0 if side == 256 else 1.0)
    missed = {c.side: c.seconds / predicted for c, predicted in held_out(calls) if c.batch == 16}
    assert missed[256] == pytest.approx(3, rel=1e-4)  # the others know nothing of it
    assert off_by(held_out(calls))[-1] >= 3 - 1e-3


def test_what_is_kept_goes_by_positions_and_needs_two_sides():
    kept = {(64, 4): 512.0, (32, 4): 128.0, (32, 1): 1024.0, (64, 1): None, (32, 8): 0}
    rows = {at: {"kept_for_backward": bytes_} for at, bytes_ in kept.items()}
    assert kept_per_position(rows) == {4: {32: 2.0, 64: 2.0}} and list(kept_per_position(rows)[4]) == [32, 64]


def test_prices_are_those_of_the_formulas():
    model = CostModel(UNetConfig(), AutoencoderConfig(), TRUE, TRUE, TRUE, (1e9, 2e9))
    pixel, latent = model.prices(64, 1), model.prices(64, 8)
    assert pixel.step == pytest.approx(TRUE.seconds(unet_flops(UNetConfig(), 64), 64))
    assert pixel.training == pytest.approx(TRUE.seconds(unet_flops(UNetConfig(), 64, backward=True), 64))
    assert (pixel.decode, pixel.encode, pixel.autoencoder) == (0, 0, 0)
    first = AutoencoderConfig(block_out_channels=(32, 64, 64, 64))
    assert latent.step == pytest.approx(TRUE.seconds(unet_flops(UNetConfig().for_channels(4), 8), 64))
    assert latent.decode == pytest.approx(TRUE.seconds(autoencoder_flops(first, 64, "decode"), 64))
    assert latent.encode == pytest.approx(autoencoder_flops(first, 64, "encode").total / 2e9)
    assert latent.autoencoder == pytest.approx(autoencoder_flops(first, 64, "both", backward=True).total / 1e9)
    assert model.prices(512, 1, attention_up_to=32).step < 0.5 * model.prices(512, 1).step
    assert model.prices(512, 4, attention_up_to=32).decode < model.prices(512, 4).decode
    alone = model.prices(64, 1, batch=1)
    assert alone.step - pixel.step == pytest.approx(TRUE.overhead * (1 - 1 / 64))
    with pytest.raises(ValueError, match="a side of 36 is no multiple of f=8"):
        model.prices(36, 8)


PIXEL, LATENT = Prices(1.0, 0.5), Prices(0.25, 0.1, decode=2.0, encode=0.2, autoencoder=3.0)


def test_the_bill_item_by_item():
    work = Work(trained=100, sampled=10, steps=20, data=50, autoencoder=40)
    assert bill(LATENT, work) == {
        "training": 25.0,
        "sampling": pytest.approx(20.0),
        "decoding": 20.0,
        "encoding": 10.0,
        "autoencoder": 120.0,
    }
    assert total(PIXEL, work) == 100 + 100 and total(LATENT, work) == pytest.approx(195)


def test_break_even_in_closed_form():
    work = Work(trained=0, sampled=0, steps=20, data=50, autoencoder=40)  # 130 s at once
    sampled = cost_model.break_even_sampled(PIXEL, LATENT, work)
    assert sampled == pytest.approx(130 / (20 * 0.4 - 2))
    trained = cost_model.break_even_trained(PIXEL, LATENT, work)
    assert trained == pytest.approx(130 / 0.75)
    for name, found in (("sampled", sampled), ("trained", trained)):  # and there both cost the same
        even = replace(work, **{name: found})
        assert total(PIXEL, even) == pytest.approx(total(LATENT, even))
    one_step = replace(work, steps=1)  # 0.4 s saved, 2 s to decode
    assert cost_model.break_even_sampled(PIXEL, LATENT, one_step) == math.inf
    assert cost_model.break_even_sampled(PIXEL, LATENT, Work(trained=1000)) == 0


def test_the_allowance_is_what_uses_up_the_saving():
    work = Work(trained=1000, sampled=10, steps=20, data=50)
    allowed = cost_model.allowance(PIXEL, LATENT, work)
    even = replace(work, autoencoder=allowed)
    assert total(PIXEL, even) == pytest.approx(total(LATENT, even)) and allowed > 0
    assert cost_model.allowance(PIXEL, LATENT, replace(work, trained=0, steps=1)) == 0


def test_the_break_even_side_is_the_first_from_which_all_larger_ones_pay():
    """Without attention, overhead and rates the same, both bills go with positions: the side decides nothing."""
    flat = CallModel(0.0, 1e-12, 0.0)
    net, first = UNetConfig(), AutoencoderConfig()
    share = autoencoder_flops(replace(first, mid_attention=False), 32, "both", backward=True).total
    pixel, latent = (unet_flops(n, k, backward=True) for n, k in ((net, 32), (net.for_channels(4), 8)))
    saved = pixel.total - pixel.attention - latent.total + latent.attention
    for rate, side in ((1e12 * share / saved * 1.01, 32), (1e12 * share / saved * 0.95, None)):
        model = CostModel(net, replace(first, mid_attention=False), flat, flat, flat, (rate, math.inf))
        assert cost_model.break_even_side(model, 4, Work(100, autoencoder=100), (32, 64, 128, 256)) == side
    # attention in pixels makes larger sides pay
    model = CostModel(net, replace(first, mid_attention=False), TRUE, TRUE, TRUE, (5e10, math.inf))
    sides = cost_model.SIDES
    found = cost_model.break_even_side(model, 4, Work(100, autoencoder=100), sides)
    costs = {s: [total(model.prices(s, f), Work(100, autoencoder=100)) for f in (1, 4)] for s in (found, found - 32)}
    assert costs[found][1] < costs[found][0] and costs[found - 32][1] >= costs[found - 32][0]


def cost_record(model, sides=(32, 64, 128)):
    """What the stage `cost` would record if calls took what the model says."""
    p, rows = PROFILES["cpu"], []
    for side in sides:
        for f in (1, 2, 4, 8):
            net = p.unet if f == 1 else p.unet.for_channels(4)
            row = {"side": side, "f": f, "shape": [net.in_channels, side // f, side // f], "kept_for_backward": side**2}
            work = {"training": unet_flops(net, side // f, backward=True), "step": unet_flops(net, side // f)}
            if f > 1:
                work["decode"] = autoencoder_flops(p.autoencoder.for_downsample(f), side, "decode")
            for what, flops in work.items():
                row[what] = {
                    "batch": 16,
                    "seconds_image": model.seconds(flops, 16),
                    "seconds_alone": model.seconds(flops, 1),
                }
            rows.append(row)
    rows[-1]["training"] = {"why": "left out"}
    return make_record("cost-cpu", "reference", {"rows": rows}, command="x", seconds=1, config={"profile": p})


def compare_record(rate=1e11):
    spent = {"training_flops": 7 * rate, "training_seconds": 7, "encode_flops": rate, "encode_seconds": 2}
    return make_record("compare-cifar10-32-cpu", "compare", {"autoencoder": spent}, command="x", seconds=1)


def test_the_model_is_read_from_records():
    cost = cost_record(TRUE)
    assert len(cost_model.calls(cost, "step")) == 24 and len(cost_model.calls(cost, "training")) == 22
    assert {c.f for c in cost_model.calls(cost, "decode")} == {2, 4, 8}
    model = cost_model.cost_model(cost, compare_record())
    for fitted in (model.training, model.step, model.decode):
        assert fitted.product == pytest.approx(TRUE.product, rel=1e-6)
        assert fitted.attention == pytest.approx(TRUE.attention, rel=1e-5)
    assert model.first_stage_rates == (1e11, 5e10)
    assert model.unet == PROFILES["cpu"].unet and model.autoencoder == PROFILES["cpu"].autoencoder
    with pytest.raises(ValueError, match="what='decoding'; expected"):
        cost_model.calls(cost, "decoding")


def test_records_of_two_machines_are_never_mixed(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))

    def store(name):
        save_record(make_record(name, "reference", {}, command="x", seconds=1), tmp_path / "records")

    store("a-cpu")
    with pytest.raises(NotRecorded, match="b has not been recorded yet; run: ldm-course reference --stage b"):
        recorded_together("a", "b")
    store("b-reference")
    with pytest.raises(NotRecorded, match="a and b have not been recorded on one kind of machine yet"):
        recorded_together("a", "b")
    store("b-cpu")
    assert [r["name"] for r in recorded_together("a", "b")] == ["a-cpu", "b-cpu"]
    assert recorded_together("b")[0]["name"] == "b-reference"


def test_networks_for_larger_grids_and_other_f():
    net = UNetConfig()
    assert net.attending_up_to(math.inf, 1024) == net == net.attending_up_to(32, 128)
    deeper = net.attending_up_to(32, 512)
    assert deeper.block_out_channels == (32, 64, 96, 96, 96) and deeper.attention == (False,) * 4 + (True,)
    assert net.attending_up_to(4, 8).attention == (False, False, True) and not any(
        net.attending_up_to(1, 2).attention[:-1]
    )
    assert [AutoencoderConfig().for_downsample(f).downsample for f in (1, 2, 4, 8)] == [1, 2, 4, 8]
    with pytest.raises(ValueError, match="f=6; expected a power of two"):
        AutoencoderConfig().for_downsample(6)
