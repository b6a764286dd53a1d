"""Chapter 9's tables, figures and sentences of few steps, from a record made up here."""

import pytest
import torch
from matplotlib.figure import Figure

from ldm_course.files import place_of
from ldm_course.lab import one_step
from ldm_course.lab.claims.verdicts import under as rules_under
from ldm_course.page import plotting

RECALL = 0.3
KD = {("teacher", 1): 1.0, ("teacher", 4): 0.5, ("teacher", 50): 0.1, ("distilled", 1): 0.3, ("distilled", 4): 0.2}
KD |= {("without a teacher", 1): 0.6, ("without a teacher", 4): 0.2}


def quality(kd):
    return {"kd_e": kd, "kd_e_error": 0.01, "n_generated": 1000, "recall": RECALL, "recall_real": 0.6}


def row(space, method, sampler, steps):
    slow = {"pixel": 3.0, "latent": 1.0}[space]
    about = {"space": space, "method": method, "sampler": sampler, "steps": steps, "seconds_picture": slow * steps}
    return about | {"quality": quality(KD[method, steps])}


def training(course="better"):
    points = [{"intervals": n, "quality": quality(0.5), "loss": 1 / n, "grad_norm": 2.0} for n in (8, 64)]
    about = {"images": 1000, "epochs": 0.02, "training_flops": 10**12, "seconds": 60.0, "points": points}
    return about | {"course": course}


SHARES = {"network": 1.0, "decoder": 3.0, "decoder_share": 0.75}
TEACHERS = {
    space: {
        "weights": f"denoiser-cifar10-32-{space}-reference",
        "shape": [c, side, side],
        "network": {"in_channels": c},
    }
    for space, c, side in (("pixel", 3, 32), ("latent", 4, 8))
}
ROWS = [f"{s}, {n}" for s in one_step.SPACES for n in ("the teacher, ddim, 1 steps", "the teacher, ddim, 50 steps")]
ROWS += [f"{space}, distilled, 1 steps" for space in one_step.SPACES]
RECORD = {
    "name": "made-up",
    "results": {
        "stage": "made-up",
        "data": {"size": 32},
        "teachers": TEACHERS,
        "rows": [
            row(space, method, sampler, steps)
            for space in one_step.SPACES
            for method, sampler in one_step.WAYS
            for (of, steps) in KD
            if of == method
        ],
        "trainings": {f"{space}, {way}": training() for space in one_step.SPACES for way in ("distilled",)},
        "one_step": {s: {n: SHARES for n in ("flops", "seconds", "seconds_alone")} for s in one_step.SPACES},
        "rows_of_the_picture": ROWS,
    },
}


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A house with the sheet of the record above."""
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    sheet = torch.zeros(8 * len(ROWS), 3, 32, 32, dtype=torch.uint8)
    plotting.save_png(place_of("picture", RECORD["name"]), plotting.grid_image(sheet, 8, scale=2))


def test_each_way_has_its_row_and_each_number_of_steps_its_column():
    head, body = one_step.by_steps(RECORD)
    assert head == ["KD-E after steps", "1", "4", "50"] and len(body) == 8
    assert body[2] == ["pixel, distilled", "0.300 ±\u00a00.010", "0.200 ±\u00a00.010", "–"]
    _, trained = one_step.trainings(RECORD)
    assert trained[0][:2] == ["pixel, distilled", "1,000"] and trained[0][5] == "0.12 → 0.016"
    _, shares = one_step.one_step(RECORD)
    assert len(shares) == 6 and shares[0][-1] == "75%"


def test_figures_are_drawn():
    for draw in (one_step.steps_figure, one_step.levels_figure, one_step.front):
        assert isinstance(draw(RECORD), Figure)
    front = one_step.front(RECORD).axes[0]
    assert {text.get_text() for text in front.texts} >= {"1", "4", "50"}


def test_pictures_are_those_of_one_space(stored):
    for draw in (one_step.before_and_after, lambda record: one_step.sheet(record, "pixel")):
        assert isinstance(draw(RECORD), Figure)
    assert list(one_step._shown(RECORD, "latent")) == ["DDIM, 1 step", "DDIM, 50 steps", "distilled, 1 step"]


def test_sentences_follow_the_numbers():
    assert "78% of the way" in one_step.in_a_minute(RECORD)  # (1 - 0.3) / (1 - 0.1)
    said = one_step.who_is_ahead(RECORD)
    assert "is better at 1 and 4 steps" in said and "worse at 1 step, not told apart at 4 steps" in said
    seen = one_step.what_is_seen(RECORD, "latent")
    assert "3.0 times as far" in seen and "4 steps improve on its one" in seen
    assert "after 0.02 epochs" in seen
    with rules_under(epochs=0.01):
        assert "epochs" not in one_step.what_is_seen(RECORD, "latent")
    assert "all of it is in latents" in one_step.on_the_front(RECORD)  # as they were timed in drawing


def test_a_course_is_told_from_its_points_and_a_divergence_as_it_was_recorded():
    points = [
        {"intervals": n, "quality": quality(kd), "loss": 1.0, "grad_norm": 1.0} for n, kd in ((8, 0.3), (16, 0.5))
    ]
    courses = {
        "better": "better than the teacher in one step; with 16 intervals worse",
        "diverged at 64": "diverged at 64",
    }
    for recorded, said in courses.items():
        about = training(recorded) | {"points": points}
        record = RECORD | {"results": RECORD["results"] | {"trainings": {"latent, distilled": about}}}
        assert one_step.trainings(record)[1][0][-1].startswith(said)


def test_it_is_said_where_pupils_cover_almost_nothing(monkeypatch):
    said = one_step.who_is_ahead(RECORD) + one_step.in_a_minute(RECORD)
    assert "prove little" not in said and "though it covers" not in said
    rows = [
        r | {"quality": r["quality"] | ({} if r["method"] == "teacher" else {"recall": 0.02})}
        for r in RECORD["results"]["rows"]
    ]
    record = RECORD | {"results": RECORD["results"] | {"rows": rows}}
    assert one_step.who_is_ahead(record).count("so distances between them prove little.") == 2
    assert (
        "though it covers 2.0% of real pictures (recall), and the 50 steps 30.0%, where other real"
        in one_step.in_a_minute(record)
    )


def test_times_are_those_of_measured_calls(monkeypatch):
    rows = {(row["space"], row["steps"]): row for row in RECORD["results"]["rows"]}
    (pixel,), latent = (one_step.calls(RECORD, rows[space, 1]) for space in one_step.SPACES)
    network, decoder = latent
    assert (network.side, decoder.kind, decoder.side) == (8, "decoder", 32)
    monkeypatch.setattr(one_step, "measured", lambda: ({pixel: 3.0, network: 1.0, decoder: 3.0}, ["its record"]))
    front = one_step.on_the_front(RECORD)
    assert "it takes both spaces" in front and "5 points, 3 of them consistency models'" in front  # two tie, twice
    assert "begins with pixel, distilled, 1 step (3 s," in front and "50 steps (53 s, KD-E 0.10)" in front
    record, used = one_step.timed(RECORD)
    latent = [row for row in record["results"]["rows"] if row["space"] == "latent"]
    assert {row["seconds_picture"] for row in latent} == {4, 7, 53}  # a second for each step, and three to decode
    assert used == ["its record"]
    monkeypatch.setattr(one_step, "measured", lambda: ({network: 1.0}, []))
    assert one_step.timed(RECORD)[0] == RECORD


def test_what_diverged_is_said_to_have():
    rows = [r for r in RECORD["results"]["rows"] if r["method"] != "distilled"]
    record = RECORD | {"results": RECORD["results"] | {"rows": rows}}
    assert "diverged" in one_step.in_a_minute(record)
    assert one_step.who_is_ahead(record).count("diverged") == 2
    assert "diverged" in one_step.what_is_seen(record, "pixel")
