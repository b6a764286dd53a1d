"""Tables of the reference stages: each number where it belongs, and a dash where there is no record."""

import pytest

from ldm_course.lab import figures, tables
from ldm_course.lab.claims.rates import Rates
from ldm_course.lab.records import make_record, save_record
from ldm_course.measure import cost_model

RATES = Rates(pixel=0.5, latent=0.1, first_stage=2.0, encode=0.01, says="bf16, batches of 64")


def judged(kd, n=1000, error=0.01):
    return {"fd_e": 100 * kd, "fd_e_floor": 9.0, "kd_e": kd, "kd_e_error": error, "kd_e_floor": 0.0, "n_generated": n}


def recorded(stage, results, kind="reference"):
    record = make_record(f"{stage}-{kind}", "reference", {"stage": stage, **results}, command="x", seconds=1)
    return record | {"date": "2026-01-02T00:00:00+00:00"}


def denoiser(space, points, first=None):
    marks = [{"images": n, "flops": 10 * n, "quality": judged(kd)} for n, kd in points]
    n = points[-1][0]
    spent = {"images": n, "wanted_images": 5000, "epochs": n / 50, "seconds": 90.0, "flops": 10 * n}
    results = {"data": {"train": 50}, "training": spent, "points": marks, "first_stage": first, "finished": n == 5000}
    return recorded(f"denoiser-cifar10-32-{space}", results)


PIXEL = denoiser("pixel", ((100, 4.0), (400, 2.0), (1600, 0.0)))
LATENT = denoiser("latent", ((100, 2.0), (400, 1.5), (1600, 1.0)), {"training_flops": 2000})
FIRST = recorded(
    "autoencoder-cifar10-32-f4",
    {
        "data": {"name": "cifar10", "size": 32, "train": 50},
        "f": 4,
        "network": {"latent_channels": 4},
        "variants": {
            "perceptual": {
                "training_images": 100,
                "training_seconds": 30.0,
                "psnr": 27.66,
                "reconstruction": judged(0.0932),
            }
        },
    },
)


def cells(table, name):
    head, body = table
    (row,) = [row for row in body if row[0] == name]
    assert all(len(row) == len(head) for row in body)
    return dict(zip(head, row))


def test_who_leads_is_counted_at_equal_images_flops_and_seconds():
    table = tables.leads(PIXEL, LATENT, FIRST, {"two cores": RATES})
    assert [row[0] for row in table[1]] == [
        "images",
        "FLOPs",
        "FLOPs, first stage included",
        "seconds, two cores",
        "seconds, two cores, first stage included",
    ]
    same = cells(table, "images")
    assert [same[k] for k in ("latent nearer", "pixels nearer", "undecided")] == ["2", "1", "0"]
    assert same["pixels take the lead at"].startswith("635 (")  # 400 * 4 ** (1 / 3)
    assert (same["pixel, KD-E"], same["latent, KD-E"]) == ("0.000 ± 0.010", "1.000 ± 0.010")
    paid = cells(table, "FLOPs, first stage included")  # latents from 3,000 to 18,000, pixels at most 16,000
    assert paid["pixel, images"] == "1.6 k" and paid["latent, images"] == "1.4 k"
    late = cells(table, "seconds, two cores, first stage included")  # the latent begins at 200.5 of 800 s
    assert late["latent, images"] == "1.6 k" and late["pixel, images"] == "721"  # 160 + 200.5 s


def test_without_a_budget_in_common_a_row_is_empty():
    late = denoiser("latent", ((100, 2.0), (400, 1.5)), {"training_flops": 10**6})
    assert set(list(cells(tables.leads(PIXEL, late, FIRST, {}), "FLOPs, first stage included").values())[1:]) == {"–"}


def sampling(space, *rows, date="2026-01-02T00:00:00+00:00"):
    listed = [
        {"method": m, "steps": s, "quality": judged(kd), "quality_few": judged(kd + 0.5, 512)} for m, s, kd in rows
    ]
    for row in listed:
        if row["steps"] == 1000:
            row["quality"] = row["quality_few"]
    return recorded(f"sampling-cifar10-32-{space}", {"rows": listed, "finished": False}) | {"date": date}


def cost(step=0.1, decode=1.0):
    rows = [
        {"side": 32, "f": f, "precision": "bf16", "step": {"seconds_image": step / f, "batch": 64}}
        | ({"decode": {"seconds_image": decode}} if f > 1 else {})
        for f in (1, 4)
    ]
    return recorded("cost", {"rows": rows})


def test_the_sources_table_has_what_is_recorded_beside_what_is_claimed():
    pair = {"pixel": PIXEL, "latent": LATENT}
    drawn = {"pixel": sampling("pixel", ("ddpm", 1000, 0.1), ("ddim", 100, 0.2)), "latent": sampling("latent")}
    head, body = tables.source_table(drawn, pair, {"two cores": cost()})
    assert len(body) == 6 and all(len(row) == len(head) for row in body)
    ddpm, ddim, latent = body[:3]
    assert ddpm == [
        *("pixel, DDPM", "1000", "173 ms", "90.93", "100 s (bf16, batch 64)"),
        *("60.0 (9.0)", "0.600 ± 0.010 (0.000)", "512", "32"),  # all at the count that the slowest has
    ]
    assert ddim[4:8] == ["10 s (bf16, batch 64)", "70.0 (9.0)", "0.700 ± 0.010 (0.000)", "512"]
    assert latent == [*("latent, DDIM", "50", "22 ms", "85 to 90", "2.25 s (bf16, batch 64)"), "–", "–", "–", "32"]
    assert "not FD-E" in head[3] and body[3][:4] == ["pixel, DDIM", "50", "–", "–"]


def test_the_sources_table_needs_no_record():
    head, body = tables.source_table({}, {}, {})
    assert len(head) == 8 and {cell for row in body for cell in row[4:]} == {"–"}
    fewer = tables.source_table({"pixel": sampling("pixel", ("ddim", 100, 0.2))}, {}, {})[1][1]
    assert fewer[6] == "1000"  # alone it is shown at its own count


def test_a_network_that_was_trained_further_since_says_so():
    early = sampling("pixel", ("ddim", 50, 0.2), date="2026-01-01T00:00:00+00:00")
    assert tables.source_table({"pixel": early}, {"pixel": PIXEL}, {})[1][0][-1] == "≤ 32"


def test_predictions_stand_over_what_was_recorded():
    def call(f, batch, seconds):
        return cost_model.Call(None, batch, seconds, 32, f)

    calls = [(call(1, 1, 1.0), 1.5), (call(1, 64, 8.0), 4.0), (call(4, 64, 2.0), 2.0), (call(8, 64, 0.5), 1.0)]
    left, right = figures.held_out({"training": calls, "step": calls[:2]}).axes
    shown = {line.get_label(): list(zip(line.get_xdata(), line.get_ydata())) for line in left.lines[:-1]}
    assert shown == {
        "pixel, batch": [(8.0, 4.0)],
        "pixel, alone": [(1.0, 1.5)],
        "latent, batch": [(2.0, 2.0), (0.5, 1.0)],
    }
    assert list(left.lines[-1].get_xdata()) == list(left.lines[-1].get_ydata()) == [0.5, 8.0]  # where all would lie
    assert left.get_title() + right.get_title() == "trainingstep" and len(right.lines) == 3


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    for record in (PIXEL, FIRST):
        save_record(record, tmp_path / "records")
    run = {"points": [{"images": 50, "seconds": 4.0}, {"images": 200, "seconds": 16.0}]}
    runs = {"data": {"train": 100}, "runs": [run, run, {"points": []}]}
    save_record(recorded("seeds-cifar10-32", runs, "cpu"), tmp_path / "records")
    ways = [{"f": 4, "way": "bicubic"}, {"f": 4, "way": "trained", "images": 12}, {"f": 8, "way": "x", "images": 12}]
    save_record(recorded("fine-structures-32", {"ways": ways}, "hours"), tmp_path / "records")
    save_record(recorded("cost", {"rows": []}, "cpu"), tmp_path / "records")


def test_what_was_trained_is_listed_with_its_images_epochs_and_time(house):
    head, body = tables.trainings()
    assert head[:5] == ["stage", "networks", "images, each", "epochs", "trained for"]
    assert {row[0]: row[1:5] for row in body} == {
        "denoiser-cifar10-32-pixel": ["1", "1,600 of 5,000", "32", "1 min 30 s"],
        "autoencoder-cifar10-32-f4": ["1", "100", "2", "30.0 s"],
        "seeds-cifar10-32": ["3", "200", "2", "32.0 s"],
        "fine-structures-32": ["2", "12", "–", "–"],
    }
    assert {row[0]: row[-1] for row in body}["denoiser-cifar10-32-pixel"] == "so far 2026-01-02"


def test_every_stage_says_how_far_it_has_come_on_each_kind_of_machine(house):
    head, body = tables.stages()
    found = {row[0]: row[1:] for row in body}
    assert head == ["stage", "reference", "hours", "cpu"] and set(found) == set(tables.STAGES)
    assert found["denoiser-cifar10-32-pixel"] == ["so far 2026-01-02", "missing", "missing"]
    assert found["cost"] == ["missing", "–", "done 2026-01-02"]


def test_each_kind_of_machine_says_how_far_its_stages_have_come(house):
    head, body = tables.kinds(("hours", "cpu"))
    columns = list(zip(*tables.stages(("hours", "cpu"))[1]))[1:]
    assert head[0] == "" and [row[0] for row in body] == ["hours", "cpu"]
    for row, column in zip(body, columns):
        assert all(len(row) == len(head) for row in body)
        assert sum(map(int, row[-3:])) == len(column) - column.count("–")
    assert body[0][-3:-1] == ["1", "0"] and body[1][-3:-1] == ["2", "0"]  # as in the house
    assert body[0][1:5] == ["1.8 M", "64", "1,500,000", "1000"] and body[1][3] == "by the clock"


def test_denoisers_at_their_ends_have_the_first_stage_beside_their_own_flops():
    table = tables.denoisers({"in pixels": PIXEL, "in latents": LATENT})
    assert cells(table, "in pixels")["+ first stage"] == "–"
    shown = cells(table, "in latents")
    assert [shown[k] for k in ("images", "epochs", "FLOPs", "+ first stage")] == ["1.6 k", "32", "16 kFLOP", "2 kFLOP"]
    assert shown["KD-E (floor)"] == "1.000 ± 0.010 (0.000)" and shown["state"] == "so far 2026-01-02"


def test_autoencoders_of_all_sizes_stand_in_one_table():
    one = {"psnr": 30.0, "reconstruction": judged(0.02)}
    crops = {"training_images": 400, "held_out": {"emoji at 64": one, "scenes at 64": one | {"psnr": 36.0}}}
    general = recorded(
        "first-stage-f8-c16",
        {
            "f": 8,
            "data": {"name": "crops of much", "size": 32, "train": 9},
            "network": {"latent_channels": 16},
            "variants": {"perceptual": crops},
        },
    )
    head, body = tables.autoencoders([general, FIRST], "PSNR, dB")
    assert head[5:] == ["emoji at 64", "scenes at 64", "cifar10 at 32"]
    assert body == [
        ["f = 8, c = 16", "12x", "perceptual", "crops", "400", "30.0", "36.0", "–"],
        ["f = 4, c = 4", "12x", "perceptual", "cifar10", "100", "–", "–", "27.7"],
    ]
    assert tables.autoencoders([FIRST], "KD-E")[1][0][-1] == "0.093 ± 0.010"
    with pytest.raises(ValueError, match="expected one of PSNR, dB, KD-E"):
        tables.autoencoders([FIRST], "SSIM")


def test_overfitting_is_told_from_where_the_held_out_loss_is_lowest():
    losses = ((100, 0.3, 0.30), (400, 0.2, 0.25), (1600, 0.1, 0.4))
    points = [
        {"images": n, "loss_train": a, "loss_test": b, "copied": 0.84, "copied_error": 0.07} for n, a, b in losses
    ]
    record = recorded("few-cifar10-32-pixel", {"points": points, "training": {"images": 1600, "epochs": 2500.0}})
    assert tables.overfitting({"pixel": record})[1] == [
        ["pixel", "1.6 k", "2,500", "400", "0.100", "0.400", "84%", "50 ± 7 %"]
    ]
    for p in points:
        del p["copied"], p["copied_error"]
    record = recorded("few-cifar10-32-pixel", {"points": points, "training": {"images": 1600, "epochs": 2500.0}})
    assert tables.overfitting({"pixel": record})[1][0][-2:] == ["–", "–"]


def test_samplers_are_drawn_by_the_clock_of_the_stage_cost():
    runs = {
        "pixel": sampling("pixel", ("ddim", 50, 0.3), ("ddim", 100, 0.2)),
        "latent": sampling("latent", ("ddim", 50, 0.4)),
    }
    steps, clock = figures.samplers(runs, cost()).axes
    x = {c.get_label(): list(c.lines[0].get_xdata()) for c in clock.containers}
    assert x == {"pixel, DDIM": pytest.approx([5, 10]), "latent, DDIM": pytest.approx([2.25])}
    assert [list(c.lines[0].get_ydata()) for c in steps.containers] == [[0.3, 0.2], [0.4]]
    assert len(figures.samplers(runs).axes) == 1


def test_redraws_scatter_beside_what_they_state():
    draws = [{"kd_e": 0.1, "kd_e_error": 0.03, "fd_e": 100.0, "fd_e_error": 4.0}]
    draws += [{"kd_e": 0.3, "kd_e_error": 0.04, "fd_e": 106.0, "fd_e_error": 3.0}]
    record = {"results": {"draws": draws, "over_stated": {"kd_e": 4.0, "fd_e": 1.2}, "expected_error": 0.5}}
    head, rows = tables.redraws(record)
    assert len(head) == len(rows[0])
    assert rows == [
        ["KD-E", "0.2", "0.141", "0.0354", "4.00 ± 2.00"],
        ["FD-E", "103", "4.24", "3.54", "1.20 ± 0.60"],
    ]
