"""Packed matrices and models in JAX: pure functions of pytrees, under jit, vmap and grad.

    from turboquant_cpp import jax as tqj

    model = tqj.load("SmolLM2-2bit")                       # a pytree; codes stay packed
    ids = tqj.generate(model, prompt_ids, max_new_tokens=64)
    y = tqj.matmul(x, model.layers[0].up)                  # x [..., cols] -> [..., rows]
    w = tqj.decode(model.layers[0].up)                     # float32 [rows, cols]

docs/jax.md says more.
"""

try:
    import jax as _jax  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("jax", "jaxlib"):
        raise
    raise ImportError(
        "turboquant_cpp.jax needs JAX, which is not installed: pip install 'turboquant_cpp[jax]'"
    ) from error

from turboquant_cpp.jax._backend import available_backends
from turboquant_cpp.jax._generate import generate, prefill, step
from turboquant_cpp.jax._hadamard import block_hadamard
from turboquant_cpp.jax._load import load
from turboquant_cpp.jax._matmul import group_matmul, matmul, transform_input
from turboquant_cpp.jax._model import KvCache, Layer, Model, forward, make_cache
from turboquant_cpp.jax._packed import PackedMatrix, decode, decode_rows, from_stored
from turboquant_cpp.jax._sharding import ShardedMatrix, shard_inputs, shard_outputs, sharded_matmul

__all__ = [
    "KvCache",
    "Layer",
    "Model",
    "PackedMatrix",
    "ShardedMatrix",
    "available_backends",
    "block_hadamard",
    "decode",
    "decode_rows",
    "forward",
    "from_stored",
    "generate",
    "group_matmul",
    "load",
    "make_cache",
    "matmul",
    "prefill",
    "shard_inputs",
    "shard_outputs",
    "sharded_matmul",
    "step",
    "transform_input",
]
