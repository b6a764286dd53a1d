"""The one training loop, for autoencoders and for denoisers in both spaces (chapters 0 and 2).

It runs on accelerate, so that devices, processes and mixed precision need no code here. Everything random about
step k (which pictures, which times, which noise) is a function of the seed and k alone. Three things follow: a run
that was killed and resumed ends with the same weights, bit for bit; two processes with half a batch each see what
one sees with the whole; and two models trained with one seed see the same pictures in the same order.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import (
    Annotated,
    Any,
    NotRequired,  # pydantic asks for these before Python 3.12
)

import torch
from accelerate import Accelerator
from pydantic import Field, Json, with_config
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm
from typing_extensions import TypedDict

from ..checks import STRICT, STRICT_BUT_OPEN, Several, check
from ..config import TrainConfig
from ..device import chosen_precision
from ..diffusion.objectives import BatchRandom, Objective
from ..files import all_finite, load_tensors, readable, save_tensors, writable_folder
from ..networks.weights import check_fits, check_types
from .graphs import WARM_STEPS, StepGraph
from .memory import check_memory, saved_if_out_of_memory

STATE_FILE = "state.safetensors"
FLAT = StateDictOptions(flatten_optimizer_state_dict=True)  # one tensor a name, as safetensors keeps them


class Diverged(ValueError):
    """A loss, or a weight, that is NaN or infinite: the run has stopped, and its last finite state is kept."""


@with_config(STRICT)
@dataclass
class Progress:
    """How far a run has come: optimizer steps, pictures seen, seconds of training, and the losses along the way.

    An entry of the history has each loss, and `grad_norm`, the gradient's norm before clipping, where it is clipped.
    """

    step: Annotated[int, Field(ge=0)] = 0
    images: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    history: list[dict[str, int | Annotated[float, Field(allow_inf_nan=True)]]] = field(default_factory=list)


@with_config(STRICT_BUT_OPEN)
class StateText(TypedDict):
    """The metadata of a state's file."""

    progress: Json[Progress]
    identity: Json[dict[str, Any]]
    scaler: NotRequired[Json[dict[str, Any] | None]]


def thinned(history: list[dict], most: int = 200) -> list[dict]:
    """At most `most` entries of a run's history, evenly spaced, the last one kept."""
    stride = max(1, -(-len(history) // most))
    return history[::-1][::stride][::-1]


@functools.lru_cache(maxsize=4)  # asked for at each step, and the same for thousands of them
def epoch_order(size: int, epoch: int, seed: int) -> Tensor:
    """The order in which one epoch shows its pictures: a permutation of `size`, the same for everybody who asks."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(size, generator=generator)


def batch_indices(size: int, step: int, batch_size: int, seed: int) -> Tensor:
    """Which pictures step `step` sees, `(batch_size,)`: epochs follow one another without a gap or a short batch."""
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // size
    return torch.cat([epoch_order(size, int(e), seed)[positions[epochs == e] % size] for e in epochs.unique()])


def learning_rate(config: TrainConfig, step: int, total: int | None) -> float:
    """Linear warm-up to `config.lr`, then constant, or down to zero at step `total` in a line or half a cosine."""
    rate = config.lr * min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.decay == "none" or total is None:
        return rate
    left = 1 - min(step / total, 1.0)
    return rate * (left if config.decay == "linear" else 0.5 * (1 - math.cos(math.pi * left)))


def average_weight(decay: float, n: int) -> float:
    """What the current weights weigh in the average, after n updates."""
    return 1 - min(decay, (1 + n) / (10 + n))


def averaged(model: nn.Module, decay: float, device: torch.device | str = "cpu") -> AveragedModel:
    """An exponential moving average of the weights; early on it forgets faster: min(decay, (1 + n) / (10 + n))."""

    @torch.no_grad()
    def update(average, current, _):
        torch._foreach_lerp_(average, current, average_weight(decay, int(ema.n_averaged)))

    ema = AveragedModel(model, device=device, multi_avg_fn=update)
    ema.n_averaged = ema.n_averaged.cpu()  # read at each step: on a GPU that would be a wait
    return ema


def planned_steps(config: TrainConfig) -> int | None:
    """How many steps the configuration allows, as far as it says so in steps or images."""
    from_images = None if config.images is None else -(-config.images // config.batch_size)
    known = [n for n in (config.steps, from_images) if n is not None]
    return min(known) if known else None


class Trainer:
    """A model, its objective, its optimizer and its average, ready to run; `ema` is what one samples from.

    `out` is the folder for the run's state, saved every `save_every` steps and at the end; a run that finds a state
    there goes on from it. Losses are averaged over `log_every` steps. A loss or a weight that is not finite ends the
    run with `Diverged`, and leaves the last finite state.
    ValueError: the state belongs to another run (another `name` or configuration, or other weights), or cannot be read,
    or `out` takes no files.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        config: TrainConfig,
        *,
        out: str | Path | None = None,
        name: str = "",
        save_every: int = 500,
        log_every: int = 25,
        tensorboard: bool = False,
        device: str | None = None,
    ):
        self.config, self.objective = config, objective
        self.out, self.name = None if out is None else Path(out), name
        for what, steps in {"save_every": save_every, "log_every": log_every}.items():
            check(Several, steps, what)
        self.save_every, self.log_every = save_every, log_every
        self.accelerator, self.precision = _accelerator(config, self.out if tensorboard else None, device)
        processes = self.accelerator.num_processes
        if config.batch_size % (processes * config.accumulate):
            raise ValueError(
                f"batch_size={config.batch_size} does not divide among {processes} processes "
                f"x {config.accumulate} accumulated parts"
            )
        if config.compile and self.accelerator.device.type == "cuda":
            # compiled norms keep this order, as those of eager GPUs do not; the average, copied next, has it too
            model.to(memory_format=torch.channels_last)
        self.ema = averaged(model, config.ema_decay, self.accelerator.device)
        if config.compile:
            model.compile()  # in place
        self.model, self.optimizer = self.accelerator.prepare(model, _adamw(model, config))
        self.critic = self.critic_optimizer = None
        if objective.critic is not None:
            self.critic, self.critic_optimizer = self.accelerator.prepare(
                objective.critic, _adamw(objective.critic, config)
            )
        objective.to(self.accelerator.device)
        self.progress = Progress()
        self.grad_norm: Tensor | None = None  # of the last step's gradient, before it was clipped
        self.halfway = False  # whether some weights have been changed by a step, and others not yet
        self._graph: StepGraph | None = None
        self._warm_steps = WARM_STEPS  # to go before a step can be recorded
        if self.out is not None:
            if self.accelerator.is_main_process:
                size = sum(v.nbytes for v in model.state_dict().values())
                writable_folder(self.out, room=2 * 4 * size)  # weights, average and moments, beside those of before
            if (self.out / STATE_FILE).exists():
                self.load_state()

    def run(
        self,
        *,
        until: int | None = None,
        until_seconds: float | None = None,
        every: tuple[int, Callable[[Trainer], None]] | None = None,
        show: bool = False,
        label: str = "train",
    ) -> Progress:
        """Trains to the configuration's end, to step `until`, or until so many seconds of training in all (a step at
        least), whichever comes first; returns the progress.

        `every=(n, f)` calls f(self) each n steps; its time is not counted. `show` draws a progress bar.
        """
        if every is not None:
            check(Several, every[0], "every")
        with self.kept_if_interrupted():
            return self._run(until, until_seconds, every, show, label)

    def _run(self, until, until_seconds, every, show, label) -> Progress:
        total = planned_steps(self.config)
        stop = min((n for n in (until, total) if n is not None), default=None)
        limit = min((n for n in (until_seconds, self.config.seconds) if n is not None), default=None)
        main = self.accelerator.is_main_process
        p, device = self.progress, self.accelerator.device
        with tqdm(total=stop, initial=p.step, desc=label, unit="step", disable=not (show and main)) as bar:
            self.model.train()
            # accelerate keeps this number for the whole process, so that a later trainer may have changed it
            self.accelerator.gradient_accumulation_steps = self.config.accumulate
            window: list[dict[str, Tensor]] = []
            started = time.perf_counter()

            def pause() -> None:
                """Stops the clock, once the device has done its work, and notes the losses since the last pause."""
                nonlocal started
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                p.seconds += time.perf_counter() - started
                if window:
                    self._log(window)
                    bar.set_postfix_str(f"loss {p.history[-1]['loss']:.4f}, {p.images / p.seconds:.0f} images/s", False)
                    window.clear()
                started = time.perf_counter()

            while not self._ended(stop, limit, time.perf_counter() - started):
                with saved_if_out_of_memory(self):
                    window.append(self._step(total))
                p.step += 1
                p.images += self.config.batch_size
                bar.update()
                calls = every is not None and p.step % every[0] == 0
                saves = self.out is not None and p.step % self.save_every == 0
                if p.step % self.log_every == 0 or calls or saves:
                    pause()
                if calls:
                    every[1](self)
                    self.model.train()
                if saves:
                    self.save_state()
                if calls or saves:
                    started = time.perf_counter()
            pause()
        if self.out is not None:
            self.save_state()
        return p

    def _log(self, window: list[dict[str, Tensor]]) -> None:
        """One entry of the history: the mean of each loss over the window, and over the processes."""
        names = sorted(window[0])
        means = torch.stack([torch.stack([losses[n].float() for losses in window]).mean() for n in names])
        values = dict(zip(names, self.accelerator.reduce(means, "mean").tolist()))
        p = self.progress
        for name, value in values.items():
            if not math.isfinite(value) and name != "grad_norm":  # which fp16's scaler lets be infinite at times
                raise self._diverged(f"the {'loss' if name == 'loss' else name + ' loss'} is {value}")
        p.history.append({"step": p.step, "images": p.images, "seconds": p.seconds, **values})
        self.accelerator.log(values, step=p.step)

    def _diverged(self, what: str) -> Diverged:
        kept = f"{self._kept() or 'nothing had been saved'}. Try a lower lr"
        return Diverged(f"{what} by step {self.progress.step}, so the run was stopped; {kept}")

    def _kept(self) -> str:
        """Which state of this run is in its folder, in words; empty if there is none."""
        if self.out is None or not (path := self.out / STATE_FILE).is_file():
            return ""
        with safe_open(path, "pt") as file:
            return f"the state of step {json.loads(file.metadata()['progress'])['step']} is kept in {path}"

    @contextmanager
    def kept_if_interrupted(self) -> Iterator[None]:
        """Has an interrupt say what is kept of this run."""
        try:
            yield
        except KeyboardInterrupt:
            kept = self._kept()
            goes_on = f"{kept}, and the same command goes on from there" if kept else "nothing had been saved"
            raise KeyboardInterrupt(goes_on) from None

    def snapshot(self) -> nn.Module:
        """A copy of the averaged model as it is now, in evaluation mode."""
        return copy.deepcopy(self.ema.module).eval().to(memory_format=torch.contiguous_format)

    def _ended(self, stop: int | None, limit: float | None, running: float) -> bool:
        out_of_time = limit is not None and self.progress.step > 0 and self.progress.seconds + running >= limit
        if self.accelerator.num_processes > 1 and limit is not None:
            # clocks differ between processes: one of them decides for all
            flag = torch.tensor([float(out_of_time)], device=self.accelerator.device)
            out_of_time = bool(self.accelerator.reduce(flag, "sum")[0] > 0)
        return out_of_time or (stop is not None and self.progress.step >= stop)

    def check_memory(self) -> None:
        """ValueError, before a step is made: a batch's activations, by those of one picture, are more than is free."""
        check_memory(self)

    def _step(self, total: int | None) -> dict[str, Tensor]:
        config, step = self.config, self.progress.step
        indices = batch_indices(self.objective.size, step, config.batch_size, config.seed)
        rate = learning_rate(config, step, total)
        if self._is_recorded():
            return self._replayed(indices, rate)
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        part = config.batch_size // (processes * config.accumulate)
        sums: dict[str, Tensor] = {}
        for optimizer in filter(None, (self.optimizer, self.critic_optimizer)):
            for group in optimizer.param_groups:
                group["lr"] = rate
        for i in range(config.accumulate):
            first = (rank * config.accumulate + i) * part
            rows = slice(first, first + part)
            rng = BatchRandom(config.seed, step, config.batch_size, rows, self.accelerator.device)
            with self.accelerator.accumulate(*filter(None, (self.model, self.critic))):
                losses = self._backward(indices[rows], rng)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() / config.accumulate
        if self.grad_norm is not None:
            sums["grad_norm"] = self.grad_norm
        self.ema.update_parameters(self.accelerator.unwrap_model(self.model))
        return sums

    def _is_recorded(self) -> bool:
        """Whether this step is a replay: the first ones are not, since libraries prepare themselves in them."""
        if self._graph is None and self.config.cuda_graph and StepGraph.suits(self):
            if self._warm_steps == 0:
                self._graph = StepGraph(self)
            self._warm_steps -= 1
        return self._graph is not None

    def _replayed(self, indices: Tensor, rate: float) -> dict[str, Tensor]:
        n = int(self.ema.n_averaged)
        losses = self._graph.replay(indices, self.progress.step, rate, average_weight(self.config.ema_decay, n))
        self.ema.n_averaged += 1
        return losses

    def autocast(self) -> AbstractContextManager:
        """The precision that the network computes in."""
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision)
        return torch.autocast(self.accelerator.device.type, half, enabled=half is not None)

    def _backward(self, indices: Tensor, rng: BatchRandom) -> dict[str, Tensor]:
        unwrap = self.accelerator.unwrap_model
        with self.autocast():
            losses = self.objective(self.model, indices, rng, critic=self.critic and unwrap(self.critic))
        self.grad_norm = self._update(losses["loss"], self.model, self.optimizer)
        if self.critic is not None:
            with self.autocast():
                losses["critic"] = self.objective.critic_loss(self.critic)
            self._update(losses["critic"], self.critic, self.critic_optimizer)
        return losses

    def _update(self, loss: Tensor, model: nn.Module, optimizer) -> Tensor | None:
        """Backward pass and step; returns the gradient's norm before clipping, None where nothing is clipped."""
        self.accelerator.backward(loss)
        norm = None
        if self.accelerator.sync_gradients and self.config.grad_clip:
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.unscale_(optimizer.optimizer)
            norm = self.accelerator.clip_grad_norm_(model.parameters(), self.config.grad_clip)
        self.halfway = True  # until the step is whole
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def _parts(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
        """What is trained, each with its optimizer, as torch made them."""
        parts = {"model": (self.model, self.optimizer), "critic": (self.critic, self.critic_optimizer)}
        unwrap = self.accelerator.unwrap_model
        return {name: (unwrap(m), o.optimizer) for name, (m, o) in parts.items() if m is not None}

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name: weights, their average, the optimizer's moments."""
        tensors = {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for name, part in self._parts().items():
            weights, moments = get_state_dict(*part, options=FLAT)
            tensors |= {f"{name}.{k}": v for k, v in weights.items()}
            tensors |= {f"{name}-optimizer.{k}": v for k, v in moments.items() if isinstance(v, Tensor)}
        return tensors

    def start_from(self, weights: dict[str, Tensor], progress: Progress) -> None:
        """Goes on from weights alone, where no state is left: model and average get them, the optimizer begins anew."""
        self.accelerator.unwrap_model(self.model).load_state_dict(weights)
        self.ema.module.load_state_dict(weights)
        self.ema.n_averaged.fill_(progress.step)
        self.progress = progress

    def save_state(self) -> None:
        """Writes the run's state, whole or not at all, to `out`/state.safetensors. Diverged: it is not finite."""
        tensors = self._tensors()
        if not all_finite(tensors):  # in each process, so that none waits for one that has stopped
            raise self._diverged("a weight is NaN or infinite")
        if not self.accelerator.is_main_process:
            return
        tensors = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
        scaler = self.accelerator.scaler
        meta = {
            "progress": json.dumps(asdict(self.progress)),
            "identity": json.dumps(self._identity),
            "scaler": json.dumps(None if scaler is None else scaler.state_dict()),
        }
        save_tensors(self.out / STATE_FILE, tensors, meta)

    def load_state(self) -> None:
        """Goes back to what `save_state` wrote."""
        path = readable(self.out / STATE_FILE)  # else what follows would advise to delete a good one

        mend = "delete it to start this run afresh"

        def unreadable(error: Exception) -> ValueError:
            reason = " ".join(str(error).split()).removesuffix(f"; {mend}")
            return ValueError(f"{path} cannot be read ({reason}); {mend}")

        try:
            tensors, meta = load_tensors(path, mend)
            about = check(StateText, meta)
            progress, identity, scaler = about["progress"], about["identity"], about.get("scaler")
            if not all_finite(tensors):
                raise ValueError("it holds NaN or infinity")
        except Exception as error:
            raise unreadable(error) from error
        if identity != self._identity:
            ours = self._identity
            changed = sorted(k for k in ours.keys() | identity.keys() if ours.get(k) != identity.get(k))
            raise ValueError(
                f"{path} belongs to another run (it differs in {', '.join(changed)}); take another folder or delete it"
            )
        try:
            check_fits(tensors, ours := self._tensors(), "this run")
            check_types(tensors, ours, "this run")
        except ValueError as error:
            raise unreadable(error) from error
        self.progress = progress

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        if scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        self.ema.load_state_dict(part("ema."))
        for name, (module, optimizer) in self._parts().items():
            rates = get_optimizer_state_dict(module, optimizer, options=FLAT)  # which each step sets anew
            moments = {**rates, **part(f"{name}-optimizer.")}
            set_state_dict(module, optimizer, model_state_dict=part(f"{name}."), optim_state_dict=moments, options=FLAT)

    @functools.cached_property
    def _identity(self) -> dict:
        """What must agree for a state to be resumed, as JSON has it; how long a run lasts may change, unless decay
        depends on it."""
        config = asdict(self.config)
        if self.config.decay == "none":
            config = {k: v for k, v in config.items() if k not in ("steps", "images", "seconds")}
        shapes = {k: list(v.shape) for k, v in self.ema.module.state_dict().items()}
        what = {"data": self.objective.learns_from(), "objective": self.objective.describe(), "name": self.name}
        return json.loads(json.dumps({**config, **what, "weights": shapes}))


def _accelerator(config: TrainConfig, log_dir: Path | None, device: str | None) -> tuple[Accelerator, str]:
    """The engine, and the precision that it runs in: "no", "fp16" or "bf16"."""
    if log_dir is not None and importlib.util.find_spec("tensorboard") is None:
        raise ValueError("TensorBoard is not installed; run: pip install tensorboard")
    if device not in (None, "cpu") and not (device == "cuda" and torch.cuda.is_available()):
        raise ValueError(f"device={device!r}; expected None, 'cpu', or 'cuda' where there is such a GPU")
    cpu = device == "cpu" or not torch.cuda.is_available()
    precision = chosen_precision(config.precision, torch.device("cpu" if cpu else "cuda"))
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="no",  # which it keeps for the whole process: `autocast`, and the scaler, are the trainer's
        gradient_accumulation_steps=config.accumulate,
        log_with="tensorboard" if log_dir else None,
        project_dir=log_dir,
    )
    if log_dir:
        accelerator.init_trackers("tensorboard")
    if precision == "fp16":
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type)
    return accelerator, precision


def _adamw(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
