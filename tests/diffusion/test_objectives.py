"""The losses against hand computations, and who gets which gradient."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ldm_course.config import AutoencoderConfig
from ldm_course.data.latents import Latents
from ldm_course.data.pictures import Crops, Pictures
from ldm_course.diffusion.objectives import BatchRandom, DenoisingObjective, Objective, draw, mean_loss
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.networks.autoencoder import Autoencoder
from ldm_course.networks.features import perceptual_distance
from ldm_course.training.reconstruction import AutoencoderObjective, PatchCritic

SCHEDULE = make_schedule("cosine")
INDICES = torch.tensor([4, 0, 7, 2, 2, 9])


def pictures(count=10, size=8, labels=True):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return Pictures(images, torch.arange(count) % 3 if labels else None, ("a", "b", "c") if labels else None, name="p")


def rng(step=0, batch=6, rows=slice(None)):
    return BatchRandom(0, step, batch, rows, "cpu")


class Recorder(nn.Module):
    """Says 0.25 everywhere, and keeps what it was asked."""

    def forward(self, x, t, label=None):
        self.asked = (x, t, label)
        return torch.full_like(x, 0.25)


# ------------------------------------------------------------------------------------------ randomness


def test_rows_of_a_divided_batch_are_those_of_the_whole():
    whole = rng(step=3)
    expected = whole.normal(2, 4), whole.uniform(), whole.integers(1000)
    parts = [rng(step=3, rows=slice(i, i + 2)) for i in (0, 2, 4)]
    found = [(r.normal(2, 4), r.uniform(), r.integers(1000)) for r in parts]
    for whole_draw, draws in zip(expected, zip(*found)):
        assert torch.equal(whole_draw, torch.cat(draws))
    assert not torch.equal(rng(step=4).normal(2, 4), expected[0])


def test_random_numbers_have_the_distributions_they_say():
    r = rng(batch=20_000)
    normal, uniform, integers = r.normal(2), r.uniform(), r.integers(7)
    assert abs(normal.mean()) < 0.03 and abs(normal.std() - 1) < 0.03
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.01
    assert integers.unique().tolist() == list(range(7))
    assert torch.bincount(integers).min() > 0.9 * 20_000 / 7


def test_half_of_the_pictures_are_mirrored():
    data = pictures(400)
    x = draw(data, torch.arange(400), rng(batch=400), flip=True)
    plain = data.batch(torch.arange(400))
    same = (x == plain).flatten(1).all(1)
    mirrored = (x == plain.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all() and 160 < int(mirrored.sum()) < 240
    assert torch.equal(draw(data, torch.arange(400), rng(batch=400), flip=False), plain)


# ------------------------------------------------------------------------------------------- denoising


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_denoising_loss_by_hand(prediction):
    data, model = pictures(labels=False), Recorder()
    loss = DenoisingObjective(data, SCHEDULE, prediction)(model, INDICES, rng())
    assert set(loss) == {"loss"}
    again = rng()
    x0 = data.images[INDICES].double() / 127.5 - 1
    eps, t = again.normal(3, 8, 8).double(), again.integers(1000)
    a, s = SCHEDULE.alpha_bar[t].sqrt()[:, None, None, None], (1 - SCHEDULE.alpha_bar[t]).sqrt()[:, None, None, None]
    xt, asked_t, label = model.asked
    assert label is None and torch.equal(asked_t, t)
    assert (xt - (a * x0 + s * eps)).abs().max() < 1e-5
    wanted = {"eps": eps, "x0": x0, "v": a * eps - s * x0}[prediction]
    assert loss["loss"].item() == pytest.approx(((0.25 - wanted) ** 2).mean().item(), rel=1e-5)


def test_times_cover_the_whole_schedule():
    model = Recorder()
    DenoisingObjective(pictures(), make_schedule("cosine", 5), "eps")(model, torch.arange(500) % 10, rng(batch=500))
    assert torch.bincount(model.asked[1], minlength=5).min() > 60 and model.asked[1].max() == 4


def test_the_mean_loss_is_the_same_at_every_call_and_weighs_pictures_alike():
    objective = DenoisingObjective(pictures(count=70), SCHEDULE, "eps")
    model = Recorder()
    model.weight = nn.Parameter(torch.zeros(1))
    assert mean_loss(model, objective, 70) == mean_loss(model, objective, 70)
    parts = []
    for i, part in enumerate(torch.arange(70).split(64)):  # 64, and 6
        loss = objective(model, part, BatchRandom(7, i, len(part), slice(0, len(part)), "cpu"))["loss"]
        parts.append(loss.item() * len(part))
    assert mean_loss(model, objective, 70) == pytest.approx(sum(parts) / 70, rel=1e-6)
    with pytest.raises(ValueError, match="count=71; expected 1 to 70"):
        mean_loss(model, objective, 71)


def test_labels_are_dropped_at_their_rate_and_only_those():
    data, model = pictures(), Recorder()
    indices = torch.arange(20_000) % 10
    DenoisingObjective(data, SCHEDULE, "eps", num_classes=3, dropout=0.15)(model, indices, rng(batch=20_000))
    label = model.asked[2]
    dropped = label == 3
    assert abs(dropped.float().mean() - 0.15) < 0.01
    assert torch.equal(label[~dropped], data.labels[indices][~dropped])
    for share, expected in ((0.0, data.labels[INDICES]), (1.0, torch.full((6,), 3))):
        DenoisingObjective(data, SCHEDULE, "eps", num_classes=3, dropout=share)(model, INDICES, rng())
        assert torch.equal(model.asked[2], expected)


def test_dropping_labels_changes_neither_noise_nor_times():
    """So that conditional and unconditional runs of one seed stay comparable."""
    a, b = Recorder(), Recorder()
    DenoisingObjective(pictures(), SCHEDULE, "eps")(a, INDICES, rng())
    DenoisingObjective(pictures(), SCHEDULE, "eps", num_classes=3)(b, INDICES, rng())
    assert torch.equal(a.asked[0], b.asked[0]) and torch.equal(a.asked[1], b.asked[1])


def test_texts_are_told_row_by_row_and_some_are_forgotten_as_a_whole():
    tokens = torch.arange(10)[:, None] * 10 + torch.arange(4)
    model, indices = Recorder(), torch.arange(20_000) % 10
    options = {"tokens": tokens, "no_tokens": torch.tensor([7, 7, 7, 7])}
    DenoisingObjective(pictures(), SCHEDULE, "eps", dropout=0.15, **options)(model, indices, rng(batch=20_000))
    told = model.asked[2]
    forgotten = (told == 7).all(1)
    assert abs(forgotten.float().mean() - 0.15) < 0.01
    assert torch.equal(told[~forgotten], tokens[indices][~forgotten])
    with pytest.raises(ValueError, match="9 texts for 10 pictures"):
        DenoisingObjective(pictures(), SCHEDULE, "eps", tokens=tokens[:9], no_tokens=tokens[0])
    other = options | {"tokens": tokens.flip(0)}
    assert len({DenoisingObjective(pictures(), SCHEDULE, "eps", **o).describe() for o in (options, other, {})}) == 3


def test_labels_without_classes_are_refused():
    with pytest.raises(ValueError, match="has no labels"):
        DenoisingObjective(pictures(labels=False), SCHEDULE, "eps", num_classes=3)


def test_latents_are_drawn_from_their_posteriors():
    generator = torch.Generator().manual_seed(2)
    mean, std = torch.randn(10, 4, 2, 2, generator=generator), torch.rand(10, 4, 2, 2, generator=generator)
    latents = Latents(mean, std, None, "l", "train", 0.0)
    model = Recorder()
    loss = DenoisingObjective(latents, SCHEDULE, "x0")(model, INDICES, rng())["loss"]
    again = rng()
    z0 = mean[INDICES] + std[INDICES] * again.normal(4, 2, 2)
    assert loss.item() == pytest.approx(((0.25 - z0) ** 2).mean().item(), rel=1e-5)
    many = latents.draw(torch.zeros(20_000, dtype=torch.int64), rng(batch=20_000))
    assert (many.mean(0) - mean[0]).abs().max() < 0.03 and (many.std(0) - std[0]).abs().max() < 0.03
    assert len(latents) == 10 and latents.size == 2


def test_descriptions_tell_objectives_apart():
    data = pictures()
    each = [
        DenoisingObjective(data, SCHEDULE, "v"),
        DenoisingObjective(data, SCHEDULE, "eps"),
        DenoisingObjective(data, make_schedule("linear"), "v"),
        DenoisingObjective(data, SCHEDULE, "v", num_classes=3),
        DenoisingObjective(data, make_schedule("cosine", shift=2), "v"),
        AutoencoderObjective(data, perceptual_weight=0),
        AutoencoderObjective(data, perceptual_weight=0, kl_weight=1e-3),
    ]
    assert len({o.describe() for o in each}) == len(each)
    for ask in (Objective().describe, lambda: Objective()(None, None, None), lambda: Objective().critic_loss(None)):
        with pytest.raises(TypeError, match="Objective"):
            ask()


def test_data_are_told_apart_by_their_numbers_order_and_labels():
    data, z = pictures(), torch.zeros(10, 4, 2, 2)
    again = pictures()
    brighter = replace(data, images=data.images + 1)
    turned = data.subset(torch.arange(9, -1, -1))
    others = [
        brighter,
        turned,
        replace(data, labels=2 - data.labels),
        replace(data, labels=None),
        data.subset(range(9)),
    ]
    others += [Crops((data,), 4), Crops((brighter,), 4), Crops((data, data), 4)]
    others += [Latents(z, z, None, "p", "train", 0.0, seen) for seen in ("a1", "b2")]
    told = [AutoencoderObjective(d, perceptual_weight=0).learns_from() for d in (data, *others)]
    assert len(set(told)) == len(told)
    assert told[0] == DenoisingObjective(again, SCHEDULE, "v").learns_from()


# ----------------------------------------------------------------------------------------- autoencoder


def autoencoder():
    torch.manual_seed(0)
    return Autoencoder(AutoencoderConfig(block_out_channels=(16, 16), norm_num_groups=8))


def test_autoencoder_terms_by_hand():
    data, model = pictures(size=32), autoencoder()
    weights = {"perceptual_weight": 0.7, "kl_weight": 0.01}
    losses = AutoencoderObjective(data, **weights)(model, INDICES, rng())
    x = data.images[INDICES].float() / 127.5 - 1
    q = model.encode(x)
    rebuilt = model.decode(q.z_mean + torch.exp(q.z_logvar / 2) * rng().normal(4, 16, 16))
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(q.z_mean, (q.z_logvar / 2).exp()), normal(0.0, 1.0))
    expected = {
        "l1": (rebuilt - x).abs().mean(),
        "kl": kl.sum() / (6 * 3 * 32 * 32),
        "perceptual": perceptual_distance(rebuilt, x).mean(),
    }
    expected["loss"] = expected["l1"] + 0.7 * expected["perceptual"] + 0.01 * expected["kl"]
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, rel=1e-4
    )
    assert all(v > 1e-3 for v in expected.values())


def test_the_squared_loss_is_the_mean_square_and_another_run():
    data, model = pictures(size=32), autoencoder()
    squared, plain = (AutoencoderObjective(data, perceptual_weight=0, kl_weight=0, squared=s) for s in (True, False))
    x = data.images[INDICES].float() / 127.5 - 1
    q = model.encode(x)
    rebuilt = model.decode(q.z_mean + torch.exp(q.z_logvar / 2) * rng().normal(4, 16, 16))
    assert squared(model, INDICES, rng())["loss"].item() == pytest.approx(
        (rebuilt - x).square().mean().item(), rel=1e-5
    )
    assert squared.describe() == plain.describe() + ", squared"


def test_a_weight_of_zero_leaves_its_network_out():
    losses = AutoencoderObjective(pictures(), perceptual_weight=0)(autoencoder(), INDICES, rng())
    assert set(losses) == {"loss", "l1", "kl"}
    assert AutoencoderObjective(pictures(), perceptual_weight=0).critic is None


def test_pictures_too_small_to_be_judged_are_refused():
    with pytest.raises(ValueError, match=r"pictures of 8 a side; .* 32 or more: choose a larger size") as error:
        AutoencoderObjective(pictures())
    assert "\n" not in str(error.value)


def test_adversarial_step_by_hand_and_without_gradients_for_the_critic():
    data, model = pictures(), autoencoder()
    objective = AutoencoderObjective(data, perceptual_weight=0, kl_weight=0, adversarial_weight=0.3)
    critic = objective.critic
    losses = objective(model, INDICES, rng(), critic=critic)
    x = data.batch(INDICES)
    rebuilt = model(x, rng().normal)[0]
    assert losses["adversarial"].item() == pytest.approx(-critic(rebuilt).mean().item(), rel=1e-4)
    assert losses["loss"].item() == pytest.approx(losses["l1"].item() + 0.3 * losses["adversarial"].item(), rel=1e-5)
    losses["loss"].backward()
    assert all(p.grad is None for p in critic.parameters())
    got = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    ((rebuilt - x).abs().mean() - 0.3 * critic(rebuilt).mean()).backward()
    assert max((got[n] - p.grad).abs().max().item() for n, p in model.named_parameters()) < 1e-5
    critic.zero_grad()

    model.zero_grad()
    hinge = objective.critic_loss(critic)
    real, fake = critic(x), critic(rebuilt)
    by_hand = 0.5 * (torch.clamp(1 - real, min=0).mean() + torch.clamp(1 + fake, min=0).mean())
    assert hinge.item() == pytest.approx(by_hand.item(), rel=1e-5)
    hinge.backward()
    # inside the hinge, the last bias gains on the real pictures what it loses on the others
    assert all(p.grad.abs().max() > 0 for n, p in critic.named_parameters() if n != "layers.5.bias")
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_hinge_loss_is_zero_for_a_critic_that_is_sure():
    class Sure(nn.Module):
        def forward(self, x):
            return x.mean(dim=(1, 2, 3))

    objective = AutoencoderObjective(pictures(), perceptual_weight=0, adversarial_weight=1.0)
    objective._pair = (torch.full((2, 3, 8, 8), 1.5), torch.full((2, 3, 8, 8), -2.0))
    assert objective.critic_loss(Sure()).item() == 0
    objective._pair = (torch.full((2, 3, 8, 8), -1.0), torch.full((2, 3, 8, 8), 0.5))
    assert objective.critic_loss(Sure()).item() == pytest.approx(0.5 * (2 + 1.5))


def test_the_critic_judges_patches():
    """One number for each 4x4 positions, of which each sees 18 pixels around and no more."""
    torch.manual_seed(0)
    critic = PatchCritic().layers[:1].append(nn.LeakyReLU(0.2)).append(PatchCritic().layers[2])
    assert PatchCritic()(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 8, 8)
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    convs = nn.Sequential(*critic, PatchCritic().layers[5])  # the norm, which sees everything, left out
    convs(x)[0, 0, 8, 8].backward()
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == 18


def test_half_precision_models_get_a_float32_loss():
    class Half(Recorder):
        def forward(self, x, t, label=None):
            return super().forward(x, t, label).bfloat16()

    a, b = (DenoisingObjective(pictures(), SCHEDULE, "eps")(m, INDICES, rng())["loss"] for m in (Half(), Recorder()))
    assert a.dtype == torch.float32 and torch.equal(a, b)


def test_of_several_texts_each_picture_is_told_one_at_a_time():
    data = Pictures(torch.zeros(6, 3, 8, 8, dtype=torch.uint8), name="plain")
    tokens = torch.arange(6 * 3 * 2).view(6, 3, 2)
    objective = DenoisingObjective(
        data, make_schedule("linear"), "eps", tokens=tokens, no_tokens=torch.tensor([-1, -1])
    )
    told = []

    def model(x, t, condition):
        told.append(condition)
        return x

    for step in range(60):
        objective(model, torch.arange(6), BatchRandom(0, step, 6, slice(None), "cpu"))
    seen = torch.stack(told)  # (60, 6, 2)
    nothing = (seen == -1).all(-1)
    assert 0.05 < nothing.float().mean() < 0.15
    for i in range(6):
        own = seen[~nothing[:, i], i]
        assert {tuple(row) for row in own.tolist()} == {tuple(row) for row in tokens[i].tolist()}
    assert len({tuple(row[:, 0].tolist()) for row in seen // 2 % 3}) > 30  # not the same of all
