"""X.layout: geometry of codes, and what is refused."""

import numpy as np
import pytest

from turboquant_cpp import Code
from turboquant_cpp._layout import SUPPORTED_CODES, hadamard_factors, parse_layout

# docs/format.md, "Native codes": (V, k) -> words per lane, tile rows, tile columns, bytes.
GEOMETRY = {
    (4, 2): (1, 32, 32, 64),
    (4, 3): (3, 64, 32, 192),
    (2, 2): (1, 32, 16, 64),
    (2, 3): (3, 64, 16, 192),
    (2, 4): (1, 16, 16, 64),
    (2, 5): (5, 64, 16, 320),
    (1, 2): (1, 16, 16, 64),
    (1, 3): (3, 32, 16, 192),
    (1, 4): (2, 16, 16, 128),
    (1, 5): (5, 32, 16, 320),
    (1, 6): (3, 16, 16, 192),
    (1, 8): (4, 16, 16, 256),
}


def bits_of(scale: float) -> int:
    return int(np.float32(scale).view(np.int32))


def fields(**changes: int) -> np.ndarray:
    """A layout of 100 x 48 in two segments, with some fields changed."""
    names = ["format", "code", "state_bits", "rows", "cols", "out_block", "in_block", "segments"]
    names += ["row_end0", "V0", "k0", "scale0", "row_end1", "V1", "k1", "scale1"]
    values = [1, 1, 16, 100, 48, 4, 12, 2, 64, 2, 4, bits_of(0.5), 100, 1, 3, bits_of(0.25)]
    assert set(changes) <= set(names)
    return np.array(
        [changes.get(name, value) for name, value in zip(names, values)], np.int32
    )


def test_geometry_is_that_of_the_format() -> None:
    assert SUPPORTED_CODES == set(GEOMETRY)
    for (values, bits), expected in GEOMETRY.items():
        code = Code(values, bits, 16)
        assert (code.words, code.rows, code.columns, code.bytes) == expected
        assert code.rows * code.columns * bits == 8 * code.bytes * values


def test_reads_segments() -> None:
    layout, scales = parse_layout(fields(), "x")
    assert (layout.rows, layout.cols, layout.out_block, layout.in_block) == (100, 48, 4, 12)
    first, second = layout.segments
    assert (first.row_begin, first.row_end, first.code) == (0, 64, Code(2, 4, 16))
    assert (second.row_begin, second.row_end, second.code) == (64, 100, Code(1, 3, 16))
    assert scales.tolist() == [0.5, 0.25]
    # 4 x 3 tiles of 64 bytes, and 2 x 3 of 192.
    assert layout.num_bytes == 12 * 64 + 6 * 192
    assert hash(layout) == hash(parse_layout(fields(), "x")[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2, this package reads 1"),
        ({"code": 2}, "code 2 (grouped scalar)"),
        ({"code": 3}, "code 3 (grouped ternary)"),
        ({"code": 9}, "code 9 (unknown)"),
        ({"state_bits": 14}, "14 state bits"),
        ({"rows": 0}, "shape [0, 48]"),
        ({"cols": -1}, "shape [100, -1]"),
        ({"out_block": 3}, "out_block 3 is not an order"),
        ({"out_block": 8}, "out_block 8 does not divide 100"),
        ({"in_block": 0}, "in_block 0 is not an order"),
        ({"segments": 0}, "0 segments, allowed are 1 to 8"),
        ({"segments": 9}, "9 segments, allowed are 1 to 8"),
        ({"segments": 1}, "16 numbers, 1 segments take 12"),
        ({"row_end0": 0}, "row_end 0 of segment 0 is outside 1..100"),
        ({"row_end0": 65}, "row_end 65 of segment 0 is not a multiple of 64"),
        ({"row_end1": 64}, "row_end 64 of segment 1 is outside 65..100"),
        ({"row_end1": 99}, "the last row_end is 99, rows 100"),
        ({"k0": 7}, "segment 0 has V = 2, k = 7"),
        ({"V1": 3}, "segment 1 has V = 3, k = 3"),
        ({"scale0": bits_of(-1)}, "scale -1.0 of segment 0"),
        ({"scale1": bits_of(float("nan"))}, "scale nan of segment 1"),
        ({"scale1": bits_of(float("inf"))}, "scale inf of segment 1"),
    ],
)
def test_refuses(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_layout(fields(**changes), "model: x")
    assert str(error.value).startswith("model: x: layout: ")
    assert message in str(error.value)


@pytest.mark.parametrize("length", [0, 1, 2, 7])
def test_refuses_short_layouts(length: int) -> None:
    with pytest.raises(ValueError, match=f"{length} numbers, at least 8"):
        parse_layout(fields()[:length], "x")


def test_refuses_other_types() -> None:
    with pytest.raises(ValueError, match=r"int64 \[16\], expected I32"):
        parse_layout(fields().astype(np.int64), "x")


def test_hadamard_orders() -> None:
    orders = [n for n in range(1, 161) if hadamard_factors(n) is not None]
    expected = sorted(m << k for m in (1, 12, 20, 28, 36) for k in range(8) if m << k <= 160)
    assert orders == expected
    assert hadamard_factors(128) == (1, 7) and hadamard_factors(48) == (12, 2)
    assert hadamard_factors(0) is None and hadamard_factors(-4) is None
