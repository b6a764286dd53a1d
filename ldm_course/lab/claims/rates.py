"""Seconds, one value for each: of a training image, and of a picture, from the stages that run alone on the machine.

Other stages share the machine with each other, and their clocks with it; here images become seconds by one rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..records import NotRecorded
from .verdicts import Evidence

PIXEL_INPUT, LATENT_INPUT = "3x32x32", "4x8x8"  # of the course's networks at 32 pixels, f = 4
FIRST_STAGE = "autoencoder-cifar10-32-f4"


@dataclass(frozen=True)
class Rates:
    """Seconds an image at 32 a side: a training step in pixels and in latents, one of the autoencoder, and encoding.

    `says`: precision and batch, to be printed with any of them.
    """

    pixel: float
    latent: float
    first_stage: float
    encode: float
    says: str


def rates(speed: Mapping) -> Rates:
    """From results of the stage `training-speed`. NotRecorded: it is from before both spaces were measured."""
    if "as_trained" not in speed:
        raise NotRecorded(
            "training-speed has no rates of both spaces yet; run: ldm-course reference --stage training-speed"
        )
    trained, first = speed["as_trained"], speed["first_stage"]
    each = trained["seconds_image"]
    says = f"{trained['precision']}, batches of {speed['batch']}"
    return Rates(
        each[PIXEL_INPUT],
        each[LATENT_INPUT],
        first["training_seconds_image"],
        first["encode_seconds_image"],
        says,
    )


def first_stage_seconds(found: Rates, first: Mapping) -> float:
    """Of a first stage, from the results of its own: the training, and encoding the training set once."""
    trained = first["variants"]["perceptual"]["training_images"]
    return trained * found.first_stage + first["data"]["train"] * found.encode


def picture_seconds(row: Mapping | None, steps: int, alone: bool = False) -> float | None:
    """Of a finished picture, decoder included, from a row of the stage `cost`: in its batch, or made alone; None where
    there is no such row, or a part of it was left out."""
    if row is None:
        return None
    key = "seconds_alone" if alone else "seconds_image"
    step, decode = row["step"].get(key), row["decode"].get(key) if row["f"] > 1 else 0.0
    return None if step is None or decode is None else steps * step + decode


def measured_as(row: Mapping, what: str = "step") -> str:
    """The precision and batch of a timing of the stage `cost`."""
    return f"{row['precision']}, batch {row[what]['batch']}"


def both(seen: Evidence, network: str, side: int, f: int) -> tuple[dict, dict]:
    """The rows of the stage `cost` at a side, in pixels and at f. NotRecorded: there is no such pair."""
    rows = seen.cost(network)
    if (side, 1) not in rows or (side, f) not in rows:
        raise NotRecorded(f"cost was not measured at {side} a side; run: ldm-course reference --stage cost")
    return rows[side, 1], rows[side, f]
