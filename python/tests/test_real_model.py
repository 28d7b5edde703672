"""A real llama at 2 bits against the C++ engine: its matrices and its text.

Needs TQ_DATA_DIR (models/llama-30m) and the program: build/release/src/cli/tq, or TQ_PROGRAM. The
model is compressed into a temporary folder; TQ_PACKED_LLAMA names a directory that is there.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import REPOSITORY, gguf_tensors, hugging_face_rows, relative_error

from turboquant_cpp.jax import Model, decode, forward, load, make_cache

MAX_LOGIT_GAP = 0.05
PROMPTS = ["The history of the castle begins in the", "Once upon a time"]
TOKENS = 48

PROGRAM = pathlib.Path(os.environ.get("TQ_PROGRAM", REPOSITORY / "build/release/src/cli/tq"))
DATA = os.environ.get("TQ_DATA_DIR")

pytestmark = pytest.mark.skipif(
    DATA is None or not PROGRAM.exists(), reason="TQ_DATA_DIR is not set, or tq is not built"
)


def tq(*arguments: object) -> None:
    subprocess.run([PROGRAM, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    ready = os.environ.get("TQ_PACKED_LLAMA")
    if ready:
        return pathlib.Path(ready)
    output = tmp_path_factory.mktemp("llama") / "packed"
    source = pathlib.Path(str(DATA)) / "models/llama-30m"
    options = ["--bits", 2, "--fast", "--uniform", "--calibration-tokens", 2048, "--quiet"]
    tq("quantize", source, "-o", output, *options)
    return output


@pytest.fixture(scope="module")
def model(folder: pathlib.Path) -> Model:
    return load(folder)


def test_matrices_are_those_of_the_engine(
    model: Model, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    tq("export", folder, tmp_path / "f32.gguf", "--type", "f32", "--quiet")
    config = model.config
    exported = gguf_tensors(tmp_path / "f32.gguf")
    expected = dict(hugging_face_rows(exported, config.num_heads, config.num_kv_heads))
    run = jax.jit(decode)
    at, layer = "model.layers.0", model.layers[0]
    for name, packed in {
        f"{at}.self_attn.q_proj": layer.q,
        f"{at}.self_attn.k_proj": layer.k,
        f"{at}.mlp.down_proj": layer.down,
        "model.embed_tokens": model.embedding,
    }.items():
        assert relative_error(run(packed), expected[name]) < 1e-6, name


def written(
    folder: pathlib.Path, out: pathlib.Path, prompt: str, compute: str
) -> tuple[list[int], list[int]]:
    """Ids of a prompt, and of what the engine writes after it."""
    tq("generate", folder, "-p", prompt, "-n", TOKENS, "--compute", compute, "--json", out)
    result = json.loads(out.read_text())
    return result["prompt_tokens"], result["tokens"]


def test_text_is_that_of_the_engine(
    model: Model, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Each token that the engine wrote, on its reference path and with 8-bit activations, is the
    one that is likeliest here, or nearly."""
    texts = [
        written(folder, tmp_path / "out.json", prompt, compute)
        for prompt in PROMPTS
        for compute in ("reference", "fast")
    ]
    length = max(len(prompt) + len(tokens) for prompt, tokens in texts)
    ids = np.zeros((len(texts), length), np.int32)
    for row, (prompt, tokens) in zip(ids, texts):
        row[: len(prompt) + len(tokens)] = prompt + tokens

    @jax.jit
    def run(model, ids):
        cache = make_cache(model.config, length)
        return jax.vmap(lambda tokens: forward(model, tokens, cache)[0])(ids)

    logits = np.asarray(run(model, jnp.asarray(ids)))
    for of_text, (prompt, tokens) in zip(logits, texts):
        for index, token in enumerate(tokens):
            behind = of_text[len(prompt) + index - 1]
            assert behind.max() - behind[token] < MAX_LOGIT_GAP, f"token {index} of {tokens}"
