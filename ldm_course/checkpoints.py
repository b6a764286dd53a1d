"""Trained weights: safetensors files with all that is needed to use them inside, and the ones the course ships.

A denoiser's file holds its network's configuration, its schedule, what it predicts, and the space it works in; a
latent one names its autoencoder's file, which lies beside it. Nothing here is a pickle.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, InstanceOf, with_config
from safetensors import safe_open
from torch import Tensor, nn
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from . import files
from .checks import STRICT, STRICT_BUT_OPEN, Levels, Positive, Shift, check, from_json
from .config import AutoencoderConfig, CLIPConfig, DetectorConfig, DiTConfig, TextUNetConfig, UNetConfig
from .denoiser import Denoiser
from .diffusion.consistency import ConsistencyConfig, ConsistencyModel
from .diffusion.schedules import Named, Prediction, make_schedule
from .files import MACHINES, all_finite, expanded, home, load_tensors, save_tensors, settled
from .networks.autoencoder import Autoencoder
from .networks.clip import CLIP
from .networks.detector import Detector
from .networks.dit import DiT
from .networks.text import TextUNet
from .networks.unet import UNet
from .networks.video import VideoUNet, VideoUNetConfig
from .networks.weights import filled
from .spaces import LatentSpace, PixelSpace

KINDS = {
    "unet": (UNet, UNetConfig),
    "text-unet": (TextUNet, TextUNetConfig),
    "dit": (DiT, DiTConfig),
    "consistency": (ConsistencyModel, ConsistencyConfig),
    "video-unet": (VideoUNet, VideoUNetConfig),
    "autoencoder": (Autoencoder, AutoencoderConfig),
    "clip": (CLIP, CLIPConfig),
    "detector": (Detector, DetectorConfig),
}
Kind = Literal[tuple(KINDS)]
DENOISERS = ("unet", "text-unet", "dit", "consistency")
_CALLED = {
    UNet: "a U-Net",
    TextUNet: "a U-Net",
    DiT: "a DiT",
    ConsistencyModel: "a consistency model",
    VideoUNet: "a U-Net of clips",
    Autoencoder: "an autoencoder",
    CLIP: "a CLIP",
    Detector: "a detector",
}


@with_config(STRICT)
class Noise(TypedDict):
    """The schedule of a denoiser, as `make_schedule` takes it."""

    name: Named
    T: Levels
    shift: Shift


_NAME = r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$"
FileName = Annotated[str, Field(pattern=_NAME, max_length=255)]  # of what lies in the same folder


@with_config(STRICT_BUT_OPEN)
class Meta(TypedDict, total=False):
    """What a file may say beside its configuration, and other things; a denoiser's has the first four."""

    size: Annotated[int, Field(gt=0, le=4096)]
    schedule: Noise
    prediction: Prediction
    autoencoder: FileName | None
    autoencoder_fingerprint: str
    classes: list[str] | None
    data: InstanceOf[str]  # a folder's name too, which need not be UTF-8
    record: str


def _read(text: str) -> Any:
    """JSON; pydantic's own reader takes no names that are not UTF-8."""
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta: {error}") from None


@with_config(STRICT_BUT_OPEN)
class About(TypedDict):
    """A file's metadata; `config` is that of the kind."""

    kind: Kind
    config: str
    meta: Annotated[Meta, BeforeValidator(_read)]


EIGHT_BIT = ".scale"  # after a weight's name: the float16 factor of each row of a weight that is stored in 8 bits


def save_model(path: str | Path, model: nn.Module, *, half: bool = False, eight_bit: bool = False, **meta) -> Path:
    """Writes weights and configuration; `half` rounds the weights to float16, and with `eight_bit` the large ones to 8
    bits, -127 to 127 times a factor for each row. `meta` is kept as JSON.

    ValueError: a model that is none of KINDS, or weights that are not finite, also after rounding.
    """
    kind = next((k for k, (cls, _) in KINDS.items() if isinstance(model, cls)), None)
    if kind is None:
        known = ", ".join(cls.__name__ for cls, _ in KINDS.values())
        raise ValueError(f"cannot save a {type(model).__name__}; expected one of {known}")
    tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if not all_finite(tensors):
        raise ValueError(f"{path} was not written: a weight is NaN or infinite, so this training has failed")
    if eight_bit:
        tensors = dict(pair for k, v in tensors.items() for pair in _in_eight_bits(k, v))
    elif half:
        tensors = {k: _rounded(v) for k, v in tensors.items()}
    if not all_finite(tensors):
        raise ValueError(f"{path} was not written: a weight is too large for half precision; leave half out")
    try:
        text = {"kind": kind, "config": json.dumps(asdict(model.config)), "meta": json.dumps(meta)}
        _described(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} was not written: {error}") from error
    save_tensors(path, tensors, text)
    return Path(path)


def _described(text: dict[str, str]) -> tuple[type[nn.Module], Any, Meta]:
    """The class, its configuration and the rest, of a file's metadata. ValueError: they are none."""
    about = check(About, text)
    cls, config_cls = KINDS[about["kind"]]
    config, meta = from_json(config_cls, about["config"], "config"), about["meta"]
    known, names = getattr(config, "num_classes", None), meta.get("classes")
    if known is not None and names is not None and len(set(names)) != known:
        raise ValueError(f"classes={reprlib.repr(names)}; expected the names of {known}, as many as it knows")
    return cls, config, meta


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, dict]:
    """The network in float32, in evaluation mode, and what was stored beside it. ValueError: no such model file."""
    path = expanded(path)
    settled(path.parent)
    if not path.is_file():
        shipped = _shipped().get(str(path))
        ours = f"; the course's own of that name is {shipped}" if shipped else ""
        raise ValueError(f"{path}: no such checkpoint; expected a .safetensors file that this course wrote{ours}")
    state, text = load_tensors(path)
    try:
        cls, config, meta = _described(text)
        model = filled(cls, config, _from_stored(state))
        if isinstance(model, Autoencoder):
            check(Positive, model.latent_scale.item(), "latent_scale")
    except Exception as error:  # a row of 8 bits without its fellows, say
        raise ValueError(f"{path}: not a checkpoint of this course ({' '.join(str(error).split())})") from error
    return model.to(device).eval(), meta


def save_denoiser(
    path: str | Path,
    denoiser: Denoiser,
    *,
    autoencoder: str | None = None,
    half: bool = False,
    eight_bit: bool = False,
    **meta,
) -> Path:
    """Writes a denoiser; a latent one with the name of its `autoencoder`'s file, which lies in the same folder, and
    that one's fingerprint.

    ValueError: a latent denoiser without that name, or a schedule with betas of its own, which the file could not give
    back.
    """
    schedule, space = denoiser.schedule, denoiser.space
    levels = {"name": schedule.name, "T": schedule.T, "shift": schedule.shift}
    try:
        stored = torch.equal(make_schedule(**levels).alpha_bar, schedule.alpha_bar)
    except ValueError:  # a name that make_schedule does not know
        stored = False
    if not stored:
        raise ValueError(f"a {schedule.name!r} schedule with its own betas cannot be stored; take make_schedule's")
    first_stage = {"autoencoder": autoencoder}
    if isinstance(space, PixelSpace) and autoencoder is not None:
        raise ValueError(f"a denoiser of pixels has no autoencoder, and was given {autoencoder!r}; leave it out")
    if isinstance(space, LatentSpace):
        if autoencoder is None:
            raise ValueError("a latent denoiser is stored with the name of its autoencoder's file; give autoencoder")
        first_stage["autoencoder_fingerprint"] = fingerprint(space.autoencoder)
    about = {"size": space.size, "schedule": levels, "prediction": denoiser.prediction}
    return save_model(path, denoiser.model, half=half, eight_bit=eight_bit, **about, **first_stage, **meta)


def check_may_replace(path: Path, model: nn.Module, data: str) -> None:
    """ValueError if there is a file at `path` that holds a model of another kind or configuration than this one, or
    one of other data."""
    if not path.is_file():
        return
    there, meta = load_model(path)
    what = _CALLED[type(there)]
    known = Path(str(meta.get("data", data))).name
    if type(there) is not type(model) or there.config != model.config:
        raise ValueError(f"{path} holds {what} of another configuration; choose another name or folder, or delete it")
    if known != data:
        raise ValueError(f"{path} holds {what} that learnt from {known}; choose another name or folder, or delete it")


def fingerprint(model: nn.Module) -> str:
    """Tells weights from others, 16 hexadecimal digits; the same for weights and for their copy in half precision."""
    state = sorted(model.state_dict().items())
    return files.fingerprint(*(part for name, value in state for part in (name, _rounded(value))))


def _rounded(value: Tensor) -> Tensor:
    """In float16; but not the latents' scale: one number, whose rounding would save nothing and move every latent."""
    return value.half() if value.is_floating_point() and value.ndim else value


def _in_eight_bits(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """A weight as whole numbers and a factor for each row (output channel), so that its largest entry becomes 127; what
    has few numbers or no rows, as `_rounded` has it."""
    if not value.is_floating_point() or value.ndim < 2 or value[0].numel() < 16:
        return [(name, _rounded(value))]
    rows = value.flatten(1)
    scale = (rows.abs().amax(1) / 127).clamp(min=2**-24).half()
    whole = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return [(name, whole.view(value.shape)), (name + EIGHT_BIT, scale)]


def _from_stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float32, however they were rounded."""
    scales = {k: state[k + EIGHT_BIT] for k in state if k + EIGHT_BIT in state}
    found = {}
    for name in state.keys() - {k + EIGHT_BIT for k in scales}:
        value = state[name]
        if name in scales:
            if value.dtype != torch.int8 or scales[name].shape != value.shape[:1]:
                raise ValueError(f"{name} has a factor for each row, but is not stored in 8 bits by rows")
            value = (value.flatten(1) * scales[name].float()[:, None]).view(value.shape)
        found[name] = value.float() if value.is_floating_point() else value
    return found


def load_denoiser(path: str | Path, device: str | torch.device = "cpu") -> Denoiser:
    """A denoiser with its space, ready to draw; ValueError if the file is none."""
    model, meta = load_model(path, device)
    draws = isinstance(model, tuple(KINDS[kind][0] for kind in DENOISERS))
    if not draws or not {"size", "schedule", "prediction", "autoencoder"} <= meta.keys():
        given = _CALLED[type(model)] + (" without its schedule" if draws else "")
        known = ", ".join(pretrained_names()) or "none yet"
        raise ValueError(f"{path}: this is {given}; expected a denoiser, such as the course's own: {known}")
    autoencoder = None
    if meta["autoencoder"] is not None:
        beside = Path(path).with_name(meta["autoencoder"])
        if not beside.exists():
            raise ValueError(
                f"{path} works with the autoencoder {beside.name}, which does not lie beside it; put it there"
            )
        autoencoder, _ = load_model(beside, device)
        if not isinstance(autoencoder, Autoencoder):
            this = _CALLED[type(autoencoder)]
            raise ValueError(f"{beside}: expected the autoencoder that {path} works with; this is {this}")
        known = meta.get("autoencoder_fingerprint")  # files of the first edition have none
        if known is not None and known != fingerprint(autoencoder):
            raise ValueError(f"{path} was trained with another autoencoder than {beside}; put its own beside it")
    try:
        space = PixelSpace(meta["size"]) if autoencoder is None else LatentSpace(meta["size"], autoencoder)
        return Denoiser(model, space, make_schedule(**meta["schedule"]), meta["prediction"], meta)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def pretrained_names() -> list[str]:
    """The denoisers that come with the course, by the name that `ldm-course sample --pretrained` takes."""
    return [name for name, path in _shipped().items() if _kind(path) in DENOISERS]


def broken() -> list[Path]:
    """The course's checkpoints that cannot be read."""
    return [path for path in _shipped().values() if _kind(path) is None]


def _shipped() -> dict[str, Path]:
    """The course's checkpoints by name: that of the file, less the stage's `denoiser-` and the kind of machine at its
    end; of several, the largest machine's."""
    found: dict[str, Path] = {}
    for path in sorted((home() / "checkpoints").glob("*.safetensors"), key=_smallness):
        found.setdefault(re.sub(rf"^denoiser-|-({'|'.join(MACHINES)})$", "", path.stem), path)
    return dict(sorted(found.items()))


def _smallness(path: Path) -> int:
    """The place in MACHINES of what a file's name ends with; -1 where it names none."""
    return next((i for i, machine in enumerate(MACHINES) if path.stem.endswith(f"-{machine}")), -1)


def _kind(path: Path) -> str | None:
    """Which of KINDS a file says that it holds, its weights unread."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("kind")
    except Exception:  # safetensors raises its own class for broken files
        return None


def pretrained_path(name: str, known: Sequence[str] | None = None) -> Path:
    """Where a checkpoint of the course lies; ValueError, which lists the names, or those that are `known`, if there is
    none of that name."""
    shipped = _shipped()
    if name not in shipped:
        none = f"none in {home() / 'checkpoints'}; point LDM_HOME to the folder that has them"
        raise ValueError(f"no pretrained checkpoint {name!r}; there are: {', '.join(known or shipped) or none}")
    return shipped[name]


def pretrained(name: str, device: str | torch.device = "cpu") -> Denoiser:
    """One of the course's own denoisers, by name."""
    return load_denoiser(pretrained_path(name, pretrained_names()), device)
