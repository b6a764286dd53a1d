"""A training run as a whole: which classes are drawn, what they are judged against, what is stored and beside what."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm_course.checkpoints import load_model, save_model
from ldm_course.cli import main
from ldm_course.config import AutoencoderConfig, TrainConfig, UNetConfig
from ldm_course.data.pictures import Pictures
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.lab import runs
from ldm_course.lab.records import load_record
from ldm_course.measure import distances
from ldm_course.networks.autoencoder import Autoencoder

TINY = ["--data", "scenes", "--size", "8", "--limit", "24", "--batch-size", "8", "--steps", "1"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_PROFILE", "smoke")
    monkeypatch.setattr(runs, "GRID", 4)
    monkeypatch.setattr(runs, "EVALUATED", 6)
    (tmp_path / "home" / "records").mkdir(parents=True)
    (tmp_path / "home" / "checkpoints").mkdir()
    monkeypatch.setenv("LDM_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def autoencoder(seed, path="ae.safetensors", **meta):
    torch.manual_seed(seed)
    config = AutoencoderConfig(block_out_channels=(8, 8, 8), norm_num_groups=4)
    return save_model(path, Autoencoder(config), **meta)


def weights(path):
    return load_model(path)[0].state_dict()["decoder.conv_out.weight"]


def latent(*words, file="ae.safetensors"):
    return main.main(["train", "latent", *TINY, "--autoencoder", file, "--name", "top", *words])


def test_classes_are_drawn_as_often_as_the_data_have_them(monkeypatch):
    """Data sets come sorted by class; the first pictures' classes would be one class, or two."""
    labels = torch.arange(200) // 150  # 150 of one class, then 50 of the other
    pictures = Pictures(torch.zeros(200, 3, 8, 8, dtype=torch.uint8), labels, ("a", "b"), name="p")
    network = UNetConfig(
        block_out_channels=(16,), attention=(False,), attention_head_dim=8, norm_num_groups=8, num_classes=2
    )
    asked = []
    monkeypatch.setattr(Denoiser, "generate", lambda *args, label, **options: asked.append(label))
    run = runs.DenoiserRun(pictures, network, TrainConfig(batch_size=4, steps=1), make_schedule("cosine"), "v")
    run.made(100, "ddim", 1)
    run.made(400, "ddim", 1)  # more than there are: each twice
    assert 0.1 < asked[0].float().mean() < 0.4
    assert asked[1].bincount().tolist() == [300, 100]


def test_what_was_trained_is_on_the_disk_before_it_is_judged(monkeypatch, capsys):
    def fails(*args, **options):
        raise ValueError("no judgement today")

    monkeypatch.setattr(distances, "evaluate", fails)
    assert main.main(["train", "pixel", *TINY, "--name", "kept"]) == 2
    said = capsys.readouterr().err
    assert "runs/kept/kept.safetensors is written, but could not be judged: no judgement today" in said
    assert load_model("runs/kept/kept.safetensors")[1]["data"] == "scenes"
    assert load_record("kept", "runs/kept")["results"]["not_judged"] == "no judgement today"


def test_an_autoencoder_of_few_pictures_is_kept_without_a_distance():
    folder = Path("few")
    folder.mkdir()
    for i in range(10):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(folder / f"{i}.png")
    words = ["--data", "few", "--size", "8", "--batch-size", "4", "--steps", "1", "--perceptual", "0"]
    assert main.main(["train", "autoencoder", *words, "--name", "few"]) == 0
    results = load_record("few", "runs/few")["results"]
    assert results["reconstruction"] is None and results["psnr"] > 0


def test_a_latent_run_belongs_to_its_autoencoder(capsys):
    autoencoder(1)
    assert latent() == 0
    first = weights("runs/top/ae.safetensors")
    autoencoder(2)  # another one under the same name
    assert latent() == 2
    assert "is not the autoencoder that lies at runs/top/ae.safetensors, where it would go" in capsys.readouterr().err
    for name in ("state", "ae"):
        Path(f"runs/top/{name}.safetensors").unlink()
    assert latent() == 0
    assert torch.equal(weights("runs/top/ae.safetensors"), weights("ae.safetensors"))
    assert not torch.equal(weights("runs/top/ae.safetensors"), first)


def test_another_autoencoder_is_not_published_over_the_one_that_is(tmp_path, capsys):
    autoencoder(1)
    assert latent("--publish") == 0
    published = tmp_path / "home" / "checkpoints" / "ae.safetensors"
    assert torch.equal(weights(published), weights("ae.safetensors").half().float())
    assert latent("--publish") == 0  # its own rounded copy is not another
    autoencoder(2)
    before = published.read_bytes()
    assert latent("--publish", "--out", "runs/new") == 2
    assert "is not the autoencoder that lies at" in capsys.readouterr().err
    assert published.read_bytes() == before and not Path("runs/new").exists()


def test_latents_are_not_mirrored(capsys):
    autoencoder(1)
    assert latent("--flip") == 2
    assert "a mirrored latent is not the latent of the mirrored picture" in capsys.readouterr().err


def test_a_published_model_names_no_folder(tmp_path):
    folder = tmp_path / "home of bob" / "cats"
    folder.mkdir(parents=True)
    for i in range(12):
        Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(folder / f"{i}.png")
    words = ["--data", str(folder), "--size", "8", "--batch-size", "4", "--steps", "1"]
    assert main.main(["train", "pixel", *words, "--name", "cats", "--publish"]) == 0
    stored = (tmp_path / "home" / "checkpoints" / "cats.safetensors").read_bytes()
    assert b"bob" not in stored and b"cats" in stored
