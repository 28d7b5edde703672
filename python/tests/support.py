"""Helpers for tests: files read and written, and tolerances."""

from __future__ import annotations

import json
import pathlib
import struct
from collections.abc import Iterator

import numpy as np

REPOSITORY = pathlib.Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests/golden"
EPSILON = 2.0**-24  # of float32, half a unit in the last place

_NAMES = {
    np.dtype("f8"): "F64",
    np.dtype("f4"): "F32",
    np.dtype("f2"): "F16",
    np.dtype("i4"): "I32",
    np.dtype("u1"): "U8",
}


def write_safetensors(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    data = b"".join(np.ascontiguousarray(tensor).tobytes() for tensor in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class _Gguf:
    """As much of GGUF v3 as files of `tq export --type f32` need."""

    _SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def scalar(self, form: str) -> int:
        (value,) = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self) -> str:
        size = self.scalar("Q")
        self.at += size
        return self.data[self.at - size : self.at].decode()

    def value(self, kind: int) -> object:
        if kind == 8:
            return self.text()
        if kind == 9:
            element, count = self.scalar("I"), self.scalar("Q")
            return [self.value(element) for _ in range(count)]
        return self.scalar("d" if kind == 12 else self._SCALARS[kind])


def gguf_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a file by GGUF's names, [rows, cols]."""
    reader = _Gguf(path.read_bytes())
    assert reader.data[:4] == b"GGUF"
    reader.at = 4
    assert reader.scalar("I") == 3
    tensors, keys = reader.scalar("Q"), reader.scalar("Q")
    alignment = 32
    for _ in range(keys):
        name = reader.text()
        value = reader.value(reader.scalar("I"))
        if name == "general.alignment":
            alignment = int(str(value))
    places = {}
    for _ in range(tensors):
        name = reader.text()
        shape = [reader.scalar("Q") for _ in range(reader.scalar("I"))][::-1]
        assert reader.scalar("I") == 0, f"{name} is not float32"
        places[name] = shape, reader.scalar("Q")
    begin = -(-reader.at // alignment) * alignment
    return {
        name: np.frombuffer(
            reader.data, "<f4", int(np.prod(shape)), begin + offset
        ).reshape(shape)
        for name, (shape, offset) in places.items()
    }


_ROLES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def hugging_face_rows(
    tensors: dict[str, np.ndarray], heads: int, kv_heads: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Matrices of a llama's GGUF file by Hugging Face's names, rows of q and k in its order."""
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if stem in ("token_embd", "output"):
            yield {"token_embd": "model.embed_tokens", "output": "lm_head"}[stem], tensor
            continue
        role = stem.split(".")[-1]
        if not stem.startswith("blk.") or role not in _ROLES:
            continue
        if role in ("attn_q", "attn_k"):
            # llama.cpp turns pairs of neighbours: halves of each head lie interleaved there.
            count = heads if role == "attn_q" else kv_heads
            split = tensor.reshape(count, -1, 2, tensor.shape[1])
            tensor = split.swapaxes(1, 2).reshape(tensor.shape)
        yield f"model.layers.{stem.split('.')[1]}.{_ROLES[role]}", tensor


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """|actual - expected| / |expected| in the Euclidean norm."""
    difference = np.float64(actual) - np.float64(expected)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.float64(expected)))
