"""Products with packed matrices: y = so * (Hout^T (W' (Hin (si * x)))).

Differentiable in x and in all scales by reverse mode; the codes, being integers, have no gradient
(float0). What lies between two rotations is one custom_vjp, so that no decoded matrix is kept for
the backward pass, and so that back ends without derivatives of their own fit in.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from turboquant_cpp._layout import Layout
from turboquant_cpp.jax import _trellis
from turboquant_cpp.jax._backend import get_backend
from turboquant_cpp.jax._hadamard import block_hadamard
from turboquant_cpp.jax._packed import PackedMatrix

_Residuals = tuple[jax.Array, jax.Array, jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rotated_product(
    backend: str, layout: Layout, x: jax.Array, codes: jax.Array, scales: jax.Array
) -> jax.Array:
    """W' x of each row: float32 [n, cols] -> [n, rows]."""
    tiles = _trellis.split_tiles(codes, layout)
    return get_backend(backend).product(x, tiles, scales, layout.segments)


def _forward(
    backend: str, layout: Layout, x: jax.Array, codes: jax.Array, scales: jax.Array
) -> tuple[jax.Array, _Residuals]:
    y = _rotated_product(backend, layout, x, codes, scales)
    return y, (codes, scales, y)


def _backward(
    backend: str, layout: Layout, residuals: _Residuals, dy: jax.Array
) -> tuple[jax.Array, None, jax.Array]:
    codes, scales, y = residuals
    tiles = _trellis.split_tiles(codes, layout)
    dx = get_backend(backend).product_transposed(dy, tiles, scales, layout.segments, layout.cols)
    # y is linear in the scale of its segment, which is positive.
    by_row = jnp.sum(dy * y, axis=0)
    by_segment = [jnp.sum(by_row[s.row_begin : s.row_end]) for s in layout.segments]
    return dx, None, jnp.stack(by_segment) / scales


_rotated_product.defvjp(_forward, _backward)


def _check_input(x: jax.Array, cols: int) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"matmul: x is {x.dtype}, expected a floating-point type")
    if x.ndim == 0 or x.shape[-1] != cols:
        raise ValueError(f"matmul: x has shape {list(x.shape)}, the matrix has {cols} columns")


def transform_input(x: jax.Array, packed: PackedMatrix) -> jax.Array:
    """x' = Hin (si * x): [..., cols] of any floating type -> float32 [..., cols].

    It is the same for all matrices of an input group (q, k and v; gate and up).
    """
    scaled = x.astype(jnp.float32) * packed.in_scale.astype(jnp.float32)
    return block_hadamard(scaled, packed.layout.in_block)


def finish_output(y: jax.Array, packed: PackedMatrix) -> jax.Array:
    """so * (Hout^T y'): float32 [..., rows] -> float32 [..., rows]."""
    rotated = block_hadamard(y, packed.layout.out_block, transposed=True)
    return rotated * packed.out_scale.astype(jnp.float32)


def group_matmul(
    x: jax.Array, matrices: Sequence[PackedMatrix], *, backend: str | None = None
) -> tuple[jax.Array, ...]:
    """x W^T for each matrix of one input group; x is scaled and rotated once.

    x        [..., cols], any floating type
    results  [..., rows] of each, in x's type; sums are float32 whatever x is
    """
    if not matrices:
        raise ValueError("group_matmul: no matrices")
    name = get_backend(backend).name
    first = matrices[0].layout
    for packed in matrices:
        if (packed.layout.cols, packed.layout.in_block) != (first.cols, first.in_block):
            raise ValueError(
                f"group_matmul: {packed.layout.cols} columns in blocks of "
                f"{packed.layout.in_block}, the group's first matrix has {first.cols} "
                f"in blocks of {first.in_block}"
            )
    _check_input(x, first.cols)
    rotated = transform_input(x, matrices[0]).reshape(-1, first.cols)
    results = []
    for packed in matrices:
        y = _rotated_product(name, packed.layout, rotated, packed.codes, packed.scales)
        y = finish_output(y, packed).reshape(*x.shape[:-1], packed.layout.rows)
        results.append(y.astype(x.dtype))
    return tuple(results)


def matmul(x: jax.Array, packed: PackedMatrix, *, backend: str | None = None) -> jax.Array:
    """x W^T: [..., cols] -> [..., rows] in x's type, without W ever being kept.

    Reverse-mode derivatives: dx = dy W, those of out_scale, in_scale and scales; codes have none
    (jax.grad with allow_int gives float0). Under jit, vmap and shard_map.
    """
    return group_matmul(x, (packed,), backend=backend)[0]
