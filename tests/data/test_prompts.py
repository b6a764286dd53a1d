"""Prompts: captions are read back as they were written, shorter ones too, and the held-out pairs leave all else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ldm_course.data import prompts, scenes
from ldm_course.data.loaders import load_data
from ldm_course.data.prompts import Asked, Prompt, parse

FACTORS = scenes.factors_of(5, range(4000))


def test_a_caption_is_read_back_as_the_factors_of_its_scene():
    for scene in FACTORS:
        read = parse(scenes.caption(scene))
        things = [(thing.shape, thing.colour, thing.size) for thing in scene.things]
        assert [(thing.shape, thing.colour, thing.size) for thing in read.things] == things
        for name in ("place", "relation", "both", "pattern", "tint"):
            assert getattr(read, name) == getattr(scene, name)
        assert read == prompts.asked_of(scene) and str(read) == scenes.caption(scene)


def maybe(options):
    return st.none() | st.sampled_from(list(options))


THINGS = st.builds(Asked, st.sampled_from(list(scenes.SHAPES)), maybe(scenes.COLOURS), maybe(scenes.SIZES))


@st.composite
def written(draw):
    things = draw(st.lists(THINGS, min_size=1, max_size=3))
    return Prompt(
        tuple(things),
        place=draw(maybe(scenes.PLACES)) if len(things) == 1 else None,
        relation=draw(maybe(scenes.RELATIONS)) if len(things) > 1 else None,
        both=draw(maybe(scenes.RELATIONS)) if len(things) == 3 else None,
        pattern=draw(maybe(scenes.PATTERNS)),
        tint=draw(maybe(scenes.TINTS)),
    )


@given(written())
def test_whatever_is_left_out_a_prompt_is_read_as_it_was_written(prompt):
    assert parse(str(prompt)) == prompt


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("star", Prompt((Asked("star"),))),
        (
            "a small red star above a large blue square",
            Prompt((Asked("star", "red", "small"), Asked("square", "blue", "large")), relation="above"),
        ),
        ("  An ORANGE\nheart in the centre. ", Prompt((Asked("heart", "orange"),), place="in the centre")),
        ("the ring and a large moon", Prompt((Asked("ring"), Asked("moon", size="large")))),
        ("a star, a ring and a moon", Prompt((Asked("star"), Asked("ring"), Asked("moon")))),
        ("a star and a ring, both below a moon", Prompt((Asked("star"), Asked("ring"), Asked("moon")), both="below")),
        (
            "a star below a ring, and a moon on a wavy background",
            Prompt((Asked("star"), Asked("ring"), Asked("moon")), relation="below", pattern="wavy"),
        ),
        ("a star, on a navy background", Prompt((Asked("star"),), tint="navy")),
    ],
)
def test_prompts_as_people_write_them(text, read):
    assert parse(text) == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the prompt “”: it ends too early; expected a shape: circle, square"),
        ("a green cat", "cannot read “cat”; expected a shape"),
        ("a red small star", "cannot read “small star”; expected a shape"),
        ("a star above", "it ends too early; expected a shape"),
        ("a star left a ring", "cannot read “left a ring”; expected"),
        ("a star above a ring and a heart", "cannot read “and a heart”; expected “, and a …”"),
        ("a star and a ring, both near a moon", "cannot read “near a moon”; expected a relation: left of, right of"),
        ("a star at the left of a ring", "cannot read “of a ring”"),
        ("a star on a background", "cannot read “background”; expected a pattern or a tint: plain"),
        ("a star on a mint table", "cannot read “table”; expected the word: background"),
        ("a star on a mint background, please", "cannot read “, please”; expected its end"),
        ("a star,\na ring, a moon and a heart", "cannot read “, a moon and a heart”"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(text, message):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert message in str(error.value) and "\n" not in str(error.value)


# Held out


def test_an_eighth_of_the_pairs_is_held_out_and_every_shape_and_colour_is_left_with_others():
    pairs = prompts.HELD_OUT_PAIRS
    assert 8 * len(pairs) == len(scenes.SHAPES) * len(scenes.COLOURS)
    for names, k in ((scenes.SHAPES, 0), (scenes.COLOURS, 1)):
        assert sorted(pair[k] for pair in pairs) == sorted(names)  # each once


def test_a_scene_is_held_out_for_any_of_its_things():
    def of(*things):
        return Prompt(tuple(Asked(shape, colour) for shape, colour in things))

    assert prompts.held_out(of(("circle", "red"))) and prompts.held_out(of(("star", "red"), ("moon", "white")))
    assert not prompts.held_out(of(("star", "red"), ("circle", "white")))  # both words are there, on other things
    assert not prompts.held_out(parse("a circle left of a red ring"))
    share = sum(map(prompts.held_out, FACTORS)) / len(FACTORS)
    assert share == pytest.approx(1 - (7 / 8 + (7 / 8) ** 2 + (7 / 8) ** 3) / 3, abs=0.02)


def test_what_is_left_to_train_on_has_no_held_out_pair_and_everything_else():
    data = load_data("scenes", 16, limit=1500)
    kept = prompts.without_held_out(data.captions)
    assert kept.dtype == torch.int64 and torch.equal(kept, kept.sort().values)
    train = data.subset(kept)
    pairs = {(thing.shape, thing.colour) for text in train.captions for thing in parse(text).things}
    assert pairs == {(s, c) for s in scenes.SHAPES for c in scenes.COLOURS} - prompts.HELD_OUT_PAIRS
    left = set(range(len(data))) - set(kept.tolist())
    assert all(prompts.held_out(scene) for scene in scenes.factors_of(0, sorted(left)))
    with pytest.raises(ValueError, match="the prompt “a cat”"):
        prompts.without_held_out(["a red star", "a cat"])


def test_a_shortened_prompt_says_its_shapes_and_what_is_asked_for():
    whole = parse("a small red star above a large blue square on a striped navy background")
    assert str(prompts.shortened(whole, ())) == "a star and a square"
    assert str(prompts.shortened(whole, ("colour", "relation"))) == "a red star above a blue square"
    assert prompts.shortened(whole, prompts.SAID) == whole
    alone = parse("a large yellow circle in the centre on a plain navy background")
    assert str(prompts.shortened(alone, ("size", "place"))) == "a large circle in the centre"


def test_a_pair_that_is_a_drawing_is_not_new():
    drawings = load_data("emoji", 32)
    new = prompts.new_pairs(drawings.captions)
    assert set(new) < prompts.HELD_OUT_PAIRS and new == sorted(new)
    assert prompts.HELD_OUT_PAIRS - set(new) == {("circle", "red"), ("square", "orange"), ("heart", "purple")}
    assert prompts.new_pairs([]) == sorted(prompts.HELD_OUT_PAIRS)
    assert ("star", "blue") not in prompts.new_pairs(["blue glowing star"])


def test_what_is_no_text_is_refused():
    for asked in (3, None, ["a star"]):
        with pytest.raises(ValueError, match=r"the prompt=.*; expected a valid string"):
            parse(asked)
