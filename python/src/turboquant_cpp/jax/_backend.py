"""Who multiplies with packed matrices. The one place that knows which back ends there are.

A back end computes W' x' and W'^T y'; rotations, scales, gradients and models are built on that and
do not change with it. "jnp" is always there. "ffi" (the C++ engine through JAX's foreign functions)
and "pallas" (TPU) are named so that asking for them says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import jax

from turboquant_cpp._layout import Segment
from turboquant_cpp.jax._jnp_backend import JnpBackend

DEFAULT = "jnp"
_NOT_BUILT = {
    "ffi": "the C++ engine through JAX's foreign functions",
    "pallas": "the TPU kernels",
}


class Backend(Protocol):
    """Products with the decoded, scaled integers W' [rows, cols] of a matrix.

    tiles     of each segment, uint8 [tile_rows, tile_columns, tile_bytes]
    scales    float32 [segments]
    segments  static
    """

    name: str

    def product(
        self,
        x: jax.Array,
        tiles: Sequence[jax.Array],
        scales: jax.Array,
        segments: Sequence[Segment],
    ) -> jax.Array:
        """float32 [n, cols] -> [n, rows]."""
        ...

    def product_transposed(
        self,
        y: jax.Array,
        tiles: Sequence[jax.Array],
        scales: jax.Array,
        segments: Sequence[Segment],
        cols: int,
    ) -> jax.Array:
        """float32 [n, rows] -> [n, cols]."""
        ...


_BACKENDS: dict[str, Backend] = {"jnp": JnpBackend()}


def available_backends() -> tuple[str, ...]:
    """Names that `backend=` takes."""
    return tuple(_BACKENDS)


def get_backend(name: str | None) -> Backend:
    """A back end by name; None: the default. ValueError for names that mean nothing,
    NotImplementedError for those of back ends that this package was built without."""
    name = DEFAULT if name is None else name
    if name in _NOT_BUILT:
        raise NotImplementedError(
            f"back end {name!r} ({_NOT_BUILT[name]}) is not built: "
            f"this package has {', '.join(_BACKENDS)}"
        )
    if name not in _BACKENDS:
        raise ValueError(f"back end {name!r} is unknown: there are {', '.join(_BACKENDS)}")
    return _BACKENDS[name]
