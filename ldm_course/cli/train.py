"""`ldm-course train`: an autoencoder, a denoiser in either space, one that reads texts, or a CLIP."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..checks import Count, Positive, Seed, Several, Weight, number
from ..config import TrainConfig
from ..data.loaders import load_data
from ..device import chosen_precision, default_device
from ..diffusion.schedules import PREDICTIONS, SCHEDULES, make_schedule
from ..files import at_work_in, shown
from ..lab import profiles
from ..lab.records import slug
from ..lab.runs import AutoencoderRun, ClipRun, DenoiserRun, check_name, train_run, with_classes
from .options import apart, file, run_folder, which_data

DENOISERS = ("pixel", "latent", "text2image")
ONLY = {  # options that some kinds of training know: which kinds, and what holds where nothing is said
    "flip": (("autoencoder", *DENOISERS), False),
    "unconditional": (("pixel", "latent"), False),
    "schedule": (DENOISERS, "cosine"),
    "prediction": (DENOISERS, "v"),
    "perceptual": (("autoencoder",), 0.1),
    "kl": (("autoencoder",), 1e-4),
    "adversarial": (("autoencoder",), 0.0),
}


def train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("autoencoder", "pixel", "latent", "text2image", "clip"))
    which_data(parser)
    parser.add_argument("--profile", help="whose network to take (default: by hardware, or $LDM_PROFILE)")
    parser.add_argument(
        "--autoencoder", type=file, help="for latent and text2image: the autoencoder's .safetensors file"
    )
    parser.add_argument("--minutes", type=number(Positive), help="stop after so many minutes of training")
    parser.add_argument("--images", type=number(Several), help="stop after so many pictures seen")
    parser.add_argument("--steps", type=number(Several), help="stop after so many optimizer steps")
    parser.add_argument("--batch-size", type=number(Count))
    parser.add_argument("--lr", type=number(Positive))
    parser.add_argument("--decay", choices=("none", "cosine", "linear"), default="none")
    parser.add_argument(
        "--accumulate", type=number(Count), default=1, help="parts that a batch is divided into, to save memory"
    )
    parser.add_argument("--precision", choices=("auto", "no", "fp16", "bf16"), default="auto")
    parser.add_argument("--flip", action="store_true", default=None, help="mirror half of the pictures")
    parser.add_argument("--unconditional", action="store_true", default=None, help="ignore the labels")
    parser.add_argument("--schedule", choices=SCHEDULES, help=_usual("schedule"))
    parser.add_argument("--prediction", choices=PREDICTIONS, help=_usual("prediction"))
    parser.add_argument("--perceptual", type=number(Weight), help=_usual("perceptual", "weight of the perceptual loss"))
    parser.add_argument("--kl", type=number(Weight), help=_usual("kl", "weight of the KL term"))
    parser.add_argument(
        "--adversarial", type=number(Weight), help=_usual("adversarial", "weight of the patch-adversarial loss")
    )
    parser.add_argument("--seed", type=number(Seed), default=0)
    parser.add_argument(
        "--sample-every", type=number(Several), default=1000, help="steps between two grids of pictures"
    )
    parser.add_argument(
        "--save-every", type=number(Several), default=500, help="steps between two savings of the run's state"
    )
    parser.add_argument(
        "--log-every", type=number(Several), default=25, help="steps that each logged loss is the mean of"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write loss curves for TensorBoard")
    parser.add_argument("--name", help="of the checkpoint and its record (default: DATA-SIZE-WHAT)")
    parser.add_argument("--out", type=run_folder, help="folder of the run (default: runs/NAME)")
    parser.add_argument(
        "--publish", action="store_true", help="also put the weights, in half precision, into checkpoints/"
    )


def _usual(option: str, text: str = "") -> str:
    return f"{text} (default: {ONLY[option][1]})".strip()


def train(args: argparse.Namespace) -> int:
    """`ldm-course train`."""
    profile = profiles.profile(args.profile)
    if args.minutes is None and args.images is None and args.steps is None:
        raise ValueError("say when to stop: give --minutes, --images or --steps")
    in_latents = args.what in ("latent", "text2image")
    if in_latents != (args.autoencoder is not None):
        raise ValueError("--autoencoder FILE goes with `train latent` and `train text2image`, and only with them")
    for option, (kinds, usual) in ONLY.items():
        if getattr(args, option) is None:
            setattr(args, option, usual)
        elif args.what not in kinds:
            raise ValueError(f"--{option} is not for `train {args.what}`, only for {', '.join(kinds)}")
    size = profile.size if args.size is None else args.size
    name = f"{slug(args.data)}-{size}-{args.what}" if args.name is None else args.name
    out = args.out or Path("runs") / name
    apart(out, args.data)
    check_name(name, out, args.autoencoder, publish=args.publish)
    with at_work_in(out):
        return _train(args, profile, size, name, out)


def _train(args: argparse.Namespace, profile: profiles.Profile, size: int, name: str, out: Path) -> int:
    own = {"autoencoder": profile.autoencoder_batch_size, "clip": profile.clip_batch_size}.get(args.what)
    training = TrainConfig(
        batch_size=args.batch_size or own or profile.batch_size,
        steps=args.steps,
        images=args.images,
        seconds=None if args.minutes is None else 60 * args.minutes,
        lr=args.lr or profile.lr,
        decay=args.decay,
        ema_decay=profile.ema_decay,
        accumulate=args.accumulate,
        precision=args.precision,
        flip=args.flip,
        seed=args.seed,
    )
    chosen_precision(training.precision, default_device())  # refused before anything is read
    splits = (load_data(args.data, size, split, limit=args.limit, seed=args.seed) for split in ("train", "test"))
    pictures, test = splits
    options = {"save_every": args.save_every, "log_every": args.log_every, "tensorboard": args.tensorboard}
    options |= {"out": out, "name": name}
    run: AutoencoderRun | ClipRun | DenoiserRun
    if args.what == "autoencoder":
        weights = {"perceptual": args.perceptual, "kl": args.kl, "adversarial": args.adversarial}
        losses = {f"{term}_weight": weight for term, weight in weights.items()}
        run = AutoencoderRun(pictures, test, profile.autoencoder, training, losses=losses, **options)
    elif args.what == "clip":
        run = ClipRun(pictures, test, profile.clip, training, **options)
    else:
        reads = args.what == "text2image"
        network = profile.text_unet if reads else profile.unet
        if not (reads or args.unconditional):
            network = with_classes(network, pictures)
        schedule = make_schedule(args.schedule)
        options |= {"autoencoder": args.autoencoder, "text": profile.text if reads else None}
        run = DenoiserRun(pictures, network, training, schedule, args.prediction, **options)
    path = train_run(run, name=name, out=out, profile=profile, sample_every=args.sample_every, publish=args.publish)
    if path is not None:
        print(f"wrote {shown(path)}")
    return 0
