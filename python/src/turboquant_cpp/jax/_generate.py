"""Greedy text: a prompt, then one jitted scan over single tokens. Ids in, ids out."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from turboquant_cpp.jax._model import KvCache, Model, forward, make_cache


def prefill(
    model: Model, tokens: jax.Array, cache: KvCache, *, backend: str | None = None
) -> tuple[jax.Array, KvCache]:
    """Runs a prompt, int32 [n]: logits behind its last token, float32 [vocab], and the cache."""
    return forward(model, tokens, cache, logits="last", backend=backend)


def step(
    model: Model, token: jax.Array, cache: KvCache, *, backend: str | None = None
) -> tuple[jax.Array, KvCache]:
    """Runs one token, int32 []: logits behind it, float32 [vocab], and the cache."""
    return forward(model, token[None], cache, logits="last", backend=backend)


@functools.partial(jax.jit, static_argnames=("max_new_tokens", "cache_dtype", "eos_id", "backend"))
def _generate(
    model: Model,
    prompt: jax.Array,
    max_new_tokens: int,
    cache_dtype: Any,
    eos_id: int,
    backend: str | None,
) -> jax.Array:
    # The last token is not run.
    cache = make_cache(model.config, prompt.shape[0] + max_new_tokens - 1, cache_dtype)
    logits, cache = prefill(model, prompt, cache, backend=backend)
    first = jnp.argmax(logits).astype(jnp.int32)

    def advance(
        carry: tuple[jax.Array, KvCache], _: None
    ) -> tuple[tuple[jax.Array, KvCache], jax.Array]:
        token, cache = carry
        logits, cache = step(model, token, cache, backend=backend)
        following = jnp.argmax(logits).astype(jnp.int32)
        following = jnp.where(token == eos_id, token, following)
        return (following, cache), following

    _, rest = lax.scan(advance, (first, cache), None, length=max_new_tokens - 1)
    return jnp.concatenate([first[None], rest])


def generate(
    model: Model,
    prompt: Any,
    max_new_tokens: int,
    *,
    eos_id: int | None = None,
    cache_dtype: Any = jnp.float16,
    backend: str | None = None,
) -> jax.Array:
    """The likeliest continuation of a prompt, token by token: int32 [max_new_tokens].

    prompt  ids [n], at least one, all in the vocabulary
    eos_id  the token that ends a text (None: the config's; -1: none); once drawn, it is repeated

    Compiles once for each length of prompt and max_new_tokens. Raises ValueError for ids outside
    the vocabulary and for more positions than the model was trained for.
    """
    ids = np.asarray(prompt)
    config = model.config
    if ids.ndim != 1 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"generate: prompt is {ids.dtype} {list(ids.shape)}, expected ids [n]")
    bad = np.flatnonzero((ids < 0) | (ids >= config.vocab_size))
    if bad.size:
        raise ValueError(
            f"generate: token {ids[bad[0]]} at position {bad[0]}: "
            f"the vocabulary has {config.vocab_size}"
        )
    if max_new_tokens < 1 or ids.size + max_new_tokens - 1 > config.max_position:
        raise ValueError(
            f"generate: {max_new_tokens} tokens after {ids.size}: at least 1 is made, and the "
            f"model has {config.max_position} positions"
        )
    end = config.eos_id if eos_id is None else eos_id
    dtype = jnp.dtype(cache_dtype)
    return _generate(model, jnp.asarray(ids, jnp.int32), max_new_tokens, dtype, end, backend)
