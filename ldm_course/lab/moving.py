"""Chapter 9's record of clips as tables, figures and films: what hangs together, and what it costs (see `tables`)."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from IPython.display import HTML
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..files import place_of
from ..measure.coherence import Mean
from ..page import films, plotting
from ..page.numbers import NONE, kd_e, plus_minus, si
from .claims.both_spaces import BETTER, WORSE, copied, word
from .claims.ch9_whats_next import apart
from .claims.learnt import unlike
from .tables import Record, Table

REAL, MIXED = "encoded and decoded", "frames of different clips"
ALONE, STILL = "images alone", "images of one noise"
VIDEO, ALIGNED = "video from scratch", "video from images"
NAMES = {  # of `coherence.MEASURES`, in a table's columns: how they are called, in which unit, and how many of it are 1
    "kept": ("things kept, %", 100),
    "step": ("step, % of the width", 100),
    "bend": ("bend, % of the width", 100),
    "off_path": ("off an ellipse, % of the width", 100),
    "flicker": ("flicker, grey levels", 1),
}


# ------------------------------------------------------------------------------------------------------------ films


def frames(*rows: Tensor) -> np.ndarray:
    """Clips of several methods, each uint8 (N, F, 3, H, W), as the frames of one film, a row for each method."""
    return np.stack(
        [np.concatenate([_row(clips[:, k], i > 0) for i, clips in enumerate(rows)]) for k in range(rows[0].shape[1])]
    )


def _row(pictures: Tensor, gap: bool) -> np.ndarray:
    row = plotting.grid_image(pictures, len(pictures))
    return np.pad(row, ((2 if gap else 0, 0), (0, 0), (0, 0)), constant_values=255)


def film(shown: np.ndarray, alt: str, caption: str, *, most: int = 90_000, width: int = 520) -> HTML:
    """`films.film` of those frames, of at most `most` bytes."""
    return films.film(films.sheet(shown, most), len(shown), alt, caption, width=width)


def stored_film(record: Record, alt: str, caption: str, *, clips: int = 4, most: int = 150_000) -> HTML | None:
    """The film that a stage stored beside its record, of each row the first `clips`, as `film` shows it; where that is
    too much for `most` bytes, as it was stored. The caption begins with the rows' names. None: it has stored none."""
    path, count = place_of("film", record["name"]), record["results"]["data"]["frames"]
    if not path.is_file():
        return None
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        shown = np.stack(np.split(np.asarray(image.convert("RGB")), count, axis=1))
    names = record["results"]["rows_of_the_film"]
    side = (shown.shape[1] + 2) // len(names)  # with the gap between pictures
    caption = f"From the top: {'; '.join(names)}. {caption}"
    try:
        return film(shown[:, :, : clips * side - 2], alt, caption, most=most)
    except ValueError:
        return films.film(data, count, alt, caption)


# ------------------------------------------------------------------------------------------------ tables and figures


def measured(found: Mapping[str, Mapping[str, Mean]]) -> Table:
    """What `coherence.coherence` says of some sets of clips, by name."""
    body = [[name, *(_cell(vars(of[m]), m) for m in NAMES)] for name, of in found.items()]
    return ["", *(words for words, _ in NAMES.values())], body


def _cell(mean: Mapping, measure: str) -> str:
    times = NAMES[measure][1]
    if not mean["n"] or mean["mean"] is None or mean["mean"] != mean["mean"]:
        return NONE
    error = mean["error"]
    known = error is not None and error < float("inf")
    return plus_minus(times * mean["mean"], times * error if known else None, 1)


def rows_of(record: Record, size: int) -> dict[str, Mapping]:
    """The record's rows at that side, by method."""
    return {row["method"]: row for row in record["results"]["rows"] if row["size"] == size}


def coherence_table(record: Record, size: int = 64) -> Table:
    """Every method at that side: what its clips keep, how they move, and how far frames and changes are from real."""
    body = []
    for name, row in rows_of(record, size).items():
        cells = [_cell(row["coherence"][m], m) for m in ("kept", "step", "bend", "flicker")]
        distances = [kd_e(row["quality"][part]) for part in ("frames", "changes")]
        body.append([name, *cells, *distances, _copied(row) if "copied" in row else NONE])
    head = [NAMES[m][0] for m in ("kept", "step", "bend", "flicker")]
    return ["", *head, "KD-E of frames", "KD-E of changes", "nearer to a training clip"], body


def costs(record: Record) -> Table:
    """What the trained methods saw and spent, and what a clip of theirs costs, decoding included."""
    body = []
    for row in record["results"]["rows"]:
        if "training_flops" in row:
            seen = [f"{row['images']:,}", f"{row['epochs']:.3g}", si(row["training_flops"], "FLOP")]
            name = f"{row['method']}, {row['size']}"
            body.append([name, row["space"], si(row["parameters"]), *seen, si(row["clip_flops"], "FLOP")])
    return ["", "space", "parameters", "frames seen", "epochs", "FLOPs of training", "FLOPs of a clip"], body


def signs_figure(record: Record) -> Figure:
    """Four measures of every method at 64, with twice their standard errors; grey: real clips through the same first
    stage."""
    rows = rows_of(record, 64)
    figure, panels = plotting.subplots(1, 4, figsize=(8.6, 2.9), sharey=True)
    for axes, measure in zip(panels, ("kept", "step", "bend", "flicker")):
        words, times = NAMES[measure]
        for i, row in enumerate(rows.values()):
            of = row["coherence"][measure]
            if of["mean"] is not None:
                look = ("o", plotting.LATENT) if "network" in row else ("s", plotting.NEUTRAL)
                bar = 2 * times * (of["error"] or 0)
                axes.errorbar(times * of["mean"], i, xerr=bar, fmt=look[0], color=look[1], ms=4, capsize=2)
        if rows[REAL]["coherence"][measure]["mean"] is not None:
            axes.axvline(times * rows[REAL]["coherence"][measure]["mean"], color=plotting.CLAIMED, lw=1)
        axes.set_xlabel(words.replace(" of the width", ""), fontsize=8)
        axes.set_xlim(left=0)
    panels[0].set_yticks(range(len(rows)), list(rows), fontsize=8)
    panels[0].invert_yaxis()
    return figure


# ------------------------------------------------------------------------------- sentences, as the numbers are


def in_a_minute(record: Record) -> str:
    """Two sentences: what is kept and how the ground flickers, alone, drawn together, and really; and how far what was
    matched lies apart, which is how far things move only where most are kept."""
    rows = rows_of(record, 64)
    alone, video, real = (rows[name]["coherence"] for name in (ALONE, VIDEO, REAL))
    if None in (video["kept"]["mean"], video["step"]["mean"], real["step"]["mean"]):
        return "In the clips that were drawn here, the detector finds no things to follow."
    kept, flicker = ([of[name]["mean"] for of in (alone, video, real)] for name in ("kept", "flicker"))
    far = f"{video['step']['mean'] / real['step']['mean']:.1f} times as far"
    return (
        f"Of the things in a frame, {kept[0]:.0%} are found again in the next one when frames are drawn alone "
        f"(*{ALONE}*), {kept[1]:.0%} when they are drawn together (*{VIDEO}*), and {kept[2]:.0%} in real clips "
        f"(*{REAL}*); the ground flickers by {flicker[0]:.0f}, {flicker[1]:.0f} and {flicker[2]:.0f} grey levels. "
    ) + (
        f"Drawn together, things move {far} a frame as in real clips."
        if kept[1] > 0.5
        else f"Drawn together, detections matched from frame to frame lie {far} apart as in real clips; since most "
        "things are not found again, that is not how far they move."
    )


def what_is_wrong(record: Record) -> str:
    """A paragraph for each method on the film and for both networks of clips, by its numbers; it says which is not on
    the film."""
    rows = rows_of(record, 64)
    of = {name: rows[name]["coherence"] for name in (REAL, MIXED, ALONE, STILL, VIDEO, ALIGNED)}
    kept = {name: f"{found['kept']['mean']:.0%}" for name, found in of.items()}
    said = {
        REAL: f"what is wrong is the first stage's doing, frame by frame; {kept[REAL]} of the things are kept, and the "
        f"ground flickers by {_flicker(of[REAL])}.",
        ALONE: f"{_frames(rows, ALONE)}, and each is drawn without the others; {kept[ALONE]} of the things are kept, "
        f"in *{MIXED}* {kept[MIXED]}.",
        STILL: f"one frame of such a clip, {record['results']['data']['frames']} times. {kept[STILL]} are kept, and "
        "nothing moves.",
        VIDEO: _drawn_together(rows, VIDEO),
        ALIGNED: _drawn_together(rows, ALIGNED),
    }
    film = record["results"]["rows_of_the_film"]
    lines = [f"*{name}*{'' if name in film else ' (not on the film)'}: {words}" for name, words in said.items()]
    if apart(of[VIDEO]["kept"], of[ALIGNED]["kept"]):
        better = ALIGNED if of[ALIGNED]["kept"]["mean"] > of[VIDEO]["kept"]["mean"] else VIDEO
        lines.append(f"More things are kept by *{better}*, after equally many frames.")
    else:
        lines.append("Where a network of clips begins makes no difference here that one could tell, in what is kept.")
    return "\n\n".join(lines)


def _drawn_together(rows: Mapping[str, Mapping], name: str) -> str:
    mine, real = rows[name]["coherence"], rows[REAL]["coherence"]
    if mine["step"]["mean"] is None or mine["bend"]["mean"] is None:
        return f"{_frames(rows, name)}; no thing can be followed."
    nearer = f"{_copied(rows[name])} nearer to a training clip"
    return (
        f"{_frames(rows, name)}; {mine['kept']['mean']:.0%} of the things are kept, tracks of what was matched bend "
        f"{mine['bend']['mean'] / real['bend']['mean']:.1f} times as much as in real clips, the ground flickers by "
        f"{_flicker(mine)}, and "
        + (f"some are copies ({nearer})." if copied(rows[name]) else f"no copying could be seen ({nearer}).")
    )


def _frames(rows: Mapping[str, Mapping], name: str) -> str:
    """How a method's frames, each by itself, stand beside real ones through the same first stage."""
    mine, real = (rows[method]["quality"]["frames"] for method in (name, REAL))
    worse = "" if word(real, mine) == WORSE else "not resolvably "
    return f"frames are {worse}worse than real ones, decoded (KD-E {mine['kd_e']:.2f} against {real['kd_e']:.2f})"


def _flicker(found: Mapping) -> str:
    return f"{found['flicker']['mean']:.1f} grey levels"


def _copied(row: Mapping) -> str:
    return f"{row['copied']['share']:.0%} ± {row['copied']['error']:.0%}"


def which_space(record: Record) -> str:
    """Clips of 32 a side in latents against pixels, by KD-E of frames and changes, and what a clip costs in either."""
    rows = rows_of(record, 32)
    pixel, said = rows["pixel video"], []
    for name, budget in (("latent video", "training frames"), ("latent video of as many FLOPs", "training FLOPs")):
        words = []
        for part in ("frames", "changes"):
            found = word(pixel["quality"][part], rows[name]["quality"][part])
            words.append(f"{found} {part}" if found in (BETTER, WORSE) else f"{part} {found} from pixels'")
        said.append(f"after equally many {budget}, {' and '.join(words)}")
    ratio = pixel["clip_flops"] / rows["latent video"]["clip_flops"]
    judged = [row["quality"]["frames"] for row in rows.values() if "clip_flops" in row]
    little = (
        "But frames cover almost nothing of real ones, so distances prove little. " if all(map(unlike, judged)) else ""
    )
    return (
        f"Latents have, against pixels, by KD-E: {'; '.join(said)}. (Changes say by how much frames differ, and not "
        f"whether things move: a still may be nearest.) {little}A latent clip costs {ratio:.1f} times fewer FLOPs, "
        "decoding included."
    )
