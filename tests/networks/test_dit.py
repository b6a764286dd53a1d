"""The DiT: parity with diffusers, FLOPs by formula, and its places beside the U-Net (chapter 9)."""

import dataclasses

import pytest
import torch
from diffusers import DiTTransformer2DModel
from test_interop import inputs, random_weights, relative_gap

from ldm_course import checkpoints
from ldm_course.config import DiTConfig, TrainConfig
from ldm_course.data.pictures import Pictures
from ldm_course.denoiser import Denoiser
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.measure.complexity import count_flops, count_parameters, dit_flops
from ldm_course.networks import interop
from ldm_course.networks.dit import DiT, positions
from ldm_course.spaces import PixelSpace
from ldm_course.training.recipes import denoiser_of, denoiser_trainer

TOLERANCE = 1e-5
CONFIGS = {
    "latents": DiTConfig(in_channels=4, out_channels=4, patch_size=2, width=48, layers=3, heads=4, num_classes=10),
    "pixels, large patches": DiTConfig(patch_size=8, width=32, layers=2, heads=2, num_classes=3),
    "a variance too": DiTConfig(
        in_channels=4, out_channels=8, patch_size=1, width=24, layers=1, heads=3, num_classes=7
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_parity_with_diffusers_both_ways(name):
    config = CONFIGS[name]
    ours = random_weights(DiT(config), 0)
    theirs = interop.dit_to_diffusers(ours, 16)
    x, t, label = inputs(config.in_channels, config.num_classes)
    label = label.clamp(max=config.num_classes)
    expected = theirs(x, t, class_labels=label).sample
    assert expected.std() > 0.1 and expected.shape == (5, config.out_channels, 16, 16)
    assert relative_gap(ours(x, t, label), expected) < TOLERANCE
    back = interop.dit_from_diffusers(theirs)
    assert back.config == config and relative_gap(back(x, t, label), expected) < TOLERANCE


@torch.no_grad()
def test_what_diffusers_begins_with_loads_where_its_blocks_agree():
    theirs = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8)
    with pytest.raises(ValueError, match="embeddings of time and class differ"):
        interop.dit_from_diffusers(theirs)
    first, second = (block.norm1.emb for block in theirs.transformer_blocks)
    second.load_state_dict(first.state_dict())
    ours = interop.dit_from_diffusers(theirs.eval())
    x, t, _ = inputs(4, None, size=8)
    label = torch.tensor([0, 3, 9, 1000, 5])
    assert relative_gap(ours(x, t, label), theirs(x, t, class_labels=label).sample) < TOLERANCE


def test_what_the_other_side_has_not_is_refused():
    with pytest.raises(ValueError, match="this DiT has none; build it with num_classes"):
        interop.dit_to_diffusers(DiT(DiTConfig(width=16, layers=1, heads=2)), 8)
    theirs = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=1, activation_fn="geglu")
    with pytest.raises(ValueError, match="activation_fn='geglu'"):
        interop.dit_from_diffusers(theirs)
    theirs = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=1)
    theirs.register_to_config(rotary=True)  # as a later version may have it
    with pytest.raises(ValueError, match="rotary=True, an entry that ours does not know"):
        interop.dit_from_diffusers(theirs)


@torch.no_grad()
def test_it_begins_by_saying_nothing_and_each_block_as_the_identity():
    model = DiT(DiTConfig(width=32, layers=2, heads=2, num_classes=4))
    assert model(torch.randn(2, 3, 8, 8), torch.tensor([3, 900]), torch.tensor([1, 4])).abs().max() == 0
    tokens, said = torch.randn(2, 16, 32), torch.randn(2, 32)
    assert torch.equal(model.transformer_blocks[0](tokens, said), tokens)


@torch.no_grad()
def test_no_label_is_the_last_class_and_a_label_makes_a_difference():
    model = random_weights(DiT(CONFIGS["latents"]), 1)
    x, t, _ = inputs(4, 10)
    nothing = torch.full((5,), 10)
    assert torch.equal(model(x, t), model(x, t, nothing))
    assert (model(x, t) - model(x, t, torch.zeros_like(nothing))).abs().max() > 1e-2


def test_positions_tell_columns_in_the_first_half_and_rows_in_the_second():
    found = positions(2, 3, 8).view(2, 3, 8)
    for row in range(2):
        for column in range(3):
            at = [torch.tensor([float(n), n / 100]) for n in (column, row)]  # at rates 1 and 10_000 ** -1/2
            wanted = torch.cat([half for n in at for half in (n.sin(), n.cos())])
            assert (found[row, column] - wanted).abs().max() < 1e-6


@torch.no_grad()
def test_patches_come_out_where_they_went_in_also_of_pictures_that_are_no_squares():
    """With blocks that are the identity and weights that copy, a token is its patch, and the picture comes back."""
    config = DiTConfig(patch_size=2, width=12, layers=1, heads=1)
    model = DiT(config)
    model.pos_embed["proj"].weight.copy_(torch.eye(12).view(12, 3, 2, 2))
    model.proj_out_2.weight.copy_(
        torch.eye(12).view(3, 4, 12).transpose(0, 1).reshape(12, 12)
    )  # (p p, c) from (c, p p)
    x = torch.randn(1, 3, 4, 6)
    tokens = x.view(1, 3, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(6, 12) + positions(2, 3, 12)
    wanted = torch.nn.functional.layer_norm(tokens, (12,), eps=1e-6)
    wanted = wanted.view(1, 2, 3, 3, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 3, 4, 6)
    assert (model(x, torch.tensor([5])) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_by_formula_are_those_counted(name):
    config, t = CONFIGS[name], torch.tensor([1, 2, 3])
    model, x = DiT(config), torch.randn(3, config.in_channels, 16, 16)
    with torch.no_grad():
        assert count_flops(model, x, t) == dit_flops(config, 16, batch=3)
    assert count_flops(lambda: model(x, t).sum().backward()) == dit_flops(config, 16, batch=3, backward=True)


def test_the_published_ones_flops_and_parameters():
    """DiT-XL/2 at 32 x 32 x 4, as the paper has it: 118.6 "Gflops", which are multiply-adds, 675 million parameters."""
    config = DiTConfig(4, 8, patch_size=2, width=1152, layers=28, heads=16, num_classes=1000)
    assert dit_flops(config, 32).macs / 1e9 == pytest.approx(118.64, rel=1e-3)
    with torch.device("meta"):
        assert count_parameters(DiT(config)) / 1e6 == pytest.approx(675, rel=2e-3)


def test_inputs_that_do_not_fit_are_refused_in_one_line():
    model, t = DiT(DiTConfig(patch_size=4, width=16, layers=1, heads=2)), torch.tensor([0])
    with pytest.raises(ValueError, match=r"expected float \(B, 3, H, W\) with H and W multiples of 4"):
        model(torch.randn(1, 3, 8, 6), t)
    with pytest.raises(ValueError, match="DiT without classes"):
        model(torch.randn(1, 3, 8, 8), t, torch.tensor([0]))
    with pytest.raises(ValueError, match="multiple of 4 and of heads=3"):
        DiTConfig(width=32, heads=3)
    with pytest.raises(ValueError, match="the DiT was given size=6; expected a positive multiple of 4"):
        dit_flops(DiTConfig(patch_size=4), 6)


# ------------------------------------------------------------------------------------- beside the U-Net


def data(size=8):
    images = torch.randint(256, (8, 3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Pictures(images, torch.arange(8) % 3, ("a", "b", "c"), name="p")


NETWORK = DiTConfig(in_channels=1, width=16, layers=1, heads=2, num_classes=3)


def test_it_is_trained_and_draws_and_is_stored_like_a_u_net(tmp_path):
    config = TrainConfig(steps=3, batch_size=4)
    trainer = denoiser_trainer(data(), NETWORK, config, make_schedule("flow", shift=2.0), "u", out=tmp_path / "run")
    trainer.run()
    d = denoiser_of(trainer, PixelSpace(8))
    assert isinstance(d.model, DiT) and d.model.config.in_channels == 3  # from the data
    assert (d.num_classes, d.reads) == (3, False)
    path = checkpoints.save_denoiser(tmp_path / "dit.safetensors", d)
    back = checkpoints.load_denoiser(path)
    assert back.model.config == d.model.config and back.prediction == "u" and back.schedule.shift == 2.0
    options = dict(steps=3, label=1, guidance_scale=2.0, seed=4)
    assert torch.equal(back.generate(2, **options), d.generate(2, **options))
    again = denoiser_trainer(data(), NETWORK, config, make_schedule("flow", shift=2.0), "u", out=tmp_path / "run")
    assert again.progress.step == 3  # a stopped run goes on


def test_a_dit_is_told_from_a_u_net_by_its_file(tmp_path):
    model = DiT(NETWORK)
    path = checkpoints.save_model(tmp_path / "dit.safetensors", model, half=True)
    assert isinstance(checkpoints.load_model(path)[0], DiT)
    checkpoints.check_may_replace(path, model, "emoji")
    with pytest.raises(ValueError, match="a DiT of another configuration"):
        checkpoints.check_may_replace(path, DiT(dataclasses.replace(NETWORK, layers=2)), "emoji")


def test_patches_that_do_not_divide_the_data_are_refused():
    with pytest.raises(ValueError, match="pictures of 8 a side; this DiT needs multiples of 3"):
        network = dataclasses.replace(NETWORK, patch_size=3)
        denoiser_trainer(data(), network, TrainConfig(steps=1), make_schedule("flow"), "u")


def test_labels_are_those_of_the_network():
    d = Denoiser(
        DiT(NETWORK.for_channels(3)).eval(), PixelSpace(8), make_schedule("flow"), "u", {"classes": ["a", "b", "c"]}
    )
    with pytest.raises(ValueError, match="no class 'd'"):
        d.generate(1, label="d", steps=1)
