"""Packed directories: what is read, and what is refused and how."""

from __future__ import annotations

import json
import pathlib
import shutil
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import GOLDEN, write_safetensors

from turboquant_cpp import open_directory
from turboquant_cpp._safetensors import SafetensorsDirectory

MODEL = GOLDEN / "packed/model"
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(MODEL, tmp_path / "model"))


def tensors_of(folder: pathlib.Path) -> dict[str, np.ndarray]:
    files = SafetensorsDirectory(folder)
    return {name: files.array(name).copy() for name in files.names}


def change_config(folder: pathlib.Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def expect_refusal(folder: pathlib.Path, *parts: str) -> None:
    with pytest.raises(ValueError) as error:
        open_directory(folder)
    for part in (str(folder), *parts):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_reads_the_golden_directory() -> None:
    directory = open_directory(MODEL)
    assert directory.config.num_layers == 2 and directory.config.eos_id == 1
    assert len(directory.matrices) == 16 and len(directory.vectors) == 5
    q, k = directory.matrices[Q], directory.matrices[Q.replace("q_proj", "k_proj")]
    assert q.in_scale is k.in_scale
    assert q.layout.segments[0].code.values == 4
    split = directory.matrices["model.layers.1.mlp.gate_proj"].layout
    assert len(split.segments) == 2
    for matrix in directory.matrices.values():
        assert matrix.codes.shape == (matrix.layout.num_bytes,)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", 2, "quantization_config.format is 2; this package reads 1"),
        ("format", None, "quantization_config.format is None"),
        ("method", "gptq", "quantization_config.method is 'gptq'"),
        ("method", "magic", "quantization_config.method is 'magic'"),
        ("quant_method", "awq", "no quantization_config"),
    ],
)
def test_refuses_other_quantization(
    model: pathlib.Path, field: str, value: Any, message: str
) -> None:
    change_config(model, lambda c: c["quantization_config"].update({field: value}))
    expect_refusal(model, "config.json", message)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model_type", "gemma3_text", "model_type 'gemma3_text' is not supported"),
        ("architectures", ["Other"], "architectures ['Other']"),
        ("mlp_bias", True, "mlp_bias = True is not supported"),
        ("hidden_act", "gelu", "hidden_act = 'gelu'"),
        ("hidden_size", -1, "hidden_size is -1, not a non-negative integer"),
        ("hidden_size", 1 << 40, "hidden_size is 1099511627776, allowed are 1 to 1048576"),
        ("num_hidden_layers", None, "num_hidden_layers is missing"),
        ("num_key_value_heads", 3, "8 heads are no multiple of 3"),
        ("head_dim", 23, "head_dim 23 is odd"),
        ("rope_scaling", {"rope_type": "yarn"}, "rope_type = 'yarn' is not supported"),
        ("rope_theta", 0, "rope_theta is 0"),
        ("rms_norm_eps", 2, "rms_norm_eps is 2"),
        ("eos_token_id", 300, "eos_token_id is 300"),
        ("vocab_size", 304, "[300, 112], config.json says [304, 112]"),
        ("tie_word_embeddings", True, "'lm_head."),
    ],
)
def test_refuses_other_configs(
    model: pathlib.Path, field: str, value: Any, message: str
) -> None:
    change_config(model, lambda c: c.update({field: value}))
    expect_refusal(model, message)


def test_refuses_text_that_is_no_json(model: pathlib.Path) -> None:
    (model / "config.json").write_text('{"a": 1, "a": 2}')
    expect_refusal(model, "duplicate key 'a'")
    (model / "config.json").write_text("{")
    expect_refusal(model, "not JSON")
    (model / "config.json").write_text("[" * 100_000)
    expect_refusal(model, "config.json")


def test_refuses_wrong_tensors(model: pathlib.Path) -> None:
    right = tensors_of(model)

    def expect(name: str, tensor: np.ndarray | None, *parts: str) -> None:
        tensors = dict(right)
        del tensors[name]
        if tensor is not None:
            tensors[name] = tensor
        write_safetensors(model / "model.safetensors", tensors)
        expect_refusal(model, *parts)

    codes, scale = right[f"{Q}.codes"], right[f"{Q}.out_scale"]
    expect(f"{Q}.codes", None, f"no tensor '{Q}.codes'")
    expect(f"{Q}.codes", codes[:-1], f"U8 [{len(codes) - 1}], expected U8 [{len(codes)}]")
    expect(f"{Q}.codes", codes.astype(np.float16), f"'{Q}.codes' is F16", "expected U8")
    expect(f"{Q}.out_scale", scale.astype(np.float32), f"'{Q}.out_scale' is F32")
    expect(f"{Q}.out_scale", scale[:-1], "F16 [191], expected F16 [192]")
    bad = scale.copy()
    bad[5] = np.inf
    expect(f"{Q}.out_scale", bad, "value inf at index 5 is not finite")
    layout = right[f"{Q}.layout"]
    expect(f"{Q}.layout", layout.astype(np.float32), "expected I32")
    changes = [(0, 7, "format 7"), (1, 2, "code 2"), (6, 1, "input group has 1")]
    for index, value, message in changes:
        changed = layout.copy()
        changed[index] = value
        expect(f"{Q}.layout", changed, message)
    head = right["lm_head.layout"].copy()
    head[5] = 4
    expect("lm_head.layout", head, "out_block is 4; rows of embedding and head must stand alone")
    expect("model.norm.weight", np.ones(3, np.float32), "has shape [3], config.json says [112]")
    norm = np.full(112, np.nan, np.float32)
    expect("model.norm.weight", norm, "'model.norm.weight' has values that are not finite")
    write_safetensors(model / "model.safetensors", {**right, "other": scale})
    expect_refusal(model, "tensor 'other' belongs to no matrix of the model")


def file_with(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"123", "3 bytes are too few"),
        (file_with(b"{}", length=1 << 60), "header of 1152921504606846976 bytes"),
        (file_with(b"[]"), "does not start with"),
        (file_with(b'{"a":{},"a":{}}'), "duplicate tensor 'a'"),
        (file_with(b'{"a":{"dtype":"F32"}}'), "tensor 'a': expected the fields"),
        (file_with(json.dumps({"a": entry("F8_E4M3", [1], 0, 1)}).encode()), "'F8_E4M3'"),
        (
            file_with(json.dumps({"a": entry("F32", [1 << 40, 1 << 40], 0, 4)}).encode()),
            "data_offsets [0, 4] do not hold the 4835703278458516698824704 bytes",
        ),
        (file_with(json.dumps({"a": entry("F32", [-1], 0, 4)}).encode()), "shape is [-1]"),
        (file_with(json.dumps({"a": entry("U8", [8], 0, 8)}).encode(), b"123"), "truncated"),
        (file_with(json.dumps({"a": entry("U8", [1], 0, 1)}).encode(), b"123"), "2 bytes after"),
        (file_with(json.dumps({"a": entry("U8", [1], 1, 2)}).encode(), b"12"), "(gap)"),
        (
            file_with(
                json.dumps({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}).encode(),
                b"123",
            ),
            "(overlap)",
        ),
    ],
)
def test_refuses_broken_files(model: pathlib.Path, content: bytes, message: str) -> None:
    (model / "model.safetensors").write_bytes(content)
    expect_refusal(model, "model.safetensors", message)


def test_reads_shards(model: pathlib.Path) -> None:
    tensors = tensors_of(model)
    (model / "model.safetensors").unlink()
    expect_refusal(model, "neither model.safetensors nor")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, own in parts.items():
        write_safetensors(model / shard, {name: tensors[name] for name in own})
    weight_map = {name: shard for shard, own in parts.items() for name in own}
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert np.array_equal(
        open_directory(model).matrices[Q].codes, open_directory(MODEL).matrices[Q].codes
    )
    index.write_text(json.dumps({"weight_map": {**weight_map, names[0]: "../a.safetensors"}}))
    expect_refusal(model, "'../a.safetensors' is no name")
    index.write_text(json.dumps({"weight_map": {**weight_map, names[0]: "b.safetensors"}}))
    expect_refusal(model, "which model.safetensors.index.json places in")
    index.write_text(json.dumps({"weight_map": {**weight_map, "more": "b.safetensors"}}))
    expect_refusal(model, "tensor 'more' is missing")
