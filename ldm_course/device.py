"""Which device a computation runs on, and in what precision."""

from __future__ import annotations

import re

import psutil
import torch

_MEMORY = re.compile(  # what torch, and the libraries under it, say of it
    r"out of memory|not enough memory|can't allocate|cannot allocate|invalid buffer size", re.IGNORECASE
)


def native_precision(device: torch.device) -> str:
    """What precision "auto" is: "bf16" where the hardware computes in it, "fp16" on older GPUs, else "no" (float32)."""
    if device.type == "cuda":  # GPUs before Ampere emulate bf16, slowly
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bf16" if device.type == "cpu" and any(ask is not None and ask() for ask in asked) else "no"


def chosen_precision(asked: str, device: torch.device) -> str:
    """What a training is computed in, "no", "fp16" or "bf16", where `asked` is that or "auto". ValueError: fp16 on a
    CPU, which would compute in float32."""
    if asked == "fp16" and device.type == "cpu":
        raise ValueError("precision 'fp16' needs a GPU; on a CPU take 'auto', 'bf16' or 'no', which is float32")
    return native_precision(device) if asked == "auto" else asked


def computed_in(device: torch.device) -> str:
    """What a sampling step, or a step whose clock is read, is computed in: "bf16" where the hardware does, by autocast,
    else "float32"."""
    return "bf16" if native_precision(device) == "bf16" else "float32"


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that a CPU or a GPU has not got that much memory."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error))))


def free_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that a GPU, or the machine, has left."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def check_room(what: str, size: float, advice: str, device: torch.device | str = "cpu") -> None:
    """ValueError, before anything is made: `what` takes `size` bytes, and the device has less that is free."""
    if size > (free := free_memory(device)):
        needs, has = (f"{count / 2**30:,.1f} GiB" for count in (size, free))
        raise ValueError(f"{what} take {needs} of memory, and {has} are free; {advice}")


def default_device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
