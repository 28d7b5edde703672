"""Packed matrices as pytrees, and whole matrices against those that the C++ engine exports."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import EPSILON, GOLDEN

from turboquant_cpp import open_directory
from turboquant_cpp._safetensors import SafetensorsFile
from turboquant_cpp.jax import PackedMatrix, decode, decode_rows, from_stored

PACKED = GOLDEN / "packed"
GATE = "model.layers.1.mlp.gate_proj"  # two segments


@pytest.fixture(scope="module")
def matrices() -> dict[str, PackedMatrix]:
    stored = open_directory(PACKED / "model").matrices
    return {name: from_stored(matrix) for name, matrix in stored.items()}


def decode_bound(packed: PackedMatrix) -> np.ndarray:
    """Error of decode() in any order of additions, [rows, cols].

    An element is a sum of in_block times out_block integers (below 512 in size) times scale, so and
    si over the root of that number, added in at most log2 + 36 steps on either side; 3 products.
    """
    layout = packed.layout
    steps = layout.in_block.bit_length() + layout.out_block.bit_length() + 2 * 36 + 6
    size = 512 * float(packed.scales.max()) * np.sqrt(layout.in_block * layout.out_block)
    scales = np.abs(np.outer(np.float64(packed.out_scale), np.float64(packed.in_scale)))
    return steps * EPSILON * size * scales


def test_decoded_matrices_are_those_of_the_engine(matrices: dict[str, PackedMatrix]) -> None:
    expected = SafetensorsFile(PACKED / "expected.safetensors")

    @jax.jit
    def decode_all(matrices):
        return {name: decode(packed) for name, packed in matrices.items()}

    decoded = decode_all(matrices)
    codes = set()
    for name, packed in matrices.items():
        rows = expected.array(f"rows.{name}")
        chosen = np.linspace(0, packed.layout.rows - 1, len(rows)).astype(int)
        error = np.abs(np.float64(decoded[name])[chosen] - rows)
        assert (error <= decode_bound(packed)[chosen]).all(), name
        # What that bound allows is far from what happens.
        assert np.linalg.norm(error) < 1e-6 * np.linalg.norm(rows), name
        codes |= {(s.code.values, s.code.bits) for s in packed.layout.segments}
    assert len(codes) == 11  # all but V = 1 at 2 bits


def test_rows_alone_are_rows_of_the_matrix(matrices: dict[str, PackedMatrix]) -> None:
    packed = matrices["model.embed_tokens"]
    rows = jnp.asarray([[0, 299, 64], [63, 128, 7]])

    @jax.jit
    def both(packed):
        return decode_rows(packed, rows), decode(packed)[rows]

    alone, among = both(packed)
    assert alone.shape == (2, 3, 112)
    error = np.abs(np.float64(alone) - np.float64(among))
    assert (error <= decode_bound(packed)[np.asarray(rows)]).all()
    with pytest.raises(ValueError, match="out_block is 80, rows do not stand alone"):
        decode_rows(matrices[GATE], rows)


def test_is_a_pytree_with_a_static_layout(matrices: dict[str, PackedMatrix]) -> None:
    packed = matrices[GATE]
    leaves, structure = jax.tree_util.tree_flatten(packed)
    assert [leaf.dtype for leaf in leaves] == [jnp.uint8, jnp.float16, jnp.float16, jnp.float32]
    again = jax.tree_util.tree_unflatten(structure, leaves)
    assert again.layout == packed.layout and again.codes is packed.codes
    assert hash(structure) == hash(jax.tree_util.tree_structure(again))
    assert structure != jax.tree_util.tree_structure(matrices["lm_head"])
    assert packed.shape == (160, 112)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(packed)]
    assert names == [".codes", ".out_scale", ".in_scale", ".scales"]
