#!/usr/bin/env python3
"""Compares our decoding of GGUF's block types with PyPI `gguf`, bit by bit.

Writes random blocks of every type that we read, with the library's writer, as one file and as a
split one; tq_decode_gguf decodes both.

    pip install gguf
    ninja -C build/release tq_decode_gguf
    benchmarks/oracles/gguf_oracle.py --decode build/.../tq_decode_gguf [--blocks N] [--seed N]

Exits with 1 at the first type that differs, showing where.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from gguf_blocks import HALVES, expected_values, random_blocks, random_halves

ROWS = 8


def random_tensors(blocks, rng):
    """{type: packed rows}, `blocks` blocks (or values) in each."""
    halves = random_halves(blocks, rng).reshape(ROWS, -1)
    tensors = {
        Type.F32: halves.view(np.float16).astype(np.float32).view(np.uint8),
        Type.F16: halves.view(np.uint8),
        Type.BF16: (halves & 0xBFFF).view(np.uint8),
    }
    for kind in HALVES:
        tensors[kind] = random_blocks(kind, blocks, rng).reshape(ROWS, -1)
    return tensors


def write(path, tensors, **split):
    writer = gguf.GGUFWriter(path, "test", **split)
    for kind, packed in tensors.items():
        writer.add_tensor(kind.name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def compare(name, decode, model, expected, folder):
    out = folder / "values.bin"
    subprocess.run([decode, model, out], check=True)
    ours, begin = np.fromfile(out, np.uint32), 0
    for kind, values in expected.items():
        wanted = values.view(np.uint32).ravel()
        got = ours[begin : begin + wanted.size]
        begin += wanted.size
        if not np.array_equal(got, wanted):
            at = np.flatnonzero(got != wanted)[0] if got.size == wanted.size else got.size
            sys.exit(
                f"{name}, {kind.name}: value {at} differs, ours {got[at:at + 1].view(np.float32)}, "
                f"oracle {wanted[at:at + 1].view(np.float32)}"
            )
    if begin != ours.size:
        sys.exit(f"{name}: {ours.size} values, the oracle has {begin}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--decode", required=True, help="the program tq_decode_gguf")
    parser.add_argument("--blocks", type=int, default=8192, help="of each type")
    parser.add_argument("--seed", type=int, default=20251)
    arguments = parser.parse_args()
    tensors = random_tensors(arguments.blocks // ROWS * ROWS, np.random.default_rng(arguments.seed))
    expected = {kind: expected_values(kind, packed) for kind, packed in tensors.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write(folder / "whole.gguf", tensors)
        compare("one file", arguments.decode, folder / "whole.gguf", expected, folder)
        write(folder / "split.gguf", tensors, split_max_tensors=3)
        parts = sorted(folder.glob("split-*.gguf"))
        compare("split file", arguments.decode, parts[0], expected, folder)
    counts = {kind.name: int(values.size) for kind, values in expected.items()}
    print(json.dumps({"values": counts, "total": sum(counts.values()), "parts": len(parts),
                      "equal": True}))


if __name__ == "__main__":
    main()
