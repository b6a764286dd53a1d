"""What training minimises: what an objective is, and the denoiser's (chapter 0).

An objective holds the training data and draws all its randomness from a `BatchRandom`, so that it does not matter
how a batch is divided among processes. The autoencoder's is in `training.reconstruction`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import numbered
from ..data.latents import Latents
from ..data.pictures import Crops, Pictures
from ..files import fingerprint
from .schedules import Schedule, add_noise, target


class BatchRandom:
    """Random numbers for one step: drawn for the whole batch, of which the caller gets the rows that are his."""

    def __init__(self, seed: int, step: int, batch_size: int, rows: slice, device: torch.device | str):
        self.generator = torch.Generator(device)
        self.batch_size, self.rows, self.device = batch_size, rows, device
        self.begin(seed, step)

    def begin(self, seed: int, step: int) -> None:
        """Goes to the beginning of that step's numbers."""
        self.step = step
        self.generator.manual_seed((seed * 1_000_003 + step + 1) % 2**63)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, `(rows, *shape)`."""
        return torch.randn(self.batch_size, *shape, generator=self.generator, device=self.device)[self.rows]

    def uniform(self) -> Tensor:
        """Uniform numbers in [0, 1), `(rows,)`."""
        return torch.rand(self.batch_size, generator=self.generator, device=self.device)[self.rows]

    def integers(self, high: int) -> Tensor:
        """Whole numbers 0 .. high - 1, `(rows,)`."""
        draw = torch.randint(high, (self.batch_size,), generator=self.generator, device=self.device)
        return draw[self.rows]

    def shared(self, count: int) -> list[float]:
        """`count` uniform numbers in [0, 1) that concern the whole batch, the same for whoever has a part of it."""
        return torch.rand(count, generator=self.generator, device=self.device).tolist()


def on_device(data: Pictures | Crops | Latents, device: torch.device) -> Pictures | Crops | Latents:
    """The same data with their tensors on `device`, where that leaves a GPU most of its memory; else as they are."""
    if isinstance(data, Crops):
        return replace(data, sets=tuple(on_device(part, device) for part in data.sets))
    tensors = {k: v for k, v in vars(data).items() if isinstance(v, Tensor)}
    if device.type == "cuda" and sum(v.nbytes for v in tensors.values()) > torch.cuda.mem_get_info(device)[0] / 4:
        return data
    return replace(data, **{k: v.to(device) for k, v in tensors.items()})


def is_on_gpu(data: Pictures | Crops | Latents) -> bool:
    """Whether all of the data's tensors are in a GPU's memory."""
    if isinstance(data, Crops):
        return all(map(is_on_gpu, data.sets))
    return all(v.is_cuda for v in vars(data).values() if isinstance(v, Tensor))


def draw(data: Pictures | Crops | Latents, indices: Tensor, rng: BatchRandom, flip: bool) -> Tensor:
    """The pictures `indices`, windows of them, or draws from their latents' posteriors, as networks see them:
    `(B, C, H, W)`."""
    x = data.draw(indices, rng)
    return torch.where((rng.uniform() < 0.5)[:, None, None, None], x.flip(3), x) if flip else x


class Objective:
    """What `trainer.Trainer` needs to know: how many pictures there are, and the loss on some of them."""

    size: int
    data: Pictures | Crops | Latents
    critic: nn.Module | None = None  # an opponent with an optimizer of its own, as in adversarial training
    varies = False  # whether steps differ in more than numbers, so that none can be recorded and replayed

    def to(self, device: torch.device) -> Objective:
        """Moves the data to where the model is."""
        return self

    def learns_from(self) -> str:
        """Tells the data from all others, so that a run is not resumed with other pictures."""
        d = self.data
        return f"{d.split} {len(d)} at {d.size}, {d.fingerprint}"

    def describe(self) -> str:
        """Tells this objective from others, so that a run is not resumed with the wrong one."""
        raise TypeError(f"{type(self).__name__} does not describe itself")

    def __call__(
        self, model: nn.Module, indices: Tensor, rng: BatchRandom, critic: nn.Module | None = None
    ) -> dict[str, Tensor]:
        """The losses on the pictures `indices`; the entry `loss` is the one to minimise."""
        raise TypeError(f"{type(self).__name__} has no loss")

    def critic_loss(self, critic: nn.Module) -> Tensor:
        """The critic's own loss, on the pictures that the last call saw."""
        raise TypeError(f"{type(self).__name__} has no critic")


class DenoisingObjective(Objective):
    """E ‖target - model(x_t, t)‖² at uniform t: DDPM's L_simple (equation 14) for ε, and its kin for x₀ and v.

    `data` is `Pictures`, or `Latents` from an autoencoder; the loss knows no difference. The network is told labels,
    with `num_classes`; or texts, with `tokens` int64 (N, L), or (N, K, L) where of each picture's K texts one is drawn
    at a time, and `no_tokens` (L,) for the empty text. Of a share `dropout` of the pictures it is told nothing ("no
    label", the empty text), for classifier-free guidance (Ho & Salimans 2022, alg. 1). ValueError: no such labels.
    """

    def __init__(
        self,
        data,
        schedule: Schedule,
        prediction: str,
        *,
        num_classes: int | None = None,
        tokens: Tensor | None = None,
        no_tokens: Tensor | None = None,
        dropout: float = 0.1,
        flip: bool = False,
    ):
        if num_classes is not None and data.labels is None:
            raise ValueError(f"{data.name} has no labels; train without classes, or give data that has them")
        if tokens is not None and len(tokens) != len(data):
            raise ValueError(f"{len(tokens)} texts for {len(data)} pictures; expected one for each")
        self.data, self.schedule, self.prediction = data, schedule, prediction
        self.num_classes, self.dropout, self.flip = num_classes, dropout, flip
        self.condition, self.nothing = tokens, no_tokens
        if num_classes is not None:
            numbered(data.labels, "labels", len(data), num_classes)  # one more would say "no class"
            self.condition, self.nothing = data.labels, torch.tensor(num_classes)
        self.size = len(data)
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> DenoisingObjective:
        self.device = device
        self.data = on_device(self.data, device)
        if self.condition is not None:
            self.condition, self.nothing = self.condition.to(device), self.nothing.to(device)
        return self

    def describe(self) -> str:
        s = self.schedule
        levels = f"{s.name} T={s.T}" + (f" shift={s.shift}" if s.shift != 1 else "")
        told = self.num_classes
        if self.condition is not None and told is None:
            told = "texts " + fingerprint(self.condition)
        return f"denoise, {levels}, {self.prediction}, {told}"

    def __call__(self, model, indices, rng, critic=None):
        x0 = draw(self.data, indices, rng, self.flip)
        eps = rng.normal(*x0.shape[1:])
        t = self.times(rng)
        xt = add_noise(x0, eps, t, self.schedule)
        pred = model(xt, t, *self.told(x0, indices, rng))
        return {"loss": self.loss(pred.float(), target(x0, eps, t, self.schedule, self.prediction), t)}

    def times(self, rng: BatchRandom) -> Tensor:
        """The indices of the noise levels of a batch, int64 `(rows,)`."""
        return rng.integers(self.schedule.T)

    def loss(self, pred: Tensor, wanted: Tensor, t: Tensor) -> Tensor:
        return F.mse_loss(pred, wanted)

    def told(self, x0: Tensor, indices: Tensor, rng: BatchRandom) -> tuple[Tensor, ...]:
        """What the network is told of x0, the pictures `indices`, beside xt and t: classes (B,) or tokens (B, L), some
        of them replaced by nothing."""
        if self.condition is None:
            return ()
        asked = self.condition[indices.to(self.condition.device)]
        forgotten = rng.uniform() < self.dropout
        if asked.ndim == 3:
            asked = asked[torch.arange(len(asked), device=asked.device), rng.integers(asked.shape[1])]
        return (torch.where(forgotten.view(-1, *[1] * (asked.ndim - 1)), self.nothing, asked),)


@torch.no_grad()
def mean_loss(model: nn.Module, objective: Objective, count: int) -> float:
    """The loss on the objective's first `count` pictures, at times and noises that are the same at every call.

    So a network's loss on pictures that it was trained on can be held against that on others, and two networks' losses
    against each other, without the scatter of a fresh draw. It runs on the `device` of the model's weights.
    ValueError: more pictures than there are.
    """
    if not 1 <= count <= objective.size:
        raise ValueError(f"count={count}; expected 1 to {objective.size}, the number of pictures")
    device = next(model.parameters()).device
    total = 0.0
    for i, part in enumerate(torch.arange(count).split(64)):
        rng = BatchRandom(7, i, len(part), slice(0, len(part)), device)
        total += objective(model, part, rng)["loss"].item() * len(part)
    return total / count
