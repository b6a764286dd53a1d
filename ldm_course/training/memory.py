"""What a training step takes of the memory: reckoned before the first; where it is too much, saved first and said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..device import check_room, free_memory, out_of_memory
from ..diffusion.objectives import BatchRandom

if TYPE_CHECKING:
    from .trainer import Trainer


def bytes_a_picture(trainer: Trainer) -> int:
    """What a training step keeps of one picture for the way back. Nothing is changed by asking."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    model, device = trainer.accelerator.unwrap_model(trainer.model), trainer.accelerator.device
    owned = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    rng = BatchRandom(trainer.config.seed, 0, 1, slice(0, 1), device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), trainer.autocast():
        trainer.objective(model, torch.zeros(1, dtype=torch.int64), rng)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in owned)


def _parts(trainer: Trainer) -> int:
    """How many parts a batch is divided into: by processes, and one after another."""
    return trainer.accelerator.num_processes * trainer.config.accumulate


def check_memory(trainer: Trainer) -> None:
    """ValueError, before a step is made: a batch's activations, by those of one picture, are more than is free."""
    device, each, parts = trainer.accelerator.device, bytes_a_picture(trainer), _parts(trainer)
    part, fits = trainer.config.batch_size // parts, free_memory(device) // max(1, each)
    advice = f"take batch_size={fits * parts} or less" if fits else "take a smaller size"
    check_room(f"the activations of {part} pictures at once", part * each, advice, device)


def _smaller(config, part: int) -> str:
    if part == 1:
        return "take a smaller size"
    parts = next((n for n in range(2 * config.accumulate, config.batch_size + 1) if config.batch_size % n == 0), 0)
    divided = f", or accumulate={parts}, which divides a batch" if parts else ""
    return f"take batch_size={config.batch_size // 2}{divided}"


@contextmanager
def saved_if_out_of_memory(trainer: Trainer) -> Iterator[None]:
    """For one step. ValueError: it takes more memory than there is; the state was saved, unless a part of the weights
    had been changed and another not."""
    trainer.halfway = False
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        kept = ""
        if trainer.out is not None and not trainer.halfway:
            trainer.optimizer.zero_grad(set_to_none=True)
            trainer.save_state()
            kept = f"; the state of step {trainer.progress.step} is saved in {trainer.out}"
        part = trainer.config.batch_size // _parts(trainer)
        advice = _smaller(trainer.config, part)
        raise ValueError(f"out of memory with {part} pictures at once; {advice}{kept}") from error
