"""`ldm-course doctor`: is everything there, and does it work?"""

from __future__ import annotations

import argparse

from .. import checkpoints
from ..data.loaders import cifar10_is_here, load_data
from ..lab import profiles, records
from ..networks import hub
from ..networks.features import efficientnet_lite0


def doctor(args: argparse.Namespace) -> int:
    """`ldm-course doctor`: each line is a check; the exit code is 1 if one failed."""

    def installed() -> str:
        return ", ".join(f"{name} {version}" for name, version in records.versions().items() if version)

    def hardware() -> str:
        m = records.machine()
        return f"{m.get('gpu') or m['cpu']}, {m['threads']} threads; profile {profiles.profile().name}"

    def published() -> str:
        files = hub.weight_files(hub.located(hub.AUTOENCODER, "vae"))
        return f"{hub.AUTOENCODER}, {sum(file.stat().st_size for file in files) / 2**20:.0f} MiB"

    def shipped() -> str:
        if broken := checkpoints.broken():
            raise ValueError(f"{broken[0]} cannot be read; restore it")
        return ", ".join(checkpoints.pretrained_names()) or "none yet"

    checks = {
        "packages": installed,
        "machine": hardware,
        "emoji": lambda: f"{len(load_data('emoji', 32))} training pictures",
        "features": lambda: f"{sum(p.numel() for p in efficientnet_lite0().parameters()):,} weights",
        "checkpoints": shipped,
        "cifar10": lambda: (
            f"{len(load_data('cifar10', 32, limit=1))} of its pictures could be read"
            if cifar10_is_here()
            else "not here yet; downloaded when asked for"
        ),
        "published autoencoder": published,
    }
    needed, failed = {"packages", "machine", "emoji", "features", "checkpoints"}, False
    for name, check in checks.items():
        try:
            print(f"ok    {name}: {check()}")
        except Exception as error:  # whatever is wrong, the reader is to see it in one line
            failed |= name in needed
            print(f"{'FAIL' if name in needed else 'no  '}  {name}: {(str(error) or repr(error)).splitlines()[0]}")
    return int(failed)
