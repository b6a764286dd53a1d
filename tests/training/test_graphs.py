"""A recorded training step is the step that would have been run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldm_course.config import AutoencoderConfig, TrainConfig, UNetConfig
from ldm_course.data.latents import Latents
from ldm_course.data.pictures import Crops, Pictures
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.training.graphs import WARM_STEPS, StepGraph
from ldm_course.training.recipes import autoencoder_trainer, denoiser_trainer
from ldm_course.training.trainer import Trainer

UNET = UNetConfig(block_out_channels=(32, 32), attention=(False, True), norm_num_groups=4, num_classes=3)
NETWORK = AutoencoderConfig(block_out_channels=(16, 32, 32), norm_num_groups=4, mid_attention=False)


def pictures(size: int = 32) -> Pictures:
    rng = torch.Generator().manual_seed(size)
    images = torch.randint(256, (64, 3, size, size), dtype=torch.uint8, generator=rng)
    return Pictures(images, torch.randint(3, (64,), generator=rng), ("a", "b", "c"), name="noise")


def latents() -> Latents:
    rng = torch.Generator().manual_seed(1)
    mean, std = torch.randn(64, 4, 8, 8, generator=rng), torch.rand(64, 4, 8, 8, generator=rng)
    return Latents(mean, std, torch.randint(3, (64,), generator=rng), "noise", "train", 0.0)


def trained(kind: str, graph: bool) -> Trainer:
    config = TrainConfig(batch_size=8, steps=4 * WARM_STEPS, cuda_graph=graph, precision="no", decay="cosine")
    if kind == "crops":
        trainer = autoencoder_trainer(Crops((pictures(32), pictures(64))), NETWORK, config, log_every=1)
    else:
        data = pictures() if kind == "pixels" else latents()
        trainer = denoiser_trainer(data, UNET, config, make_schedule("cosine"), "v", log_every=1)
    trainer.run()
    return trainer


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.ema.module.parameters()])


@pytest.mark.parametrize("kind", ("pixels", "latents", "crops"))
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replayed_steps_are_the_steps_that_would_have_been_run(kind):
    eager, graph = (trained(kind, on) for on in (False, True))
    assert StepGraph.suits(graph) and graph._graph is not None and eager._graph is None
    assert eager.ema.n_averaged == graph.ema.n_averaged
    for a, b in zip(eager.progress.history, graph.progress.history, strict=True):
        assert {k: a[k] for k in ("step", "images")} == {k: b[k] for k in ("step", "images")}
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-3)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=2e-2)
    torch.testing.assert_close(weights(graph), weights(eager), rtol=1e-3, atol=1e-4)
    assert (weights(trained(kind, True)) - weights(graph)).abs().max() < 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_state_saved_by_a_recorded_run_goes_on(tmp_path):
    config = TrainConfig(batch_size=8, steps=20, cuda_graph=True, precision="no")
    whole = denoiser_trainer(latents(), UNET, config, make_schedule("cosine"), "v")
    whole.run()
    for _ in range(2):
        parts = denoiser_trainer(latents(), UNET, config, make_schedule("cosine"), "v", out=tmp_path)
        parts.run(until=parts.progress.step + 10)
    assert parts.progress.step == 20
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-3, atol=1e-4)


def test_without_a_gpu_nothing_is_recorded():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    trainer = trained("latents", True)
    assert not StepGraph.suits(trainer) and trainer._graph is None
