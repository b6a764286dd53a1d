"""Tables and one interactive figure, as plain HTML: what a page shows besides pictures (chapter 1 on).

No library and no network: a `lookup` carries all its frames with it, drawn from Python beforehand, and a few lines
of JavaScript pick one. The same data give the same text, so that a re-run page is compared word for word.
"""

from __future__ import annotations

import hashlib
import html
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .plotting import CARD, NEUTRAL, caption_html

if TYPE_CHECKING:
    from IPython.display import HTML

Row = Sequence[str | float]
_CLASSES = {"pixel": "ldm-pixel", "latent": "ldm-latent"}  # assets/course.css


def si(number: float, unit: str = "") -> str:
    """Three digits and a prefix: si(613e6, "FLOP") is "613 MFLOP", si(0.0123, "s") is "12.3 ms"."""
    prefixes = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1, "m": 1e-3, "µ": 1e-6}
    large = (prefix for prefix, scale in prefixes.items() if abs(number) >= 0.9995 * scale)  # 999.9 k is 1 M
    prefix = next(large, "µ") if number else ""
    digits = number / prefixes[prefix]
    shown = f"{digits:.0f}" if abs(digits) >= 99.95 else f"{digits:.3g}"
    return f"{shown} {prefix}{unit}".rstrip()


def table(head: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "", stamp: str | None = None) -> HTML:
    """A table whose first column names the rows; a column headed "pixel" or "latent" has that space's colour.

    Cells are shown as `str` gives them. `caption` and `stamp` stand beneath, as under a figure (`plotting.show`).
    ValueError: a row that is longer or shorter than the head.
    """
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row has {len(row)} cells under a head of {len(head)}; give one for each")
    top = "".join(_cell("th", name, name, scope="col") for name in head)
    body = "".join(_table_row(row) for row in rows)
    text = f'<table class="table"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return _html(text + (caption_html(caption, stamp) if caption or stamp else ""))


def _table_row(row: Sequence[object]) -> str:
    first, *others = row
    cells = "".join(_cell("td", cell) for cell in others)
    return f"<tr>{_cell('th', first, scope='row')}{cells}</tr>"


def _cell(tag: str, text: object, column: str = "", scope: str = "") -> str:
    has = f' scope="{scope}"' if scope else ""
    colour = next((c for word, c in _CLASSES.items() if column.split(",")[0] == word), "")
    has += f' class="{colour}"' if colour else ""
    align = "left" if scope == "row" or (scope and not column) else "right"
    return f'<{tag}{has} style="text-align: {align}">{html.escape(str(text))}</{tag}>'


# ----------------------------------------------------------------------------------- interactive figure


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
    first = [list(options).index(_known(start, name, options)) for name, options in controls.items()]
    frames = [frame(*setting) for setting in itertools.product(*controls.values())]
    if any(len(row) != len(head) for rows in frames for row in rows):
        raise ValueError(f"a row of the frames does not have the {len(head)} cells of the head")
    cells: dict[str, int] = {}  # each text once: frames share most of theirs
    coded = [[[cells.setdefault(_shown(cell), len(cells)) for cell in row] for row in rows] for rows in frames]
    sizes = [len(options) for options in controls.values()]
    carried = {"cells": list(cells), "frames": coded, "sizes": sizes}
    data = json.dumps(carried, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    name = "ldm-" + hashlib.sha256((data + caption + "".join(controls)).encode()).hexdigest()[:12]
    at = 0
    for size, index in zip(sizes, first):
        at = at * size + index
    sliders = "".join(_slider(name, i, *item, first[i]) for i, item in enumerate(controls.items()))
    top = "".join(_cell("th", title, title, scope="col") for title in head)
    body = "".join(f"<tr>{''.join(_slot(i, _shown(cell)) for i, cell in enumerate(row))}</tr>" for row in frames[at])
    return _html(
        f'<div id="{name}" class="ldm-lookup"><style>{_STYLE}</style>'
        f'<form class="ldm-controls" hidden onsubmit="return false">{sliders}</form>'
        f'<table class="ldm-frame" aria-live="polite"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
        f'<script type="application/json">{data}</script>'
        f'<script>({_SCRIPT})(document.getElementById("{name}"))</script></div>' + caption_html(caption)
    )


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
    return f'<th scope="row">{inner}</th>' if column == 0 else f"<td>{inner}</td>"


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
""".replace("\n", " ").strip()

_SCRIPT = """
function (root) {
  var data = JSON.parse(root.querySelector("script").textContent);
  var sliders = Array.from(root.querySelectorAll("input"));
  var slots = Array.from(root.querySelectorAll("tbody th, tbody td"));
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


def _html(text: str) -> HTML:
    from IPython.display import HTML  # a notebook has it, a script need not

    return HTML(text)
