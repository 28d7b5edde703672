"""A packed model's directory (docs/format.md), read and checked whole; NumPy only.

Codes stay in the memory maps of their files; everything small is copied. What is not understood is
refused by name: a newer format, another method, an unknown code, a tensor without a place.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from turboquant_cpp import _config, _layout, _safetensors

FORMAT = 1
_OTHER_METHODS = ("rtn", "gptq", "awq", "ternary")

# Matrices that share an input transform, by the last part of their names.
_GROUPS = {
    "q_proj": "qkv",
    "k_proj": "qkv",
    "v_proj": "qkv",
    "o_proj": "o",
    "gate_proj": "gate_up",
    "up_proj": "gate_up",
    "down_proj": "down",
}


@dataclasses.dataclass(frozen=True, eq=False)
class StoredMatrix:
    """A trellis-coded matrix: W = diag(out_scale) Hout^T W' Hin diag(in_scale).

    codes      uint8 [layout.num_bytes], a view into the file's map
    out_scale  float16 [rows], finite
    in_scale   float16 [cols], finite; the same array for all matrices of an input group
    scales     float32 [segments], positive: W' per decoded integer
    """

    codes: np.ndarray
    out_scale: np.ndarray
    in_scale: np.ndarray
    scales: np.ndarray
    layout: _layout.Layout


@dataclasses.dataclass(frozen=True, eq=False)
class PackedDirectory:
    """All that a directory holds: matrices and other tensors by Hugging Face's names.

    matrices  without ".weight": "model.layers.0.mlp.up_proj", "model.embed_tokens", "lm_head"
    vectors   norms and biases, float32, with their whole names: "model.norm.weight"
    """

    path: pathlib.Path
    config: _config.ModelConfig
    matrices: dict[str, StoredMatrix]
    vectors: dict[str, np.ndarray]


def group_name(matrix: str) -> str:
    """The input group of a matrix: embedding and head are their own."""
    head, _, role = matrix.rpartition(".")
    return f"{head}.{_GROUPS[role]}" if role in _GROUPS else matrix


class _Reader:
    """Keeps account of the tensors that were used."""

    def __init__(self, path: pathlib.Path, files: _safetensors.SafetensorsDirectory) -> None:
        self._path, self._files = path, files
        self._used: set[str] = set()
        self._inputs: dict[str, np.ndarray] = {}

    def take(self, name: str, dtype: str, shape: tuple[int, ...] | None) -> np.ndarray:
        """A tensor of just this type and shape (None: of any shape)."""
        self._used.add(name)
        entry = self._files.entry(name)
        if entry.dtype != dtype or (shape is not None and entry.shape != shape):
            wanted = "" if shape is None else f" {list(shape)}"
            raise ValueError(
                f"{self._path}: tensor {name!r} is {entry.dtype} {list(entry.shape)}, "
                f"expected {dtype}{wanted}"
            )
        return self._files.array(name)

    def take_scale(self, name: str, count: int) -> np.ndarray:
        scale = self.take(name, "F16", (count,)).copy()
        bad = np.flatnonzero(~np.isfinite(scale))
        if bad.size:
            raise ValueError(
                f"{self._path}: tensor {name!r}: value {scale[bad[0]]} at index {bad[0]} "
                "is not finite"
            )
        return scale

    def take_matrix(self, name: str, shape: tuple[int, ...]) -> StoredMatrix:
        where = f"{self._path}: {name}"
        layout, scales = _layout.parse_layout(self.take(f"{name}.layout", "I32", None), where)
        if (layout.rows, layout.cols) != shape:
            raise ValueError(
                f"{where} has shape [{layout.rows}, {layout.cols}], "
                f"config.json says {list(shape)}"
            )
        group = group_name(name)
        if group == name and layout.out_block != 1:
            raise ValueError(
                f"{where}: layout: out_block is {layout.out_block}; "
                "rows of embedding and head must stand alone"
            )
        codes = self.take(f"{name}.codes", "U8", (layout.num_bytes,))
        if group not in self._inputs:
            self._inputs[group] = self.take_scale(f"{group}.in_scale", layout.cols)
        out_scale = self.take_scale(f"{name}.out_scale", layout.rows)
        return StoredMatrix(codes, out_scale, self._inputs[group], scales, layout)

    def take_vector(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        self._used.add(name)
        stored = self._files.entry(name).shape
        if stored != shape:
            raise ValueError(
                f"{self._path}: tensor {name!r} has shape {list(stored)}, "
                f"config.json says {list(shape)}"
            )
        return self._files.float_array(name)

    def check_all_used(self) -> None:
        for name in self._files.names:
            if name not in self._used:
                raise ValueError(
                    f"{self._path}: tensor {name!r} belongs to no matrix of the model"
                )


def _check_groups(path: pathlib.Path, matrices: dict[str, StoredMatrix]) -> None:
    """Matrices of one input group have one order of blocks."""
    blocks: dict[str, int] = {}
    for name, matrix in matrices.items():
        block = blocks.setdefault(group_name(name), matrix.layout.in_block)
        if block != matrix.layout.in_block:
            raise ValueError(
                f"{path}: {name}: layout: in_block {matrix.layout.in_block}, "
                f"its input group has {block}"
            )


def _take_quantization(document: Any, where: str) -> None:
    """Checks quantization_config and removes it."""
    fields = document.get("quantization_config") if isinstance(document, dict) else None
    if not isinstance(fields, dict) or fields.get("quant_method") != "turboquant":
        raise ValueError(f'{where}: no quantization_config of method "turboquant"')
    version = fields.get("format")
    if version != FORMAT or isinstance(version, bool):
        raise ValueError(
            f"{where}: quantization_config.format is {version!r}; this package reads {FORMAT}"
        )
    method = fields.get("method")
    if method in _OTHER_METHODS:
        raise ValueError(
            f"{where}: quantization_config.method is {method!r}, whose grouped codes this package "
            "does not read; 'trellis' it does"
        )
    if method != "trellis":
        raise ValueError(f"{where}: quantization_config.method is {method!r}; known is 'trellis'")
    del document["quantization_config"]


def open_directory(path: str | os.PathLike[str]) -> PackedDirectory:
    """Opens a directory that `tq quantize` made (method trellis) and checks everything in it.

    Raises ValueError naming file, tensor or field, value and limit where the directory is not what
    docs/format.md says, FileNotFoundError where there is no config.json.
    """
    folder = pathlib.Path(path)
    where = folder / "config.json"
    document = _safetensors.read_json(where)
    _take_quantization(document, str(where))
    config = _config.parse_config(document, str(where))
    reader = _Reader(folder, _safetensors.SafetensorsDirectory(folder))
    matrices: dict[str, StoredMatrix] = {}
    vectors: dict[str, np.ndarray] = {}
    for name, shape in _config.tensor_shapes(config).items():
        if len(shape) == 2:
            matrix = name.removesuffix(".weight")
            matrices[matrix] = reader.take_matrix(matrix, shape)
        else:
            vectors[name] = reader.take_vector(name, shape)
    reader.check_all_used()
    _check_groups(folder, matrices)
    return PackedDirectory(folder, config, matrices, vectors)
