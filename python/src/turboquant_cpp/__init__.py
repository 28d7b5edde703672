"""TurboQuant in Python: models of `tq quantize`, read and run without unpacking them.

    turboquant_cpp.open_directory(path)   what a packed directory holds, as NumPy arrays
    turboquant_cpp.jax                    the same in JAX: products, gradients, text

`turboquant_cpp.jax` needs JAX (`pip install 'turboquant_cpp[jax]'`) and is imported when it is
asked for; this package alone needs NumPy only.
"""

from turboquant_cpp._config import ModelConfig, RopeScaling
from turboquant_cpp._directory import PackedDirectory, StoredMatrix, open_directory
from turboquant_cpp._layout import Code, Layout, Segment

__version__ = "0.1.0"

__all__ = [
    "Code",
    "Layout",
    "ModelConfig",
    "PackedDirectory",
    "RopeScaling",
    "Segment",
    "StoredMatrix",
    "open_directory",
]
