"""One packed matrix over the devices of a mesh: codes are cut once and never travel.

Outputs cut (Megatron's column-parallel): each device has some rows of tiles of every segment, takes
all of x and gives its rows of y; no communication. Inputs cut (row-parallel): each has some columns
of tiles, takes its columns of x, and partial sums are added over the axis (one all-reduce of y).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from turboquant_cpp._layout import Layout, Segment
from turboquant_cpp.jax import _trellis
from turboquant_cpp.jax._jnp_backend import JnpBackend, segment_product
from turboquant_cpp.jax._matmul import finish_output, transform_input
from turboquant_cpp.jax._packed import PackedMatrix


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["tiles", "out_scale", "in_scale", "scales"],
    meta_fields=["layout", "mesh", "axis", "cut"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class ShardedMatrix:
    """A PackedMatrix whose tiles are distributed.

    tiles  of each segment, uint8 [tile_rows, tile_columns, tile_bytes], along `axis` of `mesh`:
           "outputs": rows of tiles, padded with zeros to a multiple of the devices;
           "inputs": columns of tiles
    Scales are on all devices.
    """

    tiles: tuple[jax.Array, ...]
    out_scale: jax.Array
    in_scale: jax.Array
    scales: jax.Array
    layout: Layout
    mesh: Mesh
    axis: str
    cut: Literal["outputs", "inputs"]


def _check_axis(mesh: Mesh, axis: str) -> int:
    if axis not in mesh.shape:
        raise ValueError(f"sharding: the mesh has axes {list(mesh.shape)}, none is {axis!r}")
    return mesh.shape[axis]


def _distribute(
    packed: PackedMatrix,
    tiles: tuple[jax.Array, ...],
    mesh: Mesh,
    axis: str,
    cut: Literal["outputs", "inputs"],
) -> ShardedMatrix:
    spec = PartitionSpec(axis) if cut == "outputs" else PartitionSpec(None, axis)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return ShardedMatrix(
        tiles=tuple(jax.device_put(t, NamedSharding(mesh, spec)) for t in tiles),
        out_scale=jax.device_put(packed.out_scale, everywhere),
        in_scale=jax.device_put(packed.in_scale, everywhere),
        scales=jax.device_put(packed.scales, everywhere),
        layout=packed.layout,
        mesh=mesh,
        axis=axis,
        cut=cut,
    )


def shard_outputs(packed: PackedMatrix, mesh: Mesh, axis: str) -> ShardedMatrix:
    """Cuts the rows of each segment over `axis`. Any matrix can be cut so."""
    devices = _check_axis(mesh, axis)
    tiles = []
    for of_segment in _trellis.split_tiles(packed.codes, packed.layout):
        padding = -of_segment.shape[0] % devices
        tiles.append(jnp.pad(of_segment, ((0, padding), (0, 0), (0, 0))))
    return _distribute(packed, tuple(tiles), mesh, axis, "outputs")


def shard_inputs(packed: PackedMatrix, mesh: Mesh, axis: str) -> ShardedMatrix:
    """Cuts the columns over `axis`. ValueError where they are no whole tiles on every device."""
    devices = _check_axis(mesh, axis)
    layout = packed.layout
    for index, segment in enumerate(layout.segments):
        if layout.cols % (devices * segment.code.columns) != 0:
            raise ValueError(
                f"shard_inputs: {layout.cols} columns are no multiple of {devices} devices times "
                f"the {segment.code.columns} columns of segment {index}'s tiles"
            )
    tiles = _trellis.split_tiles(packed.codes, layout)
    return _distribute(packed, tiles, mesh, axis, "inputs")


def _as_packed(matrix: ShardedMatrix) -> PackedMatrix:
    """Its scales and layout, for the transforms around the product; without codes."""
    no_codes = jnp.zeros((0,), jnp.uint8)
    return PackedMatrix(
        no_codes, matrix.out_scale, matrix.in_scale, matrix.scales, matrix.layout
    )


def _product_of_outputs(x: jax.Array, matrix: ShardedMatrix) -> jax.Array:
    """W' x' with rows distributed: [n, cols] on all devices -> [n, rows]."""
    row, whole = PartitionSpec(None, matrix.axis), PartitionSpec()

    def product(segment: Segment, x: jax.Array, tiles: jax.Array) -> jax.Array:
        return segment_product(x, tiles, segment)

    parts = []
    for index, (segment, tiles) in enumerate(zip(matrix.layout.segments, matrix.tiles)):
        local = jax.shard_map(
            functools.partial(product, segment),
            mesh=matrix.mesh,
            in_specs=(whole, PartitionSpec(matrix.axis)),
            out_specs=row,
            check_vma=False,
        )
        parts.append(local(x, tiles)[:, : segment.rows] * matrix.scales[index])
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def _product_of_inputs(x: jax.Array, matrix: ShardedMatrix) -> jax.Array:
    """W' x' with columns distributed: [n, cols] cut along them -> [n, rows] on all devices."""
    column = PartitionSpec(None, matrix.axis)
    segments = matrix.layout.segments

    def product(x: jax.Array, scales: jax.Array, *tiles: jax.Array) -> jax.Array:
        return lax.psum(JnpBackend().product(x, tiles, scales, segments), matrix.axis)

    return jax.shard_map(
        product,
        mesh=matrix.mesh,
        in_specs=(column, PartitionSpec(), *[column] * len(segments)),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(x, matrix.scales, *matrix.tiles)


def sharded_matmul(x: jax.Array, matrix: ShardedMatrix) -> jax.Array:
    """x W^T: [..., cols] -> [..., rows] in x's type, for use under jit.

    Outputs cut: x on all devices, y's last axis distributed (with more than one segment JAX moves
    parts of y, never codes). Inputs cut: x's last axis distributed, y on all devices; the rotation
    of x needs no communication where each device has whole blocks of in_block.

    Derivatives are JAX's own: they keep each device's decoded weights for the backward pass.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating) or x.shape[-1:] != (matrix.layout.cols,):
        raise ValueError(
            f"sharded_matmul: x is {x.dtype} {list(x.shape)}, "
            f"expected floats [..., {matrix.layout.cols}]"
        )
    transforms = _as_packed(matrix)
    rotated = transform_input(x, transforms).reshape(-1, matrix.layout.cols)
    if matrix.cut == "outputs":
        y = _product_of_outputs(rotated, matrix)
    else:
        y = _product_of_inputs(rotated, matrix)
    y = finish_output(y, transforms).reshape(*x.shape[:-1], matrix.layout.rows)
    return y.astype(x.dtype)
