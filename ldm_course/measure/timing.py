"""What a network costs on this machine: seconds, bytes, and the machine's own limit in FLOP/s (chapter 1).

`complexity` counts and knows no machine; here is all that needs a clock or a memory. A single timing says little:
each is repeated after a warm-up and given as a median with quartiles, things to be compared take turns so that a
drift of the machine hits all of them, and a difference below 10 % is a tie.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# -------------------------------------------------------------------------------------------- seconds


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one thing, in seconds, in the order in which they were made."""

    times: tuple[float, ...]

    @property
    def repeats(self) -> int:
        return len(self.times)

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def low(self) -> float:
        """The lower quartile: a quarter of the times is at most this."""
        return self._quartiles()[0]

    @property
    def high(self) -> float:
        """The upper quartile: a quarter of the times is at least this."""
        return self._quartiles()[2]

    def _quartiles(self) -> list[float]:
        if len(self.times) == 1:
            return [self.times[0]] * 3
        return statistics.quantiles(self.times, n=4, method="inclusive")

    def summary(self) -> dict[str, float]:
        """For tables and records."""
        return {"median": self.median, "low": self.low, "high": self.high, "repeats": self.repeats}


def time_call(fn: Callable[[], Any], *, repeats: int = 10, warmup: int = 2, seconds: float | None = None) -> Timing:
    """Times `fn()` after `warmup` calls that do not count; see `time_together`."""
    return time_together({"fn": fn}, repeats=repeats, warmup=warmup, seconds=seconds)["fn"]


def time_together(
    fns: Mapping[str, Callable[[], Any]], *, repeats: int = 10, warmup: int = 2, seconds: float | None = None
) -> dict[str, Timing]:
    """Times several functions by turns, `repeats` rounds; the order reverses from each round to the next.

    Entry i of every result was made in round i, so that the entries can be compared in pairs (`ratio`). With
    `seconds` no round starts later than that, except that three are always made (or `repeats`, if fewer). On a
    GPU each call is waited for. Gradients are the caller's business: put `torch.no_grad()` inside the function.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}; expected at least 1")
    for fn in fns.values():
        for _ in range(warmup):
            fn()
    times: dict[str, list[float]] = {name: [] for name in fns}
    began = time.perf_counter()
    for done in range(repeats):
        if seconds is not None and done >= 3 and time.perf_counter() - began > seconds:
            break
        order = list(fns) if done % 2 == 0 else list(fns)[::-1]
        for name in order:
            _wait()
            start = time.perf_counter()
            fns[name]()
            _wait()
            times[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(taken)) for name, taken in times.items()}


def training_step(net: nn.Module, x: Tensor, t: Tensor, target: Tensor, half: bool = False) -> Callable[[], None]:
    """A function that makes one step of training, ready to be timed: forward, backward, AdamW; `half`: in bf16.

    `net(x, t)` returns a tensor shaped like `target`, or an object that has it as `.sample`, as diffusers' do.
    """
    on_gpu = x.device.type == "cuda"  # where a step can be recorded as a graph
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=True, capturable=on_gpu)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            out = net(x, t)
        out = out if isinstance(out, Tensor) else out.sample
        nn.functional.mse_loss(out.float(), target).backward()
        optimizer.step()

    return step


def ratio(over: Timing, under: Timing) -> Timing:
    """How many times longer `over` took than `under`, round by round: a `Timing` of ratios, without unit."""
    if over.repeats != under.repeats:
        raise ValueError(f"{over.repeats} times against {under.repeats}; time them together, by `time_together`")
    return Timing(tuple(a / b for a, b in zip(over.times, under.times)))


def _wait() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


# ------------------------------------------------------------------------------- the machine's limit


@dataclass(frozen=True)
class Rates:
    """What the machine reached, in FLOP/s."""

    matmul: float
    conv: float

    @property
    def best(self) -> float:
        """The limit against which a network is judged."""
        return max(self.matmul, self.conv)


def rate_probes(
    device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> dict[str, tuple[Callable[[], Any], int]]:
    """A large matrix product and a 3x3 convolution, each as (function to time, its FLOPs).

    The convolution is in channels_last, which runs at one speed from process to process on CPUs, as channels-first
    does not. For `time_together`, beside what is to be judged by them.
    """
    device = torch.device(device)
    n, batch, channels, side = (1024, 16, 128, 32) if device.type == "cpu" else (8192, 64, 256, 64)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    x = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
    w = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    x, w = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, w))
    return {
        "matmul": (lambda: a @ b, 2 * n**3),
        "conv": (lambda: torch.conv2d(x, w, padding=1), 2 * batch * side**2 * channels**2 * 9),
    }


def machine_rates(
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    repeats: int = 10,
    seconds: float = 10.0,
) -> Rates:
    """Measures the machine's FLOP/s by `rate_probes`, taking turns, by medians.

    Measure it in the run whose fraction it is to be: threads, neighbours and the clock change it.
    """
    probes = rate_probes(device, dtype)
    calls = {name: fn for name, (fn, _) in probes.items()}
    taken = time_together(calls, repeats=repeats, warmup=3, seconds=seconds)
    return Rates(**{name: flops / taken[name].median for name, (_, flops) in probes.items()})


# ---------------------------------------------------------------------------------------------- bytes


@dataclass(frozen=True)
class Memory:
    """Bytes. `saved`: kept from the forward for the backward pass. `peak`: the most a GPU held beyond what it held
    before, or None where there is no GPU to ask."""

    saved: int
    peak: int | None


def activation_memory(fn: Callable[..., Any], *inputs: Any, model: nn.Module | None = None, **named: Any) -> Memory:
    """Runs `fn(*inputs, **named)` with gradients and measures the memory its activations take.

    `saved` counts every tensor that is kept for the backward pass, each storage once and whole, inputs included,
    and leaves out the parameters and buffers of `model` (of `fn` itself, if it is a module), which are there
    anyway. It is exact for this machine's kernels, which decide what to keep: attention keeps its (H·W)² weights
    only where it is not fused. On the "meta" device nothing is computed and `saved` still holds.
    """
    model = fn if model is None and isinstance(fn, nn.Module) else model
    owned = {_storage_id(tensor) for tensor in _state(model)}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (place := _storage_id(tensor)) not in owned:
            kept[place] = tensor  # held, so that no other storage takes its address meanwhile
        return tensor

    device = next((item.device for item in (*inputs, *_state(model)) if isinstance(item, Tensor)), None)
    on_gpu = device is not None and device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fn(*inputs, **named)
    peak = torch.cuda.max_memory_allocated(device) - before if on_gpu else None
    return Memory(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), peak)


def peak_memory(fn: Callable[[], Any], device: str | torch.device = "cpu") -> int | None:
    """Runs `fn()` and gives the bytes that were held at most meanwhile, beyond what was held before.

    On a GPU what torch had allocated there. On a CPU, under Linux, the resident memory of the whole process, with the
    workspaces of libraries; elsewhere there is nobody to ask, and it is None. Measure it before a timing: what a first
    call leaves behind, a second one may use again.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        fn()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # gives back what was freed and kept
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _resident("VmRSS")
    except (OSError, AttributeError, KeyError):
        fn()
        return None
    fn()
    return max(0, _resident("VmHWM") - before)


def _resident(what: str) -> int:
    """Bytes of the process in memory: now, "VmRSS", or at most so far, "VmHWM" (proc_pid_status(5))."""
    lines = (line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int({name: value for name, value in lines}[what].split()[0])


def _state(model: nn.Module | None) -> Iterable[Tensor]:
    return () if model is None else (*model.parameters(), *model.buffers())


def _storage_id(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # unlike data_ptr, told apart on the meta device too
