"""Mistakes, a row each: what is typed, with what in the folder, what is then said, and what must be left on disk.

`test_mistakes.py` tries every row. Those with a `cause` are the ones that a learner is likely to meet: the page "When
something goes wrong" is made of them, by `book/make_mistakes.py`.
"""

from dataclasses import dataclass

TINY = "--data scenes --size 8 --limit 24 --batch-size 8"
STEPS = f"{TINY} --steps 1"


@dataclass(frozen=True)
class Mistake:
    """`says` is part of the line that the command `typed` ends with, exit status 2. What it finds in the folder,
    `test_mistakes.folder` has made. `left`: the files that may be new or changed afterwards; all others stay as they
    were, and none goes."""

    typed: str
    says: str
    cause: str = ""
    mend: str = ""
    left: tuple[str, ...] = ()


MISTAKES = (
    # -------------------------------------------------------------------------------- letter a: what has failed
    Mistake(
        f"train pixel {TINY} --steps 40 --lr 1e20 --save-every 1 --log-every 1 --out runs/a",
        "so the run was stopped; the state of step",
        "The loss or a weight became NaN or infinite: the steps were so large that training left all sensible values. "
        "The last state that was finite is kept.",
        "Give a lower `--lr`, a tenth of it at first. The same command goes on from the state that is kept; "
        "to begin afresh, delete the run's folder.",
        left=("runs/a/",),
    ),
    Mistake(
        "sample --checkpoint nan.safetensors",
        "a weight is NaN or infinite",
        "The file holds weights of a training that has failed.",
        "Train it again with a lower `--lr`, or take the file of an earlier run.",
    ),
    Mistake("evaluate --checkpoint nan.safetensors --data scenes", "a weight is NaN or infinite"),
    Mistake(f"train latent {STEPS} --autoencoder nan-autoencoder.safetensors", "a weight is NaN or infinite"),
    # ------------------------------------------------------------------- letter b: what does not go together
    Mistake(
        f"train latent {STEPS} --autoencoder autoencoder.safetensors --prediction eps",
        "prediction 'eps' with the cosine schedule, where x0 is not clipped",
        "At its last level the cosine schedule leaves a signal of 5e-5. A network that predicts the noise gives the "
        "clean picture only after a division by it, which turns any small error into a huge one. Pictures are clipped "
        "to [-1, 1] afterwards, latents cannot be.",
        "Leave `--prediction` at `v`, or choose `--schedule sqrt_linear`, as Stable Diffusion does.",
    ),
    Mistake("sample --checkpoint eps.safetensors", "prediction 'eps' with the flow schedule"),
    # ---------------------------------------------------------------------------------- letter h: precision
    Mistake(
        f"train pixel {STEPS} --precision fp16",
        "precision 'fp16' needs a GPU",
        "CPUs do not train in this precision.",
        "Leave `--precision` out: `auto` takes what your machine computes in.",
    ),
    # ---------------------------------------------------------------- letter k: values that cannot be, or are none
    Mistake(
        'data --data ""',
        "--data is empty",
        "A shell variable such as `$FOLDER` was never set, so the command received an empty word.",
        "Set the variable, or type the folder's name.",
    ),
    Mistake("data --data=", "--data is empty"),
    Mistake('evaluate --checkpoint model.safetensors --data ""', "--data is empty"),
    Mistake('sample --checkpoint ""', "--checkpoint is empty"),
    Mistake(f'train pixel {STEPS} --out ""', "--out is empty"),
    Mistake(f"train autoencoder {STEPS} --kl -5", "--kl -5; expected 0 or more"),
    Mistake(f"train autoencoder {STEPS} --adversarial -1", "--adversarial -1; expected 0 or more"),
    Mistake(f"train autoencoder {STEPS} --perceptual nan", "--perceptual nan; expected a finite number"),
    Mistake(f"train pixel {STEPS} --lr inf", "--lr inf; expected a finite number"),
    Mistake(f"train pixel {STEPS} --lr 0", "--lr 0; expected more than 0"),
    Mistake(f"train pixel {STEPS} --seed 99999999999999999999", "--seed 99999999999999999999; expected less than"),
    Mistake(f"train pixel {STEPS} --seed -1", "--seed -1; expected 0 or more"),
    Mistake(f"train pixel {TINY} --steps 2.5", "--steps 2.5; expected a valid integer"),
    Mistake(f"train pixel {TINY} --minutes nan", "--minutes nan; expected a finite number"),
    Mistake(f"train pixel {STEPS} --accumulate 3", "batch_size=8 is not a multiple of accumulate=3"),
    Mistake(
        f"train latent {STEPS}",
        "--autoencoder FILE goes with `train latent`",
        "A denoiser in latent space works in the latents of an autoencoder, which is trained before it.",
        "Run `train autoencoder` first, and give its file; `compare` does all of it.",
    ),
    Mistake(
        "data --data empty",
        "holds no pictures",
        "Neither the folder nor its sub-folders hold a file whose name ends like a picture's.",
        "Check the folder; PNG, JPEG, WebP, BMP, GIF, TIFF and a few more are read.",
    ),
    Mistake(
        "data --data labels.npz",
        "labels go up to 1099511627776; expected less than 10000",
        "Labels number the classes from 0, and one of them is far too large; perhaps it marks a missing value.",
        "Write labels from 0 up into the .npz, or give the names of the classes as `classes`.",
    ),
    Mistake(
        f"train pixel {TINY}",
        "say when to stop",
        "A training has no end of its own.",
        "Give `--minutes`, `--images` or `--steps`; the first to be reached ends it.",
    ),
    Mistake("sample --checkpoint model.safetensors --guidance nan", "--guidance nan; expected a finite number"),
    Mistake("sample --checkpoint model.safetensors --eta -0.5 --method ddim", "--eta -0.5; expected 0 or more"),
    Mistake("compare --budget -1", "--budget -1; expected more than 0"),
    *(
        Mistake(f"train {what} {STEPS} {option}", f"{option.split()[0]} is not for `train {what.split()[0]}`, only for")
        for what, option in (
            ("pixel", "--kl 0.1"),
            ("latent --autoencoder autoencoder.safetensors", "--adversarial 0.1"),
            ("autoencoder", "--schedule linear"),
            ("autoencoder", "--prediction eps"),
            ("autoencoder", "--unconditional"),
            ("text2image --autoencoder autoencoder.safetensors", "--unconditional"),
            ("clip", "--flip"),
        )
    ),
    Mistake("train clip --data scenes --size 16 --limit 24 --batch-size 1 --steps 1", "batch_size=1; CLIP tells"),
    Mistake("sample --checkpoint model.safetensors --out s3://bucket/x.png", "s3://bucket/x.png is an address"),
    Mistake(f"train pixel {STEPS} --out $SCRATCH/x", "shell variable in it"),
    Mistake(f"train pixel {TINY} --epochs 3", "--epochs 3 (see ldm-course train --help)"),
    Mistake("data --data unsigned.npz", "unsigned.npz: labels go up to 9223372036854775813"),
    Mistake("reference --status --collect", "not allowed with"),
    Mistake(f"train pixel {STEPS} --name state --out new", "state is called as a run's state is"),
    Mistake(f"train latent {STEPS} --autoencoder state.safetensors", "state.safetensors is called as a run's state is"),
    Mistake(f"train pixel {STEPS} --name x --out broken-record", "broken-record/x.json is there and broken; delete it"),
    Mistake(f"train pixel {TINY} --lr -1e-3 --steps 1", "--lr -1e-3; expected more than 0"),
    Mistake(f"train pixel {STEPS} --out text.safetensors", "since text.safetensors is no folder; name another folder"),
    Mistake("sample --checkpoint model.safetensors --guidance 1e308", "--guidance 1e308; expected 1000 or less"),
    Mistake("sample --checkpoint model.safetensors --guidance 2 --label a --out way-s/samples/x.png", "is no folder"),
    Mistake("sample --checkpoint https://example.org/x.safetensors", "https://example.org/x.safetensors is an address"),
    Mistake("edit --checkpoint model.safetensors --strength 0.5 --picture https://example.org/x.png", "is an address"),
    Mistake("sample --checkpoint dots.safetensors", "meta.autoencoder='..'; expected something that matches"),
    Mistake("sample --checkpoint endless.safetensors", "meta.schedule.shift=1e+300; expected 1000000 or less"),
    Mistake("sample --checkpoint twice.safetensors", "classes=['a', 'a', 'b']; expected the names of 3"),
    Mistake("data --data text.safetensors", "'text.safetensors' is a file of another kind"),
    Mistake("data --data twice.npz", "twice.npz: classes are 'a', 'a'; expected a name for each, once"),
    Mistake("data --data bytes.npz", "bytes.npz: classes are |S1 of shape (2,); expected a list of names"),
    Mistake("data --data objects.npz", "save text by .astype(str)"),
    Mistake("gallery --out new", "no networks to draw with in"),
    Mistake("reference --status --out text.safetensors", "--out text.safetensors is no folder"),
    Mistake("reference --status --minutes 3", "--minutes is of training, and --status and --collect train nothing"),
    Mistake("train pixels --steps 1", "error: invalid choice: 'pixels' (choose from"),
    Mistake(
        "train latent --data scenes --size 10 --limit 24 --steps 1 --autoencoder autoencoder.safetensors",
        "with f=2 this U-Net needs multiples of 4",
    ),
    Mistake("train pixel --data scenes --size 8 --limit 3 --batch-size 8 --steps 1", "judged by 4: give as many"),
    Mistake("evaluate --checkpoint model.safetensors --limit 3", "--limit 3; pictures are judged by 4"),
    Mistake("evaluate --checkpoint model.safetensors --count 1", "--count 1; a distance between sets"),
    Mistake("evaluate --checkpoint moved.safetensors", "this network learnt from it: say where it is now by --data"),
    Mistake(f"train pixel {STEPS} --name x --out way-g", "way-g/samples/0000001.png cannot be written: something else"),
    Mistake("reference --status --publish", "not allowed with"),
    Mistake("sample --checkpoint model.safetensors --negative moon --guidance 1", "which does not look at it"),
    Mistake("cost --size 20", "--size 20; the networks of profile 'smoke' need a multiple of"),
    Mistake("data --data unlabelled.npz", "has names of classes and no labels"),
    Mistake("evaluate --checkpoint model.safetensors --data scenes --fid --inception text.safetensors", "Inception"),
    Mistake("claims --chapter 11", "--chapter 11; expected 10 or less"),
    Mistake("reference --stage first-stage", "did you mean first-stage-f4"),
    Mistake("reference --minutes 0", "--minutes 0; expected more than 0"),
    Mistake("reference --collect --profile smoke --out none", "nothing of profile smoke in none to publish"),
    Mistake("reference --collect --profile smoke --out torn", "cannot be read from scene-detector-64-smoke.json"),
    Mistake(
        "sample --checkpoint model.safetensors --steps 1001",
        "steps=1001; expected a whole number from 1 to 1000",
        "A sampler cannot make more steps than the schedule has noise levels.",
        "Ask for 1 to 1000 steps; 25 to 50 are usual.",
    ),
    Mistake(
        "sample --checkpoint model.safetensors --label 7",
        "no class '7'; expected 0 to 2",
        "The network was trained with other classes.",
        "Take one of those that the message lists, by name or number.",
    ),
    Mistake(
        "sample --checkpoint model.safetensors --prompt star",
        "trained without texts; leave the prompt out",
        "This network is told a class, or nothing. Only those of `train text2image` read.",
        "Ask by `--label`, or take a network that reads, such as the course's `text2image-64`.",
    ),
    Mistake(
        "sample --pretrained emoji-1024-pixel",
        "no pretrained checkpoint 'emoji-1024-pixel'; there are",
        "The course has no checkpoint of that name.",
        "Take one of those that the message lists; a file of your own is named by `--checkpoint`.",
    ),
    Mistake(
        "sample --checkpoint none.safetensors",
        "no such checkpoint",
        "There is no file of that name where the command runs.",
        "Check the folder and the spelling; `train` says at its end where it wrote the file.",
    ),
    Mistake(
        "data --data cats",
        "there is no data called 'cats'",
        "It is neither one of the course's data sets nor a folder or file that is there.",
        "Give the path of a folder of pictures or of an .npz file, or `emoji`, `scenes` or `cifar10`.",
    ),
    Mistake(
        "data --data scenes --size 2000",
        "--size 2000; expected 1024 or less",
        "The course draws and trains at 8 to 1024 pixels a side.",
        "Choose a side among these; 32 and 64 are what its networks are made for.",
    ),
    Mistake(
        "train pixel --data scenes --size 9 --limit 24 --steps 1",
        "take another size",
        "A U-Net halves the picture at each of its levels, so the side must be divisible as often.",
        "Choose a multiple of the number that the message names, a power of two at best.",
    ),
    # ------------------------------------------------------- letters l and m: files whose contents cannot be
    Mistake(
        "sample --checkpoint text.safetensors",
        "broken or no safetensors file",
        "The file is not what its name says, or a download or a copy ended early.",
        "Copy or download it again. A pickle (.pt, .ckpt) is never read, since it could run any code.",
    ),
    Mistake(
        "sample --checkpoint autoencoder.safetensors",
        "this is an autoencoder; expected a denoiser",
        "An autoencoder only translates between pictures and latents; it does not draw.",
        "Give the denoiser's file; its autoencoder is found beside it.",
    ),
    Mistake(
        "sample --checkpoint scale.safetensors", "conv_in.weight has a factor for each row, but is not stored in 8"
    ),
    Mistake("sample --checkpoint json.safetensors", "meta: Expecting value"),
    Mistake("data --data ~nobody-else/x", "~nobody-else/x: there is no user 'nobody-else' here"),
    Mistake("data --data html.npz", "html.npz cannot be read as an .npz of plain arrays: File is not a zip file"),
    Mistake("data --data negative.npz", "labels go down to -1; expected whole numbers from 0 up"),
    Mistake("sample --checkpoint kind.safetensors", "kind='gan'; expected 'unet'"),
    Mistake("sample --checkpoint list.safetensors", "config: []; expected an object"),
    Mistake("sample --checkpoint groups.safetensors", "config: norm_num_groups=0; expected more than 0"),
    Mistake("sample --checkpoint levels.safetensors", "config: block_out_channels=[]; Tuple should have at least 1"),
    Mistake("sample --checkpoint layers.safetensors", "config: layers_per_block=-1; expected more than 0"),
    Mistake("sample --checkpoint wide.safetensors", "config: block_out_channels.0=1099511627776; expected 1048576"),
    Mistake("sample --checkpoint huge.safetensors", "has the shape (16, 3, 3, 3); expected (1048576, 3, 3, 3)"),
    Mistake("sample --checkpoint newer.safetensors", "config: rope=True; no such entry is known here"),
    Mistake("sample --checkpoint deep.safetensors", "recursion limit exceeded"),
    Mistake("sample --checkpoint T.safetensors", "meta.schedule.T=1000000000000; expected 100000 or less"),
    Mistake("sample --checkpoint shift.safetensors", "meta.schedule.shift=-1; expected more than 0"),
    Mistake("sample --checkpoint size.safetensors", "meta.size='8'; expected a valid integer"),
    Mistake("sample --checkpoint two.safetensors", "classes=['a', 'b']; expected the names of 3"),
    Mistake("sample --checkpoint outside.safetensors", "meta.autoencoder='../x.safetensors'"),
    Mistake("sample --checkpoint missing.safetensors", "these weights lack conv_in.bias, unlike the UNet"),
    Mistake("sample --checkpoint surplus.safetensors", "these weights have lora.down and 1 more, unlike the UNet"),
    Mistake("sample --checkpoint shape.safetensors", "the weight conv_in.weight has the shape (16, 4, 3, 3); expected"),
    Mistake(
        f"train pixel {STEPS} --out other",
        "belongs to another run (it differs in",
        "The folder holds the state of a run with other settings, and a run goes on only from its own.",
        "Name another folder by `--out`, or another run by `--name`; or delete the state that the message names.",
    ),
    Mistake(f"train pixel {STEPS} --name x --out way-w", "way-w/x.safetensors cannot be written: something else is"),
    Mistake(f"train pixel {STEPS} --name x --out way-r", "way-r/x.json cannot be written: something else is there"),
    Mistake(f"train pixel {STEPS} --name x --out way-s", "way-s/samples cannot be written: something else is there"),
    Mistake(f"train pixel {STEPS} --name x --out new --publish", "x.safetensors cannot be written: something else"),
    Mistake(f"train pixel {STEPS} --out state", "progress.step=-3; expected 0 or more"),
    # ----------------------------------------------------------------------------- letter n: sizes that cannot be
    Mistake("cost --size 1000000", "--size 1000000; expected 16384 or less"),
    Mistake(
        "cost --size 16384",
        "are free; lower --size or --batch-size",
        "What a training step has to keep in memory grows with the picture's area; here it would be more than is free.",
        "Lower the setting that the message names.",
    ),
    Mistake("cost --batch-size 1000000000", "--batch-size 1000000000; expected 1048576 or less"),
    Mistake(
        "train pixel --data scenes --size 8 --limit 24 --batch-size 1000000 --steps 1",
        "pictures at once take",
        "The activations of the batch, estimated from those of one picture, need more memory than is free.",
        "Take the `--batch-size` that the message names, or divide the batch by `--accumulate`.",
    ),
    Mistake("sample --checkpoint model.safetensors --count 10000000000000", "--count 10000000000000; expected 1048576"),
    Mistake("sample --checkpoint model.safetensors --count 0", "--count 0; expected more than 0"),
    Mistake("data --data scenes --limit 1000000000000", "--limit 1000000000000; expected 1048576 or less"),
    Mistake("data --data scenes --limit 1000000 --size 1024", "take a smaller size, or limit"),
)
LIKELY = tuple(mistake for mistake in MISTAKES if mistake.cause)
