"""Chapter 9's tables, figures, films and sentences of clips, from a record made up here."""

import copy
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ldm_course.files import place_of
from ldm_course.lab import moving
from ldm_course.measure.coherence import Mean
from ldm_course.page import films


def mean(value, error=0.01):
    return {"mean": value, "error": error, "n": 100}


def quality(kd, recall=0.3):
    return {"kd_e": kd, "kd_e_error": 0.01, "n_generated": 1000, "recall": recall, "recall_real": 0.6}


def row(method, size, kept, step=0.03, kd=0.1, **about):
    of = {
        "kept": mean(kept),
        "step": mean(step),
        "bend": mean(step),
        "off_path": mean(None, None),
        "flicker": mean(2.0),
    }
    return {
        "method": method,
        "size": size,
        **about,
        "coherence": of,
        "quality": {"frames": quality(kd), "changes": quality(2 * kd)},
    }


def trained(method, size, kept, copied=0.5, cost=1e9, **about):
    seen = {"space": "latent", "network": "clips", "parameters": 10**6, "images": 1000, "epochs": 20.0}
    spent = {"training_flops": 1e12, "clip_flops": cost, "copied": {"share": copied, "error": 0.02, "n": 100}}
    return row(method, size, kept, **(seen | spent | about))


RECORD = {
    "name": "made-up",
    "results": {
        "data": {"frames": 2},
        "rows_of_the_film": [moving.REAL, moving.ALIGNED],
        "rows": [
            row(moving.REAL, 64, 0.9),
            row(moving.MIXED, 64, 0.01),
            row(moving.ALONE, 64, 0.1),
            row(moving.STILL, 64, 1.0, step=0.0),
            trained(moving.VIDEO, 64, 0.6),
            trained(moving.ALIGNED, 64, 0.8, copied=0.9, step=0.06),
            trained("pixel video", 32, 0.5, cost=4e9, space="pixel", kd=0.3),
            trained("latent video", 32, 0.5, kd=0.2),
            trained("latent video of as many FLOPs", 32, 0.5, kd=0.3),
        ],
    },
}


def test_tables_say_what_there_is():
    head, body = moving.coherence_table(RECORD)
    assert len(head) == len(body[0]) == 8 and [line[0] for line in body][:2] == [moving.REAL, moving.MIXED]
    assert body[0][1] == "90.0 ± 1.0" and body[0][-1] == "–" and body[4][-1] == "50% ± 2%"
    assert len(moving.coherence_table(RECORD, 32)[1]) == 3
    _, spent = moving.costs(RECORD)
    assert spent[0][0] == f"{moving.VIDEO}, 64" and len(spent) == 5
    nothing = Mean.of([])
    _, live = moving.measured({"real": dict.fromkeys(moving.NAMES, Mean(0.5, 0.1, 9)) | {"bend": nothing}})
    assert live == [["real", "50.0 ± 10.0", "50.0 ± 10.0", "–", "50.0 ± 10.0", "0.5 ± 0.1"]]


def test_the_figure_has_a_panel_for_each_sign():
    figure = moving.signs_figure(RECORD)
    assert isinstance(figure, Figure) and len(figure.axes) == 4


def changed(method, **measures):
    """The record with other means of coherence, or other KD-Es, of one method."""
    record = copy.deepcopy(RECORD)
    (one,) = (r for r in record["results"]["rows"] if r["method"] == method)
    for name, value in measures.items():
        if name in one["coherence"]:
            one["coherence"][name]["mean"] = value
        else:
            one["quality"][name] = quality(value)
    return record


def test_sentences_follow_the_numbers():
    assert f"10% are found again in the next one when frames are drawn alone (*{moving.ALONE}*)" in moving.in_a_minute(
        RECORD
    )
    wrong = moving.what_is_wrong(RECORD)
    assert f"in *{moving.MIXED}* 1%" in wrong and "90% of the things are kept, and the ground" in wrong
    assert f"More things are kept by *{moving.ALIGNED}*" in wrong and "bend 2.0 times as much" in wrong
    space = moving.which_space(RECORD)
    assert "after equally many training frames, better frames and better changes" in space
    assert "after equally many training FLOPs, frames not told apart from pixels'" in space
    assert "costs 4.0 times fewer" in space
    worse = moving.which_space(changed("latent video", changes=0.9))
    assert (
        "after equally many training frames, better frames and worse changes" in worse and "prove little" not in worse
    )
    rows = [
        row | {"quality": dict.fromkeys(("frames", "changes"), quality(0.3, 0.02))} for row in RECORD["results"]["rows"]
    ]
    assert "distances prove little" in moving.which_space(RECORD | {"results": RECORD["results"] | {"rows": rows}})


def test_things_are_said_to_move_only_where_most_are_kept():
    most = moving.in_a_minute(changed(moving.VIDEO, kept=0.6, step=0.12))
    assert "things move 4.0 times as far a frame as in real clips" in most and "detections" not in most
    few = moving.in_a_minute(changed(moving.VIDEO, kept=0.2, step=0.12))
    assert "detections matched from frame to frame lie 4.0 times as far apart" in few
    assert "not how far they move" in few and "things move" not in few


def test_frames_are_judged_by_their_own_distance():
    def line(record, name):
        return next(x for x in moving.what_is_wrong(record).split("\n\n") if x.startswith(f"*{name}*"))

    for name in (moving.ALONE, moving.VIDEO, moving.ALIGNED):
        assert "frames are not resolvably worse than real ones, decoded" in line(RECORD, name)
        far = line(changed(name, frames=1.3), name)
        assert "frames are worse than real ones, decoded (KD-E 1.30 against 0.10)" in far


def test_copies_are_seen_or_not_with_how_surely():
    wrong = moving.what_is_wrong(RECORD)
    assert "no copying could be seen (50% ± 2% nearer to a training clip)" in wrong
    assert "some are copies (90% ± 2% nearer to a training clip)" in wrong


def test_what_is_not_on_the_film_is_named():
    lines = moving.what_is_wrong(RECORD).split("\n\n")
    absent = [line.split("*")[1] for line in lines if "(not on the film)" in line]
    assert absent == [moving.ALONE, moving.STILL, moving.VIDEO]


def test_where_nothing_can_be_followed_it_is_said():
    none = {name: mean(None, None) for name in moving.NAMES} | {"kept": mean(0.0), "flicker": mean(70.0)}
    rows = [r | {"coherence": none} if r["method"] == moving.VIDEO else r for r in RECORD["results"]["rows"]]
    record = RECORD | {"results": RECORD["results"] | {"rows": rows}}
    assert "no things to follow" in moving.in_a_minute(record)
    assert moving.what_is_wrong(record).count("no thing can be followed") == 1
    assert isinstance(moving.signs_figure(record), Figure)


def test_a_film_has_a_row_for_each_method_and_a_frame_for_each_frame():
    clips = torch.zeros(3, 2, 3, 8, 8, dtype=torch.uint8)
    shown = moving.frames(clips, clips)
    assert shown.shape == (2, 2 * 8 + 2, 3 * 8 + 2 * 2, 3) and shown[:, 8:10].min() == 255
    assert 'data-frames="2"' in moving.film(shown, "squares", "Squares.").data


def test_of_the_stored_film_some_clips_are_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    assert moving.stored_film(RECORD, "squares", "Squares.") is None
    chance = np.random.default_rng(0)
    clips = torch.from_numpy(chance.integers(0, 256, (6, 2, 3, 64, 64), dtype=np.uint8))
    path = place_of("film", RECORD["name"])
    path.parent.mkdir()
    path.write_bytes(films.sheet(moving.frames(clips, clips)))
    shape = re.compile(r"aspect-ratio:(\d+)/(\d+)")
    some = moving.stored_film(RECORD, "squares", "Squares.")
    assert f"From the top: {moving.REAL}; {moving.ALIGNED}. Squares." in some.data
    assert shape.search(some.data).groups() == (str(4 * 64 + 3 * 2), str(2 * 64 + 2))
    whole = moving.stored_film(RECORD, "squares", "Squares.", most=1000)  # for which it is too much
    assert shape.search(whole.data).groups() == (str(6 * 64 + 5 * 2), str(2 * 64 + 2))


def test_no_row_is_missing_from_the_record_unseen():
    with pytest.raises(KeyError):
        moving.which_space({"results": {"rows": []}})
