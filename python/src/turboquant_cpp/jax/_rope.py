"""Rotary positions in the half-split convention of Hugging Face's Llama.

Angles are position * frequency, up to a million radians: too many for float32. Tables of positions
p0 < 256 and of multiples of 256 are computed in double, and cos and sin of their sum follow by the
addition theorems, a few roundings of float32 from the exact values.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from turboquant_cpp._config import ModelConfig, rope_frequencies

_LOW = 256


@functools.lru_cache(maxsize=16)
def _tables(config: ModelConfig, positions: int) -> tuple[np.ndarray, ...]:
    """cos, sin of 0 .. 255 [256, half]; cos, sin of 0, 256, .. [ceil(positions / 256), half]."""
    frequencies = np.asarray(rope_frequencies(config))
    low = np.arange(_LOW)[:, None] * frequencies
    high = np.arange(-(-positions // _LOW))[:, None] * (_LOW * frequencies)
    exact = (np.cos(low), np.sin(low), np.cos(high), np.sin(high))
    return tuple(table.astype(np.float32) for table in exact)


def rope_angles(
    config: ModelConfig, positions: jax.Array, capacity: int
) -> tuple[jax.Array, jax.Array]:
    """cos and sin of positions below `capacity`: int [n] -> float32 [n, head_dim / 2] each."""
    cos_low, sin_low, cos_high, sin_high = map(jnp.asarray, _tables(config, capacity))
    a, b = positions // _LOW, positions % _LOW
    cos = cos_high[a] * cos_low[b] - sin_high[a] * sin_low[b]
    sin = sin_high[a] * cos_low[b] + cos_high[a] * sin_low[b]
    return cos, sin


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x [n, heads, head_dim], cos and sin [n, head_dim / 2] -> [n, heads, head_dim]."""
    low, high = jnp.split(x, 2, axis=-1)
    cos, sin = cos[:, None, :], sin[:, None, :]
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
