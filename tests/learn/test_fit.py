"""The fit recovers what was planted, and its scale is the format's."""

from __future__ import annotations

import numpy as np
import pytest

from edgesteer.learn.fit import Rank1, fit_constant, fit_rank1

N, D = 1500, 24


def planted(seed: int = 0, noise: float = 0.0, offset: float = 0.3) -> tuple[np.ndarray, np.ndarray, Rank1]:
    """h, delta and the map that made delta, with the gate open on a good part of the rows."""
    rng = np.random.default_rng(seed)
    h = (rng.standard_normal((N, D)) * rng.uniform(0.5, 20, D) + rng.normal(0, 5, D)).astype(np.float32)
    w = (rng.standard_normal(D) / h.std(axis=0) / np.sqrt(D)).astype(np.float32)
    b = np.float32(offset - (h.mean(axis=0) @ w))
    z = rng.standard_normal(D).astype(np.float32)
    made = Rank1(w, b, z)
    delta = made.coefficient(h)[:, None] * z + noise * rng.standard_normal((N, D))
    return h, delta.astype(np.float32), made


def applied(fitted: Rank1, h: np.ndarray) -> np.ndarray:
    return fitted.coefficient(h)[:, None] * fitted.z


@pytest.mark.parametrize("seed", range(4))
def test_recovers_a_planted_rank_one_relu(seed: int) -> None:
    h, delta, made = planted(seed)
    fresh = h[N // 2 :]
    fitted = fit_rank1(h[: N // 2], delta[: N // 2], ridge=1e-6, rounds=200)
    assert fitted is not None
    error = np.abs(applied(fitted, fresh) - applied(made, fresh)).max()
    assert error < 0.02 * np.abs(applied(made, fresh)).max()


def test_noise_does_not_turn_the_direction() -> None:
    h, delta, made = planted(noise=0.5)
    fitted = fit_rank1(h, delta)
    assert fitted is not None
    cosine = fitted.z @ made.z / np.linalg.norm(fitted.z) / np.linalg.norm(made.z)
    assert cosine > 0.99


def test_mean_coefficient_is_one() -> None:
    h, delta, _ = planted(noise=0.3)
    fitted = fit_rank1(h, delta)
    assert fitted is not None
    assert fitted.coefficient(h).mean() == pytest.approx(1, abs=1e-4)


def test_where_the_gate_is_always_open_direction_is_the_constant_fit() -> None:
    """Least squares with an intercept keeps the mean: a host that knows directions alone gets the same push."""
    h, delta, _ = planted(offset=50.0)
    fitted = fit_rank1(h, delta)
    assert fitted is not None
    assert (fitted.coefficient(h) > 0).all()
    np.testing.assert_allclose(fitted.z, fit_constant(delta), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_scale_of_delta_moves_into_the_direction_alone(factor: float) -> None:
    h, delta, _ = planted(noise=0.2)
    one, scaled = fit_rank1(h, delta), fit_rank1(h, (delta * factor).astype(np.float32))
    assert one is not None
    assert scaled is not None
    np.testing.assert_allclose(scaled.coefficient(h), one.coefficient(h), atol=1e-3)
    np.testing.assert_allclose(scaled.z, one.z * factor, rtol=1e-3, atol=1e-4 * factor)


def test_units_of_h_do_not_matter() -> None:
    """The ridge weighs standardised h: rescaling and shifting a dimension changes no coefficient."""
    h, delta, _ = planted(noise=0.2)
    other = (h * np.linspace(0.1, 50, D) + 3).astype(np.float32)
    one, two = fit_rank1(h, delta), fit_rank1(other, delta)
    assert one is not None
    assert two is not None
    np.testing.assert_allclose(two.coefficient(other), one.coefficient(h), atol=5e-3)


def test_constant_is_the_mean() -> None:
    delta = np.array([[1, 2], [3, -6], [2, 1]], dtype=np.float32)
    assert fit_constant(delta).tolist() == [2, -1]
    assert fit_constant(delta).dtype == np.float32


def test_same_rows_same_bytes() -> None:
    h, delta, _ = planted(noise=0.2)
    one, two = fit_rank1(h, delta), fit_rank1(h.copy(), delta.copy())
    assert one is not None
    assert two is not None
    assert (one.w.tobytes(), one.b.tobytes(), one.z.tobytes()) == (
        two.w.tobytes(),
        two.b.tobytes(),
        two.z.tobytes(),
    )


def test_a_block_without_any_delta_is_dropped() -> None:
    h, delta, _ = planted()
    assert fit_rank1(h, np.zeros_like(delta)) is None


def test_a_dimension_that_never_changes_is_no_division_by_zero() -> None:
    h, delta, _ = planted()
    h[:, 3] = 17.0
    fitted = fit_rank1(h, delta)
    assert fitted is not None
    assert np.isfinite(fitted.w).all()
    assert fitted.w[3] == 0
