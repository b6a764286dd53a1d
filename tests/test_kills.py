"""Commands killed at random moments, half of them while they touch their folder: what is left is whole."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

COUNTS = {"train pixel": 30, "train latent": 30, "compare": 20, "reference": 20}


def killed(counts: dict[str, int], tmp_path) -> None:
    home = tmp_path / "home"
    for folder in ("records", "checkpoints"):
        (home / folder).mkdir(parents=True)
    env = os.environ | {"LDM_HOME": str(home), "LDM_PROFILE": "smoke", "OMP_NUM_THREADS": "1"}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")])}
    words = [sys.executable, str(ROOT / "tests" / "killed.py"), json.dumps(counts)]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads(done.stdout.splitlines()[-1])
    print(results)
    for name, result in results.items():
        assert not [state for state in result["found"] if state.startswith("!")], (name, result)
        assert result["at the end"] == "all" and result["hidden"] == [] and result["same bytes"], (name, result)
        assert sum(result["found"].values()) == counts[name]


def test_a_training_that_is_killed_leaves_whole_sets_and_ends_with_the_same_bytes(tmp_path):
    killed({"train latent": 4}, tmp_path)


@pytest.mark.long
def test_a_hundred_kills(tmp_path):
    killed(COUNTS, tmp_path)
