"""Records: what is written is what is read, with its provenance, and never with this machine's folders."""

import json
import math
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path

import numpy
import pytest
import torch

from ldm_course import files
from ldm_course.files import home, written_whole
from ldm_course.lab import records
from ldm_course.lab.records import (
    by_kind,
    data_note,
    figure,
    if_recorded,
    list_records,
    load_record,
    longest,
    make_record,
    named_stamps,
    on_one_kind,
    only,
    recorded,
    save_record,
    stamp,
    stamps,
    state,
    typed_command,
)
from ldm_course.page.numbers import duration


def a_record(name="pixel-32", kind="train", **changes):
    given = {"results": {"pixel": {"fd_e": 12.5}}, "command": "ldm-course train", "seconds": 245.2, "seed": 3}
    return make_record(name, kind, **(given | changes))


def test_what_is_saved_is_what_is_loaded(tmp_path):
    @dataclass(frozen=True)
    class Setting:
        widths: tuple = (32, 64)
        dtype: torch.dtype = torch.float16

    results = {
        "loss": [torch.tensor(0.25), numpy.float32(0.5), 1],
        "table": torch.arange(4).reshape(2, 2),
        "kept": True,
        "diverged": float("nan"),
    }
    record = a_record(results=results, config=Setting(), data_source="scenes, seed 0")
    path = save_record(record, tmp_path / "new")
    assert path == tmp_path / "new" / "pixel-32.json"
    back = load_record("pixel-32", tmp_path / "new")
    assert back == record
    assert back["results"] == {
        "loss": [0.25, 0.5, 1],
        "table": [[0, 1], [2, 3]],
        "kept": True,
        "diverged": None,
    }
    assert back["config"] == {"widths": [32, 64], "dtype": "torch.float16"}
    assert back["seed"] == 3 and back["seconds"] == 245.2 and back["schema"] == records.SCHEMA
    assert [p.name for p in path.parent.iterdir()] == ["pixel-32.json"], "nothing temporary is left"
    assert json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON")) == record


def test_provenance_names_date_code_machine_and_versions():
    record = a_record()
    age = datetime.now(UTC) - datetime.fromisoformat(record["date"])
    assert timedelta(seconds=-2) < age < timedelta(minutes=1)
    assert record["versions"]["torch"] == torch.__version__ and record["versions"]["ldm_course"]
    assert record["machine"]["threads"] == torch.get_num_threads() and record["machine"]["cpu"]
    assert record["commit"] == "unknown" or len(record["commit"]) == 40
    assert a_record(device="cpu")["machine"]["gpu"] is None
    assert a_record(packages=("no-such-package",))["versions"]["no-such-package"] is None


def test_the_code_may_be_that_of_the_runs_start():
    began = {"commit": "1" * 40, "dirty": True}
    assert {k: a_record(code=began)[k] for k in began} == began


def test_a_foreign_repository_lends_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "checkout", lambda: tmp_path)
    assert records.code_state() == {"commit": "unknown", "dirty": None}
    monkeypatch.setattr(records, "checkout", lambda: None)
    assert records.code_state() == {"commit": "unknown", "dirty": None}


def test_no_folder_or_user_name_gets_into_a_record(tmp_path):
    home_of_bob = "/home/bob/secret place/cats.npz"
    record = a_record(
        command=["/home/bob/.venv/bin/ldm-course", "train", "--data", home_of_bob, "--out=/mnt/bob/runs"],
        data_source="pictures of ~bob/pictures/cats, 20 images/s",
        config={
            "data": Path("/home/bob/cats.npz"),
            "note": "from /home/bob/cats/a.png to C:\\Users\\bob\\b.png",
        },
        results={"where": ["/home/bob/x/grid.png", "https://example.org/a/b"]},
    )
    text = json.dumps(record)
    assert "bob" not in text and "/home" not in text and str(Path.home()) not in text
    assert record["command"] == "ldm-course train --data cats.npz --out=runs"
    assert record["data_source"] == "pictures of cats, 20 images/s"
    assert record["config"] == {"data": "cats.npz", "note": "from a.png to b.png"}
    assert record["results"]["where"] == ["grid.png", "https://example.org/a/b"]


@pytest.mark.parametrize(
    ("given", "typed"),
    [
        ("python /a/b/benchmarks/speed.py --quick", "python benchmarks/speed.py --quick"),
        (["/a/b/benchmarks/speed.py", "--quick"], "python benchmarks/speed.py --quick"),
        (["/a/ldm_course/cli.py", "cost", "--size", "32"], "ldm-course cost --size 32"),
        ([r"C:\a\ldm_course\cli.py", "cost"], "ldm-course cost"),
        ([".venv/bin/ldm-course", "cost"], "ldm-course cost"),
        ("ldm-course data --data ../../bob/cats/", "ldm-course data --data cats"),
        (["ldm-course", "sample", "--label", "red car"], "ldm-course sample --label 'red car'"),
        ([], ""),
    ],
)
def test_a_command_is_stored_as_one_types_it(given, typed):
    assert typed_command(given) == typed


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "A", "a--b", "-a", "x.json", "a" * 101, None])
def test_a_name_that_could_be_another_file_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="is no file name"):
        a_record(name=name)
    with pytest.raises(ValueError, match="is no file name"):
        save_record({"name": name}, tmp_path)
    with pytest.raises(ValueError, match="is no file name"):
        load_record(name, tmp_path)


def test_what_json_cannot_hold_is_named():
    with pytest.raises(ValueError, match=r"record\.results\.a\.1 is a set"):
        a_record(results={"a": [1, {2}]})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"schema": 1, "na', "cannot be read"),
        ("", "cannot be read"),
        ("[1, 2]", "expected an object"),
        ('{"results": {}}', "schema is missing"),
        ('{"schema": 1, "name": "x", "kind": "train"}', "date is missing"),
        ('{"schema": 999}', r"schema=999; expected 1 or less.* newer than this package, update"),
        ("[" * 100_000, "recursion limit"),
    ],
)
def test_a_broken_file_gives_one_clear_line(text, says, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        load_record("x", tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        load_record("x", tmp_path)


def test_missing_and_renamed_records(tmp_path):
    save_record(a_record("b-run", kind="speed"), tmp_path)
    path = save_record(a_record("a-run"), tmp_path)
    (tmp_path / "notes.txt").write_text("not a record")
    assert list_records(folder=tmp_path) == ["a-run", "b-run"]
    assert list_records("speed", tmp_path) == ["b-run"]
    assert list_records(folder=tmp_path / "nowhere") == []
    with pytest.raises(ValueError, match="no record 'c-run'; the records here are: a-run, b-run"):
        load_record("c-run", tmp_path)
    path.rename(tmp_path / "c-run.json")
    with pytest.raises(ValueError, match="holds a record named 'a-run'"):
        load_record("c-run", tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match=r"record 'pipe' cannot be read .* is no file, but a folder or a pipe"):
        load_record("pipe", tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_figure_is_read_by_its_place():
    record = a_record(results={"pixel": {"fd_e": 12.5, "losses": [3.0, 2.0]}, "bad": float("inf")})
    assert figure(record, "results.pixel.fd_e") == 12.5
    assert figure(record, "results.pixel.losses[last]") == 2.0
    assert figure(record, "seed") == 3
    with pytest.raises(ValueError, match=r"no results\.pixel\.fid; results\.pixel has: fd_e, losses"):
        figure(record, "results.pixel.fid")
    for wrong in (".1", "[1]", "[fd_e=3]"):
        with pytest.raises(ValueError, match=r"results\.pixel\.losses has: 2 entries; take one by \[name=value\], or"):
            figure(record, f"results.pixel.losses{wrong}")
    with pytest.raises(ValueError, match=r"results\.pixel\.fd_e has: only 12\.5"):
        figure(record, "results.pixel.fd_e.x")
    with pytest.raises(ValueError, match=r"no value at results\.bad; the run gave no finite number"):
        figure(record, "results.bad")


ROWS = [
    {"method": "ddpm", "steps": 5, "std": 0.2, "fd_e": 1.0},
    {"method": "ddim", "steps": 50, "std": 0.0, "fd_e": 2.0, "points": [{"n": 1}, {"n": 2}]},
    {"method": "ddim", "steps": 5, "std": 0.0, "fd_e": 3.0},
]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_row_is_found_by_what_it_holds_wherever_it_stands(order):
    record = a_record(results={"rows": [ROWS[i] for i in order], "none": []})
    assert figure(record, "results.rows[method=ddim,steps=50].fd_e") == 2.0
    assert figure(record, "results.rows[steps=5.0,method=ddim].fd_e") == 3.0  # the number, and not its digits
    assert figure(record, "results.rows[std=0.2].method") == "ddpm"  # a dot in brackets parts nothing
    assert figure(record, "results.rows[steps=50].points[last].n") == 2
    assert figure(record, "results.rows[last].fd_e") == ROWS[order[-1]]["fd_e"]
    assert only(record["results"]["rows"], method="ddim", steps=5)["fd_e"] == 3.0


def test_none_or_several_rows_are_refused_in_a_line_that_says_what_there_is():
    record = a_record(results={"rows": ROWS, "none": []})
    for where, says in {
        "rows[method=ddim,steps=51].fd_e": "results.rows has: no row with method=ddim, steps=51, "
        "but method=ddpm, ddim; steps=5, 50",
        "rows[method=ddim].fd_e": "results.rows has: 2 rows with method=ddim; they differ in steps, fd_e, points",
        "rows[sampler=ddim].fd_e": "no row with sampler=ddim",
        "rows.fd_e": "results.rows has: 3 entries; take one by [name=value], or [last]",
        "rows[method=ddim,steps=50].points[n=3]": "results.rows[method=ddim,steps=50].points has: no row with n=3, "
        "but n=1, 2",
        "none[last]": "results.none has: 0 entries",
        "rows[method=ddim,steps=50].kd_e": "results.rows[method=ddim,steps=50] has: method, steps, std, fd_e, points",
    }.items():
        with pytest.raises(ValueError, match=re.escape(says)) as error:
            figure(record, f"results.{where}")
        assert "\n" not in str(error.value)


def test_the_stamp_says_when_where_how_long_and_from_which_code():
    record = a_record() | {
        "date": "2025-03-01T22:10:00+00:00",
        "commit": "1a2b3c4" + "0" * 33,
        "dirty": False,
    }
    record["machine"] = {"cpu": "A CPU", "threads": 2, "gpu": None}
    assert stamp(record) == "recorded on 2025-03-01, on A CPU (2 threads), in 4 min 05 s, from commit 1a2b3c4"
    record["machine"]["threads"] = 1
    assert "on A CPU (1 thread), in" in stamp(record)
    record["machine"]["gpu"] = "Tesla T4"
    assert "on Tesla T4, in" in stamp(record)
    assert stamp(record | {"dirty": True}).endswith("from commit 1a2b3c4 with changes")
    assert stamp(record | {"commit": "unknown", "dirty": None}).endswith(
        f"from version {record['versions']['ldm_course']}"
    )


def test_what_must_be_known_of_the_data_is_said():
    record = a_record() | {"data_source": "CIFAR-10 (Krizhevsky, 2009)"}
    copy = record | {"data_source": "CIFAR-10, JPEG quality-75 mirror"}
    assert data_note() == data_note(record) == data_note(record | {"data_source": None}) == ""
    assert data_note(record, copy).startswith("CIFAR-10, JPEG quality-75 mirror: ") and "C4.1" in data_note(copy)
    assert stamp(copy) == stamp(record) + ", on a JPEG copy of CIFAR-10"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.042, "0.042 s"),
        (12.34, "12.3 s"),
        (59.97, "1 min 00 s"),
        (245.2, "4 min 05 s"),
        (3599.9, "1 h 00 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_durations_round_and_carry(seconds, words):
    assert duration(seconds) == words


def test_home_is_the_checkout_unless_told(tmp_path, monkeypatch):
    monkeypatch.delenv("LDM_HOME", raising=False)
    package = Path(files.__file__).resolve().parent
    assert home() in (package.parent, package / "_stored")
    monkeypatch.setattr(files, "checkout", lambda: None)
    assert home() == package / "_stored"
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    save_record(a_record(), tmp_path / "records")
    assert home() == tmp_path and list_records() == ["pixel-32"]
    assert figure(load_record("pixel-32"), "results.pixel.fd_e") == 12.5
    monkeypatch.setenv("LDM_HOME", str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"LDM_HOME=.*is not a folder"):
        home()


def test_every_stored_record_can_be_read():
    for name in list_records():
        record = load_record(name)
        assert stamp(record)
        text = json.dumps(record)
        assert "/home/" not in text and "/Users/" not in text


def test_what_was_recorded_on_a_large_gpu_goes_before_the_rest(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    with pytest.raises(ValueError, match="cost has not been recorded yet; run: ldm-course reference --stage cost"):
        recorded("cost")
    for profile in ("cpu", "reference", "smoke"):
        save_record(make_record(f"cost-{profile}", "reference", {}, command="x", seconds=1), tmp_path / "records")
        assert recorded("cost")["name"] == ("cost-cpu" if profile == "cpu" else "cost-reference")


def test_records_that_stand_side_by_side_are_of_one_kind(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    assert on_one_kind("a", "b") == by_kind("a") == {}
    for name in ("a-cpu", "b-cpu", "b-hours", "c-reference"):
        finished = {"finished": name != "b-hours"} if name != "a-cpu" else {}
        save_record(make_record(name, "reference", finished, command="x", seconds=1), tmp_path / "records")
    assert list(by_kind("b")) == ["hours", "cpu"] and by_kind("b")["hours"]["name"] == "b-hours"
    shown = {stages: {k: r["name"] for k, r in on_one_kind(*stages).items()} for stages in (("a", "b"), ("a",))}
    assert shown == {("a", "b"): {"b": "b-hours"}, ("a",): {"a": "a-cpu"}}  # no hours beside minutes
    today = datetime.now(UTC).date().isoformat()
    assert [state(load_record(n)) for n in ("a-cpu", "b-hours")] == [f"done {today}", f"so far {today}"]


def test_the_longest_run_of_each_stage_is_of_the_largest_machine_that_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    for name in ("a-cpu", "b-cpu", "b-hours", "c-smoke"):
        save_record(make_record(name, "reference", {}, command="x", seconds=1), tmp_path / "records")
    found = longest("b", "c", "a", "d")
    assert {stage: record["name"] for stage, record in found.items()} == {"b": "b-hours", "a": "a-cpu"}
    assert list(found) == ["b", "a"]  # in the order asked for


def test_a_record_is_stamped_by_the_name_that_a_page_gives_it():
    one, two = a_record("a"), a_record("b", seconds=60.0)
    assert named_stamps({"f = 2": one, "f = 4": None, "f = 8": two}) == f"f = 2: {stamp(one)}; f = 8: {stamp(two)}"
    assert named_stamps({"f = 4": None}) == ""


def test_records_of_one_origin_are_stamped_once():
    one, two, other = a_record("a"), a_record("b", command="y"), a_record("c", data_source="a JPEG copy")
    took = f", in {duration(one['seconds'])}"
    assert stamps([one, two, one]) == f"a, b: {stamp(one).replace(took, '')}"
    assert stamps([one, other]) == f"{stamps([one])}; c: {stamp(other).replace(took, '')}" and stamps([]) == ""


def test_a_page_goes_on_without_what_no_kind_of_machine_has_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    for name in ("pixel-cpu", "latent-cpu", "pixel-reference"):
        save_record(make_record(name, "reference", {}, command="x", seconds=1), tmp_path / "records")
    assert [record["name"] for record in if_recorded("pixel", "latent")] == ["pixel-cpu", "latent-cpu"]
    assert capsys.readouterr().out == ""
    assert if_recorded("pixel", "cost") == [None, None]
    assert capsys.readouterr().out.startswith("cost has not been recorded yet")


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("schema", -1, r"schema=-1; expected 1 or more"),
        ("schema", "1", r"schema='1'; expected a valid integer"),
        ("seconds", math.nan, r"seconds=nan; expected a finite number"),
        ("seconds", -2, r"seconds=-2; expected 0 or more"),
        ("results", [], r"results=\[\]; expected an object"),
        ("results", {"a": [1, {"b": math.nan}]}, r"a number in it is NaN or infinite"),
        ("machine", "a large one", r"machine='a large one'; expected an object"),
        ("machine", {"cpu": "x", "threads": 0}, r"machine\.threads=0; expected more than 0"),
        ("date", "yesterday", r"date='yesterday'"),
        ("versions", {"torch": 2}, r"versions\.torch=2; expected a valid string"),
        ("command", None, r"command=None; expected a valid string"),
    ],
)
def test_a_record_whose_fields_are_of_another_kind_is_one_line(where, value, says, tmp_path):
    path = save_record(a_record("x"), tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {where: value}))
    with pytest.raises(ValueError, match=rf"record 'x' cannot be read from x\.json \({says}") as caught:
        load_record("x", tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
