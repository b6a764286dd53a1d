"""Measuring: memory against what must be kept, times against a clock that the test holds."""

import itertools
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ldm_course.config import UNetConfig
from ldm_course.measure import timing
from ldm_course.measure.timing import (
    Timing,
    activation_memory,
    machine_rates,
    peak_memory,
    ratio,
    time_call,
    time_together,
)
from ldm_course.networks.unet import UNet

FLOAT = 4  # bytes


def test_a_timing_is_a_median_with_quartiles():
    timing = Timing((5.0, 1.0, 2.0, 4.0, 3.0))
    assert (timing.low, timing.median, timing.high, timing.repeats) == (2.0, 3.0, 4.0, 5)
    assert timing.summary() == {"median": 3.0, "low": 2.0, "high": 4.0, "repeats": 5}
    assert Timing((7.0,)).low == Timing((7.0,)).high == 7.0


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the timed functions move."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def lasting(*seconds):
        left = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def fn():
            now[0] += next(left)

        return fn

    return lasting


def test_warm_up_does_not_count(clock):
    timing = time_call(clock(50.0, 50.0, 1.0, 2.0, 3.0), repeats=3, warmup=2)
    assert timing.times == pytest.approx((1.0, 2.0, 3.0))


def test_functions_take_turns_and_compare_in_pairs():
    calls = []
    taken = time_together({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=4, warmup=1)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert taken["a"].repeats == taken["b"].repeats == 4


def test_a_drift_of_the_machine_cancels_in_the_ratio(clock):
    taken = time_together({"a": clock(2.0, 20.0, 200.0), "b": clock(1.0, 10.0, 100.0)}, repeats=3, warmup=0)
    assert ratio(taken["a"], taken["b"]).times == pytest.approx((2.0, 2.0, 2.0))
    with pytest.raises(ValueError, match="3 times against 2"):
        ratio(taken["a"], Timing((1.0, 1.0)))


def test_the_time_limit_stops_it_but_not_before_three(clock):
    assert time_call(clock(10.0), repeats=100, warmup=0, seconds=45).repeats == 5
    assert time_call(clock(10.0), repeats=100, warmup=0, seconds=1).repeats == 3
    assert time_call(clock(10.0), repeats=2, warmup=0, seconds=1).repeats == 2
    with pytest.raises(ValueError, match="repeats=0"):
        time_call(clock(1.0), repeats=0)


def test_a_real_clock_in_seconds():
    assert 0.02 <= time_call(lambda: time.sleep(0.02), repeats=3, warmup=0).median < 0.2


def test_what_is_kept_for_the_backward_pass_by_hand():
    x = torch.randn(10, 6)
    layer = nn.Linear(6, 8)
    assert activation_memory(layer, x).saved == 10 * 6 * FLOAT, "the input, and not the weight"

    # The hidden layer's 10x8 numbers are kept twice, before the activation and after it, x once.
    net = nn.Sequential(layer, nn.SiLU(), nn.Linear(8, 1))
    assert activation_memory(net, x).saved == 10 * (6 + 8 + 8) * FLOAT
    with torch.no_grad():
        assert activation_memory(net, x).saved == 10 * (6 + 8 + 8) * FLOAT, "measured with gradients all the same"

    # exp keeps its result; as the next one's input it is the same storage and not counted again.
    hot = torch.randn(1000, requires_grad=True)
    assert activation_memory(lambda: (y := hot.exp()) * y).saved == 1000 * FLOAT
    assert activation_memory(lambda: hot[:10].exp()).saved == 10 * FLOAT
    # A slice that is kept keeps all of its storage.
    assert activation_memory(lambda: hot.exp()[:10] ** 2).saved == 1000 * FLOAT


def test_weights_are_left_out_for_a_function_too():
    layer, x = nn.Linear(6, 8), torch.randn(10, 6, requires_grad=True)
    with_weight = activation_memory(lambda: layer(x)).saved
    assert with_weight == (10 * 6 + 6 * 8) * FLOAT
    assert activation_memory(lambda: layer(x), model=layer).saved == 10 * 6 * FLOAT


def test_activations_grow_with_batch_and_positions_and_the_meta_device_agrees():
    config = UNetConfig(block_out_channels=(32, 32), attention=(False, False), norm_num_groups=8)

    def saved(batch, size, device="cpu"):
        with torch.device(device):
            net = UNet(config)
            return activation_memory(
                net, torch.zeros(batch, 3, size, size), torch.zeros(batch, dtype=torch.int64)
            ).saved

    base = saved(2, 8)
    assert 1.95 < saved(4, 8) / base <= 2.0
    assert 3.5 < saved(2, 16) / base < 4.5
    assert saved(2, 8, "meta") == pytest.approx(base, rel=0.05)
    assert saved(8, 256, "meta") > 100 * base


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_of_a_gpu():
    x = torch.zeros(256, 1024, device="cuda")
    memory = activation_memory(lambda x: x.exp().sum(), x)
    assert memory.peak >= x.numel() * FLOAT


def test_without_a_gpu_there_is_no_peak():
    assert activation_memory(F.relu, torch.zeros(4)).peak is None


def test_attention_keeps_its_pairs_only_when_unfused():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q = torch.randn(1, 1, 64, 8, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        unfused = activation_memory(F.scaled_dot_product_attention, q, q, q).saved
    assert unfused >= 64 * 64 * FLOAT
    assert activation_memory(F.scaled_dot_product_attention, q, q, q).saved < 64 * 64 * FLOAT < unfused


def test_rates_are_a_count_over_a_time(clock, monkeypatch):
    # Every call takes exactly half a second on this clock.
    tick = clock(0.5)
    together = time_together
    monkeypatch.setattr(
        timing, "time_together", lambda fns, **how: together({name: tick for name in fns}, repeats=3, warmup=0)
    )
    rates = machine_rates()
    assert rates.matmul == pytest.approx(2 * 1024**3 / 0.5)
    assert rates.conv == pytest.approx(2 * 16 * 32 * 32 * 128 * 128 * 9 / 0.5)
    assert rates.best == max(rates.matmul, rates.conv)


def test_real_rates_are_of_a_machine():
    rates = machine_rates(repeats=1)
    assert 1e8 < rates.matmul < 1e16 and 1e8 < rates.conv < 1e16


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak of memory is had from Linux")
@pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])
def test_the_peak_of_memory_is_what_is_held_at_once(device):
    def held(mib):
        return torch.ones(mib * 2**20 // FLOAT, device=device)

    def at_once():
        first, second = held(96), held(160)
        del first
        return second

    def in_turn():
        for mib in (96, 160):
            held(mib)

    kept = []
    late = 96 if device == "cpu" else 0  # what a CPU's allocator may be late to give back
    turn = (in_turn, 160, late)
    for fn, mib, more in ((at_once, 256, 0), turn, (lambda: kept.append(held(64)), 64, 0), turn):
        assert mib - 16 < peak_memory(fn, device) / 2**20 < mib + more + 16  # what was held before does not count


def test_a_machine_without_such_a_count_has_no_peak(monkeypatch):
    def none(self, text):
        raise PermissionError

    called = []
    monkeypatch.setattr(timing.Path, "write_text", none)
    assert peak_memory(lambda: called.append(1)) is None and called == [1]
