"""What a clip costs: the formula and the counter agree, and time's compression is counted (chapter 9)."""

import pytest
import torch

from ldm_course.config import UNetConfig
from ldm_course.measure.clip_cost import ClipCounts, savings, temporal_flops, video_unet_flops
from ldm_course.measure.complexity import count_flops, unet_flops
from ldm_course.networks.video import TemporalAttention, VideoUNet, VideoUNetConfig

CONFIGS = [
    UNetConfig(),
    UNetConfig(block_out_channels=(16, 32), attention=(True, True), attention_head_dim=16, layers_per_block=2),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("clips", [1, 2])
def test_the_formula_is_what_is_counted(config, clips):
    with torch.device("meta"):
        model = VideoUNet(VideoUNetConfig(config, 4))
        x, t = torch.zeros(clips, 4, 3, 16, 16), torch.zeros(clips, dtype=torch.long)
    assert count_flops(model, x, t) == video_unet_flops(model.config, 16, clips)
    both = count_flops(lambda: model(x, t).sum().backward())
    assert both == video_unet_flops(model.config, 16, clips, backward=True)


def test_time_is_linear_in_places_and_quadratic_in_frames():
    with torch.device("meta"):
        layer, x = TemporalAttention(32, 2, 4, 8), torch.zeros(8, 32, 6, 6)
    assert count_flops(layer, x) == temporal_flops(32, 36, 8)
    one, more = temporal_flops(32, 36, 8), temporal_flops(32, 36, 16)
    assert more.attention == 4 * one.attention and more.linear == 2 * one.linear
    config = VideoUNetConfig(UNetConfig(), 8)
    beside = video_unet_flops(config, 32).total / unet_flops(UNetConfig(), 32, 8).total
    assert 1.1 < beside < 1.3  # what time costs beside space


def test_values_positions_and_pairs():
    here = ClipCounts(8, 4, 16, 16)
    assert (here.values, here.positions) == (8192, 2048)
    assert here.pairs_apart == 8 * 65_536 + 256 * 64 and here.pairs_together == 2048**2
    assert [here.in_time(4, alone).frames for alone in (True, False)] == [3, 2]
    usual = ClipCounts(17, 4, 32, 32)
    assert usual.in_time(4).frames == 5 and usual.in_time(1) == usual
    found = savings(usual, usual.in_time(4))
    assert found["values"] == found["positions"] == 3.4 and found["pairs_together"] == 11.56
    with pytest.raises(ValueError, match="f=0"):
        usual.in_time(0)


@pytest.mark.parametrize("counts", [(0, 4, 8, 8), (8, -1, 8, 8), (8, 4, 8.5, 8)])
def test_a_clip_has_at_least_one_of_each(counts):
    with pytest.raises(ValueError, match="ClipCounts: "):
        ClipCounts(*counts)
