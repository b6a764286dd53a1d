"""What a picture costs with Stable Diffusion 1.5, SDXL and SD 3, as a table for a terminal or a page (chapter 8).

All of it is counted by formula (`measure.published`), on any machine and in a moment. Seconds are estimates: FLOPs over
a rate, that of this machine, measured, or that of a GPU, from a published measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..measure.complexity import values
from ..measure.published import CARDS, FULL, GIB, HALF, System
from ..page.numbers import seconds, si, times

Section = tuple[str, list[tuple[str, list[str]]]]  # what its rows are about; for each, its name and a cell a system

DISTILLED = 4  # a network that needs no more steps was made to need no guidance either
LABEL, CELL = 31, 16  # columns on a terminal: three systems in 79
NOTES = """\
Two FLOPs a multiply-add; 512, 1024: the side of the picture. "Built for the
size" attends to grids no larger than the latent network does; SD 3's has larger
patches. Memory is by the rules of measure.closed_forms, with fused attention.
Rates: "here" is the best that a large product or convolution reached just now,
so that a picture takes longer; the GPUs' are SD 1.5's FLOPs times the steps
a second that Hugging Face measured (diffusers, optimization/torch2.0, batches
of 4, half precision, not compiled), right within a factor of two for others."""


def sections(
    systems: Sequence[System], size: int | None = None, rates: Mapping[str, float] | None = None
) -> list[Section]:
    """The table in its parts: parameters, FLOPs, the decoder's share, pixels against latents, memory, seconds.

    At the systems' own sizes, or all at `size`, in pixels. `rates`: by name, FLOP/s of machines besides those of
    `published.CARDS`. ValueError: a size that their networks refuse.
    """
    counted = [make(systems, size) for make in (_parameters, _flops, _shares, _in_pixels, _memory)]
    return [*counted, _seconds(systems, size, {**(rates or {}), **{name: card.rate for name, card in CARDS.items()}})]


def as_text(systems: Sequence[System], size: int | None = None, rates: Mapping[str, float] | None = None) -> str:
    """For the terminal, in lines of at most 79 characters where there are three systems."""
    lines = [_line("", [s.name for s in systems])]
    lines.append(_line("pictures", [f"{size or s.size} x {size or s.size}" for s in systems]))
    lines.append(_line("latents", [" x ".join(map(str, s.latent(size))) for s in systems]))
    for title, rows in sections(systems, size, rates):
        lines += ["", title, *(_line(f"  {label}", cells) for label, cells in rows)]
    return "\n".join(lines)


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)


def _parameters(systems: Sequence[System], size: int | None) -> Section:
    found = [s.parameters() for s in systems]
    names = {"text": "text encoders", "denoiser": "denoiser", "autoencoder": "autoencoder"}
    rows = [(name, [si(each[part]) for each in found]) for part, name in names.items()]
    return "parameters", [*rows, ("in all", [si(sum(each.values())) for each in found])]


def _flops(systems: Sequence[System], size: int | None) -> Section:
    def counted(flops: Sequence[int]) -> list[str]:
        return [si(each, "FLOP") for each in flops]

    passes = [s.decode(size).flops.total / s.denoise(size).flops.total for s in systems]
    whole = [sum(flops.total for flops in s.picture(size=size).values()) for s in systems]
    return "FLOPs", [
        ("text encoders, a prompt", counted([s.text().flops.total for s in systems])),
        ("denoiser, a pass", counted([s.denoise(size).flops.total for s in systems])),
        ("decoder", counted([s.decode(size).flops.total for s in systems])),
        ("  in passes of the denoiser", [f"{each:.2f}" for each in passes]),
        ("steps, of two guided passes", [str(s.steps) for s in systems]),
        ("a picture", counted(whole)),
    ]


def _shares(systems: Sequence[System], size: int | None) -> Section:
    rows = []
    for steps in (50, 20, DISTILLED, 1):
        guided = steps > DISTILLED
        found = [s.shares(steps, size, guided) for s in systems]
        cells = [f"{each['decoder']:.1%}, {each['text']:.1%}" for each in found]
        rows.append((f"{steps} step{'s' * (steps > 1)}{', guided' if guided else ', not guided'}", cells))
    return "share of a picture's FLOPs: the decoder's, the text encoders'", rows


def _in_pixels(systems: Sequence[System], size: int | None) -> Section:
    def ratio(s: System) -> float:
        side, (c, h, w) = s.size if size is None else size, s.latent(size)
        return values(side, side, 3) / values(h, w, c)

    def weights(s: System) -> float:
        side = s.size if size is None else size
        return HALF * s.in_pixels(size).attention_weights(side, s.tokens) / GIB

    return "pixels over latents", [
        ("values", [times(ratio(s)) for s in systems]),
        ("a pass, the same network", [f"{s.pixels_over_latents(size):,.0f}x" for s in systems]),
        ("  an attention's weights there", [f"{weights(s):,.0f} GiB" for s in systems]),
        ("a pass, built for the size", [times(s.pixels_over_latents(size, built=True)) for s in systems]),
    ]


def _memory(systems: Sequence[System], size: int | None) -> Section:
    def gib(values: Sequence[int]) -> list[str]:
        return [", ".join(f"{each * n / GIB:.2f}" for each in (HALF, FULL)) for n in values]

    rows = [("weights", gib([sum(s.parameters().values()) for s in systems]))]
    for side in (512, 1024):
        rows.append((f"denoiser's activations, {side}", gib([s.denoise(side).live for s in systems])))
        rows.append((f"decoder's activations, {side}", gib([s.decode(side).live for s in systems])))
    for side in (512, 1024):
        runs = [[s.running_bytes(side, each) / GIB for each in (HALF, FULL)] for s in systems]
        rows.append((f"sampling, guided, {side}", [", ".join(f"{each:.1f}" for each in pair) for pair in runs]))
    for side in (512, 1024):
        rows.append((f"training, one picture, {side}", [f"{s.training_bytes(side) / GIB:.1f}" for s in systems]))
    return "memory in GiB, at least: in half precision, in float32", rows


def _seconds(systems: Sequence[System], size: int | None, rates: Mapping[str, float]) -> Section:
    whole = [sum(flops.total for flops in s.picture(size=size).values()) for s in systems]
    rows = [(f"{name}, {si(rate, 'FLOP/s')}", [seconds(each / rate) for each in whole]) for name, rate in rates.items()]
    return "time of a picture: its FLOPs over a rate, an estimate", rows
