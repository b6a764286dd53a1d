"""Tables, interactive figures and self-checks, as plain HTML: what a page shows besides pictures (chapter 1 on).

No library and no network: an interactive figure carries all its frames with it, drawn from Python beforehand, and a
few lines of JavaScript pick one. The same data give the same text, so that a re-run page is compared word for word.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .plotting import CARD, NEUTRAL, caption_html, marked

if TYPE_CHECKING:
    from IPython.display import HTML

Row = Sequence[str | float]
_CLASSES = {"pixel": "ldm-pixel", "latent": "ldm-latent"}  # assets/course.css


def minute(text: str) -> HTML:
    """The box "In one minute" at a chapter's top: one paragraph, as `say` reads it."""
    inner = f'<p class="admonition-title">In one minute</p><p>{_stressed(text)}</p>'
    return _html(f'<div class="admonition note">{inner}</div>')


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    caption: str = "",
    stamp: str | None = None,
    *,
    words: Sequence[int] = (),
) -> HTML:
    """A table whose first column names the rows; a column headed "pixel" or "latent" has that space's colour.

    Cells are shown as `str` gives them, numbers in line on the right; the columns `words` (0 is the first) hold text,
    and begin at the left. A number and its error stay on one line; in a table of more than ten columns, which would
    not fit the page so, the error follows whole on the next. `caption` and `stamp` stand beneath, as under a figure
    (`plotting.show`).
    ValueError: a row that is longer or shorter than the head.
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row has {len(row)} cells under a head of {len(head)}; give one for each")
    glued = "\u00a0±\u00a0" if len(head) <= 10 else " ±\u00a0"
    top = "".join(_cell("th", name, name, scope="col", left=i in words) for i, name in enumerate(head))
    body = "".join(_table_row([str(cell).replace(" ± ", glued) for cell in row], words) for row in rows)
    text = f'<table class="table"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return _html(text + (caption_html(caption, stamp) if caption or stamp else ""))


def say(text: str) -> HTML:
    """A paragraph whose numbers were computed, set like the page's own text: `…` marks code, *…* stress, **…** the
    point."""
    return _html(f'<p class="ldm-said">{_stressed(text)}</p>')


def _stressed(text: str) -> str:
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", marked(" ".join(text.split())))
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", text)


def _table_row(row: Sequence[object], words: Sequence[int]) -> str:
    first, *others = row
    cells = "".join(_cell("td", cell, left=i in words) for i, cell in enumerate(others, 1))
    return f"<tr>{_cell('th', first, scope='row')}{cells}</tr>"


def _cell(tag: str, text: object, column: str = "", scope: str = "", left: bool = False) -> str:
    has = f' scope="{scope}"' if scope else ""
    colour = next((c for word, c in _CLASSES.items() if column.split(",")[0] == word), "")
    has += f' class="{colour}"' if colour else ""
    align = "left" if left or scope == "row" or (scope and not column) else "right"
    return f'<{tag}{has} style="text-align: {align}">{html.escape(str(text))}</{tag}>'


def lookup(
    controls: Mapping[str, Sequence[Any]],
    frame: Callable[..., Sequence[Row]],
    head: Sequence[str],
    caption: str,
    start: Mapping[str, Any] | None = None,
) -> HTML:
    """A table of results under sliders, one for each of `controls` (its label: what it can be set to).

    `frame(*setting)` gives the rows for one setting, each a name and then a cell under each title of `head` but
    the first: a text, or a number from 0 to 1, which is drawn as a bar of that length. Every combination is
    computed now; keep them to some hundreds. `start` sets the first frame (default: each control's first entry),
    which is in the markup itself, so that it is there where scripts are not.
    ValueError: a start that cannot be chosen, or a row that does not fit the head.
    """
    frames = [frame(*setting) for setting in itertools.product(*controls.values())]
    if any(len(row) != len(head) for rows in frames for row in rows):
        raise ValueError(f"a row of the frames does not have the {len(head)} cells of the head")
    top = "".join(_cell("th", title, title, scope="col") for title in head)

    def markup(rows: list[list[str]]) -> str:
        body = "".join(f"<tr>{''.join(_slot(i, cell) for i, cell in enumerate(row))}</tr>" for row in rows)
        return f'<table aria-live="polite"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'

    shown = [[[_shown(cell) for cell in row] for row in rows] for rows in frames]
    return _explorer(controls, shown, markup, caption, start)


def pictures(
    controls: Mapping[str, Sequence[Any]],
    frame: Callable[..., tuple[np.ndarray, str]],
    caption: str,
    start: Mapping[str, Any] | None = None,
    width: int = 640,
) -> HTML:
    """A picture under sliders, with a line that reads it out; controls and `start` as for `lookup`.

    `frame(*setting)` gives the picture, uint8 `(H, W, 3)` (see `plotting.grid_image` and `plotting.pixels`), and the
    line, which is its alternative text as well. At most `width` screen pixels wide, small ones enlarged without
    smoothing. Pictures are WebP inside the page: keep them to some tens of small ones.
    """
    frames = [frame(*setting) for setting in itertools.product(*controls.values())]
    shown = [[[_image(image, words, width), html.escape(words)]] for image, words in frames]

    def markup(rows: list[list[str]]) -> str:
        image, words = rows[0]
        return f'<div class="ldm-slot">{image}</div><p class="ldm-slot ldm-says" aria-live="polite">{words}</p>'

    return _explorer(controls, shown, markup, caption, start)


def _image(image: np.ndarray, words: str, width: int) -> str:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a frame's picture is {image.dtype} {image.shape}; expected uint8 (H, W, 3)")
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=88, method=6)
    data = base64.b64encode(file.getvalue()).decode()
    sharp = ";image-rendering:pixelated" if image.shape[1] < width else ""
    return f'<img src="data:image/webp;base64,{data}" alt="{html.escape(words)}" style="width:{width}px{sharp}">'


def _explorer(
    controls: Mapping[str, Sequence[Any]],
    frames: Sequence[list[list[str]]],
    markup: Callable[[list[list[str]]], str],
    caption: str,
    start: Mapping[str, Any] | None,
) -> HTML:
    """Frames, each rows of HTML cells, one for every setting of the controls in order; `markup` shows the first."""
    first = [list(options).index(_known(start, name, options)) for name, options in controls.items()]
    cells: dict[str, int] = {}  # each text once: frames share most of theirs
    coded = [[[cells.setdefault(cell, len(cells)) for cell in row] for row in rows] for rows in frames]
    sizes = [len(options) for options in controls.values()]
    carried = {"cells": list(cells), "frames": coded, "sizes": sizes}
    data = json.dumps(carried, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    name = _id(data + caption + "".join(controls))
    at = 0
    for size, index in zip(sizes, first):
        at = at * size + index
    sliders = "".join(_slider(name, i, *item, first[i]) for i, item in enumerate(controls.items()))
    return _html(
        f'<div id="{name}" class="ldm-lookup"><style>{_STYLE}</style>'
        f'<form class="ldm-controls" hidden onsubmit="return false">{sliders}</form>{markup(frames[at])}'
        f'<script type="application/json">{data}</script>'
        f'<script>({_SCRIPT})(document.getElementById("{name}"))</script></div>' + caption_html(caption)
    )


def _id(text: str) -> str:
    return "ldm-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def _known(start: Mapping[str, Any] | None, name: str, options: Sequence[Any]) -> Any:
    chosen = (start or {}).get(name, options[0])
    if chosen not in options:
        raise ValueError(f"{name} cannot start at {chosen!r}; expected one of {', '.join(map(str, options))}")
    return chosen


def _shown(cell: str | float) -> str:
    """A cell's HTML: a text, or a bar."""
    if isinstance(cell, str):
        return html.escape(cell)
    width = 100 * min(max(float(cell), 0.0), 1.0)
    return f'<span class="ldm-bar" style="width: {width:.1f}%"></span>'


def _slot(column: int, inner: str) -> str:
    return f'<th scope="row" class="ldm-slot">{inner}</th>' if column == 0 else f'<td class="ldm-slot">{inner}</td>'


def _slider(name: str, i: int, label: str, options: Sequence[Any], value: int) -> str:
    shown = html.escape(json.dumps([str(option) for option in options], ensure_ascii=False), quote=True)
    this = f"{name}-{i}"
    return (
        f'<p><label for="{this}">{html.escape(label)}</label>'
        f'<input id="{this}" type="range" min="0" max="{len(options) - 1}" step="1" value="{value}" '
        f'aria-valuetext="{html.escape(str(options[value]))}" data-options="{shown}">'
        f'<output for="{this}">{html.escape(str(options[value]))}</output></p>'
    )


# In the card's colours in both themes, since the card is light in both.
_STYLE = f"""
.ldm-lookup {{ background: {CARD}; color: {NEUTRAL}; border-radius: 6px; padding: 0.75rem; max-width: 46rem; }}
.ldm-lookup .ldm-controls {{
  display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 0 1.5rem; }}
.ldm-lookup .ldm-controls[hidden] {{ display: none; }}
.ldm-lookup p {{ display: flex; align-items: center; gap: 0.5rem; margin: 0 0 0.5rem; color: inherit; }}
.ldm-lookup label {{ flex: 0 0 8.5rem; margin: 0; font-size: 0.9rem; }}
.ldm-lookup input {{ flex: 1 1 4rem; min-width: 4rem; accent-color: #0067A3; }}
.ldm-lookup output {{ flex: 0 0 2.75rem; text-align: right; font-weight: 600; font-variant-numeric: tabular-nums; }}
.ldm-lookup table {{ width: 100%; border-collapse: collapse; margin: 0.25rem 0 0; font-variant-numeric: tabular-nums; }}
.ldm-lookup th, .ldm-lookup td {{
  padding: 0.3rem 0.4rem; border-top: 1px solid #D9DDE2; text-align: right; color: {NEUTRAL}; font-size: 0.9rem; }}
.ldm-lookup thead th {{ border-top: 0; }}
.ldm-lookup th:first-child {{ text-align: left; font-weight: 400; }}
.ldm-lookup thead .ldm-pixel {{ color: #B84E00; }}
.ldm-lookup thead .ldm-latent {{ color: #0067A3; }}
.ldm-lookup td:last-child {{ width: 28%; text-align: left; }}
.ldm-lookup .ldm-bar {{ display: block; height: 0.7rem; border-radius: 2px; background: {NEUTRAL}; }}
.ldm-lookup img {{ display: block; max-width: 100%; height: auto; }}
.ldm-lookup .ldm-says {{ margin: 0.5rem 0 0; font-size: 0.9rem; font-variant-numeric: tabular-nums; }}
""".replace("\n", " ").strip()


_SCRIPT = """
function (root) {
  var data = JSON.parse(root.querySelector("script").textContent);
  var sliders = Array.from(root.querySelectorAll("input"));
  var slots = Array.from(root.querySelectorAll(".ldm-slot"));
  function draw() {
    var at = sliders.reduce(function (sum, s, i) { return sum * data.sizes[i] + Number(s.value); }, 0);
    data.frames[at].flat().forEach(function (cell, i) { slots[i].innerHTML = data.cells[cell]; });
    sliders.forEach(function (s) {
      var text = JSON.parse(s.dataset.options)[s.value];
      s.setAttribute("aria-valuetext", text);
      s.nextElementSibling.textContent = text;
    });
  }
  sliders.forEach(function (s) { s.addEventListener("input", draw); });
  root.querySelector("form").hidden = false;
  draw();
}
""".replace("\n", " ").strip()


def quiz(questions: Sequence[tuple[str, Sequence[tuple[str, bool, str]]]]) -> HTML:
    """A self-check: each question with its answers, each answer (what it says, whether it is right, what to say to who
    chose it). Choosing one shows its feedback; where scripts are not, all of it is there.

    ValueError: a question without exactly one right answer, or an answer without feedback.
    """
    for question, answers in questions:
        if sum(right for _, right, _ in answers) != 1 or not all(feedback.strip() for _, _, feedback in answers):
            raise ValueError(f"{question!r} needs exactly one right answer, and feedback for each")
    name = _id(json.dumps(questions))
    items = "".join(_question(name, i, *entry) for i, entry in enumerate(questions))
    return _html(
        f'<div id="{name}" class="ldm-quiz"><style>{_QUIZ_STYLE}</style><ol>{items}</ol>'
        f'<p class="ldm-score" aria-live="polite" hidden></p>'
        f'<script>({_QUIZ_SCRIPT})(document.getElementById("{name}"))</script></div>'
    )


def _question(name: str, i: int, question: str, answers: Sequence[tuple[str, bool, str]]) -> str:
    choices = "".join(
        f'<label><input type="radio" name="{name}-{i}" data-right="{int(right)}"> {marked(text)}</label>'
        f'<p class="ldm-feedback" role="status">{"Right. " if right else "No. "}{marked(feedback)}</p>'
        for text, right, feedback in answers
    )
    return f"<li><fieldset><legend>{marked(question)}</legend>{choices}</fieldset></li>"


_QUIZ_STYLE = f"""
.ldm-quiz {{ background: {CARD}; color: {NEUTRAL}; border-radius: 6px; padding: 0.75rem; max-width: 46rem; }}
.ldm-quiz ol {{ margin: 0; padding-left: 1.4rem; }}
.ldm-quiz fieldset {{ border: 0; margin: 0 0 0.9rem; padding: 0; min-width: 0; }}
.ldm-quiz legend {{ font-size: 0.95rem; font-weight: 600; color: inherit; margin: 0 0 0.25rem; float: none; }}
.ldm-quiz label {{ display: block; margin: 0.15rem 0; font-size: 0.9rem; cursor: pointer; color: inherit; }}
.ldm-quiz p {{ margin: 0 0 0.3rem 1.4rem; font-size: 0.85rem; color: inherit; }}
.ldm-quiz .ldm-score {{ margin-left: 0; font-weight: 600; }}
.ldm-quiz code {{ color: inherit; background: none; padding: 0; }}
""".replace("\n", " ").strip()


_QUIZ_SCRIPT = """
function (root) {
  var items = Array.from(root.querySelectorAll("fieldset"));
  var score = root.querySelector(".ldm-score");
  function draw() {
    var right = 0, answered = 0;
    items.forEach(function (item) {
      Array.from(item.querySelectorAll("input")).forEach(function (input) {
        input.parentElement.nextElementSibling.hidden = !input.checked;
        answered += input.checked ? 1 : 0;
        right += input.checked && input.dataset.right === "1" ? 1 : 0;
      });
    });
    score.hidden = answered === 0;
    score.textContent = right + " of " + items.length + " right";
  }
  root.addEventListener("change", draw);
  draw();
}
""".replace("\n", " ").strip()


def _html(text: str) -> HTML:
    from IPython.display import HTML  # a notebook has it, a script need not

    return HTML(text)
