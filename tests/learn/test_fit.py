"""Both fits keep the format's scale and their mathematics; the ReLU gate is found where it was planted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgesteer.errors import LearnError
from edgesteer.learn import Recipe
from edgesteer.learn.fit import BlockFit, fit_blocks, fit_constant, fit_relu
from edgesteer.learn.ridge import Ridge, Standard
from edgesteer.learn.rows import Rows

N, D = 1500, 24

FITS: dict[str, Callable[..., BlockFit | None]] = {
    "constant": fit_constant,
    "psr": lambda h, delta, cap=None: fit_relu(h, delta, 0.03, cap),
}


def planted(
    seed: int = 0, noise: float = 0.0, offset: float = 0.3
) -> tuple[np.ndarray, np.ndarray, BlockFit]:
    """h, delta and the map that made delta, with the gate open on a good part of the rows."""
    rng = np.random.default_rng(seed)
    h = (rng.standard_normal((N, D)) * rng.uniform(0.5, 20, D) + rng.normal(0, 5, D)).astype(np.float32)
    w = (rng.standard_normal(D) / h.std(axis=0) / np.sqrt(D)).astype(np.float32)
    b = np.array([offset - h.mean(axis=0) @ w], dtype=np.float32)
    z = rng.standard_normal(D).astype(np.float32)
    made = BlockFit(z, ((w[:, None], b),), 1.0)
    delta = applied(made, h) + noise * rng.standard_normal((N, D))
    return h, delta.astype(np.float32), made


def applied(fit: BlockFit, h: np.ndarray) -> np.ndarray:
    return fit.coefficient(h)[:, None] * fit.direction


def fitted(name: str, *args: Any) -> BlockFit:
    fit = FITS[name](*args)
    assert fit is not None
    return fit


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


every = pytest.mark.parametrize("name", FITS)


# -- what both share ---------------------------------------------------------------------------------


@every
def test_the_mean_coefficient_is_one_and_explained_is_what_it_says(name: str) -> None:
    h, delta, _ = planted(noise=0.3)
    fit = fitted(name, h, delta)
    assert fit.coefficient(h).mean() == pytest.approx(1, abs=1e-4)
    left, power = (np.square(x.astype(np.float64)).sum() for x in (delta - applied(fit, h), delta))
    assert fit.explained == pytest.approx(1 - left / power, abs=1e-4)
    assert 0 < fit.explained <= 1
    assert (fit.direction.dtype, fit.direction.shape) == (np.float32, (D,))
    assert [(W.shape, b.shape) for W, b in fit.layers] == ([((D, 1), (1,))] if name == "psr" else [])
    assert all(x.dtype == np.float32 for layer in fit.layers for x in layer)


@every
def test_a_constant_target_gives_the_constant(name: str) -> None:
    h, _, made = planted()
    delta = np.broadcast_to(made.direction, h.shape).copy()
    fit = fitted(name, h, delta)
    np.testing.assert_allclose(applied(fit, h), delta, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(fit.direction, made.direction, rtol=1e-3, atol=1e-3)
    assert fit.explained == pytest.approx(1, abs=1e-4)


@every
@pytest.mark.parametrize("factor", [1e-20, 7.0, 1e4])
def test_scale_of_delta_moves_into_the_direction_alone(name: str, factor: float) -> None:
    h, delta, _ = planted(noise=0.2)
    one, scaled = fitted(name, h, delta), fitted(name, h, (delta * factor).astype(np.float32))
    np.testing.assert_allclose(scaled.coefficient(h), one.coefficient(h), atol=1e-3)
    np.testing.assert_allclose(scaled.direction / factor, one.direction, rtol=1e-3, atol=1e-4)


@every
def test_units_of_h_do_not_matter(name: str) -> None:
    """The ridge weighs standardised h: rescaling and shifting a dimension changes no coefficient."""
    h, delta, _ = planted(noise=0.2)
    other = (h * np.linspace(0.1, 50, D) + 3).astype(np.float32)
    one, two = fitted(name, h, delta), fitted(name, other, delta)
    np.testing.assert_allclose(two.coefficient(other), one.coefficient(h), atol=5e-3)


@every
def test_order_of_rows_changes_rounding_alone(name: str) -> None:
    h, delta, _ = planted(noise=0.3)
    order = np.random.default_rng(3).permutation(N)
    one, two = fitted(name, h, delta), fitted(name, h[order], delta[order])
    np.testing.assert_allclose(two.direction, one.direction, rtol=1e-2, atol=1e-2)
    assert two.explained == pytest.approx(one.explained, abs=1e-3)


@every
def test_same_rows_same_bytes_and_inputs_stay(name: str) -> None:
    h, delta, _ = planted(noise=0.2)
    h.flags.writeable = delta.flags.writeable = False
    one, two = fitted(name, h, delta, 4.0), fitted(name, h.copy(), delta.copy(), 4.0)
    assert one.direction.tobytes() == two.direction.tobytes()
    for (W, b), (V, c) in zip(one.layers, two.layers, strict=True):
        assert (W.tobytes(), b.tobytes()) == (V.tobytes(), c.tobytes())


@every
def test_capped_rows_pull_no_harder_than_others(name: str) -> None:
    """One token with a massive delta turns the direction, unless it is capped."""
    h, delta, made = planted(noise=0.3)
    delta[7] = 1e4 * np.eye(D, dtype=np.float32)[0]
    assert cosine(fitted(name, h, delta).direction, made.direction) < 0.5
    assert cosine(fitted(name, h, delta, 2.0).direction, made.direction) > 0.98


@every
def test_a_cap_that_no_row_reaches_changes_nothing(name: str) -> None:
    h, delta, _ = planted(noise=0.3)
    one, two = fitted(name, h, delta), fitted(name, h, delta, 1e6)
    assert one.direction.tobytes() == two.direction.tobytes()


# -- each its own ------------------------------------------------------------------------------------


def test_the_constant_is_the_mean() -> None:
    delta = np.array([[1, 2], [3, -6], [2, 1]], dtype=np.float32)
    assert fitted("constant", delta, delta).direction.tolist() == [2, -1]


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_relu_is_found(seed: int) -> None:
    """On rows that were not fitted."""
    h, delta, made = planted(seed)
    fresh = h[N // 2 :]
    fit = fit_relu(h[: N // 2], delta[: N // 2], 1e-6, rounds=200)
    assert fit is not None
    error = np.abs(applied(fit, fresh) - applied(made, fresh)).max()
    assert error < 0.02 * np.abs(applied(made, fresh)).max()


def test_noise_does_not_turn_the_direction() -> None:
    h, delta, made = planted(noise=0.5)
    assert cosine(fitted("psr", h, delta).direction, made.direction) > 0.99


def test_where_the_gate_is_always_open_the_direction_is_the_constant() -> None:
    """Least squares with an intercept keeps the mean: a host that knows directions alone steers alike."""
    h, delta, _ = planted(offset=50.0)
    fit = fitted("psr", h, delta)
    assert (fit.coefficient(h) > 0).all()
    constant = fitted("constant", h, delta).direction
    np.testing.assert_allclose(fit.direction, constant, rtol=0.02, atol=1e-3)


def test_a_dimension_that_never_changes_is_no_division_by_zero() -> None:
    h, delta, _ = planted()
    h[:, 3] = 17.1
    W, _ = fitted("psr", h, delta).layers[0]
    assert np.isfinite(W).all()
    assert W[3, 0] == 0


def test_the_ridge_is_solved_as_lapack_solves_it() -> None:
    """And weighs a row of weight 2 as that row twice."""
    rng = np.random.default_rng(0)
    h, weight = rng.standard_normal((900, 600)).astype(np.float32), rng.uniform(0, 2, 900).astype(np.float32)
    X, y = Standard(h, weight).X, rng.standard_normal(900)
    gram = X.T.astype(np.float64) * weight @ X + 0.03 * weight.sum() * np.eye(600)
    np.testing.assert_allclose(
        Ridge(X, weight, 0.03).solve(y), np.linalg.solve(gram, X.T @ (weight * y)), atol=1e-5
    )


# -- bad input ---------------------------------------------------------------------------------------


@every
def test_one_row_is_the_constant_to_it(name: str) -> None:
    h, delta, _ = planted(offset=5)
    fit = fitted(name, h[:1], delta[:1])
    np.testing.assert_allclose(applied(fit, h[:1]), delta[:1], rtol=1e-5)
    np.testing.assert_allclose(fit.coefficient(h), 1, atol=1e-5)


@every
def test_nothing_to_learn_is_none(name: str) -> None:
    h, delta, _ = planted()
    assert FITS[name](h, np.zeros_like(delta)) is None
    delta = np.round(delta)  # so that the sums are exact
    both = np.concatenate([delta, -delta])
    assert FITS[name](np.concatenate([h, h]), both) is None


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["h", "delta"])
def test_nan_and_infinity_are_refused(name: str, value: float, where: str) -> None:
    h, delta, _ = planted()
    {"h": h, "delta": delta}[where].flat[-1] = value
    with pytest.raises(LearnError, match=f"in {where}"):
        FITS[name](h, delta)


@every
def test_shapes_that_do_not_fit_are_refused(name: str) -> None:
    h, delta, _ = planted()
    for bad in ((h[:-1], delta), (h[0], delta[0]), (h[:, :-1], delta)):
        with pytest.raises(LearnError, match=r"expected both \[rows, n_embd\]"):
            FITS[name](*bad)
    with pytest.raises(LearnError, match="none, expected at least one"):
        FITS[name](h[:0], delta[:0])


# -- all blocks --------------------------------------------------------------------------------------


def test_every_block_is_fitted_and_those_without_delta_are_left_out() -> None:
    h, delta, _ = planted(noise=0.2)
    fractions: list[float] = []
    with Rows.open([2, 5, 9], N, D) as rows:
        rows.put(2, 0, h, delta)
        rows.put(9, 0, h, -delta)
        fits = fit_blocks(rows, Recipe(), fractions.append)
    assert list(fits) == [2, 9]
    np.testing.assert_allclose(fits[9].direction, -fits[2].direction)
    assert fractions == sorted(fractions)


_WIDE = """
import resource, sys, numpy as np
from edgesteer.learn import Recipe
from edgesteer.learn.fit import fit_blocks
from edgesteer.learn.rows import Rows
n, d = 3000, 4096
with Rows.open([1], n, d, ram_bytes=0) as rows:
    rng = np.random.default_rng(0)
    for i in range(0, n, 500):
        h = rng.standard_normal((500, d), dtype=np.float32)
        rows.put(1, i, h, np.maximum(h[:, :1], 0) + 0.1 * h)
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert fit_blocks(rows, Recipe(method=sys.argv[1]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before)
"""


@pytest.mark.proof
@every
def test_a_block_4096_wide_is_fitted_in_bounded_memory(name: str) -> None:
    """Three times the rows' 49 MB (h, delta, X), three n_embd x n_embd matrices in float64, and 100 MB."""
    out = subprocess.run([sys.executable, "-c", _WIDE, name], capture_output=True, text=True, check=True)
    most = 3 * 4 * 3000 * 4096 + 3 * 8 * 4096**2 + (100 << 20)
    assert int(out.stdout) < most, f"{int(out.stdout) / 1e6:.0f} MB"
    assert most < 1.5e9
