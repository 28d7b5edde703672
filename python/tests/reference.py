"""The format spelled out slowly, from docs/format.md alone, to compare with."""

from __future__ import annotations

import numpy as np

from turboquant_cpp import Code, Layout, Segment


def state(tile: np.ndarray, code: Code, step: int) -> int:
    """Bits [step k, step k + L) of a tile's circular stream."""
    total = 32 * code.words * 16
    result = 0
    for i in range(code.state_bits):
        bit = (step * code.bits + i) % total
        lane, inside = divmod(bit, 16 * code.words)
        word, shift = divmod(inside, 16)
        at = 64 * word + 2 * lane + shift // 8
        result |= (int(tile[at]) >> (shift % 8) & 1) << i
    return result


def values(state_: int, code: Code) -> list[int]:
    h = state_ * 0x83DCD12D % 2**32
    u0, u1, u2, u3 = h & 255, h >> 8 & 255, h >> 16 & 255, h >> 24
    every = [u0 + u1 + u2 + u3 - 510, u0 - u1 + u2 - u3, u0 + u1 - u2 - u3, u0 - u1 - u2 + u3]
    return every[: code.values]


def decode_tile(tile: np.ndarray, code: Code) -> np.ndarray:
    """int [rows, columns] of one tile's bytes."""
    result = np.zeros((code.rows, code.columns), np.int32)
    for lane in range(32):
        for window in range(code.windows):
            r, f = window % 4, window // 4
            if code.values == 1:
                row = 16 * (f // 2) + lane // 4 + 8 * (r % 2)
                column = 8 * (f % 2) + 4 * (r // 2) + lane % 4
            else:
                row = 16 * f + lane // 4 + 8 * (r % 2)
                column = 4 * code.values * (r // 2) + code.values * (lane % 4)
            step = lane * code.windows + window
            result[row, column : column + code.values] = values(state(tile, code, step), code)
    return result


def decode_integers(codes: np.ndarray, layout: Layout) -> np.ndarray:
    """int [rows, cols] of a matrix."""
    result = np.zeros((layout.rows, layout.cols), np.int32)
    at = 0
    for segment in layout.segments:
        code = segment.code
        for row in range(segment.row_begin, segment.row_end, code.rows):
            for column in range(0, layout.cols, code.columns):
                tile = decode_tile(codes[at : at + code.bytes], code)
                at += code.bytes
                rows = min(code.rows, segment.row_end - row)
                cols = min(code.columns, layout.cols - column)
                result[row : row + rows, column : column + cols] = tile[:rows, :cols]
    assert at == codes.size
    return result


def random_layout(
    rows: int, cols: int, codes: list[tuple[int, Code]], out_block: int = 1, in_block: int = 1
) -> Layout:
    """Segments of (row_end, code), each in turn."""
    segments, begin = [], 0
    for end, code in codes:
        segments.append(Segment(begin, end, code))
        begin = end
    assert begin == rows
    return Layout(rows, cols, out_block, in_block, tuple(segments))
