"""The trainer: killed and resumed, divided and accumulated, averaged, scheduled and stopped as it promises."""

import functools
import itertools
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch._dynamo.utils import counters

from ldm_course import files
from ldm_course.cli import main
from ldm_course.config import AutoencoderConfig, TrainConfig, UNetConfig
from ldm_course.data.pictures import Pictures
from ldm_course.diffusion.objectives import BatchRandom
from ldm_course.diffusion.schedules import make_schedule
from ldm_course.files import all_finite
from ldm_course.lab import runs
from ldm_course.lab.records import load_record
from ldm_course.measure.timing import activation_memory
from ldm_course.training.memory import bytes_a_picture
from ldm_course.training.recipes import autoencoder_trainer, denoiser_trainer, finished_autoencoder
from ldm_course.training.reconstruction import AutoencoderObjective
from ldm_course.training.trainer import (
    STATE_FILE,
    Diverged,
    Progress,
    batch_indices,
    epoch_order,
    learning_rate,
    planned_steps,
    thinned,
)

NETWORK = UNetConfig(
    block_out_channels=(16, 16),
    attention=(False, True),
    attention_head_dim=8,
    norm_num_groups=8,
    num_classes=3,
)
FIRST_STAGE = AutoencoderConfig(block_out_channels=(16, 16), norm_num_groups=8)
KILLED_AT_STEPS = 30


def pictures(count=21, size=8):
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return Pictures(images, torch.arange(count) % 3, ("a", "b", "c"), name="noise")


def trainer(what="denoiser", *, config=None, **options):
    """A tiny one, 8 pictures a step."""
    config = TrainConfig(**({"batch_size": 8, "steps": 6, "lr": 2e-3, "warmup_steps": 3} | (config or {})))
    if what == "autoencoder":
        losses = {"adversarial_weight": 0.1, "perceptual_weight": 0.0}
        return autoencoder_trainer(pictures(), FIRST_STAGE, config, losses=losses, **options)
    return denoiser_trainer(pictures(), NETWORK, config, make_schedule("cosine"), "v", **options)


def weights(t):
    return {k: v.clone() for k, v in t.accelerator.unwrap_model(t.model).state_dict().items()}


def killable(what, out):
    """Runs in a process of its own: says each step, so that its parent knows when to kill it."""
    t = trainer(what, config={"steps": KILLED_AT_STEPS}, out=out, save_every=4)
    t.run(every=(1, lambda t: print("step", t.progress.step, flush=True)))


# ------------------------------------------------------------------------------------ killed and resumed


@pytest.mark.parametrize("what", ["denoiser", "autoencoder"])
def test_killed_at_a_random_step_and_resumed_the_weights_are_the_same_bit_for_bit(what, tmp_path):
    at, late = random.randint(5, KILLED_AT_STEPS - 8), random.random() / 50
    print(f"{what}: killed {1e3 * late:.1f} ms after step {at}")
    child = subprocess.Popen(
        [sys.executable, __file__, what, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    for line in child.stdout:
        if line.split() == ["step", str(at)]:
            time.sleep(late)
            os.kill(child.pid, signal.SIGKILL)
            break
    assert child.wait() == -signal.SIGKILL

    resumed = trainer(what, config={"steps": KILLED_AT_STEPS}, out=tmp_path)
    assert 0 < resumed.progress.step < KILLED_AT_STEPS and resumed.progress.step % 4 == 0
    print(f"resumed from step {resumed.progress.step}")
    resumed.run()
    whole = trainer(what, config={"steps": KILLED_AT_STEPS})
    whole.run()
    mine, theirs = whole._tensors(), resumed._tensors()
    parts = {key.split(".")[0] for key in mine}
    assert parts == {"ema", "model", "model-optimizer"} | (
        {"critic", "critic-optimizer"} if what == "autoencoder" else set()
    )
    assert mine.keys() == theirs.keys()
    assert [key for key in mine if not torch.equal(mine[key], theirs[key])] == []
    assert resumed.progress.images == whole.progress.images == 8 * KILLED_AT_STEPS
    with safe_open(tmp_path / STATE_FILE, "pt") as file:  # and what lies on the disk is that too
        assert all(torch.equal(file.get_tensor(k), mine[k].cpu()) for k in mine)


def test_a_failed_write_leaves_the_last_state(tmp_path, monkeypatch):
    t = trainer(out=tmp_path)
    t.run(until=2)

    def breaks(tensors, path, metadata):
        Path(path).write_bytes(b"half of i")
        raise OSError("disk full")

    monkeypatch.setattr(files, "save_file", breaks)
    with pytest.raises(OSError):
        t.run(until=3)
    assert [p.name for p in tmp_path.iterdir()] == [STATE_FILE]
    assert trainer(out=tmp_path).progress.step == 2


class Breaks:
    """An objective whose loss is NaN from a step on."""

    def __init__(self, objective, steps):
        self.objective, self.left = objective, steps

    def __getattr__(self, name):
        return getattr(self.objective, name)

    def __call__(self, *args, **options):
        self.left -= 1
        losses = self.objective(*args, **options)
        return losses if self.left >= 0 else {k: v * math.nan for k, v in losses.items()}


def test_a_loss_that_is_not_a_number_stops_the_run_and_the_last_finite_state_is_kept(tmp_path):
    t = trainer(out=tmp_path, config={"steps": 20}, save_every=2, log_every=1)
    t.objective = Breaks(t.objective, 5)
    with pytest.raises(Diverged, match=r"the loss is nan by step 6, .* the state of step 4 is kept in .*lower lr"):
        t.run()
    assert all_finite(load_file(tmp_path / STATE_FILE))
    again = trainer(out=tmp_path, config={"steps": 20})
    assert again.progress.step == 4 and again.run().step == 20


def test_a_critic_that_is_not_a_number_stops_the_run_too(tmp_path):
    t = trainer("autoencoder", out=tmp_path, log_every=1)
    t.objective.critic_loss = lambda critic: sum(p.sum() for p in critic.parameters()) * math.nan
    with pytest.raises(Diverged, match="the critic loss is nan by step 1"):
        t.run()


def test_weights_that_are_not_finite_are_not_saved_over_those_that_are(tmp_path):
    t = trainer(out=tmp_path)
    t.run(until=2)
    before = (tmp_path / STATE_FILE).read_bytes()
    next(t.model.parameters()).data[0] = math.inf
    with pytest.raises(Diverged, match="a weight is NaN or infinite"):
        t.save_state()
    assert (tmp_path / STATE_FILE).read_bytes() == before
    tensors = load_file(tmp_path / STATE_FILE)
    with safe_open(tmp_path / STATE_FILE, "pt") as file:
        meta = {k: v for k, v in file.metadata().items() if k != "checksum"}
    tensors["model.conv_in.bias"][0] = math.nan
    save_file(tensors, tmp_path / STATE_FILE, metadata=meta)
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        trainer(out=tmp_path)


def test_a_folder_that_takes_no_files_is_found_out_before_the_training(tmp_path):
    (tmp_path / "file").write_text("in its place")
    with pytest.raises(ValueError, match="takes no files"):
        trainer(out=tmp_path / "file" / "below")


def test_a_run_may_go_on_from_weights_alone():
    first, second = trainer(), trainer(config={"seed": 3})
    first.run(until=4)
    second.start_from(first.snapshot().state_dict(), Progress(4, 32, 1.0))
    ours, theirs = second.snapshot().state_dict(), first.snapshot().state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in ours.items())
    assert all(torch.equal(v, theirs[k]) for k, v in weights(second).items())  # the average, not the last weights
    assert second.run().step == 6 and second.progress.images == 48


def test_what_a_process_killed_while_writing_left_behind_is_removed(tmp_path):
    left = tmp_path / f".new-{files._MACHINE}-4194305-x"  # of a process that there cannot be
    left.mkdir()
    (left / STATE_FILE).write_bytes(b"half of i")
    trainer(out=tmp_path).run(until=1)
    assert [p.name for p in tmp_path.iterdir()] == [STATE_FILE]


def test_a_state_of_another_run_is_refused_in_one_line_and_a_longer_run_is_not(tmp_path):
    trainer(out=tmp_path).run(until=1)
    assert trainer(out=tmp_path, config={"steps": 100}).progress.step == 1
    for config, named in (({"lr": 1e-3}, "lr"), ({"seed": 1}, "seed"), ({"decay": "linear"}, "decay")):
        with pytest.raises(ValueError, match=f"another run .*{named}") as error:
            trainer(out=tmp_path, config=config)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"another run .*objective.*weights"):
        trainer("autoencoder", out=tmp_path)
    config = TrainConfig(batch_size=8, steps=6, lr=2e-3, warmup_steps=3)
    in_another_order = pictures().subset(torch.arange(20, -1, -1))
    with pytest.raises(ValueError, match=r"another run \(it differs in data\)"):
        denoiser_trainer(in_another_order, NETWORK, config, make_schedule("cosine"), "v", out=tmp_path)


def test_with_a_decay_the_end_belongs_to_the_run(tmp_path):
    config = {"decay": "cosine"}
    trainer(out=tmp_path, config=config).run(until=1)
    with pytest.raises(ValueError, match="steps"):
        trainer(out=tmp_path, config=config | {"steps": 100})


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"\x08" + 7 * b"\0" + b"{}      "])
def test_a_broken_state_is_refused_in_one_line(content, tmp_path):
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read .* delete it") as error:
        trainer(out=tmp_path)
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------- divided among processes and parts


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_two_processes_give_the_losses_of_one(tmp_path, monkeypatch):
    """The command line itself, as `accelerate launch -m ldm_course.cli train …` and without.

    With `--cpu`, accelerate would start one process; where there is no GPU, `--multi_gpu` starts two, on gloo.
    """
    if torch.cuda.is_available():
        pytest.skip("compares processes on the CPU")
    monkeypatch.setattr(runs, "GRID", 4)
    words = ["train", "pixel", "--profile", "smoke", "--data", "scenes", "--limit", "20", "--size", "8"]
    words += ["--batch-size", "8", "--steps", "10", "--log-every", "1", "--precision", "no"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(free_port()), "-m", "ldm_course.cli"]
    two = subprocess.run(
        [*launch, *words, "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_CONFIG_FILE": ""},
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("wrote ") == 1  # one of them speaks for both
    assert main.main([*words, "--out", str(tmp_path / "one")]) == 0
    results = {n: load_record("scenes-8-pixel", tmp_path / n)["results"] for n in ("one", "two")}
    assert [results[n]["processes"] for n in ("one", "two")] == [1, 2]
    history = {n: results[n]["history"] for n in results}
    assert [h["step"] for h in history["two"]] == list(range(1, 11))
    assert [h["images"] for h in history["two"]] == list(range(8, 88, 8))
    gap = max(abs(a["loss"] - b["loss"]) for a, b in zip(history["one"], history["two"]))
    print(f"largest difference of the losses: {gap:.2e}")
    assert gap < 1e-5
    assert history["one"][0]["loss"] != history["one"][1]["loss"]


def test_a_batch_in_parts_gives_the_weights_of_the_whole_batch():
    config = {"lr": 2e-4, "warmup_steps": 0, "precision": "no"}
    whole, parts = trainer(config=config), trainer(config=config | {"accumulate": 4})
    start = weights(whole)
    whole.run(until=2)  # by turns: each keeps its own number of parts
    for until in (2, 4):
        parts.run(until=until)
        whole.run(until=until)
    a, b = weights(whole), weights(parts)
    # a key's bias changes no softmax: its gradient is rounding, which Adam blows up to full steps
    gaps = {k: (a[k] - b[k]).abs().max().item() for k in a if not k.endswith("to_k.bias")}
    moved = {k: (a[k] - start[k]).abs().max().item() for k in gaps}
    print(f"largest difference of the weights: {max(gaps.values()):.1e}, of {max(moved.values()):.1e} moved")
    assert max(gaps.values()) < 2e-6
    assert min(moved.values()) > 1e-4
    for one, two in zip(whole.progress.history, parts.progress.history):
        assert one["loss"] == pytest.approx(two["loss"], abs=1e-6)
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)


def test_the_norm_in_the_history_is_the_gradients_before_it_is_clipped():
    t, by_hand = (trainer(config={"precision": "no", "grad_clip": 1e-3}, log_every=1) for _ in range(2))
    rng = BatchRandom(0, 0, 8, slice(0, 8), "cpu")
    by_hand.objective(by_hand.model, batch_indices(by_hand.objective.size, 0, 8, 0), rng)["loss"].backward()
    norm = torch.stack([p.grad.norm() for p in by_hand.model.parameters() if p.grad is not None]).norm().item()
    assert norm > 1e-2 and t.run(until=1).history[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert "grad_norm" not in trainer(config={"grad_clip": 0.0}).run(until=1).history[0]
    assert "grad_norm" in trainer("autoencoder").run(until=1).history[0]


@pytest.mark.parametrize("what", ["denoiser", "autoencoder"])
def test_compiled_or_not_the_weights_are_the_same(what, monkeypatch):
    """Traced as on a GPU, but run by PyTorch's own kernels: writing new ones would take a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    config = {"steps": 3, "precision": "no", "lr": 2e-4}
    plain, compiled = trainer(what, config=config), trainer(what, config=config | {"compile": True})
    counters.clear()
    plain.run()
    assert counters["stats"]["unique_graphs"] == 0
    compiled.run()
    assert counters["stats"]["unique_graphs"] == (2 if what == "autoencoder" else 1)  # no break, and no second trace
    a, b = weights(plain), weights(compiled)
    assert a.keys() == b.keys()
    assert max((a[k] - b[k]).abs().max().item() for k in a if not k.endswith("to_k.bias")) < 2e-6


def test_half_precision_is_entered_run_by_run():
    """One process may train in float32 and in bf16 by turns, which accelerate itself refuses."""
    seen = []
    for precision in ("no", "bf16", "no"):
        t = trainer(config={"precision": precision, "steps": 1})
        t.model.conv_in.register_forward_hook(lambda m, x, out: seen.append(out.dtype))
        t.run()
        assert t.precision == precision
        assert {v.dtype for v in weights(t).values()} == {torch.float32}
    assert seen == [torch.float32, torch.bfloat16, torch.float32]


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="accumulate=3"):
        TrainConfig(batch_size=8, steps=1, accumulate=3)


# -------------------------------------------------------------------------------------- order of pictures


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 25), st.integers(0, 2**40), st.integers(1, 4))
def test_every_epoch_is_a_permutation_without_gap_or_short_batch(size, batch, seed, epochs):
    steps = -(-size * epochs // batch)
    batches = [batch_indices(size, k, batch, seed) for k in range(steps)]
    assert {len(b) for b in batches} == {batch}
    shown = torch.cat(batches)
    for epoch in range(epochs):
        part = shown[epoch * size : (epoch + 1) * size]
        assert torch.equal(part, epoch_order(size, epoch, seed))
        assert torch.equal(part.sort().values, torch.arange(size))


def test_orders_differ_between_epochs_and_seeds_but_not_between_calls():
    orders = [epoch_order(50, epoch, seed).tolist() for epoch in range(3) for seed in range(3)]
    assert len({tuple(o) for o in orders}) == 9
    assert epoch_order(50, 2, 2).tolist() == orders[-1]


def test_every_picture_of_a_step_is_used_once():
    seen = []
    t = trainer(config={"accumulate": 2})
    loss = type(t.objective).__call__

    class Watched(type(t.objective)):
        def __call__(self, model, indices, rng, critic=None):
            seen.append(indices)
            return loss(self, model, indices, rng, critic)

    t.objective.__class__ = Watched
    t.run(until=3)
    expected = [batch_indices(21, k, 8, 0) for k in range(3)]
    assert torch.equal(torch.cat(seen), torch.cat(expected)) and {len(s) for s in seen} == {4}


# ------------------------------------------------------------------------------- rates, averages, ends


def test_learning_rate_is_its_closed_form():
    constant = TrainConfig(steps=10, lr=0.1, warmup_steps=4)
    assert [learning_rate(constant, k, 10) for k in range(6)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    line = TrainConfig(steps=10, lr=0.1, warmup_steps=0, decay="linear")
    assert [learning_rate(line, k, 10) for k in (0, 5, 9, 10, 12)] == pytest.approx([0.1, 0.05, 0.01, 0, 0])
    curve = TrainConfig(steps=10, lr=0.1, warmup_steps=2, decay="cosine")
    expected = [0.1 * min(1, (k + 1) / 2) * (1 + math.cos(math.pi * k / 10)) / 2 for k in range(11)]
    assert [learning_rate(curve, k, 10) for k in range(11)] == pytest.approx(expected)


def test_the_optimizer_uses_that_rate():
    t, rates = trainer(config={"decay": "cosine", "steps": 6}), []
    t.run(every=(1, lambda t: rates.append(t.optimizer.param_groups[0]["lr"])))
    assert rates == pytest.approx([learning_rate(t.config, k, 6) for k in range(6)])


def test_the_first_step_is_adams_by_hand():
    """Adam's first step is lr · g / (|g| + 1e-8), whatever the clipping made of the length of g."""
    t = trainer(config={"warmup_steps": 0, "lr": 1e-2, "grad_clip": 1e9})
    start, names, kept = weights(t), [n for n, _ in t.model.named_parameters()], {}
    step = t.optimizer.step

    def watched(*args, **kwargs):
        kept.update({n: p.grad.clone() for n, p in t.model.named_parameters()})
        return step(*args, **kwargs)

    t.optimizer.step = watched
    t.run(until=1)
    after = weights(t)
    for name in names:
        g = kept[name]
        assert torch.allclose(after[name], start[name] - 1e-2 * g / (g.abs() + 1e-8), atol=1e-6), name


def test_gradients_are_clipped_to_their_norm():
    t, norms = trainer(config={"grad_clip": 0.01}), []
    step = t.optimizer.step

    def watched(*args, **kwargs):
        norms.append(torch.stack([p.grad.norm() for p in t.model.parameters()]).norm().item())
        return step(*args, **kwargs)

    t.optimizer.step = watched
    t.run(until=2)
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)


@pytest.mark.parametrize("decay", [0.999, 0.2])
def test_the_average_is_the_formula_in_a_loop(decay):
    t, seen = trainer(config={"ema_decay": decay}), []
    t.run(every=(1, lambda t: seen.append(weights(t))))
    expected = {k: v.double() for k, v in seen[0].items()}
    for n, now in enumerate(seen[1:], start=1):
        d = min(decay, (1 + n) / (10 + n))
        expected = {k: d * v + (1 - d) * now[k].double() for k, v in expected.items()}
    average = t.snapshot().state_dict()
    assert max((average[k] - expected[k]).abs().max().item() for k in expected) < 1e-6
    assert max((average[k] - seen[-1][k]).abs().max().item() for k in expected) > 1e-4
    assert int(t.ema.n_averaged) == 6


def test_a_snapshot_stays_as_it_was():
    t = trainer()
    t.run(until=2)
    early = t.snapshot()
    kept = {k: v.clone() for k, v in early.state_dict().items()}
    t.run()
    assert all(torch.equal(v, kept[k]) for k, v in early.state_dict().items())
    assert not early.training and t.model.training


@pytest.mark.parametrize(
    "ends, steps",
    [({"steps": 4}, 4), ({"steps": None, "images": 17}, 3), ({"steps": 4, "images": 16}, 2), ({"images": 800}, 6)],
)
def test_ends_by_steps_or_images_whichever_comes_first(ends, steps):
    t = trainer(config=ends)
    p = t.run()
    assert (p.step, p.images) == (steps, 8 * steps) and planned_steps(t.config) == steps
    assert t.run().step == steps  # it is over


def test_until_is_an_end_for_the_moment():
    t = trainer()
    assert [t.run(until=n).step for n in (2, 2, 4, 99)] == [2, 2, 4, 6]


def test_ends_by_seconds_and_the_callers_own_time_is_not_counted():
    t = trainer(config={"steps": None, "seconds": 0.4})
    started = time.perf_counter()
    p = t.run(every=(1, lambda t: time.sleep(0.1)))
    wall = time.perf_counter() - started
    assert p.step >= 1 and p.seconds >= 0.4
    assert p.seconds <= wall - 0.1 * p.step + 1e-3
    assert p.history[-1]["seconds"] == pytest.approx(p.seconds, abs=0.05)
    step = p.step
    assert t.run().step == step
    again = trainer(config={"steps": 50})
    for seconds in (1e-9, 1e-320):  # no time is too short for a network that has been trained, which takes a step
        assert again.run(until_seconds=seconds).step == 1
    assert trainer(config={"steps": None, "seconds": 1e-320}).run().images == 8


def test_logged_losses_are_means_over_their_window():
    fine, coarse = trainer(log_every=1), trainer(log_every=4)
    fine.run(), coarse.run()
    a = [h["loss"] for h in fine.progress.history]
    assert [h["step"] for h in fine.progress.history] == [1, 2, 3, 4, 5, 6]
    assert [h["step"] for h in coarse.progress.history] == [4, 6]
    b = [h["loss"] for h in coarse.progress.history]
    assert b == pytest.approx([sum(a[:4]) / 4, sum(a[4:]) / 2], rel=1e-5)


def test_histories_are_thinned_evenly_with_the_last_entry():
    history = [{"step": k} for k in range(1, 1001)]
    few = [h["step"] for h in thinned(history, 200)]
    assert len(few) == 200 and few[-1] == 1000 and {b - a for a, b in itertools.pairwise(few)} == {5}
    assert thinned(history[:7], 200) == history[:7] and thinned([]) == []
    assert len(thinned(history[:201], 200)) <= 200


def test_one_seed_one_run_and_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    a = trainer()
    a.run()
    following = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), following)
    b, c = trainer(), trainer(config={"seed": 1})
    b.run(), c.run()
    assert all(torch.equal(v, weights(b)[k]) for k, v in weights(a).items())
    assert not torch.equal(weights(a)["conv_in.weight"], weights(c)["conv_in.weight"])


def test_it_learns_a_set_of_one_colour():
    """Every picture the same grey: the v-loss falls well below what a network that says 0 would have."""
    grey = Pictures(torch.full((8, 3, 8, 8), 200, dtype=torch.uint8), name="grey")
    config = TrainConfig(batch_size=8, steps=60, lr=3e-3, warmup_steps=5)
    network = UNetConfig(block_out_channels=(16,), attention=(False,), attention_head_dim=8, norm_num_groups=8)
    t = denoiser_trainer(grey, network, config, make_schedule("cosine"), "v", log_every=10)
    losses = [h["loss"] for h in t.run().history]
    assert losses[-1] < 0.4 * losses[0]


def test_a_finished_autoencoder_has_latents_of_unit_deviation():
    t = trainer("autoencoder", config={"steps": 3})
    t.run()
    model = finished_autoencoder(t)
    x = t.objective.data.batch(epoch_order(21, 0, t.config.seed))
    with torch.no_grad():
        assert model.to_latents(x, torch.Generator().manual_seed(0)).std().item() == pytest.approx(1, abs=1e-4)
    assert t.snapshot().latent_scale.item() == 1  # the trainer's own is left


def test_tensorboard_gets_the_losses(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    t = trainer(out=tmp_path, tensorboard=True, log_every=2)
    t.run(until=4)
    t.accelerator.end_training()
    folder = next(tmp_path.rglob("events*")).parent
    events = EventAccumulator(str(folder)).Reload().Scalars("loss")
    assert [(e.step, round(e.value, 4)) for e in events] == [
        (h["step"], round(h["loss"], 4)) for h in t.progress.history
    ]


def test_the_state_says_what_it_is_without_a_pickle(tmp_path):
    trainer(out=tmp_path).run(until=2)
    with safe_open(tmp_path / STATE_FILE, "pt") as file:
        meta = file.metadata()
    assert json.loads(meta["progress"])["step"] == 2
    assert json.loads(meta["identity"])["batch_size"] == 8


if __name__ == "__main__":
    killable(*sys.argv[1:])


# --------------------------------------------------------------------------------------------- what a state may say


def rewritten(path, **changes):
    """The state in this folder with other metadata; None: without it."""
    tensors = load_file(path / STATE_FILE)
    with safe_open(path / STATE_FILE, "pt") as file:
        meta = {k: v for k, v in file.metadata().items() if k != "checksum"} | changes
    save_file(tensors, path / STATE_FILE, metadata={k: v for k, v in meta.items() if v is not None})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"progress": None}, "progress is missing"),
        ({"progress": "[]"}, r"progress=\[\]; expected a dictionary"),
        ({"progress": '{"step": -3}'}, r"progress\.step=-3; expected 0 or more"),
        ({"progress": '{"step": 1.5}'}, r"progress\.step=1\.5; expected a valid integer"),
        ({"progress": '{"images": "many"}'}, r"progress\.images='many'"),
        ({"progress": '{"seconds": NaN}'}, r"progress\.seconds=nan; expected a finite number"),
        ({"progress": '{"history": [1]}'}, r"progress\.history\.0=1; expected"),
        ({"progress": '{"mood": "good"}'}, r"progress\.mood='good'; no such entry"),
        ({"progress": "[" * 100_000}, ".*recursion limit"),
        ({"identity": "[]"}, r"identity=\[\]; expected"),
        ({"identity": None}, "identity is missing"),
        ({"scaler": '"large"'}, r"scaler='large'; expected"),
    ],
)
def test_a_state_that_says_what_none_can_is_refused_in_one_line(changes, says, tmp_path):
    trainer(out=tmp_path).run(until=1)
    rewritten(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"{STATE_FILE} cannot be read \({says}.*delete it") as error:
        trainer(out=tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_state_without_a_weight_or_with_another_shape_is_refused_before_any_is_taken(tmp_path):
    trainer(out=tmp_path).run(until=1)
    whole = load_file(tmp_path / STATE_FILE)
    with safe_open(tmp_path / STATE_FILE, "pt") as file:
        meta = {k: v for k, v in file.metadata().items() if k != "checksum"}
    for change, says in (
        (lambda s: s.pop("model.conv_in.weight"), "these weights lack model.conv_in.weight, unlike this run"),
        (lambda s: s.update(x=torch.zeros(1)), "these weights have x"),
        (lambda s: s.update({"ema.n_averaged": torch.zeros(3)}), r"n_averaged has the shape \(3,\)"),
    ):
        state = dict(whole)
        change(state)
        save_file(state, tmp_path / STATE_FILE, metadata=meta)
        with pytest.raises(ValueError, match=says):
            trainer(out=tmp_path)


# -------------------------------------------------------------------------------------------------------- precision


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(ValueError, match="'fp16' needs a GPU"):
        trainer(config={"precision": "fp16"}, device="cpu")


def test_one_process_trains_in_any_order_of_precisions(monkeypatch):
    """In fp16 too, which a CPU may try here: its losses are scaled up, and its gradients clipped as in float32."""
    monkeypatch.setattr("ldm_course.training.trainer.chosen_precision", lambda asked, device: asked)
    norms = {}
    for precision in ("no", "fp16", "bf16", "fp16", "no"):
        t = trainer(config={"precision": precision}, device="cpu", log_every=1)
        assert (t.accelerator.scaler is not None) == (precision == "fp16")
        norms.setdefault(precision, []).append([entry["grad_norm"] for entry in t.run(until=3).history])
    assert norms["no"][0] == norms["no"][1] and norms["fp16"][0] == norms["fp16"][1]
    for precision in ("fp16", "bf16"):
        assert norms[precision][0] != norms["no"][0]
        assert torch.tensor(norms[precision][0]).allclose(torch.tensor(norms["no"][0]), rtol=0.1)


# ----------------------------------------------------------------------------------------------------------- memory


class Exhausts(Breaks):
    """An objective for which the memory is too small from a step on."""

    def __call__(self, *args, **options):
        self.left -= 1
        if self.left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.objective(*args, **options)


def test_an_out_of_memory_saves_first_and_says_what_to_lower_and_to_what(tmp_path):
    t = trainer(out=tmp_path, config={"steps": 20})
    t.objective = Exhausts(t.objective, 3)
    says = r"with 8 pictures at once; take batch_size=4, or accumulate=2, .* the state of step 3 is saved in"
    with pytest.raises(ValueError, match=says):
        t.run()
    again = trainer(out=tmp_path, config={"steps": 20})
    assert again.progress.step == 3
    plain = trainer(config={"steps": 20})
    plain.run()
    again.run()
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(again).items())


def test_an_out_of_memory_amid_a_step_saves_nothing(tmp_path):
    """Some weights have been changed, and others not: the state before the step is the one that counts."""
    t = trainer("autoencoder", out=tmp_path, save_every=1)
    t.run(until=1)

    def exhausts(critic):
        raise torch.OutOfMemoryError("out of memory")

    t.objective.critic_loss = exhausts
    with pytest.raises(ValueError, match="out of memory with 8 pictures at once") as error:
        t.run()
    assert "is saved" not in str(error.value)
    assert trainer("autoencoder", out=tmp_path).progress.step == 1


def test_other_errors_of_a_step_are_left_as_they_are():
    t = trainer()
    t.objective.loss = lambda *args: torch.zeros(2, 3) @ torch.zeros(2, 3)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        t.run()


def test_a_batch_is_reckoned_from_one_picture_and_refused_beforehand(monkeypatch):
    t = trainer()
    before = weights(t)
    each = bytes_a_picture(t)
    x, label = torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64)
    model = t.accelerator.unwrap_model(t.model)
    with t.autocast():
        own = activation_memory(model, x, label, label).saved
    assert 1 <= each / own < 1.2  # and what the loss keeps
    assert all(torch.equal(value, before[name]) for name, value in weights(t).items())
    for module in ("ldm_course.training.memory", "ldm_course.device"):
        monkeypatch.setattr(f"{module}.free_memory", lambda device: 3 * each)
    with pytest.raises(ValueError, match=r"the activations of 8 pictures at once take .* take batch_size=3 or less"):
        t.check_memory()
    trainer(config={"batch_size": 2}).check_memory()


def test_labels_beyond_the_networks_classes_are_not_taken_for_none():
    network, schedule = replace(NETWORK, num_classes=2), make_schedule("cosine")
    with pytest.raises(ValueError, match="labels go from 0 to 2; expected 0 to 1"):
        denoiser_trainer(pictures(), network, TrainConfig(steps=1), schedule, "v")
    with pytest.raises(ValueError, match="data is a Tensor; expected Pictures or Latents"):
        denoiser_trainer(pictures().images, network, TrainConfig(steps=1), schedule, "v")


@pytest.mark.parametrize("name", ["kl_weight", "perceptual_weight", "adversarial_weight"])
@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "1"])
def test_weights_of_a_loss_are_numbers_from_0_up(name, weight):
    with pytest.raises(ValueError, match=rf"weights\.{name}=.*; expected"):
        AutoencoderObjective(pictures(size=32), **{name: weight})
