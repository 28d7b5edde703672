"""Block Hadamard transforms: the matrices of src/codec/rotation.cc, orthonormal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import EPSILON

from turboquant_cpp._layout import hadamard_factors
from turboquant_cpp.jax import block_hadamard
from turboquant_cpp.jax._hadamard import paley_matrix

ORDERS = [1, 2, 16, 128, 12, 24, 20, 80, 28, 112, 36, 72]


def matrix_of(order: int) -> np.ndarray:
    m, log2 = hadamard_factors(order)
    sylvester = np.ones((1, 1))
    for _ in range(log2):
        sylvester = np.block([[sylvester, sylvester], [sylvester, -sylvester]])
    outer = np.ones((1, 1)) if m == 1 else paley_matrix(m)
    return np.kron(outer, sylvester) / np.sqrt(order)


@pytest.mark.parametrize("m", [12, 20, 28, 36])
def test_paley_matrices(m: int) -> None:
    matrix = paley_matrix(m)
    assert np.array_equal(np.abs(matrix), np.ones((m, m)))
    assert np.array_equal(matrix @ matrix.T, m * np.eye(m))
    # Paley I's is not symmetric, so that H and H^T differ.
    assert np.array_equal(matrix, matrix.T) == (m != 20)


def test_blocks_of_all_kinds() -> None:
    inputs = [np.random.default_rng(o).standard_normal((2, 3, 2 * o)) for o in ORDERS]

    @jax.jit
    def run(inputs):
        pairs = list(zip(ORDERS, inputs))
        forward = [block_hadamard(x, order) for order, x in pairs]
        backward = [block_hadamard(x, order, transposed=True) for order, x in pairs]
        return forward, backward

    forward, backward = run([jnp.asarray(x, jnp.float32) for x in inputs])
    for order, x, y, z in zip(ORDERS, inputs, forward, backward):
        matrix = np.kron(np.eye(2), matrix_of(order))
        # log2 + m additions and a product, of values whose sum of magnitudes is at most
        # sqrt(order) times the largest.
        bound = (order.bit_length() + 36 + 2) * EPSILON * np.sqrt(order) * np.abs(x).max()
        assert np.abs(np.float64(y) - x @ matrix.T).max() <= bound, order
        assert np.abs(np.float64(z) - x @ matrix).max() <= bound, order


def test_refuses_other_blocks() -> None:
    with pytest.raises(ValueError, match="block 3 is no order"):
        block_hadamard(jnp.ones(6), 3)
    with pytest.raises(ValueError, match="block 4 is no order that divides 6"):
        block_hadamard(jnp.ones(6), 4)
