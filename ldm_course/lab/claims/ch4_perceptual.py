"""The claims of chapter 4, perceptual compression."""

from __future__ import annotations

from ..records import only
from .ch3_scaling import read_worse
from .verdicts import CONFIRMED, NOT_HERE, REFINED, REFUTED, Evidence, Finding, claim, gain, rules, worst


@claim(
    "C4.1",
    "A pixel DDPM treats all pixels alike and spends capacity on imperceptible high frequencies.",
    "noise levels, loss and bits at which only invisible detail is undecided",
)
def _imperceptible(seen: Evidence) -> Finding:
    r = seen.results("perception-emoji-32")
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
    "KD-E at the same images; the cause would have to be varied alone",
)
def _harder(seen: Evidence) -> Finding:
    row = only(seen.results("compare-emoji-32")["matched"], match="images")
    ahead = gain(row["pixel"]["quality"], row["latent"]["quality"])
    who = {None: "no resolved difference", True: "latent nearer", False: "pixel nearer"}[ahead and ahead > 0]
    return Finding(
        REFUTED if ahead is not None and ahead < 0 else NOT_HERE,
        f"by KD-E at the same images: {who}; the cause is not isolated",
        "Faster per image early on would be compatible with it; a test must change the detail alone.",
    )


@claim(
    "C4.3",
    "The autoencoder takes away perceptually irrelevant detail and leaves semantic features.",
    "texture against faint content beyond the grid; a probe of every factor; what is lost, in grey levels",
)
def _irrelevant(seen: Evidence) -> Finding:
    emoji, r = seen.results("perception-emoji-32"), seen.results("perception-scenes-32")
    worse, drawings, scenes = read_worse(r["probes"], "latents"), emoji["lost"], r["lost"]
    ratio, error = r["texture_to_movement"], r["texture_to_movement_error"]
    tests = [ratio + error < rules.half, not worse, max(drawings, scenes) <= r["visible"]]
    return Finding(
        CONFIRMED if all(tests) else REFINED if any(tests) else REFUTED,
        f"beyond the grid texture passes {ratio:.0%} as well as a faint movement; from latents are read worse: "
        f"{', '.join(worse) or 'nothing'}; off by {drawings:.0f} grey levels on drawings, {scenes:.0f} on scenes",
        "It drops what is dear to code, fine grain before edges, and at 32 pixels also what one sees.",
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
