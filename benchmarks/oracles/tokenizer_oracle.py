#!/usr/bin/env python3
"""Compares our tokenizer with the libraries that define its formats, id by id.

    folder with tokenizer.json       Hugging Face's `tokenizers`
    folder with tokenizer.model      `sentencepiece`
    GGUF, model "gpt2"               `tokenizers`, built here from the vocabulary and merges
    GGUF, model "llama"              `sentencepiece`, built here from the tokens and scores

No code of ours is in the oracles (GGUF is read by PyPI `gguf`). Both encode every text under
TQ_DATA_DIR, whole and line by line, and generated torture texts, and decode the ids again. Where
`sentencepiece` is the oracle, control tokens in a text are text; elsewhere they are parsed.

For models without a tokenizer.json the one that we write is read by us again, which must give
the same, and by `tokenizers`: equal too after byte-level BPE; after SentencePiece's the texts
that differ are counted, because it ranks tokens and `tokenizers` pairs of tokens, and because it
sums scores in float32 and `tokenizers` in double.

Two parts of `tokenizers` 0.23.3 are helped to be exact: its NFC leaves marks younger than Unicode 9
where they stand, so it gets texts that Python (Unicode 14, as ours) has normalized; of the scores in a
tokenizer.json it reads one in five with an error in the last bit, so it gets Python's readings.

    pip install tokenizers sentencepiece protobuf gguf
    ninja -C build/release tq_tokenize
    TQ_DATA_DIR=... benchmarks/oracles/tokenizer_oracle.py --tokenize build/.../tq_tokenize MODEL...

Exits with 1 at the first difference, showing where it is. make_tokenizers.py makes models.
"""

import argparse
import json
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

# GGUF's and SentencePiece's token types.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


class HuggingFace:
    """Any tokenizer of `tokenizers`."""

    parses_special = True

    def __init__(self, tokenizer, nfc=False):
        self.tokenizer = tokenizer
        self.special = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
        self.nfc = nfc

    def normalized(self, text):
        """Composed by Python between added tokens, which no mark behind them changes."""
        longest_first = sorted(self.special, key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        parts[::2] = [unicodedata.normalize("NFC", part) for part in parts[::2]]
        return "".join(parts)

    def encode(self, texts):
        if self.nfc:
            texts = map(self.normalized, texts)
        # One batch runs on all processors: a few texts at a time, without threads, do.
        return [self.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class SentencePiece:
    """A model of `sentencepiece`; control tokens in a text are text for it."""

    parses_special = False

    def __init__(self, proto):
        import sentencepiece

        self.processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
        self.special = ["<s>", "</s>", "<unk>", "<tool>"]

    def encode(self, texts):
        return self.processor.encode(texts, num_threads=1)

    def decode(self, ids):
        # What has no token is " \u2047 " to the library, and nothing to us.
        return self.processor.decode([i for i in ids if i != self.processor.unk_id()])


def gguf_byte_level(get):
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
    return HuggingFace(oracle)


def gguf_sentencepiece(get):
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    for token, score, kind in zip(get("tokens"), get("scores"), get("token_type")):
        # GGUF has user-defined tokens as they stand in a text.
        piece = token.replace(" ", "\u2581") if kind == USER_DEFINED else token
        proto.pieces.add(piece=piece, score=score, type=kind)
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = BYTE in get("token_type")
    for name, key in (("unk", "unknown"), ("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        token_id = get(key + "_token_id", -1)
        setattr(proto.trainer_spec, name + "_id", token_id)
        if token_id >= 0:
            setattr(proto.trainer_spec, name + "_piece", get("tokens")[token_id])
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = get("add_space_prefix", True)
    proto.normalizer_spec.remove_extra_whitespaces = False
    return SentencePiece(proto.SerializeToString())


def gguf_oracle(path):
    from gguf import GGUFReader

    fields = GGUFReader(path).fields

    def get(key, default=None):
        field = fields.get("tokenizer.ggml." + key)
        return default if field is None else field.contents()

    return gguf_sentencepiece(get) if get("model") == "llama" else gguf_byte_level(get)


def hugging_face(path):
    """The tokenizer of a tokenizer.json, helped where the library is inexact."""
    tokenizer = Tokenizer.from_file(str(path))
    document = json.loads(path.read_text())
    model = document["model"]
    if model["type"] == "Unigram":
        vocab = [tuple(piece) for piece in model["vocab"]]
        tokenizer.model = models.Unigram(vocab, model["unk_id"], model["byte_fallback"])
    normalizer = document["normalizer"]
    nfc = normalizer is not None and normalizer["type"] == "NFC"
    if not nfc and "NFC" in json.dumps(normalizer):
        sys.exit(f"{path}: NFC together with other normalizations")
    return HuggingFace(tokenizer, nfc)


def oracle_of(model):
    if (model / "tokenizer.json").exists():
        return hugging_face(model / "tokenizer.json")
    if model.is_dir():
        return SentencePiece((model / "tokenizer.model").read_bytes())
    return gguf_oracle(model)


def torture_texts(special_tokens, limit, seed=20240229):
    """Everything that pre-tokenisers and normalizers trip over: short texts and one of 6 MB."""
    rng = random.Random(seed)
    assigned = [
        chr(c)
        for c in range(0x110000)
        if unicodedata.category(chr(c)) not in ("Cn", "Cs")
    ]
    # Private use is 137,468 code points of one kind: a few of them do.
    common = [c for c in assigned if unicodedata.category(c) != "Co"]
    parts = ["".join(assigned)[:limit]]
    for before, after in (("a", ""), (" ", ""), ("1", "z"), ("!", " "), ("", "\n")):
        parts.append("".join(before + c + after for c in common)[:limit])

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
        lambda: run(["\u2581", " ", "\u2581\u2581"], 6),
        lambda: rng.choice("가각걸ᄀᄀ") + run(["\u1161", "\u11a8", "\u11a7", "\u1100", "가"], 4),
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
    parts.append("".join(rng.choice(makers)() for _ in range(60000))[:limit])
    short = ["".join(rng.choice(makers)() for _ in range(rng.randint(1, 8))) for _ in range(20000)]
    short = short[:limit]
    parts += ["7" * 50000, " " * 50000 + "x", "ab" * 50000]
    return short, "\n".join(parts)


def encode_by_us(tokenize, model, texts, special, folder):
    """(ids, bytes that they decode to) of each text."""
    path, out = folder / "texts.bin", folder / "ids.bin"
    with open(path, "wb") as file:
        for text in texts:
            data = text.encode()
            file.write(struct.pack("<I", len(data)) + data)
    mode = "--special" if special else "--plain"
    subprocess.run([tokenize, model, mode, path, out], check=True)
    data, at, results = out.read_bytes(), 0, []
    for _ in texts:
        count = struct.unpack_from("<I", data, at)[0]
        ids = list(struct.unpack_from(f"<{count}i", data, at + 4))
        at += 4 + 4 * count
        size = struct.unpack_from("<I", data, at)[0]
        results.append((ids, data[at + 4 : at + 4 + size]))
        at += 4 + size
    return results


def fail(name, text, ours, theirs):
    at = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs))
    )
    print(f"{name}: place {at} differs, the text has {len(text)} characters: {text[:60]!r}")
    print("  ours  ", ours[max(0, at - 8) : at + 12])
    print("  oracle", theirs[max(0, at - 8) : at + 12])
    sys.exit(1)


def texts(data_dir, special_tokens, limit):
    """(name, texts) of every source; a file that is not UTF-8 is repaired first. Of each at most
    `limit` characters."""
    for path in sorted(data_dir.glob("*/*")):
        if path.suffix in (".txt", ".jsonl"):
            text = path.read_bytes().decode("utf-8", "replace")[:limit]
            lines = [line for line in text.split("\n")[:5000] if line]
            yield str(path.relative_to(data_dir)), [text] + lines
    short, long = torture_texts(special_tokens, limit)
    yield "torture texts", [long] + short


def rewritten_oracle(tokenize, model, folder):
    """The folder with the tokenizer.json that we write, and what `tokenizers` makes of it."""
    folder = folder / "rewritten"
    folder.mkdir()
    subprocess.run([tokenize, model, "--json", folder], check=True)
    return folder, hugging_face(folder / "tokenizer.json")


def count_rewritten(tokenize, model, parses_special, names, sources, ours, folder):
    """Reads the tokenizer.json that we write; the number of texts that `tokenizers` cuts otherwise."""
    again, rewritten = rewritten_oracle(tokenize, model, folder)
    if encode_by_us(tokenize, again, sources, parses_special, folder) != ours:
        sys.exit(f"{model.name}: our tokenizer.json gives other ids or texts")
    if not parses_special:
        ours = encode_by_us(tokenize, again, sources, True, folder)
    theirs = rewritten.encode(sources)
    differs = [i for i, ids in enumerate(theirs) if ids != ours[i][0]]
    if differs and parses_special:
        i = differs[0]
        fail(f"{model.name}, {names[i]}, rewritten", sources[i], ours[i][0], theirs[i])
    return len(differs)


def check_model(tokenize, model, data_dir, limit, folder):
    oracle = oracle_of(model)
    names, sources = [], []
    for name, some in texts(data_dir, oracle.special, limit):
        names += [name] * len(some)
        sources += some
    ours = encode_by_us(tokenize, model, sources, oracle.parses_special, folder)
    result = {"model": model.name, "texts": len(sources), "bytes": 0, "tokens": 0, "decoded": 0}
    for name, text, (ids, decoded), theirs in zip(names, sources, ours, oracle.encode(sources)):
        if ids != theirs:
            fail(f"{model.name}, {name}", text, ids, theirs)
        # Ids that were cut from well-formed text decode to well-formed text.
        if decoded.decode() != (expected := oracle.decode(ids)):
            fail(f"{model.name}, {name}, decoded", text, decoded.decode(), expected)
        result["bytes"] += len(text.encode())
        result["tokens"] += len(ids)
        result["decoded"] += decoded.decode() == text
    if not (model / "tokenizer.json").exists():
        result["rewritten_differs"] = count_rewritten(
            tokenize, model, oracle.parses_special, names, sources, ours, folder
        )
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=pathlib.Path, metavar="MODEL")
    parser.add_argument("--tokenize", required=True, help="the program tq_tokenize")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="characters of each source (default: all)"
    )
    arguments = parser.parse_args()
    if "TQ_DATA_DIR" not in os.environ:
        sys.exit("tokenizer_oracle.py: TQ_DATA_DIR is not set")
    data_dir = pathlib.Path(os.environ["TQ_DATA_DIR"])
    results = []
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            results.append(
                check_model(
                    arguments.tokenize, model, data_dir, arguments.limit, pathlib.Path(folder)
                )
            )
        print(json.dumps(results[-1]), flush=True)
    print(json.dumps({"unicode": unicodedata.unidata_version, "models": results}))


if __name__ == "__main__":
    main()
