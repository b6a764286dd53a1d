"""What several tests share."""

from pathlib import Path

import numpy as np

from ldm_course.data import scenes
from ldm_course.lab.profiles import PROFILES

ROOT = Path(__file__).resolve().parent.parent
SMOKE = PROFILES["smoke"]


def empty_house(tmp_path_factory) -> Path:
    """The course's folders, empty, for LDM_HOME to name."""
    home = tmp_path_factory.mktemp("home")
    for name in ("records", "checkpoints"):
        (home / name).mkdir()
    return home


def stand_in_for_cifar10(folder: Path, count: int = 96) -> None:
    """Puts a `cifar10.npz` of scenes with two classes into a folder, for LDM_DATA to name: machines have no network."""
    arrays = {"classes": np.array(["a", "b"]), "source": np.array("scenes that stand in for CIFAR-10")}
    for split, first in (("train", 0), ("test", 1000)):
        images = scenes.render(0, range(first, first + count), 32)
        arrays |= {f"{split}_images": images.permute(0, 2, 3, 1).numpy(), f"{split}_labels": np.arange(count) % 2}
    np.savez(folder / "cifar10.npz", **arrays)
