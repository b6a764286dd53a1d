"""The package's architecture: arrows that run one way, a core that is read in one sitting, names loaded lazily."""

import subprocess
import sys

import pytest
from conftest import ROOT
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

import ldm_course

PACKAGE = ROOT / "ldm_course"
CORE = ("diffusion", "networks", "spaces.py", "denoiser.py", "checkpoints.py", "training", "data", "config.py")
ASIDE = {  # read when one needs them
    "interop.py",
    "weights.py",
    "foreign.py",
    "hub.py",
    "detector.py",
    "editing.py",
    "arrays.py",
    "clip.py",
    "clips.py",
    "video.py",
    "contrastive.py",
    "dit.py",
    "flow.py",
    "quantise.py",
    "equivariance.py",
    "graphs.py",
    "memory.py",
    "consistency.py",
    "emoji.py",
    "folders.py",
    "prompts.py",
    "scenes.py",
    "shapes.py",
    "superresolution.py",
}


def lines_of(place: str) -> int:
    path = PACKAGE / place
    files = path.rglob("*.py") if path.is_dir() else [path]
    return sum(len(file.read_text().splitlines()) for file in files if file.name not in ASIDE)


def test_imports_run_one_way():
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_the_core_can_be_read_in_one_sitting():
    assert 2000 < sum(map(lines_of, CORE)) < 4100


@pytest.mark.parametrize("name", sorted(set(ldm_course.__all__) - {"PUBLIC", "__version__"}))
def test_a_public_name_is_what_its_module_has(name):
    module = next(m for m, names in ldm_course.PUBLIC.items() if name in names)
    found = getattr(ldm_course, name)
    assert found.__name__ == name and found.__module__ == f"ldm_course.{module}"


def test_nothing_is_loaded_before_it_is_asked_for():
    asks = "print('torch' in sys.modules)"
    code = f"import sys, ldm_course; {asks}; ldm_course.make_schedule; {asks}"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert printed.split() == ["False", "True"]


def test_the_ledger_loads_no_trainer():
    """It only reads records; what trains takes seconds to load, and warns in notebooks without widgets."""
    code = (
        "import sys, ldm_course.lab.claims.ledger as _; print(sorted({'accelerate', 'tqdm.auto'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'unet_of_mine'"):
        _ = ldm_course.unet_of_mine
