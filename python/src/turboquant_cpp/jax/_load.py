"""A packed directory as a Model on JAX's default device."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp

from turboquant_cpp._directory import PackedDirectory, group_name, open_directory
from turboquant_cpp.jax._model import Layer, Model
from turboquant_cpp.jax._packed import PackedMatrix, from_stored


class _Builder:
    """Hands out parts of a directory, each input scale copied to the device once."""

    def __init__(self, directory: PackedDirectory) -> None:
        self._directory = directory
        self._in_scales: dict[str, jax.Array] = {}

    def matrix(self, name: str) -> PackedMatrix:
        stored, group = self._directory.matrices[name], group_name(name)
        packed = from_stored(stored, self._in_scales.get(group))
        self._in_scales[group] = packed.in_scale
        return packed

    def vector(self, name: str) -> jax.Array:
        return jnp.asarray(self._directory.vectors[name])

    def optional(self, name: str) -> jax.Array | None:
        return self.vector(name) if name in self._directory.vectors else None

    def layer(self, index: int) -> Layer:
        at = f"model.layers.{index}"
        return Layer(
            attention_norm=self.vector(f"{at}.input_layernorm.weight"),
            q=self.matrix(f"{at}.self_attn.q_proj"),
            k=self.matrix(f"{at}.self_attn.k_proj"),
            v=self.matrix(f"{at}.self_attn.v_proj"),
            o=self.matrix(f"{at}.self_attn.o_proj"),
            mlp_norm=self.vector(f"{at}.post_attention_layernorm.weight"),
            gate=self.matrix(f"{at}.mlp.gate_proj"),
            up=self.matrix(f"{at}.mlp.up_proj"),
            down=self.matrix(f"{at}.mlp.down_proj"),
            q_bias=self.optional(f"{at}.self_attn.q_proj.bias"),
            k_bias=self.optional(f"{at}.self_attn.k_proj.bias"),
            v_bias=self.optional(f"{at}.self_attn.v_proj.bias"),
            q_norm=self.optional(f"{at}.self_attn.q_norm.weight"),
            k_norm=self.optional(f"{at}.self_attn.k_norm.weight"),
        )


def load(path: str | os.PathLike[str]) -> Model:
    """Reads a directory that `tq quantize` made; codes stay packed.

    Raises ValueError naming file, tensor or field, value and limit (open_directory()).
    """
    directory = open_directory(path)
    config, builder = directory.config, _Builder(directory)
    return Model(
        embedding=builder.matrix("model.embed_tokens"),
        layers=tuple(builder.layer(index) for index in range(config.num_layers)),
        norm=builder.vector("model.norm.weight"),
        head=None if config.tie_embeddings else builder.matrix("lm_head"),
        config=config,
    )
