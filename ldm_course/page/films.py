"""A clip on a page: frames that a few lines of JavaScript show in turn, with a button that stops them (chapter 9).

All frames are one picture, side by side, of which a box shows one at a time; so they can be stopped at any of them,
which an animated file cannot. Without scripts the first frame stands; it stands too, until somebody presses Play, for
those who ask their system for less motion.
"""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .plotting import CARD, NEUTRAL, caption_html
from .widgets import _html, _id

if TYPE_CHECKING:
    from IPython.display import HTML

QUALITIES = (95, 90, 85, 80, 70, 60, 50, 40)  # of WebP: the first whose file is small enough
MOST = 300_000  # bytes


def sheet(frames: np.ndarray, most: int = MOST) -> bytes:
    """The frames uint8 (F, H, W, 3) side by side as one WebP file, as good as `most` bytes allow. ValueError: no such
    frames, wider together than a WebP may be, or too large at any quality."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}; expected uint8 (F, H, W, 3)")
    image = Image.fromarray(np.concatenate(list(frames), axis=1))
    if max(image.size) > 16383:
        raise ValueError(
            f"{len(frames)} frames make {image.width} x {image.height} pixels; a WebP has up to 16383 a side"
        )
    for quality in QUALITIES:
        file = io.BytesIO()
        image.save(file, "WEBP", quality=quality, method=6)
        if file.tell() <= most:
            return file.getvalue()
    raise ValueError(f"the frames take {file.tell()} bytes at the least quality; expected up to {most}")


def film(frames: np.ndarray | bytes, count: int, alt: str, caption: str, *, width: int = 640, rate: float = 8) -> HTML:
    """A loop of `count` frames, `rate` a second, `width` screen pixels wide at most, with a button to pause and play.

    `frames`: uint8 (F, H, W, 3), or a file of `sheet`, such as a record's. `alt` says in words what is to be seen.
    ValueError: no alt, a rate of 0 or less, or a picture that `count` frames do not divide.
    """
    if not alt.strip():
        raise ValueError("alt is empty; say what is to be seen")
    if not rate > 0:
        raise ValueError(f"rate={rate}; expected more than 0 frames a second")
    data = frames if isinstance(frames, bytes) else sheet(frames)
    with Image.open(io.BytesIO(data)) as opened:
        across, high = opened.size
    if count < 2 or across % count:
        raise ValueError(f"a picture {across} wide; expected one that {count} frames, two or more, divide")
    wide = across // count
    name = _id(f"{caption}{alt}{rate}{width}" + base64.b64encode(data).decode())
    sharp = ";image-rendering:pixelated" if wide < width else ""
    source = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
    return _html(
        f'<div id="{name}" class="ldm-film" data-frames="{count}" data-wait="{1000 / rate:.0f}"><style>{_STYLE}</style>'
        f'<div class="ldm-film-box" style="max-width:{width}px;aspect-ratio:{wide}/{high}">'
        f'<img src="{source}" alt="{html.escape(alt)}" style="width:{100 * count}%{sharp}"></div>'
        f'<p hidden><button type="button">Play</button><output>frame 1 of {count}</output></p>'
        f'<script>({_SCRIPT})(document.getElementById("{name}"))</script></div>' + caption_html(caption)
    )


# In the card's colours in both themes, since the card is light in both.
_STYLE = f"""
.ldm-film {{ background: {CARD}; color: {NEUTRAL}; border-radius: 6px; padding: 0.75rem; max-width: 46rem; }}
.ldm-film .ldm-film-box {{ overflow: hidden; }}
.ldm-film img {{ display: block; max-width: none; height: 100%; margin: 0; }}
.ldm-film p {{ display: flex; align-items: center; gap: 0.75rem; margin: 0.5rem 0 0; color: inherit; }}
.ldm-film p[hidden] {{ display: none; }}
.ldm-film button {{
  min-width: 5rem; padding: 0.2rem 0.6rem; border: 1px solid currentColor; border-radius: 4px; background: #FFFFFF;
  color: inherit; font: inherit; cursor: pointer; }}
.ldm-film output {{ font-size: 0.9rem; font-variant-numeric: tabular-nums; }}
""".replace("\n", " ").strip()


# The frame is read out only where somebody has stopped it: a live region would never be silent.
_SCRIPT = """
function (root) {
  var frames = Number(root.dataset.frames), wait = Number(root.dataset.wait), at = 0, timer = null;
  var sheet = root.querySelector("img"), button = root.querySelector("button"), says = root.querySelector("output");
  function draw() {
    sheet.style.transform = "translateX(" + -100 * at / frames + "%)";
    says.textContent = "frame " + (at + 1) + " of " + frames;
  }
  function next() { at = (at + 1) % frames; draw(); }
  function play(on) {
    clearInterval(timer);
    timer = on ? setInterval(next, wait) : null;
    button.textContent = on ? "Pause" : "Play";
    says.setAttribute("aria-live", on ? "off" : "polite");
  }
  button.addEventListener("click", function () { play(timer === null); });
  root.querySelector("p").hidden = false;
  draw();
  play(!window.matchMedia("(prefers-reduced-motion: reduce)").matches);
}
""".replace("\n", " ").strip()
