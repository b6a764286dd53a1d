"""Kills train, compare and reference at random moments, looks at what they left, and prints it as JSON: used by
`test_kills.py`, in a process of its own whose children begin with everything loaded."""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open

from ldm_course.checkpoints import load_denoiser, load_model
from ldm_course.cli import main
from ldm_course.files import load_tensors, settled
from ldm_course.lab import runs

TINY = [
    "--data",
    "scenes",
    "--size",
    "8",
    "--limit",
    "24",
    "--batch-size",
    "8",
    "--save-every",
    "2",
    "--sample-every",
    "3",
]
TOUCHED = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "shutil.rmtree")
STAGE = "scene-detector-64"


def commands() -> dict[str, tuple[list[str], Path]]:
    first = ["--autoencoder", "first/first.safetensors"]
    return {
        "train pixel": (["train", "pixel", *TINY, "--steps", "7", "--name", "p", "--out", "p"], Path("p")),
        "train latent": (["train", "latent", *TINY, *first, "--steps", "7", "--name", "l", "--out", "l"], Path("l")),
        "compare": (["compare", "--data", "scenes", "--limit", "40", "--budget", "0.1", "--out", "c"], Path("c")),
        "reference": (
            ["reference", "--stage", STAGE, "--profile", "smoke", "--minutes", "0.002", "--out", "r"],
            Path("r"),
        ),
    }


def child(words: list[str], out: Path, kill_at: int | None = None) -> int:
    """Runs a command in a process of its own; with `kill_at` it kills itself when it touches a file of `out` for that
    time. Returns the process, which the caller waits for."""
    process = os.fork()
    if process:
        return process
    touched, here = 0, (f"{out}", f"{out.absolute()}")

    def hook(event, given):
        nonlocal touched
        if event in TOUCHED and any(f"{x}/".startswith(f"{place}/") for x in given[:2] for place in here):
            touched += 1
            if touched == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        code = main.main(words)
    Path(f"{out}.touched").write_text(str(touched))
    os._exit(code)


def looked_at(name: str, out: Path) -> str:
    """What is in the folder: "nothing", "a state", or "all"; or what is wrong there, with a "!"."""
    for file in [p for p in out.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.parts)]:
        try:
            if file.suffix == ".safetensors":
                load_tensors(file)
            elif file.suffix == ".json":
                json.loads(file.read_text())
            elif file.suffix == ".png":
                Image.open(file).load()
        except Exception as error:
            return f"! {file}: {error}"
    settled(out)
    if name.startswith("train"):
        short = str(out)
        there = [(out / f"{short}.{suffix}").is_file() for suffix in ("safetensors", "json")]
        if name == "train latent":
            there.append((out / "first.safetensors").is_file())
    elif name == "compare":
        files = [
            *(f"{space}.safetensors" for space in ("autoencoder", "pixel", "latent")),
            "compare-scenes-32-smoke.json",
            "report.md",
            "real.png",
        ]
        there = [(out / file).is_file() for file in files]
    else:
        files = (
            f"{folder}/{STAGE}-smoke.{suffix}"
            for folder, suffix in (("records", "json"), ("records", "png"), ("checkpoints", "safetensors"))
        )
        there = [(out / file).is_file() for file in files]
    if any(there) and not all(there):
        return f"! a part of the set: {there}"
    if all(there):
        if name in ("train latent", "compare"):
            load_denoiser(out / ("l.safetensors" if name == "train latent" else "latent.safetensors"))
        return "all"
    return "a state" if list(out.rglob("state.safetensors")) else "nothing"


def hidden(out: Path) -> list[str]:
    return [str(p) for p in out.rglob(".*")]


def weights(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}


def run(name: str, words: list[str], out: Path, count: int, chance: random.Random) -> dict:
    started = time.perf_counter()
    assert os.waitpid(child(words, out), 0)[1] == 0, f"{name} does not run"
    lasts, touches = time.perf_counter() - started, int(Path(f"{out}.touched").read_text())
    whole = {p.name: p.read_bytes() for p in out.glob("?.safetensors")}
    found = Counter()
    shutil.rmtree(out)
    for k in range(count):
        at = chance.randrange(1, touches + 1) if k % 2 else None
        process = child(words, out, at)
        if at is None:
            time.sleep(chance.uniform(0, lasts))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        state = looked_at(name, out)
        found[state] += 1
        if state == "all" and chance.random() < 0.7:  # begin anew, and now and then write over what is there
            shutil.rmtree(out)
    assert os.waitpid(child(words, out), 0)[1] == 0, f"{name} does not go on"
    same = all((out / file).read_bytes() == content for file, content in whole.items())
    return {"found": found, "at the end": looked_at(name, out), "hidden": hidden(out), "same bytes": same}


if __name__ == "__main__":
    counts = json.loads(sys.argv[1])
    runs.GRID, runs.EVALUATED = 4, 6
    first = ["train", "autoencoder", *TINY, "--perceptual", "0", "--steps", "1", "--name", "first", "--out", "first"]
    assert os.waitpid(child(first, Path("first")), 0)[1] == 0
    load_model("first/first.safetensors")
    chance = random.Random(0)
    results = {name: run(name, *commands()[name], count, chance) for name, count in counts.items()}
    print(json.dumps(results))
