"""Every row of `mistakes.MISTAKES`: one line that says it, exit status 2, and nothing on disk is lost."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from mistakes import LIKELY, MISTAKES
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldm_course.checkpoints import save_denoiser, save_model
from ldm_course.cli import main
from ldm_course.config import AutoencoderConfig, UNetConfig
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.unet import UNet
from ldm_course.spaces import PixelSpace
from ldm_course.training.trainer import STATE_FILE

NETWORK = UNetConfig(
    block_out_channels=(16,), attention=(False,), attention_head_dim=8, norm_num_groups=8, num_classes=3
)


def parts(path):
    """A file's tensors, and its metadata as objects, without the checksum that would tell that they were changed."""
    with safe_open(path, "pt") as file:
        text = {k: v for k, v in file.metadata().items() if k != "checksum"}
    return load_file(path), {k: v if k == "kind" else json.loads(v) for k, v in text.items()}


def put(path, tensors, text):
    save_file(tensors, path, metadata={k: v if isinstance(v, str) else json.dumps(v) for k, v in text.items()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the mistakes find where they are typed."""
    place = tmp_path_factory.mktemp("work")
    torch.manual_seed(0)
    about = {"classes": ("a", "b", "c"), "data": "scenes"}
    good = place / "model.safetensors"
    save_denoiser(good, Denoiser(UNet(NETWORK), PixelSpace(8), make_schedule("cosine"), "v"), **about)
    save_model(place / "autoencoder.safetensors", Autoencoder(AutoencoderConfig((3), 4, (16, 16), norm_num_groups=8)))
    (place / "text.safetensors").write_text("<html>404</html>")

    def changed(name, source=good, drop=(), weights=(), **entries):
        tensors, text = parts(source)
        for where, value in entries.items():
            at, _, key = where.partition("__")
            text[at] = text[at] | {key: value} if key else value
        put(place / f"{name}.safetensors", {k: v for k, v in tensors.items() if k not in drop} | dict(weights), text)

    bias = torch.full((16,), torch.nan)
    changed("nan", weights={"conv_in.bias": bias})
    changed("nan-autoencoder", place / "autoencoder.safetensors", weights={"encoder.conv_in.bias": bias})
    changed("scale", weights={"conv_in.weight.scale": torch.zeros(16)})
    changed("json", meta="<html>")
    changed("kind", kind="gan")
    changed("list", config=[])
    changed("groups", config__norm_num_groups=0)
    changed("levels", config__block_out_channels=[])
    changed("layers", config__layers_per_block=-1)
    changed("wide", config__block_out_channels=[2**40])
    changed("huge", config__block_out_channels=[2**20])
    changed("newer", config__rope=True)
    changed("deep", config="[" * 100_000)
    changed("T", meta__schedule={"name": "cosine", "T": 10**12, "shift": 1.0})
    changed("shift", meta__schedule={"name": "cosine", "T": 1000, "shift": -1})
    changed("size", meta__size="8")
    changed("two", meta__classes=["a", "b"])
    changed("outside", meta__autoencoder="../x.safetensors")
    first = {"autoencoder": "autoencoder.safetensors", "prediction": "eps"}
    flow = {"name": "flow", "T": 1000, "shift": 1.0}
    changed("eps", meta__schedule=flow, **{f"meta__{key}": value for key, value in first.items()})
    changed("dots", meta__autoencoder="..")
    changed("endless", meta__schedule={"name": "cosine", "T": 1000, "shift": 1e300})
    changed("twice", meta__classes=["a", "a", "b"])
    save_model(place / "state.safetensors", Autoencoder(AutoencoderConfig((3), 4, (16, 16), norm_num_groups=8)))
    changed("moved", meta__data="pictures/that/were/here")
    changed("missing", drop=("conv_in.bias",))
    changed("surplus", weights={"lora.down": torch.zeros(1), "lora.up": torch.zeros(1)})
    changed("shape", weights={"conv_in.weight": torch.zeros(16, 4, 3, 3)})
    grey = np.zeros((4, 8, 8), np.uint8)
    (place / "html.npz").write_text("<html>404</html>")
    np.savez(place / "negative.npz", images=grey, labels=np.array([0, 1, 2, -1]))
    np.savez(place / "labels.npz", images=grey, labels=np.array([0, 1, 2, 2**40]))
    np.savez(place / "unsigned.npz", images=grey, labels=np.full(4, 2**63 + 5, np.uint64))
    of = {"images": grey, "labels": np.array([0, 1, 0, 1])}
    np.savez(place / "twice.npz", **of, classes=np.array(["a", "a"]))
    np.savez(place / "bytes.npz", **of, classes=np.array([b"a", b"b"]))
    np.savez(place / "objects.npz", **of, captions=np.array(["a", "b", "c", None], dtype=object))
    np.savez(place / "unlabelled.npz", images=grey, classes=np.array(["a", "b"]))
    (place / "state").mkdir()
    put(place / "state" / STATE_FILE, {"x": torch.zeros(1)}, {"progress": {"step": -3}, "identity": {}})
    (place / "other").mkdir()
    put(place / "other" / STATE_FILE, {"x": torch.zeros(1)}, {"progress": {"step": 1}, "identity": {"lr": 1.0}})
    (place / "broken-record").mkdir()
    (place / "broken-record" / "x.json").write_text("{")
    (place / "empty").mkdir()
    (place / "empty" / "notes.txt").write_text("no picture")
    for names in ("way-w/x.safetensors", "way-r/x.json", "home/checkpoints/x.safetensors", "way-g/samples/0000001.png"):
        (place / names).mkdir(parents=True)
    (place / "way-s").mkdir()
    (place / "way-s" / "samples").write_text("mine")
    (place / "home" / "records").mkdir(parents=True)
    (place / "torn" / "records").mkdir(parents=True)
    (place / "torn" / "records" / "scene-detector-64-smoke.json").write_text("{")
    return place


def contents():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.typed[:70])
def test_a_mistake_is_one_line_and_loses_nothing(mistake, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LDM_HOME", str(folder / "home"))
    monkeypatch.setenv("LDM_PROFILE", "smoke")
    before = contents()
    assert main.main(shlex.split(mistake.typed)) == 2
    out, err = capsys.readouterr()
    (said,) = [line for line in err.replace("\r", "\n").splitlines() if "error: " in line]
    assert mistake.says in said and len(said) < 400, err
    assert "Traceback" not in err and "wrote" not in out
    after = contents()
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    assert all(path.as_posix().startswith(mistake.left or "nothing") for path in changed), changed
    assert before.keys() <= after.keys()


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_what_wrappers_put_before_names_is_taken_off_with_a_word(prefix, folder, tmp_path, capsys):
    from ldm_course.checkpoints import load_denoiser

    tensors, text = parts(folder / "model.safetensors")
    put(tmp_path / "m.safetensors", {prefix + name: value for name, value in tensors.items()}, text)
    back = load_denoiser(tmp_path / "m.safetensors").model.state_dict()
    assert all(torch.equal(value, tensors[name]) for name, value in back.items())
    assert f"was taken off the names of {len(tensors)} weights" in capsys.readouterr().err


def test_the_page_is_made_of_this_table(folder):
    import runpy

    page = runpy.run_path(str(ROOT / "book" / "make_mistakes.py"))
    stored = (ROOT / "book" / "when_something_goes_wrong.md").read_text()
    assert page["text"]() == stored, "the page is stale: python book/make_mistakes.py"
    assert 20 <= len(LIKELY) <= 25 and all(mistake.mend and mistake.says in stored for mistake in LIKELY)
    assert "book/when_something_goes_wrong" in (ROOT / "_toc.yml").read_text()
