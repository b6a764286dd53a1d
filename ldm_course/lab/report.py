"""The comparison's record as tables and pictures: on the terminal, as a Markdown report, in the book.

Everything here is computed from the record, so that a stored run and one made just now read alike.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..files import written_whole
from ..page import plotting
from ..page.numbers import NONE, duration, plus_minus, seconds, si, times
from .records import data_note, only, stamp

Table = tuple[str, list[str], list[list[str]]]  # title, head, rows


def tables(record: dict) -> list[Table]:
    """The comparison's tables: cost, autoencoder, matched budgets, samplers, break-even."""
    return [_costs(record), _autoencoder(record), _matched(record), _sampling(record), _break_even(record)]


def as_text(record: dict) -> str:
    """For the terminal: columns in line, one table after the other."""
    parts = []
    for title, head, rows in tables(record):
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in [head, *rows]]
        parts.append("\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:]]))
    return "\n\n".join(parts)


def as_markdown(record: dict) -> str:
    """The tables as Markdown."""
    parts = []
    for title, head, rows in tables(record):
        lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
        parts.append(f"**{title}**\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def quality(q: dict) -> list[str]:
    """A judgement as cells: both distances with their errors, beside their noise floors, and the count."""
    fd = _over(q["fd_e"], q["fd_e_floor"], 1, q.get("fd_e_error"))
    return [fd, _over(q["kd_e"], q["kd_e_floor"], 3, q.get("kd_e_error")), str(q["n_generated"])]


QUALITY_HEAD = ["FD-E (floor)", "KD-E (floor)", "pictures"]


def _over(value: float | None, floor: float | None, digits: int = 1, error: float | None = None) -> str:
    shown = NONE if value is None else plus_minus(value, error, digits)
    return f"{shown} ({NONE if floor is None else f'{floor:.{digits}f}'})"


def sampled(results: dict, space: str, method: str, steps: int) -> dict:
    """One row of a comparison's sampling table."""
    return only(results["sampling"], space=space, method=method, steps=steps)


def seconds_a_picture(results: dict, space: str, method: str, steps: int) -> float:
    """Of a picture, decoder included, at the largest batch that was timed."""
    of = sampled(results, space, method, steps)["seconds_picture"]
    return of[max(of, key=int)]


def _costs(record: dict) -> Table:
    cost = record["results"]["cost"]
    pixel, latent = cost["pixel"], cost["latent"]
    precision = computed_in(record["results"])

    def row(name: str, write, value) -> list[str]:
        a, b = value(pixel), value(latent)
        return [name, write(a), write(b), times(a, b)]

    def count(shape: list[int]) -> int:
        return shape[0] * shape[1] * shape[2]

    rows = [
        row("values", str, lambda c: count(c["shape"])),
        row("positions", str, lambda c: c["shape"][1] * c["shape"][2]),
        row("FLOPs of a denoising step", lambda n: si(n, "FLOP"), lambda c: c["flops_step"]),
        row("kept for the backward pass", lambda n: si(n, "B"), lambda c: c["activation_bytes_image"]),
        row(f"training, an image, {precision['training']}", seconds, lambda c: c["training_seconds_image"]),
    ]
    for batch in pixel["step_seconds"]:
        name = f"a step, batch {batch}, {precision['step']}"
        rows.append(row(name, seconds, lambda c, b=batch: c["step_seconds"][b]["median"]))
    for batch, timing in cost["decode"]["seconds"].items():
        rows.append([f"decoding, batch {batch}, {precision['decode']}", NONE, seconds(timing["median"]), NONE])
    return "What one picture costs", ["", "pixel", "latent", "pixel / latent"], rows


def computed_in(results: dict) -> dict[str, str]:
    """The precision of each timing of a comparison: "training", "step" and "decode". Older records timed steps and
    decoding in float32, whatever pictures were made in."""
    trained = results.get("training_precision") or "float32"
    return {"training": {"no": "float32"}.get(trained, trained)} | results.get(
        "computed_in", {"step": "float32", "decode": "float32"}
    )


def _autoencoder(record: dict) -> Table:
    a = record["results"]["autoencoder"]
    rows = [
        ["training", f"{duration(a['training_seconds'])}, {a['training_images']} images"],
        ["encoding the training set", seconds(a["encode_seconds"])],
        ["PSNR, held out", f"{a['psnr']:.2f} dB"],
        ["SSIM, held out", f"{a['ssim']:.3f}"],
        ["FD-E of reconstructions (floor)", _over(a["reconstruction"]["fd_e"], a["reconstruction"]["fd_e_floor"])],
    ]
    return f"The autoencoder's part, {a['held_out']} held-out pictures", ["", ""], rows


def _matched(record: dict) -> Table:
    rows, a = [], record["results"]["autoencoder"]
    paid = {
        "pixel": (NONE, NONE),
        "latent": (
            seconds(a["training_seconds"] + a["encode_seconds"]),
            si(a["training_flops"] + a["encode_flops"], "FLOP"),
        ),
    }
    for entry in record["results"]["matched"]:
        for i, space in enumerate(("pixel", "latent")):
            side, (spent_before, flops) = entry[space], paid[space]
            spent = [str(side["images"]), seconds(side["seconds"]), spent_before, si(side["flops"], "FLOP"), flops]
            rows.append([entry["says"] if i == 0 else "", space, *spent, *quality(side["quality"])])
    sampler = only(record["results"]["matched"], match="images")["sampler"]  # as in all of them
    spent = ["images seen", "seconds", "+ autoencoder", "FLOPs", "+ autoencoder"]
    return f"Quality at matched budgets ({sampler})", ["matched at", "space", *spent, *QUALITY_HEAD], rows


def _sampling(record: dict) -> Table:
    rows = []
    for r in record["results"]["sampling"]:
        times = [seconds(r["seconds_picture"][b]) for b in batches(record)]
        rows.append([r["space"], r["method"].upper(), str(r["steps"]), *times, *quality(r["quality"])])
    head = ["space", "sampler", "steps", *(f"s a picture, batch {b}" for b in batches(record)), *QUALITY_HEAD]
    precision = computed_in(record["results"])
    words = f"steps in {precision['step']}, decoding in {precision['decode']}"
    return f"Sampling, decoder included ({words})", head, rows


def batches(record: dict) -> list[str]:
    """The batches that a picture's seconds were timed in, the smallest first."""
    return sorted(record["results"]["cost"]["decode"]["seconds"], key=int)


def _break_even(record: dict) -> Table:
    b = record["results"]["break_even"]
    names = {"training_image": "training images seen", "picture": "pictures made"}
    rows = []
    for key, name in names.items():
        after = "never" if b["after"][key] is None else f"{b['after'][key]:.0f} {name}"
        rows.append([f"a {key.replace('_', ' ')}", seconds(b["saved_seconds"][key]), after])
    head = ["saved on", "seconds", f"the autoencoder's {duration(b['autoencoder_seconds'])} are earned back after"]
    return "Break-even", head, rows


def quality_against_seconds(record: dict) -> Figure:
    """FD-E against seconds a picture, a mark for each row of the sampling table: open where it is of fewer pictures,
    which do not compare with the others. Pixels are named below their marks, latents above."""
    rows = record["results"]["sampling"]
    batch = batches(record)[-1]
    most = max(r["quality"]["n_generated"] for r in rows)
    with plt.rc_context(plotting.STYLE):
        figure, axes = plt.subplots(figsize=(7, 3.6))
        for space, marker, above in (("pixel", "o", -1), ("latent", "s", 1)):
            for r in (r for r in rows if r["space"] == space):
                at, n = (r["seconds_picture"][batch], r["quality"]["fd_e"]), r["quality"]["n_generated"]
                fill = plotting.COLOURS[space] if n == most else "none"
                axes.scatter(*at, s=50, marker=marker, facecolors=fill, edgecolors=plotting.COLOURS[space])
                words, side = f"{r['method'].upper()}\n{r['steps']}", "bottom" if above > 0 else "top"
                place = {"textcoords": "offset points", "ha": "center", "va": side, "fontsize": 8, "linespacing": 1}
                axes.annotate(words, at, (0, 7 * above), color=plotting.COLOURS[space], **place)
        for n, fill in sorted({(r["quality"]["n_generated"], r["quality"]["n_generated"] == most) for r in rows}):
            axes.scatter([], [], s=50, facecolors=plotting.NEUTRAL if fill else "none", edgecolors=plotting.NEUTRAL)
            axes.collections[-1].set_label(f"of {n} pictures")
        axes.set(xscale="log", xlabel=f"seconds a picture, batch {batch}", ylabel="FD-E, lower is better")
        axes.set_ylim(0, 1.25 * max(r["quality"]["fd_e"] for r in rows))
        axes.margins(x=0.2)
        axes.legend(loc="lower right")
    plt.close(figure)
    return figure


def write(out: Path, record: dict, train, test, last: dict, pictures: dict[str, Tensor]) -> None:
    """Writes report.md and its pictures into `out`; `pictures` are samples by "space-method-steps"."""
    count = min(16, *(len(p) for p in pictures.values()))
    space = last["latent"].space
    shown = test.images[:8]
    with torch.inference_mode():
        device = next(last["latent"].model.parameters()).device
        x = test.batch(torch.arange(len(shown)), device)
        rebuilt = space.to_pictures(space.autoencoder.to_latents(x)).cpu()
    grids = {
        "real": (train.images[:16], "Training pictures."),
        "reconstructions": (
            torch.cat([shown, rebuilt]),
            "Held-out pictures, and below them what the autoencoder makes of them.",
        ),
    }
    for key, made in pictures.items():
        space, method, steps = key.split("-")
        grids[key] = (made[:count], f"Samples, {space} space, {method.upper()}, {steps} steps; not chosen.")
    lines = [
        f"# Pixels and latents on {record['results']['data']['name']}",
        f"{_sentence(stamp(record))}. Data: {record['data_source']}. Profile `{record['profile']}`, "
        f"{duration(record['results']['budget_seconds'])} of training for each space, seed {record['seed']}.",
        *filter(None, [data_note(record)]),
        as_markdown(record),
        "FD-E and KD-E are distances between EfficientNet-Lite0 features of generated and of training pictures; "
        "they are not FID. After ± their standard errors over other draws of as many pictures; in brackets the noise "
        "floor: the same distance between real pictures at the same count.",
    ]
    for key, (images, caption) in grids.items():
        plotting.save_png(out / f"{key}.png", plotting.grid_image(images, 8, scale=max(1, 96 // images.shape[-1])))
        lines.append(f"![{caption}]({key}.png)\n\n*{caption}*")
    plotting.save_png(out / "quality.png", quality_against_seconds(record))
    caption = "Quality against time, for every sampler in the table."
    lines.insert(lines.index(as_markdown(record)) + 1, f"![{caption}](quality.png)\n\n*{caption}*")
    with written_whole(out / "report.md") as path:
        path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
