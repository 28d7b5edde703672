"""Whole models: against transformers' logits, and against the C++ engine's text and perplexity."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import GOLDEN

from turboquant_cpp._config import parse_config
from turboquant_cpp._safetensors import SafetensorsDirectory, SafetensorsFile
from turboquant_cpp.jax import Layer, Model, forward, generate, load, make_cache, prefill, step

# Two logits so close may change places where sums round otherwise.
MAX_LOGIT_GAP = 0.05


def dense_model(name: str) -> tuple[Model, np.ndarray, np.ndarray]:
    """An unquantised model of tests/golden/forward, tokens [n] and logits [n, vocab]."""
    folder = GOLDEN / "forward" / name
    config = parse_config(json.loads((folder / "config.json").read_text()), name)
    files = SafetensorsDirectory(folder)

    def get(tensor: str) -> jax.Array | None:
        return jnp.asarray(files.float_array(tensor)) if tensor in files.names else None

    layers = []
    for index in range(config.num_layers):
        at = f"model.layers.{index}"
        attention, mlp = f"{at}.self_attn", f"{at}.mlp"
        layers.append(
            Layer(
                attention_norm=get(f"{at}.input_layernorm.weight"),
                q=get(f"{attention}.q_proj.weight"),
                k=get(f"{attention}.k_proj.weight"),
                v=get(f"{attention}.v_proj.weight"),
                o=get(f"{attention}.o_proj.weight"),
                mlp_norm=get(f"{at}.post_attention_layernorm.weight"),
                gate=get(f"{mlp}.gate_proj.weight"),
                up=get(f"{mlp}.up_proj.weight"),
                down=get(f"{mlp}.down_proj.weight"),
                q_bias=get(f"{attention}.q_proj.bias"),
                k_bias=get(f"{attention}.k_proj.bias"),
                v_bias=get(f"{attention}.v_proj.bias"),
                q_norm=get(f"{attention}.q_norm.weight"),
                k_norm=get(f"{attention}.k_norm.weight"),
            )
        )
    head = None if config.tie_embeddings else get("lm_head.weight")
    embedding, norm = get("model.embed_tokens.weight"), get("model.norm.weight")
    expected = SafetensorsFile(folder / "expected.safetensors")
    model = Model(embedding, tuple(layers), norm, head, config)
    return model, expected.array("tokens"), expected.array("logits")


@pytest.mark.parametrize("name", ["llama", "llama3", "mistral", "qwen2", "qwen3"])
def test_logits_are_those_of_transformers(name: str) -> None:
    """tests/golden/forward, made by benchmarks/oracles/forward_oracle.py, whose keys and values are
    rounded to half precision as the cache's are; prompts and single tokens."""
    model, tokens, expected = dense_model(name)

    @jax.jit
    def run(model, tokens):
        cache = make_cache(model.config, len(tokens))
        whole, _ = forward(model, tokens, cache)
        _, cache = prefill(model, tokens[:-8], cache)

        def one(cache, token):
            logits, cache = step(model, token, cache)
            return cache, logits

        cache, singly = jax.lax.scan(one, cache, tokens[-8:])
        return whole, singly, cache.length

    whole, singly, length = run(model, jnp.asarray(tokens))
    scale = np.abs(expected).max()
    assert np.abs(whole - expected).max() < 1e-4 * scale
    assert np.abs(singly - expected[-8:]).max() < 1e-4 * scale
    assert length == len(tokens)


@pytest.fixture(scope="module")
def tiny() -> Model:
    return load(GOLDEN / "packed/model")


@pytest.fixture(scope="module")
def engine() -> SafetensorsFile:
    """What the C++ engine made of it, on its reference path."""
    return SafetensorsFile(GOLDEN / "packed/expected.safetensors")


def test_text_is_that_of_the_engine(tiny: Model, engine: SafetensorsFile) -> None:
    prompt, expected = engine.array("prompt"), engine.array("generated")
    written = np.asarray(generate(tiny, prompt, len(expected)))
    differs = np.flatnonzero(written != expected)
    if differs.size:
        ids = np.concatenate([prompt, expected[: differs[0]]])
        logits, _ = prefill(tiny, jnp.asarray(ids), make_cache(tiny.config, len(ids)))
        best = np.sort(logits)[-2:]
        assert best[1] - best[0] < MAX_LOGIT_GAP, f"token {differs[0]}"


def test_perplexity_is_that_of_the_engine(tiny: Model, engine: SafetensorsFile) -> None:
    """As `tq eval --context 32`: predictions of tokens 17 .. 31 of each window are scored."""
    ids = engine.array("text")
    windows = ids[: len(ids) // 32 * 32].reshape(-1, 32)

    @jax.jit
    def run(model, windows):
        cache = make_cache(model.config, 32)
        # The model's matrices are decoded once for all windows.
        return jax.vmap(lambda tokens: forward(model, tokens, cache)[0])(windows)

    logits = np.float64(run(tiny, jnp.asarray(windows)))
    predictions = logits[:, 16:-1]
    log_sum = np.log(np.exp(predictions).sum(-1))
    chosen = np.take_along_axis(predictions, windows[:, 17:, None], -1)[..., 0]
    perplexity = np.exp((log_sum - chosen).mean())
    assert abs(np.log(perplexity / engine.array("perplexity")[0])) < 2e-4


def test_says_what_does_not_fit(tiny: Model) -> None:
    with pytest.raises(ValueError, match="capacity 257, allowed are 1 to 256"):
        make_cache(tiny.config, 257)
    cache = make_cache(tiny.config, 4)
    with pytest.raises(ValueError, match="5 tokens at position 0: the KV cache holds only 4"):
        forward(tiny, jnp.zeros(5, jnp.int32), cache)
    with pytest.raises(TypeError, match="tokens are float32"):
        forward(tiny, jnp.zeros(3), cache)
    with pytest.raises(ValueError, match="token 300 at position 1: the vocabulary has 300"):
        generate(tiny, [5, 300], 4)
    with pytest.raises(ValueError, match="expected ids"):
        generate(tiny, [], 4)
    with pytest.raises(ValueError, match="model has 256 positions"):
        generate(tiny, [5], 257)


