"""Section 9.5's tables and figures, from a record made up here and from the networks themselves."""

import pytest

from ldm_course.config import DiTConfig, UNetConfig
from ldm_course.lab import flows
from ldm_course.lab.stages import flow
from ldm_course.measure.complexity import count_parameters, dit_flops, unet_flops
from ldm_course.networks.dit import DiT


def judged(kd_e, n=1000):
    floors = {"kd_e_floor": 0.001, "fd_e_floor": 40.0, "precision_real": 0.8, "recall_real": 0.6}
    own = {"kd_e": kd_e, "kd_e_error": 0.01, "fd_e": 1000 * kd_e, "fd_e_error": 3.0}
    return own | floors | {"precision": 0.8 - kd_e, "recall": 0.6 - kd_e / 2, "n_generated": n}


def kd_of(method, evaluations):
    """Told apart by everything that a figure could mix up."""
    return 0.01 * flow.METHODS.index(method) + 1 / evaluations


def loss_of(method):
    return 0.2 * (1 + flow.METHODS.index(method)) if method.prediction == "x0" else 7.0 + flow.METHODS.index(method)


def record(evaluations=(5, 50)):
    rows, methods = [], {}
    for m in flow.METHODS:
        methods[m.name] = {
            "space": m.space,
            "patch": m.patch,
            "prediction": m.prediction,
            "loss": loss_of(m),
            "network": {"width": 96},
            "parameters": 1_000_000,
            "training_flops": 5e12,
            "straightness": {"s": 0.05, "error": 0.001, "span": 2.0},
        }
        for sampler in ("ddim", "heun") if m.space == "latent" else ("ddim",):
            for n in evaluations:
                calls = n - 1 if sampler == "heun" and n % 2 == 0 else n
                row = {"method": m.name, "space": m.space, "sampler": sampler, "evaluations": calls}
                rows.append(row | {"picture_flops": 2e9, "quality": judged(kd_of(m, calls))})
    shared = {"images": 80_000, "data": {"name": "cifar10", "train": 4000}, "evaluations_of_the_picture": 50}
    return {"results": shared | {"rows": rows, "methods": methods}}


def test_a_method_stands_at_its_most_calls():
    last = flows.last_rows(record())
    assert list(last) == [m.name for m in flow.METHODS] and {r["evaluations"] for r in last.values()} == {50}
    assert {r["evaluations"] for r in flows.last_rows(record(), "heun").values()} == {49}
    head, body = flows.methods(record())
    assert all(len(cells) == len(head) for cells in body) and len(body) == len(flow.METHODS)
    assert body[2][1:5] == ["1 M", "5 TFLOP", "2 GFLOP", "2.5 ± 0.1"]  # 0.05 of 2, in per cent
    assert "80,000 pictures of cifar10 seen by each, 4,000 different ones" in flows.recorded_as(record())


def test_the_networks_are_counted_as_they_are_built():
    head, body = flows.networks()
    cells = {row[0]: row[1:] for row in body}
    assert all(len(row) == len(head) for row in body)
    assert cells["latent, DiT/2"][:2] == ["16", "16"] and cells["pixel, DiT/8"][:2] == ["16", "192"]
    assert cells["latent, U-Net"][:2] == ["64", "4"] and cells["latent, U-Net"][4] == "1x"
    eight = DiTConfig(patch_size=8)
    assert cells["pixel, DiT/8"][2] == flows.si(count_parameters(DiT(eight)))
    assert cells["pixel, DiT/8"][3] == flows.si(dit_flops(eight, 32).total, "FLOP")
    assert cells["pixel, U-Net"][3] == flows.si(unet_flops(UNetConfig(), 32).total, "FLOP")


def test_curves_show_each_latent_method_by_either_sampler():
    assert list(flows.LOOKS) == [m.name for m in flow.METHODS if m.space == "latent"]
    euler, heun = flows.samplers(record()).axes
    for axes, calls in ((euler, (5, 50)), (heun, (5, 49))):
        drawn = {c.get_label(): c.lines[0] for c in axes.containers}
        for m in flow.METHODS[:4]:
            line = drawn[m.name.removeprefix("latent ")]
            assert tuple(line.get_xdata()) == calls
            assert list(line.get_ydata()) == pytest.approx([kd_of(m, n) for n in calls])


def on_pixels(patch, prediction):
    return next(m for m in flow.METHODS if (m.space, m.patch, m.prediction) == ("pixel", patch, prediction))


def test_predictions_stand_over_the_patch_that_they_were_made_for():
    left, right = flows.predictions(record()).axes
    for axes in (left, right):
        assert [t.get_text() for t in axes.get_xticklabels()] == ["48\n(4 × 4 pixels)", "192\n(8 × 8 pixels)"]
    values = {left: loss_of, right: lambda m: kd_of(m, 50)}
    for axes, value in values.items():
        for container, prediction in zip(axes.containers, ("x0", "eps", "u")):
            wanted = [value(on_pixels(p, prediction)) for p in (4, 8)]
            assert list(container.lines[0].get_ydata()) == pytest.approx(wanted)
            assert sorted(round(x) for x in container.lines[0].get_xdata()) == [0, 1]
    lines = {
        line.get_label(): line.get_ydata()[0] for line in right.lines if line.get_label() in flows.last_rows(record())
    }
    assert lines["pixel U-Net by DDPM"] == pytest.approx(kd_of(flow.METHODS[-1], 50)) and len(lines) == 3


def test_patches_are_told_by_the_loss_that_all_share_and_a_distance_that_disagrees_is_named():
    one = record()
    x0, eps, u = (on_pixels(8, name).name for name in ("x0", "eps", "u"))
    assert "in latents reaches KD-E 0.05, those on pixels 0.06 to 0.08" in flows.in_a_minute(one)
    said = flows.what_patches_ask_for(one)
    assert f"192 numbers in a patch {loss_of(on_pixels(8, 'x0')):.2f} (x₀)" in said and "is 96 wide" in said
    assert "only predicting x₀ learns" in said and "puts" not in said  # KD-E has x0 first as well
    for row in one["results"]["rows"]:
        if row["method"] == u:
            row["quality"]["kd_e"] = 0.001
    assert "It puts u first, and the rows below say that it is wrong" in flows.what_patches_ask_for(one)
    one["results"]["methods"][eps]["loss"] = 1.5 * one["results"]["methods"][x0]["loss"]
    assert "does not happen here to its full extent" in flows.what_patches_ask_for(one)


def test_flaws_say_which_of_the_two_shares_is_further_from_real_ones():
    said = flows.flaws(record()).splitlines()
    assert len(said) == len(flow.METHODS) + 1 and "real pictures: precision 0.80, recall 0.60" in said[-1]
    assert "no fault" in said[0]
    one = record()
    for row in one["results"]["rows"]:
        row["quality"] |= {"precision": 0.2, "recall": 0.5} if "U-Net" in row["method"] else {"recall": 0.1}
    said = dict(line.removeprefix("- ").split(": ", 1) for line in flows.flaws(one).splitlines())
    assert "noise comes out" in said["pixel DiT/8 predicting eps"] and "noise" not in said["pixel DiT/8 predicting x0"]
    assert "do not look real" in said["latent U-Net by DDPM"] and "lacks variety" in said["latent DiT/2 as a flow"]


def test_what_is_published_has_a_number_for_each_prediction():
    head, body = flows.published()
    assert all(len(row) == len(head) for row in body) and [row[1] for row in body] == ["768", "48"]
