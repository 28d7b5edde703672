#!/usr/bin/env python3
"""Forward passes of Hugging Face's transformers, for the tests to compare ours with.

forward_oracle.py FOLDER           write FOLDER/<architecture>/{config.json, model.safetensors,
                                   expected.safetensors (tokens [n], logits [n, vocab])}
forward_oracle.py FOLDER --check   compute the logits of the models that lie there again

Small models with random weights in float32, of every architecture that we run. Keys and values are
rounded to half precision where the attention reads them, as our cache holds them; all else is as the
library has it. Needs PyPI's torch, transformers, safetensors and, for ternary weights, accelerate.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # nothing here is worth compiling

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.bitnet import AutoBitLinear, BitLinear, pack_weights

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# Of stored and computed logits, relative, in float32. Versions of transformers and processors sum
# experts in other orders.
LARGEST = 5e-5
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# Folder: class of the model, and what its configuration has beside SIZES.
MODELS = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 9}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 10}),
    "gemma2": (
        "Gemma2",
        {
            "sliding_window": 9,
            "query_pre_attn_scalar": 10,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "bitnet": ("BitNet", {"tie_word_embeddings": True}),
    "mixtral": ("Mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2}),
    "qwen3_moe": (
        "Qwen3Moe",
        {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "norm_topk_prob": True},
    ),
    "gemma3": ("Gemma3Text", {"num_hidden_layers": 7, "sliding_window": 9, "query_pre_attn_scalar": 10}),
}
TOKENS = 40
# BitNets in the forms that its linears are stored in: linear_class and quantization_mode.
TERNARY = {
    "bitnet_bitlinear": ("bitlinear", "offline"),
    "bitnet_autobitlinear": ("autobitlinear", "offline"),
    "bitnet_online": ("autobitlinear", "online"),
}
# Their activations are rounded to integers. Where one lies so close between two of them (in steps),
# two programs' errors of float may round it differently: such models are no good for comparing, and
# with many tokens there are no others.
TERNARY_TOKENS = 10
SMALLEST_MARGIN = 3e-4


def round_cache(model: torch.nn.Module) -> None:
    """Lets the model's own eager attention read keys and values rounded to half precision."""
    code = sys.modules[type(model).__module__]
    eager = code.eager_attention_forward
    if hasattr(eager, "rounded"):
        return

    def rounded(module, query, key, value, *args, **kwargs):
        return eager(module, query, key.half().float(), value.half().float(), *args, **kwargs)

    rounded.rounded = True
    code.eager_attention_forward = rounded


def make_config(kind: str, fields: dict):
    config = getattr(transformers, kind + "Config")(**{**SIZES, **fields})
    config.architectures = [kind.replace("Gemma3Text", "Gemma3") + "ForCausalLM"]
    return config


def randomise(model: torch.nn.Module, seed: int = 20261130) -> None:
    """Matrices that keep activations near 1; norms and biases that matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() >= 2:  # three: the matrices of all experts
            parameter.data = noise * (1.2 / parameter.shape[-1] ** 0.5)
        else:
            mean = 0.0 if "Gemma" in type(model).__name__ or name.endswith("bias") else 1.0
            parameter.data = mean + 0.2 * noise


def logits_of(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    round_cache(model)
    with torch.no_grad():
        return model(input_ids=tokens[None].long(), use_cache=False).logits[0].float().contiguous()


def load(folder: pathlib.Path) -> torch.nn.Module:
    config = AutoConfig.from_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def write_float(folder: pathlib.Path, kind: str, fields: dict) -> None:
    model = AutoModelForCausalLM.from_config(
        make_config(kind, fields), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    randomise(model)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def write_ternary(folder: pathlib.Path, linear_class: str, mode: str, seed: int) -> None:
    """A BitNet whose linears are packed, or are floats that it rounds itself."""
    config = make_config("BitNet", {"tie_word_embeddings": True})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    randomise(model, seed)
    tensors = {}
    for name, weight in model.named_parameters():
        if mode == "online" or not name.endswith("_proj.weight"):
            tensors[name] = weight.data
            continue
        scale = weight.data.abs().mean()
        tensors[name] = pack_weights((weight.data / scale).round().clamp(-1, 1))
        factor = 1 / scale if linear_class == "bitlinear" else scale
        tensors[name + "_scale"] = factor.reshape(1)
    config.quantization_config = {
        "quant_method": "bitnet",
        "linear_class": linear_class,
        "quantization_mode": mode,
    }
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def margin_of(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    """The smallest distance, in steps, of an activation from one that is rounded the other way."""
    margins = []

    def look(_, inputs):
        x = inputs[0].double()
        steps = x * (127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5))
        margins.append(((steps - steps.floor()) - 0.5).abs().min().item())

    linears = [m for m in model.modules() if isinstance(m, (AutoBitLinear, BitLinear))]
    assert len(linears) == 7 * SIZES["num_hidden_layers"]
    hooks = [linear.register_forward_pre_hook(look) for linear in linears]
    logits_of(model, tokens)
    for hook in hooks:
        hook.remove()
    return min(margins)


def write(name: str, folder: pathlib.Path, tokens: torch.Tensor) -> None:
    if name in MODELS:
        write_float(folder, *MODELS[name])
    else:
        tokens = tokens[:TERNARY_TOKENS]
        seed = 0
        while True:
            seed += 1
            write_ternary(folder, *TERNARY[name], seed)
            if margin_of(load(folder), tokens) > SMALLEST_MARGIN:
                break
    save_file(
        {"tokens": tokens, "logits": logits_of(load(folder), tokens)},
        folder / "expected.safetensors",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(3, SIZES["vocab_size"], (TOKENS,), generator=generator, dtype=torch.int32)
    worst = 0.0
    for name in [*MODELS, *TERNARY]:
        folder = args.folder / name
        if not args.check:
            write(name, folder, tokens)
        expected = load_file(folder / "expected.safetensors")
        logits = logits_of(load(folder), expected["tokens"])
        error = ((logits - expected["logits"]).norm() / expected["logits"].norm()).item()
        worst = max(worst, error)
        print(f"{name:20} transformers {transformers.__version__} differs from what is stored by {error:.1e}")
    if worst > LARGEST:
        print(f"the largest difference is {worst:.1e}, above {LARGEST:.0e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
