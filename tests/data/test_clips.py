"""Clips: rendered as single pictures are, with tracks that are where the pictures show the things (chapter 9)."""

import pytest
import torch

from ldm_course.config import AutoencoderConfig
from ldm_course.data import clips, scenes
from ldm_course.data.clips import encode_clips, frames_of, load_clips
from ldm_course.data.loaders import load_data
from ldm_course.data.pictures import to_float
from ldm_course.diffusion.objectives import BatchRandom
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.training.recipes import seeded


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_CACHE", str(tmp_path))
    return tmp_path


def test_a_clip_begins_with_its_scene_and_is_one_period():
    found = load_clips(32, frames=4, limit=3)
    assert found.clips.shape == (3, 4, 3, 32, 32) and found.frames == 4 and found.size == 32
    assert torch.equal(found.clips[:, 0], load_data("scenes", 32, limit=3).images)
    for i in range(3):
        assert torch.equal(found.clips[i], scenes.clip(0, i, 32, 4))
    assert torch.equal(load_clips(32, "test", frames=2, limit=1).clips[0, 0], load_data("scenes", 32, "test").images[0])


def test_the_tracks_are_the_ellipses_on_which_things_go():
    """By the geometry alone: through the thing's own place, half-axes MOTION and MOTION / 2, once round."""
    tracks, known = scenes.tracks(3, range(20), 8), scenes.factors_of(3, range(20))
    for i, scene in enumerate(known):
        n = len(scene.things)
        assert tracks[i, :, n:].isnan().all() and tracks[i, :, :n].isfinite().all()
        for j, thing in enumerate(scene.things):
            path = tracks[i, :, j]
            assert path[0].tolist() == pytest.approx([thing.x, thing.y], abs=1e-12)
            middle = path.mean(0)
            apart = (path - middle).norm(dim=1)
            assert apart.max() == pytest.approx(scenes.MOTION, abs=1e-9)
            assert apart.min() == pytest.approx(scenes.MOTION / 2, abs=1e-9)
            assert torch.allclose(path[:4] - middle, middle - path[4:])  # half a period later, on the other side


def test_clips_are_kept_and_the_splits_share_none(cache):
    one = load_clips(16, frames=2, limit=5)
    path = next(cache.glob("clips-train-5-16-2-0.npz"))
    before = path.stat().st_mtime_ns
    assert torch.equal(load_clips(16, frames=2, limit=5).clips, one.clips) and path.stat().st_mtime_ns == before
    other = load_clips(16, "test", frames=2, limit=5)
    assert not any(torch.equal(a, b) for a in one.clips for b in other.clips)
    assert torch.equal(one.subset(torch.tensor([3, 1])).clips, one.clips[[3, 1]])


def test_what_is_drawn_is_what_the_networks_take():
    found = load_clips(16, frames=2, limit=5)
    rng = BatchRandom(0, 0, 2, slice(None), "cpu")
    assert torch.equal(found.draw(torch.tensor([4, 0]), rng), to_float(found.clips[[4, 0]]))
    assert torch.equal(found.pictures.images[5], found.clips[2, 1]) and len(found.pictures) == 10


def test_latents_of_a_clip_are_those_of_its_frames():
    model = seeded(0, Autoencoder, AutoencoderConfig(block_out_channels=(8, 8, 8)))
    found = load_clips(16, frames=2, limit=3)
    latents = encode_clips(model, found)
    assert latents.mean.shape == latents.std.shape == (3, 2, 4, 4, 4) and len(latents) == 3 and latents.size == 4
    with torch.no_grad():
        alone = model.to_latents(to_float(found.clips[2]))
    assert torch.allclose(latents.mean[2], alone, atol=1e-5)
    assert torch.equal(frames_of(latents).mean[5], latents.mean[2, 1])
    drawn = latents.draw(torch.tensor([1]), BatchRandom(0, 0, 1, slice(None), "cpu"))
    assert drawn.shape == (1, 2, 4, 4, 4)


@pytest.mark.parametrize("options", [{"frames": 1}, {"limit": 0}, {"split": "both"}])
def test_what_is_no_clip_is_refused(options):
    with pytest.raises(ValueError, match=r"expected"):
        clips.load_clips(16, **options)
