"""A whole training step as one CUDA graph (chapter 2).

A step of a small network is about a thousand kernels of a few microseconds each. Python needs longer to launch them
than the GPU to run them, so that the GPU waits, and a latent step, which is a sixteenth of the work, takes about as
long as a pixel step. A graph records the kernels of one step and launches them all by one call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..diffusion.objectives import BatchRandom, is_on_gpu

if TYPE_CHECKING:
    from .trainer import Trainer

WARM_STEPS = 5  # ordinary steps before one is recorded: libraries choose their kernels in them, optimizers get moments


def recorded(step: Callable[[], object], warm_steps: int = WARM_STEPS) -> Callable[[], None]:
    """`step`, which must always do the same to the same tensors, as one graph, after some ordinary calls of it."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(warm_steps):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class StepGraph:
    """One step of a trainer: draw a batch, forward, backward, clip, update, average; recorded now, replayed later.

    What changes from step to step lies in tensors that the graph reads: the pictures' indices, the learning rate, the
    weight of the average; and the state of the generator, which `BatchRandom.begin` sets. So a replayed step is the
    step that would have been run.
    """

    def __init__(self, trainer: Trainer):
        device, config = trainer.accelerator.device, trainer.config
        self.seed = config.seed
        self.rng = BatchRandom(config.seed, 0, config.batch_size, slice(0, config.batch_size), device)
        self.indices = torch.zeros(config.batch_size, dtype=torch.int64, device=device)
        self.rate = torch.tensor(config.lr, device=device)
        self.weight = torch.tensor(1.0, device=device)
        for group in trainer.optimizer.param_groups:
            group["capturable"], group["lr"] = True, self.rate
        trainer.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.rng.generator)
        with torch.cuda.graph(self.graph):
            losses = self._step(trainer)
            self.values = torch.stack([value.detach().float() for value in losses.values()])
        self.names = list(losses)

    @staticmethod
    def suits(trainer: Trainer) -> bool:
        """Whether a step can be recorded: on one GPU, in one piece, always alike, without a critic, its data there."""
        engine = trainer.accelerator
        plain = engine.num_processes == 1 and trainer.config.accumulate == 1 and trainer.critic is None
        plain = plain and not trainer.objective.varies
        return (
            engine.device.type == "cuda" and plain and trainer.precision != "fp16" and is_on_gpu(trainer.objective.data)
        )

    def _step(self, trainer: Trainer) -> dict[str, Tensor]:
        model = trainer.accelerator.unwrap_model(trainer.model)
        with trainer.autocast():
            losses = trainer.objective(trainer.model, self.indices, self.rng)
        losses["loss"].backward()
        if trainer.config.grad_clip:
            losses["grad_norm"] = torch.nn.utils.clip_grad_norm_(model.parameters(), trainer.config.grad_clip)
        trainer.optimizer.optimizer.step()
        with torch.no_grad():
            average = list(trainer.ema.module.parameters())
            change = torch._foreach_sub(list(model.parameters()), average)
            torch._foreach_mul_(change, self.weight)
            torch._foreach_add_(average, change)
        return losses

    def replay(self, indices: Tensor, step: int, rate: float, weight: float) -> dict[str, Tensor]:
        """The step for these pictures; returns its losses, as `Trainer` logs them."""
        self.rng.begin(self.seed, step)
        self.indices.copy_(indices.pin_memory(), non_blocking=True)
        self.rate.fill_(rate)
        self.weight.fill_(weight)
        self.graph.replay()
        return dict(zip(self.names, self.values.clone()))
