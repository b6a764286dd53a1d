"""How a consistency model is trained: by a teacher, or without one (chapter 9).

Two neighbouring points of one line have one end, so f at the noisier is to say what f says at the other: from the
boundary, where f is right by construction, what is right moves up level by level. To have a neighbour, one goes one
step down the line, along a guess at the clean picture. Distillation takes a trained denoiser's guess. Training without
a teacher takes the clean picture itself, which makes the neighbour the same picture with the same noise, less of it: on
average over pictures that is the same direction, and for one picture it is not, so its gradients are noisier.

Papers: Consistency Models, Song et al. 2023 (2303.01469), algorithms 2 and 3; improved techniques (iCT), Song &
Dhariwal 2024 (2310.14189), Table 1; consistency models made easy (ECT), Geng et al. 2024 (2406.14548), which begins
with a trained denoiser's weights also where there is no teacher, as is done here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..checkpoints import fingerprint
from ..config import TrainConfig
from ..data.latents import Latents
from ..data.pictures import Pictures
from ..denoiser import Denoiser
from ..diffusion.consistency import started_from
from ..diffusion.objectives import DenoisingObjective, draw
from ..diffusion.schedules import Schedule, add_noise, to_x0
from .trainer import Trainer, planned_steps


def intervals_at(step: int, steps: int, coarsest: int, finest: int) -> int:
    """In how many intervals the levels are divided at that step of `steps`: from `coarsest` on twice as many at a time,
    for equally long, up to `finest`. iCT's N(k) - 1, with s0 and s1 (Table 1)."""
    stages = (finest // coarsest).bit_length()
    return min(coarsest * 2 ** (step // (steps // stages)), finest)


def levels(schedule: Schedule, intervals: int) -> Tensor:
    """The indices between the intervals, rising from 0 to T - 1: int64 (intervals + 1,).

    They are evenly spaced in the index. On the cosine schedule that is even in the angle arctan(sigma), so log sigma
    has the density 1 / (pi cosh(log sigma)): a bell around sigma = 1, much like the lognormal that iCT draws from.
    """
    return torch.linspace(0, schedule.T - 1, intervals + 1, dtype=torch.float64).round().long()


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(|a - b|^2 + c^2) - c of each pair in (B, ...), with c = 0.00054 sqrt(values): (B,). From iCT, Table 1."""
    a, b = a.float().flatten(1), b.float().flatten(1)
    c = 0.00054 * a.shape[1] ** 0.5
    return ((a - b).square().sum(1) + c**2).sqrt() - c


def ode_step(xt: Tensor, x0_hat: Tensor, t: Tensor, to: Tensor, schedule: Schedule) -> Tensor:
    """One DDIM step without noise (`samplers.ddim_step`, eta = 0) from t to `to`, int64 (B,), each picture its own."""
    signal, noise = schedule.scales(t, xt)
    return add_noise(x0_hat, (xt - signal * x0_hat) / noise, to, schedule)


class ConsistencyObjective(DenoisingObjective):
    """Pseudo-Huber distance of f(xt, t) from f at the next level below, which is held fixed.

    `teacher` takes the step down, as it would when sampling (clipped where it clips); None: no teacher. The network
    that is trained is also the one that is held fixed, as in iCT; the paper takes an average of it. It is told classes,
    with the data's labels, as in `DenoisingObjective`, and its teacher the same, unguided. The levels get finer from
    `coarsest` to `finest` intervals in `steps` steps.
    ValueError: `finest` is not `coarsest` times a power of two, or more than the schedule has; fewer steps than there
    are divisions; a teacher on another schedule, or of other classes.
    """

    def __init__(
        self,
        data: Pictures | Latents,
        schedule: Schedule,
        *,
        steps: int,
        coarsest: int,
        finest: int,
        teacher: Denoiser | None = None,
        num_classes: int | None = None,
        dropout: float = 0.1,
        flip: bool = False,
    ):
        super().__init__(data, schedule, "x0", num_classes=num_classes, dropout=dropout, flip=flip)
        times = finest // max(coarsest, 1)
        if coarsest < 1 or coarsest * times != finest or times & (times - 1):
            raise ValueError(f"coarsest={coarsest}, finest={finest}; expected a number and a power of two times it")
        if finest > schedule.T - 1:
            raise ValueError(f"finest={finest}; {schedule.T} levels have {schedule.T - 1} intervals at most")
        if steps < times.bit_length():
            raise ValueError(f"{steps} steps for {times.bit_length()} divisions of the levels; expected one for each")
        if teacher is not None and not torch.equal(teacher.schedule.alpha_bar, schedule.alpha_bar):
            raise ValueError("the teacher has another schedule than the network that it is to teach; take its own")
        if teacher is not None and teacher.num_classes != num_classes:
            raise ValueError(f"the teacher knows {teacher.num_classes} classes, the network {num_classes}")
        self.steps, self.coarsest, self.finest, self.teacher = steps, coarsest, finest, teacher

    def to(self, device: torch.device) -> ConsistencyObjective:
        if self.teacher is not None:
            self.teacher.model.to(device).eval()
        super().to(device)
        return self

    def describe(self) -> str:
        by = "no teacher" if self.teacher is None else f"teacher {fingerprint(self.teacher.model)}"
        how = f"{self.coarsest} to {self.finest} intervals in {self.steps} steps, {by}"
        return f"{super().describe().replace('denoise', 'consistency', 1)}, {how}"

    def __call__(self, model, indices, rng, critic=None):
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise ValueError("the levels get finer with the steps, which a recorded step would not see: no cuda_graph")
        x0 = draw(self.data, indices, rng, self.flip)
        eps = rng.normal(*x0.shape[1:])
        intervals = intervals_at(rng.step, self.steps, self.coarsest, self.finest)
        between = levels(self.schedule, intervals).to(x0.device)
        n = rng.integers(intervals)
        t, below = between[n + 1], between[n]
        told = self.told(x0, indices, rng)
        xt = add_noise(x0, eps, t, self.schedule)
        # before what is held fixed, since autocast keeps the weights that it has rounded: without a gradient, there
        said = model(xt, t, *told)
        with torch.no_grad():
            guess = x0 if self.teacher is None else self._taught(xt, t, told)
            wanted = model(ode_step(xt, guess, t, below, self.schedule), below, *told)
        return {"loss": pseudo_huber(said, wanted).mean(), "intervals": torch.tensor(float(intervals))}

    def _taught(self, xt: Tensor, t: Tensor, told: tuple) -> Tensor:
        teacher = self.teacher
        x0_hat = to_x0(teacher.model(xt, t, *told).to(xt.dtype), xt, t, self.schedule, teacher.prediction)
        return x0_hat.clamp(-1, 1) if teacher.space.clip_x0 else x0_hat


def consistency_trainer(
    data: Pictures | Latents,
    start: Denoiser,
    config: TrainConfig,
    *,
    distil: bool,
    coarsest: int,
    finest: int,
    **trainer,
) -> Trainer:
    """A trainer for a consistency model that begins with the weights of the denoiser `start`, and with `distil` is
    taught by it.

    ValueError: the run does not say when it ends in steps or images, without which nobody knows when to go finer; or
    what `started_from` and `ConsistencyObjective` refuse; or latents are to be flipped.
    """
    steps = planned_steps(config)
    if steps is None:
        raise ValueError("a consistency model's levels get finer with the steps: give steps or images, not seconds")
    if config.flip and isinstance(data, Latents):
        raise ValueError("a mirrored latent is not the latent of the mirrored picture; leave flip out for latents")
    model = started_from(start.model, start.schedule, start.prediction)
    objective = ConsistencyObjective(
        data,
        start.schedule,
        steps=steps,
        coarsest=coarsest,
        finest=finest,
        teacher=start if distil else None,
        num_classes=start.num_classes,
        dropout=config.label_dropout,
        flip=config.flip,
    )
    return Trainer(model, objective, config, **trainer)
