"""What is written: whole or not at all, together or not at all, the same bytes for the same content, in folders that
were tried before."""

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm_course import files
from ldm_course.files import (
    Unwritten,
    at_work_in,
    cached_tensors,
    load_tensors,
    readable,
    save_tensors,
    settled,
    shown,
    swept,
    writable_folder,
    writable_picture,
    written_together,
    written_whole,
)

NOBODY = 4194305  # above the largest number that a process can have
OURS, OTHERS = files._MACHINE, "abcdef"


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*"))


# ---------------------------------------------------------------------------------------- whole files


def test_a_file_can_be_read_by_others_whatever_wrote_it(tmp_path):
    before = os.umask(0o022)
    try:
        save_tensors(tmp_path / "t.safetensors", {"x": torch.zeros(3)})
        with written_whole(tmp_path / "private.txt") as path:
            path.touch(0o600)
        with written_together(tmp_path) as new:
            (new / "set.txt").touch(0o600)
    finally:
        os.umask(before)
    for name in ("t.safetensors", "private.txt", "set.txt"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_leaves_the_old_file_and_is_told_with_the_name(number, tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(Unwritten) as told, written_whole(tmp_path / "a.txt") as path:
        path.write_text("half")
        raise OSError(number, "whatever")
    assert str(told.value) == f"{tmp_path / 'a.txt'} cannot be written: {os.strerror(number)}"
    assert told.value.errno == number and names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_real_limit_on_the_size_of_files_is_told_in_one_line(tmp_path):
    """The writer of safetensors reports it in a class of its own."""
    code = f"""if True:
        import resource, signal, torch
        from ldm_course.files import save_tensors
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            save_tensors({str(tmp_path / "t.safetensors")!r}, {{"x": torch.zeros(10000)}})
        except OSError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 't.safetensors'} cannot be written: {os.strerror(errno.EFBIG)}\n"
    assert names(tmp_path) == []


def test_what_dead_writers_left_goes_and_what_living_ones_have_stays(tmp_path):
    for machine, process in ((OURS, NOBODY), (OURS, os.getppid()), (OTHERS, 1), (OTHERS, NOBODY), (OURS, "x")):
        (tmp_path / f".new-{machine}-{process}-a").mkdir()
    (tmp_path / f".new-{OURS}-{NOBODY}-a" / "half").write_text("half")
    old = tmp_path / f".new-{OTHERS}-{NOBODY}-a"
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    swept(tmp_path)
    left = {f".new-{OURS}-{os.getppid()}-a", f".new-{OTHERS}-1-a", f".new-{OURS}-x-a"}
    assert set(names(tmp_path)) == left
    with written_whole(tmp_path / "new.txt") as path:
        path.write_text("new")
    assert set(names(tmp_path)) == left | {"new.txt"}


# --------------------------------------------------------------------------------------- sets of files


def fill(new, word):
    for name in ("a.txt", "below/b.txt", "c.txt"):
        (new / name).parent.mkdir(exist_ok=True)
        (new / name).write_text(word)


def words(folder):
    return {(folder / name).read_text() for name in ("a.txt", "below/b.txt", "c.txt") if (folder / name).exists()}


def test_a_set_that_fails_changes_nothing(tmp_path):
    with written_together(tmp_path / "out") as new:
        fill(new, "old")
    with pytest.raises(RuntimeError), written_together(tmp_path / "out") as new:
        fill(new, "new")
        raise RuntimeError
    assert words(tmp_path / "out") == {"old"}
    assert names(tmp_path / "out") == ["a.txt", "below", "below/b.txt", "c.txt"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_set_whose_move_was_cut_off_is_completed_by_the_next_who_opens_the_folder(after, tmp_path, monkeypatch):
    with written_together(tmp_path) as new:
        fill(new, "old")
    moved, real = [], files._moved

    class Killed(BaseException):
        pass

    def killed(file, to):
        if len(moved) == after:
            raise Killed
        moved.append(to)
        real(file, to)

    monkeypatch.setattr(files, "_moved", killed)
    with pytest.raises(Killed), written_together(tmp_path) as new:
        fill(new, "new")
    assert ".arriving" in names(tmp_path)
    monkeypatch.setattr(files, "_moved", real)
    settled(tmp_path / "below" if after else tmp_path)  # also for a folder below it
    assert words(tmp_path) == {"new"} and names(tmp_path) == ["a.txt", "below", "below/b.txt", "c.txt"]


@pytest.mark.parametrize("named, lies", [("c.txt/x", "c.txt"), ("below", "below"), ("a.txt/x", "a.txt")])
def test_a_set_with_something_in_the_way_of_one_file_moves_none(named, lies, tmp_path):
    (tmp_path / named).parent.mkdir(exist_ok=True)
    (tmp_path / named).write_text("mine")
    before = names(tmp_path)
    with pytest.raises(Unwritten, match=f"{lies} cannot be written: something else is there; move it away"):
        with written_together(tmp_path) as new:
            fill(new, "new")
    assert names(tmp_path) == before and (tmp_path / named).read_text() == "mine"
    (tmp_path / ".arriving").mkdir()  # a set that was completed before something came in its way
    fill(tmp_path / ".arriving", "new")
    arrived = names(tmp_path)
    with pytest.raises(Unwritten, match=lies):
        settled(tmp_path)
    assert names(tmp_path) == arrived


def test_two_sets_for_one_folder_follow_each_other(tmp_path):
    with written_together(tmp_path) as first:
        fill(first, "first")
        with written_together(tmp_path) as second:
            fill(second, "second")
    assert words(tmp_path) == {"first"}


# -------------------------------------------------------------------------------------------- tensors


def test_equal_content_is_equal_bytes_in_every_process(tmp_path):
    meta = {name: name * 3 for name in ("kind", "config", "meta", "é\x7f\x01", '"', "z")}
    code = f"""if True:
        import torch
        from ldm_course.files import save_tensors
        save_tensors({str(tmp_path)!r} + "/x", {{"b": torch.ones(2, 3), "a": torch.tensor(1.0)}}, {meta!r})
    """
    found = set()
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], check=True)
        found.add((tmp_path / "x").read_bytes())
    assert len(found) == 1
    tensors, read = load_tensors(tmp_path / "x")
    assert read == meta and torch.equal(tensors["b"], torch.ones(2, 3)) and tensors["a"].item() == 1
    assert load_file(tmp_path / "x").keys() == {"a", "b"}


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"w": torch.arange(6.0), "n": torch.tensor(3)}, {"kind": "unet"})
    good = path.read_bytes()
    harmless = range(name := good.index(b"checksum"), name + 8), range(good.index(b"}}") + 2, good.index(b"}}") + 10)
    for at in range(8, len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        if at in harmless[0] or (at in harmless[1] and good[at] == 32):
            continue  # the checksum's own name, and what a header is filled with
        with pytest.raises(ValueError, match=r"x\.safetensors: (broken or no|not what was written)") as error:
            load_tensors(path)
        assert "\n" not in str(error.value)


def test_files_of_the_first_edition_have_no_checksum_and_are_read(tmp_path):
    save_file({"w": torch.ones(3)}, tmp_path / "old.safetensors", metadata={"kind": "unet"})
    assert load_tensors(tmp_path / "old.safetensors")[1] == {"kind": "unet"}


@pytest.mark.parametrize(
    "there, says",
    [
        (lambda path: None, "there is no file"),
        (Path.mkdir, "is no file, but a folder or a pipe; move it away"),
        (os.mkfifo, "is no file, but a folder or a pipe; move it away"),
        (Path.touch, r"cannot be opened \(Permission denied\); change its permissions"),
    ],
)
def test_what_cannot_be_opened_is_not_called_broken_and_nobody_waits_at_a_pipe(there, says, tmp_path, monkeypatch):
    def locked(*given):
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "x.safetensors"
    there(path)
    monkeypatch.setattr(Path, "open", locked)  # the superuser, whom tests may run as, may open all files
    for read in (readable, load_tensors):
        with pytest.raises(ValueError, match=says):
            read(path)


WRONG = ("nothing", "text", "nan", "int", {"x": (3, 2)}, {"y": (2, 2)}, {"x": (2, 2), "y": (1,)})


@pytest.mark.parametrize("kept", WRONG)
def test_a_cache_of_the_right_name_and_the_wrong_content_is_made_again(kept, tmp_path):
    path = tmp_path / "cache.safetensors"
    if isinstance(kept, dict):
        save_tensors(path, {name: torch.zeros(shape) for name, shape in kept.items()})
    elif kept in ("nan", "int"):
        save_tensors(path, {"x": torch.full((2, 2), torch.nan) if kept == "nan" else torch.zeros(2, 2).int()})
    elif kept == "text":
        path.write_text("hello")
    made = []

    def make():
        made.append(1)
        return {"x": torch.ones(2, 2)}, {"seconds": "3"}

    for _ in range(2):
        tensors, about = cached_tensors(path, {"x": (2, 2)}, make)
        assert torch.equal(tensors["x"], torch.ones(2, 2)) and about == {"seconds": "3"}
    assert made == [1]


# -------------------------------------------------------------------------------------------- folders


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    writable_folder(tmp_path / "a" / "b")
    assert names(tmp_path) == []
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="file is no folder; name another folder"):
            writable_folder(place)
    for place in (Path("/proc/none/below"), tmp_path / ("x" * 300)):
        with pytest.raises(ValueError, match=r"takes no files .*; name another folder, or make room there"):
            writable_folder(place)
    with pytest.raises(ValueError, match=r"has [\d,]+ MiB left, and 1,048,576,000,000 MiB are needed"):
        writable_folder(tmp_path, room=10**6 * 2**40)
    (tmp_path / ".arriving").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"\.arriving is no folder; name another folder"):
        writable_folder(tmp_path)
    assert names(tmp_path) == [".arriving", "file"]


def test_a_folder_that_another_process_tries_too_is_made_again(tmp_path, monkeypatch):
    make, asked = files.tempfile.mkdtemp, []

    def removed(prefix, dir):
        asked.append(dir)
        if len(asked) == 1:
            dir.rmdir()
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr(files.tempfile, "mkdtemp", removed)
    writable_folder(tmp_path / "a")
    assert len(asked) == 2 and names(tmp_path) == []


def test_one_run_at_a_time_is_at_work_in_a_folder(tmp_path):
    ask = f"""if True:
        from ldm_course.files import at_work_in
        with at_work_in({str(tmp_path / "out")!r}):
            print("here")
    """
    with at_work_in(tmp_path / "out"), at_work_in(tmp_path / "out"):  # the same run may ask again
        told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
        assert told.returncode == 1 and f"another run is at work in {tmp_path / 'out'}; wait for it" in told.stderr
    assert names(tmp_path) == []
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True).stdout == "here\n"


@pytest.mark.parametrize(
    "name, says",
    [
        ("x.jpg", "pictures are written as PNG: expected a name such as x.png"),
        ("x", "expected a name such as x.png"),
        ("model.safetensors", "expected a name such as model.png"),
        ("folder", "is a folder; expected the name of a picture"),
        ("text.png", "is there and is no PNG"),
        ("mine.png", "is what the picture is made from"),
        ("file/x.png", "takes no files"),
    ],
)
def test_the_name_of_a_picture_is_checked_before_it_is_made(name, says, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "file").write_text("hello")
    (tmp_path / "mine.png").write_bytes(b"\x89PNG")
    before = names(tmp_path)
    with pytest.raises(ValueError, match=says):
        writable_picture(tmp_path / name, tmp_path / "mine.png", None)
    assert names(tmp_path) == before
    assert writable_picture(tmp_path / "mine.png") == tmp_path / "mine.png"


def test_any_name_can_be_shown():
    assert shown(os.fsdecode(b"caf\xe9\n.png")) == "caf\\xe9\\n.png" and shown("ünï ✨.png") == "ünï ✨.png"
