#!/usr/bin/env python3
"""Compares our tokenizer with Hugging Face's `tokenizers`, id by id.

For each model given, the oracle is built without any code of ours: from tokenizer.json for a
Hugging Face directory, from the vocabulary and merges in the metadata for a GGUF file (read by
PyPI `gguf`). Both encode every text under TQ_DATA_DIR and a generated torture text; for a GGUF
file the tokenizer.json that we write for it is loaded by `tokenizers` and compared as well.

    pip install tokenizers gguf
    ninja -C build/release tq_tokenize
    TQ_DATA_DIR=... benchmarks/oracles/tokenizer_oracle.py --tokenize build/.../tq_tokenize MODEL...

Exits with 1 at the first difference, showing where it is.
"""

import argparse
import array
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

# GGUF's token types.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5


def gguf_oracle(path):
    from gguf import GGUFReader

    fields = GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    tokens, types, merges = get("tokens"), get("token_type"), get("merges")
    oracle = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in merges],
        )
    )
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    oracle.pre_tokenizer = {
        "gpt-2": byte_level,
        "smollm": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), byte_level]
        ),
    }[get("pre")]
    oracle.decoder = decoders.ByteLevel()
    added = [(t, k) for t, k in zip(tokens, types) if k in (UNKNOWN, CONTROL, USER_DEFINED)]
    for token, kind in added:
        entry = AddedToken(token, normalized=False, special=kind != USER_DEFINED)
        if kind == USER_DEFINED:
            oracle.add_tokens([entry])
        else:
            oracle.add_special_tokens([entry])
    return oracle


def oracle_of(model):
    if model.is_dir():
        return Tokenizer.from_file(str(model / "tokenizer.json"))
    return gguf_oracle(model)


def torture_text(special_tokens, seed=20240229):
    """Everything that pre-tokenisers trip over, about 6 MB."""
    rng = random.Random(seed)
    assigned = [
        chr(c)
        for c in range(0x110000)
        if unicodedata.category(chr(c)) not in ("Cn", "Cs")
    ]
    # Private use is 137,468 code points of one kind: a few of them do.
    common = [c for c in assigned if unicodedata.category(c) != "Co"]
    parts = ["".join(assigned)]
    for before, after in (("a", ""), (" ", ""), ("1", "z"), ("!", " "), ("", "\n")):
        parts.append("".join(before + c + after for c in common))

    spaces = [c for c in common if c.isspace()] + [" "] * 20 + ["\u180e", "\u200b", "\x1c", "\x1f"]
    marks = [c for c in common if unicodedata.category(c).startswith("M")]
    numbers = [c for c in common if unicodedata.category(c).startswith("N")]
    emoji = ["👩🏽\u200d🚀", "🇩🇪", "❤\ufe0f", "👨\u200d👩\u200d👧", "🏴\U000e0067\U000e007f"]
    contractions = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'RE", "''", "'", "’s"]
    words = ["the", "Hello", "ſ", "İstanbul", "naïve", "日本語", "שלום", "हिन्दी", "x" * 300, "_"]

    def run(choices, most):
        return "".join(rng.choice(choices) for _ in range(rng.randint(1, most)))

    makers = [
        lambda: run(spaces, 8),
        lambda: run([" "], 200),
        lambda: run(["\r\n", "\n", "\r", "\r\n\r\n", " \r\n", "\t\r\n"], 6),
        lambda: run("0123456789", 60),
        lambda: run(numbers, 12),
        lambda: rng.choice("aeino ") + run(marks, 12),
        lambda: run(emoji, 4),
        lambda: run(["\0"], 5),
        lambda: run(common, 20),
        lambda: rng.choice(words) + rng.choice(contractions),
        lambda: " " + rng.choice(words),
        lambda: rng.choice(words),
        lambda: run("!?#-=*/\\\"'`~", 30),
        lambda: " ",
        lambda: "\n",
    ]
    if special_tokens:
        # Whole, cut short, and run together.
        makers.append(lambda: rng.choice(special_tokens))
        makers.append(lambda: rng.choice(special_tokens)[: rng.randint(1, 6)])
        makers.append(lambda: run(special_tokens, 3))
    parts.append("".join(rng.choice(makers)() for _ in range(60000)))
    parts.append("7" * 50000)
    parts.append(" " * 50000 + "x")
    parts.append("ab" * 50000)
    return "\n".join(parts)


def our_ids(tokenize, model, text_file, folder):
    out = folder / "ids.bin"
    subprocess.run([tokenize, model, text_file, out], check=True)
    ids = array.array("i", out.read_bytes())
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()


def compare(name, text, ours, oracle):
    theirs = oracle.encode(text, add_special_tokens=False)
    if ours == theirs.ids:
        return len(ours)
    at = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs.ids)) if a != b),
        min(len(ours), len(theirs.ids)),
    )
    begin = theirs.offsets[max(0, min(at, len(theirs.offsets) - 1) - 3)][0]
    print(f"{name}: token {at} differs near {text[begin:begin + 40]!r}")
    print("  ours  ", ours[max(0, at - 3) : at + 8])
    print("  oracle", theirs.ids[max(0, at - 3) : at + 8])
    sys.exit(1)


def texts(data_dir, torture, folder):
    """(name, text, file) of every text; a file that is not UTF-8 is repaired first."""
    for path in sorted(data_dir.glob("*/*")):
        if path.suffix in (".txt", ".jsonl"):
            text = path.read_bytes().decode("utf-8", "replace")
            file = folder / "text.txt"
            file.write_bytes(text.encode())
            yield str(path.relative_to(data_dir)), text, file
    file = folder / "torture.txt"
    file.write_bytes(torture.encode())
    yield "torture text", torture, file


def check_model(tokenize, model, data_dir, folder):
    oracle = oracle_of(model)
    special = [t.content for t in oracle.get_added_tokens_decoder().values()]
    rewritten = None
    if not model.is_dir():
        subprocess.run([tokenize, model, "--json", folder], check=True)
        rewritten = Tokenizer.from_file(str(folder / "tokenizer.json"))
    count, total = 0, 0
    for name, text, file in texts(data_dir, torture_text(special), folder):
        ours = our_ids(tokenize, model, file, folder)
        tokens = compare(f"{model.name}, {name}", text, ours, oracle)
        if rewritten is not None:
            compare(f"{model.name} as tokenizer.json, {name}", text, ours, rewritten)
        print(f"  {name}: {len(text.encode())} bytes, {tokens} tokens, equal", flush=True)
        count, total = count + 1, total + tokens
    return {"model": model.name, "texts": count, "tokens": total, "equal": True}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=pathlib.Path, metavar="MODEL")
    parser.add_argument("--tokenize", required=True, help="the program tq_tokenize")
    arguments = parser.parse_args()
    if "TQ_DATA_DIR" not in os.environ:
        sys.exit("tokenizer_oracle.py: TQ_DATA_DIR is not set")
    data_dir = pathlib.Path(os.environ["TQ_DATA_DIR"])
    results = []
    for model in arguments.models:
        print(model)
        with tempfile.TemporaryDirectory() as folder:
            results.append(
                check_model(arguments.tokenize, model, data_dir, pathlib.Path(folder))
            )
    print(json.dumps({"unicode": unicodedata.unidata_version, "models": results}))


if __name__ == "__main__":
    main()
