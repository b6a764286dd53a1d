"""The diagrams of the architectures, drawn from the configurations themselves, so that no number in them can go stale.

    python book/make_diagrams.py

writes `unet.svg`, `autoencoder.svg`, `latent_system.svg` and `course_map.svg` into `assets/`; a test draws them
again and compares.
Colours, card and type are those of `assets/two_spaces.svg`: orange is pixel space, blue latent space.
"""

from __future__ import annotations

import inspect
import random
import re
from pathlib import Path

from ldm_course.config import AutoencoderConfig, UNetConfig
from ldm_course.measure.complexity import autoencoder_flops, count_parameters, latent_shape, unet_flops
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.unet import UNet
from ldm_course.page.numbers import si
from ldm_course.page.plotting import CARD, LATENT, NEUTRAL, PIXEL
from ldm_course.training.reconstruction import AutoencoderObjective

ASSETS = Path(__file__).parent.parent / "assets"
SIZE = 32  # pixels a side, as in the chapters
QUIET = "#5B6470"
WIDTH = 460  # so narrow that the text can be read on a phone
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"

FACE = ["..oooo..", ".oooooo.", "ooxooxoo", "ooxooxoo", "oooooooo", "oxooooxo", ".oxxxxo.", "..oooo.."]
INNER = ["cbbc", "baab", "dbbd", "caac"]
SHADES = {"o": "#E8833A", "x": "#8F3A00", "a": "#00456F", "b": "#357299", "c": "#9CCBEA", "d": "#195A82"}


class Drawing:
    """A card of `WIDTH` by `height`, and what is drawn on it; `words` is its alternative text."""

    def __init__(self, height: float, words: str):
        self.height, self.words, self.parts = height, words, []

    def text(self, x, y, words, size=13, colour=QUIET, bold=False, anchor="middle"):
        """`_t` in the words is a subscript; a list of (words, colour) is one line."""
        spans = words if isinstance(words, list) else [(words, colour)]
        inner = "".join(f'<tspan fill="{c}">{_subscripts(w)}</tspan>' for w, c in spans)
        weight = ' font-weight="700"' if bold else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" font-size="{size}"{weight} text-anchor="{anchor}">{inner}</text>')

    def box(self, x, y, width, height, colour=NEUTRAL, fill="#fff", lines=()):
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{fill}" '
            f'stroke="{colour}" stroke-width="2"/>'
        )
        middle = y + height / 2 - 9 * (len(lines) - 1)
        for i, (words, bold) in enumerate(lines):
            self.text(
                x + width / 2, middle + 18 * i + 4.5, words, 14 if bold else 12.5, colour if bold else QUIET, bold
            )

    def arrow(self, *points, dashed=False, colour=QUIET):
        """Along the points, with its head at the last."""
        (x0, y0), (x1, y1) = points[-2:]
        along = (1 if x1 > x0 else -1, 0) if y0 == y1 else (0, 1 if y1 > y0 else -1)
        side = (along[1], along[0])
        wings = [(x1 - 6 * along[0] + 5 * s * side[0], y1 - 6 * along[1] + 5 * s * side[1]) for s in (1, -1)]
        line = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        head = "M" + " L".join(f"{x:g} {y:g}" for x, y in (wings[0], points[-1], wings[1]))
        pen = f'fill="none" stroke="{colour}" stroke-width="2" stroke-linecap="round" stroke-linejoin="round"'
        dashes = ' stroke-dasharray="1 5"' if dashed else ""
        self.parts.append(f'<path d="{line}" {pen}{dashes}/><path d="{head}" {pen}/>')

    def cells(self, x, y, rows, cell=5.0):
        """A small picture of square cells, its left upper corner at (x, y)."""
        side = f'width="{cell * 0.9:g}" height="{cell * 0.9:g}" rx="0.6"'
        for i, row in enumerate(rows):
            for j, shade in enumerate(row):
                if shade != ".":
                    fill = SHADES.get(shade, shade)
                    self.parts.append(f'<rect x="{x + j * cell:g}" y="{y + i * cell:g}" {side} fill="{fill}"/>')

    def svg(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height:g}" '
            f'viewBox="0 0 {WIDTH} {self.height:g}" font-family="{FONT}" role="img" aria-label="{self.words}">'
        )
        card = f'<rect width="{WIDTH}" height="{self.height:g}" rx="8" fill="{CARD}"/>'
        return "\n".join([head, card, *self.parts, "</svg>"]) + "\n"


def _subscripts(words: str) -> str:
    words = words.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"_(\w)", r'<tspan dy="3" font-size="75%">\1</tspan><tspan dy="-3">&#8203;</tspan>', words)


def _grids(pixel: int, latent: int) -> list[tuple[str, str]]:
    return [(f"{pixel} × {pixel}", PIXEL), ("  ·  ", QUIET), (f"{latent} × {latent}", LATENT)]


def _blocks(count: int, attention: bool) -> str:
    if attention:
        return f"{count} × (residual, attention)" if count > 1 else "residual, attention"
    return f"{count} residual block{'s' if count > 1 else ''}"


def unet(config: UNetConfig | None = None, autoencoder: AutoencoderConfig | None = None) -> Drawing:
    """The denoiser, with the grids of both spaces at each level."""
    config, autoencoder = config or UNetConfig(), autoencoder or AutoencoderConfig()
    c, side, _ = latent_shape(autoencoder, SIZE)
    widths, layers, levels = config.block_out_channels, config.layers_per_block, len(config.block_out_channels)
    top, high, step = 128, 66, 98
    bottom = top + levels * step
    d = Drawing(
        bottom + 246,
        f"The U-Net: {levels} levels of {', '.join(map(str, widths))} channels on the way down and up, a middle with "
        "attention, skip connections across each level, and the time told to each residual block.",
    )
    shapes = {"x": (config.in_channels, SIZE, PIXEL), "z": (c, side, LATENT)}
    d.text(20, 30, "one U-Net for both spaces", 16, NEUTRAL, True, "start")
    ins = [(f"{name}_t: {s} × {s} × {n}", colour) for name, (n, s, colour) in shapes.items()]
    d.text(118, 58, ins[0][0], 14, ins[0][1], True)
    d.text(118, 77, ins[1][0], 14, ins[1][1], True)
    d.text(342, 58, "ε, x_0 or v", 14, NEUTRAL, True)
    d.text(342, 77, "of the same shape")
    for x, words in ((118, f"3 × 3 convolution to {widths[0]}"), (342, "3 × 3 convolution")):
        d.text(x, 104, words)
    d.arrow((118, 110), (118, top - 4))
    d.arrow((342, top - 2), (342, 111))

    for level, width in enumerate(widths):
        y, inset = top + level * step, 7 * level
        grids, attends = _grids(SIZE >> level, side >> level), config.attention[level]
        for x, count in ((20 + inset, layers), (260, layers + 1)):
            lines = [(f"{width} channels", True), (_blocks(count, attends), False), (grids, False)]
            d.box(x, y, 180 - inset, high, lines=lines)
        d.arrow((202, y + high / 2), (258, y + high / 2), dashed=True)
        d.text(230, y + high / 2 - 8, f"{layers + 1} skips", 12)
        below = y + step - 4
        d.arrow((118, y + high + 3), (118, below))
        d.arrow((342, below + 2), (342, y + high + 5))
        if level < levels - 1:
            d.text(104, y + high + 21, "halve", anchor="end")
            d.text(356, y + high + 21, "double", anchor="start")

    lowest = _grids(SIZE >> levels - 1, side >> levels - 1)
    lines = [(f"{widths[-1]} channels", True), ("residual, attention, residual", False), (lowest, False)]
    d.box(90, bottom, 280, high, lines=lines)

    y = bottom + high + 22
    width = 4 * widths[0]
    lines = [
        ("the time t", True),
        (f"{widths[0]} sinusoids, 2 linear layers, {width} numbers,", False),
        ("added in every residual block", False),
    ]
    d.box(60, y, 340, high, lines=lines, fill="#F1F3F5")
    d.arrow((230, y - 2), (230, bottom + high + 4), dashed=True)

    y += high + 28
    d.text(20, y, "attention: over all positions of the grid, squared in their number", 12.5, anchor="start")
    for i, (name, (n, s, colour)) in enumerate(shapes.items()):
        network = config.for_channels(n)
        flops, size = unet_flops(network, s).total, count_parameters(UNet(network))
        space = {"x": "pixel", "z": "latent"}[name]
        words = f"{space}: {size:,} parameters, {si(flops, 'FLOP')} a call"
        d.text(20, y + 24 + 20 * i, words, 13, colour, True, "start")
    return d


def autoencoder(config: AutoencoderConfig | None = None) -> Drawing:
    """The first stage: encoder, posterior, scale and decoder, and what it is trained for."""
    config = config or AutoencoderConfig()
    c, side, _ = latent_shape(config, SIZE)
    widths, layers, levels = config.block_out_channels, config.layers_per_block, len(config.block_out_channels)
    weights = {k: v.default for k, v in inspect.signature(AutoencoderObjective.__init__).parameters.items()}
    top, high, step = 122, 66, 98
    bottom = top + levels * step
    d = Drawing(
        bottom + 340,
        f"The autoencoder: an encoder of {levels} levels halves each side {levels - 1} times, a posterior with mean "
        "and variance gives the latent, a decoder of the same levels makes the picture again.",
    )
    d.text(20, 30, f"the autoencoder, f = {config.downsample}", 16, NEUTRAL, True, "start")
    d.text(118, 58, "encoder ℰ", 14, NEUTRAL, True)
    d.text(342, 58, "decoder 𝒟", 14, NEUTRAL, True)
    d.text(118, 77, f"x: {SIZE} × {SIZE} × {config.in_channels}", 14, PIXEL, True)
    d.text(342, 77, f"x̂: {SIZE} × {SIZE} × {config.in_channels}", 14, PIXEL, True)
    d.text(118, 99, f"3 × 3 convolution to {widths[0]}")
    d.text(342, 99, "3 × 3 convolution")
    d.arrow((118, 105), (118, top - 4))
    d.arrow((342, top - 2), (342, 106))

    middle = "residual, attention, residual" if config.mid_attention else "2 residual blocks"
    for level, width in enumerate(widths):
        y, inset = top + level * step, 7 * level
        grid = [(f"{SIZE >> level} × {SIZE >> level}", PIXEL if level < levels - 1 else LATENT)]
        for x, count in ((20 + inset, layers), (260, layers + 1)):
            lines = [(f"{width} channels", True), (_blocks(count, False), False), (grid, False)]
            d.box(x, y, 180 - inset, high, lines=lines)
        d.arrow((118, y + high + 3), (118, y + step - 4))
        d.arrow((342, y + step - 2), (342, y + high + 5))
        if level < levels - 1:
            d.text(104, y + high + 21, "halve", anchor="end")
            d.text(356, y + high + 21, "double", anchor="start")

    for x in (20, 244):
        d.box(x, bottom, 196, 44, lines=[("middle", True), (middle, False)])
    y = bottom + 74
    d.arrow((118, bottom + 47), (118, y - 4))
    d.arrow((342, y - 2), (342, bottom + 49))
    d.box(20, y, 196, 64, LATENT, lines=[("posterior", True), (f"μ, log σ²: 2 × {c} channels", False)])
    d.box(244, y, 196, 64, LATENT, lines=[("z = μ + σ ε", True), (f"{side} × {side} × {c}", False)])
    d.arrow((218, y + 32), (241, y + 32))
    d.arrow((300, y + 67), (300, y + 100))
    d.arrow((384, y + 102), (384, y + 69))
    d.text(286, y + 88, "× scale", anchor="end")
    d.text(396, y + 88, "÷ scale", anchor="start")
    lines = [
        (f"z_0: {side} × {side} × {c}, what the U-Net sees", True),
        ("scale = 1 / std(z), measured once: unit variance", False),
    ]
    d.box(20, y + 106, 420, 50, LATENT, "#EAF3F9", lines)

    y += 186
    loss = f"loss = |x − x̂| + {weights['perceptual_weight']:g} perceptual + {weights['kl_weight']:g} KL a value"
    d.text(20, y, loss, 13.5, NEUTRAL, True, "start")
    d.text(20, y + 20, "where asked, + a critic's opinion of patches (adversarial)", 12.5, anchor="start")
    cost = {part: si(autoencoder_flops(config, SIZE, part).total, "FLOP") for part in ("encode", "decode")}
    d.text(20, y + 46, f"{count_parameters(Autoencoder(config)):,} parameters", 13, NEUTRAL, True, "start")
    d.text(20, y + 66, f"encode {cost['encode']}, decode {cost['decode']}", 13, NEUTRAL, True, "start")
    return d


def latent_system(config: AutoencoderConfig | None = None) -> Drawing:
    """The whole: two trainings and the way a picture is made."""
    config = config or AutoencoderConfig()
    c, side, _ = latent_shape(config, SIZE)
    rng = random.Random(0)
    noise = [[_mixed(LATENT, rng.random()) for _ in range(4)] for _ in range(4)]
    d = Drawing(
        470,
        "The latent system: first the autoencoder is trained, once; then the U-Net, on scaled latents with noise; a "
        "picture is made by S steps of the U-Net from noise and one decoding.",
    )

    def lane(y, title, words):
        d.text(20, y, title, 15, NEUTRAL, True, "start")
        d.text(20, y + 19, words, 12.5, anchor="start")

    def face(x, y, label=""):
        d.cells(x, y, FACE)
        d.text(x + 20, y + 56, label, 12)

    def latent(x, y, label="", cells=INNER):
        d.cells(x, y + 8, cells, 6)
        d.text(x + 12, y + 56, label, 12)

    shapes = f"{SIZE} × {SIZE} × {config.in_channels} to {side} × {side} × {c}"
    lane(30, "1  train the autoencoder, once", f"paid for before the first latent: {shapes}")
    y = 64
    face(20, y, "x")
    d.arrow((68, y + 20), (92, y + 20))
    d.box(98, y, 84, 40, NEUTRAL, lines=[("encode", True)])
    d.arrow((186, y + 20), (206, y + 20))
    latent(213, y, "z")
    d.arrow((244, y + 20), (264, y + 20))
    d.box(270, y, 84, 40, NEUTRAL, lines=[("decode", True)])
    d.arrow((358, y + 20), (384, y + 20))
    face(394, y, "x̂ ≈ x")

    d.parts.append(f'<path d="M20 140 H{WIDTH - 20}" stroke="#d9dde2" stroke-width="1.5"/>')
    lane(166, "2  train the U-Net, on latents", "encoded once, kept, and drowned in noise at a random t")
    y = 202
    face(20, y, "x")
    d.arrow((68, y + 20), (88, y + 20))
    d.box(94, y, 84, 40, NEUTRAL, lines=[("encode", True)])
    d.text(136, y + 56, "× scale", 12)
    d.arrow((182, y + 20), (202, y + 20))
    latent(209, y, "z_0")
    d.text(249, y + 25, "+", 16, NEUTRAL, True)
    latent(264, y, "ε", noise)
    d.arrow((295, y + 20), (315, y + 20))
    d.box(321, y, 70, 40, LATENT, lines=[("U-Net", True)])
    d.text(356, y + 56, "z_t, t", 12)
    d.arrow((395, y + 20), (413, y + 20))
    d.text(431, y + 25, "v̂", 15, LATENT, True)
    d.text(431, y + 56, "≈ v", 12)

    d.parts.append(f'<path d="M20 278 H{WIDTH - 20}" stroke="#d9dde2" stroke-width="1.5"/>')
    lane(304, "3  make a picture", "the sampler calls the U-Net S times, the decoder is called once")
    y = 352
    latent(20, y, "noise", noise)
    d.arrow((56, y + 20), (84, y + 20))
    d.box(90, y, 100, 40, LATENT, lines=[("U-Net", True)])
    d.arrow((182, y - 3), (182, y - 14), (98, y - 14), (98, y - 3), colour=LATENT)
    d.text(140, y + 56, "S steps", 12)
    d.arrow((194, y + 20), (216, y + 20))
    latent(224, y, "ẑ_0")
    d.arrow((256, y + 20), (276, y + 20))
    d.box(282, y, 84, 40, NEUTRAL, lines=[("decode", True)])
    d.text(324, y + 56, "÷ scale", 12)
    d.arrow((370, y + 20), (388, y + 20))
    face(396, y, "picture")
    words = [("pixel space", PIXEL), (" is 2 and 3 with x for z: no code, no decoding", QUIET)]
    d.text(20, 446, words, 12.5, anchor="start")
    return d


# What each chapter's box says: number, name, and where it stands (column, row).
CHAPTERS = {
    "0": ("Diffusion", 1, 0),
    "0 b": ("What is a latent?", 1, 1),
    "1": ("Complexity", 0, 2),
    "2": ("Results", 1, 2),
    "4": ("Bits and detail", 2, 2),
    "3": ("Scaling", 0, 3),
    "6": ("Three stages", 1, 3),
    "5": ("Quality", 2, 3),
    "7": ("When to use which", 0, 4),
    "8": ("The formula: text", 1, 4),
    "9": ("What came next", 2, 4),
    "10": ("Conclusion", 1, 5),
}
LEANS_ON = (  # a chapter, and one that it needs
    ("0 b", "0"), ("1", "0 b"), ("2", "0 b"), ("4", "0 b"), ("3", "1"), ("6", "2"), ("5", "4"), ("7", "3"), ("8", "6"),
    ("9", "5"), ("10", "7"), ("10", "8"), ("10", "9"),
)  # fmt: skip


def course_map() -> Drawing:
    """The chapters, and which leans on which: what it costs at the left, what it keeps at the right."""
    words = (
        "The chapters as boxes, with arrows from each to those that lean on it: 0, what is a latent, then three columns"
    )
    d = Drawing(470, words)
    columns, top, step = (82, WIDTH / 2, WIDTH - 82), 52, 70
    for x, name in zip(columns, ("what it costs", "how it draws", "what it keeps")):
        d.text(x, 26, name, 12.5, NEUTRAL, bold=True)
    places = {number: (columns[column], top + step * row) for number, (_, column, row) in CHAPTERS.items()}
    for after, before in LEANS_ON:
        (x0, y0), (x1, y1) = places[before], places[after]
        start, end = (x0, y0 + 44), (x1, y1 - 2)
        turn = y1 - 14
        d.arrow(start, end) if x0 == x1 else d.arrow(start, (x0, turn), (x1, turn), end)
    for number, (name, *_) in CHAPTERS.items():
        x, y = places[number]
        d.box(x - 66, y, 132, 42, lines=((number, True), (name, False)))
    return d


def _mixed(colour: str, share: float) -> str:
    """Between the colour and white."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - (255 - p) * (0.25 + 0.75 * share)):02X}" for p in parts)


DIAGRAMS = {"unet": unet, "autoencoder": autoencoder, "latent_system": latent_system, "course_map": course_map}


def main() -> None:
    for name, draw in DIAGRAMS.items():
        (ASSETS / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
