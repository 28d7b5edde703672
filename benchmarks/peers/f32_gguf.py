"""Writes a llama model as a GGUF file of float32 tensors, by PyPI `gguf`.

The source is a GGUF file (every tensor dequantised by `gguf` itself, so that none of our
readers takes part) or a Hugging Face directory of safetensors. llama.cpp pairs neighbouring
rows of q and k for rotary positions where Hugging Face pairs rows half a head apart: the rows
of a Hugging Face source are permuted accordingly; those of a GGUF file already are.
"""

import json
import pathlib

import gguf
import numpy as np

CONTROL, USER_DEFINED, NORMAL, UNUSED = (
    gguf.TokenType.CONTROL,
    gguf.TokenType.USER_DEFINED,
    gguf.TokenType.NORMAL,
    gguf.TokenType.UNUSED,
)


def write_f32_gguf(model, out):
    """Writes `model`, a path, to `out`."""
    writer = gguf.GGUFWriter(str(out), "llama")
    tensors = from_directory(model, writer) if model.is_dir() else from_gguf(model, writer)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, array in tensors:
        writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def from_gguf(path, writer):
    reader = gguf.GGUFReader(path)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        yield tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type)


def read_safetensors(path):
    """{name: float32 array} of one file."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + size)
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[begin:end]
        if entry["dtype"] == "BF16":
            array = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            array = raw.view({"F32": "<f4", "F16": "<f2"}[entry["dtype"]]).astype(np.float32)
        arrays[name] = array.reshape(entry["shape"])
    return arrays


def permuted(weight, heads):
    """Rows [half, pair] of each head to [pair, half]."""
    rows, columns = weight.shape
    return (
        weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def gguf_name(name):
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in fixed:
        return fixed[name]
    _, _, layer, *rest = name.split(".")
    part = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }[".".join(rest[:-1])]
    return f"blk.{layer}.{part}.weight"


def from_directory(folder, writer):
    config = json.loads((folder / "config.json").read_text())
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    add_tokenizer(folder, config, writer)
    for path in sorted(folder.glob("model*.safetensors")):
        for name, weight in read_safetensors(path).items():
            if name == "lm_head.weight" and config.get("tie_word_embeddings"):
                continue
            if name.endswith("q_proj.weight"):
                weight = permuted(weight, heads)
            elif name.endswith("k_proj.weight"):
                weight = permuted(weight, kv_heads)
            yield gguf_name(name), weight


def add_tokenizer(folder, config, writer):
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    tokens = [f"[PAD{i}]" for i in range(config["vocab_size"])]
    types = [UNUSED] * len(tokens)
    for token, i in vocab.items():
        tokens[i], types[i] = token, NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    digits = tokenizer["pre_tokenizer"]["type"] == "Sequence"
    writer.add_tokenizer_pre("smollm" if digits else "gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    # llama.cpp refuses a vocabulary without merges; this one yields no token, so it does nothing.
    merges = [m if isinstance(m, str) else " ".join(m) for m in merges] or ["\u0120 \u0120"]
    writer.add_token_merges(merges)
    named = {}
    config_file = folder / "tokenizer_config.json"
    if config_file.exists():
        named = json.loads(config_file.read_text(encoding="utf-8"))
    setters = {"bos_token": writer.add_bos_token_id, "eos_token": writer.add_eos_token_id}
    for key, add in setters.items():
        token = named.get(key)
        if isinstance(token, dict):
            token = token["content"]
        if token in tokens:
            add(tokens.index(token))
    post = tokenizer.get("post_processor") or {}
    adds_bos = post.get("type") == "TemplateProcessing" or bool(named.get("add_bos_token"))
    writer.add_add_bos_token(adds_bos)
    writer.add_add_space_prefix(False)
