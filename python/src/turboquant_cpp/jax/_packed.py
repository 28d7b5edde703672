"""A packed matrix as a pytree: codes and scales are leaves, the layout is static."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from turboquant_cpp._directory import StoredMatrix
from turboquant_cpp._layout import Layout
from turboquant_cpp.jax import _trellis
from turboquant_cpp.jax._hadamard import block_hadamard


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["codes", "out_scale", "in_scale", "scales"],
    meta_fields=["layout"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class PackedMatrix:
    """W [rows, cols] = diag(out_scale) Hout^T W' Hin diag(in_scale), W' = scale * integers.

    codes      uint8 [layout.num_bytes]
    out_scale  float16 [rows]
    in_scale   float16 [cols]; the same array for all matrices of an input group
    scales     float32 [segments]
    layout     static and hashable: matrices of equal layouts can be stacked, and mapped over

    Leaves may have leading axes (jax.vmap over stacked matrices), tracers or placeholders in their
    place: nothing is checked here. from_stored() makes one of what open_directory() checked.
    """

    codes: jax.Array
    out_scale: jax.Array
    in_scale: jax.Array
    scales: jax.Array
    layout: Layout

    @property
    def shape(self) -> tuple[int, int]:
        """[rows, cols]: outputs and inputs."""
        return self.layout.rows, self.layout.cols


def from_stored(stored: StoredMatrix, in_scale: jax.Array | None = None) -> PackedMatrix:
    """The matrix on JAX's default device. `in_scale`: the group's, if it is there already."""
    return PackedMatrix(
        # A copy: JAX may otherwise use the map itself, which a file that shrinks takes away.
        codes=jnp.array(stored.codes),
        out_scale=jnp.asarray(stored.out_scale),
        in_scale=jnp.asarray(stored.in_scale) if in_scale is None else in_scale,
        scales=jnp.asarray(stored.scales),
        layout=stored.layout,
    )


def decode_integers(packed: PackedMatrix) -> jax.Array:
    """What W' is made of, before its scales: int32 [rows, cols], equal to the C++ engine's."""
    layout = packed.layout
    parts = []
    tiles = _trellis.split_tiles(packed.codes, layout)
    for segment, of_segment in zip(layout.segments, tiles):
        values = _trellis.decode_tiles(of_segment, segment.code)
        parts.append(values[: segment.rows, : layout.cols])
    return jnp.concatenate(parts, axis=0)


def _row_scales(packed: PackedMatrix) -> jax.Array:
    """The scale of each row's segment, float32 [rows]."""
    lengths = jnp.asarray([segment.rows for segment in packed.layout.segments])
    return jnp.repeat(packed.scales, lengths, total_repeat_length=packed.layout.rows)


def _finish_rows(rows: jax.Array, packed: PackedMatrix) -> jax.Array:
    """Rows of W' [..., cols] times Hin diag(si)."""
    rotated = block_hadamard(rows, packed.layout.in_block, transposed=True)
    return rotated * packed.in_scale.astype(jnp.float32)


def decode(packed: PackedMatrix) -> jax.Array:
    """W in the original basis, float32 [rows, cols]."""
    rotated = decode_integers(packed).astype(jnp.float32) * _row_scales(packed)[:, None]
    rows = _finish_rows(rotated, packed)
    columns = block_hadamard(rows.T, packed.layout.out_block, transposed=True)
    return columns.T * packed.out_scale.astype(jnp.float32)[:, None]


def decode_rows(packed: PackedMatrix, rows: jax.Array) -> jax.Array:
    """Single rows of W, int [...] -> float32 [..., cols]: for embeddings, whose rows stand alone.

    Only the windows of these rows are decoded. Rows outside [0, layout.rows) are clamped, as JAX
    does with indices. Raises ValueError where out_block is not 1.
    """
    layout = packed.layout
    if layout.out_block != 1:
        raise ValueError(f"decode_rows: out_block is {layout.out_block}, rows do not stand alone")
    rows = jnp.clip(rows, 0, layout.rows - 1)
    tiles = _trellis.split_tiles(packed.codes, layout)
    result = jnp.zeros((*rows.shape, layout.cols), jnp.float32)
    for index, (segment, of_segment) in enumerate(zip(layout.segments, tiles)):
        inside = jnp.clip(rows - segment.row_begin, 0, segment.rows - 1)
        values = _trellis.decode_tile_rows(of_segment, segment.code, inside)[..., : layout.cols]
        mine = (rows >= segment.row_begin) & (rows < segment.row_end)
        scaled = values.astype(jnp.float32) * packed.scales[index]
        result = jnp.where(mine[..., None], scaled, result)
    out_scale = packed.out_scale[rows].astype(jnp.float32)
    return _finish_rows(result, packed) * out_scale[..., None]
