"""Pictures and plots in the course's one look: what is orange is pixel space, what is blue is latent space.

`style()` sets matplotlib up, `grid` shows many small pictures with captions, `show` puts a figure on the page
with its caption, and with the stamp of the record that it came from. Used by every chapter.
"""

from __future__ import annotations

import base64
import html
import io
import math
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image

from ..files import written_whole

# Told apart by readers with any common colour blindness (they are Okabe and Ito's vermilion and blue, a little
# darker), and by lightness in print. assets/course.css has the same two.
PIXEL = "#B84E00"
LATENT = "#0067A3"
# The three columns of every comparison.
CLAIMED = "#8A8F98"
RECORDED = "#7A5195"
LIVE = "#1B7F5C"
NEUTRAL = "#3A424D"
UNSEEN = 0.3  # of 255 grey levels, on average: what fewer colours may change
CARD = "#FCFCFA"  # drawn on, so that a figure can be read on a dark page as well

COLOURS = {"pixel": PIXEL, "latent": LATENT, "claimed": CLAIMED, "recorded": RECORDED, "live": LIVE}

STYLE = {
    "figure.facecolor": CARD,
    "savefig.facecolor": CARD,
    "axes.facecolor": CARD,
    "figure.dpi": 110,
    "figure.figsize": (7.0, 3.4),
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": NEUTRAL,
    "axes.labelcolor": NEUTRAL,
    "text.color": NEUTRAL,
    "xtick.color": NEUTRAL,
    "ytick.color": NEUTRAL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E6EA",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "svg.hashsalt": "ldm_course",  # the same figure is the same file
    "axes.prop_cycle": plt.cycler(color=[PIXEL, LATENT, NEUTRAL, LIVE, RECORDED, CLAIMED]),
}


def style() -> None:
    """Sets matplotlib up for a chapter; `with plt.rc_context(STYLE):` does it for one figure."""
    plt.rcParams.update(STYLE)


def subplots(*args, **kwargs) -> tuple[Figure, plt.Axes | np.ndarray]:
    """`plt.subplots` in STYLE, closed, so that a notebook shows the figure only where it is asked to."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(*args, **kwargs)
    plt.close(figure)
    return figure, axes


def ticks(
    axes: plt.Axes, x: Sequence[float] | None = None, y: Sequence[float] | None = None, *, rotation: float = 0
) -> None:
    """Puts ticks at these values and nowhere else, each with its number in full (2, 0.05, 1024), where a logarithmic
    axis would have powers of ten. To be called after the scales are set; `rotation` turns the numbers of x."""
    for values, put, look in ((x, axes.set_xticks, {"rotation": rotation}), (y, axes.set_yticks, {})):
        if values is not None:
            put(values, [str(v) if isinstance(v, int) else f"{v:g}" for v in values], **look)
    axes.minorticks_off()


def look_at(f: int) -> dict[str, str]:
    """Label and colour of a space by its f, pixels for each position of the network's input: 1 are the pixels."""
    return {"label": "pixels", "color": PIXEL} if f == 1 else {"label": f"f = {f}", "color": LATENT}


def grid_image(images: torch.Tensor, columns: int | None = None, *, scale: int = 1, gap: int = 2) -> np.ndarray:
    """Pictures side by side as one: uint8 `(N, 3, H, W)` or `(N, 1, H, W)` to uint8 `(rows, columns, 3)`.

    Row by row, `columns` of them in a row (8 if there are as many), each pixel `scale` pixels wide and high,
    `gap` pixels of white between pictures. ValueError: other types or shapes.
    """
    from torchvision.utils import make_grid  # here, since importing it takes longer than all the rest

    images = _checked(images)
    columns = _columns(len(images), columns)
    if scale < 1 or gap < 0:
        raise ValueError(f"scale={scale}, gap={gap}; expected scale >= 1 and gap >= 0")
    big = images.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    sheet = make_grid(big, columns, padding=gap, pad_value=255)
    if len(images) > 1:  # then it has the gap around it as well
        sheet = F.pad(sheet, [-gap] * 4)
    return sheet.permute(1, 2, 0).contiguous().numpy()


def _scale(given: int | None, width: int) -> int:
    """Screen pixels to a picture's pixel, of pictures `width` wide: about 80 a picture where none is given."""
    if given is not None and given < 1:
        raise ValueError(f"scale={given}; expected 1 or more")
    return max(1, round(80 / width)) if given is None else given


def grid(
    images: torch.Tensor,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    *,
    scale: int | None = None,
    circles: Sequence[Sequence[tuple[float, float, float]]] | None = None,
    title: str | None = None,
    colour: str = NEUTRAL,
) -> Figure:
    """Pictures in a grid, each with its own caption underneath: uint8 `(N, 3, H, W)` to a Figure.

    `scale` is how many screen pixels a picture's pixel takes along a side (default: about 80 a picture);
    `circles` are drawn on each picture: x and y of their middles from the top left, and radii, in widths of it;
    `title` stands above, in `colour` (PIXEL and LATENT say which space the pictures are from).
    ValueError: other types or shapes, or not one caption, or one list of circles, a picture.
    """
    images = _checked(images)
    n, _, height, width = images.shape
    for name, given in (("captions", captions), ("lists of circles", circles)):
        if given is not None and len(given) != n:
            raise ValueError(f"{len(given)} {name} for {n} pictures; give one for each")
    scale = _scale(scale, width)
    columns = _columns(n, columns)
    rows = math.ceil(n / columns)
    gap, line = 6, 15  # screen pixels, as everything below
    wrap = {"width": max(8, width * scale // 6), "break_long_words": False}
    words = [textwrap.fill(caption, **wrap) for caption in captions or [""] * n]
    lines = 0 if captions is None else max(text.count("\n") + 1 for text in words)
    across, down = width * scale + gap, height * scale + gap + line * lines
    above = 26 if title else 0
    full = (columns * across, rows * down + above)
    dpi = STYLE["figure.dpi"]
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(full[0] / dpi, full[1] / dpi), layout="none")
        for i, picture in enumerate(images.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()):
            x, y = i % columns * across, above + i // columns * down + height * scale
            place = (x / full[0], 1 - y / full[1], width * scale / full[0], height * scale / full[1])
            axes = figure.add_axes(place)
            axes.imshow(picture)
            axes.set_axis_off()
            for x, y, radius in circles[i] if circles else ():
                at = x * width - 0.5, y * width - 0.5
                for line, ink in ((2.0, "black"), (0.8, "white")):  # to be seen on every ground
                    axes.add_patch(Circle(at, radius * width, fill=False, linewidth=line, edgecolor=ink))
            axes.annotate(
                words[i], (0.5, 0), (0, -2), "axes fraction", "offset pixels", ha="center", va="top", fontsize=8
            )
        if title:
            figure.text(0, 1, title, ha="left", va="top", color=colour, weight="bold")
    plt.close(figure)  # shown by `show` or as a cell's value, and not once more by itself
    return figure


def named_rows(rows: Mapping[str, torch.Tensor], above: Sequence[str] = (), *, scale: int | None = None) -> Figure:
    """Rows of pictures, each uint8 `(N, 3, H, W)`, named at their left, in the colour of the space that a name begins
    with. `above`, where it is given, has a word for each column. `scale` as of `grid`.

    ValueError: no rows, rows of several lengths, or words for others.
    """
    lengths = {len(_checked(images)) for images in rows.values()}
    if len(lengths) != 1 or len(above) not in (0, *lengths):
        raise ValueError(f"rows of {sorted(lengths)} pictures under {len(above)} words; expected one length for all")
    (columns,), gap, dpi = lengths, 4, STYLE["figure.dpi"]
    height, width = next(iter(rows.values())).shape[-2:]
    scale = _scale(scale, width)
    sheet = grid_image(torch.cat(list(rows.values())), columns, scale=scale, gap=gap)
    names = [textwrap.fill(name, 22, break_long_words=False) for name in rows]
    left = 14 + 7 * max(len(line) for name in names for line in name.split("\n"))  # screen pixels, as below
    top = 20 if above else 0
    full = (left + sheet.shape[1], top + sheet.shape[0])
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(full[0] / dpi, full[1] / dpi), layout="none")
        axes = figure.add_axes((left / full[0], 0, sheet.shape[1] / full[0], sheet.shape[0] / full[1]))
        axes.imshow(sheet, aspect="auto", interpolation="nearest")
        axes.set_axis_off()
        for i, name in enumerate(names):
            at = (i * (height * scale + gap) + height * scale / 2) / sheet.shape[0]
            space = next((space for space in ("pixel", "latent") if name.startswith(space)), None)
            look = {"ha": "right", "va": "center", "fontsize": 8, "color": COLOURS.get(space, NEUTRAL)}
            axes.annotate(name, (0, 1 - at), (-8, 0), "axes fraction", "offset pixels", **look)
        for i, word in enumerate(above):
            at = (i * (width * scale + gap) + width * scale / 2) / sheet.shape[1]
            axes.annotate(word, (at, 1), (0, 4), "axes fraction", "offset pixels", ha="center", fontsize=8)
    plt.close(figure)
    return figure


def channel_images(z: torch.Tensor, side: int | None = None) -> torch.Tensor:
    """The channels of latents `(B, c, h, w)` as grey pictures, uint8 `(B, c, 3, side, side)`, without smoothing: each
    channel from its least value among the B, black, to its greatest, white. `side`: a multiple of h, which is default.
    """
    side = z.shape[-1] if side is None else side
    low, high = z.amin((0, 2, 3), keepdim=True), z.amax((0, 2, 3), keepdim=True)
    grey = F.interpolate(255 * (z - low) / (high - low).clamp(min=1e-12), size=(side, side))
    return grey.round().to(torch.uint8).cpu()[:, :, None].expand(-1, -1, 3, -1, -1)


def show(figure: Figure | Picture, caption: str, stamp: str | None = None, *, few_colours: bool = False) -> None:
    """Puts the figure, or a stored picture, on the page, its caption beneath it, and where its numbers are from.

    `caption` says what is to be seen, so plainly that it could be wrong; `stamp` is `records.stamp(record)`
    for a stored run, None for what ran just now. `few_colours`: 256 of them, a third of the bytes, even where a close
    look would tell; without it only where nobody sees the difference. Outside a notebook the words are printed.
    """
    if not caption.strip():
        raise ValueError("the caption is empty; say what is to be seen")
    if _in_notebook():
        from IPython.display import HTML, display

        if isinstance(figure, Picture):
            display(figure)
        else:
            image = base64.b64encode(_small_png(figure, few_colours)).decode()
            display({"image/png": image, "text/plain": repr(figure)}, raw=True)
        display(HTML(caption_html(caption, stamp)))
    else:
        print(caption if stamp is None else f"{caption}\n({stamp})")
    if isinstance(figure, Figure):
        plt.close(figure)


def _small_png(figure: Figure, few_colours: bool = False) -> bytes:
    """The figure as a PNG, trimmed; with 256 colours, a third as many bytes, where nobody sees that: in plots, whose
    colours are few, and not in photographs; or in any case."""
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight", metadata={"Software": None})
    full = Image.open(file).convert("RGB")
    few = full.quantize(256, dither=Image.Dither.NONE, kmeans=1)
    moved = np.asarray(full, dtype=int) - np.asarray(few.convert("RGB"), dtype=int)
    file = io.BytesIO()
    (few if few_colours or np.abs(moved).mean() < UNSEEN else full).save(file, format="PNG", optimize=True)
    return file.getvalue()


class Picture:
    """A PNG or JPEG as it is stored, `width` screen pixels wide: the value of a cell, or for IPython's `display`.

    `alt` says in words what is to be seen. (IPython's own Image takes no such text in Colab's release.)
    """

    def __init__(self, data: bytes, width: int, alt: str):
        kinds = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}
        kind = next((kind for start, kind in kinds.items() if data.startswith(start)), None)
        if kind is None:
            raise ValueError(f"the picture begins with {data[:4]!r}; expected the bytes of a PNG or JPEG file")
        if not alt.strip():
            raise ValueError("alt is empty; say what is to be seen")
        self.data, self.kind, self.width, self.alt = data, kind, width, alt

    @classmethod
    def of(cls, figure: Figure, alt: str, scale: float = 1.0) -> Picture:
        """A figure as a JPEG, `scale` times as large: for photographs, and many small pictures, less than a PNG."""
        file = io.BytesIO()
        figure.savefig(file, format="jpeg", dpi=scale * figure.dpi, pil_kwargs={"quality": 80})
        return cls(file.getvalue(), round(scale * figure.dpi * figure.get_figwidth()), alt)

    def __repr__(self) -> str:
        return f"<{self.alt}>"

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        """What IPython asks for: the file, and how it is to be shown."""
        return (
            {self.kind: base64.b64encode(self.data).decode()},
            {self.kind: {"width": self.width, "alt": self.alt}},
        )


def pixels(figure: Figure) -> np.ndarray:
    """The figure as a picture, uint8 `(H, W, 3)`, for `widgets.pictures`."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def caption_html(caption: str, stamp: str | None = None) -> str:
    """The caption and the stamp as the page's HTML; the caption as `marked` reads it."""
    line = "" if stamp is None else f'<p class="ldm-stamp">{html.escape(stamp)}</p>'
    return f'<p class="ldm-caption">{marked(caption)}</p>{line}'


def marked(text: str) -> str:
    """A text as HTML: `…` marks code, the rest is plain."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def save_png(path: str | os.PathLike, image: np.ndarray | torch.Tensor | Figure) -> None:
    """Writes a Figure, or uint8 `(H, W, 3)` as `grid_image` gives it, to a PNG, whole or not at all."""
    with written_whole(path) as temporary:
        if isinstance(image, Figure):
            image.savefig(temporary, format="png", metadata={"Software": None})
            return
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"image is {array.dtype} {array.shape}; expected uint8 (H, W, 3), see grid_image")
        Image.fromarray(array).save(temporary, format="PNG", optimize=True)


def _checked(images: torch.Tensor) -> torch.Tensor:
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8:
        kind = images.dtype if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"images are {kind}; expected a uint8 tensor, see data.to_uint8")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, 3, H, W) with N >= 1")
    return images.detach().cpu()


def _columns(n: int, columns: int | None) -> int:
    if columns is not None and columns < 1:
        raise ValueError(f"columns={columns}; expected 1 or more")
    return min(8 if columns is None else columns, n)


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:  # a script need not even have it
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")
