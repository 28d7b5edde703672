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


def finite_halves(blocks, columns):
    """Makes the half-precision numbers at these byte columns finite, whatever the bytes."""
    for column in columns:
        high = blocks[:, column + 1]
        high[(high & 0x7C) == 0x7C] &= 0xBF
    return blocks


def main():
    rng = np.random.default_rng(SEED)
    writer = gguf.GGUFWriter(sys.argv[1], "test")
    tensors = {}

    halves = np.concatenate([
        np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF],
                 np.uint16),
        rng.integers(0, 0x7C00, 86, np.uint16) | (rng.integers(0, 2, 86, np.uint16) << 15),
    ]).reshape(ROWS, 32)
    tensors[Type.F16] = halves.view(np.uint8)
    tensors[Type.BF16] = (halves & 0xBFFF).view(np.uint8)

    # Blocks of real use (the library's own quantiser), then blocks of random bytes.
    for kind, scales in ((Type.Q4_0, [0]), (Type.Q4_1, [0, 2]), (Type.Q8_0, [0])):
        values = rng.standard_normal((ROWS, 32), np.float32)
        values[-1] = 0
        packed = gguf.quants.quantize(values, kind)
        noise = finite_halves(rng.integers(0, 256, packed.shape, np.uint8), scales)
        tensors[kind] = np.concatenate([packed, noise])
    # The library has no quantiser for Q6_K.
    tensors[Type.Q6_K] = finite_halves(rng.integers(0, 256, (2, 210), np.uint8), [208])

    for kind, packed in tensors.items():
        writer.add_tensor(kind.name, np.ascontiguousarray(packed), raw_dtype=kind)
        expected = gguf.quants.dequantize(packed, kind).astype(np.float32)
        writer.add_tensor(kind.name + ".expected", expected)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
