"""The detector: its targets lead back to the scene, its loss is the paper's, and what it learns is not chance."""

import math
from dataclasses import replace

import pytest
import torch

from ldm_course import checkpoints
from ldm_course.config import TrainConfig
from ldm_course.data import scenes
from ldm_course.diffusion.objectives import BatchRandom
from ldm_course.measure import detection, obedience
from ldm_course.measure.detection import NETWORK, DetectorObjective, detect, detector_trainer, focal_loss, targets, worn
from ldm_course.networks.detector import STRIDE, Detector
from ldm_course.training.recipes import seeded

GRID = detection.SIDE // STRIDE
NEW = range(2**40, 2**40 + 200)


def without_fault(truth: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The output of a network that says exactly its targets."""
    maps = {"middle": torch.logit(truth["heat"], eps=1e-6), "offset": truth["offset"], "radius": truth["radius"]}
    for name in ("shape", "colour", "pattern", "tint"):
        values = len(getattr(NETWORK, f"{name}s"))
        maps[name] = torch.nn.functional.one_hot(truth[name], values).movedim(-1, 1).float()
    return maps


def test_what_says_the_targets_is_read_as_the_scene():
    known = scenes.factors_of(2, range(1000))
    for scene, seen in zip(known, detection._read(without_fault(targets(known, GRID)), NETWORK)):
        assert (seen.pattern, seen.tint) == (scene.pattern, scene.tint) and len(seen.things) == len(scene.things)
        for thing in scene.things:
            found = min(seen.things, key=lambda one, thing=thing: math.hypot(one.x - thing.x, one.y - thing.y))
            assert (found.shape, found.colour, found.size) == (thing.shape, thing.colour, thing.size)
            assert (found.x, found.y, found.radius) == pytest.approx((thing.x, thing.y, thing.radius), abs=1e-5)


def test_every_cell_is_told_of_the_nearest_thing():
    scene = next(scene for scene in scenes.factors_of(0, range(20)) if len(scene.things) == 3)
    truth = targets([scene], GRID)
    assert (truth["heat"] == 1).sum() == 3
    for row in range(GRID):
        for column in range(GRID):
            centre = (column + 0.5) / GRID, (row + 0.5) / GRID
            cells = [((int(t.x * GRID) + 0.5) / GRID, (int(t.y * GRID) + 0.5) / GRID) for t in scene.things]
            away = [math.dist(centre, cell) * GRID for cell in cells]
            assert truth["heat"][0, row, column].item() == pytest.approx(math.exp(-(min(away) ** 2) / 2), rel=1e-4)
            if sorted(away)[1] < min(away) + 1e-6:
                continue  # as far from one as from another
            nearest = scene.things[away.index(min(away))]
            assert NETWORK.shapes[truth["shape"][0, row, column]] == nearest.shape
            x, y = (truth["offset"][0, :, row, column] / GRID).tolist()
            assert (centre[0] + x, centre[1] + y) == pytest.approx((nearest.x, nearest.y), abs=1e-6)


def test_the_loss_of_middles_is_that_of_the_paper():
    rng = torch.Generator().manual_seed(0)
    logits, heat = (torch.randn(2, 4, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    heat = heat.sigmoid()
    heat[0, 1, 2] = heat[1, 0, 0] = heat[1, 3, 3] = 1
    total = 0.0
    for y_hat, y in zip(logits.sigmoid().flatten().tolist(), heat.flatten().tolist()):
        total += (1 - y_hat) ** 2 * math.log(y_hat) if y == 1 else (1 - y) ** 4 * y_hat**2 * math.log(1 - y_hat)
    assert focal_loss(logits, heat).item() == pytest.approx(-total / 3, rel=1e-12)


def test_wear_is_mild_and_leaves_half_of_the_pictures_alone():
    x = scenes.render(0, range(400), 64).float() / 127.5 - 1
    y = worn(x, BatchRandom(0, 0, 400, slice(None), "cpu"))
    alike = (y == x).flatten(1).all(1)
    assert 0.4 < alike.float().mean() < 0.6 and y.min() >= -1 and y.max() <= 1
    lost = 127.5 * (y - x)[~alike].square().mean((1, 2, 3)).sqrt()
    assert 2 < lost.median() < 12 and lost.max() < 25  # grey levels; the first stage loses four


def test_the_objective_draws_the_scenes_that_it_names_with_textures_of_their_own(monkeypatch):
    asked = []
    monkeypatch.setattr(detection, "worn", lambda x, rng: asked.append(x) or x)
    objective, indices = DetectorObjective(100, seed=4), torch.tensor([7, 3])
    objective(seeded(0, Detector, NETWORK), indices, BatchRandom(0, 0, 2, slice(None), "cpu"))
    bounds = [scenes.render(4, indices, 64, strength).float() / 127.5 - 1 for strength in (0, 1)]
    low, high = torch.minimum(*bounds), torch.maximum(*bounds)
    assert ((asked[0] >= low - 1e-5) & (asked[0] <= high + 1e-5)).all()
    part = (asked[0] - bounds[0]).flatten(1).norm(dim=1) / (bounds[1] - bounds[0]).flatten(1).norm(dim=1)
    textures = BatchRandom(0, 0, 2, slice(None), "cpu").uniform()
    assert part.tolist() == pytest.approx(textures.tolist(), abs=0.05)


def test_the_network_says_so_many_things_of_each_cell():
    network = replace(NETWORK, block_out_channels=(8, 16, 24))
    maps = seeded(0, Detector, network)(torch.randn(2, 3, 32, 64))
    assert {name: tuple(value.shape) for name, value in maps.items()} == {
        "middle": (2, 8, 16),
        "offset": (2, 2, 8, 16),
        "radius": (2, 8, 16),
        "shape": (2, 8, 8, 16),
        "colour": (2, 8, 8, 16),
        "pattern": (2, 6),
        "tint": (2, 6),
    }
    with pytest.raises(ValueError, match=r"the detector was given \(1, 3, 60, 64\); expected .* multiples of 8"):
        seeded(0, Detector, network)(torch.randn(1, 3, 60, 64))
    with pytest.raises(ValueError, match=r"pictures of shape \(1, 3, 32, 32\); the detector reads \(N, 3, 64, 64\)"):
        detect(seeded(0, Detector, network), torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_a_short_training_is_beyond_chance_and_the_same_again():
    network = replace(NETWORK, block_out_channels=(24, 32, 48))
    pictures, known = scenes.render(0, NEW, 64), scenes.factors_of(0, NEW)

    def trained(images: int) -> Detector:
        config = TrainConfig(
            batch_size=16, images=images, lr=5e-3, decay="cosine", warmup_steps=10, ema_decay=0.9, precision="no"
        )
        trainer = detector_trainer(images, config, network=network)
        trainer.run()
        return trainer.snapshot()

    one, other = trained(32), trained(32)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())
    seen = detect(trained(960), pictures)
    own, chance = obedience.shares(seen, known), obedience.shares(seen, known[1:] + known[:1])
    for name, least in (("count", 0.7), ("size", 0.5), ("tint", 0.7)):
        assert own[name].right > least > chance[name].right, name
    assert own["colour"].right > 2 * chance["colour"].right


def test_the_courses_own_detector_reads_new_scenes():
    pictures, known = scenes.render(0, NEW, 64), scenes.factors_of(0, NEW)
    found = obedience.score(pictures, [scenes.caption(scene) for scene in known])
    assert min(share.right for share in found.values()) > 0.9 and found["count"].right > 0.97
    assert obedience.score(pictures.flip(3), known)["relation"].right < 0.6
    path = checkpoints.pretrained_path("scene-detector-64")
    assert path.stat().st_size < 2**20 and detection.detector().config.shapes == NETWORK.shapes
