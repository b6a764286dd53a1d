"""Readers and settings against what hypothesis, and ten minutes of broken bytes, can think of: read, or refused in one
line of ValueError; never another error, and never a network that is built and cannot compute."""

import argparse
import json
import os
import random
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_mistakes import NETWORK, parts, put

from ldm_course.checkpoints import Meta, load_denoiser, load_model, save_denoiser, save_model
from ldm_course.checks import check, from_json
from ldm_course.cli.main import _commands, _parsed, _parser
from ldm_course.config import AutoencoderConfig, CLIPConfig, DiTConfig, TextConfig, TrainConfig, UNetConfig
from ldm_course.data.loaders import load_data, open_picture
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.lab.records import load_record, make_record, save_record
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.dit import DiT
from ldm_course.networks.text import TextEncoder
from ldm_course.networks.unet import UNet
from ldm_course.spaces import PixelSpace
from ldm_course.training.trainer import StateText

NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 2**31, 2**63, 10**30, 1e-9])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
EASY = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def told(read):
    """What `read` gives; None where it refuses, which it does in one line."""
    try:
        return read()
    except ValueError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 600, error
        return None


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One file of each kind."""
    place = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    d = Denoiser(UNet(NETWORK), PixelSpace(8), make_schedule("cosine"), "v")
    save_denoiser(place / "m.safetensors", d, classes=("a", "b", "c"))
    save_model(place / "a.safetensors", Autoencoder(AutoencoderConfig(block_out_channels=(16,))))
    save_record(make_record("r", "train", {"a": [1.5, {"b": "c"}]}, command="x", seconds=1.0), place)
    np.savez(place / "d.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.arange(4))
    (place / "p").mkdir()
    Image.new("RGB", (9, 8), (3, 90, 0)).save(place / "p" / "0.png")
    return place


@EASY
@given(st.data())
def test_a_record_with_any_field_changed(files, tmp_path, data):
    record = json.loads((files / "r.json").read_text())
    where = data.draw(st.sampled_from([*record, "more"]))
    (tmp_path / "r.json").write_text(json.dumps(record | {where: data.draw(JSON)}))
    told(lambda: load_record("r", tmp_path))


@EASY
@given(st.data())
def test_a_checkpoint_with_any_entry_changed(files, tmp_path, data):
    tensors, text = parts(files / "m.safetensors")
    at = data.draw(st.sampled_from(["config", "meta", "kind"]))
    if at == "kind" or data.draw(st.booleans()):
        text[at] = data.draw(JSON)
    else:
        key = data.draw(st.sampled_from(list(text[at])))
        text[at] = text[at] | {key: data.draw(JSON)}
    put(tmp_path / "m.safetensors", tensors, text)
    told(lambda: load_denoiser(tmp_path / "m.safetensors"))


@EASY
@given(st.dictionaries(st.sampled_from(["progress", "identity", "scaler"]), JSON.map(json.dumps) | st.text(max_size=9)))
def test_any_metadata_of_a_state(text):
    found = told(lambda: check(StateText, text))
    assert found is None or found["progress"].step >= 0


@EASY
@given(JSON)
@example({"\n": None})
def test_any_json_as_a_configuration(value):
    for kind in (UNetConfig, DiTConfig, TextConfig, CLIPConfig, AutoencoderConfig, TrainConfig, Meta):
        told(lambda kind=kind: from_json(kind, json.dumps(value)))


SMALL = st.integers(-1, 5) | st.sampled_from([8, 16, 32])
WIDTHS = st.lists(st.sampled_from([0, 8, 12, 16, 32]), max_size=3).map(tuple)


def drawn(kind, data, **values):
    """A configuration of small numbers, some of them wrong; None where it refuses them."""
    chosen = {name: data.draw(strategy, label=name) for name, strategy in values.items()}
    return told(lambda: kind(**chosen))


@settings(EASY, max_examples=120)
@given(st.data())
def test_a_unet_that_may_be_built_computes(data):
    """On shapes alone, so that no width costs anything."""
    flags = st.lists(st.booleans(), max_size=3).map(tuple)
    names = ("in_channels", "out_channels", "layers_per_block", "attention_head_dim", "norm_num_groups")
    optional = {"num_classes": st.none() | SMALL, "attention_heads": st.none() | WIDTHS}
    config = drawn(
        UNetConfig, data, block_out_channels=WIDTHS, attention=flags, **dict.fromkeys(names, SMALL), **optional
    )
    if config is not None:
        with torch.device("meta"):
            side = config.multiple
            x, t = torch.empty(2, config.in_channels, side, side), torch.zeros(2, dtype=torch.int64)
            assert UNet(config)(x, t).shape == (2, config.out_channels, side, side)


@settings(EASY, max_examples=80)
@given(st.data())
def test_other_networks_that_may_be_built_compute(data):
    names = ("in_channels", "latent_channels", "layers_per_block", "norm_num_groups")
    flags = {"mid_attention": st.booleans(), "codes": st.none() | SMALL}
    first = drawn(AutoencoderConfig, data, block_out_channels=WIDTHS, **dict.fromkeys(names, SMALL), **flags)
    dit = drawn(DiTConfig, data, **dict.fromkeys(("in_channels", "patch_size", "width", "layers", "heads"), SMALL))
    text = drawn(TextConfig, data, **dict.fromkeys(("vocab_size", "length", "width", "layers", "heads"), SMALL))
    with torch.no_grad():
        if first is not None:
            x = torch.empty(2, first.in_channels, first.downsample, first.downsample)
            model = Autoencoder(first).eval()
            assert model.decode(model.encode(x).z_mean).shape == x.shape
        if dit is not None:
            x = torch.empty(2, dit.in_channels, dit.patch_size, dit.patch_size)
            assert DiT(dit)(x, torch.zeros(2, dtype=torch.int64)).shape == (2, dit.out_channels, *x.shape[2:])
        if text is not None:
            tokens = torch.zeros(2, text.length, dtype=torch.int64)
            assert TextEncoder(text)(tokens).shape == (2, text.length, text.width)


PARSER = _parser()
VALUES = st.sampled_from(["", "0", "-1", "nan", "inf", "1e400", "2.5", "9" * 30, "x", "--", "-", "a b", "\udcff", "é"])
OPTIONS = ["--size", "--limit", "--seed", "--lr", "--steps", "--count", "--kl", "--guidance", "--batch-size"]
OPTIONS += ["--data", "--out", "--schedule", "--prediction", "--method", "--stage", "--chapter", "--eta", "--nonsense"]


@settings(EASY, max_examples=200)
@given(
    st.sampled_from([name for name, *_ in _commands()]),
    st.lists(st.tuples(st.sampled_from(OPTIONS), VALUES), max_size=4),
    st.lists(VALUES, max_size=2),
)
def test_any_words_on_the_command_line(command, pairs, words):
    parsed = told(lambda: _parsed(PARSER, [command, *words, *(word for pair in pairs for word in pair)]))
    assert parsed is None or isinstance(parsed, argparse.Namespace)


def broken(content: bytes, chance: random.Random) -> bytes:
    """The bytes with some of them flipped, cut out, doubled, or replaced by what often breaks readers."""
    content = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        near = min(len(content), chance.choice([16, 400, len(content)]))
        at = chance.randrange(max(1, near))
        kind = chance.randrange(5)
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del content[at : at + chance.choice([1, 8, 100, len(content)])]
        elif kind == 2:
            content[at:at] = content[at : at + chance.choice([1, 8, 100])]
        elif kind == 3:
            content[at : at + 1] = chance.choice([b"-1", b"null", b"[]", b'"', b"{", b"1e999", b"NaN", b"\xff" * 8])
        else:
            content[at:at] = bytes(chance.randrange(256) for _ in range(chance.choice([1, 8, 64])))
    return bytes(content)


def fuzz(files, place, seconds, seed=0):
    """Breaks each kind of file, and reads it, until the time is over: how many were tried, and how many refused."""
    readers = {
        "m.safetensors": lambda: load_denoiser(place / "m.safetensors"),
        "a.safetensors": lambda: load_model(place / "a.safetensors"),
        "r.json": lambda: load_record("r", place),
        "d.npz": lambda: load_data(place / "d.npz", 8),
        "p/0.png": lambda: open_picture(place / "p" / "0.png"),
    }
    (place / "p").mkdir()
    chance, counts, ends = random.Random(seed), dict.fromkeys(readers, (0, 0)), time.monotonic() + seconds
    good = {name: (files / name).read_bytes() for name in readers}
    while time.monotonic() < ends:
        for name, read in readers.items():
            content = broken(good[name], chance)
            (place / name).write_bytes(content)
            try:
                refused = told(read) is None
            except BaseException as error:
                (place / "found").write_bytes(content)
                raise AssertionError(f"{name}, kept as {place / 'found'}: {type(error).__name__} {error}") from error
            tried, times = counts[name]
            counts[name] = tried + 1, times + refused
    return counts


def test_a_second_of_broken_bytes(files, tmp_path):
    assert all(tried > 0 for tried, _ in fuzz(files, tmp_path, 1).values())


@pytest.mark.long
def test_ten_minutes_of_broken_bytes(files, tmp_path):
    """`pytest -m long -s`; LDM_FUZZ_MINUTES says another time."""
    minutes = float(os.environ.get("LDM_FUZZ_MINUTES", 10))
    counts = fuzz(files, tmp_path, 60 * minutes, seed=time.time_ns())
    print({name: f"{refused} of {tried} refused" for name, (tried, refused) in counts.items()})


def test_a_broken_file_is_found_by_the_fuzz(files, tmp_path, monkeypatch):
    """The fuzz itself would fail where a reader lets another error through."""
    monkeypatch.setattr("test_fuzz.load_record", lambda *args: 1 / 0)
    with pytest.raises(AssertionError, match=r"r\.json, kept as .*ZeroDivisionError"):
        fuzz(files, tmp_path, 1)
