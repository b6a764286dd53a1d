"""The published systems' table: what stands in it is what is counted, in lines that a terminal holds."""

from dataclasses import replace

import pytest

from ldm_course.lab import systems
from ldm_course.measure.published import CARDS, GIB, SD15, SYSTEMS
from ldm_course.page.numbers import seconds, si

ALL = list(SYSTEMS.values())


def cells(found, of):
    return {
        label.strip(): row for title, rows in systems.sections(found) if title.startswith(of) for label, row in rows
    }


def test_the_table_has_what_is_counted():
    assert cells(ALL, "parameters")["denoiser"] == ["860 M", "2.57 G", "2.03 G"]
    flops = cells(ALL, "FLOPs")
    assert flops["denoiser, a pass"] == [si(s.denoise().flops.total, "FLOP") for s in ALL]
    assert flops["in passes of the denoiser"] == ["3.13", "1.55", "1.24"]
    shares = cells(ALL, "share")
    assert list(shares) == ["50 steps, guided", "20 steps, guided", "4 steps, not guided", "1 step, not guided"]
    found = SD15.shares(4, guided=False)
    assert shares["4 steps, not guided"][0] == f"{found['decoder']:.1%}, {found['text']:.1%}"
    pixels = cells(ALL, "pixels")
    assert pixels["values"] == ["48x", "48x", "12x"] and pixels["a pass, built for the size"] == ["36x", "18.9x", "1x"]
    assert pixels["one attention's weights"][0] == f"{8 * 512**4 * 2 / GIB:,.0f} GiB"
    memory = cells(ALL, "memory")
    assert memory["sampling, guided, 512"][0] == ", ".join(f"{SD15.running_bytes(each=n) / GIB:.1f}" for n in (2, 4))
    assert memory["training, one picture, 1024"][0] == f"{SD15.training_bytes(1024) / GIB:.1f}"
    whole = sum(flops.total for flops in SD15.picture().values())
    assert cells([SD15], "time")["RTX 3090, 41.5 TFLOP/s"] == [seconds(whole / CARDS["RTX 3090"].rate)]


def test_other_machines_stand_before_the_known_ones():
    title, rows = systems.sections([SD15], {"here": 1e12})[-1]
    whole = sum(flops.total for flops in SD15.picture().values())
    assert (
        "estimate" in title and rows[0] == ("here, 1 TFLOP/s", [seconds(whole / 1e12)]) and len(rows) == 1 + len(CARDS)
    )


@pytest.mark.parametrize("found", [ALL, ALL[:1]])
def test_lines_fit_a_terminal(found):
    text = systems.as_text(found, {"here, float32": 1.2345e11})
    assert max(map(len, (text + "\n" + systems.NOTES).splitlines())) <= 79
    assert text.splitlines()[2].split()[:1] == ["latents"] and "4 x 64 x 64" in text


def test_other_sizes():
    small = systems.as_text([replace(SD15, size=256)])
    assert "256 x 256" in small and "4 x 32 x 32" in small
    assert small != systems.as_text([SD15])
