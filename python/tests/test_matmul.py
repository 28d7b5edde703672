"""Products: against decoded matrices, in all types, under jit, vmap and grad."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import GOLDEN, relative_error

from turboquant_cpp import open_directory
from turboquant_cpp.jax import (
    PackedMatrix,
    available_backends,
    decode,
    from_stored,
    group_matmul,
    matmul,
)
from turboquant_cpp.jax import _jnp_backend as jnp_backend

GATE = "model.layers.1.mlp.gate_proj"  # 160 x 112, two segments
# Of a product over 112 columns between rotations: far below is right, far above is wrong.
FLOAT_ERROR = 2e-6


@pytest.fixture(scope="module")
def gate() -> PackedMatrix:
    return from_stored(open_directory(GOLDEN / "packed/model").matrices[GATE])


@pytest.fixture(scope="module")
def dense(gate: PackedMatrix) -> np.ndarray:
    return np.float64(jax.jit(decode)(gate))


def inputs(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("dtype", "bound"), [("float32", FLOAT_ERROR), ("bfloat16", 2**-8), ("float16", 2**-11)]
)
def test_products(gate: PackedMatrix, dense: np.ndarray, dtype: str, bound: float) -> None:
    x = jnp.asarray(inputs(2, 3, 112), dtype)
    y = jax.jit(matmul)(x, gate)
    assert y.dtype == x.dtype and y.shape == (2, 3, 160)
    # x is what it is in its type; only the result is rounded to it.
    assert relative_error(y, np.float64(x) @ dense.T) < bound


def test_vectors_and_batches(gate: PackedMatrix, dense: np.ndarray) -> None:
    x = inputs(4, 112)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), gate, gate)

    @jax.jit
    def run(x, gate, stacked):
        return (
            matmul(x[0], gate),
            jax.vmap(matmul, (0, None))(x, gate),
            jax.vmap(matmul, (None, 0))(x, stacked),
        )

    one, many, both = run(x, gate, stacked)
    expected = x @ dense.T
    assert relative_error(one, expected[0]) < FLOAT_ERROR
    assert relative_error(many, expected) < FLOAT_ERROR
    assert relative_error(both, np.stack([expected, expected])) < FLOAT_ERROR


def test_gradients(gate: PackedMatrix, dense: np.ndarray) -> None:
    """dx = dy W; scales have gradients too, codes have none."""
    x, dy = inputs(3, 112), inputs(3, 160)

    def loss(x, packed):
        return jnp.vdot(matmul(x, packed), dy)

    value, (dx, dpacked) = jax.jit(jax.value_and_grad(loss, (0, 1), allow_int=True))(x, gate)
    assert relative_error(dx, dy @ dense) < FLOAT_ERROR
    assert dpacked.codes.dtype == jax.dtypes.float0 and dpacked.codes.shape == gate.codes.shape
    # The loss is linear in x, and in the scales of each kind: sum of scale times gradient is the
    # loss.
    loss_scale = np.abs(np.float64(x @ dense.T) * dy).sum()
    for scale, gradient in [
        (x, dx),
        (gate.scales, dpacked.scales),
        (gate.out_scale, dpacked.out_scale),
        (gate.in_scale, dpacked.in_scale),
    ]:
        bound = 1e-3 if gradient.dtype == jnp.float16 else FLOAT_ERROR
        total = np.vdot(np.float64(scale), np.float64(gradient))
        assert abs(total - float(value)) < bound * loss_scale


def test_gradients_are_finite_differences(gate: PackedMatrix) -> None:
    x, direction = inputs(3, 112), inputs(5, 112)[2:]

    def loss(x):
        return jnp.sum(jnp.tanh(matmul(x, gate)))

    @jax.jit
    def run(x):
        step = 2.0**-7
        ahead, behind = loss(x + step * direction), loss(x - step * direction)
        return jnp.vdot(jax.grad(loss)(x), direction), (ahead - behind) / (2 * step)

    slope, difference = run(x)
    # Central differences err by step^2 f''' / 6 and by roundings of the loss over the step.
    assert abs(float(slope) - float(difference)) < 2e-3 * abs(float(slope)) + 2e-2


def test_gradients_in_bfloat16(gate: PackedMatrix, dense: np.ndarray) -> None:
    x = jnp.asarray(inputs(2, 112), jnp.bfloat16)
    dx = jax.jit(jax.grad(lambda x: jnp.sum(matmul(x, gate).astype(jnp.float32))))(x)
    assert dx.dtype == jnp.bfloat16
    assert relative_error(dx, np.ones((2, 160)) @ dense) < 2**-8


def test_large_matrices_are_cut(
    gate: PackedMatrix, dense: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for two rows of tiles at a time, products and gradients are the same."""
    monkeypatch.setattr(jnp_backend, "MAX_DECODED_VALUES", 2 * 16 * 112)
    x, dy = inputs(3, 112), inputs(3, 160)

    @jax.jit
    def run(x, gate):
        y, vjp = jax.vjp(lambda x: matmul(x, gate), x)
        return y, vjp(dy)[0]

    y, dx = run(x, gate)
    assert relative_error(y, x @ dense.T) < FLOAT_ERROR
    assert relative_error(dx, dy @ dense) < FLOAT_ERROR


def test_refuses(gate: PackedMatrix) -> None:
    with pytest.raises(ValueError, match=r"x has shape \[3, 111\], the matrix has 112 columns"):
        matmul(jnp.ones((3, 111)), gate)
    with pytest.raises(TypeError, match="x is int32"):
        matmul(jnp.ones((3, 112), jnp.int32), gate)
    with pytest.raises(NotImplementedError, match="'ffi' .* is not built"):
        matmul(jnp.ones(112), gate, backend="ffi")
    with pytest.raises(ValueError, match="'xla' is unknown: there are jnp"):
        matmul(jnp.ones(112), gate, backend="xla")
    with pytest.raises(ValueError, match="no matrices"):
        group_matmul(jnp.ones(112), ())
    assert available_backends() == ("jnp",)
