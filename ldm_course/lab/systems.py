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
size": attention on no larger grid than in latents; SD 3's has larger patches.
Memory is by the rules of measure.closed_forms, with fused attention. Rates:
"here" is the best that a large product or convolution reached just now, so a
picture takes longer; the GPUs' are SD 1.5's FLOPs times the steps a second
that Hugging Face measured (diffusers, optimization/torch2.0, batches of 4,
half precision, not compiled); by a published time of SDXL's, too long for it
by less than a factor of two."""


def sections(systems: Sequence[System], rates: Mapping[str, float] | None = None) -> list[Section]:
    """The table in its parts: parameters, FLOPs, the decoder's share, pixels against latents, memory, seconds.

    `rates`: by name, FLOP/s of machines besides those of `published.CARDS`.
    """
    counted = [make(systems) for make in (_parameters, _flops, _shares, _in_pixels, _memory)]
    return [*counted, _seconds(systems, {**(rates or {}), **{name: card.rate for name, card in CARDS.items()}})]


def as_text(systems: Sequence[System], rates: Mapping[str, float] | None = None) -> str:
    """For the terminal, in lines of at most 79 characters where there are three systems; `rates` as in `sections`."""
    lines = [_line("", [s.name for s in systems])]
    lines.append(_line("pictures", [f"{s.size} x {s.size}" for s in systems]))
    lines.append(_line("latents", [" x ".join(map(str, s.latent())) for s in systems]))
    for title, rows in sections(systems, rates):
        lines += ["", title, *(_line(f"  {label}", cells) for label, cells in rows)]
    return "\n".join(lines)


def _line(label: str, cells: Sequence[str]) -> str:
    return f"{label:{LABEL}}" + "".join(f"{cell:>{CELL}}" for cell in cells)


def _parameters(systems: Sequence[System]) -> Section:
    found = [s.parameters() for s in systems]
    names = {"text": "text encoders", "denoiser": "denoiser", "autoencoder": "autoencoder"}
    rows = [(name, [si(each[part]) for each in found]) for part, name in names.items()]
    return "parameters", [*rows, ("in all", [si(sum(each.values())) for each in found])]


def _flops(systems: Sequence[System]) -> Section:
    def counted(flops: Sequence[int]) -> list[str]:
        return [si(each, "FLOP") for each in flops]

    passes = [s.decode().flops.total / s.denoise().flops.total for s in systems]
    return "FLOPs", [
        ("text encoders, a prompt", counted([s.text().flops.total for s in systems])),
        ("denoiser, a pass", counted([s.denoise().flops.total for s in systems])),
        ("encoder, for training", counted([s.encode().flops.total for s in systems])),
        ("decoder", counted([s.decode().flops.total for s in systems])),
        ("  in passes of the denoiser", [f"{each:.2f}" for each in passes]),
        ("steps, of two guided passes", [str(s.steps) for s in systems]),
        ("a picture", counted([_picture(s) for s in systems])),
    ]


def _picture(s: System) -> int:
    return sum(flops.total for flops in s.picture().values())


def _shares(systems: Sequence[System]) -> Section:
    rows = []
    for steps in (50, 20, DISTILLED, 1):
        guided = steps > DISTILLED
        found = [s.shares(steps, guided=guided) for s in systems]
        cells = [f"{each['decoder']:.1%}, {each['text']:.1%}" for each in found]
        rows.append((f"{steps} step{'s' * (steps > 1)}{', guided' if guided else ', not guided'}", cells))
    return "share of a picture's FLOPs: the decoder's, the text encoders'", rows


def _in_pixels(systems: Sequence[System]) -> Section:
    fewer = [values(s.size, s.size, 3) / values(*s.latent()) for s in systems]
    weights = [HALF * s.in_pixels().attention_weights(s.size, s.tokens) / GIB for s in systems]
    return "pixels over latents", [
        ("values", [times(each) for each in fewer]),
        ("a pass, the same network", [f"{s.pixels_over_latents():,.0f}x" for s in systems]),
        ("  one attention's weights", [f"{each:,.0f} GiB" for each in weights]),
        ("a pass, built for the size", [times(s.pixels_over_latents(built=True)) for s in systems]),
    ]


def _memory(systems: Sequence[System]) -> Section:
    def gib(bytes_each: Sequence[Sequence[int]], digits: int) -> list[str]:
        return [", ".join(f"{n / GIB:.{digits}f}" for n in each) for each in bytes_each]

    def both(counts: Sequence[int]) -> list[str]:
        return gib([[HALF * n, FULL * n] for n in counts], 2)

    rows = [("weights", both([sum(s.parameters().values()) for s in systems]))]
    for side in (512, 1024):
        rows.append((f"denoiser's activations, {side}", both([s.denoise(side).live for s in systems])))
        rows.append((f"decoder's activations, {side}", both([s.decode(side).live for s in systems])))
    for side in (512, 1024):
        runs = [[s.running_bytes(side, each) for each in (HALF, FULL)] for s in systems]
        rows.append((f"sampling, guided, {side}", gib(runs, 1)))
    for side in (512, 1024):
        rows.append((f"training, one picture, {side}", gib([[s.training_bytes(side)] for s in systems], 1)))
    return "memory in GiB, at least: in half precision, in float32", rows


def _seconds(systems: Sequence[System], rates: Mapping[str, float]) -> Section:
    rows = [
        (f"{name}, {si(rate, 'FLOP/s')}", [seconds(_picture(s) / rate) for s in systems])
        for name, rate in rates.items()
    ]
    return "time of a picture: its FLOPs over a rate, an estimate", rows
