"""Which device a computation runs on, and in what precision."""

from __future__ import annotations

import torch


def native_precision(device: torch.device) -> str:
    """What precision "auto" is: "bf16" where the hardware computes in it, "fp16" on older GPUs, else "no" (float32)."""
    if device.type == "cuda":  # GPUs before Ampere emulate bf16, slowly
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bf16" if device.type == "cpu" and any(ask is not None and ask() for ask in asked) else "no"


def computed_in(device: torch.device) -> str:
    """What a sampling step, or a step whose clock is read, is computed in: "bf16" where the hardware does, by autocast,
    else "float32"."""
    return "bf16" if native_precision(device) == "bf16" else "float32"


def default_device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
