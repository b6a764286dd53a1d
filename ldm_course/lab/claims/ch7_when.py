"""The claims of chapter 7, when to use which."""

from __future__ import annotations

from ...measure import cost_model, structures
from .verdicts import CONFIRMED, REFINED, REFUTED, Evidence, Finding, claim, rules, sampled, seconds_a_picture, worst


@claim(
    "C7.1", "Pixel space suits images up to about 128; latent space 256 and above.", "break-even side by a cost model"
)
def _crossover(seen: Evidence) -> Finding:
    """Two bills (`cost_model.READY`, `FROM_NOTHING`) at f = 4 and 8: is pixel space cheaper at 64, and are latents from
    256 on? Confirmed if on all four, refuted if on none."""
    model = cost_model.cost_model(*seen.records("cost", "compare-cifar10-32"))
    bills = {"there already": cost_model.READY, "trained first": cost_model.FROM_NOTHING}
    found = {
        (f, name): cost_model.break_even_side(model, f, work, cost_model.SIDES)
        for f in (4, 8)
        for name, work in bills.items()
    }
    fits = [side is not None and 64 < side <= 256 for side in found.values()]
    shown = {name: ", ".join(f"{found[f, name] or 'none'} at f = {f}" for f in (4, 8)) for name in bills}
    return Finding(
        CONFIRMED if all(fits) else REFINED if any(fits) else REFUTED,
        f"latents are cheaper from this side on ({min(cost_model.SIDES)} is the smallest asked): "
        + "; ".join(f"autoencoder {name}, {sides}" for name, sides in shown.items()),
        "By cost alone. How long the autoencoder is trained moves the crossover more than the side does.",
    )


@claim("C7.2", "Latent space suits little GPU memory and fast inference.", "memory and seconds at 32 a side")
def _suits(seen: Evidence) -> Finding:
    rows = seen.cost()
    kept = rows[32, 1]["kept_for_backward"] / rows[32, 4]["kept_for_backward"]
    r = seen.results("compare-cifar10-32")
    faster = seconds_a_picture(r, "pixel", "ddim", 50) / seconds_a_picture(r, "latent", "ddim", 50)
    one, other = (sampled(r, space, "ddim", 50)["seconds_picture"]["1"] for space in ("pixel", "latent"))
    return Finding(
        CONFIRMED if min(kept, faster, one / other) > 1 + rules.tie else REFUTED,
        f"{kept:.0f}x less kept in training; a picture of 50 steps, decoded, {faster:.1f}x faster in a batch, "
        f"{one / other:.1f}x alone",
        "Weights, their gradients and averages do not shrink, and the decoder is added.",
    )


@claim("C7.3", "Latent space suits neither pixel-precise work nor very small images.", "fine structures; cost at 32")
def _unsuited(seen: Evidence) -> Finding:
    """Two parts. One-pixel structures, by what a latent of each f keeps at best (`Left.kept`), which is the better of
    an autoencoder trained on such structures alone and the best linear code: confirmed if less than half of the kinds
    at every f, refuted if half or more at every f. An autoencoder that never saw them would be judged by its training.
    32 pixels, f = 4: confirmed if pixel space is cheaper on both bills of C7.1, refuted if on none."""
    kept = structures.kept_kinds(seen.results("fine-structures-32")["rows"], 1)
    kinds, fs = len(structures.KINDS), sorted({f for f, _ in kept})
    by = {way: [kept[f, way] for f in fs] for way in (structures.TRAINED, "linear code")}
    keeps = sum(max(at_f) >= rules.half * kinds for at_f in zip(*by.values()))
    precise = CONFIRMED if not keeps else REFUTED if keeps == len(fs) else REFINED
    model = cost_model.cost_model(*seen.records("cost", "compare-cifar10-32"))
    pixel, latent = (model.prices(32, f) for f in (1, 4))
    ready, from_nothing = (
        cost_model.total(pixel, work) / cost_model.total(latent, work)
        for work in (cost_model.READY, cost_model.FROM_NOTHING)
    )
    dear = (ready < 1) + (from_nothing < 1)
    counts = [f"{way} {'/'.join(map(str, n))}" for way, n in by.items()]
    counts += [f"{way} {n} at f = {f}" for (f, way), n in kept.items() if way == structures.GENERAL]
    return Finding(
        worst(precise, (REFUTED, REFINED, CONFIRMED)[dear]),
        f"of {kinds} one-pixel structures, kept at f = {'/'.join(map(str, fs))}: {', '.join(counts)}; at 32 pixels "
        f"all costs {ready:.1f}x what it does in latents, {from_nothing:.2f}x if the autoencoder is trained",
        "By what a latent of each size keeps at best. What is lost depends on f, c and what the autoencoder was "
        "trained on.",
    )
