"""safetensors files by memory map, one file or sharded by model.safetensors.index.json.

Headers are checked whole before any tensor is touched: dtypes, shapes, and that the tensors' ranges
tile the data exactly, so that no number in a file is believed beyond the bytes that follow it. All
errors are ValueErrors that name file, tensor, value and limit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pathlib
import struct
from typing import Any

import numpy as np

# The limit of the format's own library, and those of the C++ reader.
MAX_HEADER_BYTES = 100_000_000
MAX_INDEX_BYTES = 32 << 20
MAX_SHARDS = 10_000
MAX_NAME_BYTES = 1024
MAX_RANK = 16
# config.json and the like.
MAX_JSON_BYTES = 4 << 20

# BF16 has no NumPy type: its bits are read as uint16.
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor in a file: its type by the format's name, shape, bytes [offset, offset + size)."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


class _DuplicateError(ValueError):
    """A key twice in one object."""


def _no_duplicates(where: str, what: str) -> Any:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise _DuplicateError(f"{where}: duplicate {what} {key!r}")
                seen.add(key)
        return members

    return build


def parse_json(data: bytes, where: str, what: str = "key") -> Any:
    """A document without duplicate keys. `where` is named in errors, and `what` a key is."""
    if b"\0" in data:
        raise ValueError(f"{where}: not JSON at byte {data.index(0)}: NUL byte")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_no_duplicates(where, what))
    except _DuplicateError:
        raise
    except ValueError as error:  # syntax, UTF-8, numbers of too many digits
        raise ValueError(f"{where}: not JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{where}: JSON nested too deep") from None


def read_json(path: pathlib.Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The document of a regular file of at most `max_bytes`."""
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file")
    if size > max_bytes:
        raise ValueError(f"{path}: {size} bytes, the limit is {max_bytes}")
    return parse_json(path.read_bytes(), str(path))


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _sizes(fields: dict[str, Any], name: str, limit: int, where: str) -> list[int]:
    value = fields[name]
    if not isinstance(value, list) or not all(_is_size(size) for size in value):
        raise ValueError(f"{where}: {name} is {value!r}, not a list of sizes")
    if len(value) > limit:
        raise ValueError(f"{where}: {name} has {len(value)} elements, the limit is {limit}")
    return value


def _parse_entry(fields: Any, data_begin: int, where: str) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where}: expected the fields dtype, shape and data_offsets")
    dtype = fields["dtype"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{where}: dtype {dtype!r} is not supported; {', '.join(_DTYPES)} are")
    shape = tuple(_sizes(fields, "shape", MAX_RANK, where))
    offsets = _sizes(fields, "data_offsets", 2, where)
    size = math.prod(shape) * _DTYPES[dtype].itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise ValueError(
            f"{where}: data_offsets {offsets} do not hold the {size} bytes of {dtype} {list(shape)}"
        )
    return Entry(dtype, shape, data_begin + offsets[0], size)


def _check_tiling(entries: dict[str, Entry], begin: int, end: int, where: str) -> None:
    """Every byte of the data [begin, end) belongs to exactly one tensor."""
    at = begin
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].offset, item[1].size)):
        if entry.offset != at:
            kind = "overlap" if entry.offset < at else "gap"
            raise ValueError(
                f"{where}: tensor {name!r} starts at data byte {entry.offset - begin}, "
                f"expected {at - begin} ({kind})"
            )
        at += entry.size
    if at > end:
        raise ValueError(
            f"{where}: truncated: the tensors need {at - begin} data bytes, "
            f"the file holds {end - begin}"
        )
    if at < end:
        raise ValueError(f"{where}: {end - at} bytes after the last tensor")


class SafetensorsFile:
    """One file. Its header is checked when it is opened; arrays are views into a read-only map."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        if not path.is_file():
            raise ValueError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                raise ValueError(f"{path}: {size} bytes are too few for a safetensors file")
            (header_size,) = struct.unpack("<Q", file.read(8))
            limit = min(size - 8, MAX_HEADER_BYTES)
            if not 2 <= header_size <= limit:
                raise ValueError(
                    f"{path}: header of {header_size} bytes; allowed are 2 to {limit}"
                )
            header = file.read(header_size)
        if not header.startswith(b"{"):
            raise ValueError(f"{path}: the header does not start with '{{'")
        begin = 8 + header_size
        self.entries: dict[str, Entry] = {}
        for name, fields in parse_json(header, str(path), "tensor").items():
            if name == "__metadata__":
                continue
            if not 1 <= len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES:
                raise ValueError(f"{path}: a tensor's name has not 1 to {MAX_NAME_BYTES} bytes")
            self.entries[name] = _parse_entry(fields, begin, f"{path}: tensor {name!r}")
        _check_tiling(self.entries, begin, size, str(path))
        self._map = np.memmap(path, dtype=np.uint8, mode="r")
        if self._map.size != size:
            raise ValueError(f"{path}: {self._map.size} bytes, it had {size} when it was opened")

    def array(self, name: str) -> np.ndarray:
        """A view of a tensor; BF16 as the bits, uint16."""
        entry = self.entries[name]
        data = self._map[entry.offset : entry.offset + entry.size]
        return data.view(_DTYPES[entry.dtype]).reshape(entry.shape)


def _is_shard_name(name: Any) -> bool:
    """A plain name of a .safetensors file: it can only mean a file inside the model's folder."""
    return (
        isinstance(name, str)
        and len(name) <= 255
        and name.endswith(".safetensors")
        and not name.startswith(".")
        and not any(c in name for c in "/\\\0")
    )


class SafetensorsDirectory:
    """All shards of a model: model.safetensors, or those that its index names."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._files: dict[str, SafetensorsFile] = {}
        single = folder / "model.safetensors"
        index = folder / "model.safetensors.index.json"
        if single.exists():
            file = SafetensorsFile(single)
            self._files = dict.fromkeys(file.entries, file)
        elif index.exists():
            self._open_shards(index)
        else:
            raise ValueError(f"{folder}: neither model.safetensors nor {index.name}")

    def _open_shards(self, index: pathlib.Path) -> None:
        document = read_json(index, MAX_INDEX_BYTES)
        weight_map = document.get("weight_map") if isinstance(document, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{index}: no weight_map")
        for name, shard in weight_map.items():
            if not _is_shard_name(shard):
                raise ValueError(
                    f"{index}: tensor {name!r}: {shard!r} is no name of a .safetensors file"
                )
        shards = sorted(set(weight_map.values()))
        if len(shards) > MAX_SHARDS:
            raise ValueError(f"{index}: {len(shards)} shards, the limit is {MAX_SHARDS}")
        for shard in shards:
            file = SafetensorsFile(self.folder / shard)
            for name in file.entries:
                if weight_map.get(name) != shard:
                    raise ValueError(
                        f"{file.path}: holds tensor {name!r}, "
                        f"which {index.name} places in {weight_map.get(name)!r}"
                    )
                self._files[name] = file
        for name, shard in weight_map.items():
            if name not in self._files:
                raise ValueError(f"{self.folder / shard}: tensor {name!r} is missing")

    @property
    def names(self) -> list[str]:
        return sorted(self._files)

    def entry(self, name: str) -> Entry:
        if name not in self._files:
            raise ValueError(f"{self.folder}: no tensor {name!r}")
        return self._files[name].entries[name]

    def array(self, name: str) -> np.ndarray:
        """A view of a tensor; BF16 as the bits, uint16."""
        self.entry(name)
        return self._files[name].array(name)

    def float_array(self, name: str) -> np.ndarray:
        """A copy of a floating-point tensor as float32, all of it finite."""
        dtype = self.entry(name).dtype
        stored = self.array(name)
        if dtype == "BF16":
            values = (stored.astype(np.uint32) << 16).view(np.float32)
        elif dtype in ("F16", "F32", "F64"):
            values = stored.astype(np.float32)
        else:
            raise ValueError(f"{self.folder}: tensor {name!r} is {dtype}, expected floats")
        if not np.isfinite(values).all():
            raise ValueError(f"{self.folder}: tensor {name!r} has values that are not finite")
        return values
