#!/usr/bin/env python3
"""Makes tests/golden/packed: a packed model of many rates and what the C++ engine makes of it.

    python/tests/make_golden.py --tq build/release/src/cli/tq

  model/                the directory: two layers whose matrices have all native rates and some
                        between, rotations of orders 2^k and 12, 20 and 28 times 2^k, padded tiles
  expected.safetensors  rows.NAME of `tq export --type f32` for some rows of each matrix, float32;
                        tokens of `tq generate --compute reference`, and of its prompt, int32;
                        perplexity of `tq eval --compute reference` and the ids of its text

All of it is made anew from fixed seeds; another compiler may give other codes.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np
from support import gguf_tensors, hugging_face_rows, write_safetensors

GOLDEN = pathlib.Path(__file__).parents[2] / "tests/golden/packed"
VOCAB, HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD_DIM = 300, 112, 160, 8, 4, 24
LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
PROMPT = "the rain in "
TEXT = "the tin man ate an onion and the rain ran on its roof " * 4
# Of each matrix of a layer, in bits per weight.
RATES = [
    {"q": 0.5, "k": 0.75, "v": 1, "o": 1.5, "gate": 2, "up": 2.5, "down": 3},
    {"q": 4, "k": 5, "v": 6, "o": 8, "gate": 2.3, "up": 0.6, "down": 3.5},
]
ROWS = 8


def tokenizer():
    """A byte-level BPE: 0 <s>, 1 </s>, the 256 bytes in GPT-2's spelling, then merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    spell = {byte: chr(byte) for byte in printable}
    spell |= {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    tokens = ["<s>", "</s>", *(spell[byte] for byte in range(256))]
    merges = [(spell[32], letter) for letter in LETTERS]
    merges += [(LETTERS[i], LETTERS[j]) for i in range(4) for j in range(4)]
    tokens += [a + b for a, b in merges]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    special = [
        {
            "id": i,
            "content": tokens[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i in range(2)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [f"{a} {b}" for a, b in merges],
        },
    }


def write_source(folder):
    """A Hugging Face directory of a llama with random weights."""
    folder.mkdir()
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    assert len(tokenizer()["model"]["vocab"]) == VOCAB
    random = np.random.default_rng(20)
    shapes = {"model.embed_tokens": (VOCAB, HIDDEN)}
    for layer in range(len(RATES)):
        at = f"model.layers.{layer}"
        shapes[f"{at}.self_attn.q_proj"] = (q, HIDDEN)
        shapes[f"{at}.self_attn.k_proj"] = (kv, HIDDEN)
        shapes[f"{at}.self_attn.v_proj"] = (kv, HIDDEN)
        shapes[f"{at}.self_attn.o_proj"] = (HIDDEN, q)
        shapes[f"{at}.mlp.gate_proj"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{at}.mlp.up_proj"] = (INTERMEDIATE, HIDDEN)
        shapes[f"{at}.mlp.down_proj"] = (HIDDEN, INTERMEDIATE)
        shapes[f"{at}.input_layernorm"] = (HIDDEN,)
        shapes[f"{at}.post_attention_layernorm"] = (HIDDEN,)
    shapes["model.norm"] = (HIDDEN,)
    shapes["lm_head"] = (VOCAB, HIDDEN)
    tensors = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape)
        if len(shape) == 1:
            values = 1 + 0.1 * values
        elif name != "model.embed_tokens":
            values *= shape[1] ** -0.5
        tensors[f"{name}.weight"] = values.astype(np.float32)
    write_safetensors(folder / "model.safetensors", tensors)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": len(RATES),
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()))
    names = {"tokenizer_class": "GPT2TokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def run(tq, *arguments):
    subprocess.run([tq, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def run_json(tq, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.json"
        run(tq, *arguments, "--json", out)
        return json.loads(out.read_text())


def quantize(tq, source, output):
    overrides = []
    for layer, rates in enumerate(RATES):
        for role, bits in rates.items():
            overrides += ["--override", rf"layers\.{layer}\..*\.{role}_proj={bits}"]
    run(
        tq, "quantize", source, "-o", output, "--bits", 3.5, "--uniform", "--fast",
        "--calibration-tokens", 512, "--threads", 1, "--quiet", *overrides,
    )  # fmt: skip


def expected(tq, model, folder):
    """What the engine says of the packed model."""
    tensors = {}
    run(tq, "export", model, folder / "f32.gguf", "--type", "f32", "--quiet")
    for name, matrix in hugging_face_rows(gguf_tensors(folder / "f32.gguf"), HEADS, KV_HEADS):
        if matrix.ndim == 2:
            chosen = np.linspace(0, len(matrix) - 1, ROWS).astype(int)
            tensors[f"rows.{name}"] = np.float32(matrix[chosen])
    text = folder / "text.txt"
    text.write_text(TEXT)
    written = run_json(
        tq, "generate", model, "-p", PROMPT, "-n", 48, "--compute", "reference", "--threads", 1
    )
    tensors["prompt"] = np.int32(written["prompt_tokens"])
    tensors["generated"] = np.int32(written["tokens"])
    read = run_json(tq, "generate", model, "-p", TEXT, "-n", 1, "--threads", 1)
    tensors["text"] = np.int32(read["prompt_tokens"])
    measured = run_json(
        tq, "eval", model, "--text", text, "--context", 32, "--compute", "reference",
        "--threads", 1, "--quiet",
    )  # fmt: skip
    tensors["perplexity"] = np.float64([measured["perplexity"]])
    return tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tq", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_source(folder / "source")
        quantize(arguments.tq, folder / "source", folder / "model")
        (GOLDEN / "model").mkdir(parents=True, exist_ok=True)
        for file in ("config.json", "model.safetensors"):
            (GOLDEN / "model" / file).write_bytes((folder / "model" / file).read_bytes())
        tensors = expected(arguments.tq, folder / "model", folder)
    write_safetensors(GOLDEN / "expected.safetensors", tensors)


if __name__ == "__main__":
    main()
