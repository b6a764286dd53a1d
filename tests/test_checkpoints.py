"""Weights on disk: back as they were, whole or not at all, and one clear line for every file that is none."""

import errno
import io
import json
import pickle
import zipfile
from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from ldm_course import checkpoints, files
from ldm_course.checkpoints import load_denoiser, load_model, save_denoiser, save_model
from ldm_course.config import AutoencoderConfig, DetectorConfig, UNetConfig
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.detector import Detector
from ldm_course.networks.unet import UNet
from ldm_course.spaces import LatentSpace, PixelSpace

NETWORK = UNetConfig(
    block_out_channels=(16, 16), attention=(False, True), attention_head_dim=8, norm_num_groups=8, num_classes=2
)
FIRST_STAGE = AutoencoderConfig(block_out_channels=(16, 16), norm_num_groups=8)
SCHEDULE = make_schedule("cosine", 500, shift=2.0)


def unet(channels=3):
    torch.manual_seed(1)
    return UNet(NETWORK.for_channels(channels))


def autoencoder():
    torch.manual_seed(2)
    model = Autoencoder(FIRST_STAGE)
    model.latent_scale.fill_(0.123456789)
    return model


def detector():
    torch.manual_seed(3)
    return Detector(DetectorConfig(("a", "b"), ("c", "d", "e"), ("f",), ("g",), (8, 8, 16)))


def denoiser(path, **options):
    return save_denoiser(path, Denoiser(unet(), PixelSpace(8), SCHEDULE, "v"), **options)


@pytest.fixture
def latent(tmp_path):
    first = autoencoder()
    save_model(tmp_path / "first.safetensors", first)
    d = Denoiser(unet(4), LatentSpace(8, first), SCHEDULE, "v")
    return save_denoiser(tmp_path / "latent.safetensors", d, autoencoder="first.safetensors")


# ------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("build", [unet, autoencoder, detector])
def test_weights_and_configuration_come_back_as_they_were(build, tmp_path):
    model = build()
    path = save_model(tmp_path / "new" / "m.safetensors", model, note={"a": [1, 2]})
    back, meta = load_model(path)
    assert meta == {"note": {"a": [1, 2]}} and not back.training
    assert back.config == model.config and type(back) is type(model)
    ours, theirs = model.state_dict(), back.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("build", [unet, autoencoder, detector])
def test_half_precision_rounds_once_and_halves_the_file(build, tmp_path):
    model = build()
    whole = save_model(tmp_path / "whole.safetensors", model)
    half = save_model(tmp_path / "half.safetensors", model, half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    back = load_model(half)[0].state_dict()
    for key, value in model.state_dict().items():
        expected = value if key == "latent_scale" else value.half().float()
        assert back[key].dtype == torch.float32 and torch.equal(back[key], expected), key
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in load_model(whole)[0].state_dict().items())


def test_a_denoiser_brings_its_space_schedule_and_prediction(tmp_path):
    d = load_denoiser(denoiser(tmp_path / "pixel.safetensors", classes=("a", "b"), record="r"))
    assert d.space == PixelSpace(8) and d.prediction == "v"
    assert torch.equal(d.schedule.alpha_bar, SCHEDULE.alpha_bar)
    assert d.meta["classes"] == ["a", "b"] and d.meta["record"] == "r"


def test_a_latent_denoiser_finds_its_autoencoder_beside_it(latent, tmp_path):
    d = load_denoiser(latent)
    assert isinstance(d.space, LatentSpace) and d.space.shape == (4, 4, 4)
    mine = autoencoder().state_dict()
    assert all(torch.equal(v, mine[k]) for k, v in d.space.autoencoder.state_dict().items())
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("first", "latent"):
        (tmp_path / f"{name}.safetensors").rename(moved / f"{name}.safetensors")
    assert load_denoiser(moved / "latent.safetensors").space.shape == (4, 4, 4)


@pytest.mark.parametrize("betas", [{"beta_start": 1e-3, "beta_end": 0.05}, {"beta_end": 0.021}])
def test_a_schedule_with_its_own_betas_is_not_stored_as_another(betas, tmp_path):
    with pytest.raises(ValueError, match="its own betas"):
        own = make_schedule("linear", **betas)
        save_denoiser(tmp_path / "m.safetensors", Denoiser(unet(), PixelSpace(8), own, "v"))
    assert not list(tmp_path.iterdir())
    shifted = make_schedule("sqrt_linear", T=500, shift=0.5)
    save_denoiser(tmp_path / "m.safetensors", Denoiser(unet(), PixelSpace(8), shifted, "v"))
    assert torch.equal(load_denoiser(tmp_path / "m.safetensors").schedule.alpha_bar, shifted.alpha_bar)


def test_the_file_is_safetensors_with_its_configuration_in_plain_text(tmp_path):
    path = denoiser(tmp_path / "pixel.safetensors")
    with safe_open(path, "pt") as file:
        text = file.metadata()
    assert text["kind"] == "unet"
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text["config"]).items()}
    assert UNetConfig(**config) == NETWORK
    meta = json.loads(text["meta"])
    assert meta["schedule"] == {"name": "cosine", "T": 500, "shift": 2.0} and meta["autoencoder"] is None
    content = path.read_bytes()
    assert not zipfile.is_zipfile(path) and content[8:9] == b"{"
    with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError)):
        pickle.loads(content)


def test_a_pickle_is_not_opened(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    plain, zipped = tmp_path / "plain.safetensors", tmp_path / "zipped.safetensors"
    plain.write_bytes(pickle.dumps(Evil()))
    buffer = io.BytesIO()
    torch.save({"x": Evil()}, buffer)
    zipped.write_bytes(buffer.getvalue())
    for path in (plain, zipped):
        with pytest.raises(ValueError, match=r"safetensors|not a checkpoint"):
            load_model(path)
    assert not (tmp_path / "ran").exists()


# -------------------------------------------------------------------------------------------- refusals


def broken(path, kind):
    """A file that is wrong in one way."""
    good = save_model(path, unet()).read_bytes()
    with safe_open(path, "pt") as file:
        text, state = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}
    del text["checksum"]  # as in files of the first edition
    if kind == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404</html>")
    elif kind == "foreign":
        save_file({"x": torch.zeros(3)}, path)
    elif kind == "unknown kind":
        save_file(state, path, metadata=text | {"kind": "gan"})
    elif kind == "no meta":
        save_file(state, path, metadata={k: v for k, v in text.items() if k != "meta"})
    elif kind == "no json":
        save_file(state, path, metadata=text | {"config": "{"})
    elif kind == "unknown field":
        save_file(state, path, metadata=text | {"config": json.dumps({"depth": 4})})
    elif kind == "missing tensor":
        save_file({k: v for k, v in state.items() if k != "conv_in.weight"}, path, metadata=text)
    elif kind == "other shapes":
        save_file(state | {"conv_in.weight": torch.zeros(16, 4, 3, 3)}, path, metadata=text)
    return path


KINDS = ["truncated", "empty", "text", "foreign", "unknown kind", "no meta", "no json", "unknown field"]


@pytest.mark.parametrize("kind", [*KINDS, "missing tensor", "other shapes"])
def test_a_file_that_is_none_of_ours_is_one_clear_line(kind, tmp_path):
    path = broken(tmp_path / "m.safetensors", kind)
    for load in (load_model, load_denoiser):
        with pytest.raises(ValueError, match=r"m\.safetensors: (not a checkpoint of this course|broken)") as error:
            load(path)
        assert "\n" not in str(error.value)


def test_missing_files_and_folders_are_one_clear_line(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ValueError, match="no such checkpoint"):
            load_model(path)
    for name in ("emoji-32-latent", "emoji-32-autoencoder"):
        with pytest.raises(ValueError, match=f"the course's own of that name is .*/{name}.safetensors") as error:
            load_model(name)
        load_model(str(error.value).rpartition(" is ")[2])


def test_a_flipped_bit_in_what_the_course_ships_is_found(tmp_path):
    for path in (ROOT / "checkpoints").glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert "checksum" in file.metadata(), path
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    (tmp_path / path.name).write_bytes(content)
    with pytest.raises(ValueError, match="its checksum differs"):
        load_model(tmp_path / path.name)


def test_an_autoencoder_is_no_denoiser_nor_is_a_bare_unet(tmp_path):
    save_model(tmp_path / "a.safetensors", autoencoder())
    save_model(tmp_path / "d.safetensors", detector())
    save_model(tmp_path / "u.safetensors", unet())
    with pytest.raises(ValueError, match=r"a\.safetensors: this is an autoencoder; expected a denoiser"):
        load_denoiser(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"d\.safetensors: this is a detector; expected a denoiser"):
        load_denoiser(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match=r"u\.safetensors: this is a U-Net without its schedule"):
        load_denoiser(tmp_path / "u.safetensors")


def test_a_latent_denoiser_without_its_autoencoder_says_which_file_is_missing(latent, tmp_path):
    (tmp_path / "first.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"works with the autoencoder first\.safetensors, which does not lie beside it"
    ):
        load_denoiser(latent)
    for other, named in ((unet(), "a U-Net"), (detector(), "a detector")):
        save_model(tmp_path / "first.safetensors", other)
        with pytest.raises(ValueError, match=rf"first\.safetensors: expected the autoencoder .* this is {named}"):
            load_denoiser(latent)


def test_other_networks_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match="cannot save a Linear"):
        save_model(tmp_path / "x.safetensors", nn.Linear(1, 1))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_model(tmp_path / "m.safetensors", unet())
    before = path.read_bytes()

    def breaks(tensors, path, metadata):
        path.write_bytes(b"half of i")
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(files, "save_file", breaks)
    with pytest.raises(OSError, match=r"m\.safetensors cannot be written: No space left on device"):
        save_model(path, autoencoder())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# ----------------------------------------------------------------------------------- the course's own


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    folder = tmp_path / "checkpoints"
    denoiser(folder / "tiny-8-pixel.safetensors")
    save_model(folder / "tiny-8-autoencoder.safetensors", autoencoder())
    return tmp_path


def test_pretrained_by_name(home):
    assert checkpoints.pretrained_names() == ["tiny-8-pixel"]
    assert checkpoints.pretrained("tiny-8-pixel").space == PixelSpace(8)
    assert checkpoints.pretrained_path("tiny-8-autoencoder").is_file()
    with pytest.raises(ValueError, match=r"no pretrained checkpoint 'big'; there are: tiny-8-pixel$"):
        checkpoints.pretrained("big")
    with pytest.raises(
        ValueError, match=r"no pretrained checkpoint 'big'; there are: tiny-8-autoencoder, tiny-8-pixel$"
    ):
        checkpoints.pretrained_path("big")


def test_weights_of_a_stage_are_known_by_a_short_name_and_those_of_the_largest_machine_serve(home):
    folder = home / "checkpoints"
    for profile in ("cpu", "reference"):
        save_model(folder / f"first-stage-f4-{profile}.safetensors", autoencoder())
        denoiser(folder / f"denoiser-dots-8-pixel-{profile}.safetensors")
    assert checkpoints.pretrained_names() == ["dots-8-pixel", "tiny-8-pixel"]
    assert checkpoints.pretrained_path("first-stage-f4").name == "first-stage-f4-reference.safetensors"
    assert checkpoints.pretrained_path("dots-8-pixel").name == "denoiser-dots-8-pixel-reference.safetensors"


def test_what_is_a_denoiser_is_told_by_the_file_and_not_by_its_name(home):
    save_model(home / "checkpoints" / "first-stage.safetensors", autoencoder())
    save_model(home / "checkpoints" / "denoiser-of-none.safetensors", detector())
    (home / "checkpoints" / "broken.safetensors").write_bytes(b"no weights")
    assert checkpoints.pretrained_names() == ["tiny-8-pixel"]


def test_no_checkpoints_at_all_are_said_so(tmp_path, monkeypatch):
    monkeypatch.setenv("LDM_HOME", str(tmp_path))
    assert checkpoints.pretrained_names() == []
    with pytest.raises(ValueError, match=r"there are: none in .*checkpoints; point LDM_HOME to"):
        checkpoints.pretrained("x")


def test_a_loaded_network_computes_what_the_saved_one_did(tmp_path):
    model = unet().eval()
    back = load_denoiser(denoiser(tmp_path / "p.safetensors")).model
    x, t = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 400])
    with torch.no_grad():
        assert torch.equal(model(x, t), back(x, t))
    assert back.config == replace(NETWORK)


# ------------------------------------------------------------------------------------------- mistakes that cost hours


def test_weights_that_are_not_finite_are_neither_written_nor_loaded(tmp_path):
    model = unet()
    model.conv_in.bias.data[0] = 1e6  # finite, but not in half precision
    save_model(tmp_path / "whole.safetensors", model)
    with pytest.raises(ValueError, match="a weight is too large for half precision; leave half out"):
        save_model(tmp_path / "half.safetensors", model, half=True)
    model.conv_in.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="a weight is NaN or infinite"):
        save_model(tmp_path / "nan.safetensors", model)
    assert [p.name for p in tmp_path.iterdir()] == ["whole.safetensors"]
    with safe_open(tmp_path / "whole.safetensors", "pt") as file:
        text, state = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}
    state["conv_in.bias"][0] = float("inf")
    del text["checksum"]
    save_file(state, tmp_path / "whole.safetensors", metadata=text)
    with pytest.raises(ValueError, match=r"whole\.safetensors: .*a weight is NaN or infinite"):
        load_model(tmp_path / "whole.safetensors")


def test_a_latent_denoiser_refuses_another_autoencoder(latent, tmp_path):
    assert load_denoiser(latent).meta["autoencoder_fingerprint"] == checkpoints.fingerprint(autoencoder())
    save_model(tmp_path / "first.safetensors", autoencoder(), half=True)  # its own copy in half precision
    load_denoiser(latent)
    other = autoencoder()
    other.decoder.conv_out.bias.data[0] += 0.1
    save_model(tmp_path / "first.safetensors", other)
    with pytest.raises(ValueError, match=r"was trained with another autoencoder than .*first"):
        load_denoiser(latent)


def test_a_latent_denoiser_is_not_stored_without_the_name_of_its_autoencoder(tmp_path):
    d = Denoiser(unet(4), LatentSpace(8, autoencoder()), SCHEDULE, "v")
    with pytest.raises(ValueError, match="give autoencoder"):
        save_denoiser(tmp_path / "m.safetensors", d)


def test_what_is_of_another_kind_or_size_is_not_replaced(tmp_path):
    path = save_model(tmp_path / "m.safetensors", unet())
    checkpoints.check_may_replace(path, unet(), "emoji")
    checkpoints.check_may_replace(tmp_path / "new.safetensors", autoencoder(), "emoji")
    for other in (autoencoder(), unet(4), detector()):
        with pytest.raises(ValueError, match="holds a U-Net of another configuration"):
            checkpoints.check_may_replace(path, other, "emoji")
    save_model(path, unet(), data="/a/folder/cats")
    checkpoints.check_may_replace(path, unet(), "cats")
    with pytest.raises(ValueError, match="holds a U-Net that learnt from cats; choose another name"):
        checkpoints.check_may_replace(path, unet(), "dogs")
    path = save_model(tmp_path / "d.safetensors", detector())
    with pytest.raises(ValueError, match="holds a detector of another configuration"):
        checkpoints.check_may_replace(path, unet(), "emoji")


# ------------------------------------------------------------------------------------------ eight bits


def test_eight_bits_are_off_by_half_a_unit_of_the_row_at_most(tmp_path):
    model = unet()
    with torch.no_grad():
        model.conv_in.weight[3] *= 100  # a row of another size has a factor of its own
        model.conv_in.weight[4] = 0
    path = save_model(tmp_path / "u.safetensors", model, eight_bit=True)
    again, _ = load_model(path)
    for (name, ours), theirs in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        rows, off = ours.flatten(1) if ours.ndim > 1 else ours[:, None], (ours - theirs).abs()
        unit = rows.abs().amax(1) / 127
        allowed = (0.51 * unit).view(-1, *[1] * (ours.ndim - 1)) + 1e-7 if ours.ndim > 1 else ours.abs() * 2**-11 + 1e-7
        assert (off <= allowed).all(), name
    half = save_model(tmp_path / "h.safetensors", model, half=True)
    with safe_open(path, "pt") as file:
        assert file.get_tensor("conv_in.weight").dtype == torch.int8
    assert path.stat().st_size < 0.75 * half.stat().st_size  # small as it is; near a half where it is large


def test_weights_in_eight_bits_that_are_not_finite_are_refused(tmp_path):
    model = unet()
    with torch.no_grad():
        model.conv_in.weight[0, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        save_model(tmp_path / "u.safetensors", model, eight_bit=True)


@pytest.mark.parametrize(
    "name, meta, says",
    [
        ("latent", {"autoencoder": None}, r"pixel samples: .*\(1, 3, 8, 8\); expected float \(1, 4, H, W\)"),
        ("latent", {"size": 6}, r"latent samples: .*\(1, 4, 3, 3\).* multiples of 2"),
        ("latent", {"size": 7}, "LatentSpace: pictures of 7 a side have no latents with f=2"),
        ("pixel", {"size": 31}, r"pixel samples: .* multiples of 2"),
        ("pixel", {"autoencoder": "first.safetensors"}, r"latent samples: .*expected float \(1, 3, H, W\)"),
    ],
)
def test_parts_that_do_not_fit_are_found_on_loading_and_the_file_is_named(name, meta, says, latent, tmp_path):
    path = {"latent": latent, "pixel": denoiser(tmp_path / "pixel.safetensors")}[name]
    model, told = load_model(path)
    told.pop("autoencoder_fingerprint", None)
    save_model(path, model, **{**told, **meta})
    with pytest.raises(ValueError, match=f"{path.name}: {says}") as error:
        load_denoiser(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_an_autoencoder_without_a_scale_is_refused(scale, tmp_path):
    model = autoencoder()
    model.latent_scale.fill_(scale)
    with pytest.raises(ValueError, match=rf"m.safetensors: not a checkpoint .*latent_scale={scale}; expected more"):
        load_model(save_model(tmp_path / "m.safetensors", model))
