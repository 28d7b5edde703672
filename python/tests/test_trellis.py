"""The decoder in JAX: bits equal to the C++ engine's golden tiles and to the format's own words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from reference import decode_integers, decode_tile, random_layout
from support import GOLDEN

from turboquant_cpp import Code
from turboquant_cpp._layout import SUPPORTED_CODES
from turboquant_cpp.jax import PackedMatrix
from turboquant_cpp.jax import _trellis as trellis
from turboquant_cpp.jax._packed import decode_integers as decode_packed

CODES = [Code(v, k, bits) for v, k in sorted(SUPPORTED_CODES) for bits in (12, 16)]


def golden_tile(code: Code) -> tuple[np.ndarray, np.ndarray]:
    """A tile's bytes and its integers, from src/codec/golden_test.cc."""
    path = GOLDEN / f"codec/v{code.values}k{code.bits}l{code.state_bits}.bin"
    data = np.frombuffer(path.read_bytes(), np.uint8)
    integers = data[code.bytes :].view("<i2").reshape(code.rows, code.columns)
    return data[: code.bytes], integers


def packed_of(codes: np.ndarray, layout) -> PackedMatrix:
    ones = jnp.ones
    return PackedMatrix(
        jnp.asarray(codes),
        ones(layout.rows, jnp.float16),
        ones(layout.cols, jnp.float16),
        ones(len(layout.segments)),
        layout,
    )


def test_golden_tiles_of_every_code() -> None:
    tiles, integers = zip(*(golden_tile(code) for code in CODES))

    @jax.jit
    def decode_all(tiles):
        whole = [trellis.decode_tiles(t[None, None], code) for t, code in zip(tiles, CODES)]
        rows = [
            trellis.decode_tile_rows(t[None, None], code, jnp.arange(code.rows))
            for t, code in zip(tiles, CODES)
        ]
        return whole, rows

    whole, rows = decode_all(tuple(map(jnp.asarray, tiles)))
    for code, expected, a, b in zip(CODES, integers, whole, rows):
        assert a.dtype == jnp.int32
        np.testing.assert_array_equal(a, expected, err_msg=f"{code}")
        np.testing.assert_array_equal(b, expected, err_msg=f"{code}, row by row")


def test_the_slow_reference_decodes_golden_tiles() -> None:
    for code in CODES:
        tile, integers = golden_tile(code)
        np.testing.assert_array_equal(decode_tile(tile, code), integers, err_msg=f"{code}")


def test_segments_and_padding() -> None:
    """Rates that change along the rows, and tiles that end beyond both dimensions."""
    layout = random_layout(
        149, 41, [(64, Code(4, 3, 16)), (128, Code(2, 5, 16)), (149, Code(1, 3, 12))]
    )
    codes = np.random.default_rng(1).integers(0, 256, layout.num_bytes).astype(np.uint8)
    integers = jax.jit(decode_packed)(packed_of(codes, layout))
    np.testing.assert_array_equal(integers, decode_integers(codes, layout))
