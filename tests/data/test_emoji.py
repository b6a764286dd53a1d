"""OpenMoji's drawings: names, groups, what counts as one drawing, and their rendering."""

import numpy as np
import pytest
import torch

from ldm_course.data import emoji, loaders

TONES = "🏻🏼🏽🏾🏿"


@pytest.fixture(scope="module")
def by_name():
    return {drawing.name: drawing for drawing in emoji.drawings()}


def test_every_drawing_has_its_own_name_and_file(by_name):
    drawings = emoji.drawings()
    assert len(by_name) == len(drawings) == len({drawing.path for drawing in drawings})
    assert all(drawing.path.suffix == ".svg" and drawing.name.strip() == drawing.name != "" for drawing in drawings)
    assert not any(mark in drawing.name for drawing in drawings for mark in ":_")
    if emoji.version() == "17.0.0":
        assert len(drawings) == 3944
        assert sum(any(tone in drawing.characters for tone in TONES) for drawing in drawings) == 2030
    assert {"grinning face", "red heart", "flag of France", "waving hand light skin tone"} <= set(by_name)
    assert emoji.names() == tuple(drawing.name for drawing in drawings)


def test_bare_swatches_and_unnamed_drawings_are_left_out():
    characters = {drawing.characters for drawing in emoji.drawings()}
    assert not characters & set(TONES)
    assert not any("\ue000" <= c <= "\uf8ff" for drawing in characters for c in drawing)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("grinning face", "smileys-emotion"),
        ("waving hand dark skin tone", "people-body"),
        ("dog face", "animals-nature"),
        ("red apple", "food-drink"),
        ("rocket", "travel-places"),
        ("soccer ball", "activities"),
        ("light bulb", "objects"),
        ("Aries", "symbols"),
        ("keycap 7", "symbols"),
        ("flag of Japan", "flags"),
        ("rainbow flag", "flags"),
        ("red heart", "smileys-emotion"),
    ],
)
def test_groups(by_name, name, group):
    assert by_name[name].group == group


def test_every_group_is_used():
    assert {drawing.group for drawing in emoji.drawings()} == set(emoji.GROUPS)


def test_a_skin_tone_never_makes_another_drawing():
    """Exhaustive: each toned drawing shares its base with the drawing of the same characters without tones."""
    plain = str.maketrans(dict.fromkeys(TONES + "\ufe0f", ""))
    bases = {drawing.characters.translate(plain): drawing.base for drawing in emoji.drawings()}
    toned = [drawing for drawing in emoji.drawings() if any(tone in drawing.characters for tone in TONES)]
    assert len(toned) > 1900
    for drawing in toned:
        assert drawing.base == bases[drawing.characters.translate(plain)], drawing.name


@pytest.mark.parametrize(
    "variants",
    [
        "👨‍🚒 👩‍🚒 🧑‍🚒 👩🏿‍🚒",  # the same job
        "🏃 🏃‍♀️ 🏃‍♂️ 🏃🏽‍♂️‍➡️",  # the same runner, either way
        "👨 👩 🧑 👨‍🦰 👩🏾‍🦱",  # a grown person with any hair
        "👫 👭 👬 🧑‍🤝‍🧑 👩🏻‍🤝‍👨🏿",  # a couple holding hands
        "💑 👩‍❤️‍👨 👨🏼‍❤️‍👨🏿",
        "👪 👨‍👩‍👧 👩‍👩‍👦‍👦 🧑‍🧒",
        "🎅 🤶 🧑‍🎄 🤶🏿",
        "🤝 🤝🏽 🫱🏻‍🫲🏿",
        "👯 👯‍♂️ 👯🏽",
    ],
)
def test_variants_are_one_drawing(variants):
    assert len({emoji.base(characters) for characters in variants.split()}) == 1


def test_different_drawings_stay_apart():
    different = "🐶 🐱 😀 🧑 🧒 🧓 🧑‍🚒 🧑‍🚀 🏃 🚶 🇫🇷 🇷🇫 🇮🇹 ♀️ ♂️ ➡️ 🟥 🟦 ❤️ 💙 🫱 🫲 🤝".split()
    assert len({emoji.base(characters) for characters in different}) == len(different)
    assert len({drawing.base for drawing in emoji.drawings()}) > 1600


def test_a_drawing_is_on_white_and_of_its_colour(by_name):
    image = emoji.render(by_name["red square"], 64)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert (image[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    red, green, blue = image[32, 32].astype(int)
    assert red > 180 and green < 110 and blue < 110


def test_every_size_shows_the_same_drawing(by_name):
    for name in ("grinning face", "rocket", "flag of Japan"):
        large = emoji.render(by_name[name], 128).astype(float).reshape(32, 4, 32, 4, 3).mean((1, 3))
        small = emoji.render(by_name[name], 32).astype(float)
        assert np.corrcoef(large.ravel(), small.ravel())[0, 1] > 0.97
        assert abs(large - small).mean() < 4


def test_all_drawings_come_in_order_whatever_the_workers(monkeypatch, by_name):
    """Two real processes draw everything at 8 x 8; each picture is compared with its own rendering."""
    images = emoji.render_all(8, workers=2, progress=False)
    assert images.shape == (len(emoji.drawings()), 3, 8, 8) and images.dtype == torch.uint8
    for i in (0, 1, 2, 1001, len(images) - 1):
        expected = torch.from_numpy(emoji.render(emoji.drawings()[i], 8).copy()).permute(2, 0, 1)
        assert torch.equal(images[i], expected)
    assert all(image.min() < 250 for image in images), "an empty drawing"


def test_a_worker_that_fails_is_reported(monkeypatch):
    monkeypatch.setattr(emoji.sys, "executable", "false")
    with pytest.raises(ValueError, match="ended early"):
        emoji.render_all(8, workers=1, progress=False)


def test_no_drawing_is_on_both_sides_of_the_split():
    drawings = emoji.drawings()
    keys = [drawing.base for drawing in drawings]
    train, test = loaders.split_by_key(keys, "train"), loaders.split_by_key(keys, "test")
    assert sorted(train + test) == list(range(len(drawings)))
    assert not {keys[i] for i in train} & {keys[i] for i in test}
    assert 0.06 < len(test) / len(drawings) < 0.14


def test_the_credit_names_author_and_licence():
    assert "OpenMoji" in emoji.CREDIT and "CC BY-SA 4.0" in emoji.CREDIT


def test_one_tone_of_every_second_drawing_is_held_out():
    names = [name for name in emoji.names() if emoji.tone_of(name)[1]]
    by_drawing = {}
    for name in names:
        drawing, tone = emoji.tone_of(name)
        assert name == f"{drawing} {tone} skin tone" and tone in emoji.TONES
        by_drawing.setdefault(drawing, []).append(emoji.held_out(name))
    whole = [out for out in by_drawing.values() if len(out) == len(emoji.TONES)]
    assert max(map(sum, by_drawing.values())) == 1 and len(whole) > 200
    assert 0.4 < sum(map(sum, whole)) / len(whole) < 0.6
    held = {emoji.tone_of(name)[1] for name in names if emoji.held_out(name)}
    assert held == set(emoji.TONES)  # each is missing somewhere, and there elsewhere
    assert emoji.tone_of("cat face") == ("cat face", None) and not emoji.held_out("cat face")
    assert emoji.tone_of("raised fist medium-dark skin tone") == ("raised fist", "medium-dark")
