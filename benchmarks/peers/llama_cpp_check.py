#!/usr/bin/env python3
"""Compares the unquantised model in `tq` with llama.cpp on a float32 GGUF of the same weights.

  perplexity  over the first windows of a text, computed from llama.cpp's logits as
              docs/cli.md says `tq eval` does: within 0.5 %
  text        64 tokens without sampling on five prompts: equal, or first different where the
              two best logits of llama.cpp lie less than 0.05 apart

    pip install llama-cpp-python gguf
    benchmarks/peers/llama_cpp_check.py MODEL --tq build/release/src/cli/tq --text wiki.test.txt

MODEL is a Hugging Face directory or a GGUF file of a llama model. Exits with 0 and a message
when the peer is not installed, with 1 when a comparison fails. --json FILE writes the figures.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

PROMPTS = [
    "The history of the castle begins in the",
    "Once upon a time, there was a little girl who",
    "The three most important things about water are",
    "In 1998, the team won 12 of its 16 games and",
    "def fibonacci(n):\n    ",
]
MAX_PERPLEXITY_DIFFERENCE = 0.005
MAX_LOGIT_GAP = 0.05
TOKENS = 64


def run_tq(tq, *arguments):
    """The object that a command writes with --json."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.json"
        subprocess.run(
            [tq, *map(str, arguments), "--json", out], check=True, stdout=subprocess.DEVNULL
        )
        return json.loads(out.read_text())


class Peer:
    """llama.cpp with all logits kept."""

    def __init__(self, path, context, threads):
        import llama_cpp

        self.model = llama_cpp.Llama(
            str(path),
            n_ctx=context,
            n_batch=context,
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=True,
            verbose=False,
        )
        self.add_bos = self.model.metadata.get("tokenizer.ggml.add_bos_token") == "true"

    def tokenize(self, text):
        return self.model.tokenize(text.encode(), add_bos=False, special=False)

    def logits(self, tokens):
        """float32 [tokens, vocabulary] from an empty cache."""
        self.model.reset()
        self.model.eval(tokens)
        return self.model.scores[: len(tokens)]

    def next_logits(self, tokens, fresh):
        """Those after the last of `tokens`, which follow what was evaluated before."""
        if fresh:
            self.model.reset()
        self.model.eval(tokens)
        return self.model.scores[self.model.n_tokens - 1]


def peer_perplexity(peer, tokens, context, windows):
    """Mean over predictions of tokens context/2 + 1 .. context - 1 of each window."""
    import numpy as np

    total, count = 0.0, 0
    for at in range(windows):
        window = list(tokens[at * context : (at + 1) * context])
        if peer.add_bos:
            window[0] = peer.model.token_bos()
        first = context // 2
        logits = peer.logits(window)[first : context - 1].astype(np.float64)
        targets = window[first + 1 :]
        top = logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0]
        total += float((log_sum - logits[np.arange(len(targets)), targets]).sum())
        count += len(targets)
    return math.exp(total / count), count


def check_perplexity(arguments, peer):
    text = pathlib.Path(arguments.text).read_bytes().decode()
    tokens = peer.tokenize(text)
    windows = min(arguments.windows, len(tokens) // arguments.context)
    theirs, count = peer_perplexity(peer, tokens, arguments.context, windows)
    ours = run_tq(
        arguments.tq, "eval", arguments.model, "--text", arguments.text,
        "--context", arguments.context, "--windows", windows,
    )  # fmt: skip
    difference = ours["perplexity"] / theirs - 1
    good = abs(difference) <= MAX_PERPLEXITY_DIFFERENCE
    print(
        f"perplexity: tq {ours['perplexity']:.5f}, llama.cpp {theirs:.5f} over {count} tokens of "
        f"{windows} windows: {100 * difference:+.4f} % {'ok' if good else 'FAILED'}"
    )
    return {
        "tq": ours["perplexity"],
        "llama_cpp": theirs,
        "relative_difference": difference,
        "windows": windows,
        "ok": good,
    }


def check_prompt(arguments, peer, prompt):
    ours = run_tq(
        arguments.tq, "generate", arguments.model, "-p", prompt, "-n", TOKENS, "--temperature", 0
    )
    start = peer.tokenize(prompt)
    if peer.add_bos:
        start = [peer.model.token_bos()] + start
    result = {"prompt": prompt, "tokens": len(ours["tokens"]), "ok": False}
    if start != ours["prompt_tokens"]:
        result["difference"] = f"prompt tokens: tq {ours['prompt_tokens']}, llama.cpp {start}"
        return result
    logits = peer.next_logits(start, fresh=True)
    for i, token in enumerate(ours["tokens"]):
        best = int(logits.argmax())
        if token != best:
            gap = float(logits[best] - logits[token])
            result["difference"] = (
                f"token {i}: tq {token}, llama.cpp {best}, whose logit is {gap:.4f} higher"
            )
            result["ok"] = gap < MAX_LOGIT_GAP
            return result
        logits = peer.next_logits([token], fresh=False)
    result["ok"] = len(ours["tokens"]) == TOKENS or ours["stop"] == "end"
    if not result["ok"]:
        result["difference"] = f"tq stopped after {len(ours['tokens'])} tokens: {ours['stop']}"
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path, metavar="MODEL")
    parser.add_argument("--tq", required=True, help="the program tq")
    parser.add_argument("--text", required=True, help="text file for the perplexity")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2, help="of llama.cpp")
    parser.add_argument("--gguf", type=pathlib.Path, help="keep the float32 GGUF file here")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    try:
        import llama_cpp
        from f32_gguf import write_f32_gguf
    except ImportError as error:
        print(f"llama_cpp_check.py: skipped: {error} (pip install llama-cpp-python gguf)")
        return 0

    with tempfile.TemporaryDirectory() as folder:
        path = arguments.gguf or pathlib.Path(folder) / "model-f32.gguf"
        write_f32_gguf(arguments.model, path)
        peer = Peer(path, arguments.context, arguments.threads)
        perplexity = check_perplexity(arguments, peer)
        prompts = [check_prompt(arguments, peer, prompt) for prompt in PROMPTS]
    for result in prompts:
        print(
            f"text: {result['tokens']} tokens after {result['prompt']!r}: "
            f"{result.get('difference', 'equal')} {'ok' if result['ok'] else 'FAILED'}"
        )
    good = perplexity["ok"] and all(result["ok"] for result in prompts)
    if arguments.json:
        report = {
            "model": str(arguments.model),
            "peer": f"llama-cpp-python {llama_cpp.__version__}",
            "perplexity": perplexity,
            "prompts": prompts,
            "ok": good,
        }
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
