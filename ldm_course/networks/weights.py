"""Weights into a network: each there, of its shape, a number, finite; or one line that says what is not (chapter 8)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..files import all_finite

State = Mapping[str, Tensor]
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WRAPPERS = re.compile(r"^module\.|(?<![^.])_orig_mod\.")  # what DataParallel and torch.compile put before a name


def unwrapped(state: State) -> State:
    """The weights under their own names, without what wrappers put before them, which is said in a line."""
    wrapped = [found[0] for name in state if (found := _WRAPPERS.search(name))]
    if not wrapped:
        return state
    print(f"note: {wrapped[0]!r} was taken off the names of {len(wrapped)} weights", file=sys.stderr)
    return {_WRAPPERS.sub("", name): value for name, value in state.items()}


def check_fits(state: State, wanted: State, whose: str) -> None:
    """ValueError, which names the first weight that is missing, that is not `wanted`, or has another shape."""
    for what, names in {"lack": wanted.keys() - state.keys(), "have": state.keys() - wanted.keys()}.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"these weights {what} {min(names)}{more}, unlike {whose}")
    for name, value in wanted.items():
        given, expected = tuple(state[name].shape), tuple(value.shape)
        if given != expected:
            raise ValueError(f"the weight {name} has the shape {given}; expected {expected} as in {whose}")


def check_types(state: State, wanted: State, whose: str) -> None:
    """ValueError, which names the first of the `wanted` that is stored as another type."""
    for name, value in wanted.items():
        if state[name].dtype != value.dtype:
            raise ValueError(f"{name} is stored as {state[name].dtype}; expected {value.dtype} as in {whose}")


def filled(cls: type[nn.Module], config: Any, state: State):
    """The network `cls(config)` with these weights, in float32, in evaluation mode; what is float32 already is not
    copied. Nothing is built before the weights are known to fit, however large the configuration says it is.

    ValueError, which names the first: a weight is missing, is not the network's, has another shape, is no number
    of half precision or more, or is not finite.
    """
    state = unwrapped(state)
    with torch.device("meta"):
        model = cls(config)
    wanted = model.state_dict()
    check_fits(state, wanted, f"the {cls.__name__} of this configuration")
    for name in wanted:
        if state[name].dtype not in _NUMBERS:
            raise ValueError(
                f"the weight {name} is stored as {state[name].dtype}; expected float16, bfloat16 or float32"
            )
    weights = {name: state[name].detach().float() for name in wanted}
    if not all_finite(weights):
        raise ValueError("a weight is NaN or infinite; copy or fetch them again")
    model.load_state_dict(weights, assign=True)
    return model.eval()
