"""`X.layout`: what a matrix's codes are and how they lie (docs/format.md).

A matrix W [rows, cols] is diag(so) Hout^T W' Hin diag(si), W' = scale * (decoded integers). Its
rows fall into segments of one trellis code each; a segment's codes are tiles, row of tiles by row
of tiles, along the columns inside. Everything here is plain Python, hashable, and known before any
code is read.
"""

from __future__ import annotations

import dataclasses

import numpy as np

MULTIPLIER = 0x83DCD12D
LANES = 32
# Rows of different rates meet only at multiples of this.
SEGMENT_ROW_MULTIPLE = 64
MAX_SEGMENTS = 8

# (V, k): values and bits of a step.
SUPPORTED_CODES = frozenset(
    [(4, 2), (4, 3), (2, 2), (2, 3), (2, 4), (2, 5)]
    + [(1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (1, 8)]
)
STATE_BITS = (12, 16)
_HADAMARD_MATRICES = (12, 20, 28, 36)

_FORMAT, _CODE_ID, _STATE_BITS, _ROWS, _COLS, _OUT_BLOCK, _IN_BLOCK, _SEGMENTS, _HEADER = range(9)
_PER_SEGMENT = 4  # row_end, V, k, bits of the scale
_HASH_SUM = 1
_OTHER_CODES = {2: "grouped scalar", 3: "grouped ternary"}


@dataclasses.dataclass(frozen=True)
class Code:
    """A trellis code: V values and k bits of a step, L bits of the state; its tile's geometry."""

    values: int
    bits: int
    state_bits: int

    @property
    def words(self) -> int:
        """16-bit words of a lane: the fewest that hold whole fragments of 4 windows."""
        words = 1
        while 16 * words % self.bits != 0:
            words += 1
        fragment = 8 if self.values == 1 else 4
        while 16 * words // self.bits % fragment != 0:
            words *= 2
        return words

    @property
    def windows(self) -> int:
        """States of a lane."""
        return 16 * self.words // self.bits

    @property
    def columns(self) -> int:
        """Of a tile."""
        return 32 if self.values == 4 else 16

    @property
    def rows(self) -> int:
        """Of a tile; a multiple of 16 that divides SEGMENT_ROW_MULTIPLE."""
        return LANES * self.windows * self.values // self.columns

    @property
    def bytes(self) -> int:
        """Of a tile."""
        return 2 * LANES * self.words


@dataclasses.dataclass(frozen=True)
class Segment:
    """Rows [row_begin, row_end) of a matrix, all of one code."""

    row_begin: int
    row_end: int
    code: Code

    @property
    def rows(self) -> int:
        return self.row_end - self.row_begin

    @property
    def tile_rows(self) -> int:
        """Tiles along the rows, the padded last one included."""
        return -(-self.rows // self.code.rows)

    def tile_columns(self, cols: int) -> int:
        """Tiles along `cols` columns, the padded last one included."""
        return -(-cols // self.code.columns)

    def num_bytes(self, cols: int) -> int:
        """Of all tiles."""
        return self.tile_rows * self.tile_columns(cols) * self.code.bytes


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shape, rotation and codes of a matrix: all that is static when it is used."""

    rows: int
    cols: int
    out_block: int
    in_block: int
    segments: tuple[Segment, ...]

    @property
    def num_bytes(self) -> int:
        """Of the codes."""
        return sum(segment.num_bytes(self.cols) for segment in self.segments)

    @property
    def bits_per_weight(self) -> float:
        """Of the codes alone, padding included."""
        return 8 * self.num_bytes / (self.rows * self.cols)


def hadamard_factors(order: int) -> tuple[int, int] | None:
    """(m, k) of an order m * 2^k with the smallest m of 1, 12, 20, 28 and 36, or None."""
    if order < 1:
        return None
    for m in (1, *_HADAMARD_MATRICES):
        power, rest = divmod(order, m)
        if rest == 0 and power & (power - 1) == 0:
            return m, power.bit_length() - 1
    return None


def _check_block(block: int, dimension: int, name: str, where: str) -> None:
    if hadamard_factors(block) is None:
        raise ValueError(
            f"{where}: layout: {name} {block} is not an order m * 2^k, m in 1, 12, 20, 28, 36"
        )
    if dimension % block != 0:
        raise ValueError(f"{where}: layout: {name} {block} does not divide {dimension}")


def _check_header(fields: list[int], where: str) -> None:
    if len(fields) < 2:
        raise ValueError(f"{where}: layout: {len(fields)} numbers, at least {_HEADER} expected")
    # Those two come first: other kinds of codes have other fields behind them.
    if fields[_CODE_ID] != _HASH_SUM:
        kind = _OTHER_CODES.get(fields[_CODE_ID], "unknown")
        raise ValueError(
            f"{where}: layout: code {fields[_CODE_ID]} ({kind}); "
            f"this package reads {_HASH_SUM} (hash-sum trellis)"
        )
    if fields[_FORMAT] != 1:
        raise ValueError(f"{where}: layout: format {fields[_FORMAT]}, this package reads 1")
    if len(fields) < _HEADER:
        raise ValueError(f"{where}: layout: {len(fields)} numbers, at least {_HEADER} expected")
    if fields[_STATE_BITS] not in STATE_BITS:
        raise ValueError(
            f"{where}: layout: {fields[_STATE_BITS]} state bits, this package reads 12 and 16"
        )
    if fields[_ROWS] < 1 or fields[_COLS] < 1:
        raise ValueError(
            f"{where}: layout: shape [{fields[_ROWS]}, {fields[_COLS]}], each must be at least 1"
        )
    count = fields[_SEGMENTS]
    if not 1 <= count <= MAX_SEGMENTS:
        raise ValueError(f"{where}: layout: {count} segments, allowed are 1 to {MAX_SEGMENTS}")
    if len(fields) != _HEADER + _PER_SEGMENT * count:
        raise ValueError(
            f"{where}: layout: {len(fields)} numbers, {count} segments take "
            f"{_HEADER + _PER_SEGMENT * count}"
        )


def _parse_segment(
    fields: list[int], index: int, row_begin: int, header: list[int], where: str
) -> Segment:
    row_end, values, bits, _ = fields
    rows, last = header[_ROWS], index == header[_SEGMENTS] - 1
    if not row_begin < row_end <= rows:
        raise ValueError(
            f"{where}: layout: row_end {row_end} of segment {index} "
            f"is outside {row_begin + 1}..{rows}"
        )
    if last and row_end != rows:
        raise ValueError(f"{where}: layout: the last row_end is {row_end}, rows {rows}")
    if not last and row_end % SEGMENT_ROW_MULTIPLE != 0:
        raise ValueError(
            f"{where}: layout: row_end {row_end} of segment {index} "
            f"is not a multiple of {SEGMENT_ROW_MULTIPLE}"
        )
    if (values, bits) not in SUPPORTED_CODES:
        raise ValueError(
            f"{where}: layout: segment {index} has V = {values}, k = {bits}: no such trellis code"
        )
    return Segment(row_begin, row_end, Code(values, bits, header[_STATE_BITS]))


def parse_layout(stored: np.ndarray, where: str) -> tuple[Layout, np.ndarray]:
    """The layout, and each segment's scale, float32 [segments], from `X.layout`, int32 [n].

    `where` is named in errors: ValueErrors with field, value and limit.
    """
    if stored.dtype != np.int32 or stored.ndim != 1:
        raise ValueError(f"{where}: layout: {stored.dtype} {list(stored.shape)}, expected I32 [n]")
    fields = [int(value) for value in stored]
    _check_header(fields, where)
    _check_block(fields[_OUT_BLOCK], fields[_ROWS], "out_block", where)
    _check_block(fields[_IN_BLOCK], fields[_COLS], "in_block", where)
    segments: list[Segment] = []
    for index in range(fields[_SEGMENTS]):
        at = _HEADER + _PER_SEGMENT * index
        row_begin = segments[-1].row_end if segments else 0
        segments.append(
            _parse_segment(fields[at : at + _PER_SEGMENT], index, row_begin, fields, where)
        )
    scales = stored[_HEADER + _PER_SEGMENT - 1 :: _PER_SEGMENT].copy().view(np.float32)
    for index, scale in enumerate(scales):
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(
                f"{where}: layout: scale {scale} of segment {index} "
                "is not a positive finite number"
            )
    layout = Layout(
        fields[_ROWS], fields[_COLS], fields[_OUT_BLOCK], fields[_IN_BLOCK], tuple(segments)
    )
    return layout, scales
