"""The command line: every command on tiny settings, every mistake one line on standard error and exit code 2."""

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image

from ldm_course import checkpoints
from ldm_course.checkpoints import load_denoiser, load_model, save_denoiser, save_model
from ldm_course.cli import cost as cost_command
from ldm_course.cli import data as data_command
from ldm_course.cli import main
from ldm_course.config import UNetConfig
from ldm_course.data.loaders import load_data
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.lab import runs
from ldm_course.lab.profiles import PROFILES
from ldm_course.lab.records import list_records, load_record, make_record, save_record
from ldm_course.lab.records import place as place_of
from ldm_course.lab.runs import DenoiserRun
from ldm_course.measure.timing import Rates
from ldm_course.networks import hub
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.clip import CLIP
from ldm_course.networks.unet import UNet
from ldm_course.spaces import PixelSpace
from ldm_course.training.trainer import Trainer

COMMANDS = ("compare", "train", "sample", "edit", "gallery", "evaluate", "cost", "data", "doctor")
TINY = ["--data", "scenes", "--size", "8", "--limit", "24", "--batch-size", "8"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Everything relative lands in an empty folder; the smoke profile; the course's own files in a folder apart."""
    monkeypatch.setenv("LDM_PROFILE", "smoke")
    monkeypatch.setattr(runs, "GRID", 4)
    monkeypatch.setattr(runs, "EVALUATED", 6)
    home = tmp_path / "home"
    (home / "records").mkdir(parents=True)
    monkeypatch.setenv("LDM_HOME", str(home))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def denoiser(path, size=8, num_classes=None, **meta):
    torch.manual_seed(1)
    network = UNetConfig(
        block_out_channels=(16,), attention=(False,), attention_head_dim=8, norm_num_groups=8, num_classes=num_classes
    )
    schedule = make_schedule("cosine")
    return save_denoiser(path, Denoiser(UNet(network), PixelSpace(size), schedule, "v"), **meta)


@pytest.fixture
def model(place):
    return str(denoiser(place / "m.safetensors", num_classes=3, classes=("circle", "square", "star"), data="scenes"))


def refused(capsys, *words):
    """The line that refuses this command; nothing else is said, and no file is written."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main.main(list(map(str, words))) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip() and "it/s" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    assert "wrote" not in out and "Traceback" not in err
    assert sorted(Path().rglob("*")) == before
    return lines[0].removeprefix("error: ")


# ---------------------------------------------------------------------------------------------- as typed


def test_help_lists_the_commands_and_a_mistake_in_a_process_is_one_line():
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "ldm_course.cli"]
    told = subprocess.run([*words, "--help"], capture_output=True, text=True, env=env)
    assert told.returncode == 0 and all(f"\n    {c} " in told.stdout for c in COMMANDS)
    wrong = subprocess.run([*words, "data", "--data", "nothing"], capture_output=True, text=True, env=env)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: there is no data called 'nothing'") and wrong.stderr.count("\n") == 1


def test_the_command_is_installed_under_its_name():
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="console_scripts", name="ldm-course")
    assert entry.load() is main.main


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as left:
        main.main([command, "--help"])
    assert left.value.code == 0 and f"ldm-course {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [[], ["paint"], ["train"], ["train", "vae"], ["sample"], ["sample", "--method", "euler"], ["cost", "--size", "x"]],
)
def test_what_argparse_refuses_has_code_2(words, capsys):
    assert main.main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and said[0].endswith("--help)")


def test_interrupted_is_130(monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(data_command, "load_data", interrupted)
    assert main.main(["data"]) == 130
    assert capsys.readouterr().err == "\nstopped\n"


def test_an_interrupted_training_says_what_is_kept_of_it(monkeypatch, capsys):
    real, steps = Trainer._step, []

    def step(self, total):
        steps.append(self.progress.step)
        if len(steps) % 4 == 0:
            raise KeyboardInterrupt
        return real(self, total)

    monkeypatch.setattr(Trainer, "_step", step)
    words = [*TRAIN, "--steps", "9", "--name", "x"]
    assert main.main([*words, "--save-every", "10"]) == 130
    assert capsys.readouterr().err.endswith("\nstopped; nothing had been saved\n")
    assert main.main([*words, "--save-every", "2"]) == 130
    kept = "stopped; the state of step 2 is kept in runs/x/state.safetensors, and the same command goes on from there\n"
    assert capsys.readouterr().err.endswith(kept) and steps == [0, 1, 2, 3, 0, 1, 2, 3]
    monkeypatch.setattr(Trainer, "_step", real)
    monkeypatch.setattr(DenoiserRun, "results", step_in_results)
    assert main.main(words) == 130
    assert "the state of step 9 is kept" in capsys.readouterr().err  # in the judging as well
    assert not list(Path("runs/x").glob("*.json")) and not Path("runs/x/x.safetensors").exists()


def step_in_results(self, count):
    raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------ train


def test_an_autoencoder_then_a_denoiser_in_its_latents_then_pictures_of_it(capsys):
    """The whole way: train, resume, train on top, sample, evaluate."""
    weights = ["--perceptual", "0", "--adversarial", "0.1"]
    assert main.main(["train", "autoencoder", *TINY, *weights, "--steps", "3", "--log-every", "1"]) == 0
    first = Path("runs/scenes-8-autoencoder")
    record = load_record("scenes-8-autoencoder", first)
    assert record["kind"] == "train" and record["results"]["steps"] == 3 and record["profile"] == "smoke"
    assert set(record["results"]["history"][0]) >= {"loss", "l1", "kl", "adversarial", "critic"}
    assert record["results"]["adversarial_weight"] == 0.1 and record["results"]["psnr"] > 0
    assert record["results"]["processes"] == 1
    autoencoder, meta = load_model(first / "scenes-8-autoencoder.safetensors")
    assert meta == {"record": "scenes-8-autoencoder", "data": "scenes"} and autoencoder.latent_scale != 1

    assert main.main(["train", "autoencoder", *TINY, *weights, "--steps", "5"]) == 0  # goes on
    assert load_record("scenes-8-autoencoder", first)["results"]["steps"] == 5
    assert [p.name for p in sorted((first / "samples").iterdir())] == ["0000003.png", "0000005.png"]

    file = str(first / "scenes-8-autoencoder.safetensors")
    small = ["train", "latent", *TINY, "--autoencoder", file, "--images", "12", "--sample-every", "1"]
    assert main.main([*small, "--name", "top", "--unconditional", "--prediction", "x0"]) == 0
    record = load_record("top", "runs/top")
    assert record["results"]["steps"] == 2 and record["results"]["images"] == 16
    assert record["results"]["encode_seconds"] > 0 and record["results"]["quality"]["n_generated"] == 6
    assert len(list(Path("runs/top/samples").iterdir())) == 2
    assert len(list(Path("runs/top").glob("latents-*.safetensors"))) == 1
    d = load_denoiser("runs/top/top.safetensors")
    assert d.space.shape == (4, 2, 2) and d.prediction == "x0" and d.model.config.num_classes is None

    made = ["--checkpoint", "runs/top/top.safetensors", "--count", "3", "--steps", "2"]
    capsys.readouterr()
    assert main.main(["sample", *made, "--out", "new/pictures.png"]) == 0
    assert "wrote new/pictures.png: 3 pictures in" in capsys.readouterr().out
    assert main.main(["evaluate", *made, "--limit", "12"]) == 0
    said = capsys.readouterr().out
    assert "ddim, 2 steps, against 12 pictures of scenes" in said and "FD-E (floor)" in said and "KD-E (floor)" in said


def test_a_denoiser_that_reads_is_trained_and_draws_what_a_prompt_says(capsys):
    data = ["--data", "scenes", "--size", "16", "--limit", "24", "--batch-size", "8"]
    first = ["--steps", "1", "--perceptual", "0", "--name", "a", "--out", "first"]
    assert main.main(["train", "autoencoder", *data, *first]) == 0
    words = ["--autoencoder", "first/a.safetensors", "--steps", "2", "--out", "t"]
    assert main.main(["train", "text2image", *data, *words]) == 0
    d = load_denoiser("t/scenes-16-text2image.safetensors")
    assert d.reads and d.space.name == "latent" and "star" in d.model.config.words
    record = load_record("scenes-16-text2image", "t")
    assert record["results"]["quality"]["n_generated"] == 6 and record["config"]["network"]["text"]["width"] == 32
    drawn = ["sample", "--checkpoint", "t/scenes-16-text2image.safetensors", "--count", "2", "--steps", "2"]
    capsys.readouterr()
    for name, words in {
        "star": ["--prompt", "a red star"],
        "unguided": ["--prompt", "a red star", "--guidance", "1"],
        "not": ["--prompt", "a red star", "--negative", "a blue star"],
        "empty": ["--prompt", ""],
        "none": [],
    }.items():
        assert main.main([*drawn, *words, "--out", f"{name}.png"]) == 0
    pictures = {name: Path(f"{name}.png").read_bytes() for name in ("star", "unguided", "not", "empty", "none")}
    assert len(set(pictures.values())) == 4 and pictures["empty"] == pictures["none"]
    assert "vocabulary" not in capsys.readouterr().out
    assert main.main([*drawn, "--prompt", "a mauve 🌟 " + "red " * 30, "--out", "odd.png"]) == 0
    out = capsys.readouterr().out
    assert "not in its vocabulary, so passed over: mauve, glowing" in out and "were left out" in out
    assert main.main(["evaluate", *drawn[1:], "--data", "scenes", "--limit", "8"]) == 0
    assert "FD-E" in capsys.readouterr().out


def test_a_clip_is_trained_and_shows_what_lies_nearest_to_captions(place):
    assert main.main(["train", "clip", "--data", "scenes", "--size", "16", "--limit", "40", "--steps", "2"]) == 0
    model, meta = load_model("runs/scenes-16-clip/scenes-16-clip.safetensors")
    assert isinstance(model, CLIP) and model.config.size == 16 and meta["data"] == "scenes"
    record = load_record("scenes-16-clip", "runs/scenes-16-clip")
    assert record["config"]["train"]["batch_size"] == PROFILES["smoke"].clip_batch_size == 16
    assert record["results"]["retrieval"]["text of a picture"]["at_5"]["n"] == 6
    with Image.open("runs/scenes-16-clip/samples/0000002.png") as picture:  # one caption, its own and seven pictures
        assert picture.size == (8 * 34 - 2, 32)


def test_the_gallery_draws_with_each_of_the_courses_own_networks(place, capsys):
    home = place.parent / "home"
    denoiser(home / "checkpoints" / "dots-8-pixel.safetensors")
    denoiser(home / "checkpoints" / "shapes-20-pixel.safetensors", 20, num_classes=3, record="shapes")
    record = make_record("shapes", "train", {"images": 1500, "seconds": 90.0}, command="x", seconds=100, device="cpu")
    save_record(record, home / "records")
    assert main.main(["gallery", "--count", "4", "--steps", "2"]) == 0
    assert "wrote runs/gallery/gallery.md" in capsys.readouterr().out
    text = Path("runs/gallery/gallery.md").read_text()
    how_long = {
        "dots-8-pixel": "not recorded",
        "shapes-20-pixel": f"1.5 k images, in 1 min 30 s, on {place_of(record)}",
    }
    for name, says in how_long.items():
        (row,) = (line for line in text.splitlines() if line.startswith(f"| {name} | pixel |"))
        assert row.split(" | ")[3] == says and f"]({name}.png)" in text
        with Image.open(f"runs/gallery/{name}.png") as picture:
            assert picture.width >= 4 * 96  # whatever its pixels are
    assert "DPM-Solver++ with 2 steps" in text
    assert refused(capsys, "gallery", "nobody").startswith("no pretrained checkpoint 'nobody'")


def test_a_pixel_denoiser_is_published_in_half_precision_under_its_name():
    words = ["train", "pixel", *TINY, "--steps", "2", "--publish", "--accumulate", "2", "--decay", "linear", "--flip"]
    assert main.main(words) == 0
    assert checkpoints.pretrained_names() == ["scenes-8-pixel"] == list_records()
    d = checkpoints.pretrained("scenes-8-pixel")
    assert d.meta["classes"] == list(load_data("scenes", 8, limit=1).classes)
    assert d.model.config.num_classes == len(d.meta["classes"])
    whole = load_denoiser("runs/scenes-8-pixel/scenes-8-pixel.safetensors").model.state_dict()
    assert all(torch.equal(v, whole[k].half().float()) for k, v in d.model.state_dict().items())
    assert main.main(["sample", "--pretrained", "scenes-8-pixel", "--count", "2", "--steps", "1", "--label", "1"]) == 0
    assert Path("samples.png").is_file()


def folder_of_pictures(count=44, size=32):
    folder = Path("My Pictures")
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(generator.integers(0, 255, (size, size, 3), np.uint8)).save(folder / f"{i:02}.png")
    return folder


def test_a_folder_of_pictures_trains_under_its_own_name():
    folder = folder_of_pictures(12, 8).resolve()
    words = ["train", "pixel", "--data", str(folder), "--size", "8", "--batch-size", "4", "--steps", "1"]
    assert main.main(words) == 0
    assert Path("runs/my-pictures-8-pixel/my-pictures-8-pixel.safetensors").is_file()
    assert not [p for p in folder.iterdir() if p.suffix != ".png"]


def test_compare_on_a_folder_of_pictures(capsys):
    folder = folder_of_pictures()
    assert main.main(["compare", "--data", str(folder.resolve()), "--budget", "0.2", "--out", "here"]) == 0
    said = capsys.readouterr().out
    assert "wrote here/: report.md" in said and "Quality at matched budgets" in said and "latent  DDIM" in said
    record = load_record("compare-my-pictures-32-smoke", "here")
    assert record["results"]["data"]["train"] >= 32 and Path("here/report.md").is_file()


# ----------------------------------------------------------------------------------------- the small ones


def test_sample_takes_classes_by_name_by_number_and_in_turn(model):
    d = load_denoiser(model)
    assert d.labels("square", 3).tolist() == [1, 1, 1] == d.labels("1", 3).tolist()
    words = ["sample", "--checkpoint", model, "--count", "2", "--steps", "2", "--label", "star", "--guidance", "2"]
    assert main.main(words) == 0 and Path("samples.png").is_file()


def test_evaluate_draws_classes_as_often_as_the_data_has_them(capsys, monkeypatch):
    classes = load_data("scenes", 8, limit=1).classes
    file = denoiser(Path("c.safetensors"), num_classes=len(classes), classes=classes, data="scenes")
    asked = []
    real = Denoiser.generate
    monkeypatch.setattr(Denoiser, "generate", lambda *a, **k: asked.append(k["label"]) or real(*a, **k))
    assert main.main(["evaluate", "--checkpoint", str(file), "--count", "36", "--limit", "18", "--steps", "1"]) == 0
    expected = torch.bincount(load_data("scenes", 8, limit=18).labels, minlength=len(classes))
    assert torch.equal(torch.bincount(asked[0], minlength=len(classes)), 2 * expected)


def test_too_few_pictures_to_judge_by_are_refused_before_any_is_drawn(capsys, monkeypatch):
    file = denoiser(Path("c.safetensors"), data="scenes")
    monkeypatch.setattr(Denoiser, "generate", lambda *a, **k: pytest.fail("drawn"))
    words = ["evaluate", "--checkpoint", file, "--limit"]
    assert "--limit 3; pictures are judged by 4" in refused(capsys, *words, 3)


def test_classes_are_matched_by_their_names(capsys, monkeypatch):
    """A network of an edition that sorted folders as text knows "10" as its second class; the data has it third."""
    for k, name in enumerate(("1", "2", "10", "20")):
        Path("digits", name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((8, 8, 3), 60 * k, np.uint8)).save(f"digits/{name}/{i}.png")
    file = denoiser(Path("c.safetensors"), num_classes=4, classes=("1", "10", "2", "20"), data="digits")
    asked = []
    monkeypatch.setattr(
        Denoiser, "generate", lambda d, n, **k: asked.append(k["label"]) or torch.zeros(n, 3, 8, 8).byte()
    )
    data = load_data("digits", 8)
    words = ["evaluate", "--checkpoint", str(file), "--count", str(len(data)), "--steps", "1"]
    assert main.main(words) == 0 and data.classes == ("1", "2", "10", "20")
    expected = torch.bincount(data.labels, minlength=4)[[0, 2, 1, 3]]
    assert torch.equal(torch.bincount(asked[0], minlength=4), expected) and expected.unique().numel() > 1
    d = load_denoiser(file)
    assert [d.labels(label, 1).item() for label in ("2", 2, "10", 1, "0")] == [2, 2, 1, 1, 0]
    Path("digits/20").rename("digits/30")
    assert main.main(words) == 2
    assert "digits has the class '30', which the model was not trained with: 1, 10, 2, 20" in capsys.readouterr().err


def test_edit_redraws_a_picture_and_fills_in_what_a_mask_shows(model, capsys, monkeypatch):
    """A picture that is wide, and a mask of it: the middle square of both is taken."""
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 10:30] = 200
    mask = np.zeros((20, 40), np.uint8)
    mask[:10, 10:30], mask[10:, :5] = 255, 255  # the upper half of the square, and something outside it
    Image.fromarray(picture).save("p.png")
    Image.fromarray(mask).save("m.png")
    asked = {}
    for name in ("redraw", "inpaint", "translate"):
        real = getattr(Denoiser, name)
        spy = lambda self, *a, real=real, name=name, **k: asked.update({name: (a, k)}) or real(self, *a, **k)  # noqa: E731
        monkeypatch.setattr(Denoiser, name, spy)
    words = ["edit", "--checkpoint", model, "--picture", "p.png", "--steps", "2", "--label", "star"]
    assert main.main([*words, "--strength", "0.5", "--guidance", "2", "--seed", "7", "--count", "3"]) == 0
    assert "wrote edited.png: 3 in" in capsys.readouterr().out
    (given, strength), options = asked["redraw"]
    assert given.shape == (3, 3, 8, 8) and (given[..., 2:6] == 200).all() and strength == 0.5
    assert (given > 150).all()  # its edge, resized, and not the black beside it
    assert options.items() >= {"label": "star", "guidance_scale": 2.0, "seed": 7, "method": "dpmpp", "steps": 2}.items()
    assert main.main([*words, "--mask", "m.png", "--out", "new/filled.png"]) == 0
    (given, found), options = asked["inpaint"]
    assert found.shape == (1, 1, 8, 8) and found[..., :4, :].all() and not found[..., 4:, :].any()
    assert (options["method"], options["resamplings"]) == ("ddpm", 4)
    assert main.main([*words, "--source", "circle", "--out", "other.png"]) == 0
    (given, source), options = asked["translate"]
    assert given.shape == (1, 3, 8, 8) and (source, options["label"], options["method"]) == ("circle", "star", "dpmpp")
    # beside what was given, and what of it was kept
    for file, count in (("edited.png", 4), ("new/filled.png", 6), ("other.png", 2)):
        with Image.open(file) as drawn:
            assert drawn.width // 80 == count


def test_a_pixel_that_is_masked_in_part_is_drawn_anew(model, monkeypatch):
    mask = np.zeros((80, 80), np.uint8)
    mask[33, 47] = 255
    Image.fromarray(mask).save("m.png")
    Image.fromarray(mask).save("p.png")
    asked = []
    real = Denoiser.inpaint
    monkeypatch.setattr(Denoiser, "inpaint", lambda self, p, m, **k: asked.append(m) or real(self, p, m, **k))
    words = ["edit", "--checkpoint", model, "--picture", "p.png", "--mask", "m.png", "--count", "1", "--steps", "1"]
    assert main.main(words) == 0
    assert asked[0].nonzero().tolist() == [[0, 0, 3, 4]]
    strokes = np.dstack([np.full((80, 80, 3), 255, np.uint8), mask])  # white on a canvas that is transparent elsewhere
    Image.fromarray(strokes).save("m.png")
    assert main.main(words) == 0
    assert torch.equal(asked[1], asked[0])


def test_cost_counts_both_spaces(capsys):
    assert main.main(["cost", "--size", "16"]) == 0
    pixel, latent = capsys.readouterr().out.splitlines()
    assert pixel.startswith("pixel  3 x 16 x 16: 0.29 M parameters") and latent.startswith("latent 4 x 4 x 4: ")
    assert all("GFLOP a step" in s and "ms a step" in s for s in (pixel, latent))


def test_cost_counts_the_published_systems(capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(cost_command, "machine_rates", lambda *a, **k: asked.append(a) or Rates(matmul=1e12, conv=2e12))
    assert main.main(["cost", "--system", "all"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].split("  ")[-1].strip() == "SD 3 medium" and "2 TFLOP/s" in text and len(asked) == 1
    assert main.main(["cost", "--system", "sd15", "--size", "256"]) == 0
    text = capsys.readouterr().out
    assert "256 x 256" in text and "4 x 32 x 32" in text and text.splitlines()[0].strip() == "SD 1.5"


def test_data_says_what_it_holds(capsys):
    assert main.main(["data", "--data", "scenes", "--size", "16", "--limit", "9", "--out", "new/d.png"]) == 0
    said = capsys.readouterr().out
    assert "scenes, train: 9 pictures of 16 x 16" in said and "source: " in said and "classes: " in said
    assert Path("new/d.png").is_file()


def test_doctor_checks_each_part_and_fails_for_the_needed_ones(capsys, tmp_path, monkeypatch):
    images = np.zeros((3, 32, 32, 3), np.uint8)
    stored = {f"{split}_{k}": v for split in ("train", "test") for k, v in (("images", images), ("labels", [0, 1, 1]))}
    np.savez(tmp_path / "cifar10.npz", classes=["a", "b"], source="s", **stored)
    monkeypatch.setenv("LDM_DATA", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split(maxsplit=1) for line in lines] == [
        *(["ok", name] for name in ("packages", "machine", "emoji", "features", "checkpoints", "cifar10")),
        ["no", "published autoencoder"],
    ]
    assert "profile smoke" in lines[1] and "none yet" in lines[4]
    assert lines[6].endswith(
        "is not in the Hugging Face cache; fetch it once with download=True, or give the path of a copy"
    )
    snapshot = tmp_path / "hub" / f"models--{hub.AUTOENCODER.replace('/', '--')}" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "diffusion_pytorch_model.safetensors").write_bytes(bytes(3 * 2**20))
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0")

    (tmp_path / "none").mkdir()
    monkeypatch.setenv("LDM_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("LDM_CACHE", str(tmp_path / "none"))
    assert main.main(["doctor"]) == 0
    *_, last, published = capsys.readouterr().out.splitlines()
    assert last.endswith("cifar10: not here yet; downloaded when asked for")
    assert published == f"ok    published autoencoder: {hub.AUTOENCODER}, 3 MiB"
    monkeypatch.setenv("LDM_DATA", str(tmp_path))
    (tmp_path / "cifar10.npz").write_bytes(b"torn")
    assert main.main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-2].startswith("no    cifar10: ")
    for variable, named, line, code in (
        ("LDM_DATA", "nowhere", "no    cifar10: LDM_DATA='nowhere' is not a folder", 0),
        ("LDM_DATA", __file__, "no    cifar10: LDM_DATA=", 0),
        ("LDM_DATA", "~nobody-else/data", "no    cifar10: ~nobody-else/data: there is no user 'nobody-else'", 0),
        ("LDM_HOME", "nowhere", "FAIL  checkpoints: LDM_HOME='nowhere' is not a folder", 1),
        ("LDM_HOME", __file__, "FAIL  checkpoints: LDM_HOME=", 1),
        ("LDM_PROFILE", "huge", "FAIL  machine: profile 'huge'", 1),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(variable, named)
            assert main.main(["doctor"]) == code
        assert line in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------- mistakes


TRAIN = ["train", "pixel", *TINY]
MISTAKES = {
    "no end": (TRAIN, "say when to stop"),
    "latent alone": (["train", "latent", *TINY, "--steps", 1], "--autoencoder FILE goes with"),
    "autoencoder for pixels": ([*TRAIN, "--steps", 1, "--autoencoder", "a"], "--autoencoder FILE goes with"),
    "autoencoder missing": (
        ["train", "latent", *TINY, "--steps", 1, "--autoencoder", "a.safetensors"],
        "a.safetensors: no such checkpoint",
    ),
    "unknown data": ([*TRAIN, "--data", "cats", "--steps", 1], "there is no data called 'cats'"),
    "size 0": ([*TRAIN, "--size", 0, "--steps", 1], "--size 0; expected 8 or more"),
    "size 9": ([*TRAIN, "--size", 9, "--steps", 1], "multiples of 2"),
    "size of an autoencoder": (["train", "autoencoder", *TINY, "--steps", 1, "--size", 34], "f=4"),
    "small for the perceptual loss": (["train", "autoencoder", *TINY, "--steps", 1], "perceptual"),
    "no steps": ([*TRAIN, "--steps", 0], "--steps 0; expected more than 0"),
    "no batch": ([*TRAIN, "--steps", 1, "--batch-size", 0], "--batch-size 0"),
    "no rate": ([*TRAIN, "--steps", 1, "--lr", -1], "--lr -1"),
    "no grids": ([*TRAIN, "--steps", 1, "--sample-every", 0], "--sample-every 0"),
    "no parts": ([*TRAIN, "--steps", 1, "--accumulate", 0], "--accumulate 0; expected more than 0"),
    "uneven parts": ([*TRAIN, "--steps", 1, "--accumulate", 3], "accumulate=3"),
    "texts in pixels": (["train", "text2image", "--data", "scenes", "--steps", 1], "--autoencoder FILE goes with"),
    "a CLIP in parts": (
        ["train", "clip", "--data", "scenes", "--size", 16, "--limit", 40, "--steps", 1, "--accumulate", 2],
        "accumulate=2; CLIP tells each pair from all of a batch",
    ),
    "a CLIP in latents": (["train", "clip", "--steps", 1, "--autoencoder", "a.safetensors"], "only with them"),
    "endless decay": ([*TRAIN, "--minutes", 1, "--decay", "cosine"], "give steps or images"),
    "a name that is none": ([*TRAIN, "--steps", 1, "--name", "My Run"], "record name 'My Run' is no file name"),
    "unknown profile": ([*TRAIN, "--steps", 1, "--profile", "tpu"], "profile 'tpu'"),
    "compare: data": (["compare", "--data", "cats"], "there is no data called 'cats'"),
    "compare: budget": (
        ["compare", "--data", "scenes", "--limit", 40, "--budget", 0],
        "--budget 0; expected more than 0",
    ),
    "compare: few": (["compare", "--data", "scenes", "--limit", 4], "scenes has 4 training"),
    "compare: size": (["compare", "--data", "scenes", "--size", 36], "multiple of 8"),
    "unknown name": (["sample", "--pretrained", "best"], "no pretrained checkpoint 'best'"),
    "missing file": (["sample", "--checkpoint", "none.safetensors"], "none.safetensors: no such checkpoint"),
    "cost: size": (["cost", "--size", 0], "--size 0; expected more than 0"),
    "cost: odd size": (["cost", "--size", 30], "30"),
    "cost: batch": (["cost", "--batch-size", -1], "--batch-size -1"),
    "cost: a system's size": (
        ["cost", "--system", "sd15", "--size", 40],
        "size=40; expected a positive multiple of 64",
    ),
    "cost: a system's batch": (["cost", "--system", "sdxl", "--batch-size", 2], "leave it out with --system"),
    "cost: a system's profile": (["cost", "--system", "sd3", "--profile", "cpu"], "leave it out with --system"),
    "data: none": (["data", "--count", 0], "--count 0"),
    "data: limit": (["data", "--data", "scenes", "--limit", 0], "--limit 0; expected more than 0"),
    "data: folder": (["data", "--data", ".", "--out", "../x.png"], "holds no pictures"),
    "data: out": (["data", "--data", "scenes", "--out", ".."], "--out .. is a folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, capsys):
    words, says = MISTAKES[mistake]
    assert says in refused(capsys, *words)


@pytest.mark.parametrize(
    "words, says",
    [
        (["sample", "--count", 0], "--count 0; expected more than 0"),
        (["sample", "--count", -2], "--count -2"),
        (["sample", "--prompt", "a star"], "trained without texts; leave the prompt out"),
        (["sample", "--negative", "a star"], "trained without texts; leave the prompt out"),
        (["sample", "--label", "moon"], "no class 'moon'; expected 0 to 2, or one of circle, square, star"),
        (["sample", "--label", "3"], "no class '3'"),
        (["sample", "--label", "-1"], "no class '-1'"),
        (["sample", "--steps", 1001], "steps=1001"),
        (["sample", "--steps", 0], "--steps 0; expected more than 0"),
        (["sample", "--eta", 2, "--method", "ddim"], "--eta 2; expected 1 or less"),
        (["sample", "--eta", 0.5], "only 'ddim' has an eta"),
        (["evaluate", "--count", 0], "--count 0"),
        (["evaluate", "--steps", 1001], "trained with 3 classes"),
        (["evaluate", "--data", "cats"], "there is no data called 'cats'"),
        (["evaluate", "--data", "scenes", "--size", 16], "--size 16; this model makes pictures of 8 a side"),
    ],
)
def test_a_mistake_with_a_model_is_one_line(words, says, model, capsys):
    assert says in refused(capsys, words[0], "--checkpoint", model, *words[1:])


@pytest.mark.parametrize(
    "words, says",
    [
        (["--strength", 0], "--strength 0; expected more than 0"),
        (["--strength", 1.5], "--strength 1.5; expected 1 or less"),
        (["--strength", 0.01], "from 1 to 10, the levels up to strength=0.01"),
        (["--strength", 0.5, "--steps", 0], "--steps 0; expected more than 0"),
        (["--strength", 0.5, "--count", 0], "--count 0; expected more than 0"),
        (["--strength", 0.5, "--label", "moon"], "no class 'moon'"),
        (["--strength", 0.5, "--prompt", "a moon"], "leave the prompt out"),
        (["--strength", 0.5, "--resamplings", 2], "--resamplings goes with --mask"),
        (["--source", "moon", "--label", "star"], "no class 'moon'"),
        (["--source", "star", "--label", "moon"], "no class 'moon'"),
        (["--source", "star", "--count", 2], "--count 2 with --source"),
        (["--source", "star", "--method", "ddpm"], "--method ddpm with --source"),
        (["--source", "star", "--resamplings", 2], "--resamplings goes with --mask"),
        (["--strength", 0.5, "--out", ".."], "--out .. is a folder"),
        (["--strength", 0.5, "--out", "text.png/x.png"], "text.png takes no files"),
        (["--strength", 0.5, "--picture", "text.png"], "text.png cannot be read as a picture"),
        (["--strength", 0.5, "--picture", "none.png"], "none.png cannot be read as a picture"),
        (["--mask", "text.png"], "text.png cannot be read as a picture"),
        (["--mask", "small.png"], "--mask small.png is 8 x 9 pixels; expected 8 x 8, as large as the picture"),
        (["--mask", "black.png"], "--mask black.png is black all over"),
        (["--mask", "white.png", "--resamplings", 0], "--resamplings 0"),
        (["--mask", "white.png", "--steps", 1001], "steps=1001"),
    ],
)
def test_a_mistake_in_editing_is_one_line_before_any_work(words, says, model, capsys, monkeypatch):
    Path("text.png").write_text("hello")
    for name, grey, size in (("p", 90, (8, 8)), ("black", 0, (8, 8)), ("white", 255, (8, 8)), ("small", 255, (8, 9))):
        Image.new("L", size, grey).save(f"{name}.png")
    monkeypatch.setattr(Denoiser, "generate", lambda *a, **k: pytest.fail("it began to draw"))
    given = [] if "--picture" in words else ["--picture", "p.png"]
    assert says in refused(capsys, "edit", "--checkpoint", model, *given, *words)


def test_one_edit_is_made_at_a_time(model):
    for words in ([], ["--strength", "0.5", "--mask", "m.png"], ["--strength", "0.5", "--source", "star"]):
        assert main.main(["edit", "--checkpoint", model, "--picture", "p.png", *words]) == 2


def test_a_model_without_classes_takes_no_label_and_one_without_data_asks_for_it(capsys):
    file = denoiser(Path("plain.safetensors"))
    assert "leave the label out" in refused(capsys, "sample", "--checkpoint", file, "--label", "1")
    assert "give --data" in refused(capsys, "evaluate", "--checkpoint", file)


def test_files_that_are_no_denoisers_are_one_line(capsys):
    Path("text.safetensors").write_text("hello")
    assert "text.safetensors: broken" in refused(capsys, "sample", "--checkpoint", "text.safetensors")
    torch.manual_seed(0)
    save_model("a.safetensors", Autoencoder(PROFILES["smoke"].autoencoder))
    assert "this is an autoencoder" in refused(capsys, "evaluate", "--checkpoint", "a.safetensors")
    file = denoiser(Path("u.safetensors"))
    words = ["train", "latent", *TINY, "--steps", "1", "--autoencoder"]
    assert "expected an autoencoder's checkpoint" in refused(capsys, *words, file)
    said = refused(capsys, *words, "a.safetensors", "--prediction", "eps")
    assert "prediction 'eps' with the cosine schedule" in said and "take prediction 'v'" in said


def test_a_folder_of_another_run_is_one_line(capsys):
    assert main.main([*TRAIN, "--steps", "1", "--out", "r"]) == 0
    assert "belongs to another run (it differs in data, seed)" in refused(
        capsys, *TRAIN, "--steps", "2", "--out", "r", "--seed", "1"
    )


def test_a_place_that_cannot_be_written_is_one_line(model, capsys):
    Path("file").write_text("")
    assert "file" in refused(capsys, "sample", "--checkpoint", model, "--steps", 1, "--count", 1, "--out", "file/x.png")


def test_a_training_that_diverges_ends_with_one_line_and_no_weights(capsys):
    words = ["train", "pixel", *TINY, "--steps", "60", "--lr", "1e30", "--save-every", "20", "--name", "x"]
    assert main.main(words) == 2
    err = capsys.readouterr().err
    assert "is NaN or infinite" in err or "the loss is" in err
    assert "so the run was stopped" in err and "Traceback" not in err
    assert not Path("runs/x/x.safetensors").exists()


def test_a_name_is_not_taken_from_a_model_of_another_kind(capsys):
    words = ["--steps", "1", "--name", "x", "--out", "runs/x", "--perceptual", "0"]
    assert main.main(["train", "autoencoder", *TINY, *words]) == 0
    before = Path("runs/x/x.safetensors").read_bytes()
    Path("runs/x/state.safetensors").unlink()
    assert main.main(["train", "pixel", *TINY, *words[:-2]]) == 2
    assert "x.safetensors holds an autoencoder of another configuration" in capsys.readouterr().err
    assert Path("runs/x/x.safetensors").read_bytes() == before
