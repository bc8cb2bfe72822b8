import numpy as np
import pytest
import torch
from torch import nn

from actionkit.aggregators.pca import PCAWhiten
from actionkit.contracts import Features, Fitting, Shape

C = 6


def rows(count=200, seed=0, away=0.0):
    """[N, C] float64: channels that depend on each other, far from 0."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, C)) * np.array([5, 3, 2, 1, 0.5, 0.2]) @ rng.normal(size=(C, C))
    return x + away


def batches(x, sizes=(3, 40)):
    """Vectors [N, C] as batches of clips of one step; targets are not asked for."""
    ends = np.cumsum([*sizes, len(x) - sum(sizes)])
    for part in np.split(x, ends[:-1]):
        given = torch.from_numpy(part).float()[:, None, :, None, None]
        mask = torch.ones(len(part), 1, dtype=torch.bool)
        yield Fitting(Features(given, mask), torch.full((len(part),), -1), ["g"] * len(part))


def fitted(x, components=4, **options):
    part = PCAWhiten(Shape(1, C, 1, 1), components=components, **options)
    said = part.fit_from(list(batches(x)))
    return part, said


def project(part, x):
    given = torch.from_numpy(x).float()[:, None, :, None, None]
    mask = torch.ones(len(x), 1, dtype=torch.bool)
    return part(Features(given, mask)).x.flatten(1).numpy()


@pytest.mark.parametrize("whiten", [True, False])
def test_it_is_scikit_learn_s_up_to_sign(whiten):
    decomposition = pytest.importorskip("sklearn.decomposition")
    x, others = rows().astype(np.float32), rows(seed=1)
    part, said = fitted(x, whiten=whiten)
    machine = decomposition.PCA(4, whiten=whiten).fit(x.astype(np.float64))
    wanted, got = machine.transform(others), project(part, others)
    sign = np.sign((wanted * got).sum(0))
    np.testing.assert_allclose(got, wanted * sign, rtol=1e-4, atol=1e-4)
    share = machine.explained_variance_ratio_.sum()
    assert said == f"4 components hold {share:.3f} of the variance of 200 samples"


def test_what_is_whitened_has_mean_0_and_covariance_1():
    x = rows()
    part, _ = fitted(x, components=C)
    got = project(part, x).astype(np.float64)
    np.testing.assert_allclose(got.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(got.T), np.eye(C), atol=1e-3)


def test_far_from_zero_nothing_is_lost():
    far = rows(away=1e4).astype(np.float32)
    x = far.astype(np.float64)
    part, _ = fitted(far, components=3, whiten=False)
    vectors = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:3]
    axes = part.axes.double().numpy()
    np.testing.assert_allclose(np.abs((axes * vectors).sum(1)), 1, atol=1e-6)
    np.testing.assert_allclose(part.mean.numpy(), x.mean(0), rtol=1e-6)


def test_signs_are_no_matter_of_chance():
    x = rows()
    one, _ = fitted(x, whiten=False)
    turned, _ = fitted(x[::-1].copy(), whiten=False)
    largest = one.axes.gather(1, one.axes.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()
    torch.testing.assert_close(one.axes, turned.axes, atol=1e-5, rtol=1e-5)


def test_every_place_of_every_real_step_is_a_sample():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 4, C, 2, 3, generator=generator)
    mask = torch.rand(5, 4, generator=generator) < 0.7
    x[~mask] = torch.nan
    part = PCAWhiten(Shape(4, C, 2, 3), components=2)
    said = part.fit_from([Fitting(Features(x, mask), torch.zeros(5), ["g"] * 5)])
    samples = x.movedim(2, -1)[mask].flatten(0, -2)
    assert said.endswith(f"of {len(samples)} samples")
    same, _ = fitted(samples.double().numpy(), components=2)
    torch.testing.assert_close(part.axes, same.axes, atol=1e-5, rtol=1e-5)
    out = part(Features(x, mask))
    assert out.x.shape == (5, 4, 2, 2, 3)
    assert part.out == Shape(4, 2, 2, 3)
    at = part(Features(x[:, :, :, 1:, 2:], mask)).x
    torch.testing.assert_close(out.x[mask][:, :, 1:, 2:], at[mask])


def test_eps_bounds_what_hardly_varies():
    x = rows()
    x[:, 3] = x[:, 2]  # one dimension less
    part, _ = fitted(x, components=C, eps=0.5)
    assert part.axes.norm(dim=1).max() <= 0.5**-0.5 + 1e-6


def test_gradients_go_through_to_what_stands_before():
    part, _ = fitted(rows())
    x = torch.randn(2, 1, C, 1, 1, requires_grad=True)
    part(Features(x, torch.ones(2, 1, dtype=torch.bool))).x[:, :, 1].sum().backward()
    torch.testing.assert_close(x.grad.flatten(1), part.axes[1].expand(2, -1))
    assert not list(part.parameters())


def test_before_it_is_fitted_it_gives_the_first_channels():
    x = rows(5)
    part = PCAWhiten(Shape(1, C, 1, 1), components=4)
    np.testing.assert_array_equal(project(part, x), x[:, :4].astype(np.float32))


def test_in_half_precision_it_projects_in_single():
    part, _ = fitted(rows(away=100))
    x = rows(4, seed=2, away=100)
    with torch.autocast("cpu", torch.bfloat16):
        half = project(part, x)
        assert nn.functional.linear(torch.ones(1, C), part.axes).dtype == torch.bfloat16
    np.testing.assert_array_equal(half, project(part, x))


@pytest.mark.parametrize("components", [0, C + 1])
def test_components_that_there_cannot_be(components):
    text = f"^finds at most .* components as there are channels, {C}, but .* for {components}$"
    with pytest.raises(ValueError, match=text):
        PCAWhiten(Shape(1, C, 1, 1), components=components)


def test_too_few_samples():
    with pytest.raises(ValueError, match=r"^needs more samples than components, 4, but .* give 4$"):
        PCAWhiten(Shape(1, C, 1, 1), components=4).fit_from(list(batches(rows(4), (1, 1))))


def test_samples_that_are_no_numbers():
    x = rows()
    x[70, 1] = np.nan
    with pytest.raises(ValueError, match=r"^gets features that are NaN or infinite"):
        fitted(x)
