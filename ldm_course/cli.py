"""The command line, `ldm-course`: compare, train, sample, evaluate, cost, reference, claims, data, doctor.

Each command is a thin layer over the package. A mistake in what was typed, or in a file, is one line on standard
error and exit code 2.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from . import checkpoints, plotting
from . import config as cfg
from .checkpoints import Denoiser
from .data import cifar10_is_here, load_data
from .features import default_device
from .records import slug
from .spaces import generate

DATA_HELP = "emoji, scenes, cifar10, a folder of pictures, or an .npz file (default: emoji)"


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError, ImportError, torch.cuda.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "; what was saved is kept, and the same command goes on from there" if args.command == "train" else ""
        print(f"\nstopped{goes_on}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ldm-course", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    p = command("compare", compare, "train, sample and measure both spaces under one budget")
    _data_options(p)
    p.add_argument("--profile", help="smoke, cpu, gpu or reference (default: by hardware, or $LDM_PROFILE)")
    p.add_argument("--budget", type=float, help="seconds of training for each space, the autoencoder included")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder for record, report and pictures")

    p = command("train", train, "train an autoencoder, or a denoiser in pixel or latent space; resumes what it finds")
    p.add_argument("what", choices=("autoencoder", "pixel", "latent"))
    _data_options(p)
    p.add_argument("--profile", help="whose network to take (default: by hardware, or $LDM_PROFILE)")
    p.add_argument("--autoencoder", type=Path, help="for latent: the autoencoder's .safetensors file")
    p.add_argument("--minutes", type=float, help="stop after so many minutes of training")
    p.add_argument("--images", type=int, help="stop after so many pictures seen")
    p.add_argument("--steps", type=int, help="stop after so many optimizer steps")
    p.add_argument("--batch-size", type=int)
    p.add_argument("--lr", type=float)
    p.add_argument("--decay", choices=("none", "cosine", "linear"), default="none")
    p.add_argument("--accumulate", type=int, default=1, help="parts that a batch is divided into, to save memory")
    p.add_argument("--precision", choices=("auto", "no", "fp16", "bf16"), default="auto")
    p.add_argument("--flip", action="store_true", help="mirror half of the pictures")
    p.add_argument("--unconditional", action="store_true", help="ignore the labels")
    p.add_argument("--schedule", choices=("linear", "sqrt_linear", "cosine"), default="cosine")
    p.add_argument("--prediction", choices=("eps", "x0", "v"), default="v")
    p.add_argument("--perceptual", type=float, default=0.1, help="weight of the perceptual loss")
    p.add_argument("--kl", type=float, default=1e-4, help="weight of the KL term")
    p.add_argument("--adversarial", type=float, default=0.0, help="weight of the patch-adversarial loss")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--sample-every", type=int, default=1000, help="steps between two grids of pictures")
    p.add_argument("--save-every", type=int, default=500, help="steps between two savings of the run's state")
    p.add_argument("--log-every", type=int, default=25, help="steps that each logged loss is the mean of")
    p.add_argument("--tensorboard", action="store_true", help="write loss curves for TensorBoard")
    p.add_argument("--name", help="of the checkpoint and its record (default: DATA-SIZE-WHAT)")
    p.add_argument("--out", type=Path, help="folder of the run (default: runs/NAME)")
    p.add_argument("--publish", action="store_true", help="also put the weights, in half precision, into checkpoints/")

    p = command("sample", sample, "make pictures with a trained model")
    _model_options(p)
    p.add_argument("--count", type=int, default=16)
    p.add_argument("--method", choices=("ddpm", "ddim", "dpmpp"), default="dpmpp")
    p.add_argument("--steps", type=int, default=25)
    p.add_argument("--eta", type=float, default=0.0)
    p.add_argument("--label", help="a class, by name or number (default: classes in turn)")
    p.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance; 1 is none")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--out", type=Path, default=Path("samples.png"))

    p = command("evaluate", evaluate, "measure a trained model's pictures against data")
    _model_options(p)
    _data_options(p, default=None)
    p.add_argument("--count", type=int, default=256)
    p.add_argument("--method", choices=("ddpm", "ddim", "dpmpp"), default="ddim")
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--eta", type=float, default=0.0)
    p.add_argument("--guidance", type=float, default=1.0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--fid", action="store_true", help="also the Inception FID, if its weights can be had")
    p.add_argument("--inception", type=Path, help="a file with pytorch-fid's Inception weights")

    p = command("cost", cost, "count and time one denoising step in both spaces")
    p.add_argument("--size", type=int, default=32, help="side of the picture, in pixels")
    p.add_argument("--profile")
    p.add_argument("--batch-size", type=int, default=1)

    p = command("reference", reference, "run the stages that the course's recorded numbers come from")
    p.add_argument("--status", action="store_true", help="say what is done and what is missing, and run nothing")
    p.add_argument("--stage", action="append", metavar="NAME", help="only this one (may be given again), and its needs")
    p.add_argument("--minutes", type=float, help="of training for each network (default: the stage's own)")
    p.add_argument("--profile", help="whose sizes to take (default: reference with a GPU, cpu without)")
    p.add_argument("--out", type=Path, default=Path("runs/reference"), help="folder for records, weights and states")
    p.add_argument("--publish", action="store_true", help="also put records, and small weights, into the course's own")
    p.add_argument("--collect", action="store_true", help="publish what is in --out so far, and run nothing")

    p = command("claims", claims, "the ledger: each claim under test, and its verdict by the stored records")
    p.add_argument("--chapter", type=int, help="only the claims of this chapter, 1 to 10")

    p = command("data", data, "say what a data set holds, and draw some of it")
    _data_options(p)
    p.add_argument("--split", choices=("train", "test"), default="train")
    p.add_argument("--count", type=int, default=64)
    p.add_argument("--out", type=Path, default=Path("data.png"))

    command("doctor", doctor, "check the installation, the machine and the data")
    return parser


def _data_options(parser: argparse.ArgumentParser, default: str | None = "emoji") -> None:
    parser.add_argument("--data", default=default, help=DATA_HELP)
    parser.add_argument("--size", type=int, help="side of the pictures, in pixels (default: the profile's)")
    parser.add_argument("--limit", type=int, help="use only so many pictures")


def _model_options(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--pretrained", metavar="NAME", help="one of the course's checkpoints, such as emoji-32-latent")
    which.add_argument("--checkpoint", type=Path, metavar="FILE", help="a denoiser's .safetensors file")


def train(args: argparse.Namespace) -> int:
    """`ldm-course train`."""
    from .runs import train_run

    profile = cfg.profile(args.profile)
    if args.minutes is None and args.images is None and args.steps is None:
        raise ValueError("say when to stop: give --minutes, --images or --steps")
    if (args.what == "latent") != (args.autoencoder is not None):
        raise ValueError("--autoencoder FILE goes with `train latent`, and only with it")
    _positive(batch_size=args.batch_size, lr=args.lr, sample_every=args.sample_every)
    _positive(save_every=args.save_every, log_every=args.log_every)
    size = profile.size if args.size is None else args.size
    splits = (load_data(args.data, size, split, limit=args.limit, seed=args.seed) for split in ("train", "test"))
    pictures, test = splits
    own = profile.autoencoder_batch_size if args.what == "autoencoder" else None
    training = cfg.TrainConfig(
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
    name = args.name or f"{slug(pictures.name)}-{pictures.size}-{args.what}"
    path = train_run(
        args.what,
        pictures,
        test,
        profile,
        training,
        name=name,
        out=args.out or Path("runs") / name,
        autoencoder=args.autoencoder,
        schedule=args.schedule,
        prediction=args.prediction,
        conditional=not args.unconditional,
        losses={
            "perceptual_weight": args.perceptual,
            "kl_weight": args.kl,
            "adversarial_weight": args.adversarial,
        },
        sample_every=args.sample_every,
        save_every=args.save_every,
        log_every=args.log_every,
        tensorboard=args.tensorboard,
        publish=args.publish,
    )
    if path is not None:
        print(f"wrote {path}")
    return 0


def compare(args: argparse.Namespace) -> int:
    """`ldm-course compare`."""
    from . import report
    from .compare import compare as run

    record = run(
        args.data,
        cfg.profile(args.profile),
        size=args.size,
        budget=args.budget,
        limit=args.limit,
        seed=args.seed,
        out=args.out,
        command=sys.argv,
    )
    print(f"\n{report.as_text(record)}\n\nwrote {args.out}/: report.md, the record, the weights and the pictures")
    return 0


def _denoiser(args: argparse.Namespace) -> Denoiser:
    device = default_device()
    if args.pretrained:
        return checkpoints.pretrained(args.pretrained, device)
    return checkpoints.load_denoiser(args.checkpoint, device)


def _labels(d: Denoiser, wanted: str | None, count: int) -> torch.Tensor | None:
    """int64 (count,): the class that was asked for, by name or number, or the classes in turn."""
    classes = d.meta.get("classes") or []
    if d.model.config.num_classes is None:
        if wanted is not None:
            raise ValueError("this model was trained without classes; leave --label out")
        return None
    if wanted is None:
        return torch.arange(count) % d.model.config.num_classes
    if wanted in classes:
        return torch.full((count,), classes.index(wanted))
    if wanted.isdigit() and int(wanted) < d.model.config.num_classes:
        return torch.full((count,), int(wanted))
    known = ", ".join(classes)
    raise ValueError(f"no class {wanted!r}; expected 0 to {d.model.config.num_classes - 1}, or one of {known}")


def _positive(**numbers: float | None) -> None:
    for name, number in numbers.items():
        if number is not None and not number > 0:
            raise ValueError(f"--{name.replace('_', '-')} {number}; expected more than 0")


def _no_folder(out: Path) -> None:
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; expected the name of a picture, such as {out}/pictures.png")


def _made(d: Denoiser, args: argparse.Namespace, label: torch.Tensor | None) -> torch.Tensor:
    return generate(
        d.model,
        d.space,
        args.count,
        d.schedule,
        prediction=d.prediction,
        method=args.method,
        steps=args.steps,
        eta=args.eta,
        label=label,
        guidance_scale=args.guidance,
        seed=args.seed,
        show=True,
    )


def sample(args: argparse.Namespace) -> int:
    """`ldm-course sample`."""
    _positive(count=args.count)
    _no_folder(args.out)
    d = _denoiser(args)
    label = _labels(d, args.label, args.count)
    started = time.perf_counter()
    made = _made(d, args, label)
    seconds = time.perf_counter() - started
    classes = d.meta.get("classes")
    captions = None if label is None or not classes else [classes[i] for i in label.tolist()]
    in_turn = captions is not None and args.label is None and len(classes) <= 12
    plotting.save_png(args.out, plotting.grid(made, len(classes) if in_turn else None, captions))
    print(f"wrote {args.out}: {args.count} pictures in {seconds:.1f} s ({args.method}, {args.steps} steps)")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """`ldm-course evaluate`."""
    from . import evaluation
    from .report import quality

    _positive(count=args.count)
    d = _denoiser(args)
    if args.data is None and "data" not in d.meta:
        raise ValueError("this checkpoint does not say what it was trained on; give --data")
    if args.size not in (None, d.space.size):
        raise ValueError(f"--size {args.size}; this model makes pictures of {d.space.size} a side")
    real = load_data(args.data or d.meta["data"], d.space.size, limit=args.limit, seed=args.seed)
    label, classes = None, d.model.config.num_classes
    if classes is not None:
        if real.labels is None or len(real.classes) != classes:
            has = "no labels" if real.labels is None else f"{len(real.classes)} classes"
            raise ValueError(f"{real.name} has {has}, but the model was trained with {classes} classes")
        # classes as often as in the data
        label = real.labels[torch.randperm(len(real), generator=torch.Generator().manual_seed(args.seed))]
        label = label.repeat(-(-args.count // len(label)))[: args.count]
    made = _made(d, args, label)
    result = evaluation.evaluate(made, real.images, seed=args.seed)
    fd_e, kd_e, count = quality(result)
    print(f"{args.method}, {args.steps} steps, against {len(real)} pictures of {real.name}")
    print(f"FD-E (floor)  {fd_e}\nKD-E (floor)  {kd_e}\npictures      {count}")
    if args.fid or args.inception:
        n = min(args.count, len(real) // 2)
        floor = evaluation.fid_floor(real, n, args.inception, seed=args.seed)
        print(f"FID (floor)   {evaluation.fid(made, real, args.inception):.2f} ({floor:.2f}; {n} real pictures)")
    return 0


def cost(args: argparse.Namespace) -> int:
    """`ldm-course cost`."""
    from .complexity import count_parameters, latent_shape, unet_flops
    from .measure import activation_memory, time_together
    from .recipes import seeded
    from .unet import UNet

    _positive(size=args.size, batch_size=args.batch_size)
    profile = cfg.profile(args.profile)
    c, side, _ = latent_shape(profile.autoencoder, args.size)
    shapes = {"pixel": (3, args.size), "latent": (c, side)}
    device = default_device()
    calls, lines = {}, {}
    for space, (channels, size) in shapes.items():
        network = profile.unet.for_channels(channels)
        flops = unet_flops(network, size, args.batch_size)
        model = seeded(0, UNet, network).to(device).eval()
        x = torch.randn(args.batch_size, channels, size, size, device=device)
        t = torch.zeros(args.batch_size, dtype=torch.int64, device=device)
        calls[space] = torch.inference_mode()(lambda model=model, x=x, t=t: model(x, t))
        saved = activation_memory(model, x, t).saved
        lines[space] = (
            f"{space:7}{channels} x {size} x {size}: {count_parameters(model) / 1e6:.2f} M parameters, "
            f"{flops.total / 1e9:.3g} GFLOP a step ({flops.share('attention'):.1%} attention), "
            f"{saved / 2**20:.3g} MiB kept for training"
        )
    timings = time_together(calls, repeats=7, warmup=2, seconds=20)
    for space, line in lines.items():
        print(f"{line}, {1e3 * timings[space].median:.3g} ms a step")
    return 0


def reference(args: argparse.Namespace) -> int:
    """`ldm-course reference`; the exit code is 1 if a stage failed."""
    from .reference import collect, find, run_stages, status

    _positive(minutes=args.minutes)
    for name in args.stage or []:
        find(name)
    name = args.profile or ("reference" if torch.cuda.is_available() else "cpu")
    if args.status:
        for each in [args.profile] if args.profile else ["reference", "hours", "cpu"]:
            print(f"profile {each}\n" + "\n".join(status(cfg.profile(each), args.out)) + "\n")
        return 0
    if args.collect:
        collect(cfg.profile(name), args.out)
        return 0
    options = {"minutes": args.minutes, "publish": args.publish}
    failed = run_stages(args.stage, cfg.profile(name), args.out, **options)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def claims(args: argparse.Namespace) -> int:
    """`ldm-course claims`."""
    from .claims import as_text

    if args.chapter not in (None, *range(1, 11)):
        raise ValueError(f"--chapter {args.chapter}; expected 1 to 10")
    print(as_text(args.chapter))
    return 0


def data(args: argparse.Namespace) -> int:
    """`ldm-course data`."""
    _positive(count=args.count)
    _no_folder(args.out)
    size = cfg.profile().size if args.size is None else args.size
    pictures = load_data(args.data, size, args.split, limit=args.limit)
    print(f"{pictures.name}, {args.split}: {len(pictures)} pictures of {pictures.size} x {pictures.size}")
    print(f"source: {pictures.source}")
    if pictures.classes is not None:
        counts = torch.bincount(pictures.labels, minlength=len(pictures.classes)).tolist()
        print("classes: " + ", ".join(f"{name} {n}" for name, n in zip(pictures.classes, counts)))
    spread = torch.linspace(0, len(pictures) - 1, min(args.count, len(pictures))).long()
    plotting.save_png(args.out, plotting.grid_image(pictures.images[spread], scale=max(1, 64 // pictures.size)))
    print(f"wrote {args.out}")
    return 0


def doctor(args: argparse.Namespace) -> int:
    """`ldm-course doctor`: each line is a check; the exit code is 1 if one failed."""
    from . import records
    from .features import efficientnet_lite0

    def installed() -> str:
        return ", ".join(f"{name} {version}" for name, version in records.versions().items() if version)

    def hardware() -> str:
        m = records.machine()
        return f"{m.get('gpu') or m['cpu']}, {m['threads']} threads; profile {cfg.profile().name}"

    checks = {
        "packages": installed,
        "machine": hardware,
        "emoji": lambda: f"{len(load_data('emoji', 32))} training pictures",
        "features": lambda: f"{sum(p.numel() for p in efficientnet_lite0().parameters()):,} weights",
        "checkpoints": lambda: ", ".join(checkpoints.pretrained_names()) or "none yet",
        "cifar10": lambda: (
            f"{len(load_data('cifar10', 32, limit=1))} of its pictures could be read"
            if cifar10_is_here()
            else "not here yet; downloaded when asked for"
        ),
    }
    needed, failed = {"packages", "machine", "emoji", "features"}, False
    for name, check in checks.items():
        try:
            print(f"ok    {name}: {check()}")
        except Exception as error:  # whatever is wrong, the reader is to see it in one line
            failed |= name in needed
            print(f"{'FAIL' if name in needed else 'no  '}  {name}: {(str(error) or repr(error)).splitlines()[0]}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
