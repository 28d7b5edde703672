"""The hash-sum trellis code in jax.numpy: tiles of bytes to integers, exact, on any device.

A tile is a circular stream of bits in 32 lanes of 16-bit words, stored planar; a state is a window
of L bits, and its hash's four bytes give V integers (docs/format.md,
src/kernels/trellis/trellis_code.h). Shapes only are looked at in Python: everything traces under
jit, vmap and shard_map.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from turboquant_cpp._layout import LANES, MULTIPLIER, Code, Layout


def split_tiles(codes: jax.Array, layout: Layout) -> tuple[jax.Array, ...]:
    """Codes uint8 [bytes] as each segment's tiles, uint8 [tile_rows, tile_columns, tile_bytes]."""
    tiles, begin = [], 0
    for segment in layout.segments:
        end = begin + segment.num_bytes(layout.cols)
        shape = (segment.tile_rows, segment.tile_columns(layout.cols), segment.code.bytes)
        tiles.append(codes[begin:end].reshape(shape))
        begin = end
    return tuple(tiles)


def decode_states(states: jax.Array, code: Code) -> jax.Array:
    """Values of states, uint32 [...] -> int32 [..., V]."""
    hashes = (states & jnp.uint32((1 << code.state_bits) - 1)) * jnp.uint32(MULTIPLIER)
    u0, u1, u2, u3 = (((hashes >> (8 * i)) & 255).astype(jnp.int32) for i in range(4))
    values = [u0 + u1 + u2 + u3 - 510]
    if code.values >= 2:
        values.append(u0 - u1 + u2 - u3)
    if code.values == 4:
        values += [u0 + u1 - u2 - u3, u0 - u1 - u2 + u3]
    return jnp.stack(values, axis=-1)


def _words(tiles: jax.Array, code: Code) -> jax.Array:
    """Tiles uint8 [..., bytes] as little-endian words, uint32 [..., words of a lane, lanes]."""
    pairs = tiles.reshape(*tiles.shape[:-1], code.words, LANES, 2).astype(jnp.uint32)
    return pairs[..., 0] | pairs[..., 1] << 8


def decode_tiles(tiles: jax.Array, code: Code) -> jax.Array:
    """The integers of a segment.

    tiles   uint8 [tile_rows, tile_columns, tile_bytes]
    result  int32 [tile_rows * code.rows, tile_columns * code.columns], padding included
    """
    words = _words(tiles, code)
    # What follows the last word of a lane is the first of the next lane, around the circle.
    after = jnp.concatenate(
        [words[..., 1:, :], jnp.roll(words[..., :1, :], -1, axis=-1)], axis=-2
    )
    two = words | after << 16  # every 32 bits that begin at a word
    bits = np.arange(code.windows) * code.bits
    if 16 % code.bits == 0:  # as many windows in every word: no gather
        per_word = 16 // code.bits
        shifts = jnp.asarray(bits[:per_word], jnp.uint32)[:, None]
        states = two[..., :, None, :] >> shifts
        states = states.reshape(*states.shape[:-3], code.windows, LANES)
    else:
        shifts = jnp.asarray(bits % 16, jnp.uint32)[:, None]
        states = two[..., bits // 16, :] >> shifts
    values = decode_states(states, code)  # [tile_rows, tile_columns, windows, lanes, V]

    # Lane t = 4 g + c, window j = 4 f + 2 h + r:
    #   V = 2, 4:  row 16 f + g + 8 r,            column 4 V h + V c
    #   V = 1:     row 16 (f div 2) + g + 8 r,    column 8 (f mod 2) + 4 h + c
    tile_rows, tile_columns = tiles.shape[0], tiles.shape[1]
    across = 2 if code.values == 1 else 1
    down = code.windows // 4 // across
    split = values.reshape(tile_rows, tile_columns, down, across, 2, 2, 8, 4, code.values)
    ordered = split.transpose(0, 2, 5, 6, 1, 3, 4, 7, 8)
    return ordered.reshape(tile_rows * code.rows, tile_columns * code.columns)


@functools.cache
def _places(code: Code) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each group of V values of a tile, [rows, columns / V]: its two words' positions in the
    tile as stored, and the bit of the first that the state begins at."""
    groups = code.columns // code.values
    first = np.zeros((code.rows, groups), np.int32)
    second = np.zeros_like(first)
    shift = np.zeros((code.rows, groups), np.uint32)
    total = LANES * code.words

    def stored_at(word: int) -> int:
        word %= total
        return LANES * (word % code.words) + word // code.words

    across = 2 if code.values == 1 else 1
    for lane in range(LANES):
        for window in range(code.windows):
            fragment = window // 4
            row = 16 * (fragment // across) + lane // 4 + 8 * (window % 2)
            column = 4 * code.values * (window // 2 % 2) + code.values * (lane % 4)
            column += 8 * (fragment % across)
            bit = (lane * code.windows + window) * code.bits
            at = row, column // code.values
            first[at], second[at] = stored_at(bit // 16), stored_at(bit // 16 + 1)
            shift[at] = bit % 16
    return first, second, shift


def decode_tile_rows(tiles: jax.Array, code: Code, rows: jax.Array) -> jax.Array:
    """Single rows of a segment: only their windows are decoded.

    tiles   uint8 [tile_rows, tile_columns, tile_bytes]
    rows    integers [...], from 0 within the segment (others are clamped)
    result  int32 [..., tile_columns * code.columns]
    """
    words = _words(tiles, code)
    words = words.reshape(*words.shape[:-2], LANES * code.words)
    of_tile = words[rows // code.rows]  # [..., tile_columns, words of the tile]
    first, second, shift = (jnp.asarray(table)[rows % code.rows] for table in _places(code))
    low = jnp.take_along_axis(of_tile, first[..., None, :], axis=-1)
    high = jnp.take_along_axis(of_tile, second[..., None, :], axis=-1)
    values = decode_states((low | high << 16) >> shift[..., None, :], code)
    return values.reshape(*rows.shape, tiles.shape[1] * code.columns)
