"""Slope, shift and the family against closed forms and the derivatives of Appendices C and D."""

import numpy as np
import pytest
import reference
import torch

from vmp.power_norm import FAMILY, AsinhE, Gamma, LearnedPowerNorm, MaxExp, SigmE

VALUES = [-8.0, -1.5, -0.3, 1e-3, 0.2, 1.0, 4.0]


@pytest.mark.parametrize("m", VALUES)
@pytest.mark.parametrize("n", VALUES)
def test_equation_2_and_its_derivatives(m, n):
    """a'(m), b'(n) as Appendix C prints them."""
    f = LearnedPowerNorm(m=m, n=n).double()
    with torch.no_grad():
        f.m.fill_(m), f.n.fill_(n)
    alpha, beta, gamma, epsilon = 5.0, 0.45, 0.6, 0.1
    assert f.slope.item() == pytest.approx(reference.slope(m), rel=1e-12)
    assert f.shift.item() == pytest.approx(reference.shift(n), rel=1e-12)
    (a,) = torch.autograd.grad(f.slope, f.m)
    (b,) = torch.autograd.grad(f.shift, f.n)
    t = np.tanh(m)
    a_prime = -alpha * beta * np.sign(t) * (1 - t**2) / (beta * abs(t) + epsilon) ** 2
    assert a.item() == pytest.approx(a_prime, rel=1e-9)
    assert b.item() == pytest.approx(gamma * (1 - np.tanh(n) ** 2), rel=1e-9)


@pytest.mark.parametrize("m", VALUES)
@pytest.mark.parametrize("n", VALUES)
def test_equations_19_and_20(m, n):
    """df/dm and df/dn in closed form. Eq. 19 as printed lacks the factor -sgn(m): a falls as |m| grows, so the sign of
    Appendix C's a'(m) has to reach it; with the factor it is the derivative, which finite differences confirm."""
    alpha, beta, gamma, epsilon = 5.0, 0.45, 0.6, 0.1
    d = torch.linspace(-1, 1, 21, dtype=torch.float64)
    f = LearnedPowerNorm().double()
    with torch.no_grad():
        f.m.fill_(m), f.n.fill_(n)
    jac_m, jac_n = (
        torch.stack([torch.autograd.grad(y, p, retain_graph=True)[0] for y in f(d)]).flatten()
        for p in (f.m, f.n)
    )
    x = d.numpy()
    g = reference.slope(m) * (x - reference.shift(n))
    bell = np.exp(-np.abs(g)) / (1 + np.exp(-np.abs(g))) ** 2
    denominator = beta * abs(np.tanh(m)) + epsilon
    printed_19 = bell * alpha * beta * (1 - np.tanh(m) ** 2) * (x - gamma * np.tanh(n)) / denominator**2
    printed_20 = bell * -alpha * gamma * (1 - np.tanh(n) ** 2) / denominator
    np.testing.assert_allclose(jac_m, -np.sign(m) * printed_19, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jac_n, printed_20, rtol=1e-9, atol=1e-12)
    h = 1e-6
    finite = (reference.power_norm(x, m + h, n) - reference.power_norm(x, m - h, n)) / (2 * h)
    if abs(m) > h:
        np.testing.assert_allclose(jac_m, finite, atol=1e-6)


def test_bounds():
    """a in [9.09.., 50], b in (-0.6, 0.6), both reached in the limit and never passed."""
    for m in torch.linspace(-30, 30, 401).tolist():
        f = LearnedPowerNorm(m=m, n=m)
        assert 5 / 0.55 - 1e-4 <= f.slope.item() <= 50 + 1e-4
        assert -0.6 - 1e-6 <= f.shift.item() <= 0.6 + 1e-6
    assert LearnedPowerNorm(m=0.0, n=0.0).slope.item() == pytest.approx(50)
    assert LearnedPowerNorm(m=30.0, n=0.0).slope.item() == pytest.approx(9.0909, abs=1e-4)
    assert LearnedPowerNorm(m=0.0, n=2.0).shift.item() < 0.6


def test_equation_15_holds_for_the_constants():
    """alpha = 5 is 3.6 times the bound, and f(-1) is about 0, f(1) about 1, at the worst m and n."""
    assert 5 / max(0.55 / 0.4, 0.1 / 0.4) == pytest.approx(3.636, abs=1e-3)
    d = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    low, high = (
        LearnedPowerNorm(m=30.0, n=-30.0).double()(d)[0],
        LearnedPowerNorm(m=30.0, n=30.0).double()(d)[1],
    )
    assert low < 0.03
    assert high > 0.97


FORMULAS = {
    "gamma": lambda x, p: x**p,
    "maxexp": lambda x, p: 1 - (1 - x) ** p,
    "sigme": lambda x, p: 2 / (1 + np.exp(-p * x)) - 1,
    "asinhe": lambda x, p: np.arcsinh(p * x) / np.arcsinh(p),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("exponent", [1.0, 3.0, 10.0, 50.0])
@pytest.mark.parametrize("entry", ["magnitude", "affine"])
def test_family_formulas(name, exponent, entry):
    d = np.linspace(-1, 1, 101)
    x = np.abs(d) if entry == "magnitude" else (d + 1) / 2
    f = FAMILY[name](exponent, entry=entry)
    np.testing.assert_allclose(f(torch.from_numpy(d)), FORMULAS[name](x, exponent), atol=1e-5)


def test_gamma_below_one_lifts_small_motions_and_stays_finite():
    d = torch.tensor([0.0, 1e-8, 0.01, 0.25, 1.0], dtype=torch.float64, requires_grad=True)
    out = Gamma(0.5)(d)
    np.testing.assert_allclose(out.detach()[2:], [0.1, 0.5, 1.0], atol=1e-3)
    assert out[0] == 0
    (gradient,) = torch.autograd.grad(out.sum(), d)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("f", [Gamma(0.5), MaxExp(10.0), SigmE(10.0), AsinhE(10.0)], ids=str)
def test_family_is_well_behaved(f):
    """Rises, maps [0, 1] into [0, 1], and is 0 for a still pixel."""
    x = torch.linspace(0, 1, 201, dtype=torch.float64)
    y = f(x)
    assert y[0] == pytest.approx(0, abs=1e-9)
    assert (y.diff() >= 0).all()
    assert y.max() <= 1 + 1e-12
    assert y[-1] > 0.999
    torch.testing.assert_close(f(-x), y)  # magnitude: the sign does not matter


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gamma(0.0), "greater than 0"),
        (lambda: MaxExp(0.5), "at least 1"),
        (lambda: SigmE(float("inf")), "finite"),
        (lambda: AsinhE(1.0, entry="sign"), "magnitude, affine"),
    ],
)
def test_wrong_exponents_are_told(make, said):
    with pytest.raises(ValueError, match=said):
        make()
