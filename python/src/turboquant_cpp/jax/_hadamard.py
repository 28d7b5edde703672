"""Orthonormal block Hadamard transforms, of the orders and signs that src/codec/rotation.cc has.

Orders are m * 2^k with m in {1, 12, 20, 28, 36}: Sylvester's butterflies over 2^k values, then
Paley's matrix of order m (R. E. A. C. Paley, "On orthogonal matrices", J. Math. Phys. 12, 1933)
over the m.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from turboquant_cpp._layout import hadamard_factors


def _quadratic_character(n: int, q: int) -> int:
    n %= q
    if n == 0:
        return 0
    return 1 if any(i * i % q == n for i in range(1, q)) else -1


def _conference(row: int, column: int, q: int) -> int:
    """Entry of the bordered matrix of characters, order q + 1, with a zero diagonal."""
    if row == 0 and column == 0:
        return 0
    if row == 0:
        return 1
    if column == 0:
        return 1 if q % 4 == 1 else -1
    return _quadratic_character(row - column, q)


@functools.cache
def paley_matrix(order: int) -> np.ndarray:
    """Entries +1 and -1, float32 [order, order], order in 12, 20, 28, 36.

    Paley I for q + 1 = 20; Paley II for 2 (q + 1) = 12, 28, 36:
    C x [1 1; 1 -1] + I x [1 -1; -1 -1].
    """
    matrix = np.empty((order, order), np.float32)
    for row in range(order):
        for column in range(order):
            if order == 20:
                matrix[row, column] = _conference(row, column, 19) + (row == column)
                continue
            sign = _conference(row // 2, column // 2, order // 2 - 1)
            if row % 2 == 1 and column % 2 == 1:
                sign = -sign
            if row // 2 == column // 2:
                sign += 1 if row % 2 == 0 and column % 2 == 0 else -1
            matrix[row, column] = sign
    return matrix


def block_hadamard(x: jax.Array, block: int, *, transposed: bool = False) -> jax.Array:
    """H x (transposed: H^T x) for each block of `block` values of the last axis of x [..., n].

    `block` divides n and is an order of hadamard_factors; 1 changes nothing. In x's own type, which
    should be float32: butterflies add in the order of the C++ engine.
    """
    if block == 1:
        return x
    factors = hadamard_factors(block)
    if factors is None or x.shape[-1] % block != 0:
        raise ValueError(f"block_hadamard: block {block} is no order that divides {x.shape[-1]}")
    m, log2 = factors
    shape = x.shape
    for level in range(log2):
        pairs = x.reshape(*shape[:-1], -1, 2, 1 << level)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        x = jnp.stack([low + high, low - high], axis=-2).reshape(shape)
    if m > 1:
        matrix = paley_matrix(m).T if transposed else paley_matrix(m)
        rows = x.reshape(*shape[:-1], -1, m, 1 << log2)
        mixed = jnp.einsum(
            "ac,...cb->...ab", jnp.asarray(matrix, x.dtype), rows, precision="highest"
        )
        x = mixed.reshape(shape)
    return x * jnp.asarray(1 / math.sqrt(block), x.dtype)
