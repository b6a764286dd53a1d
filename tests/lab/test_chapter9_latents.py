"""Chapter 9's tables and figures of autoencoders, from a record made up here."""

import pytest
import torch

from ldm_course.lab import latents
from ldm_course.lab.stages.latents import MEASURES, REBUILT, ranks_of
from ldm_course.measure.diffusability import channel_spectra
from ldm_course.measure.ranks import rank_correlation


def quality(kd_e):
    return {"kd_e": kd_e, "kd_e_error": 0.01, "n_generated": 1000}


def row(name, rebuilt, drawn, side=8):
    power, _ = channel_spectra(torch.randn(4, 2, side, side, generator=torch.Generator().manual_seed(0)))
    return {
        "method": name,
        "shape": [2, side, side],
        "reconstruction": {"psnr": 30 - 10 * rebuilt, "perceptual": rebuilt, "quality": quality(rebuilt)},
        "latents": {
            "spectrum": power.tolist(),
            "fine_share": 0.4,
            "fine_share_of_pictures": 0.2,
            "smoothness": {"half the size": 0.3, "one pixel": 0.1},
        },
        "quality": quality(drawn),
    }


def record(*pairs):
    rows = [row(f"no. {i}", *pair) for i, pair in enumerate(pairs)]
    rank = rank_correlation(*zip(*pairs))._asdict()
    pictures, _ = channel_spectra(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    ranks = {"drawn": {name: rank for name in MEASURES}}
    return {"results": {"rows": rows, "ranks": ranks, "pictures_spectrum": pictures.tolist(), "data": {"size": 16}}}


SAME = record(*((0.1 * i, 0.2 * i) for i in range(1, 7)))
OPPOSITE = record(*((0.1 * i, 2 - 0.2 * i) for i in range(1, 7)))
MIXED = record((0.1, 0.3), (0.2, 0.1), (0.3, 0.2))


def test_every_measure_has_its_words():
    assert set(latents.CALLED) == set(MEASURES)


def test_a_row_for_each_and_a_cell_under_each_title():
    for head, body in (latents.autoencoders(SAME), latents.ranks(SAME)):
        assert body and {len(cells) for cells in body} == {len(head)}
    assert latents.autoencoders(SAME)[1][0] == [
        "no. 0", "2 × 8 × 8", "29.0 dB", "0.100 ± 0.010", "2.0x", "0.30", "0.200 ± 0.010",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "word"),
    [(SAME, "agree "), (OPPOSITE, "are opposed"), (MIXED, "cannot be told")],
    ids=("same", "opposite", "mixed"),
)
def test_the_sentence_depends_on_the_numbers(found, word):
    rank = found["results"]["ranks"]["drawn"][REBUILT]
    assert latents.agreement(rank).startswith(word)
    assert latents.agreement(rank) in latents.best_guide(found)
    assert word.strip() in latents.in_a_minute(found)


@pytest.mark.parametrize(
    ("found", "guides"),
    [(SAME, "in the order of the lesson"), (OPPOSITE, "in the opposite order"), (MIXED, "none of the guides")],
    ids=("same", "opposite", "mixed"),
)
def test_the_lesson_is_held_against_the_run(found, guides):
    rows = found["results"]["rows"]
    named = {"more KL": rows[0], "standard": rows[2], "equivariant": rows[-1]}
    said = latents.against_the_lesson(
        {"results": found["results"] | {"rows": [row | {"method": name} for name, row in named.items()]}}
    )
    assert said.startswith("Over all 3, ") and guides in said.split(").")[0]
    better, worse = ("better", "worse") if found is SAME else ("worse", "better")
    if found is not MIXED:
        assert "by fine waves, halving and a shift by a pixel what is drawn" in said
        assert f"2.0 dB better, and what is drawn is {better}" in said
        assert f"3.0 dB worse, and what is drawn is {worse}" in said


def test_only_latents_of_one_shape_are_held_against_each_other():
    """Of two grids each in the order of the lesson, which together are in the opposite one."""
    fine, rows = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], []
    drawn = [0.9, 0.91, 0.92, 0.93, 0.94, 0.1, 0.11, 0.12, 0.13, 0.14]
    for i, (share, far) in enumerate(zip(fine, drawn)):
        of = row("standard" if i == 0 else f"no. {i}", 0.1 * i, far, side=8 if i < 5 else 4)
        of["latents"] |= {"fine_share": share, "smoothness": {"half the size": share, "one pixel": share}}
        rows.append(of)
    rows += [rows[0] | {"method": name, "shape": [1, 4, 4]} for name in ("more KL", "equivariant")]
    made = {"results": {"rows": rows, "ranks": ranks_of(rows)}}
    assert [of["method"] for of in latents.of_one_shape(made)] == ["standard", "no. 1", "no. 2", "no. 3", "no. 4"]
    said = latents.against_the_lesson(made)
    assert "Among the 5 of one shape" in said and "by fine waves, halving and a shift by a pixel what is drawn" in said
    cells = dict((name, rest) for name, *rest in latents.ranks(made)[1])
    assert cells[latents.CALLED["fine share"]][2:] == ["+1.00", "1.7%"]  # 2 of 5! orders


def test_the_ends_are_named():
    ends = {kind: of["method"] for kind, of in latents.extremes(OPPOSITE).items()}
    assert ends == {"best rebuilt": "no. 0", "worst rebuilt": "no. 5", "best drawn": "no. 5"}
    said = latents.row_by_row(record((0.1, 0.3), (0.2, 0.3)), ["no. 0", "no. 1"])
    assert "have less than half of that" in said[0] and "have half of that or more" in said[1]


def test_the_budget_is_said():
    results = {"crops": 12_000, "images": 72_000, "epochs": 20.2, "data": {"train": 3_000}}
    assert latents.budget({"results": results}) == (
        "One training each: an autoencoder on 12,000 crops (4.0 of a picture), a denoiser on 72,000 pictures "
        "(20 epochs)."
    )


def test_white_noise_lies_at_one():
    noise = torch.randn(64, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    power = latents.relative_power(channel_spectra(noise)[0], 16)
    assert power.shape == (9,) and (power[1:] - 1).abs().max() < 0.15


def test_figures_show_each_once():
    figure = latents.orders(SAME)
    assert [text.get_text() for text in figure.axes[0].texts] == [f"no. {i}" for i in range(6)]
    figure = latents.spectra(SAME, ["no. 1"])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["pictures", "no. 1"]
    words = [text.get_text() for axes in latents.published().axes for text in axes.texts]
    assert len(words) == sum(map(len, latents.PUBLISHED.values()))
