"""The claims of chapter 4, perceptual compression."""

from __future__ import annotations

from .ch3_scaling import lost_factors
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, gain, rules, worst


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
    words = {s: _slows(of["slow_down"], of["slow_down_error"]) for s, of in slower.items()}
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
    """Whether a factor of images needed, with twice its standard error, is one of a slower training: beyond the error
    it is; within `rules.tie` of 1, error included, it is not."""
    if slow_down + error <= 1 + rules.tie:
        return REFUTED
    return CONFIRMED if slow_down - error > 1 else NOT_HERE


@claim(
    "C4.3",
    "The autoencoder takes away perceptually irrelevant detail and leaves semantic features.",
    "texture against faint content beyond the grid; what latents hold of every factor; what is lost, in grey levels",
)
def _irrelevant(seen: Evidence) -> Finding:
    emoji, r = seen.results("perception-emoji-64"), seen.results("perception-scenes-32")
    gone, drawings, scenes = lost_factors(r["probes"]), emoji["lost"], r["lost"]
    ratio, error = r["texture_to_movement"], r["texture_to_movement_error"]
    tests = [ratio + error < rules.half, not gone, max(drawings, scenes) <= r["visible"]]
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
    tests = [probes["lead"] > probes["lead_error"], answer >= rules.half]
    levels = {n: sum(found.values()) / len(found) for n, found in probes["undecided"].items()}
    shown = ", ".join(f"{n} {levels[n]:.0%}" for n in ("pixels", "latents", "coarse pixels"))
    return Finding(
        CONFIRMED if all(tests) else REFINED if any(tests) else REFUTED,
        f"levels at which content is undecided: {shown}; the answer to grain is {answer:.0%}",
        "This decoder smooths. More levels for layout come with a coarse grid, autoencoder or not.",
    )


@claim(
    "C4.5", "A latent model converges faster to meaningful pictures.", "KD-E at the same images and the same seconds"
)
def _converges(seen: Evidence) -> Finding:
    rows = {row["match"]: row for row in seen.results("compare-emoji-32")["matched"]}
    found = {m: gain(rows[m]["pixel"]["quality"], rows[m]["latent"]["quality"]) for m in ("images", "all_seconds")}
    words = [NOT_HERE if g is None else CONFIRMED if g > 0 else REFUTED for g in found.values()]
    shown = {
        m: f"{rows[m]['pixel']['quality']['kd_e']:.2f} to {rows[m]['latent']['quality']['kd_e']:.2f}" for m in found
    }
    return Finding(
        worst(*words),
        f"KD-E, pixel to latent: {shown['images']} at the same images, {shown['all_seconds']} at the same seconds",
        "Early in training, with the autoencoder on the bill.",
    )
