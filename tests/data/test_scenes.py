"""The procedural scenes: pure, alike at all sizes, true to their captions, and quick."""

import re
import time
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_course.data import scenes
from ldm_course.data.shapes import SHAPES

FACTORS = scenes.factors_of(0, range(3000))


def splitmix64(x: int) -> int:
    """The finaliser in plain integers, to check the tensors' signed arithmetic."""
    mask = (1 << 64) - 1
    x &= mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return x ^ x >> 31


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten().float(), b.flatten().float()]))[0, 1].item()


# Randomness and purity


@given(st.integers(-(2**63), 2**63 - 1))
def test_the_hash_is_splitmix64(x):
    assert scenes._hash(torch.tensor([x])).item() % 2**64 == splitmix64(x)


def test_the_randomness_is_uniform_and_uncorrelated():
    u = scenes._uniform(0, torch.arange(20_000), 0, 4)
    assert u.min() >= 0 and u.max() < 1
    assert (u.mean(0) - 0.5).abs().max() < 0.01 and (u.var(0) - 1 / 12).abs().max() < 0.002
    others = [
        scenes._uniform(1, torch.arange(20_000), 0, 4),
        scenes._uniform(0, torch.arange(20_000), 1, 4),
        u.roll(1, 0),
    ]
    assert max(abs(correlation(u, other)) for other in others) < 0.02
    assert (torch.corrcoef(u.T) - torch.eye(4)).abs().max() < 0.03


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 2**41), min_size=2, max_size=20), st.sampled_from([8, 17, 32]))
def test_a_picture_does_not_depend_on_its_batch(seed, indices, size):
    batch = scenes.render(seed, indices, size)
    assert batch.shape == (len(indices), 3, size, size) and batch.dtype == torch.uint8
    for k in (0, len(indices) - 1):
        assert torch.equal(scenes.render(seed, [indices[k]], size)[0], batch[k])
    assert scenes.factors_of(seed, indices)[-1] == scenes.factors(seed, indices[-1])


def test_chunks_do_not_show():
    """At 128 a chunk holds 32 pictures; 70 of them cross two borders."""
    assert torch.equal(scenes.render(2, range(70), 128)[60:], scenes.render(2, range(60, 70), 128))


def test_pictures_and_seeds_differ():
    images = torch.cat([scenes.render(seed, range(50), 16) for seed in (0, 1)]).flatten(1)
    assert len(torch.unique(images, dim=0)) == 100


def test_every_size_shows_the_same_scene():
    large = scenes.render(0, range(24), 256).float()
    for size, least in ((16, 0.94), (32, 0.98), (64, 0.99), (128, 0.99)):
        small = scenes.render(0, range(24), size).float()
        shrunk = F.interpolate(large, size=size, mode="area")
        assert min(correlation(a, b) for a, b in zip(small, shrunk)) > least
        assert (small - shrunk).abs().mean() < 3


@pytest.mark.parametrize("size", [8, 1024])
def test_the_extreme_sizes(size):
    images = scenes.render(0, range(2), size)
    assert images.shape == (2, 3, size, size) and images.float().std() > 10


# Factors and captions


def test_everything_that_can_be_drawn_is_drawn_about_equally_often():
    things = [thing for scene in FACTORS for thing in scene.things]
    for values, options in (
        ([thing.shape for thing in things], SHAPES),
        ([thing.colour for thing in things], scenes.COLOURS),
        ([thing.size for thing in things], scenes.SIZES),
        ([scene.pattern for scene in FACTORS], scenes.PATTERNS),
        ([scene.tint for scene in FACTORS], scenes.TINTS),
        ([scene.relation for scene in FACTORS if scene.relation], scenes.RELATIONS),
        ([scene.both for scene in FACTORS if scene.both], scenes.RELATIONS),
        ([scene.place for scene in FACTORS if scene.place], scenes.PLACES),
        ([len(scene.things) for scene in FACTORS], (1, 2, 3)),
    ):
        share = [values.count(option) * len(options) / len(values) for option in options]
        assert min(share) > 0.8 and max(share) < 1.2, share


def holds(relation: str, a, b) -> bool:
    return {"left of": a.x < b.x, "right of": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[relation]


def test_relations_and_places_are_true_and_clear():
    for scene in FACTORS:
        a, *others = scene.things
        if scene.relation:
            b = others[0]
            assert holds(scene.relation, a, b)
            along, across = (a.x - b.x, a.y - b.y) if "of" in scene.relation else (a.y - b.y, a.x - b.x)
            assert abs(along) > abs(across), "closer to the other axis than to its own"
        if scene.both:
            assert all(holds(scene.both, thing, others[1]) for thing in (a, others[0]))
            assert ("of" in scene.both) != ("of" in scene.relation)
        if scene.place:
            dx, dy = a.x - 0.5, a.y - 0.5
            words = scene.place.split()[-1]
            side = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "centre": (0, 0)}[words]
            assert max(abs(dx - side[0] * abs(dx)), abs(dy - side[1] * abs(dy))) < 0.06
            assert (abs(dx) + abs(dy) > 0.15) == (side != (0, 0))


def test_things_neither_touch_nor_leave_the_picture():
    for scene in FACTORS:
        for k, a in enumerate(scene.things):
            assert a.radius + 0.05 - 1e-6 <= min(a.x, a.y, 1 - a.x, 1 - a.y)
            for b in scene.things[:k]:
                assert ((a.x - b.x) ** 2 + (a.y - b.y) ** 2) ** 0.5 >= a.radius + b.radius + 0.05 - 1e-6


def test_large_is_larger_than_small():
    radii = {size: [t.radius for scene in FACTORS for t in scene.things if t.size == size] for size in scenes.SIZES}
    assert max(radii["small"]) < 0.85 * min(radii["large"])


def test_the_caption_says_the_factors():
    thing = rf"a ({'|'.join(scenes.SIZES)}) ({'|'.join(scenes.COLOURS)}) ({'|'.join(SHAPES)})"
    place, relation = "|".join(scenes.PLACES), "|".join(scenes.RELATIONS)
    pattern = re.compile(
        rf"{thing} (?:({place})|({relation}) {thing}(?:, both ({relation}) {thing},)?)"
        rf" on a ({'|'.join(scenes.PATTERNS)}) ({'|'.join(scenes.TINTS)}) background"
    )
    for scene in FACTORS:
        told = pattern.fullmatch(scenes.caption(scene))
        assert told, scenes.caption(scene)
        a, b, c = (told.group(i, i + 1, i + 2) for i in (1, 6, 10))
        things = [(thing.size, thing.colour, thing.shape) for thing in scene.things]
        assert [thing for thing in (a, b, c) if thing[0]] == things
        assert told.group(4, 5, 9) == (scene.place, scene.relation, scene.both)
        assert told.group(13, 14) == (scene.pattern, scene.tint)


def test_the_picture_shows_the_factors():
    """In the picture itself: a thing's colour is at its middle, and the paper's tint in the corners."""
    solid = {"circle", "square", "triangle", "hexagon", "star", "heart"}
    images = scenes.render(0, range(300), 64, texture=0).float()
    palette = torch.tensor(list(scenes.COLOURS.values())).float()
    hues = F.normalize(palette - palette.mean(1, keepdim=True) + 1e-3, dim=1)
    wrong = checked = 0
    for image, scene in zip(images, FACTORS):
        for thing in scene.things:
            if thing.shape in solid and thing.colour != "white":
                colour = image[:, int(thing.y * 64), int(thing.x * 64)]
                nearest = (hues @ F.normalize(colour - colour.mean(), dim=0)).argmax()
                wrong += list(scenes.COLOURS)[nearest] != thing.colour
                checked += 1
        paper = torch.tensor(scenes.TINTS[scene.tint]).float()
        paper[1] += 0.5 * (paper[1] - paper[0]) * (scene.pattern == "shaded")
        assert (image[:, 1, 1] > paper.min(0).values * 0.9).all() and (image[:, 1, 1] < paper.max(0).values * 1.1).all()
    assert checked > 250 and wrong == 0


# Shapes


def test_shapes_have_the_areas_of_their_formulas():
    grid = (torch.arange(1000) + 0.5) / 500 - 1
    x, y = grid[None].expand(1000, 1000), grid[:, None].expand(1000, 1000)
    area = {name: (shape(x, y) < 0).float().mean().item() * 4 for name, shape in SHAPES.items()}
    assert area["circle"] == pytest.approx(torch.pi * 0.9**2, abs=0.01)
    assert area["ring"] == pytest.approx(torch.pi * (0.91**2 - 0.41**2), abs=0.01)
    assert area["square"] == pytest.approx(4 * 0.6**2 + 8 * 0.6 * 0.14 + torch.pi * 0.14**2, abs=0.01)
    hexagon = 2 * 3**0.5 * 0.78**2
    assert area["hexagon"] == pytest.approx(hexagon + 4 * 3**0.5 * 0.78 * 0.08 + torch.pi * 0.08**2, abs=0.01)
    triangle = 3**0.5 * 0.72**2
    assert area["triangle"] == pytest.approx(triangle + 6 * 0.72 * 0.1 + torch.pi * 0.1**2, abs=0.01)
    assert all(0.6 < value < 2.9 for value in area.values())


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_distances_within_the_unit_circle(name):
    grid = torch.linspace(-1.2, 1.2, 481, dtype=torch.float64)
    x, y = grid[None].expand(481, 481), grid[:, None].expand(481, 481)
    distance = SHAPES[name](x, y)
    assert (x**2 + y**2)[distance < 0].max().sqrt() < 1
    slope = torch.stack(torch.gradient(distance, spacing=0.005)).norm(dim=0)[2:-2, 2:-2]
    near = (distance.abs() < 0.05)[2:-2, 2:-2]
    assert slope.max() < 1.5
    assert (slope[near] - 1).abs().median() < 0.01
    mirror = distance.flip(1) if name != "moon" else distance.flip(0)
    assert (distance - mirror).abs().max() < 1e-9


def test_things_point_up():
    y = torch.linspace(-1, 1, 201)
    for name in ("triangle", "star"):
        assert (SHAPES[name](torch.tensor(0.6), y) < 0).nonzero().float().mean() > 100, f"{name}: its width is low"
    assert SHAPES["heart"](torch.tensor([0.0, 0.4]), torch.tensor([0.8, -0.7])).max() < 0
    assert SHAPES["heart"](torch.tensor([0.0, 0.6]), torch.tensor([-0.8, 0.6])).min() > 0


# Texture, motion, errors, speed


def test_the_texture_is_fine_grain_and_leaves_the_rest():
    none, fine, rough = (scenes.render(0, range(16), 128, texture).float() for texture in (0, 1, 4))
    assert 1 < (fine - none).std() < 8
    assert 2.5 < (rough - none).std() / (fine - none).std() < 4.2
    assert (fine - none).mean().abs() < 0.5
    blurred = F.avg_pool2d(fine - none, 16)
    assert blurred.std() < 0.3 * (fine - none).std(), "most of the grain must be gone from a coarse view"


def test_each_picture_may_have_a_texture_of_its_own():
    textures = torch.tensor([0.0, 0.25, 1.0, 4.0])
    together = scenes.render(0, range(4), 48, textures)
    for i, texture in enumerate(textures.tolist()):
        assert torch.equal(together[i], scenes.render(0, [i], 48, texture)[0])
    with pytest.raises(ValueError, match=r"texture=-0\.5, "):
        scenes.render(0, range(2), 32, torch.tensor([1.0, -0.5]))


def test_a_clip_starts_at_the_picture_loops_and_keeps_the_paper():
    for i in (4, 5, 11):
        frames = scenes.clip(0, i, 64, 8)
        assert frames.shape == (8, 3, 64, 64)
        assert torch.equal(frames[0], scenes.render(0, [i], 64)[0])
        assert torch.equal(scenes.render(0, [i], 64, time=1.0)[0], frames[0])
        steps = (frames.float() - frames.roll(1, 0).float()).abs().mean((1, 2, 3))
        assert steps.min() > 0.3, "every step moves, the one from the last frame to the first too"
        assert steps.max() < 3 * steps.min() + 3
        yx = (torch.stack(torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")) + 0.5) / 64
        near = torch.zeros(64, 64, dtype=torch.bool)
        for thing in scenes.factors(0, i).things:
            near |= ((yx[1] - thing.x) ** 2 + (yx[0] - thing.y) ** 2).sqrt() < 1.45 * thing.radius + 0.07
        assert torch.equal(frames[:, :, ~near], frames[:1, :, ~near].expand(8, -1, -1))


def test_the_painters_window_cuts_nothing_off(monkeypatch):
    """Painting each thing over the whole picture gives the same pixels as painting in its window."""
    times = torch.arange(40) / 40
    windowed = scenes.render(0, range(40), 48, time=times)
    paint = scenes._add_things
    monkeypatch.setattr(scenes, "_add_things", lambda *args, reach: paint(*args, reach=1.0))
    assert torch.equal(scenes.render(0, range(40), 48, time=times), windowed)


def test_motion_stays_within_the_picture():
    """The largest move is no more than the margin between a thing and the border."""
    t = torch.linspace(0, 1, 101, dtype=torch.float64) * 2 * torch.pi
    reach = scenes.MOTION * ((t.sin() ** 2 + ((1 - t.cos()) / 2) ** 2).sqrt().max())
    assert reach < scenes._MARGIN + 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scenes.render(0, [-1], 32), "numbered from 0"),
        (lambda: scenes.render(0, 3, 32), "numbered from 0"),
        (lambda: scenes.render(0, [0], 0), "size=0"),
        (lambda: scenes.render(0, [0], 32, texture=-1), "texture=-1"),
        (lambda: scenes.clip(0, 0, 32, 0), "frames=0"),
    ],
)
def test_errors_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_an_empty_batch():
    assert scenes.render(0, [], 32).shape == (0, 3, 32, 32)
    assert scenes.factors_of(0, []) == []


def test_factors_are_plain_values():
    for value in asdict(FACTORS[2])["things"][0].values():
        assert type(value) in (str, float)


def test_rendering_is_fast():
    scenes.render(0, range(512), 32)
    start = time.process_time(), time.perf_counter()
    scenes.render(0, range(4096), 32)
    used, passed = time.process_time() - start[0], time.perf_counter() - start[1]
    print(f"{4096 / passed:,.0f} pictures/s at 32 x 32; {4096 / used:,.0f} per second of processor time")
    assert 4096 / min(used, passed) > 1500
