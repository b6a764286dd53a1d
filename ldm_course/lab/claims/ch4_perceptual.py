"""The claims of chapter 4, perceptual compression."""

from __future__ import annotations

from collections.abc import Iterable

from . import lead
from .ch3_scaling import lost_factors
from .learnt import DENOISERS, SEEDS, Budget, Seeds, at_equal_budget, better, lacking, seeds_of
from .rates import FIRST_STAGE, rates
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, margin, rules, worst


@claim(
    "C4.1",
    "A pixel DDPM treats all pixels alike and spends capacity on imperceptible high frequencies.",
    "noise levels, loss and bits at which only invisible detail is undecided",
)
def _imperceptible(seen: Evidence) -> Finding:
    r = seen.results("perception-emoji-64")
    parts = r["finer_than_visible"]
    sides = [part > rules.half for part in parts.values()]
    shown = ", ".join(f"{part:.0%} of the {name}" for name, part in parts.items())
    return Finding(
        CONFIRMED if all(sides) else REFINED if any(sides) else REFUTED,
        f"below {r['visible']:g} grey levels: {shown}; {r['loss_above_grid']:.0%} of the loss above f = {r['grid']}",
        "The loss weighs all waves alike. The bound's bits go to invisible detail; a reweighted loss does not.",
    )


@claim(
    "C4.2",
    "That makes semantic structure harder to learn and convergence slower.",
    "the same training with and without fine texture: images needed for the same error of the content",
)
def _harder(seen: Evidence) -> Finding:
    r = seen.results("texture-scenes-32")
    slower = {float(s): of for s, of in r["against_plain"].items()}
    words = {s: _slows(of["slow_down"], margin(of["slow_down_error"])) for s, of in slower.items()}
    strength = {s: r["textures"][f"{s:g}"]["pixels"] for s in slower}
    shown = [
        f"texture of {strength[s]:.0f} grey levels: {of['slow_down']:.2f} ± {of['slow_down_error']:.2f} times the "
        f"images for the same content, or an error {of['ratio'][-1][0]:.2f} ± {of['ratio'][-1][1]:.2f} times as large"
        for s, of in slower.items()
    ]
    faint, strong = words[min(words)], words[max(words)]
    word = NOT_HERE
    if faint == CONFIRMED:
        word = CONFIRMED
    elif REFUTED in (faint, strong):  # what strong texture does not do, faint texture does not
        word = REFINED if strong == CONFIRMED else REFUTED
    return Finding(
        word,
        "; ".join(shown),
        "Texture was varied alone. A weight on the noise levels decides what the invisible costs, not the pixels.",
    )


def _slows(slow_down: float, error: float) -> str:
    """Whether a factor of images needed, with its `margin`, is one of a slower training: beyond the error it is; within
    `rules.tie` of 1, error included, it is not."""
    if slow_down + error <= 1 + rules.tie:
        return REFUTED
    return CONFIRMED if slow_down - error > 1 else NOT_HERE


@claim(
    "C4.3",
    "The autoencoder takes away perceptually irrelevant detail and leaves semantic features.",
    "texture against faint content beyond the grid; what latents hold of every factor; what is lost, in grey levels",
)
def _irrelevant(seen: Evidence) -> Finding:
    emoji, r = seen.together("perception-emoji-64", "perception-scenes-32")
    gone, drawings, scenes = lost_factors(r["probes"]), emoji["lost"], r["lost"]
    ratio, error = r["texture_to_movement"], r["texture_to_movement_error"]
    tests = [ratio + margin(error) < rules.half, not gone, max(drawings, scenes) <= rules.visible]
    return Finding(
        CONFIRMED if all(tests) else REFINED if any(tests) else REFUTED,
        f"beyond the grid texture passes {ratio:.0%} as well as a faint movement; less of it in latents: "
        f"{', '.join(gone) or 'no factor'}; off by {drawings:.0f} grey levels on drawings, {scenes:.0f} on scenes",
        "It drops what is costly to code, fine grain before edges, and in small pictures also what one sees.",
    )


@claim(
    "C4.4",
    "The diffusion model learns layout, and the decoder restores texture: a separation of concerns.",
    "noise levels at which content is undecided; the decoder's answer to grain",
)
def _layout(seen: Evidence) -> Finding:
    r = seen.results("perception-scenes-32")
    probes, answer = r["probes"], r["grain"]["answer"]
    tests = [probes["lead"] > margin(probes["lead_error"]), answer >= rules.half]
    levels = {n: sum(found.values()) / len(found) for n, found in probes["undecided"].items()}
    shown = ", ".join(f"{n} {levels[n]:.0%}" for n in ("pixels", "latents", "coarse pixels"))
    return Finding(
        CONFIRMED if all(tests) else REFINED if any(tests) else REFUTED,
        f"levels at which content is undecided: {shown}; the answer to grain is {answer:.0%}",
        "This decoder smooths. More levels for layout come with a coarse grid, autoencoder or not.",
    )


@claim("C4.5", "A latent model converges faster to meaningful pictures.", "KD-E at the same images, FLOPs and seconds")
def _converges(seen: Evidence) -> Finding:
    """At the largest budget of each kind that both have reached, the autoencoder's part counted where it has one."""
    pixel, latent, first = seen.together(*DENOISERS, FIRST_STAGE)
    found, known = rates(seen.results("training-speed")), seeds_of(seen.results(SEEDS))
    budgets = (lead.IMAGES, lead.flops(latent["first_stage"]), lead.seconds(found, first))
    words, parts = compared_at(budgets, pixel, latent, known)
    return Finding(
        worst(*words),
        f"KD-E, pixel to latent, at the same {'; '.join(parts)} (images to seconds: {found.says})",
        "With the autoencoder on the bill, as far as both were trained.",
    )


def compared_at(budgets: Iterable[Budget], pixel: dict, latent: dict, seeds: Seeds) -> tuple[list[str], list[str]]:
    """Whether the latent's pictures are nearer at each budget: verdicts, and what to say of them. Epochs are counted
    where the two are compared, by the one that has seen less."""
    words, parts = [], []
    for budget in budgets:
        pair = at_equal_budget(budget, pixel["points"], latent["points"])
        if pair is None:
            words.append(NOT_HERE)
            parts.append(f"{budget.name}: the two have no budget in common")
            continue
        one, other = (point["quality"] for point in pair)
        epochs = min(point["images"] for point in pair) / pixel["data"]["train"]
        counts = [(0, min(q["n_generated"] for q in (one, other)))]
        missing = lacking(epochs, counts, seeds.count)
        words.append(NOT_HERE if missing else better(one, other, seeds.between(one, other)))
        parts.append(f"{budget.name} {one['kd_e']:.3g} to {other['kd_e']:.3g}" + (f" ({missing})" if missing else ""))
    return words, parts
