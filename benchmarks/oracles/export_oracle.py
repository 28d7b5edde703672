#!/usr/bin/env python3
"""Reads what `tq export` writes with the reference reader of GGUF, and compares it with the model.

    pip install gguf numpy && benchmarks/oracles/export_oracle.py --tq TQ [--small FOLDER] MODEL...

MODEL is a Hugging Face directory (safetensors) or a GGUF file. It is exported in every type; PyPI
`gguf` reads the files, decodes their blocks and says what llama.cpp calls each tensor and key.
Metadata must be those of config.json, tensors those of the model but for the type's rounding: the
root of the squared error over that of the squared weights, whole model and worst tensor. FOLDER
holds small models of each architecture without tokenizers (tests/golden/forward): they get one, and
variants of their positions, and are exported likewise. Exits with 1 when a bound is broken.
"""

import argparse
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile

import gguf
import numpy as np

# Worst tensor's relative error. Gaussian values lose 0.0053 (Q8_0), 0.017 (Q6_K), 0.040 (Q5_0) and
# 0.070 (Q4_K); those of real models, whose columns differ, somewhat more.
BOUNDS = {"f32": 0.0, "f16": 5e-4, "bf16": 4e-3, "q8_0": 0.012, "q4_k": 0.1}
DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
# model_type -> llama.cpp's architecture; of those, which turn neighbouring pairs of a head and
# which store norms plus one.
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
INTERLEAVED = {gguf.MODEL_ARCH.LLAMA}
PLUS_ONE = {gguf.MODEL_ARCH.GEMMA2, gguf.MODEL_ARCH.GEMMA3}


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


def positions(config):
    """rope_theta and rope_scaling of a config.json, wherever they stand."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope = rope.get("full_attention", rope)
    return rope.get("rope_theta", config.get("rope_theta", 10000.0)), rope


def rope_factors(config):
    """Llama 3's: what the frequency of each pair is divided by, from its wavelength."""
    theta, rope = positions(config)
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    context = rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for i in range(size // 2):
        wavelength = 2 * math.pi * theta ** (2 * i / size)
        smooth = min(max((context / wavelength - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def huggingface_model(folder):
    """GGUF's names -> float32 arrays, as llama.cpp's converter stores them; and config.json."""
    config = json.loads((folder / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, weight in safetensors(path):
            for suffix, count in heads.items():
                if architecture in INTERLEAVED and name.endswith(suffix + ".weight"):
                    weight = interleave(weight, count)
            if architecture in PLUS_ONE and name.endswith("norm.weight"):
                weight = weight + np.float32(1)
            tensors[names.get_name(name, (".weight", ".bias"))] = weight
    if positions(config)[1].get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = rope_factors(config)
    return tensors, config


def read_gguf(path):
    reader = gguf.GGUFReader(path)
    tensors = {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        for t in reader.tensors
    }
    return reader, tensors


def wanted_metadata(config):
    """What the keys must be, by the constants of PyPI gguf; None: such a key must not be there."""
    architecture = ARCHITECTURES[config["model_type"]]
    arch = gguf.MODEL_ARCH_NAMES[architecture]
    theta, rope = positions(config)
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    window, context = config.get("sliding_window"), config["max_position_embeddings"]
    slides = config["model_type"] in ("gemma2", "gemma3_text")
    if config["model_type"] == "mistral":
        context = min(context, window or context)  # GGUF's llamas have no window
    wanted = {
        gguf.Keys.LLM.BLOCK_COUNT: config["num_hidden_layers"],
        gguf.Keys.LLM.EMBEDDING_LENGTH: config["hidden_size"],
        gguf.Keys.LLM.FEED_FORWARD_LENGTH: config["intermediate_size"],
        gguf.Keys.LLM.CONTEXT_LENGTH: context,
        gguf.Keys.LLM.VOCAB_SIZE: config["vocab_size"],
        gguf.Keys.LLM.FINAL_LOGIT_SOFTCAPPING: config.get("final_logit_softcapping"),
        gguf.Keys.Attention.HEAD_COUNT: config["num_attention_heads"],
        gguf.Keys.Attention.HEAD_COUNT_KV: config["num_key_value_heads"],
        gguf.Keys.Attention.KEY_LENGTH: size,
        gguf.Keys.Attention.VALUE_LENGTH: size,
        gguf.Keys.Attention.LAYERNORM_RMS_EPS: np.float32(config["rms_norm_eps"]),
        gguf.Keys.Attention.SLIDING_WINDOW: window if slides else None,
        gguf.Keys.Rope.DIMENSION_COUNT: size,
        gguf.Keys.Rope.FREQ_BASE: np.float32(theta),
        gguf.Keys.Rope.SCALING_TYPE: "linear" if rope.get("rope_type") == "linear" else None,
        gguf.Keys.Rope.SCALING_FACTOR: rope["factor"] if rope.get("rope_type") == "linear" else None,
    }
    # What a softcap of 0 says is that there is none.
    return arch, {key.format(arch=arch): value for key, value in wanted.items()}


def check_metadata(reader, config):
    arch, wanted = wanted_metadata(config)
    wanted["general.architecture"] = arch
    for key, value in wanted.items():
        found = reader.get_field(key)
        found = None if found is None else found.contents()
        if found != value and not (value is None and found == 0):
            sys.exit(f"{key} is {found}, the model says {value}")
    for key in ("tokens", "token_type"):
        count = len(reader.get_field("tokenizer.ggml." + key).contents())
        if count != config["vocab_size"]:
            sys.exit(f"tokenizer.ggml.{key}: {count} for {config['vocab_size']} rows")


def compare(expected, found, kind):
    if expected.keys() != found.keys():
        sys.exit(f"tensors that are in one alone: {expected.keys() ^ found.keys()}")
    error = power = worst = 0.0
    for name, weight in expected.items():
        if weight.shape != found[name].shape:
            sys.exit(f"{name} has shape {found[name].shape}, the model has {weight.shape}")
        e = float(np.square(weight - found[name], dtype=np.float64).sum())
        p = float(np.square(weight, dtype=np.float64).sum())
        if name == "rope_freqs.weight" and (e / p) ** 0.5 > 1e-6:
            sys.exit(f"{name} is {found[name]}, not {weight}")
        if name != "rope_freqs.weight":
            error, power, worst = error + e, power + p, max(worst, (e / p) ** 0.5 if p else e)
    print(f"  {kind:5} relative error {(error / power) ** 0.5:.6f}, worst tensor {worst:.6f}")
    if worst > BOUNDS[kind]:
        sys.exit(f"{kind}: {worst} is above {BOUNDS[kind]}")


def export(tq, *arguments):
    subprocess.run([tq, "export", *arguments, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def check_model(tq, model):
    print(model)
    if model.is_dir():
        expected, config = huggingface_model(model)
    else:
        (_, expected), config = read_gguf(model), None
    for kind in BOUNDS:
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "out.gguf"
            export(tq, model, output, "--type", kind)
            reader, found = read_gguf(output)
            if config is not None:
                check_metadata(reader, config)
            compare(expected, found, kind)
            if kind not in ("f32", "bf16"):
                continue
            # And as a Hugging Face directory, of the model and of what was just written.
            for source in (model, output):
                directory = pathlib.Path(folder) / ("hf-" + source.name)
                export(tq, source, directory, "--to", "hf")
                compare(expected, huggingface_model(directory)[0], "bf16")


# --- small models


def small_tokenizer():
    """tokenizer.json of some pieces, with the merges that SentencePiece would find among them."""
    pieces = ["<unk>", "<s>", "</s>", *"\u2581abcde", "ab", "\u2581ab", "cd", "abcd"]
    merges = [
        [p[:i], p[i:]]
        for p in pieces[3:]
        for i in range(1, len(p))
        if p[:i] in pieces and p[i:] in pieces
    ]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": pieces[i], **plain, "special": True} for i in range(3)]
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    unmark = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    return {
        "added_tokens": added,
        "normalizer": mark,
        "decoder": {"type": "Sequence", "decoders": [unmark, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "vocab": {p: i for i, p in enumerate(pieces)},
            "merges": merges,
        },
    }


def small_variants(config):
    """Names of models to make of one, and what their config.json has besides."""
    # GGUF says by nothing but the sizes what scores are divided by.
    scalar = {"query_pre_attn_scalar": config.get("head_dim")}
    own = scalar if "query_pre_attn_scalar" in config else {}
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    yield "", own
    if config["model_type"] == "qwen2":
        yield "-linear", {**own, "rope_parameters": linear}
    if config["model_type"] == "mistral":
        yield "-no-window", {**own, "sliding_window": None}


def check_small(tq, folder):
    for source in sorted(folder.iterdir()):
        config = json.loads((source / "config.json").read_text())
        if config["model_type"] not in ARCHITECTURES:
            continue
        for name, changes in small_variants(config):
            with tempfile.TemporaryDirectory() as made:
                model = pathlib.Path(made) / (source.name + name)
                model.mkdir()
                shutil.copy(source / "model.safetensors", model)
                (model / "config.json").write_text(json.dumps({**config, **changes}))
                (model / "tokenizer.json").write_text(json.dumps(small_tokenizer()))
                check_model(tq, model)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tq", required=True)
    parser.add_argument("--small", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("models", nargs="*", type=pathlib.Path)
    options = parser.parse_args()
    if options.small is not None:
        check_small(options.tq, options.small)
    for model in options.models:
        check_model(options.tq, model)


if __name__ == "__main__":
    main()
