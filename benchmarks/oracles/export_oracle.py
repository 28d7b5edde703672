#!/usr/bin/env python3
"""Reads what `tq export` writes with the reference reader of GGUF, and compares it with the model.

    pip install gguf numpy && benchmarks/oracles/export_oracle.py --tq TQ MODEL...

MODEL is a Hugging Face directory (safetensors) or a GGUF file of the llama architecture. It is
exported in every type; PyPI `gguf` reads the files and decodes their blocks. Metadata must be
those of config.json, tensors those of the model but for the type's rounding: the root of the
squared error over that of the squared weights, whole model and worst tensor. Exits with 1 when a
bound is broken.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np

# Worst tensor's relative error. Gaussian values lose 0.0053 (Q8_0), 0.017 (Q6_K), 0.040 (Q5_0) and
# 0.070 (Q4_K); those of real models, whose columns differ, somewhat more.
BOUNDS = {"f32": 0.0, "f16": 5e-4, "bf16": 4e-3, "q8_0": 0.012, "q4_k": 0.1}
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
PLAIN = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if stem in PLAIN:
        return PLAIN[stem] + ".weight"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{LAYER[rest]}.weight"


def safetensors(path):
    """Name -> float32 array of all tensors of a file."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        values = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        yield name, values.astype(np.float32).reshape(entry["shape"])


def interleave(weight, heads):
    """Rows of each head: its two halves in turn."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def huggingface_model(folder):
    """GGUF's names -> float32 arrays, in GGUF's order of rows; and config.json."""
    config = json.loads((folder / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, weight in safetensors(path):
            for suffix, count in heads.items():
                if name.endswith(suffix + ".weight"):
                    weight = interleave(weight, count)
            tensors[gguf_name(name)] = weight
    return tensors, config


def read_gguf(path):
    reader = gguf.GGUFReader(path)
    tensors = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        for t in reader.tensors
    }
    return reader, tensors


def check_metadata(reader, config):
    wanted = {
        "general.architecture": "llama",
        "llama.block_count": config["num_hidden_layers"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.vocab_size": config["vocab_size"],
        "tokenizer.ggml.model": "gpt2",
    }
    for key, value in wanted.items():
        found = reader.get_field(key)
        if found is None or found.contents() != value:
            sys.exit(f"{key} is {found and found.contents()}, the model says {value}")
    tokens = len(reader.get_field("tokenizer.ggml.tokens").contents())
    if tokens != config["vocab_size"]:
        sys.exit(f"{tokens} tokens for {config['vocab_size']} rows")


def compare(expected, found, kind):
    if expected.keys() != found.keys():
        sys.exit(f"tensors that are in one alone: {expected.keys() ^ found.keys()}")
    error = power = worst = 0.0
    for name, weight in expected.items():
        if weight.shape != found[name].shape:
            sys.exit(f"{name} has shape {found[name].shape}, the model has {weight.shape}")
        e = float(np.square(weight - found[name], dtype=np.float64).sum())
        p = float(np.square(weight, dtype=np.float64).sum())
        error, power, worst = error + e, power + p, max(worst, (e / p) ** 0.5)
    print(f"  {kind:5} relative error {(error / power) ** 0.5:.6f}, worst tensor {worst:.6f}")
    if worst > BOUNDS[kind]:
        sys.exit(f"{kind}: {worst} is above {BOUNDS[kind]}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tq", required=True)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    for model in options.models:
        print(model)
        if model.is_dir():
            expected, config = huggingface_model(model)
        else:
            (_, expected), config = read_gguf(model), None
        for kind in BOUNDS:
            with tempfile.TemporaryDirectory() as folder:
                output = pathlib.Path(folder) / "out.gguf"
                subprocess.run([options.tq, "export", model, output, "--type", kind, "--quiet"],
                               check=True, stdout=subprocess.DEVNULL)
                reader, found = read_gguf(output)
                if config is not None:
                    check_metadata(reader, config)
                compare(expected, found, kind)
                if kind in ("f32", "bf16"):
                    # And as a Hugging Face directory, of the model and of what was just written.
                    for source in (model, output):
                        directory = pathlib.Path(folder) / ("hf-" + source.name)
                        subprocess.run([options.tq, "export", source, directory, "--to", "hf",
                                        "--quiet"], check=True, stdout=subprocess.DEVNULL)
                        compare(expected, huggingface_model(directory)[0], "bf16")


main()
