"""The ledger: all claims in the order of their chapters, each with its verdict (chapters 1 to 10).

The claims are a short comparison's, in our words, with its figures; a figure stands in the call that judges it, beside
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module

from .verdicts import CLAIMS, ORDER, Claim, Finding, rules, under

CHAPTERS = (
    "ch1_complexity",
    "ch2_results",
    "ch3_scaling",
    "ch4_perceptual",
    "ch5_quality",
    "ch6_three_stages",
    "ch7_when",
    "ch8_formula",
    "ch9_whats_next",
    "ch10_conclusion",
)
for _name in CHAPTERS:  # each registers its claims, in this order
    import_module(f"{__package__}.{_name}")
for _id in sorted(CLAIMS, key=lambda id: [int(part) for part in id[1:].split(".")]):
    CLAIMS[_id] = CLAIMS.pop(_id)  # also where somebody has imported one of them before


def entries(chapter: int | None = None) -> Iterator[tuple[Claim, Finding]]:
    """Every claim, or those of one chapter, with its finding."""
    for each in CLAIMS.values():
        if chapter is None or each.id.startswith(f"C{chapter}."):
            yield each, each.judge()


def as_text(chapter: int | None = None) -> str:
    """The ledger for a terminal: a paragraph for each claim, and the count of each verdict."""
    found = list(entries(chapter))
    parts = []
    for c, f in found:
        lines = [f"{c.id:6} {f.verdict.upper()}: {c.says}", f"       found: {f.found}"]
        lines += [f"       holds: {f.holds}"] if f.holds else []
        lines += [f"       paper: {c.published}"] if c.published else []
        lines += [f"       from:  {', '.join(f.sources)}"] if f.sources else []
        parts.append("\n".join(lines))
    parts += data_notes(found)
    counts = {word: sum(f.verdict == word for _, f in found) for word in ORDER}
    return "\n\n".join(parts) + "\n\n" + ", ".join(f"{n} {word}" for word, n in counts.items())


def data_notes(found: Iterable[tuple[Claim, Finding]]) -> list[str]:
    """What must be known of the data behind these verdicts, each note once, after the claims that rest on them."""
    by_note: dict[str, list[str]] = {}
    for c, f in found:
        if f.data:
            by_note.setdefault(f.data, []).append(c.id)
    return [f"{', '.join(ids)}: {note}" for note, ids in by_note.items()]


TURNED = (0.5, 2.0)  # what each rule is multiplied by, to see what hangs on it


def sensitivity(factors: Sequence[float] = TURNED) -> dict[tuple[str, float], dict[str, tuple[str, str]]]:
    """Which verdicts move when one rule is multiplied by a factor: by (rule, factor), each claim's usual verdict and
    the other."""
    usual = {c.id: f.verdict for c, f in entries()}
    moved = {}
    for name, value, _ in rules.table():
        for factor in factors:
            with under(**{name: factor * value}):
                turned = {c.id: f.verdict for c, f in entries()}
            moved[name, factor] = {id: (usual[id], word) for id, word in turned.items() if word != usual[id]}
    return moved
