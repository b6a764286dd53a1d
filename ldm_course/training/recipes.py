"""From names to trained models: the few lines that put data, network, objective and trainer together.

The command line, the comparison and the chapters all train through these functions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..config import AutoencoderConfig, CLIPConfig, DiTConfig, TextConfig, TextUNetConfig, TrainConfig, UNetConfig
from ..data.latents import Latents
from ..data.pictures import Crops, Pictures
from ..denoiser import Denoiser
from ..diffusion.objectives import BatchRandom, DenoisingObjective, draw
from ..diffusion.schedules import Schedule, check_invertible
from ..diffusion.superresolution import SuperResolutionObjective
from ..networks.autoencoder import Autoencoder
from ..networks.clip import CLIP
from ..networks.dit import DiT
from ..networks.superresolution import SuperResolutionUNet
from ..networks.text import SPECIAL, TextEncoder, TextUNet, vocabulary
from ..networks.unet import UNet
from ..spaces import LatentSpace, PixelSpace
from .contrastive import ContrastiveObjective
from .reconstruction import AutoencoderObjective
from .trainer import Trainer, epoch_order

SCALE_COUNT = 1024  # pictures that `latent_scale` is measured on


def seeded(seed: int, build, *args):
    """`build(*args)` with the initial weights that belong to `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would set the GPUs' as well
        return build(*args)


def autoencoder_trainer(
    data: Pictures | Crops, network: AutoencoderConfig, config: TrainConfig, *, losses: dict | None = None, **trainer
) -> Trainer:
    """A trainer for an autoencoder of `data`; `losses` are `AutoencoderObjective`'s weights.

    The initial weights come from `config.seed`. ValueError: the pictures' side is no multiple of f, or they are too
    small for the perceptual loss.
    """
    if data.size % network.downsample:
        raise ValueError(f"a side of {data.size} cannot be divided by f={network.downsample}; choose another size")
    model = seeded(config.seed, Autoencoder, network)
    # the critic, where there is one, begins with weights of its own
    objective = seeded(config.seed, lambda: AutoencoderObjective(data, flip=config.flip, **(losses or {})))
    return Trainer(model, objective, config, **trainer)


def finished_autoencoder(trainer: Trainer) -> Autoencoder:
    """The averaged autoencoder, with its `latent_scale` measured on pictures that it was trained on."""
    model = trainer.snapshot()
    data, seed = trainer.objective.data, trainer.config.seed
    device = next(model.parameters()).device
    some = epoch_order(len(data), 0, seed)[:SCALE_COUNT]
    rng = BatchRandom(seed, 0, len(some), slice(None), device)
    model.measure_latent_scale(draw(data, some, rng, flip=False), torch.Generator(device).manual_seed(seed))
    return model


def further_trainer(
    autoencoder: Autoencoder, data: Pictures, config: TrainConfig, *, losses: dict | None = None, **trainer
) -> Trainer:
    """A trainer that takes a copy of a trained autoencoder further, on `data` (fine-tuning); losses as above."""
    objective = seeded(config.seed, lambda: AutoencoderObjective(data, flip=config.flip, **(losses or {})))
    return Trainer(copy.deepcopy(autoencoder).train(), objective, config, **trainer)


def denoiser_trainer(
    data: Pictures | Latents,
    network: UNetConfig | DiTConfig,
    config: TrainConfig,
    schedule: Schedule,
    prediction: str,
    *,
    objective: Callable[..., DenoisingObjective] = DenoisingObjective,
    captions: Sequence[str] | Sequence[Sequence[str]] | None = None,
    text: TextConfig | None = None,
    encoder: TextEncoder | None = None,
    words: Sequence[str] | None = None,
    **trainer,
) -> Trainer:
    """A trainer for a denoiser of pictures or latents, a U-Net or a DiT, by an `objective` such as `FlowObjective`; the
    network gets the data's channels, classes if it has some.

    With `captions`, one for each picture, or for each the same number, of which one is drawn at a time, it reads them
    through a text encoder, `text`, that is trained with it and knows their words; or through one that was trained
    before and is left as it is, `encoder`, which knows `words`.
    ValueError: the network cannot halve the data's side often enough, or latents are to be flipped, or texts go with
    classes or these are too few, or schedule and prediction do not go together (`schedules.check_invertible`).
    """
    if not isinstance(data, (Pictures, Latents)):
        raise ValueError(f"data is a {type(data).__name__}; expected Pictures or Latents")
    if not len(data):
        raise ValueError("data is empty; expected one picture or more")
    if captions is not None and text is None and encoder is None:
        raise ValueError("captions without text or encoder, which say how they are to be read; give one")
    if config.flip and isinstance(data, Latents):
        raise ValueError("a mirrored latent is not the latent of the mirrored picture; leave flip out for latents")
    check_invertible(schedule, prediction, clip_x0=not isinstance(data, Latents))
    kind = DiT if isinstance(network, DiTConfig) else UNet
    if data.size % (factor := network.multiple):
        given = f"{'latents' if isinstance(data, Latents) else 'pictures'} of {data.size} a side"
        raise ValueError(f"{given}; this {kind.__name__} needs multiples of {factor}, so take another size")
    channels = (data.mean if isinstance(data, Latents) else data.images).shape[1]
    network, told = network.for_channels(channels), {}
    model: UNet | TextUNet | DiT
    if captions is None:
        model = seeded(config.seed, kind, network)
    else:
        texts, several = _in_one_list(captions)
        words = vocabulary(texts) if encoder is None else tuple(words)
        model = _text_unet(network, text, words, encoder, config.seed)
        tokens = model.tokenizer(texts)
        told = {"tokens": tokens.unflatten(0, (len(captions), -1)) if several else tokens}
        told["no_tokens"] = model.tokenizer([""])[0]
    told |= {"num_classes": network.num_classes, "dropout": config.label_dropout, "flip": config.flip}
    return Trainer(model, objective(data, schedule, prediction, **told), config, **trainer)


def super_resolution_trainer(
    data: Pictures, network: UNetConfig, config: TrainConfig, schedule: Schedule, prediction: str, **trainer
) -> Trainer:
    """A trainer for a denoiser of pictures that is told them at half their side (chapter 9). ValueError: an odd side,
    or one that the network cannot halve often enough."""
    channels = data.images.shape[1]
    network = replace(network, in_channels=2 * channels + 1, out_channels=channels, num_classes=None)
    factor = max(2, network.multiple)
    if data.size % factor:
        raise ValueError(f"pictures of {data.size} a side; expected a multiple of {factor}, so take another size")
    model = seeded(config.seed, SuperResolutionUNet, network)
    return Trainer(model, SuperResolutionObjective(data, schedule, prediction, flip=config.flip), config, **trainer)


def _in_one_list(captions: Sequence[str] | Sequence[Sequence[str]]) -> tuple[list[str], bool]:
    """All texts, and whether each picture has several of them."""
    several = not isinstance(captions[0], str)
    return [text for of in captions for text in of] if several else list(captions), several


def _text_unet(
    network: UNetConfig, text: TextConfig | None, words: tuple[str, ...], encoder: TextEncoder | None, seed: int
) -> TextUNet:
    """A U-Net and its text encoder: a new one, or `encoder`, whose weights no training changes."""
    text = replace(text, vocab_size=SPECIAL + len(words)) if encoder is None else encoder.config
    network = replace(network, cross_attention_dim=text.width)
    model = seeded(seed, TextUNet, TextUNetConfig(network, text, words))
    if encoder is not None:
        model.text.load_state_dict(encoder.state_dict())
        model.text.requires_grad_(False)
    return model


def denoiser_of(trainer: Trainer, space: PixelSpace | LatentSpace) -> Denoiser:
    """What the trainer has so far, ready to sample from."""
    objective = trainer.objective
    return Denoiser(trainer.snapshot(), space, objective.schedule, objective.prediction)


def clip_trainer(
    data: Pictures,
    network: CLIPConfig,
    config: TrainConfig,
    *,
    captions: Sequence[Sequence[str]] | None = None,
    **trainer,
) -> Trainer:
    """A trainer for a CLIP of pictures and their captions, whose words, and whose size, the network gets.

    `captions`: for each picture the same number of texts, of which one is drawn at a time; by default its own alone.
    ValueError: no captions, pictures that are to be mirrored, fewer than one batch takes, a batch of one, or one in
    parts (as in `ContrastiveObjective`).
    """
    if data.captions is None:
        raise ValueError(f"{data.name} has no captions; train on emoji, scenes, or an .npz file with captions")
    if config.flip:
        raise ValueError("in a mirrored picture, what the caption calls left is right; leave flip out for CLIP")
    if config.accumulate > 1:
        raise ValueError(f"accumulate={config.accumulate}; CLIP tells each pair from all of a batch: leave it at 1")
    if config.batch_size < 2:
        raise ValueError("batch_size=1; CLIP tells each pair from all others of a batch: take 2 or more")
    if config.batch_size > len(data):  # a pair would be there twice, and have to be told from itself
        raise ValueError(f"batches of {config.batch_size} from {len(data)} pairs; take smaller ones, or more pairs")
    captions = [(caption,) for caption in data.captions] if captions is None else captions
    texts, _ = _in_one_list(captions)
    words = vocabulary(texts)
    text = replace(network.text, vocab_size=SPECIAL + len(words))
    model = seeded(config.seed, CLIP, replace(network, text=text, words=words, size=data.size))
    tokens = model.tokenizer(texts).unflatten(0, (len(captions), -1))
    return Trainer(model, ContrastiveObjective(data, tokens), config, **trainer)
