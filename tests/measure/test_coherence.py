"""Coherence: tracks by closed form, flicker of what stands still, and instruments that know what must fail."""

import math

import pytest
import torch

from ldm_course.data import scenes
from ldm_course.measure import coherence, detection
from ldm_course.measure.coherence import (
    Mean,
    clip_distances,
    clip_features,
    flicker,
    from_ellipse,
    matched,
    mixed,
    motion,
    shuffled,
    tracks,
)
from ldm_course.measure.detection import Found

FRAMES = 8


def found(x, y, shape="star", colour="red"):
    return Found(shape, colour, "small", x, y, 0.12)


def straight(speed=0.03, frames=FRAMES, y=0.3, **kind):
    return [found(0.2 + speed * k, y, **kind) for k in range(frames)]


def round_once(a=0.05, b=0.02, frames=FRAMES):
    turn = [2 * math.pi * k / frames for k in range(frames)]
    return [found(0.5 + a * math.cos(t), 0.5 + b * math.sin(t)) for t in turn]


def clips(n=12, size=64, frames=FRAMES):
    return torch.stack([scenes.clip(0, i, size, frames) for i in range(n)])


def test_constant_velocity_has_no_bend_and_its_step_is_its_speed():
    of = motion([[thing] for thing in straight()])
    assert of["kept"] == 1 and of["step"] == pytest.approx(0.03) and of["bend"] == pytest.approx(0, abs=1e-12)
    still = motion([[found(0.4, 0.4)]] * FRAMES)
    assert still == {"kept": 1, "step": 0, "bend": 0, "off_path": pytest.approx(0, abs=1e-12)}


def test_an_ellipse_bends_by_its_closed_form_and_is_not_off_its_path():
    """x'' of a cos(2πk/F) is 2 (1 - cos(2π/F)) a; so it is for b sin, and the squares' means are a²/2 and b²/2."""
    ring = [[thing] for thing in round_once()]
    of = motion(ring + ring[:2])  # the loop goes on, so that each of its frames is a middle one
    factor = 2 * (1 - math.cos(2 * math.pi / FRAMES))
    assert of["bend"] == pytest.approx(factor * math.sqrt((0.05**2 + 0.02**2) / 2))
    assert motion(ring)["off_path"] == pytest.approx(0, abs=1e-9)


def test_what_is_left_of_an_ellipse_is_what_is_no_ellipse():
    """The second harmonic is orthogonal to what is fitted, so all of it is left."""
    turn = 2 * math.pi * torch.arange(FRAMES, dtype=torch.float64) / FRAMES
    extra = 0.01 * torch.stack([(2 * turn).cos(), (2 * turn).sin()], 1)
    path = torch.stack([0.5 + 0.05 * turn.cos(), 0.4 + 0.02 * turn.sin()], 1)
    assert torch.allclose(from_ellipse(path + extra), extra, atol=1e-9)


def test_things_are_matched_so_that_they_go_least_in_all():
    a, b = [found(0.2, 0.5), found(0.5, 0.5)], [found(0.48, 0.5), found(0.75, 0.5)]
    assert matched(a, b) == [(0, 0), (1, 1)]  # the nearest to a[1] is b[0], but then a[0] would go far
    assert matched(a, b[:1]) == [(1, 0)] and matched(a, []) == []


def test_tracks_end_where_a_thing_is_lost_and_new_ones_begin():
    one, other = straight(frames=4), straight(frames=4, y=0.8, shape="moon")
    seen = [[one[0], other[0]], [other[1]], [one[2], other[2]], [other[3], one[3]]]
    paths = [[thing and thing.shape for thing in path] for path in tracks(seen)]
    assert paths == [["star", None, None, None], ["moon"] * 4, [None, None, "star", "star"]]
    of = motion(seen)
    assert of["kept"] == pytest.approx((1 + 1 + 2) / (2 + 2 + 2)) and of["step"] == pytest.approx(0.03)


def test_a_thing_that_becomes_another_is_not_kept():
    seen = [[thing] for thing in straight(frames=3)] + [[found(0.29, 0.3, colour="blue")]]
    assert motion(seen)["kept"] == pytest.approx(2 / 3)
    assert motion([[]] * 4)["kept"] == 0 and math.isnan(motion([[]] * 4)["bend"])


def test_a_mean_leaves_out_what_does_not_tell():
    of = Mean.of([1.0, math.nan, 3.0])
    assert (of.mean, of.n) == (2, 2) and of.error == pytest.approx(1)
    assert math.isnan(Mean.of([math.nan]).mean) and Mean.of([1.0]).error == math.inf


def test_the_ground_of_real_clips_does_not_flicker():
    real = clips()
    assert flicker(real).max() == 0
    chance = torch.Generator().manual_seed(0)
    light = torch.randn(len(real), FRAMES, 1, 1, 1, generator=chance) * 4
    lit = (real.float() * 0.8 + 25 + light).round().to(torch.uint8)
    expected = light.diff(dim=1).square().mean((1, 2, 3, 4)).sqrt()
    assert (flicker(lit) - expected).abs().max() < 0.5  # rounding


def test_what_must_fail_fails():
    real = clips(n=24)
    reference = coherence.ClipReference(torch.stack([scenes.clip(0, 1000 + i, 64, FRAMES) for i in range(48)]))
    good, turned, others = (clip_distances(x, reference) for x in (real, shuffled(real), mixed(real)))
    for bad in (turned, others):
        change = bad["changes"]["kd_e"] - good["changes"]["kd_e"]
        assert change > 2 * math.hypot(bad["changes"]["kd_e_error"], good["changes"]["kd_e_error"])
    apart = abs(turned["frames"]["kd_e"] - good["frames"]["kd_e"])
    assert apart < 2 * math.hypot(turned["frames"]["kd_e_error"], good["frames"]["kd_e_error"])
    assert flicker(mixed(real)).mean() > 10 and flicker(shuffled(real)).max() == 0
    assert good["changes"]["n_generated"] == 24


def test_the_courses_detector_tells_real_clips_from_what_must_fail():
    real = clips(n=12)
    good, turned, others = (coherence.coherence(x) for x in (real, shuffled(real), mixed(real)))
    assert good["kept"].mean > 0.9 and good["off_path"].mean < 0.004
    ellipse = 2 * math.pi / FRAMES * scenes.MOTION * math.sqrt((1 + 1 / 4) / 2)
    assert good["step"].mean == pytest.approx(ellipse, rel=0.1)
    assert turned["bend"].mean > 2.5 * good["bend"].mean and turned["off_path"].mean > 10 * good["off_path"].mean
    assert others["kept"].mean < 0.1 and others["bend"].mean > 10 * good["bend"].mean
    small = torch.stack([scenes.clip(0, i, 32, FRAMES) for i in range(6)])
    assert coherence.coherence(small)["kept"].mean > 0.75  # enlarged for the detector


def test_what_the_detector_follows_goes_where_the_things_go():
    real, true = clips(n=12), scenes.tracks(0, range(12), FRAMES)
    seen = detection.detect(detection.detector(), real.flatten(0, 1))
    off = []
    for i in range(12):
        for path in tracks([one.things for one in seen[FRAMES * i : FRAMES * (i + 1)]]):
            if all(path):
                path = torch.tensor([[thing.x, thing.y] for thing in path], dtype=torch.float64)
                off.append(min((path - true[i, :, j]).norm(dim=1).max().item() for j in range(3)))
    assert len(off) > 15 and sorted(off)[len(off) // 2] < 0.006 and sorted(off)[-2] < 0.02


def test_shuffled_clips_have_the_same_frames_in_another_order():
    real = clips(n=6)
    for before, after in zip(real, shuffled(real)):
        order = [next(k for k in range(FRAMES) if torch.equal(before[k], frame)) for frame in after]
        steps = {(b - a) % FRAMES for a, b in zip(order, order[1:] + order[:1])}
        assert sorted(order) == list(range(FRAMES)) and len(steps) > 1
    assert not torch.equal(shuffled(real, 0), shuffled(real, 1))


def test_mixed_clips_have_all_frames_once_and_none_of_one_clip():
    marked = torch.arange(9 * FRAMES, dtype=torch.uint8).view(9, FRAMES, 1, 1, 1).expand(-1, -1, 3, 2, 2)
    of = mixed(marked)[..., 0, 0, 0].long()
    assert sorted(of.flatten().tolist()) == list(range(9 * FRAMES))
    assert (
        all(len(set((row // FRAMES).tolist())) == FRAMES for row in of) and (of % FRAMES == torch.arange(FRAMES)).all()
    )


def test_frames_of_the_features_are_one_of_each_clip():
    real = clips(n=5, size=32, frames=3)
    of = clip_features(real)
    every = coherence.pooled_features(real.flatten(0, 1)).unflatten(0, (5, 3))
    assert torch.allclose(of.frames[4], every[4, 1], atol=1e-4)
    two = (every[2, 1] - every[2, 0]).abs() + (every[2, 2] - every[2, 1]).abs()
    assert torch.allclose(of.changes[2], two / 2, atol=1e-4)


def test_what_is_no_clip_is_refused():
    for bad in (clips(n=2)[:, 0], clips(n=2).float()):
        with pytest.raises(ValueError, match=r"expected clips"):
            coherence.coherence(bad)
    with pytest.raises(ValueError, match="at least 3 frames"):
        coherence.coherence(clips(n=2, frames=2))
    with pytest.raises(ValueError, match="at least 4 frames"):
        shuffled(clips(n=2, frames=3))
    with pytest.raises(ValueError, match="as many clips as frames"):
        mixed(clips(n=2))
