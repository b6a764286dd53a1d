"""Loading pictures: ranges, splits, caches, conversions, and one clear line for everything that cannot be used."""

import errno
import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ldm_course.data import emoji, loaders, scenes
from ldm_course.data.loaders import load_data
from ldm_course.data.pictures import Crops, Pictures, joined, to_float, to_uint8
from ldm_course.diffusion.objectives import BatchRandom


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No test reads or writes the user's cache, and none reaches the network."""
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("LDM_DATA", str(tmp_path / "data"))


@pytest.fixture
def drawn(monkeypatch):
    """Stands in for resvg: drawing k is of one grey, k % 251. Returns the sizes that were rendered."""
    calls = []

    def render_all(size, which=None):
        calls.append(size if which is None else (size, len(which)))
        numbers = torch.arange(len(emoji.drawings())) if which is None else torch.tensor(which)
        shade = (numbers % 251).to(torch.uint8)
        return shade[:, None, None, None].expand(-1, 3, size, size).clone()

    monkeypatch.setattr(emoji, "render_all", render_all)
    return calls


def refused(call, *words: str) -> str:
    """The one line of the ValueError that `call` must raise, with these words in it."""
    with pytest.raises(ValueError) as error:
        call()
    line = str(error.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    return line


def write_pictures(folder, count=30, size=(12, 12), sub=""):
    (folder / sub).mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.new("RGB", size, (k * 8 % 256, k, 255 - k)).save(folder / sub / f"{k:03}.png")
    return folder


# Ranges


def test_all_256_values_make_the_round_trip():
    values = torch.arange(256, dtype=torch.uint8)
    x = to_float(values)
    assert x.dtype == torch.float32 and x[0] == -1 and x[255] == 1
    assert torch.allclose(x.double(), values.double() / 127.5 - 1, atol=1e-7)
    assert torch.equal(to_uint8(x), values)
    assert torch.equal(to_uint8(x.double()), values)


@given(st.floats(-3, 3, width=32))
def test_to_uint8_takes_the_nearest_value_and_clips(x):
    value = to_uint8(torch.tensor(x)).item()
    assert abs(value - min(max((x + 1) * 127.5, 0), 255)) <= 0.5 + 1e-4


def test_ranges_refuse_the_wrong_type():
    refused(lambda: to_float(torch.zeros(3)), "torch.float32", "uint8")
    refused(lambda: to_uint8(torch.zeros(3, dtype=torch.uint8)), "torch.uint8", "[-1, 1]")


# Pictures


def test_pictures_subset_and_batch():
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 8, 8)
    pictures = Pictures(images, torch.tensor([0, 1, 0, 1, 0]), ("a", "b"), tuple("vwxyz"), "n", "s", "test")
    assert len(pictures) == 5 and pictures.size == 8
    part = pictures.subset([4, 1])
    assert part.images[:, 0, 0, 0].tolist() == [4, 1] and part.labels.tolist() == [0, 1] and part.captions == ("z", "w")
    assert (part.classes, part.name, part.source, part.split) == (("a", "b"), "n", "s", "test")
    x = pictures.batch(torch.tensor([3, 0]))
    assert x.shape == (2, 3, 8, 8) and x.dtype == torch.float32
    assert torch.equal(x, to_float(images[[3, 0]]))
    bare = Pictures(images).subset(range(2))
    assert bare.labels is None and bare.captions is None and len(bare) == 2


# What load_data refuses, whatever the data


def test_sets_are_joined_in_order_with_their_captions_and_without_classes():
    a = Pictures(
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]), ("x", "y"), ("p", "q"), "a", "A", "test"
    )
    b = Pictures(torch.ones(1, 3, 8, 8, dtype=torch.uint8), captions=("r",), name="b", source="B")
    both = joined(a, b)
    assert both.images[:, 0, 0, 0].tolist() == [0, 0, 1] and both.captions == ("p", "q", "r")
    assert both.labels is None and both.classes is None
    assert (both.name, both.source, both.split) == ("a and b", "A; B", "test")
    assert joined(a, replace(b, captions=None)).captions is None
    assert joined(a, a).name == "a"


def test_unknown_names_list_the_choices(tmp_path):
    refused(lambda: load_data("emojis"), "'emojis'", "emoji, scenes, cifar10", "folder", ".npz")
    refused(lambda: load_data(tmp_path / "nowhere"), "nowhere")


@pytest.mark.parametrize("size", [7, 1025, 32.0, True, "32", None])
def test_sizes_are_whole_numbers_in_range(size):
    refused(lambda: load_data("scenes", size), f"size={size!r}; expected")


def test_splits_and_limits_are_checked():
    refused(lambda: load_data("scenes", 8, "val"), "'val'", "'train'", "'test'")
    for limit in (0, -1, 1.5):
        refused(lambda limit=limit: load_data("scenes", 8, limit=limit), f"limit={limit}")


# Splits


def test_the_split_is_stable_and_does_not_depend_on_the_others():
    keys = [f"picture {k}" for k in range(4000)]
    test = {keys[i] for i in loaders.split_by_key(keys, "test")}
    assert 0.08 < len(test) / 4000 < 0.12
    assert sorted(loaders.split_by_key(keys, "train") + loaders.split_by_key(keys, "test")) == list(range(4000))
    some = keys[::-7]
    assert {some[i] for i in loaders.split_by_key(some, "test")} == test & set(some)
    lowest = [k for k in keys if int(hashlib.sha256(k.encode()).hexdigest(), 16) < 0.1 * 2**256]
    assert test == set(lowest), "the hash has changed, and with it everybody's split"


@given(st.sets(st.text(max_size=8), min_size=2, max_size=6))
def test_no_side_is_ever_empty(keys):
    keys = sorted(keys)
    train, test = loaders.split_by_key(keys, "train"), loaders.split_by_key(keys, "test")
    assert train and test and sorted(train + test) == list(range(len(keys)))


def test_limit_takes_the_start_of_a_seeded_shuffle(drawn):
    few, more = load_data("emoji", 8, limit=20), load_data("emoji", 8, limit=60)
    assert len(few) == 20 and more.captions[:20] == few.captions
    assert load_data("emoji", 8, limit=20).captions == few.captions
    assert load_data("emoji", 8, limit=20, seed=1).captions != few.captions
    assert len(load_data("emoji", 8, limit=10**6)) == len(load_data("emoji", 8))
    assert list(few.captions) != sorted(few.captions)


# Emoji and the cache


def test_emoji_have_labels_captions_and_two_disjoint_sides(drawn):
    train, test = load_data("emoji", 8), load_data("emoji", 8, "test")
    assert drawn == [8], "the second call must come from the cache"
    assert len(train) + len(test) == len(emoji.drawings())
    assert train.source == emoji.CREDIT and train.name == "emoji" and test.split == "test"
    known = {drawing.name: (k, drawing) for k, drawing in enumerate(emoji.drawings())}
    for pictures in (train, test):
        assert pictures.classes == emoji.GROUPS and pictures.images.shape[1:] == (3, 8, 8)
        for image, label, caption in zip(pictures.images, pictures.labels.tolist(), pictures.captions):
            k, drawing = known[caption]
            assert emoji.GROUPS[label] == drawing.group and (image == k % 251).all()
    bases = [{known[caption][1].base for caption in pictures.captions} for pictures in (train, test)]
    assert not bases[0] & bases[1], "skin tones or genders of one drawing on both sides"


@pytest.mark.parametrize("damage", ["torn", "not a zip", "empty", "flipped", "outdated", "no stamp"])
def test_a_damaged_or_outdated_cache_is_made_again(drawn, damage):
    whole = load_data("emoji", 8)
    path = loaders.cache_folder() / "emoji-8.npz"
    stored = path.read_bytes()
    if damage == "torn":
        path.write_bytes(stored[: len(stored) // 2])
    elif damage == "not a zip":
        path.write_bytes(b"<html>")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "flipped":
        middle = len(stored) // 3
        path.write_bytes(stored[:middle] + bytes(64) + stored[middle + 64 :])
    elif damage == "outdated":
        np.savez(path, images=np.zeros((4, 3, 8, 8), np.uint8), stamp=np.array("an older release"))
    else:
        np.savez(path, images=np.zeros((4, 3, 8, 8), np.uint8))
    again = load_data("emoji", 8)
    assert drawn == [8, 8] and torch.equal(again.images, whole.images)
    load_data("emoji", 8)
    assert drawn == [8, 8], "the cache that was made again must hold"
    assert [file.name for file in path.parent.iterdir()] == [path.name], "temporary files are left"


def test_a_cache_that_cannot_be_written_is_one_line(drawn, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "file"))
    refused(lambda: load_data("emoji", 8), str(tmp_path / "file"), "LDM_CACHE")


def test_real_emoji_end_to_end(monkeypatch):
    """Some real drawings, in this process: what a caption says is what is shown."""
    chosen = tuple(d for d in emoji.drawings() if d.name.endswith(("square", "heart")))
    images = torch.stack([torch.from_numpy(emoji.render(drawing, 32).copy()) for drawing in chosen])
    monkeypatch.setattr(emoji, "drawings", lambda: chosen)
    monkeypatch.setattr(emoji, "names", lambda: tuple(drawing.name for drawing in chosen))
    monkeypatch.setattr(emoji, "render_all", lambda size: images.permute(0, 3, 1, 2).contiguous())
    both = [load_data("emoji", 32, split) for split in ("train", "test")]
    shown = {c: image for p in both for c, image in zip(p.captions, p.images)}
    assert len(shown) == len(chosen)
    for colour, channel in (("red", 0), ("green", 1), ("blue", 2)):
        assert shown[f"{colour} square"][:, 16, 16].argmax() == channel


# Scenes


def test_scenes_come_with_their_factors():
    train = load_data("scenes", 16, limit=50, seed=3)
    assert torch.equal(train.images, scenes.render(3, range(50), 16))
    assert train.captions[7] == scenes.caption(scenes.factors(3, 7))
    assert train.classes[train.labels[7]] == scenes.factors(3, 7).things[0].shape
    test = load_data("scenes", 16, "test", limit=50, seed=3)
    assert not set(train.captions) & set(test.captions) or not (train.images == test.images).all()
    assert len(torch.unique(torch.cat([train.images, test.images]).flatten(1), dim=0)) == 100
    assert len(load_data("scenes", 8, "test")) == loaders.SCENES_TEST


# CIFAR-10


def write_cifar(folder, **changed):
    generator = np.random.default_rng(0)
    arrays = {
        "train_images": generator.integers(0, 256, (20, 32, 32, 3), np.uint8),
        "train_labels": np.arange(20, dtype=np.uint8) % 10,
        "test_images": generator.integers(0, 256, (10, 32, 32, 3), np.uint8),
        "test_labels": np.arange(10, dtype=np.uint8),
        "classes": np.array([f"class {k}" for k in range(10)]),
        "source": np.array("a stand-in"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "cifar10.npz", **{k: v for k, v in (arrays | changed).items() if v is not None})
    return arrays


def test_cifar_from_the_file(tmp_path):
    arrays = write_cifar(tmp_path / "data")
    for split, count in (("train", 20), ("test", 10)):
        pictures = load_data("cifar10", 32, split)
        assert len(pictures) == count and pictures.source == "a stand-in"
        assert torch.equal(pictures.images, torch.from_numpy(arrays[f"{split}_images"]).permute(0, 3, 1, 2))
        assert pictures.labels.tolist() == arrays[f"{split}_labels"].tolist() and pictures.labels.dtype == torch.int64
        assert pictures.classes[3] == "class 3"


def test_cifar_at_other_sizes_is_resized_without_aliasing(tmp_path):
    stripes = np.zeros((20, 32, 32, 3), np.uint8)
    stripes[:, :, 0::4] = stripes[:, :, 3::4] = 255  # finer than 8 pixels can show: must become grey, not black
    stripes[1] = np.arange(32, dtype=np.uint8)[None, :, None] * 8
    write_cifar(tmp_path / "data", train_images=stripes)
    small = load_data("cifar10", 8).images
    assert small.shape == (20, 3, 8, 8) and (small[0, :, :, 1:-1].int() - 127).abs().max() <= 8
    large = load_data("cifar10", 64).images[1, 0].int()
    ideal = ((torch.arange(64) + 0.5) / 2 - 0.5) * 8
    assert (large[32, 8:-8] - ideal[8:-8]).abs().max() <= 1


@pytest.mark.parametrize("named", ["nowhere", __file__])
def test_a_folder_of_data_that_is_none_is_not_passed_over_for_a_download(named, monkeypatch):
    monkeypatch.setenv("LDM_DATA", named)
    for ask in (loaders.cifar10_is_here, lambda: load_data("cifar10")):
        refused(ask, f"LDM_DATA={named!r} is not a folder", "cifar10.npz")


def test_cifar_says_what_its_file_lacks(tmp_path):
    write_cifar(tmp_path / "data", train_labels=None)
    refused(lambda: load_data("cifar10"), "cifar10.npz", "train_labels", "test_images")


def test_a_failed_download_is_one_line(monkeypatch, tmp_path):
    import torchvision

    def fails(*args, **kwargs):
        raise OSError("<urlopen error\n[Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fails)
    refused(
        lambda: load_data("cifar10"), "could not be downloaded", "name resolution", str(tmp_path / "data/cifar10.npz")
    )


# A folder of pictures


def test_a_folder_with_classes(tmp_path):
    folder = write_pictures(tmp_path / "pets", 30, sub="dog")
    write_pictures(folder, 30, sub="cat")
    train, test = load_data(folder, 8), load_data(str(folder), 8, "test")
    assert len(train) + len(test) == 60 and train.classes == test.classes == ("cat", "dog")
    assert set(train.labels.tolist()) == {0, 1} and train.captions is None and "pets" in train.source
    assert torch.equal(load_data(train.name, 8).images, train.images), "its name must load it again"
    # A file that comes later changes no other file's side.
    Image.new("RGB", (9, 9), "red").save(folder / "dog" / "new.png")
    assert abs(len(load_data(folder, 8, "test")) - len(test)) <= 1


def test_a_folder_without_classes_and_with_other_files(tmp_path):
    folder = write_pictures(tmp_path / "flat", 20)
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_text("nor this")
    (folder / "folder.png").mkdir()
    train = load_data(folder, 8)
    assert train.labels is None and train.classes is None
    assert len(train) + len(load_data(folder, 8, "test")) == 20
    assert len(load_data(folder, 8, limit=5)) == 5


def read(tmp_path, image, name="a.png", size=8, **options):
    image.save(tmp_path / name, **options)
    return loaders.middle_square(loaders.open_picture(tmp_path / name), size)


def test_grey_palette_and_bilevel(tmp_path):
    assert read(tmp_path, Image.new("L", (10, 10), 77)).unique().tolist() == [77]
    red = Image.new("RGB", (10, 10), (200, 10, 20))
    assert read(tmp_path, red.quantize(4))[:, 3, 3].tolist() == [200, 10, 20]
    assert read(tmp_path, Image.new("1", (10, 10), 1)).unique().tolist() == [255]


def test_alpha_goes_over_white(tmp_path):
    half = Image.new("RGBA", (10, 10), (255, 0, 0, 128))
    assert (read(tmp_path, half)[:, 4, 4].int() - torch.tensor([255, 127, 127])).abs().max() <= 1
    assert read(tmp_path, Image.new("LA", (10, 10), (0, 0))).unique().tolist() == [255]
    palette = Image.new("P", (10, 10), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert read(tmp_path, palette, transparency=0).unique().tolist() == [255]
    assert read(tmp_path, Image.new("RGB", (10, 10), "blue"), transparency=(0, 0, 255)).unique().tolist() == [255]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_become_eight(tmp_path, name):
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    image = read(tmp_path, Image.fromarray(ramp), name)
    assert (image[0].numpy() - np.round(ramp / 257)).max() == 0 and image.max() == 255


def test_cmyk(tmp_path):
    image = read(tmp_path, Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "a.jpg", quality=100)
    assert (image[:, 4, 4].int() - torch.tensor([255, 0, 0])).abs().max() < 12


def test_exif_rotation_is_undone(tmp_path):
    upright = Image.new("RGB", (20, 20), "white")
    upright.paste("black", (0, 0, 20, 10))  # the upper half is black
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me a quarter clockwise"
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    assert np.asarray(stored)[10, 2, 0] == 0 and np.asarray(stored)[10, 17, 0] == 255
    image = read(tmp_path, stored, "a.jpg", exif=exif, quality=100)
    assert image[:, :3].max() < 30 and image[:, 5:].min() > 225


def test_the_middle_square_is_kept(tmp_path):
    wide = Image.new("RGB", (60, 20), "red")
    wide.paste("lime", (20, 0, 40, 20))
    for image in (wide, wide.transpose(Image.Transpose.ROTATE_90)):
        shown = read(tmp_path, image, size=20)
        assert shown[:, 1:-1, 1:-1].amax((1, 2)).tolist() == [0, 255, 0]


def test_shrinking_does_not_alias(tmp_path):
    board = Image.fromarray(((np.indices((256, 256)).sum(0) % 2) * 255).astype(np.uint8))
    assert (read(tmp_path, board, size=8).int() - 127).abs().max() <= 2


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_an_unreadable_file_is_named(tmp_path, content):
    folder = write_pictures(tmp_path / "set", 20)
    (folder / "broken.png").write_bytes(content)
    refused(lambda: [load_data(folder, 8, split) for split in ("train", "test")], "broken.png", "cannot be read")


def test_a_torn_picture_is_named(tmp_path):
    whole = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(whole).save(tmp_path / "torn.jpg")
    stored = (tmp_path / "torn.jpg").read_bytes()
    (tmp_path / "torn.jpg").write_bytes(stored[: len(stored) // 2])
    refused(lambda: loaders.open_picture(tmp_path / "torn.jpg"), "torn.jpg")
    Image.fromarray(whole[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    refused(lambda: loaders.open_picture(tmp_path / "float.tif"), "float.tif", "8 or 16 bits")
    for value in (-1, 65536):
        Image.fromarray(np.full((8, 8), value, np.int32)).save(tmp_path / "int.tif")
        refused(lambda: loaders.open_picture(tmp_path / "int.tif"), "int.tif", f"go from {value}", "8 or 16 bits")


def test_empty_folders_and_single_pictures(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    refused(lambda: load_data(tmp_path / "empty"), "empty", "no pictures", ".png")
    refused(lambda: load_data(write_pictures(tmp_path / "one", 1)), "one", "1 picture", "at least 2")
    (tmp_path / "empty" / "notes.txt").write_text("")
    (tmp_path / "empty" / "closed").mkdir()
    scan = os.scandir

    def closed(at):  # permissions do not stop the superuser, whom tests may run as
        if "closed" in str(at):
            raise PermissionError(errno.EACCES, "Permission denied", str(at))
        return scan(at)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", closed)
        refused(
            lambda: load_data(tmp_path / "empty"), "no pictures", "not read (such as notes.txt)", "cannot be opened"
        )
    two = write_pictures(tmp_path / "two", 2)
    assert len(load_data(two, 8)) == len(load_data(two, 8, "test")) == 1


# An .npz


def write_npz(tmp_path, **arrays):
    np.savez(tmp_path / "mine.npz", **arrays)
    return tmp_path / "mine.npz"


def both_sides(path, size=8) -> list[Pictures]:
    return [load_data(path, size, split) for split in ("train", "test")]


@pytest.mark.parametrize("shape", [(40, 8, 8, 3), (40, 3, 8, 8), (40, 8, 8), (40, 8, 8, 1), (40, 1, 8, 8)])
def test_npz_layouts(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = write_npz(tmp_path, images=array)
    expected = array.transpose(0, 3, 1, 2) if shape[-1] in (1, 3) else array if array.ndim == 4 else array[:, None]
    expected = torch.from_numpy(np.broadcast_to(expected, (40, 3, 8, 8)).copy())
    images = torch.cat([part.images for part in both_sides(path.rename(path.with_suffix(".NPZ")))])
    assert images.shape == (40, 3, 8, 8)
    assert torch.equal(images.flatten(1).double().sort(0).values, expected.flatten(1).double().sort(0).values)


def test_npz_labels_classes_and_captions_follow_their_pictures(tmp_path):
    images = np.arange(40, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    captions = np.array([f"grey {k}" for k in range(40)])
    path = write_npz(
        tmp_path, images=images, labels=np.arange(40) % 4, captions=captions, classes=np.array(list("abcd"))
    )
    for part in both_sides(path, 16):
        value = part.images[:, 0, 0, 0].tolist()
        assert part.captions == tuple(f"grey {v}" for v in value) and part.labels.tolist() == [v % 4 for v in value]
        assert part.classes == ("a", "b", "c", "d") and part.size == 16
    path = write_npz(tmp_path, images=images, labels=np.arange(40) % 4)
    assert load_data(path, 8).classes == ("0", "1", "2", "3")


def test_npz_refuses_what_does_not_fit(tmp_path):
    images = np.zeros((40, 8, 8, 3), np.uint8)
    for wrong in (
        images.astype(np.float32),
        np.zeros((40, 8, 8, 4), np.uint8),
        np.zeros((8, 8), np.uint8),
        images[:, :0],
    ):
        path = write_npz(tmp_path, images=wrong)
        refused(
            lambda path=path: load_data(path), "mine.npz", str(wrong.dtype), str(wrong.shape), "uint8", "(N, H, W, 3)"
        )
    for arrays, words in (
        ({"pictures": images}, ("pictures", "images")),
        ({"images": images[:1]}, ("1 picture",)),
        ({"images": images, "labels": np.zeros(39, int)}, ("labels", "(39,)", "(40,)")),
        ({"images": images, "labels": np.zeros(40)}, ("labels", "float64")),
        ({"images": images, "labels": np.full(40, -1)}, ("labels", "from 0 up")),
        ({"images": images, "labels": np.full(40, 5), "classes": np.array(["a"])}, ("labels", "5", "1 classes")),
        ({"images": images, "captions": np.array(["a"])}, ("captions", "(1,)", "(40,)")),
        ({"images": images, "captions": np.zeros(40)}, ("captions", "float64", "text")),
    ):
        path = write_npz(tmp_path, **arrays)
        refused(lambda path=path: load_data(path), "mine.npz", *words)


def test_npz_never_runs_a_pickle(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    bomb = np.array([Bomb()], dtype=object)
    path = write_npz(tmp_path, images=bomb)
    refused(lambda: load_data(path), "mine.npz", "cannot be read")
    bomb.dump(path)
    refused(lambda: load_data(path), "mine.npz", "cannot be read")
    assert not (tmp_path / "exploded").exists()


def test_a_pipe_is_no_data_and_no_cache(tmp_path, drawn):
    (tmp_path / "cache").mkdir()
    for name in ("mine.npz", "picture.png", "cache/emoji-8.npz"):
        os.mkfifo(tmp_path / name)
    refused(lambda: load_data(tmp_path / "mine.npz"), "mine.npz is no file")
    refused(lambda: loaders.open_picture(tmp_path / "picture.png"), "picture.png is no file")
    assert len(load_data("emoji", 8)) and drawn == [8] and (tmp_path / "cache" / "emoji-8.npz").is_file()


@pytest.mark.parametrize("member", ["images", "images.npy", "labels", "captions.npy", "classes"])
def test_a_member_of_an_npz_that_is_no_array(member, tmp_path):
    arrays = {"images": np.zeros((4, 8, 8), np.uint8), "labels": np.zeros(4, int)}
    arrays.pop(member.removesuffix(".npy"), None)
    path = write_npz(tmp_path, **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, "hello")
    refused(lambda: load_data(path), "mine.npz", member.removesuffix(".npy"), "expected")


def test_npz_that_is_none(tmp_path):
    refused(lambda: load_data(tmp_path / "no.npz"), "no file", "no.npz")
    (tmp_path / "text.npz").write_text("hello")
    refused(lambda: load_data(tmp_path / "text.npz"), "text.npz", "cannot be read")
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    refused(lambda: load_data(tmp_path / "single.npz"), "single.npz", "cannot be read")


def test_another_process_splits_alike(tmp_path):
    """Nothing may depend on Python's own, salted hash."""
    code = "from ldm_course.data.loaders import split_by_key; print(split_by_key([str(i) for i in range(200)], 'test'))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(printed) == loaders.split_by_key([str(i) for i in range(200)], "test")


# ------------------------------------------------------------------------------------------- crops


def numbered(count, size, first=0):
    """Pictures whose every pixel says which picture it is of, where from the top, and where from the left."""
    axis = torch.arange(size, dtype=torch.uint8)
    images = torch.stack([torch.full((count, size, size), 0, dtype=torch.uint8) for _ in range(3)], 1)
    images[:, 0] = (first + torch.arange(count, dtype=torch.uint8))[:, None, None]
    images[:, 1], images[:, 2] = axis[:, None], axis[None, :]
    return Pictures(images, name=f"set of {size}", source="numbers")


def test_crops_are_windows_of_the_pictures_that_were_asked_for_at_every_place():
    crops = Crops((numbered(5, 9), numbered(3, 16, first=50)), side=8)
    assert len(crops) == 8 and crops.size == 8 and crops.name == "8-pixel crops of set of 9 at 9, set of 16 at 16"
    seen = set()
    for step in range(200):
        windows = to_uint8(crops.draw(torch.arange(8), BatchRandom(0, step, 8, slice(None), "cpu")))
        assert windows[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 50, 51, 52]
        for window in windows:
            top, left = window[1, 0, 0].item(), window[2, 0, 0].item()
            assert torch.equal(window[1], (top + torch.arange(8))[:, None].expand(8, 8).to(torch.uint8))
            assert torch.equal(window[2], (left + torch.arange(8))[None].expand(8, 8).to(torch.uint8))
            seen.add((window[0, 0, 0].item() >= 50, top, left))
    assert {(top, left) for large, top, left in seen if not large} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert len({(top, left) for large, top, left in seen if large}) == 81


def test_a_window_larger_than_a_picture_is_refused():
    with pytest.raises(ValueError, match="set of 6 has pictures of 6 a side; windows of 8 do not fit"):
        Crops((numbered(2, 9), numbered(2, 6)), side=8)


IMAGES = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"images": IMAGES.float()}, "images: got a float32 tensor"),
        ({"images": IMAGES.permute(0, 2, 3, 1)}, "(4, 8, 8, 3); expected uint8 (N, 3, H, W)"),
        ({"images": IMAGES[0]}, "(3, 8, 8)"),
        ({"images": IMAGES.numpy()}, "a uint8 ndarray"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels: got an int64 tensor (3,); expected int64 (4,)"),
        ({"labels": torch.zeros(4)}, "a float32 tensor (4,)"),
        ({"labels": [0, 1, 0, 1]}, "labels: got a list"),
        ({"labels": torch.arange(4), "classes": ("a", "b", "c")}, "labels go from 0 to 3; expected 0 to 2"),
        ({"labels": torch.arange(4) - 1}, "labels go from -1 to 2; expected whole numbers from 0 up"),
        ({"captions": ("a",) * 5}, "5 captions for 4 pictures"),
    ],
)
def test_pictures_hold_one_label_and_one_caption_each(given, says):
    refused(lambda: Pictures(**{"images": IMAGES, **given}), says)


@pytest.mark.parametrize("indices", [[0.5], torch.tensor([1.0]), [True, False, True, False], IMAGES[:, 0, 0, 0] > 0])
def test_indices_are_whole_numbers(indices):
    pictures = Pictures(IMAGES)
    refused(lambda: pictures.subset(indices), "indices: got a", "expected int64 (M,)")
    refused(lambda: pictures.batch(indices), "indices: got a")
    assert len(pictures.subset([])) == 0 == len(pictures.batch([]))


def test_sets_of_several_sizes_or_none_are_not_joined():
    refused(lambda: joined(Pictures(IMAGES), Pictures(IMAGES[..., :4, :4])), "[(8, 8), (4, 4)]; expected one size")
    refused(lambda: joined(), "expected one size")


def test_nan_is_no_grey_level():
    x = torch.zeros(1, 3, 8, 8)
    x[0, 2, 5, 7] = torch.nan
    refused(lambda: to_uint8(x), "or NaN")
    assert to_uint8(torch.tensor([torch.inf, -torch.inf])).tolist() == [255, 0]
