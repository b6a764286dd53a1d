"""Published weights as they lie: folders, files, the hub's cache, written by diffusers' and transformers' own code."""

import json
import subprocess
import sys

import huggingface_hub.constants
import pytest
import torch
from conftest import ROOT
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from ldm_course.networks import foreign, hub, interop
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.training.recipes import seeded

WEIGHTS = "diffusion_pytorch_model.safetensors"


def an_autoencoder(**options) -> AutoencoderKL:
    sizes = {"block_out_channels": (16, 32), "norm_num_groups": 4, "scaling_factor": 0.25}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return seeded(0, lambda: AutoencoderKL(**{**sizes, **blocks, **options})).eval()


def picture(size: int = 16) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def edited(folder, **entries):
    path = folder / "config.json"
    config = {k: v for k, v in {**json.loads(path.read_text()), **entries}.items() if v is not ...}
    path.write_text(json.dumps(config))


@pytest.fixture
def vae(tmp_path):
    """A pipeline's folder with its autoencoder, and that as diffusers has it."""
    theirs = an_autoencoder()
    theirs.save_pretrained(tmp_path / "system" / "vae")
    return tmp_path / "system" / "vae", theirs


@torch.no_grad()
def test_an_autoencoder_from_a_folder_a_file_and_a_systems_folder(vae):
    folder, theirs = vae
    expected = theirs.encode(picture()).latent_dist.mean
    for place in (folder, str(folder), folder.parent, folder / WEIGHTS):
        ours = hub.published_autoencoder(place)
        assert torch.allclose(ours.to_latents(picture()), 0.25 * expected, atol=1e-6)
        assert torch.allclose(ours.from_latents(0.25 * expected), theirs.decode(expected).sample, atol=1e-5)
    assert hub.published_autoencoder(folder, latent_scale=2).latent_scale == 2


@torch.no_grad()
def test_half_precision_is_read_as_float32_and_gives_way_to_full(vae):
    folder, theirs = vae
    full = load_file(folder / WEIGHTS)
    for dtype in (torch.float16, torch.bfloat16):
        save_file({k: v.to(dtype) for k, v in full.items()}, folder / "diffusion_pytorch_model.fp16.safetensors")
        assert torch.equal(hub.published_autoencoder(folder).quant_conv.weight, theirs.quant_conv.weight)
        (folder / WEIGHTS).unlink()
        ours = hub.published_autoencoder(folder)
        assert ours.quant_conv.weight.dtype == torch.float32
        assert torch.equal(ours.quant_conv.weight, theirs.quant_conv.weight.to(dtype).float())
        assert ours.latent_scale == 0.25
        save_file(full, folder / WEIGHTS)


@torch.no_grad()
def test_the_oldest_folders_have_few_entries_and_other_names(vae):
    folder, theirs = vae
    left = {k: ... for k in theirs.config if k not in ("block_out_channels", "down_block_types", "up_block_types")}
    edited(folder, **{**left, "norm_num_groups": 4, "_diffusers_version": "0.4.2"})
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for key, value in load_file(folder / WEIGHTS).items():
        for new, name in names.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        old[key] = value
    assert sum("proj_attn" in key for key in old) == 4
    save_file(old, folder / WEIGHTS)
    ours = hub.published_autoencoder(folder)
    assert ours.latent_scale == pytest.approx(0.18215)  # what diffusers takes where nothing is said
    assert torch.allclose(ours.encode(picture()).z_mean, theirs.encode(picture()).latent_dist.mean, atol=1e-6)


@torch.no_grad()
def test_one_file_alone_is_stable_diffusions_shape_and_needs_the_scale(tmp_path, monkeypatch, vae):
    path = tmp_path / "vae-ft-mse.safetensors"
    small = interop.autoencoder_from_diffusers(vae[1])
    monkeypatch.setattr(foreign, "STABLE_DIFFUSION_AUTOENCODER", small.config)  # which is 335 MB
    save_file({f"first_stage_model.{k}": v for k, v in vae[1].state_dict().items()}, path)
    with pytest.raises(ValueError, match=r"vae-ft-mse\.safetensors has no config\.json .* latent_scale"):
        hub.published_autoencoder(path)
    with pytest.raises(ValueError, match="these weights lack"):  # a prefix that only the other repository's names have
        hub.published_autoencoder(path, latent_scale=0.18215)
    save_file(dict(vae[1].state_dict()), path)
    ours = hub.published_autoencoder(path, latent_scale=0.18215)
    assert torch.equal(ours.encode(picture()).z_mean, small.encode(picture()).z_mean)
    with pytest.raises(ValueError, match=r"no config\.json"):
        hub.published_unet(path)


def test_what_cannot_be_read_is_refused_in_one_line(vae, tmp_path):
    folder, _ = vae

    def refused(says, place=folder, read=hub.published_autoencoder):
        with pytest.raises(ValueError, match=says) as found:
            read(place)
        assert "\n" not in str(found.value)

    edited(folder, shift_factor=0.0609)
    refused("shift_factor=0.0609; ours has only None")
    edited(folder, shift_factor=None, block_out_channels=[16, 64])
    refused(r"the weight \S+ has the shape")
    edited(folder, block_out_channels=[16, 32])
    refused("is a configuration of AutoencoderKL; expected one of UNet2DModel", read=hub.published_unet)
    refused("AutoencoderKL|entry that ours does not know", read=hub.published_text_encoder)
    bad = load_file(folder / WEIGHTS)
    bad["quant_conv.bias"][0] = torch.inf
    save_file(bad, folder / WEIGHTS)
    refused("NaN or infinite")
    (folder / WEIGHTS).write_bytes(b"torn")
    refused("broken or no safetensors file")
    (folder / WEIGHTS).unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    refused("has no diffusion_pytorch_model.safetensors .* other formats are not read")
    refused("a pickle could run any code", place=folder / "diffusion_pytorch_model.bin")
    (folder / "config.json").write_text("{")
    refused(r"config\.json cannot be read")
    (folder / "config.json").unlink()
    refused("has no config.json, nor has its folder vae", place=folder.parent)
    refused("no such file or folder", place=tmp_path / "nowhere")


# --------------------------------------------------------------------------------------------------- other parts


def a_unet() -> UNet2DConditionModel:
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    sizes = {"block_out_channels": (32, 64), "norm_num_groups": 8, "cross_attention_dim": 24, "attention_head_dim": 4}
    return seeded(1, lambda: UNet2DConditionModel(**blocks, **sizes)).eval()


@torch.no_grad()
@pytest.mark.parametrize("shard", ["10GB", "400KB"])
def test_a_unet_in_one_file_and_in_several(tmp_path, shard):
    theirs, folder = a_unet(), tmp_path / "unet"
    theirs.save_pretrained(folder, max_shard_size=shard)
    files = hub.weight_files(folder)
    assert (len(files) > 2) == (shard == "400KB")
    ours = hub.published_unet(tmp_path)
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 24)
    t = torch.tensor([3, 700])
    assert torch.allclose(ours(x, t, context), theirs(x, t, encoder_hidden_states=context).sample, atol=1e-5)
    files[-1].unlink()
    with pytest.raises(ValueError, match=r"lacks diffusion\S+, which its index names|has no diffusion_pytorch_model"):
        hub.published_unet(tmp_path)


@torch.no_grad()
def test_a_text_tower_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.CLIPTextConfig(vocab_size=60, max_position_embeddings=12, projection_dim=20, **sizes)
    tokens = torch.randint(60, (2, 12), generator=torch.Generator().manual_seed(0))
    for name in ("CLIPTextModel", "CLIPTextModelWithProjection"):
        theirs = seeded(2, getattr(transformers, name), config).eval()
        theirs.save_pretrained(tmp_path / name / "text_encoder")
        ours = hub.published_text_encoder(tmp_path / name)
        assert torch.allclose(ours(tokens), theirs(input_ids=tokens).last_hidden_state, atol=1e-5)
    edited(tmp_path / name / "text_encoder", layer_norm_eps=1e-6)
    with pytest.raises(ValueError, match="layer_norm_eps=1e-06"):
        hub.published_text_encoder(tmp_path / name)


def test_texts_become_tokens_by_the_published_tokenizer(tmp_path):
    pytest.importorskip("transformers")
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    words = [
        "a",
        "r",
        "e",
        "d",
        "a</w>",
        "r</w>",
        "e</w>",
        "d</w>",
        "re",
        "red</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    number = words.index
    start, end = number("<|startoftext|>"), number("<|endoftext|>")
    tokens = hub.published_tokenizer(tmp_path, length=6)(["a red", "red " * 9])
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [
        [start, number("a</w>"), number("red</w>"), end, end, end],
        [start, *[number("red</w>")] * 4, end],
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no vocab\.json"):
        hub.published_tokenizer(tmp_path / "empty")


# ------------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache, empty, and no way to the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def cached(cache, name: str):
    """The folder of a repository's only snapshot, as the hub's client lays it."""
    repository, commit = cache / f"models--{name.replace('/', '--')}", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    return repository / "snapshots" / commit


def test_a_name_is_looked_up_in_the_hubs_cache(cache):
    theirs = an_autoencoder()
    theirs.save_pretrained(cached(cache, hub.AUTOENCODER))
    theirs.save_pretrained(cached(cache, "some/system") / "vae")
    for name in ((), ("some/system",)):
        ours = hub.published_autoencoder(*name)
        assert torch.equal(ours.quant_conv.weight, theirs.quant_conv.weight)


def test_a_name_that_is_not_in_the_cache_is_said_in_one_line(cache):
    for options, says in (
        ({}, "is not in the Hugging Face cache; fetch it once with download=True, or give the path"),
        ({"download": True}, "could not be downloaded"),
    ):
        with pytest.raises(ValueError, match=f"{hub.AUTOENCODER} {says}") as found:
            hub.published_autoencoder(**options)
        assert "\n" not in str(found.value)


def test_neither_diffusers_nor_transformers_is_needed(vae):
    code = (
        "import sys; from ldm_course.networks import hub; "
        f"hub.published_autoencoder({str(vae[0])!r}); "
        "print(sorted({'diffusers', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert printed.strip() == "[]"


@torch.no_grad()
def test_a_photograph_of_512_pixels_becomes_a_latent_of_64():
    with torch.device("meta"):
        model = Autoencoder(foreign.STABLE_DIFFUSION_AUTOENCODER)
        latent = model.to_latents(torch.empty(1, 3, 512, 512))
        assert latent.shape == (1, 4, 64, 64) and model.from_latents(latent).shape == (1, 3, 512, 512)
