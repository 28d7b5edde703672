"""A decoder of Llama's kind (Llama, Mistral, Qwen 2, 2.5 and 3) as pure functions of pytrees.

One sequence at a time; jax.vmap over tokens and caches, with in_axes None for the model, makes a
batch that decodes each matrix once. Matrices are PackedMatrix or plain arrays [out, in]: both work
anywhere. Activations are float32, as in the engine's reference path.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, Union

import jax
import jax.numpy as jnp
from jax import lax

from turboquant_cpp._config import ModelConfig
from turboquant_cpp.jax._matmul import group_matmul
from turboquant_cpp.jax._packed import PackedMatrix, decode_rows
from turboquant_cpp.jax._rope import apply_rope, rope_angles

Matrix = Union[PackedMatrix, jax.Array]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "attention_norm",
        "q",
        "k",
        "v",
        "o",
        "mlp_norm",
        "gate",
        "up",
        "down",
        "q_bias",
        "k_bias",
        "v_bias",
        "q_norm",
        "k_norm",
    ],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """Weights of a layer. Vectors are float32; those that the architecture lacks are None."""

    attention_norm: jax.Array  # [hidden]
    q: Matrix  # [q_size, hidden]
    k: Matrix  # [kv_size, hidden]
    v: Matrix  # [kv_size, hidden]
    o: Matrix  # [hidden, q_size]
    mlp_norm: jax.Array  # [hidden]
    gate: Matrix  # [intermediate, hidden]
    up: Matrix  # [intermediate, hidden]
    down: Matrix  # [hidden, intermediate]
    q_bias: jax.Array | None = None  # [q_size]
    k_bias: jax.Array | None = None  # [kv_size]
    v_bias: jax.Array | None = None  # [kv_size]
    q_norm: jax.Array | None = None  # [head_dim]
    k_norm: jax.Array | None = None  # [head_dim]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["embedding", "layers", "norm", "head"],
    meta_fields=["config"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """All weights; the config is static, and so part of what jit compiles for."""

    embedding: Matrix  # [vocab, hidden]
    layers: tuple[Layer, ...]
    norm: jax.Array  # [hidden]
    head: Matrix | None  # [vocab, hidden]; None: the embedding
    config: ModelConfig


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["keys", "values", "length"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True, eq=False)
class KvCache:
    """Keys (after RoPE) and values of all layers for up to `capacity` positions.

    keys, values  [layers, capacity, kv_heads, head_dim]
    length        int32 []: positions that are filled
    """

    keys: jax.Array
    values: jax.Array
    length: jax.Array

    @property
    def capacity(self) -> int:
        return self.keys.shape[1]


def make_cache(config: ModelConfig, capacity: int, dtype: Any = jnp.float16) -> KvCache:
    """An empty cache for `capacity` positions, in half precision as the C++ engine's by default."""
    if not 1 <= capacity <= config.max_position:
        raise ValueError(
            f"make_cache: capacity {capacity}, allowed are 1 to {config.max_position}"
        )
    shape = (config.num_layers, capacity, config.num_kv_heads, config.head_dim)
    return KvCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.int32(0))


def rms_norm(x: jax.Array, weight: jax.Array, epsilon: float) -> jax.Array:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis."""
    mean = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return x * lax.rsqrt(mean + epsilon) * weight


def multiply(
    x: jax.Array, matrices: Sequence[Matrix], backend: str | None = None
) -> tuple[jax.Array, ...]:
    """x W^T for each matrix of one input group: [n, in] -> [n, out] of each."""
    if all(isinstance(matrix, PackedMatrix) for matrix in matrices):
        return group_matmul(x, matrices, backend=backend)  # type: ignore[arg-type]
    return tuple(
        group_matmul(x, (matrix,), backend=backend)[0]
        if isinstance(matrix, PackedMatrix)
        else jnp.dot(x, matrix.T, precision=lax.Precision.HIGHEST)
        for matrix in matrices
    )


def embed(matrix: Matrix, tokens: jax.Array) -> jax.Array:
    """Rows of the embedding: int [n] -> float32 [n, hidden]."""
    if isinstance(matrix, PackedMatrix):
        return decode_rows(matrix, tokens)
    return matrix[tokens].astype(jnp.float32)


def _attend(
    q: jax.Array, keys: jax.Array, values: jax.Array, positions: jax.Array, window: int
) -> jax.Array:
    """softmax(q K^T / sqrt(head_dim)) V over keys up to each position, or the last `window`.

    q             float32 [n, heads, head_dim]
    keys, values  [capacity, kv_heads, head_dim]; what lies beyond a position is never used
    positions     int32 [n]
    result        float32 [n, heads * head_dim]
    """
    n, heads, head_dim = q.shape
    capacity, kv_heads, _ = keys.shape
    grouped = q.reshape(n, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum(
        "nhgd,khd->nhgk", grouped, keys.astype(jnp.float32), precision=lax.Precision.HIGHEST
    )
    scores /= math.sqrt(head_dim)
    at = jnp.arange(capacity)
    seen = at <= positions[:, None]
    if window != 0:
        seen &= at > positions[:, None] - window
    weights = jax.nn.softmax(jnp.where(seen[:, None, None, :], scores, -jnp.inf), axis=-1)
    attended = jnp.einsum(
        "nhgk,khd->nhgd", weights, values.astype(jnp.float32), precision=lax.Precision.HIGHEST
    )
    return attended.reshape(n, heads * head_dim)


def _attention(
    config: ModelConfig,
    index: int,
    layer: Layer,
    x: jax.Array,
    cache: KvCache,
    angles: tuple[jax.Array, jax.Array],
    positions: jax.Array,
    backend: str | None,
) -> tuple[jax.Array, KvCache]:
    """The attention of one layer, its norm included: [n, hidden] -> [n, hidden], and the cache with
    its keys and values at `positions`."""
    n, d = x.shape[0], config.head_dim
    normed = rms_norm(x, layer.attention_norm, config.rms_norm_eps)
    q, k, v = multiply(normed, (layer.q, layer.k, layer.v), backend)
    if layer.q_bias is not None and layer.k_bias is not None and layer.v_bias is not None:
        q, k, v = q + layer.q_bias, k + layer.k_bias, v + layer.v_bias
    q, k, v = q.reshape(n, -1, d), k.reshape(n, -1, d), v.reshape(n, -1, d)
    if layer.q_norm is not None and layer.k_norm is not None:
        q = rms_norm(q, layer.q_norm, config.rms_norm_eps)
        k = rms_norm(k, layer.k_norm, config.rms_norm_eps)
    q, k = apply_rope(q, *angles), apply_rope(k, *angles)
    at = (index, cache.length, 0, 0)
    keys = lax.dynamic_update_slice(cache.keys, k[None].astype(cache.keys.dtype), at)
    values = lax.dynamic_update_slice(cache.values, v[None].astype(cache.values.dtype), at)
    window = config.sliding_window if config.is_sliding(index) else 0
    attended = _attend(q, keys[index], values[index], positions, window)
    (out,) = multiply(attended, (layer.o,), backend)
    return out, KvCache(keys, values, cache.length)


def _mlp(config: ModelConfig, layer: Layer, x: jax.Array, backend: str | None) -> jax.Array:
    normed = rms_norm(x, layer.mlp_norm, config.rms_norm_eps)
    gate, up = multiply(normed, (layer.gate, layer.up), backend)
    (out,) = multiply(jax.nn.silu(gate) * up, (layer.down,), backend)
    return out


def _check_room(tokens: jax.Array, cache: KvCache) -> None:
    if tokens.ndim != 1 or tokens.shape[0] == 0:
        raise ValueError(f"forward: tokens have shape {list(tokens.shape)}, expected [n], n > 0")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"forward: tokens are {tokens.dtype}, expected integers")
    # Under jit the length is not known: then it is the caller who counts.
    filled = 0 if isinstance(cache.length, jax.core.Tracer) else int(cache.length)
    if filled + tokens.shape[0] > cache.capacity:
        raise ValueError(
            f"forward: {tokens.shape[0]} tokens at position {filled}: "
            f"the KV cache holds only {cache.capacity}"
        )


def forward(
    model: Model,
    tokens: jax.Array,
    cache: KvCache,
    *,
    logits: Literal["all", "last"] = "all",
    backend: str | None = None,
) -> tuple[jax.Array, KvCache]:
    """Runs tokens after what the cache holds, many (a prompt) or one.

    tokens   int32 [n]; ids outside the vocabulary are clamped
    returns  logits behind each of them, float32 [n, vocab], or behind the last, [vocab]; and the
             cache with their keys and values, n positions longer

    Pure: under jit, `logits` and `backend` are static. Where the cache's length is known, tokens
    that do not fit are a ValueError; under jit they overwrite its last positions, so count before.
    """
    _check_room(tokens, cache)
    config, n = model.config, tokens.shape[0]
    positions = cache.length + jnp.arange(n, dtype=jnp.int32)
    angles = rope_angles(config, positions, cache.capacity)
    x = embed(model.embedding, tokens)
    for index, layer in enumerate(model.layers):
        out, cache = _attention(
            config, index, layer, x, cache, angles, positions, backend
        )
        x = x + out
        x = x + _mlp(config, layer, x, backend)
    if logits == "last":
        x = x[-1:]
    normed = rms_norm(x, model.norm, config.rms_norm_eps)
    head = model.embedding if model.head is None else model.head
    (result,) = multiply(normed, (head,), backend)
    cache = KvCache(cache.keys, cache.values, cache.length + n)
    return (result[0] if logits == "last" else result), cache
