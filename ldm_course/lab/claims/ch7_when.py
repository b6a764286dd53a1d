"""The claims of chapter 7, when to use which."""

from __future__ import annotations

from ...measure import cost_model, structures
from ..records import NotRecorded, recorded_together
from .rates import both, measured_as, picture_seconds
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, more, rules, worst


@claim(
    "C7.1", "Pixel space suits images up to about 128; latent space 256 and above.", "break-even side by a cost model"
)
def _crossover(seen: Evidence) -> Finding:
    """Two bills (`cost_model.READY`, `FROM_NOTHING`) at f = 4 and 8, with the networks that one would build for each
    size: is pixel space cheaper up to about 128, and are latents from 256 on? Confirmed if on all four, refuted if on
    none."""
    model = priced(seen)
    bills = {"there already": cost_model.READY, "trained first": cost_model.FROM_NOTHING}
    built = {"attention_up_to": cost_model.BUILT_UP_TO}
    found = {
        (f, name): cost_model.break_even_side(model, f, work, cost_model.SIDES, **built)
        for f in (4, 8)
        for name, work in bills.items()
    }
    fits = [side is not None and 128 / rules.off < side <= 256 for side in found.values()]
    shown = {name: ", ".join(f"{found[f, name] or 'none'} at f = {f}" for f in (4, 8)) for name in bills}
    return Finding(
        CONFIRMED if all(fits) else REFINED if any(fits) else REFUTED,
        f"latents are cheaper from this side on ({min(cost_model.SIDES)} is the smallest asked): "
        + "; ".join(f"autoencoder {name}, {sides}" for name, sides in shown.items()),
        "By cost alone. How long the autoencoder is trained moves the crossover more than the side does.",
    )


def priced(seen: Evidence) -> cost_model.CostModel:
    """The cost model, with the first stage's rates as taken alone on the machine, or by the comparison's clock."""
    try:
        speed = recorded_together("cost", "training-speed")[1]
        alone = "first_stage" in speed["results"]  # older ones lack it
    except NotRecorded:
        alone = False
    return cost_model.cost_model(*seen.records("cost", "training-speed" if alone else "compare-cifar10-32"))


@claim("C7.2", "Latent space suits little GPU memory and fast inference.", "memory and seconds at 32 a side")
def _suits(seen: Evidence) -> Finding:
    pixel, latent = both(seen, cost_model.STANDARD, 32, 4)
    kept = [row["kept_for_backward"] for row in (pixel, latent)]
    times = [[picture_seconds(row, 50, alone) for row in (pixel, latent)] for alone in (False, True)]
    if None in (*kept, *times[0], *times[1]):
        return Finding(NOT_HERE, "memory or a picture at 32 a side was left out")
    less, faster, alone = (one / other for one, other in (kept, *times))
    return Finding(
        worst(more(less), more(faster), more(alone)),
        f"{less:.0f}x less kept in training; a picture of 50 steps, decoded, {faster:.1f}x faster in a batch "
        f"({measured_as(pixel)} in pixels, {measured_as(latent)} in latents), {alone:.1f}x alone",
        "Weights, their gradients and averages do not shrink, and the decoder is added.",
    )


@claim("C7.3", "Latent space suits neither pixel-precise work nor very small images.", "fine structures; cost at 32")
def _unsuited(seen: Evidence) -> Finding:
    """Two parts. One-pixel structures, by what a latent of each f keeps at best (`Left.kept`), which is the better of
    an autoencoder trained on such structures alone and the best linear code: confirmed if less than half of the kinds
    at every f, refuted if half or more at every f. An autoencoder that never saw them would be judged by its training.
    32 pixels, f = 4: confirmed if pixel space is cheaper on both bills of C7.1, refuted if on none."""
    rule = {"faded": rules.faded, "told": rules.told, "astray": rules.astray}
    kept = structures.kept_kinds(seen.results("fine-structures-32")["rows"], 1, **rule)
    kinds, fs = len(structures.KINDS), sorted({f for f, _ in kept})
    by = {way: [kept[f, way] for f in fs] for way in (structures.TRAINED, "linear code")}
    keeps = sum(max(at_f) >= rules.half * kinds for at_f in zip(*by.values()))
    precise = CONFIRMED if not keeps else REFUTED if keeps == len(fs) else REFINED
    model = priced(seen)
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
