"""Every method keeps the format's scale and its own mathematics; the ReLU map is found where it was planted."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from edgesteer.errors import LearnError
from edgesteer.learn.methods import METHODS, BlockFit, Options, fit_blocks, method
from edgesteer.learn.methods.block_fit import explained
from edgesteer.learn.rows import Rows

N, D = 1500, 24
GATED = ("psr_relu", "psr_mlp")


def planted(
    seed: int = 0, noise: float = 0.0, offset: float = 0.3, bend: bool = False
) -> tuple[np.ndarray, np.ndarray, BlockFit]:
    """h, delta and the map that made delta, with the gate open on a good part of the rows."""
    rng = np.random.default_rng(seed)
    h = (rng.standard_normal((N, D)) * rng.uniform(0.5, 20, D) + rng.normal(0, 5, D)).astype(np.float32)
    w = (rng.standard_normal(D) / h.std(axis=0) / np.sqrt(D)).astype(np.float32)
    b = np.array([offset - h.mean(axis=0) @ w], dtype=np.float32)
    z = rng.standard_normal(D).astype(np.float32)
    layers = [(w[:, None], b)]
    if bend:  # both sides of a kink
        eye = np.ones((2, 1), dtype=np.float32)
        layers = [(np.stack([w, -w], axis=1), np.array([b[0], -b[0]])), (eye, np.zeros(1, np.float32))]
    made = BlockFit(z, tuple(layers), 1.0)
    delta = applied(made, h) + noise * rng.standard_normal((N, D))
    return h, delta.astype(np.float32), made


def applied(fit: BlockFit, h: np.ndarray) -> np.ndarray:
    return fit.coefficient(h)[:, None] * fit.direction


def fitted(name: str, *args: object, **kwargs: object) -> BlockFit:
    found = METHODS[name](*args, **kwargs)  # type: ignore[arg-type]
    assert found is not None
    return found


def reference(fit: BlockFit, h: np.ndarray, delta: np.ndarray, weight: np.ndarray) -> float:
    left = np.square((delta - applied(fit, h)).astype(np.float64)).sum(axis=1)
    return 1 - (weight @ left) / (weight @ np.square(delta.astype(np.float64)).sum(axis=1))


every = pytest.mark.parametrize("name", METHODS)
gated = pytest.mark.parametrize("name", GATED)


# -- what all share ----------------------------------------------------------------------------------


@every
def test_mean_coefficient_is_one_and_layers_are_a_gate(name: str) -> None:
    h, delta, _ = planted(noise=0.3)
    weight = np.random.default_rng(1).uniform(0, 3, N).astype(np.float32)
    found = fitted(name, h, delta, weight)
    assert np.average(found.coefficient(h), weights=weight) == pytest.approx(1, abs=1e-4)
    assert found.direction.dtype == np.float32
    assert found.direction.shape == (D,)
    assert bool(found.layers) == (name in GATED)
    shapes = [W.shape for W, _ in found.layers]
    assert not shapes or (shapes[0][0], shapes[-1][1]) == (D, 1)
    assert all(left[1] == right[0] for left, right in pairwise(shapes))
    assert all(W.dtype == b.dtype == np.float32 and b.shape == W.shape[1:] for W, b in found.layers)


@every
def test_explained_is_what_it_says(name: str) -> None:
    h, delta, _ = planted(noise=0.3)
    weight = np.random.default_rng(1).uniform(0, 3, N).astype(np.float32)
    found = fitted(name, h, delta, weight)
    assert found.explained == pytest.approx(reference(found, h, delta, weight), abs=1e-4)
    assert 0 < found.explained <= 1


@every
def test_a_constant_target_gives_the_constant(name: str) -> None:
    h, _, made = planted()
    delta = np.broadcast_to(made.direction, h.shape).copy()
    found = fitted(name, h, delta)
    np.testing.assert_allclose(applied(found, h), delta, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.direction, made.direction, rtol=1e-3, atol=1e-3)
    assert found.explained == pytest.approx(1, abs=1e-4)


@every
@pytest.mark.parametrize("factor", [1e-20, 1e-3, 7.0, 1e4])
def test_scale_of_delta_moves_into_the_direction_alone(name: str, factor: float) -> None:
    h, delta, _ = planted(noise=0.2)
    one, scaled = fitted(name, h, delta), fitted(name, h, (delta * factor).astype(np.float32))
    atol = 1e-3 if name != "psr_mlp" else 0.05  # Adam takes rounding further
    np.testing.assert_allclose(scaled.coefficient(h), one.coefficient(h), atol=atol)
    np.testing.assert_allclose(scaled.direction / factor, one.direction, rtol=atol, atol=atol / 10)


@every
def test_units_of_h_do_not_matter(name: str) -> None:
    """The ridge weighs standardised h: rescaling and shifting a dimension changes no coefficient."""
    h, delta, _ = planted(noise=0.2)
    other = (h * np.linspace(0.1, 50, D) + 3).astype(np.float32)
    one, two = fitted(name, h, delta), fitted(name, other, delta)
    np.testing.assert_allclose(
        two.coefficient(other), one.coefficient(h), atol=5e-3 if name != "psr_mlp" else 0.05
    )


@every
def test_weight_two_is_the_row_twice(name: str) -> None:
    h, delta, _ = planted(noise=0.3)
    pair = np.arange(N, dtype=np.int32) // 30
    times = np.random.default_rng(2).integers(0, 3, N)
    weighted = fitted(name, h, delta, times.astype(np.float32), Options(), pair)
    again = np.repeat(np.arange(N), times)
    repeated = fitted(name, h[again], delta[again], None, Options(), pair[again])
    np.testing.assert_allclose(weighted.direction, repeated.direction, rtol=2e-2, atol=2e-2)
    assert weighted.explained == pytest.approx(repeated.explained, abs=2e-3)
    if name != "psr_mlp":
        np.testing.assert_allclose(weighted.coefficient(h), repeated.coefficient(h), atol=2e-3)


@every
def test_order_of_rows_changes_rounding_alone(name: str) -> None:
    h, delta, _ = planted(noise=0.3)
    pair, order = np.arange(N, dtype=np.int32) // 30, np.random.default_rng(3).permutation(N)
    one = fitted(name, h, delta, None, Options(), pair)
    two = fitted(name, h[order], delta[order], None, Options(), pair[order])
    np.testing.assert_allclose(two.direction, one.direction, rtol=1e-2, atol=1e-2)
    assert two.explained == pytest.approx(one.explained, abs=1e-3)


@every
def test_same_rows_same_bytes_and_inputs_stay(name: str) -> None:
    h, delta, _ = planted(noise=0.2)
    h.flags.writeable = delta.flags.writeable = False
    one, two = fitted(name, h, delta), fitted(name, h.copy(), delta.copy())
    assert one.direction.tobytes() == two.direction.tobytes()
    for (W, b), (V, c) in zip(one.layers, two.layers, strict=True):
        assert (W.tobytes(), b.tobytes()) == (V.tobytes(), c.tobytes())


# -- constants ---------------------------------------------------------------------------------------


def test_constant_mean_is_the_weighted_mean() -> None:
    delta = np.array([[1, 2], [3, -6], [2, 1]], dtype=np.float32)
    assert fitted("constant_mean", delta, delta).direction.tolist() == [2, -1]
    weight = np.array([2, 0, 2], dtype=np.float32)
    assert fitted("constant_mean", delta, delta, weight).direction.tolist() == [1.5, 1.5]


@pytest.mark.parametrize("shape", [(200, 8), (50, 90), (300, 130)])
def test_constant_pca_is_the_first_component_as_long_as_the_mean_along_it(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    delta = (rng.standard_normal(shape) + 0.5 * rng.standard_normal(shape[1])).astype(np.float32)
    weight = rng.uniform(0.1, 3, shape[0]).astype(np.float32)
    exact = np.linalg.eigh(delta.T.astype(np.float64) * weight @ delta)[1][:, -1]
    wanted = exact * (exact @ np.average(delta, axis=0, weights=weight))
    found = fitted("constant_pca", delta, delta, weight)
    np.testing.assert_allclose(found.direction, wanted, atol=2e-4)


def test_constant_pca_sees_through_noise_at_right_angles_to_the_mean() -> None:
    """Deltas +-z beside a small mean along z: the component is z, and its sign that of the mean."""
    z = np.zeros(D)
    z[3] = 1
    for sign in (1, -1):
        delta = np.concatenate([np.tile(z * 5, (10, 1)), np.tile(-z * 5, (10, 1))]) + sign * z
        found = fitted("constant_pca", delta.astype(np.float32), delta.astype(np.float32))
        np.testing.assert_allclose(found.direction, sign * z, atol=1e-5)


# -- gates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_recovers_a_planted_rank_one_relu(seed: int) -> None:
    h, delta, made = planted(seed)
    fresh = h[N // 2 :]
    found = fitted("psr_relu", h[: N // 2], delta[: N // 2], None, Options(ridge=1e-6, rounds=200))
    error = np.abs(applied(found, fresh) - applied(made, fresh)).max()
    assert error < 0.02 * np.abs(applied(made, fresh)).max()


@gated
def test_noise_does_not_turn_the_direction(name: str) -> None:
    h, delta, made = planted(noise=0.5)
    found = fitted(name, h, delta).direction
    assert found @ made.direction / np.linalg.norm(found) / np.linalg.norm(made.direction) > 0.99


@gated
def test_where_the_gate_is_always_open_direction_is_the_constant_fit(name: str) -> None:
    """Least squares with an intercept keeps the mean: a host that knows directions alone gets the same push."""
    h, delta, _ = planted(offset=50.0)
    found = fitted(name, h, delta)
    assert (found.coefficient(h) > 0).all()
    constant = fitted("constant_mean", h, delta).direction
    np.testing.assert_allclose(found.direction, constant, rtol=0.02, atol=1e-3)


@gated
def test_a_dimension_that_never_changes_is_no_division_by_zero(name: str) -> None:
    h, delta, _ = planted()
    h[:, 3] = 17.1
    W, _ = fitted(name, h, delta).layers[0]
    assert np.isfinite(W).all()
    assert W[3, 0] == 0


def test_the_ridge_is_solved_as_lapack_solves_it() -> None:
    from edgesteer.learn.methods.standard import Ridge, Standard

    rng = np.random.default_rng(0)
    h, weight = rng.standard_normal((900, 600)).astype(np.float32), rng.uniform(0, 2, 900).astype(np.float32)
    X, y = Standard(h, weight).X, rng.standard_normal(900)
    gram = X.T.astype(np.float64) * weight @ X + 0.03 * weight.sum() * np.eye(600)
    np.testing.assert_allclose(
        Ridge(X, weight, 0.03).solve(y), np.linalg.solve(gram, X.T @ (weight * y)), atol=1e-5
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bend", [False, True])
def test_hidden_units_are_never_worse_on_their_rows_than_none(seed: int, bend: bool) -> None:
    h, delta, _ = planted(seed, noise=1.0, bend=bend)
    pair = np.arange(N, dtype=np.int32) // 48
    args = (h, delta, None, Options(seed=seed), pair)
    assert fitted("psr_mlp", *args).explained >= fitted("psr_relu", *args).explained - 1e-5


def test_hidden_units_find_a_bend_that_one_relu_cannot() -> None:
    """On rows that were not fitted."""
    h, delta, _ = planted(noise=0.5, bend=True)
    half = N // 2
    relu, mlp = (fitted(name, h[:half], delta[:half]) for name in GATED)
    ones = np.ones(N - half, dtype=np.float32)
    gained = [reference(f, h[half:], delta[half:], ones) for f in (relu, mlp)]
    assert gained[1] > gained[0] + 0.1


def test_noise_alone_teaches_hidden_units_no_more_than_the_probe() -> None:
    rng = np.random.default_rng(0)
    h, delta = (rng.standard_normal((400, 40)).astype(np.float32) for _ in range(2))
    delta += 0.3
    pair = np.arange(400, dtype=np.int32) // 20
    fits = [fitted(name, h, delta, None, Options(), pair) for name in GATED]
    fresh, wanted = rng.standard_normal((2, 4000, 40)).astype(np.float32)
    scores = [reference(f, fresh, wanted + np.float32(0.3), np.ones(4000, np.float32)) for f in fits]
    assert scores[1] > scores[0] - 0.02


def test_too_few_pairs_to_judge_by_give_the_probe() -> None:
    h, delta, _ = planted(noise=0.5, bend=True)
    pair = np.arange(N, dtype=np.int32) % 4
    relu, mlp = (fitted(name, h, delta, None, Options(), pair) for name in GATED)
    np.testing.assert_allclose(mlp.coefficient(h), relu.coefficient(h), atol=1e-4)
    assert mlp.layers[0][0].shape == (D, Options().hidden)


def test_another_seed_another_start_and_the_width_is_the_options() -> None:
    h, delta, _ = planted(noise=0.5, bend=True)
    one, two = (fitted("psr_mlp", h, delta, None, Options(hidden=4, seed=s)) for s in (0, 1))
    assert one.layers[0][0].shape == (D, 4)
    assert one.layers[0][0].tobytes() != two.layers[0][0].tobytes()


# -- bad input ---------------------------------------------------------------------------------------


@every
def test_one_row_is_the_constant_to_it(name: str) -> None:
    h, delta, _ = planted(offset=5)
    found = fitted(name, h[:1], delta[:1])
    np.testing.assert_allclose(applied(found, h[:1]), delta[:1], rtol=1e-5)
    np.testing.assert_allclose(found.coefficient(h), 1, atol=1e-5)


@every
def test_nothing_to_learn_is_none(name: str) -> None:
    h, delta, _ = planted()
    assert METHODS[name](h, np.zeros_like(delta)) is None
    delta = np.round(delta)  # so that the sums are exact
    both = np.concatenate([delta, -delta])
    assert METHODS[name](np.concatenate([h, h]), both) is None


@every
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["h", "delta", "weight"])
def test_nan_and_infinity_are_refused(name: str, value: float, where: str) -> None:
    h, delta, _ = planted()
    rows = {"h": h, "delta": delta, "weight": np.ones(N, dtype=np.float32)}
    rows[where].flat[-1] = value
    with pytest.raises(LearnError, match=where):
        METHODS[name](**rows)


@every
def test_shapes_and_weights_that_do_not_fit_are_refused(name: str) -> None:
    h, delta, _ = planted()
    ones = np.ones(N, dtype=np.float32)
    for bad in ((h[:0], delta[:0]), (h, delta, 0 * ones), (h, delta, -ones)):
        with pytest.raises(LearnError, match="expected"):
            METHODS[name](*bad)
    for bad in ((h[:-1], delta), (h[0], delta[0]), (h, delta, ones[:-1]), (h[:, :-1], delta)):
        with pytest.raises(LearnError, match="expected h and delta"):
            METHODS[name](*bad)


@pytest.mark.parametrize(
    "bad", [{"ridge": 0.0}, {"ridge": float("nan")}, {"rounds": 0}, {"hidden": 1}, {"seed": -1}, {"cap": 0.0}]
)
def test_options_that_make_no_sense_are_refused(bad: dict) -> None:
    with pytest.raises(LearnError, match="expected"):
        Options(**bad)


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    assert method("psr_relu") is METHODS["psr_relu"]
    with pytest.raises(LearnError, match="psr_relu"):
        method("psr")


def test_explained_of_nothing_is_nothing() -> None:
    zero = np.zeros((3, 4), dtype=np.float32)
    assert explained(np.ones(3), np.ones(4), zero, np.ones(3, np.float32)) == 0


@gated
def test_capped_rows_pull_no_harder_than_others(name: str) -> None:
    """One token with a massive delta turns the direction, unless it is capped."""
    h, delta, made = planted(noise=0.3)
    delta[7] = 1e4 * np.eye(D, dtype=np.float32)[0]
    along = [
        fit.direction @ made.direction / np.linalg.norm(fit.direction) / np.linalg.norm(made.direction)
        for fit in (fitted(name, h, delta, None, Options(cap=cap)) for cap in (None, 2.0))
    ]
    assert along[0] < 0.5
    assert along[1] > 0.98


@every
def test_a_cap_that_no_row_reaches_changes_nothing(name: str) -> None:
    h, delta, _ = planted(noise=0.3)
    one, two = (fitted(name, h, delta, None, Options(cap=cap)) for cap in (None, 1e6))
    assert one.direction.tobytes() == two.direction.tobytes()


# -- all blocks --------------------------------------------------------------------------------------


def test_every_block_is_fitted_and_those_without_delta_are_left_out() -> None:
    h, delta, _ = planted(noise=0.2)
    told: list[float] = []
    with Rows.open([2, 5, 9], N, D) as rows:
        rows.put(2, 0, h, delta)
        rows.put(9, 0, h, -delta)
        fits = fit_blocks(rows, METHODS["psr_relu"], progress=told.append)
    assert list(fits) == [2, 9]
    np.testing.assert_allclose(fits[9].direction, -fits[2].direction)
    assert told == sorted(told)


_WIDE = """
import resource, sys, numpy as np
from edgesteer.learn import methods, rows as room
room.RAM_BYTES = 0
n, d = 3000, 4096
with room.Rows.open([1], n, d) as rows:
    rng = np.random.default_rng(0)
    for i in range(0, n, 500):
        h = rng.standard_normal((500, d), dtype=np.float32)
        rows.put(1, i, h, np.maximum(h[:, :1], 0) + 0.1 * h)
    rows.pair[:] = np.arange(n) // 48
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert methods.fit_blocks(rows, methods.METHODS[sys.argv[1]])
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
