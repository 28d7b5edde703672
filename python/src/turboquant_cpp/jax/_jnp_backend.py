"""Products with W' in jax.numpy: tiles are decoded and multiplied, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from turboquant_cpp._layout import Segment
from turboquant_cpp.jax import _trellis

# Decoded values held at once, about: 64 MiB of float32. Larger segments are cut along their rows of
# tiles, so that memory does not grow with a vocabulary of 128,000.
MAX_DECODED_VALUES = 1 << 24


def _decode(tiles: jax.Array, segment: Segment, cols: int) -> jax.Array:
    """The integers of some rows of tiles as float32 [tile_rows * code.rows, cols]."""
    return _trellis.decode_tiles(tiles, segment.code)[:, :cols].astype(jnp.float32)


def _rows_at_once(tiles: jax.Array, segment: Segment) -> int:
    values = tiles.shape[1] * segment.code.rows * segment.code.columns
    return max(1, min(tiles.shape[0], MAX_DECODED_VALUES // values))


def _in_pieces(
    tiles: jax.Array, at_once: int, compute: Callable[[jax.Array], jax.Array]
) -> list[jax.Array]:
    """compute() of whole pieces of `at_once` rows of tiles, stacked, and of the rest."""
    whole = tiles.shape[0] // at_once
    if whole <= 1 and tiles.shape[0] == at_once:
        return [compute(tiles)[None]]
    body = tiles[: whole * at_once].reshape(whole, at_once, *tiles.shape[1:])
    results = [lax.map(compute, body)]
    if whole * at_once < tiles.shape[0]:
        results.append(compute(tiles[whole * at_once :])[None])
    return results


def segment_product(x: jax.Array, tiles: jax.Array, segment: Segment) -> jax.Array:
    """x times the integers of a segment: float32 [n, cols] -> [n, tile_rows * code.rows].

    tiles  uint8 [tile_rows, tile_columns, tile_bytes]: all of the segment's, or some rows or some
           columns of them, with x's columns to match
    """

    def compute(piece: jax.Array) -> jax.Array:
        weights = _decode(piece, segment, x.shape[1])
        return jnp.dot(weights, x.T, precision=lax.Precision.HIGHEST)

    at_once = _rows_at_once(tiles, segment)
    parts = [part.reshape(-1, x.shape[0]) for part in _in_pieces(tiles, at_once, compute)]
    return jnp.concatenate(parts, axis=0).T


def segment_product_transposed(
    y: jax.Array, tiles: jax.Array, segment: Segment, cols: int
) -> jax.Array:
    """y times the transposed integers: float32 [n, segment.rows] -> [n, cols]."""
    padding = tiles.shape[0] * segment.code.rows - y.shape[1]
    padded = jnp.pad(y, ((0, 0), (0, padding)))
    at_once = _rows_at_once(tiles, segment)
    rows = at_once * segment.code.rows
    result = jnp.zeros((y.shape[0], cols), jnp.float32)

    def add(total: jax.Array, piece: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        of_tiles, of_y = piece
        weights = _decode(of_tiles, segment, cols)
        return total + jnp.dot(of_y, weights, precision=lax.Precision.HIGHEST), None

    whole = tiles.shape[0] // at_once
    body = tiles[: whole * at_once].reshape(whole, at_once, *tiles.shape[1:])
    of_y = padded[:, : whole * rows].reshape(y.shape[0], whole, rows).transpose(1, 0, 2)
    result, _ = lax.scan(add, result, (body, of_y))
    if whole * at_once < tiles.shape[0]:
        result, _ = add(result, (tiles[whole * at_once :], padded[:, whole * rows :]))
    return result


class JnpBackend:
    """Runs anywhere. Integers are exact; products are float32 at JAX's highest precision."""

    name = "jnp"

    def product(
        self,
        x: jax.Array,
        tiles: Sequence[jax.Array],
        scales: jax.Array,
        segments: Sequence[Segment],
    ) -> jax.Array:
        """W' x of each row: float32 [n, cols] -> [n, rows]."""
        parts = []
        for index, (segment, of_segment) in enumerate(zip(segments, tiles)):
            product = segment_product(x, of_segment, segment)[:, : segment.rows]
            parts.append(product * scales[index])
        return jnp.concatenate(parts, axis=1)

    def product_transposed(
        self,
        y: jax.Array,
        tiles: Sequence[jax.Array],
        scales: jax.Array,
        segments: Sequence[Segment],
        cols: int,
    ) -> jax.Array:
        """W'^T y of each row: float32 [n, rows] -> [n, cols]."""
        result = jnp.zeros((y.shape[0], cols), jnp.float32)
        for index, (segment, of_segment) in enumerate(zip(segments, tiles)):
            part = y[:, segment.row_begin : segment.row_end] * scales[index]
            result += segment_product_transposed(part, of_segment, segment, cols)
        return result
