"""Matrices over eight devices: the same products, and no code ever travels."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from reference import random_layout
from support import relative_error

from turboquant_cpp import Code
from turboquant_cpp.jax import (
    PackedMatrix,
    ShardedMatrix,
    matmul,
    shard_inputs,
    shard_outputs,
    sharded_matmul,
)

MIXED = [(64, Code(2, 4, 16)), (384, Code(2, 2, 16))]


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    assert len(jax.devices()) == 8
    return Mesh(np.array(jax.devices()), ("model",))


def random_matrix(rows: int, cols: int, codes, out_block: int, in_block: int) -> PackedMatrix:
    random = np.random.default_rng(3)
    layout = random_layout(rows, cols, codes, out_block, in_block)
    return PackedMatrix(
        jnp.asarray(random.integers(0, 256, layout.num_bytes).astype(np.uint8)),
        jnp.asarray(random.standard_normal(rows).astype(np.float16)),
        jnp.asarray(random.standard_normal(cols).astype(np.float16)),
        jnp.asarray(random.uniform(0.001, 0.002, len(codes)).astype(np.float32)),
        layout,
    )


def collectives(text: str) -> list[str]:
    """Operations of a compiled program that move data between devices, with their result types."""
    kinds = "all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter"
    return re.findall(rf"= (\S+) (?:{kinds})(?:-start)?\(", text)


def check(packed: PackedMatrix, sharded: ShardedMatrix) -> list[str]:
    """The product against the plain one; collectives of its program, none of them of codes."""
    for tiles in sharded.tiles:
        assert {shard.data.size for shard in tiles.addressable_shards} == {tiles.size // 8}
    x = np.random.default_rng(4).standard_normal((3, packed.layout.cols)).astype(np.float32)
    compiled = jax.jit(sharded_matmul).lower(x, sharded).compile()
    expected = jax.jit(matmul)(x, packed)
    assert relative_error(compiled(x, sharded), expected) < 2e-6
    moved = collectives(compiled.as_text())
    assert not [kind for kind in moved if kind.startswith(("u8", "u16", "u32", "s32"))]
    return moved


def test_outputs_cut(mesh: Mesh) -> None:
    packed = random_matrix(256, 96, [(256, Code(2, 4, 16))], 32, 32)
    assert check(packed, shard_outputs(packed, mesh, "model")) == []


def test_outputs_of_two_segments_cut(mesh: Mesh) -> None:
    """Segments of 4 and 10 rows of tiles over 8 devices, both padded: y moves, codes do not."""
    packed = random_matrix(384, 96, MIXED, 128, 32)
    check(packed, shard_outputs(packed, mesh, "model"))


def test_inputs_cut(mesh: Mesh) -> None:
    packed = random_matrix(384, 256, MIXED, 128, 32)
    moved = check(packed, shard_inputs(packed, mesh, "model"))
    assert len(moved) == 1 and moved[0].startswith("f32[3,384]")


def test_refuses(mesh: Mesh) -> None:
    packed = random_matrix(64, 96, [(64, Code(2, 4, 16))], 1, 1)
    with pytest.raises(ValueError, match="96 columns are no multiple of 8 devices times the 16"):
        shard_inputs(packed, mesh, "model")
    with pytest.raises(ValueError, match=r"the mesh has axes \['model'\], none is 'data'"):
        shard_outputs(packed, mesh, "data")
