"""What the literature shows of each claim, beside our verdicts and never in their place.

At scales that cannot be tested here it supports a claim, or speaks against it or against what we find at 32 pixels.
Every figure was read in the table or abstract that is named with it; FID is of 50,000 pictures unless it says
otherwise. What is not in here we know no table for.
"""

from __future__ import annotations

from dataclasses import dataclass

SUPPORTS, AGAINST, BOTH = "supports", "speaks against", "both ways"


@dataclass(frozen=True)
class Published:
    """Which way it points, what it shows, and where that stands."""

    way: str
    shows: str
    where: str

    def __str__(self) -> str:
        return f"{self.way}: {self.shows} ({self.where})"


LDM = "Rombach et al. 2022"
DDIM = "Song et al. 2021, Table 1"
HDIT = "Crowson et al. 2024"
JIT = "Li and He 2025"
EQVAE = "Kouzelis et al. 2025, Table 1"
ONE_EPOCH = "an epoch 20.66 to 7.66 h, sampling 0.26 to 0.97 pictures a second at 256"

PUBLISHED = {
    "C1.3": Published(
        AGAINST,
        "GFLOP of a pass at 128, 256 and 512: DiT-B/4 106, 657, 6341, beyond the 4x of the positions; with attention "
        "kept local 31, 65, 198, below it",
        f"{HDIT}, Table 1",
    ),
    "C1.4": Published(
        AGAINST,
        f"at equal parameters and f = 4, 16x fewer values: {ONE_EPOCH}, so 2.7x and 3.7x",
        f"{LDM}, Table 6",
    ),
    "C2.1": Published(
        AGAINST,
        "2.7x an epoch at 256, not 1.3x, with the first stage left out, which took 29 V100-days for f = 4",
        f"{LDM}, Tables 6 and 18",
    ),
    "C2.2": Published(
        SUPPORTS,
        "samples a second at f = 4 over f = 1: 3.7x at 256, 4.9x at 512; the first stage is not in it",
        f"{LDM}, Table 6",
    ),
    "C2.3": Published(
        BOTH, "the same network serves 1000 steps and 100, so time goes with the steps: 10x, in either space", DDIM
    ),
    "C2.4": Published(
        BOTH,
        "CIFAR-10 in pixels: FID 3.17 (DDPM, 1000 steps), 4.16 (DDIM, 100), far from the source's 90.93 and 88.91. At "
        "256, unguided, LDM-4 10.56 and ADM 10.94, in pixels also 2.77 (simple diffusion)",
        f"{DDIM}; {HDIT}, Table 4",
    ),
    "C3.1": Published(AGAINST, "f = 8 with c = 4 has 48x fewer values, f = 4 with c = 3 16x", f"{LDM}, Table 8"),
    "C3.3": Published(
        BOTH,
        "3.7x at 256 and 4.9x at 512, a growth of 1.3x; with attention kept local a pixel network's cost grows no "
        "faster than its positions",
        f"{LDM}, Table 6; {HDIT}, Table 1",
    ),
    "C3.4": Published(
        SUPPORTS,
        "batches of 7, 9, 40, 64 on one GPU for f = 1, 2, 4, 8 at 256; 2.7x faster an epoch at f = 4",
        f"{LDM}, section 4.1 and Table 6",
    ),
    "C3.5": Published(
        BOTH,
        "0.34 pictures a second at 512 for f = 4, 0.07 in pixels: 3 and 14 seconds, neither of them minutes",
        f"{LDM}, Table 6",
    ),
    "C3.6": Published(
        BOTH, "rFID 0.90 and 24.2 dB at f = 8, 0.27 and 27.5 dB at f = 4: small things change", f"{LDM}, Table 8"
    ),
    "C4.3": Published(
        BOTH,
        "less lost is not better to learn from: rFID 0.90 to 0.20 from SD's to SD3's autoencoder, and the "
        "denoiser's FID 43.8 to 58.9",
        EQVAE,
    ),
    "C4.5": Published(
        SUPPORTS,
        "FID 38 lower at f = 8 than in pixels after 2 M steps on ImageNet, 5,000 pictures; batches, and so images "
        "seen, differ 9-fold",
        f"{LDM}, section 4.1",
    ),
    "C5.4": Published(
        BOTH,
        "FID of 2,000 pictures 24.74 in pixels, 15.21 at f = 4, equal parameters; but bedrooms 1.90 in pixels (ADM), "
        "2.95 in latents",
        f"{LDM}, Tables 6 and 18",
    ),
    "C6.1": Published(SUPPORTS, "FID 3.17 in 1000 steps, 367.43 in 10", DDIM),
    "C6.2": Published(
        BOTH,
        "FID 4.67 in 50 DDIM steps, as in 1000 of DDPM with the variance of η = 1 (4.73): 20x fewer; with the larger "
        "variance DDPM comes to 3.17, which no number of DDIM steps reaches (4.04 in 1000)",
        DDIM,
    ),
    "C6.3": Published(
        BOTH,
        "Stable Diffusion works at 512, SDXL at 1024; but in pixels 1.78 at 512 with a pass of the cost at 256 (1.82)",
        f"model cards; {JIT}, Tables 7 and 8",
    ),
    "C7.1": Published(
        AGAINST,
        "in pixels FID 1.82 at 256 and 1.78 at 512, in latents 2.27 (DiT-XL/2), 2.06 (SiT-XL/2), 1.13 (RAE) at 256: "
        "the best latents lead, most do not",
        f"{JIT}, Tables 7 and 8",
    ),
    "C7.2": Published(SUPPORTS, f"{ONE_EPOCH}, batches 7 to 40", f"{LDM}, Table 6 and section 4.1"),
    "C7.3": Published(SUPPORTS, "24.2 dB at f = 8, 27.5 at f = 4: far from pixel-precise", f"{LDM}, Table 8"),
    "C8.1": Published(SUPPORTS, "f = 8 in SD 1 and 2, SDXL, SD3 and FLUX.1; c is 4, later 16", "model cards and code"),
    "C8.2": Published(SUPPORTS, "FID 6.84 in 20 steps, 4.67 in 50, 4.16 in 100, on CIFAR-10 in pixels", DDIM),
    "C8.4": Published(
        AGAINST,
        "multiply-adds of a pass at 512, in 10⁹: in pixels 1983 (ADM-G), 555 (simple diffusion), 26 to 384 (JiT-B to "
        "G); in latents 525 (DiT-XL/2)",
        f"{JIT}, Table 8",
    ),
    "C8.5": Published(
        AGAINST, "Stable Diffusion 1 took 150,000 A100-hours to train: it runs on consumer GPUs only", "model card"
    ),
    "C9.1": Published(
        BOTH,
        "rFID 0.90 (SD) to 0.20 (SD3), and PSNR with it; but the same denoiser's FID on them 43.8 to 58.9",
        EQVAE,
    ),
    "C9.2": Published(
        SUPPORTS,
        "ImageNet in stages, FID 1.48 at 64, 3.52 at 128, 4.88 at 256; at 256 one network in pixels has come to 1.38",
        f"Ho et al. 2022, abstract; {JIT}, Table 7",
    ),
    "C9.3": Published(
        SUPPORTS,
        "CIFAR-10, FID 3.66 in one step, 2.52 in two; the teacher 2.01 in 35; without one 2.85 and 2.06",
        "Lu and Song 2025, Table 1",
    ),
    "C9.4": Published(
        BOTH,
        "of tokenizers with 4 channels that take 17 frames to 5, FVD of what is rebuilt 194 to 351: they differ",
        "Tang et al. 2024 (VidTok), Table 1",
    ),
    "C9.5": Published(
        BOTH,
        "FID at 256, mostly guided: pixels 1.38 to 4.59, the usual latents 1.26 to 2.27, a semantic encoder's 1.13",
        f"{JIT}, Table 7",
    ),
    "C10.1": Published(
        SUPPORTS, "rFID 0.086 at 6x fewer values, 0.27 at 16x, 0.90 at 48x: little is lost at 12x", f"{LDM}, Table 8"
    ),
    "C10.2": Published(AGAINST, "3.7x at 256, 4.9x at 512", f"{LDM}, Table 6"),
    "C10.3": Published(SUPPORTS, f"{ONE_EPOCH}, batches 7 to 40", f"{LDM}, Table 6 and section 4.1"),
    "C10.4": Published(
        BOTH,
        "of compression alone it depends which: FID 64.1, 43.8, 58.9 of one denoiser on latents of f = 16, of SD "
        "and of SD3",
        EQVAE,
    ),
}
