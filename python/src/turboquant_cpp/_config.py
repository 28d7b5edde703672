"""What a decoder-only model is made of, from Hugging Face's config.json.

Fields that would change the result and are not honoured are refused by name; sizes are
range-checked as the C++ reader does (src/checkpoint/model_config_json.cc). A ModelConfig is
hashable: it is the static part of a model in JAX.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

# Far above any model that exists (src/checkpoint/model_config.cc).
_LIMITS = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 20,
    "num_layers": 4096,
    "num_heads": 4096,
    "num_kv_heads": 4096,
    "head_dim": 1024,
    "max_position": 1 << 30,
}

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

# What each model_type has where config.json is silent.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position": 2048},
    "mistral": {"max_position": 131072, "num_kv_heads": 8, "sliding_window": 4096},
    "qwen2": {"max_position": 32768, "num_kv_heads": 32, "qkv_bias": True},
    "qwen3": {"max_position": 32768, "num_kv_heads": 32, "head_dim": 128, "qk_norm": True},
}

# Fields of other models of these families: any value but the neutral one is refused.
_NEUTRAL: dict[str, Any] = {
    "attention_bias": False,
    "mlp_bias": False,
    "sliding_window": None,
    "use_sliding_window": False,
    "partial_rotary_factor": 1.0,
    "rope_interleaved": False,
    "no_rope_layers": None,
    "use_qk_norm": False,
    "use_bidirectional_attention": False,
    "qk_norm": False,
    "parallel_attn": False,
    "use_parallel_residual": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": None,
    "scale_emb": 1.0,
    "scale_depth": None,
    "num_local_experts": 0,
    "num_experts": 0,
    "n_routed_experts": 0,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "cross_attention_layers": None,
    "is_encoder_decoder": False,
    "auto_map": None,
    "compression_config": None,
}
# Honoured by mistral; without effect in qwen2 and qwen3 unless use_sliding_window, which is
# refused.
_SLIDING_TYPES = ("mistral", "qwen2", "qwen3")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How frequencies of rotary embeddings differ from theta^(-2 i / head_dim).

    "linear": all divided by factor. "llama3": long wavelengths divided by it, short ones kept,
    those between interpolated (appendix of Llama 3.1's code).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position: int = 0


def _is_sliding(layer: int, window: int, every: int) -> bool:
    """Whether a layer sees a window alone; every so many-th (0: none) sees all."""
    return window != 0 and (every == 0 or (layer + 1) % every != 0)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder of Llama's kind. Sizes are in values; -1 is no token."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = False
    bos_id: int = -1
    eos_id: int = -1
    qkv_bias: bool = False  # q, k and v add vectors
    qk_norm: bool = False  # RMS norms of each head of q and k, before rotary embeddings
    # Positions that one of a sliding layer sees, itself included; 0: no layer slides. Every so
    # many-th layer sees all; 0: none does.
    sliding_window: int = 0
    full_attention_every: int = 0

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    def is_sliding(self, layer: int) -> bool:
        return _is_sliding(layer, self.sliding_window, self.full_attention_every)


class _Fields:
    """Typed access to the fields of one object; null counts as absent."""

    def __init__(self, members: dict[str, Any], where: str) -> None:
        self.members, self.where = members, where

    def find(self, name: str) -> Any:
        return self.members.get(name)

    def wrong(self, name: str, wanted: str) -> ValueError:
        return ValueError(f"{self.where}: {name} is {self.members[name]!r}, not {wanted}")

    def uint(self, name: str, fallback: int | None) -> int:
        value = self.find(name)
        if value is None:
            if fallback is None:
                raise ValueError(f"{self.where}: {name} is missing")
            return fallback
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.wrong(name, "a non-negative integer")
        return value

    def number(self, name: str, fallback: float) -> float:
        value = self.find(name)
        if value is None:
            return fallback
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self.wrong(name, "a number")
        if not math.isfinite(value):
            raise self.wrong(name, "a finite number")
        return float(value)

    def boolean(self, name: str, fallback: bool) -> bool:
        value = self.find(name)
        if value is None:
            return fallback
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def token(self, name: str, vocab_size: int) -> int:
        """A token id, or the first of a list of them; -1 if absent."""
        value = self.find(name)
        if isinstance(value, list) and value:
            value = value[0]
        if value is None:
            return -1
        if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value < vocab_size:
            raise self.wrong(name, f"a token id of a vocabulary of {vocab_size}")
        return value


def _refuse_unhonoured(fields: _Fields, model_type: str) -> None:
    for name, neutral in _NEUTRAL.items():
        value = fields.find(name)
        if name == "sliding_window" and model_type in _SLIDING_TYPES:
            continue
        if value is not None and value != neutral:
            raise ValueError(f"{fields.where}: {name} = {value!r} is not supported")
    for name in ("hidden_act", "hidden_activation"):
        value = fields.find(name)
        if value is not None and value != "silu":
            raise ValueError(f"{fields.where}: {name} = {value!r} is not supported; 'silu' is")


def _read_scaling(rope: _Fields, theta: float) -> tuple[RopeScaling | None, float]:
    """One rope_scaling or rope_parameters, and the theta that it may hold."""
    kind = rope.find("rope_type") or rope.find("type") or "default"
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        ),
    }
    if not isinstance(kind, str) or kind not in needed:
        raise ValueError(f"{rope.where}: rope_type = {kind!r} is not supported")
    for name in needed[kind]:
        if rope.find(name) is None:
            raise ValueError(f"{rope.where}: {name} is missing")
    known = {"rope_type", "type", "rope_theta", *needed[kind]}
    for name, value in rope.members.items():
        if name not in known and not (name == "partial_rotary_factor" and value == 1.0):
            raise ValueError(f"{rope.where}: {name} = {value!r} is not supported")
    theta = rope.number("rope_theta", theta)
    if kind == "default":
        return None, theta
    scaling = RopeScaling(
        kind,
        rope.number("factor", 1),
        rope.number("low_freq_factor", 1),
        rope.number("high_freq_factor", 4),
        rope.uint("original_max_position_embeddings", 0),
    )
    if scaling.factor <= 0:
        raise ValueError(f"{rope.where}: factor is {scaling.factor}, it must be positive")
    if kind == "llama3" and not 0 < scaling.low_freq_factor < scaling.high_freq_factor:
        raise ValueError(
            f"{rope.where}: low_freq_factor {scaling.low_freq_factor} and high_freq_factor "
            f"{scaling.high_freq_factor}: must be positive and ascend"
        )
    if kind == "llama3" and not 1 <= scaling.original_max_position <= _LIMITS["max_position"]:
        raise ValueError(
            f"{rope.where}: original_max_position_embeddings is {scaling.original_max_position}, "
            f"allowed are 1 to {_LIMITS['max_position']}"
        )
    return scaling, theta


def _read_rope(fields: _Fields) -> tuple[RopeScaling | None, float]:
    """rope_scaling, and rope_parameters, its newer form that also holds rope_theta."""
    theta = fields.number("rope_theta", 10000.0)
    scaling = None
    for name in ("rope_scaling", "rope_parameters"):
        rope = fields.find(name)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            raise fields.wrong(name, "an object")
        scaling, theta = _read_scaling(_Fields(rope, f"{fields.where}: {name}"), theta)
    if theta <= 0:
        raise ValueError(f"{fields.where}: rope_theta is {theta}, it must be positive")
    return scaling, theta


def _full_attention_every(fields: _Fields, layers: int, window: int) -> int:
    """From layer_types, which decides, where it is there, which layers slide."""
    types = fields.find("layer_types")
    if types is None:
        return 0
    if not isinstance(types, list) or len(types) != layers:
        raise fields.wrong("layer_types", "a list with an entry for each layer")
    every = 0
    if window != 0 and "full_attention" in types:
        every = types.index("full_attention") + 1
    for layer, kind in enumerate(types):
        slides = _is_sliding(layer, window, every)
        if kind != ("sliding_attention" if slides else "full_attention"):
            raise ValueError(
                f"{fields.where}: layer_types: {kind!r} for layer {layer} is not supported here"
            )
    return every


def _read_sizes(fields: _Fields, defaults: dict[str, Any]) -> dict[str, int]:
    sizes = {
        "vocab_size": fields.uint("vocab_size", None),
        "hidden_size": fields.uint("hidden_size", None),
        "intermediate_size": fields.uint("intermediate_size", None),
        "num_layers": fields.uint("num_hidden_layers", None),
        "num_heads": fields.uint("num_attention_heads", None),
        "max_position": fields.uint("max_position_embeddings", defaults["max_position"]),
    }
    heads = sizes["num_heads"]
    sizes["num_kv_heads"] = fields.uint("num_key_value_heads", defaults.get("num_kv_heads", heads))
    head_dim = defaults.get("head_dim")
    if head_dim is None and fields.find("head_dim") is None:
        if heads == 0 or sizes["hidden_size"] % heads != 0:
            raise ValueError(
                f"{fields.where}: hidden_size {sizes['hidden_size']} is no multiple of "
                f"{heads} heads, and head_dim is missing"
            )
        head_dim = sizes["hidden_size"] // heads
    sizes["head_dim"] = fields.uint("head_dim", head_dim)
    for name, value in sizes.items():
        if not 1 <= value <= _LIMITS[name]:
            raise ValueError(
                f"{fields.where}: {name} is {value}, allowed are 1 to {_LIMITS[name]}"
            )
    if heads % sizes["num_kv_heads"] != 0:
        raise ValueError(
            f"{fields.where}: {heads} heads are no multiple of "
            f"{sizes['num_kv_heads']} key-value heads"
        )
    if sizes["head_dim"] % 2 != 0:
        raise ValueError(
            f"{fields.where}: head_dim {sizes['head_dim']} is odd; rotary embeddings need pairs"
        )
    if heads * sizes["head_dim"] > _LIMITS["hidden_size"]:
        raise ValueError(
            f"{fields.where}: {heads} heads of {sizes['head_dim']} are more than "
            f"{_LIMITS['hidden_size']} features"
        )
    return sizes


def parse_config(document: Any, where: str) -> ModelConfig:
    """The config of a parsed config.json, whose quantization_config was dealt with and removed.

    Raises ValueError naming `where`, field, value and limit.
    """
    if not isinstance(document, dict):
        raise ValueError(f"{where}: holds {type(document).__name__} where an object is expected")
    fields = _Fields(document, where)
    model_type = fields.find("model_type")
    if not isinstance(model_type, str) or model_type not in _CLASSES:
        raise ValueError(
            f"{where}: model_type {model_type!r} is not supported by this package; "
            f"{', '.join(_CLASSES)} are"
        )
    names = fields.find("architectures")
    if names is not None and (
        not isinstance(names, list) or any(name != _CLASSES[model_type] for name in names)
    ):
        raise ValueError(
            f"{where}: architectures {names!r} are not supported; {_CLASSES[model_type]!r} is"
        )
    _refuse_unhonoured(fields, model_type)
    defaults = _DEFAULTS[model_type]
    sizes = _read_sizes(fields, defaults)
    window = 0
    if model_type == "mistral":
        # null is none, whatever the default.
        silent = 0 if "sliding_window" in document else defaults["sliding_window"]
        window = fields.uint("sliding_window", silent)
        if window > _LIMITS["max_position"]:
            raise ValueError(
                f"{where}: sliding_window is {window}, allowed are 0 to {_LIMITS['max_position']}"
            )
    scaling, theta = _read_rope(fields)
    epsilon = fields.number("rms_norm_eps", 1e-6)
    if not 0 <= epsilon < 1:
        raise ValueError(f"{where}: rms_norm_eps is {epsilon}, allowed are 0 to 1")
    return ModelConfig(
        model_type=model_type,
        **sizes,
        rms_norm_eps=epsilon,
        rope_theta=theta,
        rope_scaling=scaling,
        tie_embeddings=fields.boolean("tie_word_embeddings", False),
        bos_id=fields.token("bos_token_id", sizes["vocab_size"]),
        eos_id=fields.token("eos_token_id", sizes["vocab_size"]),
        qkv_bias=defaults.get("qkv_bias", False),
        qk_norm=defaults.get("qk_norm", False),
        sliding_window=window,
        full_attention_every=_full_attention_every(fields, sizes["num_layers"], window),
    )


def rope_frequencies(config: ModelConfig) -> list[float]:
    """Radians per position of each pair of a head, [head_dim / 2], in double."""
    half, scaling = config.head_dim // 2, config.rope_scaling
    frequencies = []
    for pair in range(half):
        frequency = config.rope_theta ** (-pair / half)
        if scaling is not None and scaling.kind == "linear":
            frequency /= scaling.factor
        if scaling is not None and scaling.kind == "llama3":
            # Turns of this pair within the original context.
            turns = scaling.original_max_position * frequency / (2 * math.pi)
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            kept = min(max((turns - low) / (high - low), 0.0), 1.0)
            frequency *= kept + (1 - kept) / scaling.factor
        frequencies.append(frequency)
    return frequencies


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Hugging Face's names of all weights and their shapes; two dimensions: a matrix [out, in]."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.q_size, config.kv_size
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, hidden)}
    for layer in range(config.num_layers):
        own: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (q, hidden),
            "self_attn.k_proj.weight": (kv, hidden),
            "self_attn.v_proj.weight": (kv, hidden),
            "self_attn.o_proj.weight": (hidden, q),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        if config.qkv_bias:
            own["self_attn.q_proj.bias"] = (q,)
            own["self_attn.k_proj.bias"] = own["self_attn.v_proj.bias"] = (kv,)
        if config.qk_norm:
            own["self_attn.q_norm.weight"] = own["self_attn.k_norm.weight"] = (config.head_dim,)
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in own.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, hidden)
    return shapes
