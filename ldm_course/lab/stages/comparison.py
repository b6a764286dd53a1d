"""Stage: the whole comparison of both spaces, as `ldm-course compare` makes it (chapter 2)."""

from __future__ import annotations

import shutil
from functools import partial

from ...files import written_whole
from ..compare import compare
from .base import Run, Stage, minutes


def comparison(run: Run, data: str) -> dict:
    """`compare` as a stage: its own record is taken over whole."""
    out = run.folder
    record = compare(data, run.profile, out=out, command=f"ldm-course reference --stage {run.stage}")
    with written_whole(run.picture) as picture:
        shutil.copyfile(out / "quality.png", picture)
    data = record["results"]["data"] | {"source": record["data_source"]}
    return record["results"] | {"data": data}


_SPENT = "matched[match=all_seconds]"  # the row at equal seconds, autoencoder included
STAGES = tuple(
    Stage(
        f"compare-{data}-32",
        f"the whole comparison on {data}, as `ldm-course compare`",
        partial(comparison, data=data),
        minutes(3.3, 1.9),
        networks=2,
        shows={"FD-E, pixel": f"{_SPENT}.pixel.quality.fd_e", "latent": f"{_SPENT}.latent.quality.fd_e"},
    )
    for data in ("emoji", "cifar10")
)
