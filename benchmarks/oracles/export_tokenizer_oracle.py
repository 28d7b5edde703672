#!/usr/bin/env python3
"""Whether tokenizers that `tq export` writes to GGUF give the ids of the model that they come from.

    pip install tokenizers sentencepiece protobuf gguf numpy
    TQ_DATA_DIR=... benchmarks/oracles/export_tokenizer_oracle.py --tq TQ --tokenize TQ_TOKENIZE \
        FOLDER...

FOLDER holds a tokenizer (make_tokenizers.py). A small model is made around it, with some more rows
than tokens, and exported. Over every text under TQ_DATA_DIR, and generated ones, our ids from the
file must be those from FOLDER, with control tokens parsed and without. `sentencepiece`, given the
file's tokens, scores and types as llama.cpp reads them, is what other programs make of it:
"others_differ" counts the texts for which its ids are not FOLDER's. From a tokenizer.model none may.
Tokenizers that GGUF cannot hold must be refused; the reason is printed.
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import tokenizer_oracle

UNUSED_ROWS = 3
# By what the error says of them.
REFUSED = ("unigram", "SentencePiece's scores", "another normalization or ignore_merges")


def count_tokens(folder):
    path = folder / "tokenizer.json"
    if path.exists():
        document = json.loads(path.read_text())
        vocab = document["model"]["vocab"]
        ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
        return 1 + max([*ids, *(token["id"] for token in document["added_tokens"])])
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model")).vocab_size()


def write_model(tokenizer, folder):
    """A llama of a layer around the tokenizer."""
    rows = count_tokens(tokenizer) + UNUSED_ROWS
    hidden = 32
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": hidden,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": rows,
        "tie_word_embeddings": True,
    }
    shapes = {"model.embed_tokens": [rows, hidden], "model.norm": [hidden]}
    for name in ("input_layernorm", "post_attention_layernorm"):
        shapes["model.layers.0." + name] = [hidden]
    for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"):
        shapes[f"model.layers.0.{name}_proj"] = [hidden, hidden]
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name + ".weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    data = np.random.default_rng(1).normal(size=at // 4).astype(np.float32).tobytes()
    shutil.copytree(tokenizer, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


def export(tq, tokenizer, folder):
    """The exported file, or why there is none."""
    model, output = folder / "model", folder / "model.gguf"
    write_model(tokenizer, model)
    command = [tq, "export", model, output, "--type", "f16", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return output, None
    if not any(reason in done.stderr for reason in REFUSED):
        sys.exit(f"{tokenizer.name}: {done.stderr}")
    return None, done.stderr.strip()


def sources(data_dir, limit):
    special = ["<s>", "</s>", "<unk>", "<tool>", "<|im_end|>", "[INST]", "\u2581\u2581"]
    names, texts = [], []
    for name, some in tokenizer_oracle.texts(data_dir, special, limit):
        names += [name] * len(some)
        texts += some
    return names, texts


def check(options, tokenizer, names, texts, folder):
    output, reason = export(options.tq, tokenizer, folder)
    if output is None:
        return {"tokenizer": tokenizer.name, "refused": reason}
    result = {"tokenizer": tokenizer.name, "texts": len(texts)}
    for special in (True, False):
        encode = lambda path: tokenizer_oracle.encode_by_us(
            options.tokenize, path, texts, special, folder
        )
        ours, theirs = encode(output), encode(tokenizer)
        for name, text, (ids, decoded), (wanted, expected) in zip(names, texts, ours, theirs):
            if ids != wanted or decoded != expected:
                tokenizer_oracle.fail(f"{tokenizer.name}, {name}, special {special}", text, ids, wanted)
    fields = gguf.GGUFReader(output).fields
    result["with_json"] = "tokenizer.huggingface.json" in fields
    if fields["tokenizer.ggml.model"].contents() == "llama":
        # As text: sentencepiece does not parse control tokens.
        plain = [ids for ids, _ in theirs]
        others = tokenizer_oracle.gguf_oracle(output).encode(texts)
        differ = [i for i, ids in enumerate(others) if ids != plain[i]]
        if differ and (tokenizer / "tokenizer.model").exists():
            i = differ[0]
            tokenizer_oracle.fail(f"{tokenizer.name}, {names[i]}", texts[i], plain[i], others[i])
        result["others_differ"] = len(differ)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizers", nargs="+", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--tq", required=True)
    parser.add_argument("--tokenize", required=True, help="the program tq_tokenize")
    parser.add_argument("--limit", type=int, metavar="N", help="characters of each source (default: all)")
    options = parser.parse_args()
    if "TQ_DATA_DIR" not in os.environ:
        sys.exit("export_tokenizer_oracle.py: TQ_DATA_DIR is not set")
    names, texts = sources(pathlib.Path(os.environ["TQ_DATA_DIR"]), options.limit)
    for tokenizer in options.tokenizers:
        with tempfile.TemporaryDirectory() as folder:
            result = check(options, tokenizer, names, texts, pathlib.Path(folder))
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
