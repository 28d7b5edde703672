#!/usr/bin/env python3
"""Decodes what `tq export --format gptq|gptq_v2|awq` writes, from the layouts' description.

    pip install gguf numpy && benchmarks/oracles/exchange_oracle.py --tq TQ

A small llama of random weights is compressed by each method, in several widths and groups, and
exported in each format that can say it. Three decoders must give the same float32 weights: that of
our own directory and that of the exported one, both written here from docs/format.md, and the
program's, seen through a float32 GGUF file that PyPI `gguf` reads. config.json must say what other
programs look for. Exits with 1 where something differs.

PyPI `gptqmodel` (7.7) is no part of this: it needs PyTorch and compiles extensions when it is
installed.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from export_oracle import interleave, read_gguf, small_tokenizer

DTYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "U8": "u1"}
SIZES = {"hidden": 64, "wide": 128, "layers": 2, "heads": 4, "kv": 2, "vocab": 40}
# Method, its options, width, size of groups, and the formats that can say it.
CASES = [
    ("gptq", [], 4, "32", ["gptq", "gptq_v2"]),
    ("gptq", ["--no-act-order", "--symmetric"], 3, "row", ["gptq", "gptq_v2"]),
    ("gptq", ["--no-act-order"], 4, "64", ["gptq", "gptq_v2", "awq"]),
    ("awq", [], 4, "32", ["gptq", "gptq_v2", "awq"]),
    ("awq", ["--symmetric"], 4, "row", ["gptq_v2", "awq"]),
    ("rtn", [], 2, "32", ["gptq_v2"]),
    ("rtn", ["--symmetric"], 8, "128", ["gptq", "gptq_v2"]),
]
# Place in an AWQ word, in nibbles from the least significant, -> which of its eight outputs.
AWQ_OUTPUTS = [0, 2, 4, 6, 1, 3, 5, 7]


def tensors_of(folder):
    result = {}
    for path in sorted(folder.glob("model*.safetensors")):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        for name, entry in json.loads(data[8 : 8 + size]).items():
            if name != "__metadata__":
                begin, end = (8 + size + offset for offset in entry["data_offsets"])
                values = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]])
                result[name] = values.reshape(entry["shape"])
    return result


def fields(data, bits, count):
    """The first `count` fields of each row of little-endian bytes or words."""
    flat = np.unpackbits(np.ascontiguousarray(data).view("u1"), axis=-1, bitorder="little")
    flat = flat[..., : count * bits].reshape(*data.shape[:-1], count, bits)
    return (flat.astype(np.int64) << np.arange(bits)).sum(axis=-1)


def weights(scale, code, zero):
    """scale (code - zero) as float32; codes and zeros are integers, so that only this rounds."""
    return scale.astype(np.float32) * (code - zero).astype(np.float32)


def decode_ours(tensors, name):
    """docs/format.md, "Grouped scalar codes"."""
    layout = tensors[name + ".layout"].tolist()
    rows, cols, bits, group_size = layout[2:6]
    zeros, ordered = layout[6:8] if layout[0] == 2 else (0, 0)
    groups = -(-cols // group_size)
    code = fields(tensors[name + ".codes"], bits, cols)
    if zeros == 2:
        zero = np.full((rows, groups), 1 << (bits - 1))
    else:
        zero = fields(tensors[name + ".zero"], bits, groups)
    group = np.arange(cols) // group_size
    order = tensors[name + ".order"] if ordered else np.arange(cols)
    result = np.empty((rows, cols), np.float32)
    result[:, order] = weights(tensors[name + ".scale"][:, group], code, zero[:, group])
    return result


def decode_exchange(tensors, name, quantization, shape):
    """docs/format.md, "Layouts of other programs"."""
    rows, cols = shape
    bits, group_size = quantization["bits"], quantization["group_size"]
    group_size = cols if group_size == -1 else group_size
    qweight, qzeros = tensors[name + ".qweight"], tensors[name + ".qzeros"]
    scales = tensors[name + ".scales"]
    if quantization["quant_method"] == "awq":
        assert quantization["version"] == "gemm" and quantization["zero_point"] is True
        assert name + ".g_idx" not in tensors
        place = np.argsort(AWQ_OUTPUTS)
        across = (np.arange(rows) // 8) * 8 + place[np.arange(rows) % 8]
        code = fields(qweight, 4, rows)[:, across]
        zero = fields(qzeros, 4, rows)[:, across]
        group = np.arange(cols) // group_size
    else:
        less = {"gptq": 1, "gptq_v2": 0}[quantization["checkpoint_format"]]
        code = fields(np.ascontiguousarray(qweight.T), bits, cols).T
        zero = fields(qzeros, bits, rows) + less
        group = tensors[name + ".g_idx"]
        in_order = np.array_equal(group, np.arange(cols) // group_size)
        assert in_order or quantization["desc_act"] is True
        if quantization["sym"]:
            assert (zero == 1 << (bits - 1)).all()
    return weights(scales[group], code, zero[group]).T


def make_model(folder):
    rng = np.random.default_rng(1)
    hidden, wide, head = SIZES["hidden"], SIZES["wide"], SIZES["hidden"] // SIZES["heads"]
    matrices = {"model.embed_tokens": (SIZES["vocab"], hidden), "model.norm": (hidden,)}
    for i in range(SIZES["layers"]):
        layer = f"model.layers.{i}."
        for role, out in zip("qkv", (SIZES["heads"], SIZES["kv"], SIZES["kv"])):
            matrices[f"{layer}self_attn.{role}_proj"] = (out * head, hidden)
        matrices[layer + "self_attn.o_proj"] = (hidden, hidden)
        matrices[layer + "mlp.gate_proj"] = matrices[layer + "mlp.up_proj"] = (wide, hidden)
        matrices[layer + "mlp.down_proj"] = (hidden, wide)
        matrices[layer + "input_layernorm"] = (hidden,)
        matrices[layer + "post_attention_layernorm"] = (hidden,)
    header, data = {}, b""
    for name, shape in matrices.items():
        values = rng.normal(0, shape[-1] ** -0.5, shape) if len(shape) == 2 else np.ones(shape)
        values = values.astype("<f4").tobytes()
        offsets = [len(data), len(data) + len(values)]
        header[name + ".weight"] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        data += values
    text = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": SIZES["vocab"],
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": SIZES["layers"],
        "num_attention_heads": SIZES["heads"],
        "num_key_value_heads": SIZES["kv"],
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(small_tokenizer()))


def gguf_name(name):
    layer, role = name.split(".")[2], name.split(".")[-1]
    names = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output"}
    names |= {"gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
    return f"blk.{layer}.{names[role.removesuffix('_proj')]}.weight"


def check(tq, packed, folder, wanted):
    """Every coded matrix of two directories and of a GGUF file made of the second."""
    ours, theirs = tensors_of(packed), tensors_of(folder)
    config = json.loads((folder / "config.json").read_text())
    quantization = config["quantization_config"]
    assert quantization.get("checkpoint_format", "awq") == wanted, quantization
    assert config["torch_dtype"] == "float16"
    gguf_file = folder.with_suffix(".gguf")
    subprocess.run([tq, "export", folder, gguf_file, "--type", "f32", "--quiet"], check=True,
                   stdout=subprocess.DEVNULL)
    _, decoded = read_gguf(gguf_file)
    matrices = [name.removesuffix(".qweight") for name in theirs if name.endswith(".qweight")]
    assert len(matrices) == 7 * SIZES["layers"]
    for name in matrices:
        expected = decode_ours(ours, name)
        found = decode_exchange(theirs, name, quantization, expected.shape)
        heads = {"q_proj": SIZES["heads"], "k_proj": SIZES["kv"]}.get(name.split(".")[-1])
        for kind, value in (("directory", found), ("program", decoded[gguf_name(name)])):
            reference = expected
            if kind == "program" and heads is not None:
                reference = interleave(expected, heads)
            if not np.array_equal(reference, value):
                sys.exit(f"{folder}: {name}: the {kind}'s weights differ")
    return len(matrices)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tq", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = pathlib.Path(made)
        make_model(root / "model")
        for i, (method, more, bits, groups, formats) in enumerate(CASES):
            packed = root / f"packed{i}"
            subprocess.run([options.tq, "quantize", root / "model", "-o", packed, "--bits",
                            str(bits), "--method", method, "--group-size", groups, "--fast",
                            "--calibration-tokens", "2048", "--quiet", *more], check=True,
                           stdout=subprocess.DEVNULL)
            for name in formats:
                folder = root / f"{name}{i}"
                subprocess.run([options.tq, "export", packed, folder, "--to", "hf", "--format",
                                name, "--quiet"], check=True, stdout=subprocess.DEVNULL)
                count = check(options.tq, packed, folder, name)
                print(f"{method} {' '.join(more)} {bits} bits / {groups} as {name}: "
                      f"{count} matrices are the same")


if __name__ == "__main__":
    main()
