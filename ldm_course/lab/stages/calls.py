"""Stage: what one call of each of chapter 9's networks takes on one machine (its one table)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...checks import from_json
from ...config import AutoencoderConfig, DiTConfig, UNetConfig
from ...device import native_precision
from ...networks.autoencoder import Autoencoder
from ...networks.dit import DiT
from ...networks.unet import UNet
from ...networks.video import VideoUNet, VideoUNetConfig
from ..records import NotRecorded, load_record, recorded
from .base import Run, Stage, timed

CALLS = "calls-chapter-9"
NETWORKS = {  # by kind: of a configuration, what is built
    "U-Net": (UNetConfig, UNet),
    "DiT": (DiTConfig, DiT),
    "clips": (VideoUNetConfig, VideoUNet),
    "decoder": (AutoencoderConfig, Autoencoder),
}


@dataclass(frozen=True)
class Call:
    """A network that is called: a `kind`, one of NETWORKS; its `config`, as JSON; and the `side` of the grid that it
    works on, of a decoder that of its pictures."""

    kind: str
    config: str
    side: int

    @classmethod
    def of(cls, config: Mapping[str, Any], side: int, kind: str | None = None, **changes) -> Call:
        """From a configuration in a record, with `changes`; without a kind, of a denoiser of pictures or latents. One
        network is one call, whichever settings its record leaves out because they are the usual ones."""
        kind = kind or ("DiT" if "patch_size" in config else "U-Net")
        whole = from_json(NETWORKS[kind][0], json.dumps({**config, **changes}), "config")
        return cls(kind, json.dumps(asdict(whole), sort_keys=True), side)

    @classmethod
    def decoder(cls, first_stage: str, side: int) -> Call:
        """The decoder of the autoencoder that this record is of, of pictures `side` wide."""
        return cls.of(load_record(first_stage)["results"]["network"], side, "decoder")


def measured() -> tuple[dict[Call, float], list[dict]]:
    """The seconds of each call of the recorded stage, and its record; nothing where it is not recorded."""
    try:
        record = recorded(CALLS)
    except NotRecorded:
        return {}, []
    return {Call(**call["of"]): call["seconds"] for call in record["results"]["calls"]}, [record]


def seconds_of(made: Mapping[Call, float], known: Mapping[Call, float]) -> float | None:
    """What so many of each call take together; None where one has not been measured, or there are none."""
    if not made or not set(made) <= set(known):
        return None
    return sum(times * known[call] for call, times in made.items())


def calls(run: Run) -> dict:
    """Every network that the recorded rows of `whats_next` call, with weights at random, since time does not depend on
    them: the seconds that a call takes for one picture, or for one clip, in a batch as the pictures are drawn in."""
    from .. import whats_next  # here, since its tables know all stages

    rows, used, missing = whats_next.rows()
    batch = min(run.at_once, run.profile.eval_count)
    found = []
    for call in dict.fromkeys(call for row in rows for call in row.calls):
        seconds = _seconds(run, call, batch)
        found.append({"of": asdict(call), "seconds": seconds})
        print(f"  {call.kind}, {call.side} a side: {1000 * seconds:.3g} ms", flush=True)
    return {"finished": True, "batch": batch, "calls": found, "rows_of": [r["name"] for r in used], "missing": missing}


@torch.no_grad()
def _seconds(run: Run, call: Call, batch: int) -> float:
    """Of one picture, or clip, in a batch of so many pictures, in the precision in which they are drawn."""
    config_cls, cls = NETWORKS[call.kind]
    network = cls(from_json(config_cls, call.config, "config")).to(run.device).eval()
    fn, count = _called(network, call, batch, run.device)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=native_precision(run.device) == "bf16"):
        return timed(fn, run).median / count


def _called(network: torch.nn.Module, call: Call, batch: int, device: torch.device) -> tuple[Callable[[], object], int]:
    """A call to be timed, and how many pictures or clips it is of."""
    config, side = network.config, call.side
    if call.kind == "decoder":
        z = torch.randn(batch, config.latent_channels, *[side // config.downsample] * 2, device=device)
        return lambda: network.decode(z), batch
    shape = (config.in_channels, side, side)
    if call.kind == "clips":
        batch = max(1, batch // config.frames)
        shape = (config.frames, *shape)
    x, t = torch.randn(batch, *shape, device=device), torch.zeros(batch, dtype=torch.long, device=device)
    label = None if config.num_classes is None else torch.zeros_like(t)
    return lambda: network(x, t, label), batch


STAGES = (
    Stage(
        CALLS,
        "what a call of each of chapter 9's networks takes, for the times of its table",
        calls,
        {"smoke": 0.01, "cpu": 2.0},
    ),
)
