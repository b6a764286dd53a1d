"""What happens to files, folders, memory and texts: one line, exit status 2, and nothing is lost."""

import argparse
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import TINY, denoiser, place, refused  # noqa: F401

from ldm_course.checkpoints import load_denoiser
from ldm_course.cli import data as data_command
from ldm_course.cli import main, mishaps
from ldm_course.data.folders import LeftOut
from ldm_course.data.loaders import load_data
from ldm_course.denoiser import Denoiser
from ldm_course.files import load_tensors, save_tensors
from ldm_course.lab import compare as comparing
from ldm_course.lab.records import load_record
from ldm_course.page import plotting
from ldm_course.training.trainer import Trainer

ENV = os.environ | {"OMP_NUM_THREADS": "1", "LDM_PROFILE": "smoke"}


def pictures(folder, *names):
    for i, name in enumerate(names):
        path = os.path.join(os.fsencode(folder), name if isinstance(name, bytes) else name.encode())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            Image.fromarray(np.full((8, 8, 3), 9 * i, np.uint8)).save(file, "PNG")
    return Path(folder)


# ------------------------------------------------------------------------------------- before any work

BLOCKED = {
    "sample": ["sample", "--checkpoint", "m.safetensors"],
    "edit": ["edit", "--checkpoint", "m.safetensors", "--picture", "p.png", "--strength", 0.5],
    "data": ["data", "--data", "scenes"],
    "train": ["train", "pixel", *TINY, "--steps", 1],
    "compare": ["compare", "--data", "scenes"],
    "gallery": ["gallery"],
    "reference": ["reference", "--stage", "cost"],
}


@pytest.mark.parametrize("command", BLOCKED)
def test_where_nothing_can_be_written_is_found_out_before_any_work(command, capsys, monkeypatch):
    denoiser(Path("m.safetensors"))
    Image.new("RGB", (8, 8)).save("p.png")
    Path("file").write_text("")
    for work in ((Denoiser, "generate"), (Denoiser, "redraw"), (Trainer, "run"), (data_command, "load_data")):
        monkeypatch.setattr(*work, lambda *a, **k: pytest.fail("it began to work"))
    monkeypatch.setattr(comparing, "load_data", lambda *a, **k: pytest.fail("it read the data"))
    ends = "/x.png" if command in ("sample", "edit", "data") else ""
    for out in ("file", "/proc/none"):
        assert "takes no files" in refused(capsys, *BLOCKED[command], "--out", f"{out}{ends or '/below'}")


@pytest.mark.parametrize("name, says", [("x.jpg", "such as x.png"), ("m.safetensors", "such as m.png")])
def test_pictures_are_png(name, says, capsys):
    denoiser(Path("m.safetensors"))
    assert says in refused(capsys, "sample", "--checkpoint", "m.safetensors", "--out", name)


def test_an_empty_name_is_no_name(capsys):
    assert "--data is empty" in refused(capsys, "data", "--data", "")
    denoiser(Path("m.safetensors"), data="scenes")
    words = ["evaluate", "--checkpoint", "m.safetensors", "--steps", 1]
    assert "--data is empty" in refused(capsys, *words, "--data", "")
    assert "--name is empty" in refused(capsys, "train", "pixel", *TINY, "--steps", 1, "--name", "")
    assert "--out is empty" in refused(capsys, "data", "--out", "")
    with pytest.raises(ValueError, match="the name of the data is empty"):
        load_data("")  # which pathlib takes for the current folder


@pytest.mark.parametrize("in_the_way", [Path.mkdir, os.mkfifo, Path.touch])
def test_nobody_is_told_to_delete_a_state_that_cannot_be_opened(in_the_way, capsys, monkeypatch):
    state, opens = Path("runs/x/state.safetensors"), Path.open
    state.parent.mkdir(parents=True)
    in_the_way(state)

    def locked(path, *given, **options):
        if path == state:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opens(path, *given, **options)

    monkeypatch.setattr(Path, "open", locked)
    said = refused(capsys, "train", "pixel", *TINY, "--steps", 1, "--name", "x")
    assert "x/state.safetensors" in said and "delete" not in said and "broken" not in said


def test_what_a_command_writes_does_not_become_data_or_replace_its_source(capsys):
    folder = pictures("cats", "a.png", "b.png")
    for command in (["train", "pixel", "--steps", 1, "--size", 8], ["data"], ["compare"]):
        out = "cats/x.png" if command == ["data"] else "cats/out"
        assert "lies in the folder of the data" in refused(capsys, *command, "--data", folder, "--out", out)
    denoiser(Path("m.safetensors"))
    words = ["edit", "--checkpoint", "m.safetensors", "--picture", "cats/a.png", "--strength", 0.5]
    assert "is what the picture is made from" in refused(capsys, *words, "--out", "cats/a.png")


# ------------------------------------------------------------------------------ nothing else is written over


def test_no_training_writes_over_another(capsys):
    first = ["train", "autoencoder", *TINY, "--perceptual", "0", "--steps", "1"]
    assert main.main([*first, "--name", "x", "--out", "d"]) == 0
    latent = ["train", "latent", *TINY, "--steps", 1, "--autoencoder", "d/x.safetensors"]
    assert "--name x is that of the autoencoder's file" in refused(capsys, *latent, "--name", "x", "--out", "d")
    assert "--name x is that of the autoencoder's file" in refused(capsys, *latent, "--name", "x", "--out", "e")
    shutil.copy("d/x.json", "d/y.json")
    text = (
        Path("d/y.json").read_text().replace('"name": "x"', '"name": "y"').replace('"kind": "train"', '"kind": "cost"')
    )
    Path("d/y.json").write_text(text)
    pixel = ["train", "pixel", *TINY, "--steps", 1]
    assert "the record of another kind of run, 'cost'" in refused(capsys, *pixel, "--name", "y", "--out", "d")
    assert main.main([*first, "--name", "x", "--out", "f", "--seed", "1"]) == 0
    assert main.main([*map(str, latent), "--name", "top", "--out", "g"]) == 0
    other = [*latent[:-1], "f/x.safetensors", "--name", "new", "--out", "g"]
    assert "f/x.safetensors is not the autoencoder that lies at g/x.safetensors" in refused(capsys, *other)
    shutil.copy("f/x.safetensors", "g/x.safetensors")
    with pytest.raises(ValueError, match="was trained with another autoencoder"):
        load_denoiser("g/top.safetensors")


def test_no_comparison_writes_over_another(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparing, "_compare", lambda setting, out, *a: pytest.fail("it began"))
    out, setting = Path("c"), comparing.make_setting("scenes", comparing.profiles.profile(), None, 1.0, 40, 0)
    out.mkdir()
    (out / "report.md").write_text("mine")
    words = ["compare", "--data", "scenes", "--limit", 40, "--budget", 1, "--out", out]
    assert "c/report.md is there, and is of no comparison" in refused(capsys, *words)
    results = {"data": {"train": 40, "test": len(setting.test)}, "budget_seconds": 1.0}
    options = {"command": "x", "seconds": 1, "seed": 0, "data_source": setting.train.source}
    record = comparing.make_record("compare-scenes-32-smoke", "compare", results, **options)
    comparing.save_record(record, out)
    comparing._check_may_replace(out, setting)  # the same again may
    assert "a comparison that differs in the budget" in refused(capsys, *words[:-3], 2, "--out", out)
    assert "differs in the seed" in refused(capsys, *words, "--seed", 1)
    comparing.save_record(record | {"name": "compare-emoji-32-smoke"}, out)
    assert "holds the comparison compare-emoji-32-smoke, and this one is" in refused(capsys, *words)


# ---------------------------------------------------------------------------------------------- folders


def test_a_folder_says_what_it_leaves_out_and_orders_classes_as_numbers(tmp_path):
    folder = pictures(tmp_path / "pets", *(f"{k}/{i}.png" for k in (1, 2, 10, 20) for i in range(5)))
    assert load_data(folder, 8).classes == ("1", "2", "10", "20")
    elsewhere = pictures(tmp_path / "elsewhere", "a.png", "b.png")
    (folder / "3").symlink_to(elsewhere)
    (folder / "3" / "up").symlink_to(folder)  # round in circles
    both = [load_data(folder, 8, split) for split in ("train", "test")]
    assert both[0].classes == ("1", "2", "3", "10", "20") and sum(map(len, both)) == 22
    pictures(folder, "cover.png", "2/.hidden.png")
    for name in ("a.heic", "b.svg", "1/notes.txt"):
        (folder / name).write_text("")
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.warns(LeftOut) as told:
        assert load_data(folder, 8).classes == ("1", "2", "3", "10", "20")
    (line,) = {str(warning.message) for warning in told}
    for words in (
        "3 of a format that is not read (such as a.heic)",
        "1 hidden (such as 2/.hidden.png)",
        "1 a link that leads nowhere, or no file (such as gone.png)",
        "1 beside the folders of classes (such as cover.png)",
        "1 a folder that another link had led to (such as 3/up)",
    ):
        assert words in line and "\n" not in line


def test_folders_that_are_called_as_parts_of_a_set_are_not_silently_its_classes(tmp_path):
    folder = pictures(tmp_path / "f", *(f"{part}/cat/{i}.png" for part in ("train", "Val") for i in range(3)))
    with pytest.warns(LeftOut, match=f"Val and train are taken for classes; to have what is in one, name {folder}/Val"):
        assert load_data(folder, 8).classes == ("Val", "train")
    pictures(folder, *(f"cats/{i}.png" for i in range(3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_data(folder, 8).classes) == 3


def test_one_folder_is_not_silently_the_only_class(tmp_path):
    folder = pictures(tmp_path / "out", *(f"cls/{kind}/{i}.png" for kind in ("cat", "dog") for i in range(3)))
    with pytest.warns(LeftOut, match=f"cls is taken for the only class; to have what is in one, name {folder}/cls"):
        assert load_data(folder, 8).classes == ("cls",)
    assert load_data(folder / "cls", 8).classes == ("cat", "dog")


def test_a_folder_that_is_called_as_the_courses_data_is_told(capsys):
    pictures("scenes", "a.png", "b.png", "c.png")
    with pytest.warns(LeftOut, match="scenes is the course's own data; name ./scenes for the folder"):
        assert len(load_data("scenes", 8, limit=5)) == 5
    assert len(load_data("./scenes", 8)) == 2


def test_other_files_than_pictures_are_not_read_as_such(tmp_path):
    folder = pictures(tmp_path / "f", "a.png", "b.png")
    (folder / "c.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    with pytest.raises(ValueError, match=r"c\.png cannot be read as a picture: cannot identify image file"):
        load_data(folder, 8), load_data(folder, 8, "test")


def test_what_pillow_warns_of_is_not_told_in_its_words(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "f", "a.png", "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 63)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(len(load_data(folder, 8, split)) for split in ("train", "test")) == 2


def test_letters_that_the_font_lacks_are_one_note(capsys):
    pictures("f", *(f"{kind}/{i}.png" for kind in ("猫", "🐶") for i in range(8)))
    words = ["train", "pixel", "--data", "f", "--size", "8", "--batch-size", "8", "--steps", "1"]
    assert main.main([*words, "--name", "x", "--out", "x"]) == 0
    assert main.main(["sample", "--checkpoint", "x/x.safetensors", "--count", "4", "--steps", "1"]) == 0
    err = capsys.readouterr().err
    assert err.count("note: the picture's font lacks letters of these names, and shows boxes") == 1
    assert "Glyph" not in err and "UserWarning" not in err


def test_a_few_pictures_in_sub_folders_are_no_classes_and_that_is_told(tmp_path, capsys):
    folder = pictures(tmp_path / "mixed", *(f"{i}.png" for i in range(6)), "more/a.png", "more/b.png")
    with pytest.warns(LeftOut, match="no classes, since 2 pictures lie in sub-folders"):
        assert load_data(folder, 8).classes is None
    assert main.main(["data", "--data", str(folder), "--size", "8"]) == 0
    err = capsys.readouterr().err
    assert err.count("note: ") == 1 and "UserWarning" not in err and "LeftOut" not in err


@pytest.mark.parametrize("odd", [b"caf\xe9", b"a$b_{$", b"line\nbreak", "ünï ✨".encode(), b"\x1b[31mred"])
def test_any_name_is_read_recorded_and_shown(odd, tmp_path, capsys):
    folder = pictures(os.fsdecode(bytes(tmp_path) + b"/" + odd), *(odd + b"/%d.png" % i for i in range(12)))
    pictures(folder, *(b"plain/" + odd + b"%d.png" % i for i in range(12)))
    words = ["--data", str(folder), "--size", "8"]
    assert main.main(["data", *words]) == 0
    assert main.main(["train", "pixel", *words, "--steps", "1", "--batch-size", "4", "--name", "t", "--out", "t"]) == 0
    record = load_record("t", "t")
    assert record["data_source"].encode() and "\n" not in record["data_source"]
    d = load_denoiser("t/t.safetensors")
    assert len(d.classes) == 2 and all(name.isprintable() for name in d.classes)
    assert load_data(d.meta["data"], 8).classes == tuple(d.classes)
    assert main.main(["sample", "--checkpoint", "t/t.safetensors", "--count", "2", "--steps", "1"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_a_few_drawings_are_drawn_alone(monkeypatch):
    monkeypatch.setenv("LDM_CACHE", "cache")
    few = load_data("emoji", 24, limit=3)
    assert len(few) == 3 and not Path("cache").exists()
    assert few.images.float().std() > 10 and len(few.captions) == 3


# ---------------------------------------------------------------------------------------- disk and memory


def test_a_full_disk_in_a_training_is_one_line_below_the_bar_and_keeps_the_state(monkeypatch, capsys):
    words = ["train", "pixel", *TINY, "--name", "x", "--out", "x", "--save-every", "2"]
    assert main.main([*words, "--steps", "2"]) == 0
    before = {path.name: path.read_bytes() for path in Path("x").iterdir() if path.is_file()}
    capsys.readouterr()

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(plotting.Image, "fromarray", full)
        assert main.main([*words, "--steps", "3"]) == 2
    *_, told = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"error: x/\S* cannot be written: No space left on device; make room there, or .*", told)
    assert Path("x/x.safetensors").read_bytes() == before["x.safetensors"]
    assert Path("x/x.json").read_bytes() == before["x.json"]
    assert not [path for path in Path("x").rglob(".*")]


@pytest.mark.parametrize(
    "error, args, says",
    [
        (MemoryError(), {"batch_size": 64}, "too little memory for this; lower --batch-size from 64 to 32"),
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory"),
            {"count": 9},
            "the GPU has too .* from 9 to 4",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            {"command": "train"},
            "lower it with --batch-size",
        ),
        (RuntimeError("CUDA error: device lost\nmore"), {}, r"the GPU failed \(CUDA error: device lost\); try again"),
        (
            OSError(errno.EACCES, "x", "a/b"),
            {},
            "Permission denied: a/b; name another place, or",
        ),
        (ImportError("libx.so: failed to map segment from shared object"), {}, r"too little memory .*ulimit -v$"),
        (ValueError("two\nlines \x1b[31m"), {}, r"two lines \\x1b\[31m$"),
        (ValueError(os.fsdecode(b"caf\xe9")), {}, r"caf\\xe9"),
        (KeyError("x"), {}, r"unforeseen, KeyError: 'x' \(LDM_TRACEBACK=1"),
    ],
)
def test_what_can_happen_is_one_line_that_says_what_to_do(error, args, says):
    line = mishaps.one_line(error, argparse.Namespace(**args))
    assert re.search(says, line) and "\n" not in line and line.isprintable()


def test_what_nobody_foresaw_is_one_line_unless_it_is_asked_for(monkeypatch, capsys):
    def breaks(*args, **options):
        raise TypeError("a mistake of ours")

    monkeypatch.setattr(data_command, "load_data", breaks)
    assert main.main(["data"]) == 2 and "unforeseen, TypeError at test_mishaps.py" in capsys.readouterr().err
    for no in ("0", "", "no", "False", "off"):
        monkeypatch.setenv("LDM_TRACEBACK", no)
        assert main.main(["data"]) == 2
    monkeypatch.setenv("LDM_TRACEBACK", "1")
    with pytest.raises(TypeError):
        main.main(["data"])


# ---------------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("sort", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_stops_a_training_is_told_what_is_kept(sort, monkeypatch, capsys):
    steps, step = [], Trainer._step

    def stopped_at_the_third(self, total):
        steps.append(total)
        if len(steps) == 3:
            signal.raise_signal(sort)
        return step(self, total)

    before = signal.getsignal(sort)
    monkeypatch.setattr(Trainer, "_step", stopped_at_the_third)
    words = ["train", "pixel", *TINY, "--steps", "9", "--save-every", "2", "--name", "x", "--out", "x"]
    assert main.main(words) == 128 + sort and signal.getsignal(sort) == before
    *_, told = capsys.readouterr().err.splitlines()
    assert told == (
        "stopped; the state of step 2 is kept in x/state.safetensors, and the same command goes on from there"
    )


def test_nohup_goes_on(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(data_command, "load_data", lambda *a, **k: pytest.fail(str(signal.raise_signal(1))))
        with pytest.raises(pytest.fail.Exception, match="None"):
            main.main(["data"])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_that_is_longer_already_says_so(capsys):
    words = ["train", "pixel", *TINY, "--name", "x", "--out", "x", "--steps"]
    assert main.main([*words, "2"]) == 0 and "already" not in capsys.readouterr().out
    assert main.main([*words, "1"]) == 0
    assert "x has learnt for 2 steps already, and 1 are asked for: none is added" in capsys.readouterr().out


def test_a_shorter_run_does_not_replace_a_longer_one_whose_state_is_gone(capsys):
    words = ["train", "pixel", *TINY, "--name", "x", "--out", "x", "--steps"]
    assert main.main([*words, "3"]) == 0
    Path("x/state.safetensors").unlink()
    before = Path("x/x.safetensors").read_bytes()
    assert "x/x.json is of 3 steps, whose state is gone, and 2 are asked for" in refused(capsys, *words, 2)
    assert Path("x/x.safetensors").read_bytes() == before
    assert main.main([*words, "3"]) == 0 and Path("x/x.safetensors").read_bytes() == before


def test_a_home_without_records_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    assert main.main(["claims"]) == 0
    assert f"note: there are no records in {tmp_path}; point LDM_HOME to" in capsys.readouterr().err


def test_a_shipped_file_that_cannot_be_read_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    for name in ("records", "checkpoints"):
        (tmp_path / name).mkdir()
    denoiser(tmp_path / "checkpoints" / "good.safetensors")
    (tmp_path / "checkpoints" / "bad.safetensors").write_bytes(b"torn")
    assert main.main(["gallery", "--count", "2", "--steps", "1"]) == 0
    assert "bad.safetensors cannot be read, and is left out; restore it" in capsys.readouterr().err
    main.main(["doctor"])
    assert "FAIL  checkpoints: " in capsys.readouterr().out


def test_the_same_pictures_elsewhere_are_the_same(capsys):
    folder = pictures("f", *(f"{i}.png" for i in range(12)))
    words = ["train", "pixel", "--size", 8, "--batch-size", 4, "--name", "x", "--out", "x", "--data"]
    words = [str(word) for word in words]
    assert main.main([*words, "f", "--steps", "1"]) == 0
    Path("x/x.safetensors").unlink()
    folder.rename("g")
    assert main.main([*words, "g", "--steps", "2"]) == 0
    assert load_record("x", "x")["results"]["steps"] == 2


def test_a_state_of_other_types_is_refused(capsys):
    words = ["train", "pixel", *TINY, "--name", "x", "--out", "x", "--steps"]
    assert main.main([*words, "1"]) == 0
    path = Path("x/state.safetensors")
    tensors, meta = load_tensors(path)
    save_tensors(path, tensors | {"model.conv_in.bias": tensors["model.conv_in.bias"].long()}, meta)
    said = refused(capsys, *words, 2)
    assert "model.conv_in.bias is stored as torch.int64; expected torch.float32 as in this run" in said
    path.write_bytes(b"")
    said = refused(capsys, *words, 2)
    assert said.count("delete it to start this run afresh") == 1 and "download" not in said


def test_weights_that_could_not_be_read_again_are_not_written(capsys):
    said = refused(capsys, "train", "pixel", *TINY, "--steps", 1, "--name", "x", "--out", os.fsdecode(b"r\xff"))
    assert "bytes that are no text" in said and not Path(os.fsdecode(b"r\xff")).exists()


def test_a_run_under_another_name_does_not_go_on_from_this_one(capsys):
    words = ["train", "pixel", *TINY, "--steps", "1", "--out", "x", "--name"]
    assert main.main([*words, "p"]) == 0
    assert "x/state.safetensors belongs to another run (it differs in name)" in refused(capsys, *words, "q")
    assert main.main([*words, "p"]) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device here")
def test_a_line_that_cannot_be_written_is_told_by_the_exit_status():
    words = [sys.executable, "-m", "ldm_course.cli", "data", "--data", "nowhere"]
    with open("/dev/full", "w") as full:
        assert subprocess.run(words, stderr=full, env=ENV).returncode == 2


def test_the_variable_that_another_package_could_not_use_is_named():
    words = [sys.executable, "-m", "ldm_course.cli", "data", "--data", "nowhere"]
    done = subprocess.run(words, capture_output=True, text=True, env=ENV | {"TQDM_MININTERVAL": "soon"})
    assert done.returncode == 2
    assert (
        done.stderr == "error: could not convert string to float: 'soon'; the environment has it in TQDM_MININTERVAL\n"
    )


def test_commands_run_without_docstrings_and_with_a_narrow_encoding():
    words = [sys.executable, "-m", "ldm_course.cli", "claims"]
    env = {name: value for name, value in ENV.items() if name != "LDM_HOME"}
    env |= {"PYTHONOPTIMIZE": "2", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, capture_output=True, env=env)
    assert done.returncode == 0 and b"confirmed" in done.stdout and done.stderr == b""
    assert done.stdout.isascii() and b"\\x" in done.stdout


@pytest.mark.parametrize("closed", [["stdout"], ["stderr"], ["stdout", "stderr"]])
def test_a_closed_stream_is_a_silent_one(closed, monkeypatch):
    for name in closed:
        monkeypatch.setattr(sys, name, None)  # as Python has it after >&-
    assert main.main(["train", "pixel", *TINY, "--steps", "1", "--name", "x"]) == 0
    assert main.main(["data", "--data", "nowhere"]) == 2


def test_no_home_is_one_line(monkeypatch, capsys):
    def nobody(self):
        if str(self).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return self

    monkeypatch.delenv("LDM_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    assert "there is no home folder here; set HOME" in refused(capsys, "data", "--data", "emoji", "--size", 8)
