"""Obedience, on pictures whose right answer is known: what is right alone, what belongs together, and what is asked."""

import math
from dataclasses import replace

import pytest
import torch

from ldm_course.data import scenes
from ldm_course.data.prompts import asked_of, parse
from ldm_course.data.scenes import caption
from ldm_course.measure import obedience
from ldm_course.measure.detection import Found, Seen
from ldm_course.measure.obedience import Share, obeyed, shares

SCENES = scenes.factors_of(3, range(3000))


def seen_in(scene) -> Seen:
    """What a detector without fault says of a scene."""
    things = (Found(t.shape, t.colour, t.size, t.x, t.y, t.radius) for t in scene.things)
    return Seen(tuple(things), scene.pattern, scene.tint)


def thing(words: str, x=0.5, y=0.5) -> Found:
    size, colour, shape = words.split()
    return Found(shape, colour, size, x, y, 0.11)


def seen(*things, pattern="plain", tint="cream") -> Seen:
    return Seen(things, pattern, tint)


def wrong(picture: Seen, prompt: str) -> set[str]:
    return {name for name, right in obeyed(picture, parse(prompt)).items() if not right}


STAR, SQUARE = thing("small red star", 0.3), thing("large blue square", 0.7)
ASKED = "a small red star left of a large blue square on a plain cream background"


def test_a_scene_obeys_its_own_caption_whatever_the_order_of_what_is_found():
    found = shares([seen_in(scene) for scene in SCENES], [caption(scene) for scene in SCENES])
    assert list(found) == list(obedience.ATTRIBUTES) and all(share.right == 1 for share in found.values())
    turned = [replace(one, things=one.things[::-1]) for one in map(seen_in, SCENES)]
    assert shares(turned, SCENES) == found == shares(turned, list(map(asked_of, SCENES)))
    assert found["place"].n == sum(len(scene.things) == 1 for scene in SCENES) == len(SCENES) - found["relation"].n


def test_exchanged_colours_are_right_alone_and_wrong_together():
    picture = seen(thing("small blue star", 0.3), thing("large red square", 0.7))
    assert wrong(picture, ASKED) == {"shape and colour", "size, shape and colour", "relation", "everything"}
    sizes = seen(thing("large red star", 0.3), thing("small blue square", 0.7))
    assert wrong(sizes, ASKED) == {"size, shape and colour", "everything"}


def test_a_mirror_leaves_everything_but_where_things_are():
    mirrored = seen(*(replace(one, x=1 - one.x) for one in (STAR, SQUARE)))
    assert wrong(seen(STAR, SQUARE), ASKED) == set()
    assert wrong(mirrored, ASKED) == {"relation", "everything"}
    assert wrong(mirrored, ASKED.replace("left", "right")) == set()
    alone = "a small red star at the left"
    assert wrong(seen(STAR), alone) == set() and wrong(seen(replace(STAR, x=0.7)), alone) == {"place", "everything"}


@pytest.mark.parametrize(
    ("picture", "failed"),
    [
        (seen(STAR), {"count", "shape", "colour", "size", "shape and colour", "size, shape and colour", "relation"}),
        (seen(STAR, SQUARE, thing("small red star", 0.5, 0.9)), {"count"}),
        (
            seen(replace(STAR, shape="moon"), SQUARE),
            {"shape", "shape and colour", "size, shape and colour", "relation"},
        ),
        (seen(replace(STAR, size="large"), SQUARE), {"size", "size, shape and colour"}),
        (seen(STAR, SQUARE, pattern="dotted"), {"pattern"}),
        (seen(STAR, SQUARE, tint="mint"), {"tint"}),
        (seen(replace(STAR, y=0.1), replace(SQUARE, y=0.9)), {"relation"}),  # further above than to the left
    ],
)
def test_each_fault_counts_where_it_belongs(picture, failed):
    assert wrong(picture, ASKED) == failed | {"everything"}


def test_one_thing_is_not_taken_for_two():
    two = "a red star and a red star"
    assert "shape" in wrong(seen(STAR), two) and wrong(seen(STAR, replace(STAR, x=0.7)), two) == set()
    assert "shape and colour" in wrong(seen(STAR, SQUARE), two)


def test_of_like_things_either_may_be_the_first():
    like = seen(replace(STAR, x=0.7), replace(STAR, x=0.3))
    assert wrong(like, "a red star left of a red star") == set() == wrong(like, "a red star right of a red star")
    assert wrong(like, "a red star above a red star") == {"relation", "everything"}


def test_the_third_thing_is_held_against_both_of_the_others():
    prompt = "a small red star left of a large blue square, both above a small pink moon"
    moon = thing("small pink moon", 0.5, 0.8)
    assert wrong(seen(moon, SQUARE, STAR), prompt) == set()
    assert wrong(seen(replace(moon, y=0.2), SQUARE, STAR), prompt) == {"relation", "everything"}
    assert wrong(seen(moon, replace(SQUARE, y=0.9), replace(STAR, y=0.65)), prompt) == {"relation", "everything"}


def test_what_the_prompt_does_not_say_is_not_asked():
    picture = seen(STAR, SQUARE)
    assert set(obeyed(picture, parse("a star and a square"))) == {"count", "shape", "everything"}
    assert set(obeyed(picture, parse("a red star and a square"))) == {
        *("count", "shape", "colour", "shape and colour", "everything")
    }
    assert wrong(picture, "a red square and a star") == {"shape and colour", "everything"}
    assert wrong(picture, "a star left of a square") == set() and wrong(picture, "a star") == {"count", "everything"}
    found = shares([picture, picture], ["a star and a square", "a star left of a square on a mint background"])
    assert {name: share.n for name, share in found.items()} == {
        **{"count": 2, "shape": 2, "relation": 1, "tint": 1, "everything": 2}
    }
    assert [found[name].right for name in ("relation", "tint", "everything")] == [1, 0, 0.5]


def test_the_place_is_the_one_that_scenes_mean():
    for scene in SCENES:
        if scene.place:
            assert obedience.place_of(seen_in(scene).things[0]) == scene.place
    assert obedience.place_of(thing("small red star", 0.2, 0.7)) == "at the left"
    assert obedience.place_of(thing("small red star", 0.3, 0.8)) == "at the bottom"
    small, large = (0.5 + 0.75 * (0.45 - radius) for radius in (1.06 * 0.115, 1.06 * 0.195))
    assert 0.5 + 0.05 < 0.5 + obedience.CENTRE < min(small, large)


def test_another_scenes_caption_is_obeyed_by_chance_alone():
    found = shares([seen_in(scene) for scene in SCENES], SCENES[1:] + SCENES[:1])
    n = len(SCENES)
    for name, chance in (("count", 1 / 3), ("pattern", 1 / 6), ("tint", 1 / 6)):
        assert found[name].right == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / n))
        assert found[name].error == pytest.approx(math.sqrt(chance * (1 - chance) / n), rel=0.1)
    assert found["shape and colour"].right < 0.02 and found["everything"].right == 0


def test_the_error_is_the_scatter_of_a_share_and_leaves_doubt_where_all_are_right():
    rng = torch.Generator().manual_seed(0)
    draws = [Share.of((torch.rand(200, generator=rng) < 0.9).tolist()) for _ in range(400)]
    scatter = torch.tensor([share.right for share in draws]).std().item()
    assert scatter == pytest.approx(sum(share.error for share in draws) / len(draws), rel=0.15)
    assert (
        Share.of([True] * 98).error == pytest.approx(math.sqrt(0.99 * 0.01 / 98)) and Share.of([True] * 98).right == 1
    )


def test_mistakes_are_one_clear_line():
    with pytest.raises(ValueError, match="1 prompts for 2 pictures; expected one for each"):
        shares([seen(STAR), seen(STAR)], ["a star"])
    with pytest.raises(ValueError, match="the prompt “a cat”"):
        shares([seen(STAR)], ["a cat"])
