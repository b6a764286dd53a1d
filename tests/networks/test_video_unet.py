"""The network of clips: at first the image network, frame by frame; then frames that read each other (chapter 9)."""

import math

import pytest
import torch
from diffusers.models.attention_processor import Attention as TheirAttention

from ldm_course.config import UNetConfig
from ldm_course.networks.unet import UNet
from ldm_course.networks.video import TemporalAttention, VideoUNet, VideoUNetConfig
from ldm_course.training.recipes import seeded

CONFIG = UNetConfig(block_out_channels=(16, 32), attention=(False, True), attention_head_dim=8, norm_num_groups=4)


def clip(b=2, f=4, channels=3, size=8):
    return torch.randn(b, f, channels, size, size, generator=torch.Generator().manual_seed(1))


def loud(model, seed=0):
    """Weights far from zero, so that no part is silent."""
    chance = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=chance) * 0.2
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"num_classes": 3}, {"layers_per_block": 2}, {"cross_attention_dim": 8}])
def test_it_begins_as_the_image_network_on_each_frame(options):
    config = UNetConfig(**(vars(CONFIG) | options))
    image = seeded(5, UNet, config).eval()
    condition = {"num_classes": torch.tensor([2, 0]), "cross_attention_dim": torch.randn(2, 5, 8)}
    told = next((condition[name] for name in options if name in condition), None)
    x, t = clip(), torch.tensor([10, 900])
    for made in (VideoUNet(VideoUNetConfig(config, 4), image), seeded(5, VideoUNet, VideoUNetConfig(config, 4))):
        with torch.no_grad():
            found = made.eval()(x, t, told)
            for k in range(4):
                alone = image(x[:, k], t, told)
                assert (found[:, k] - alone).abs().max() < 1e-5
    own = dict(image.named_parameters())
    for p in VideoUNet(VideoUNetConfig(config, 4), image).parameters():
        assert p.requires_grad and not any(p is q for q in own.values())  # a copy, and trained on


def test_attention_over_time_is_at_every_layer_and_space_stays_where_it_was():
    made = VideoUNet(VideoUNetConfig(CONFIG, 4))
    times = [m for m in made.modules() if isinstance(m, TemporalAttention)]
    assert len(times) == 2 * 1 + 2 * 2 + 1 and {len(m.to_q.weight) for m in times} == {16, 32}
    spaces = [b.attentions[0].space is not None for b in (*made.unet.down_blocks, *made.unet.up_blocks)]
    assert spaces == [False, True, True, False]


def test_frames_read_each_other_and_clips_do_not():
    made = loud(VideoUNet(VideoUNetConfig(CONFIG, 4)))
    x, t = clip(), torch.tensor([10, 900])
    changed = x.clone()
    changed[0, 3] += 1
    with torch.no_grad():
        before, after = made(x, t), made(changed, t)
    assert ((before[0] - after[0]).abs().amax((1, 2, 3)) > 1e-4).all()
    assert (before[1] - after[1]).abs().max() < 1e-5


def test_the_order_of_frames_is_known_by_their_positions_alone():
    layer, turn = loud(TemporalAttention(16, 2, 4, 4)), [2, 0, 3, 1]
    x = clip(channels=16)

    def apply(x):
        with torch.no_grad():
            return layer(x.flatten(0, 1)).unflatten(0, (2, 4))

    assert (apply(x[:, turn]) - apply(x)[:, turn]).abs().max() > 1e-3
    layer.positions.zero_()
    assert (apply(x[:, turn]) - apply(x)[:, turn]).abs().max() < 1e-5


def test_it_is_diffusers_attention_over_the_frames_of_each_position():
    """Each position by itself, as a sequence of frames, with diffusers' own attention, and the sinusoids by hand."""
    layer, heads, width, frames = loud(TemporalAttention(16, 2, 4, 4)), 2, 16, 4
    theirs = TheirAttention(width, heads=heads, dim_head=width // heads, bias=True).eval()
    ours = {name.replace("to_out.", "to_out.0."): value for name, value in layer.state_dict().items()}
    theirs.load_state_dict({name: value for name, value in ours.items() if name.startswith("to_")})
    positions = torch.tensor(
        [
            [math.cos(k * 1e4 ** (-i / 8)) for i in range(8)] + [math.sin(k * 1e4 ** (-i / 8)) for i in range(8)]
            for k in range(frames)
        ]
    )
    x = clip(b=2, f=frames, channels=width, size=3)
    with torch.no_grad():
        found = layer(x.flatten(0, 1)).unflatten(0, (2, frames))
        for b in range(2):
            groups = x[b].unflatten(1, (4, 4))  # (F, groups, C / groups, H, W): the norm is over a group's frames
            mean, var = groups.mean((0, 2, 3, 4), keepdim=True), groups.var((0, 2, 3, 4), keepdim=True, correction=0)
            normed = ((groups - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
            normed = normed * layer.group_norm.weight.view(-1, 1, 1) + layer.group_norm.bias.view(-1, 1, 1)
            for i in range(3):
                for j in range(3):
                    sequence = normed[:, :, i, j] + positions
                    expected = x[b, :, :, i, j] + theirs(sequence[None])[0]
                    assert (found[b, :, :, i, j] - expected).abs().max() < 1e-5


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"frames=1"):
        VideoUNetConfig(CONFIG, 1)
    with pytest.raises(ValueError, match=r"level of 20 channels"):
        VideoUNetConfig(UNetConfig(block_out_channels=(20, 32), attention=(False, True), norm_num_groups=4))
    made = VideoUNet(VideoUNetConfig(CONFIG, 4))
    for x in (clip(f=3), clip()[:, 0]):
        with pytest.raises(ValueError, match=r"expected \(B, 4, C, H, W\)"):
            made(x, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="another configuration"):
        VideoUNet(VideoUNetConfig(CONFIG, 4), UNet(CONFIG.for_channels(4)))
