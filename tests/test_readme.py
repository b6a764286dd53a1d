"""The README's examples, as a stranger would type them: short, and they run."""

import re

import pytest
import torch
from conftest import ROOT
from PIL import Image

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_there_is_one_that_draws_and_one_that_trains():
    assert ["generate(8" in text for text in EXAMPLES] == [True, True]
    assert "pretrained" in EXAMPLES[0] and "path/to/folder" in EXAMPLES[1]


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_readmes_example_takes_ten_lines_and_gives_eight_pictures(text, tmp_path):
    assert len([line for line in text.splitlines() if line.strip()]) <= 10
    for i in range(24):
        Image.new("RGB", (40, 32), (10 * i, 99, 250 - 10 * i)).save(tmp_path / f"{i}.png")
    found = {}
    exec(text.replace("path/to/folder", str(tmp_path)).replace("seconds=1800", "steps=2"), found)
    pictures = found["pictures"]
    assert pictures.shape == (8, 3, 32, 32) and pictures.dtype == torch.uint8
    assert pictures.float().std() > 1
