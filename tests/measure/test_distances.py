"""Distances held to closed forms, to loops that spell the formula out, and to pytorch-fid."""

import json
import math
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from ldm_course.data.pictures import Pictures, to_float
from ldm_course.data.scenes import render
from ldm_course.measure import distances, inception
from ldm_course.measure.coverage import precision_recall
from ldm_course.measure.distances import (
    Estimate,
    Reference,
    evaluate,
    fit_gaussian,
    frechet_distance,
    kernel_distance,
    mean_kernel,
    nearest_neighbours,
    noise_floor,
)
from ldm_course.measure.fidelity import psnr, psnr_lead, ssim
from ldm_course.measure.inception import fid, fid_floor
from ldm_course.measure.spectra import power_spectrum
from ldm_course.networks.features import pooled_features


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample_with(mean, covariance, count, seed=0):
    """`count` features whose own mean and covariance are exactly these."""
    z = normal(count, len(mean), seed=seed)
    q = torch.linalg.qr(z - z.mean(0)).Q * (count - 1) ** 0.5
    return q @ torch.linalg.cholesky(covariance).T + mean


def frechet_by_eigenvalues(a, b):
    """The formula with D x D covariances and their roots, by two symmetric eigenvalue problems."""
    a, b = a.double(), b.double()
    s, t = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(s)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    traces = s.trace() + t.trace() - 2 * torch.linalg.eigvalsh(root @ t @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + traces).item()


# --- Fréchet -----------------------------------------------------------------------------------------------------


def test_frechet_of_commuting_gaussians():
    """tr (sqrt S - sqrt T)^2 where S and T share their axes."""
    axes = torch.linalg.qr(normal(6, 6)).Q
    s, t = torch.tensor([4.0, 1, 9, 0.25, 2, 16]).double(), torch.tensor([1.0, 25, 4, 3, 0.5, 1]).double()
    m, n = normal(6, seed=1), normal(6, seed=2)
    a = sample_with(m, axes * s @ axes.T, 50, seed=3)
    b = sample_with(n, axes * t @ axes.T, 30, seed=4)
    expected = (m - n).square().sum() + (s.sqrt() - t.sqrt()).square().sum()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-12)


def test_frechet_of_gaussians_that_do_not_commute():
    """In two dimensions tr sqrt(ST) = sqrt(tr ST + 2 sqrt(det ST))."""
    s, t = torch.tensor([[3.0, 1.2], [1.2, 1.0]]).double(), torch.tensor([[1.0, -0.7], [-0.7, 6.0]]).double()
    assert (s @ t - t @ s).abs().max() > 1
    a, b = sample_with(torch.zeros(2).double(), s, 40, seed=1), sample_with(torch.ones(2).double(), t, 25, seed=2)
    root = ((s @ t).trace() + 2 * (s @ t).det().sqrt()).sqrt()
    assert frechet_distance(a, b) == pytest.approx((2 + s.trace() + t.trace() - 2 * root).item(), rel=1e-12)


def test_frechet_of_two_features_each():
    """N = 2 is far below D = 1280: S = dd'/2 and T = ee'/2, so tr sqrt(ST) = |d.e| / 2."""
    a, b = normal(2, 1280, seed=1), normal(2, 1280, seed=2)
    d, e = a[0] - a[1], b[0] - b[1]
    expected = (a.mean(0) - b.mean(0)).square().sum() + (d.square().sum() + e.square().sum()) / 2 - (d @ e).abs()
    assert frechet_distance(a.float(), b.float()) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("n, m", [(8, 9), (8, 300), (300, 8), (40, 41), (300, 200)])
def test_low_rank_and_full_rank_agree_with_the_formula(n, m):
    a, b = normal(n, 40, seed=1) * torch.arange(1, 41), normal(m, 40, seed=2) @ normal(40, 40, seed=3) + 1
    assert frechet_distance(a, b) == pytest.approx(frechet_by_eigenvalues(a, b), rel=1e-6)
    assert frechet_distance(fit_gaussian(a), b) == frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_a_gaussian_holds_the_covariance():
    for n in (10, 100):
        features = normal(n, 30, seed=n)
        fitted = fit_gaussian(features)
        assert len(fitted.factor) == min(n, 30)
        assert (fitted.factor.T @ fitted.factor - torch.cov(features.T)).abs().max() < 1e-12
        assert (fitted.mean - features.mean(0)).abs().max() < 1e-12


@pytest.mark.parametrize("n", [2, 50, 400])
def test_frechet_of_a_set_with_itself_is_zero(n):
    features = normal(n, 128).float() * 100 + 1000
    assert 0 <= frechet_distance(features, features[torch.randperm(n)]) < 1e-6
    assert frechet_distance(torch.ones(3, 8), torch.ones(5, 8)) == 0


def test_frechet_moves_as_it_must():
    """A shift adds its squared length; a scale multiplies by its square; a rotation changes nothing."""
    a, b = normal(30, 64, seed=1), normal(20, 64, seed=2) * 2
    turn, shift, before = torch.linalg.qr(normal(64, 64, seed=3)).Q, normal(64, seed=4), frechet_distance(a, b)
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(before, rel=1e-10)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * before, rel=1e-10)
    centred = a - a.mean(0), b - b.mean(0)
    moved = frechet_distance(centred[0], centred[1] + shift)
    assert moved == pytest.approx(frechet_distance(*centred) + shift.square().sum().item(), rel=1e-10)


def test_frechet_falls_as_counts_grow():
    """The bias that makes a distance without its count meaningless: one distribution, ever larger samples."""
    found = [frechet_distance(normal(n, 64, seed=n), normal(n, 64, seed=n + 1)) for n in (16, 32, 64, 256, 1024)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 10 * found[-1] > 0


@pytest.fixture()
def peer(monkeypatch):
    """pytorch-fid's module, with the call of `sqrtm` that newer SciPy no longer takes."""
    from pytorch_fid import fid_score

    def sqrtm(matrix, disp=True):
        return scipy.linalg.sqrtm(matrix) if disp else (scipy.linalg.sqrtm(matrix), 0.0)

    monkeypatch.setattr(fid_score, "linalg", SimpleNamespace(sqrtm=sqrtm))
    return fid_score


@pytest.mark.parametrize("n, m, tolerance", [(400, 300, 1e-9), (400, 30, 1e-5), (20, 30, 1e-5)])
def test_frechet_is_pytorch_fids(peer, n, m, tolerance):
    """Tight where covariances have full rank; where not, as tight as pytorch-fid's matrix root is exact."""
    a, b = normal(n, 96, seed=1) * torch.linspace(0.1, 2, 96), normal(m, 96, seed=2).exp()
    moments = [(x.numpy().mean(0), np.cov(x.numpy(), rowvar=False)) for x in (a, b)]
    assert frechet_distance(a, b) == pytest.approx(
        peer.calculate_frechet_distance(*moments[0], *moments[1]), rel=tolerance
    )


# --- kernel ------------------------------------------------------------------------------------------------------


def mmd_by_loops(x, y):
    def k(u, v):
        return (sum(float(a) * float(b) for a, b in zip(u, v)) / len(u) + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(u, v) for u in x for v in y) / (n * m)


def test_kernel_distance_is_the_double_loop():
    for n, m in ((7, 5), (2, 9)):
        a, b = normal(n, 3, seed=1), normal(m, 3, seed=2) + 0.5
        expected = mmd_by_loops(a, b)
        assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-5)
        assert kernel_distance(a, b, within_b=mean_kernel(b)) == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_in_blocks_of_rows():
    a, b = normal(2100, 2, seed=1), normal(1500, 2, seed=2) + 1
    k = [(x @ y.T / 2 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = [(m.sum() - m.trace()) / (len(m) * (len(m) - 1)) for m in k[:2]]
    assert mean_kernel(b).item() == pytest.approx(within[1].item(), rel=1e-6)
    found = kernel_distance(a, b)
    assert found == pytest.approx((sum(within) - 2 * k[2].mean()).item(), rel=1e-5)
    h = k[0] - k[2].mean(1)[:, None] - k[2].mean(1) + within[1]
    assert found.error == pytest.approx(error_by_components(h), rel=1e-4)


def error_by_components(h):
    """From the matrix of h: what each sample adds, by least squares over the pairs, and what is left in each pair."""
    n = len(h)
    i, j = torch.triu_indices(n, n, 1)
    pairs = h[i, j] - h[i, j].mean()
    alone = torch.zeros(n, dtype=h.dtype).index_add(0, i, pairs).index_add(0, j, pairs) / (n - 2)
    left = (pairs - alone[i] - alone[j]).square().sum() / (n * (n - 3) / 2)
    return (4 * (alone.var() - left / (n - 2)).clamp(min=0) / n + 2 * left / (n * (n - 1))).sqrt().item()


def test_kernel_distance_has_its_known_mean():
    """For D = 1 it compares three moments: 3 (m1 - n1)^2 + 3 (m2 - n2)^2 + (m3 - n3)^2; N(0, 1) against N(1, 1)."""
    found = kernel_distance(normal(4000, 1, seed=1), normal(4000, 1, seed=2) + 1)
    assert found == pytest.approx(3 * 1 + 3 * 1 + 16, rel=0.1)


def test_kernel_distance_is_unbiased():
    """0 on average for one distribution, even at 10 samples; with the diagonal left in it would be far from that."""
    a, b = normal(300, 10, 8, seed=1), normal(300, 10, 8, seed=2)
    found = torch.tensor([kernel_distance(x, y) for x, y in zip(a, b)])
    error = found.std() / 300**0.5
    kernel = (a @ a.mT / 8 + 1) ** 3
    diagonal = kernel.diagonal(dim1=1, dim2=2).mean() - (kernel.sum() - kernel.diagonal(dim1=1, dim2=2).sum()) / 27000
    assert found.mean().abs() < 4 * error
    assert (found < 0).any()
    assert 2 * diagonal / 10 > 20 * error  # the bias of the plain means, which this test would see


# --- standard errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, m, width", [(12, 30, 5), (8, 30, 20), (30, 9, 20), (3, 4, 2)])
def test_the_frechet_error_is_the_jackknife(n, m, width):
    """Each left out in turn; also where that lowers the rank."""
    a, b = normal(n, width, seed=1) * torch.arange(1, width + 1), normal(m, width, seed=2) @ normal(width, width) + 1
    without = torch.tensor([frechet_by_eigenvalues(a[torch.arange(n) != i], b) for i in range(n)])
    expected = ((n - 1) * without.var(correction=0)).sqrt().item()
    assert frechet_distance(a, b).error == pytest.approx(expected, rel=1e-4)
    assert frechet_distance(a, fit_gaussian(b)).error == pytest.approx(expected, rel=1e-4)


def lognormal(rng, n, spread):
    return (torch.randn(n, len(spread), generator=rng) * spread / 2).exp()


def gaussian(rng, n, spread):
    return torch.randn(n, len(spread), generator=rng) * 1.3 * spread + 0.2


def real(rng, n, spread):
    return torch.randn(n, len(spread), generator=rng) * spread


REDRAWN = [(lognormal, 80, 6), (gaussian, 60, 8), (gaussian, 30, 48), (real, 60, 8), (real, 30, 48)]


@pytest.mark.parametrize("draw, n, width", REDRAWN, ids=lambda x: getattr(x, "__name__", str(x)))
def test_stated_errors_are_the_scatter_of_redraws(draw, n, width):
    """240 new sets against one reference, of more and of fewer samples than dimensions, off the floor and on it."""
    rng, spread = torch.Generator().manual_seed(0), torch.linspace(0.3, 1, width)
    reference = real(rng, 1500, spread)
    fixed, within = fit_gaussian(reference), mean_kernel(reference)
    kd, fd = [], []
    for _ in range(240):
        features = draw(rng, n, spread)
        kd.append(kernel_distance(features, reference, within_b=within))
        fd.append(frechet_distance(features, fixed))
    kd_ratio, fd_ratio = (torch.tensor([x.error for x in v]).mean() / torch.tensor(v).std() for v in (kd, fd))
    assert 3 / 4 < kd_ratio < 4 / 3, kd_ratio
    assert 3 / 4 < fd_ratio < (1.6 if draw is real else 4 / 3), fd_ratio  # on the floor it is known to be too wide


def test_too_few_samples_tell_no_error():
    b = normal(9, 4, seed=2)
    assert kernel_distance(normal(3, 4), b).error == frechet_distance(normal(2, 4), b).error == math.inf
    assert math.isnan(frechet_distance(fit_gaussian(normal(9, 4)), b).error)
    result = evaluate(normal(3, 1280).float(), normal(9, 1280, seed=1).float())
    assert result["kd_e_error"] is result["precision"] is result["recall"] is None and result["fd_e_error"] > 0
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_an_estimate_is_a_number_with_an_error():
    found = Estimate(1.5, 0.25)
    assert (found, found.error, found - 0.5, f"{found:.2f}", str(found)) == (1.5, 0.25, 1.0, "1.50", "1.5 ± 0.25")
    assert json.dumps(found) == "1.5" and math.isnan(Estimate(1.0).error)


# --- generated against real --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes():
    return render(0, range(240), 32)


@pytest.fixture(scope="module")
def reference(scenes):
    return Reference(scenes, seed=1)


def test_distances_grow_with_blur_and_noise(reference, scenes):
    fresh = to_float(render(0, range(5000, 5100), 32))
    noise = normal(*fresh.shape).float()
    blurs = [
        torch.from_numpy(gaussian_filter(fresh.numpy(), (0, 0, sigma, sigma))) if sigma else fresh
        for sigma in (0, 0.5, 1, 2)
    ]
    for series in (blurs, [fresh + s * noise for s in (0, 0.1, 0.25, 0.5)]):
        found = [evaluate(((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8), reference) for x in series]
        for key in ("fd_e", "kd_e"):
            values = [result[key] for result in found]
            assert values == sorted(values), (key, values)
        assert found[0]["fd_e"] == pytest.approx(found[0]["fd_e_floor"], rel=0.1)  # fresh pictures are at the floor
        assert found[-1]["fd_e"] > 1.5 * found[-1]["fd_e_floor"]
        assert len({result["fd_e_floor"] for result in found}) == 1


def test_evaluation_is_what_it_says(reference):
    """Compared with the rest of the reference, beside what the pictures put aside score: by hand, from features."""
    generated = normal(100, 1280).abs().float()
    result = evaluate(generated, reference)
    order = torch.randperm(240, generator=torch.Generator().manual_seed(1))
    aside, rest = reference.features[order[:100]], reference.features[order[100:]]
    assert result["fd_e"] == pytest.approx(frechet_by_eigenvalues(generated, rest), rel=1e-5)
    assert result["fd_e_floor"] == pytest.approx(frechet_by_eigenvalues(aside, rest), rel=1e-5)
    for name, features in (("kd_e", generated), ("kd_e_floor", aside)):
        expected = kernel_distance(features, rest)
        assert (result[name], result[f"{name}_error"]) == (expected, expected.error)
    assert result["fd_e_error"] == pytest.approx(frechet_distance(generated, rest).error, rel=1e-6)
    assert (result["precision"], result["recall"]) == precision_recall(generated, rest)
    assert (result["precision_real"], result["recall_real"]) == precision_recall(aside, rest)
    assert (result["n_generated"], result["n_reference"], result["note"]) == (100, 140, "")
    assert json.loads(json.dumps(result)) == result


def test_the_pictures_put_aside_score_the_floor(reference):
    aside, _ = reference.split(90)
    result = evaluate(aside, reference)
    assert result["fd_e"] == result["fd_e_floor"] and result["kd_e"] == result["kd_e_floor"]
    floor = noise_floor(reference, 90)
    assert (floor["fd_e"], floor["kd_e"]) == (result["fd_e"], result["kd_e"])
    assert (floor["n"], floor["n_reference"]) == (90, 150)


def test_pictures_and_features_evaluate_alike(reference, scenes):
    real, made = scenes[:100], render(0, range(900, 920), 32)
    expected = evaluate(made, Pictures(images=real, name="scenes"), seed=1)
    features = Reference(reference.features[:100], seed=1)
    for generated in (pooled_features(made), Pictures(images=made)):
        found = evaluate(generated, features)
        assert found["fd_e"] == pytest.approx(expected["fd_e"], rel=1e-5)
        assert found["kd_e"] == pytest.approx(expected["kd_e"], abs=1e-5)
        assert found["fd_e_floor"] == pytest.approx(expected["fd_e_floor"], rel=1e-5)


def test_a_small_reference_is_said_to_be(reference):
    result = evaluate(normal(200, 1280).float(), reference)
    assert (result["n_generated"], result["n_reference"]) == (120, 120)
    assert result["note"] == "compared 120 of 200: a reference of 240 has no floor for more"


def test_copies_are_never_compared_with_themselves(reference):
    """As many generated as real pictures, one made from the other: perfect reconstructions score just the floor."""
    result = evaluate(reference.features.clone(), reference)
    assert result["fd_e"] == result["fd_e_floor"] > 1
    assert result["n_generated"] == 120


def test_the_seed_decides_the_split(scenes, reference):
    floors = [noise_floor(Reference(reference.features, seed=seed))["fd_e"] for seed in (1, 1, 2)]
    assert floors[0] == floors[1] != floors[2]
    assert noise_floor(reference.features, seed=2)["fd_e"] == floors[2]
    assert floors[2] == pytest.approx(floors[0], rel=0.1)


def test_a_limited_reference_is_a_random_sample():
    features = torch.arange(100).float()[:, None].repeat(1, 8)
    kept = Reference(features, limit=40, seed=2).features[:, 0]
    assert len(set(kept.tolist())) == 40
    assert kept.max() > 80 and kept.min() < 20
    assert len(Reference(features, limit=400)) == 100


# --- FID ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inception_state():
    """Random weights of the right shapes whose activations neither vanish nor explode."""
    from unittest.mock import patch

    from pytorch_fid import inception
    from torchvision.models.inception import Inception3

    with (
        patch.object(inception, "load_state_dict_from_url", lambda *args, **kwargs: {}),
        patch.object(Inception3, "load_state_dict", lambda *args, **kwargs: None),
    ):
        state = inception.fid_inception_v3().state_dict()
    rng = torch.Generator().manual_seed(0)
    for value in state.values():
        if value.ndim == 4:
            value.copy_(torch.randn(value.shape, generator=rng) * (2 / value[0].numel()) ** 0.5)
    return state


def test_fids_floor_is_that_of_real_pictures_put_aside(inception_state, tmp_path):
    torch.save(inception_state, tmp_path / "weights.pth")
    real = render(1, range(9), 64)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    floor = fid_floor(real, 4, tmp_path / "weights.pth", seed=3)
    assert floor == pytest.approx(fid(real[order[:4]], real[order[4:]], tmp_path / "weights.pth"))
    assert floor > 1e-3
    with pytest.raises(ValueError, match="n=5 for a reference of 9; expected 2 to half of it, 4"):
        fid_floor(real, 5, tmp_path / "weights.pth")


def test_fid_is_pytorch_fids(inception_state, peer, monkeypatch, tmp_path):
    """From the same PNG files through pytorch-fid's own reading, network, statistics and distance.

    Its matrix root of 2048 x 2048 would take 20 seconds, so its distance is given the statistics in coordinates of the
    22 dimensions in which 22 pictures' features lie, which no distance can tell from the original ones.
    """
    from pytorch_fid import inception

    torch.save(inception_state, tmp_path / "weights.pth")
    sets = [render(1, range(10), 64), 255 - render(2, range(12), 64)]
    found = fid(*sets, tmp_path / "weights.pth", batch_size=8)

    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *args, **kwargs: inception_state)
    net = inception.InceptionV3()
    activations = []
    for images in sets:
        files = [tmp_path / f"{len(images)}-{i}.png" for i in range(len(images))]
        for file, image in zip(files, images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)
        activations.append(peer.get_activations(files, net, batch_size=5, num_workers=0))
    axes = np.linalg.qr(np.concatenate(activations).T)[0]
    monkeypatch.setattr(peer, "get_activations", lambda x, *args: x @ axes)
    moments = [peer.calculate_activation_statistics(x, net) for x in activations]
    expected = peer.calculate_frechet_distance(*moments[0], *moments[1])
    assert expected > 1e-3
    assert found == pytest.approx(expected, rel=1e-5)


def test_weights_in_the_hubs_cache_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = tmp_path / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    path.parent.mkdir()
    path.touch()
    assert inception.inception_weights() == path


def test_missing_weights_are_one_line_that_says_how_to_get_them(monkeypatch, tmp_path, scenes):
    def offline(*args, **kwargs):
        raise URLError("Name or service\nnot known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    (tmp_path / "wrong.pth").write_bytes(b"no weights")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    for weights, says in (
        (None, r"could not be downloaded \(.*not known.*\): get https://.*pass its path as weights, or save it as"),
        (tmp_path / "none.pth", r"no file .*none\.pth; expected Inception's weights, to be had from https://"),
        (tmp_path / "wrong.pth", r"wrong\.pth does not hold pytorch-fid's Inception weights"),
        (tmp_path / "other.pth", r"other\.pth does not hold pytorch-fid's Inception weights"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            fid(scenes[:4], scenes[:4], weights)
        assert "\n" not in str(error.value)


# --- picture against picture -------------------------------------------------------------------------------------


def test_psnr_of_a_constant_error():
    a = torch.full((3, 3, 16, 16), 100, dtype=torch.uint8)
    assert psnr(a, a + 5) == pytest.approx(20 * math.log10(255 / 5), abs=1e-4)
    assert psnr(to_float(a), to_float(a + 5)) == pytest.approx(20 * math.log10(255 / 5), abs=1e-3)
    assert psnr(a, a) == math.inf
    half = torch.cat([a, a + 5])  # one mean over all: half the error, not the mean of infinity and 34 dB
    assert psnr(torch.cat([a, a]), half) == pytest.approx(10 * math.log10(255**2 / 12.5), abs=1e-4)


def test_ssim_of_flat_pictures():
    """Without structure only the means remain: (2ab + C1) / (a^2 + b^2 + C1), C1 = (0.01 * 255)^2."""
    a, b = torch.full((2, 3, 24, 24), 60, dtype=torch.uint8), torch.full((2, 3, 24, 24), 180, dtype=torch.uint8)
    expected = (2 * 60 * 180 + 2.55**2) / (60**2 + 180**2 + 2.55**2)
    assert ssim(a, b) == pytest.approx(expected, rel=1e-9)
    assert ssim(to_float(a), to_float(b)) == pytest.approx(expected, abs=1e-6)
    assert ssim(a, a) == pytest.approx(1, abs=1e-6)


def test_ssim_is_the_papers_formula():
    a, b = render(1, range(70), 32), render(1, range(70), 32).roll(1, -1)

    def mean(x):  # the paper's 11 x 11 Gaussian window, where it fits into the picture
        return gaussian_filter(x, (0, 0, 1.5, 1.5), truncate=3.5)[..., 5:-5, 5:-5]

    x, y = a.double().numpy(), b.double().numpy()
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 2.55**2, 7.65**2
    expected = ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
    assert ssim(a, b) == pytest.approx(expected, rel=1e-9)
    assert ssim(to_float(a), to_float(b)) == pytest.approx(expected, abs=1e-5)


def test_a_lead_in_psnr_has_the_error_of_a_jackknife():
    original = torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    loud = torch.rand(200, 1, 1, 1, generator=torch.Generator().manual_seed(1))  # some pictures are hard for both
    noise = torch.randn(2, *original.shape, generator=torch.Generator().manual_seed(2))
    a, b = original + 0.1 * loud * noise[0], original + 0.15 * loud * noise[1]
    lead, error = psnr_lead(a, b, original)
    assert lead == pytest.approx(psnr(a, original) - psnr(b, original), abs=1e-9)
    assert lead == pytest.approx(20 * math.log10(1.5), abs=3 * error)
    left_out = [psnr_lead(*(x[torch.arange(200) != i] for x in (a, b, original)))[0] for i in range(200)]
    jackknife = math.sqrt(199 * torch.tensor(left_out, dtype=torch.float64).var(correction=0).item())
    assert error == pytest.approx(jackknife, rel=0.03)
    assert psnr_lead(b, a, original) == pytest.approx((-lead, error))
    with pytest.raises(ValueError, match="expected two or more that differ"):
        psnr_lead(original, b, original)


def test_psnr_and_ssim_are_torchmetrics(scenes):
    from torchmetrics.functional import image

    a, b = scenes[:20], scenes[20:40]
    assert psnr(a, b) == pytest.approx(image.peak_signal_noise_ratio(a.double(), b.double(), 255.0).item(), abs=1e-5)
    _, whole = image.structural_similarity_index_measure(
        a.double(), b.double(), data_range=255.0, return_full_image=True
    )
    inside = whole[..., 5:-5, 5:-5]  # without the border, which torchmetrics' versions treat each in its own way
    assert ssim(a, b) == pytest.approx(inside.mean().item(), rel=1e-6)


@pytest.mark.parametrize("u, v, ring", [(0, 5, 5), (3, 4, 5), (7, 0, 7), (1, 1, 1)])
def test_spectrum_of_one_wave(u, v, ring):
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    wave = 0.8 * torch.cos(2 * math.pi * (u * rows + v * columns) / 32 + 0.3).expand(2, 3, 32, 32)
    found = power_spectrum(wave)
    energy = found.power * found.modes
    assert energy[ring].item() == pytest.approx(0.8**2 / 2, rel=1e-5)
    assert energy.sum() - energy[ring] < 1e-10
    assert found.frequency.tolist() == list(range(len(energy)))


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 4, 7, 7), (300, 1, 8, 8)])
def test_spectrum_keeps_all_the_power(shape):
    x = normal(*shape).float()
    found = power_spectrum(x)
    assert (found.power * found.modes).sum().item() == pytest.approx(x.double().square().mean().item(), rel=1e-10)
    assert found.modes.sum() == shape[-1] ** 2 and len(found.power) == round(shape[-1] // 2 * 2**0.5) + 1
    constant = power_spectrum(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))
    assert constant.power[0].item() == pytest.approx(1) and constant.power[1:].max() < 1e-20


def test_spectrum_of_white_noise_is_flat():
    found = power_spectrum(normal(400, 3, 16, 16) * 2)
    assert found.power.numpy() == pytest.approx(4 / 256, rel=0.1)


def test_copies_are_found_in_pixels(scenes):
    train, made = scenes[:200], torch.cat([render(0, range(7000, 7005), 32), scenes[[3, 150, 42]]])
    made[-1, 0, 0, 0] += 12
    found = nearest_neighbours(made, Pictures(images=train), 4, batch_size=3)
    every = (made[:, None].double() - train[None].double()).square().mean((2, 3, 4)).sqrt()
    expected = every.sort(1)
    assert (found.distance - expected.values[:, :4]).abs().max() < 1e-3
    assert (found.index == expected.indices[:, :4]).all()
    assert found.index[-3:, 0].tolist() == [3, 150, 42]
    assert found.distance[-3:, 0].tolist() == pytest.approx([0, 0, 12 / 3072**0.5], abs=1e-6)
    assert found.distance[-3:-1, 0].max() == 0


def test_copies_are_found_in_features(reference, scenes):
    made = torch.cat([scenes[[7, 99]], render(0, range(7000, 7003), 32)])
    found = nearest_neighbours(made, reference.features, 3, space="features")
    every = torch.cdist(pooled_features(made).double(), reference.features.double()).sort(1)
    assert found.index[:2, 0].tolist() == [7, 99] and found.distance[:2, 0].max() < 1e-2
    assert (found.index == every.indices[:, :3]).all()
    assert (found.distance - every.values[:, :3]).abs().max() < 1e-2


# --- mistakes ----------------------------------------------------------------------------------------------------

U8 = torch.zeros(6, 3, 16, 16, dtype=torch.uint8)


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: frechet_distance(torch.rand(1, 8), torch.rand(9, 8)), "got 1 sample; .* at least 2"),
        (lambda: frechet_distance(torch.rand(5, 8), torch.rand(9, 7)), "features of 8 and 7 values"),
        (lambda: frechet_distance(U8, U8), r"uint8 tensor \(6, 3, 16, 16\); expected float features"),
        (lambda: frechet_distance(torch.full((4, 2), math.nan), torch.rand(4, 2)), "NaN"),
        (lambda: kernel_distance(torch.rand(5, 8), torch.rand(9, 7)), "features of 8 and 7 values"),
        (lambda: evaluate(U8.float(), U8), r"generated: got a float32 tensor .*; expected uint8"),
        (lambda: evaluate(torch.rand(1, 1280), torch.rand(9, 1280)), "got 1 generated picture; .* at least 2"),
        (lambda: evaluate(torch.rand(5, 1280), torch.rand(3, 1280)), "a reference of 3 pictures; expected at least 4"),
        (lambda: noise_floor(torch.rand(9, 1280), 5), "n=5 for a reference of 9; expected at most half: 4"),
        (lambda: fid(U8.float(), U8), "generated: got a float32 tensor"),
        (lambda: psnr(U8, U8[:3]), r"\(6, 3, 16, 16\) and a uint8 tensor \(3, 3, 16, 16\); expected two"),
        (lambda: psnr(U8, U8.float()), "a uint8 tensor .* and a float32 tensor .* of one shape and type"),
        (lambda: psnr(U8.long(), U8.long()), "int64 .* expected uint8, or float"),
        (lambda: ssim(torch.rand(2, 3, 16, 16), 255 * torch.rand(2, 3, 16, 16)), "or grey levels as floats"),
        (lambda: psnr(255 * torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)), "or grey levels as floats"),
        (lambda: ssim(U8[..., :8], U8[..., :8]), "16 x 8; SSIM's window needs sides of at least 11"),
        (lambda: power_spectrum(U8[..., :8]), r"\(6, 3, 16, 8\); expected square"),
        (lambda: nearest_neighbours(U8, U8[..., :8, :8]), "pictures of 16 x 16 and training pictures of 8 x 8"),
        (lambda: nearest_neighbours(U8, U8, 7), "k=7; expected 1 to 6"),
        (lambda: nearest_neighbours(U8, U8, space="colour"), "space='colour'; expected 'pixels' or 'features'"),
        (lambda: nearest_neighbours(U8.float(), U8), "generated: got a float32"),
    ],
)
def test_mistakes_are_named_in_one_line(wrong, says):
    with pytest.raises(ValueError, match=says) as error:
        wrong()
    assert "\n" not in str(error.value)


def test_a_references_features_are_kept_of_those_pictures_alone_that_are_used(tmp_path, monkeypatch):
    pictures = torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = Reference(pictures, limit=6, device="cpu")
    kept = Reference(pictures, limit=6, device="cpu", cache=tmp_path)
    assert torch.equal(plain.features, kept.features) and torch.equal(plain.order, kept.order)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(distances, "pooled_features", None)  # so that computing them again would fail
    assert torch.equal(Reference(pictures, limit=6, device="cpu", cache=tmp_path).features, kept.features)
    with pytest.raises(TypeError):
        Reference(pictures, limit=7, device="cpu", cache=tmp_path)
