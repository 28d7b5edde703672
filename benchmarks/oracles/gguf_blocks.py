#!/usr/bin/env python3
"""Makes tests/golden/gguf/blocks.gguf with the reference implementation of the format.

    pip install gguf && benchmarks/oracles/gguf_blocks.py tests/golden/gguf/blocks.gguf

For every block type that we read, a tensor <TYPE> in that type and a tensor <TYPE>.expected
in F32 with what PyPI `gguf` decodes it to. src/checkpoint/gguf_blocks_test.cc requires our
decoder to give the same bits. The file is the same on every run.
"""

import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

SEED = 20251
ROWS = 3

# Every block type that we read: where in a block half-precision numbers lie.
HALVES = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
    Type.IQ4_NL: [0],
    Type.IQ4_XS: [0],
    Type.TQ1_0: [52],
    Type.TQ2_0: [64],
}


def random_blocks(kind, count, rng):
    """[count, bytes] of noise that an encoder could have written: all finite, trits where due."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (count, size), np.uint8)
    if kind == Type.TQ1_0:
        numbers = rng.integers(0, 243, (count, 52), np.uint16)
        numbers[:, 48:] -= numbers[:, 48:] % 3
        blocks[:, :52] = (numbers * 256 + 242) // 243
    if kind == Type.TQ2_0:
        codes = rng.integers(0, 3, (count, 64, 4), np.uint8)
        blocks[:, :64] = np.bitwise_or.reduce(codes << np.array([0, 2, 4, 6], np.uint8), axis=-1)
    for column in HALVES[kind]:
        high = blocks[:, column + 1]
        high[(high & 0x7C) == 0x7C] &= 0xBF
    return blocks


def random_halves(count, rng):
    return rng.integers(0, 0x7C00, count, np.uint16) | (rng.integers(0, 2, count, np.uint16) << 15)


def expected_values(kind, packed):
    return gguf.quants.dequantize(packed, kind).astype(np.float32)


def golden_tensors(rng):
    special = np.array(
        [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF], np.uint16
    )
    halves = np.concatenate([special, random_halves(86, rng)]).reshape(ROWS, 32)
    tensors = {Type.F16: halves.view(np.uint8), Type.BF16: (halves & 0xBFFF).view(np.uint8)}
    for kind in HALVES:
        # Blocks of random bytes, after some of real use where the library can make them.
        blocks = [random_blocks(kind, 2, rng)]
        values = rng.standard_normal((ROWS, gguf.GGML_QUANT_SIZES[kind][0]), np.float32)
        values[-1] = 0
        try:
            blocks.insert(0, gguf.quants.quantize(values, kind))
        except NotImplementedError:
            pass
        tensors[kind] = np.concatenate(blocks)
    return tensors


def main():
    writer = gguf.GGUFWriter(sys.argv[1], "test")
    for kind, packed in golden_tensors(np.random.default_rng(SEED)).items():
        writer.add_tensor(kind.name, np.ascontiguousarray(packed), raw_dtype=kind)
        writer.add_tensor(kind.name + ".expected", expected_values(kind, packed))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
