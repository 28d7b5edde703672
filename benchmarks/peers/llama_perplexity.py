#!/usr/bin/env python3
"""Compares the perplexity of one GGUF file in `tq eval` and in llama.cpp's llama-perplexity.

Both cut the text into windows of --context tokens, put BOS where the first token of each stood
(if the model asks for it) and score the second half of each window. llama-perplexity begins the
text with BOS, which moves every window by one token; `tq eval` gets a user-defined token of the
vocabulary before the text instead, which BOS then replaces, so that the windows are equal. Models
that ask for BOS and have no user-defined token are refused.

    pip install gguf
    benchmarks/peers/llama_perplexity.py MODEL.gguf --tq build/release/src/cli/tq \\
        --llama-perplexity llama.cpp/build/bin/llama-perplexity --text wiki.test.txt --windows 64

llama.cpp keeps keys and values in fp16 and rounds activations to 8 bits where weights are
quantised; `tq eval` computes GGUF models in float32. --peer-arguments go to llama-perplexity
(e.g. "-fa off -ctk f32 -ctv f32"). Exits with 1 where the two differ by more than 1 %.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

from gguf import GGUFReader

MAX_DIFFERENCE = 0.01
USER_DEFINED = 4


def bos_stand_in(path):
    """The text of one token to stand where llama-perplexity adds BOS; empty if it adds none."""
    fields = GGUFReader(path).fields

    def get(key):
        field = fields.get("tokenizer.ggml." + key)
        return None if field is None else field.contents()

    # Keys that are left out mean BOS in SentencePiece's models.
    adds = get("add_bos_token")
    if not (get("model") == "llama" if adds is None else adds):
        return ""
    for token, kind in zip(get("tokens"), get("token_type")):
        # Spaces and line breaks could run together with the text's own.
        if kind == USER_DEFINED and not any(c.isspace() for c in token):
            return token
    sys.exit(f"llama_perplexity.py: {path}: BOS is added, and no user-defined token can stand for it")


def run_tq(arguments, text, folder):
    out = folder / "out.json"
    command = [arguments.tq, "eval", arguments.model, "--text", text, "--context", arguments.context]
    command += ["--windows", arguments.windows, "--threads", arguments.threads, "--json", out]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return json.loads(out.read_text())


def run_peer(arguments):
    """The perplexity after each window, and the standard error of the last."""
    command = [arguments.llama_perplexity, "-m", arguments.model, "-f", arguments.text]
    command += ["-c", arguments.context, "--chunks", arguments.windows, "-t", arguments.threads]
    command += arguments.peer_arguments.split()
    run = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    each = [float(value) for value in re.findall(r"\[\d+\]([0-9.]+),", run.stdout + run.stderr)]
    final = re.search(r"PPL = ([0-9.]+) \+/- ([0-9.]+)", run.stdout + run.stderr)
    if final is None or not each:
        sys.exit("llama_perplexity.py: llama-perplexity printed no estimate:\n" + run.stderr[-2000:])
    return len(each), float(final[1]), float(final[2])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=pathlib.Path, metavar="MODEL.gguf")
    parser.add_argument("--tq", required=True, help="the program tq")
    parser.add_argument("--llama-perplexity", required=True, help="llama.cpp's program")
    parser.add_argument("--text", required=True, type=pathlib.Path)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-arguments", default="", metavar="ARGUMENTS")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        text = folder / "text.txt"
        text.write_bytes(bos_stand_in(arguments.model).encode() + arguments.text.read_bytes())
        ours = run_tq(arguments, text, folder)
    windows, theirs, error = run_peer(arguments)
    if windows != ours["windows"]:
        sys.exit(f"llama_perplexity.py: tq ran {ours['windows']} windows, llama.cpp {windows}")
    difference = ours["perplexity"] / theirs - 1
    good = abs(difference) <= MAX_DIFFERENCE
    print(
        f"perplexity over {ours['tokens']} tokens of {windows} windows: "
        f"tq {ours['perplexity']:.4f} ± {ours['perplexity_stderr']:.4f}, llama.cpp {theirs:.4f} "
        f"± {error:.4f}: {100 * difference:+.3f} % {'ok' if good else 'FAILED'}"
    )
    if arguments.json:
        report = {"model": str(arguments.model), "context": arguments.context, "windows": windows}
        report |= {"tokens": ours["tokens"], "tq": ours["perplexity"], "llama_cpp": theirs}
        report |= {"llama_cpp_stderr": error, "relative_difference": difference, "ok": good}
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
