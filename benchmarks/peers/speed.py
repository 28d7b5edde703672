#!/usr/bin/env python3
"""Whole-model speed beside llama.cpp (and ik_llama.cpp): the same weights, the same threads.

    speed.py --model DIRECTORY --tq build/release/src/cli/tq --llama llama.cpp/build/bin
             [--ik ik_llama.cpp/build/bin] [--bits 4,2,1] [--packed DIRECTORY]
             [--types Q4_0,Q2_K,IQ2_XXS]
             [--ik-types Q2_K_R4,IQ2_KT] [--threads N] [--rounds 3] [--prompt 512] [--tokens 128]
             --work FOLDER [--json FILE]

DIRECTORY is a Hugging Face directory of a llama model. It is written as a float32 GGUF by PyPI
`gguf`, quantised by each program, and each result is run in turn, round by round, so that a
change of the machine's clock hits all. An empty entry of --bits is the model as it is; --packed
adds directories of ours that are there already, codes of the full search say. The table shows the median over the rounds, and for peers
the median of our speed over theirs in the same round. The types that a file really holds are
printed, by bytes: quantisers fall back where rows do not divide into blocks.

Finished files are kept in the work folder, with what the quantisers said of each tensor. Needs
`pip install gguf`.
"""

import argparse
import collections
import json
import pathlib
import re
import statistics
import subprocess
import sys


def run(*command, capture=False):
    result = subprocess.run([str(c) for c in command], check=True, text=True,
                            stdout=subprocess.PIPE if capture else subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
    return result.stdout


def run_logged(*command):
    return subprocess.run([str(c) for c in command], check=True, text=True, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def make(path, *command):
    """Runs a command whose last argument names its output, unless `path` is there."""
    if not path.exists():
        part = path.with_name(path.name + ".part")
        run(*command, part)
        part.rename(path)
    return path


class Peer:
    """A model quantised for llama.cpp or a fork of it."""

    def __init__(self, args, program, folder, kind):
        self.name = f"{program} {kind}"
        self.bench_program = folder / "llama-bench"
        self.file = args.work / f"{program}-{kind}.gguf"
        log = self.file.with_suffix(".log")
        if not (self.file.exists() and log.exists()):
            part = self.file.with_name(self.file.name + ".part")
            log.write_text(run_logged(folder / "llama-quantize", "--imatrix",
                                      importance(args, program, folder), args.work / "f32.gguf",
                                      part, kind, args.threads))
            part.rename(self.file)
        self.bytes = self.file.stat().st_size
        self.types = types_in(log.read_text())

    def bench(self, args):
        out = json.loads(run(self.bench_program, "-m", self.file, "-t", args.threads, "-p",
                             args.prompt, "-n", args.tokens, "-r", 2, "-o", "json", capture=True))
        speed = {bool(row["n_gen"]): row["avg_ts"] for row in out}
        return speed[False], speed[True]


class Ours:
    def __init__(self, args, bits):
        self.name = f"tq --bits {bits}" if bits else "tq, unquantised"
        self.tq = args.tq
        self.file = args.work / f"tq-{bits}" if bits else args.model
        if bits and not self.file.exists():
            # Speed does not depend on the calibration: little of it.
            run(args.tq, "quantize", args.model, "-o", self.file, "--bits", bits, "--uniform",
                "--fast", "--calibration-tokens", 2048)
        self.inspect()

    def inspect(self):
        info = json.loads(run(self.tq, "inspect", self.file, "--json", "-", capture=True))
        self.bytes = info["file_bytes"]
        self.types = ""

    def bench(self, args):
        # As llama-bench does, tokens are decoded after an empty context: a prompt of one.
        out = json.loads(run(self.tq, "bench", self.file, "--threads", args.threads, "--prompt",
                             f"1,{args.prompt}", "--tokens", args.tokens, "--repeat", 2, "--json",
                             "-", capture=True))
        speed = {(row["test"], row["prompt_tokens"]): row["tokens_per_s"]
                 for row in out["measurements"]}
        return speed["prompt", args.prompt], speed["decode", 1]


class Packed(Ours):
    """A TurboQuant directory that is there already."""

    def __init__(self, args, folder):
        self.name = f"tq, {folder.name}"
        self.tq = args.tq
        self.file = folder
        self.inspect()


def importance(args, program, folder):
    """The programs refuse types below 3 bits without an importance matrix; speed ignores it."""
    text = args.work / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 2000)
    return make(args.work / f"{program}-importance.dat", folder / "llama-imatrix", "-m",
                args.work / "f32.gguf", "-f", text, "-t", args.threads, "-c", 128, "--chunks", 2,
                "-o")


def types_in(log):
    """Types of a file by bytes, from what llama-quantize printed of each tensor."""
    total = collections.Counter()
    for kind, mebibytes in re.findall(r"converting to (\w+) .*?-> *([\d.]+) Mi?B", log, re.S):
        total[kind] += float(mebibytes)
    for kind, mebibytes in re.findall(r"type = *(\w+), size = *([\d.]+) Mi?B", log):
        total[kind] += float(mebibytes)
    whole = sum(total.values())
    return ", ".join(f"{kind} {100 * n / whole:.0f} %" for kind, n in total.most_common())


def check_rows(model):
    """Types of blocks of 256 need rows of whole blocks, or quantisers take others instead."""
    config = json.loads((model / "config.json").read_text())
    for field in ("hidden_size", "intermediate_size"):
        if config[field] % 256 != 0:
            sys.exit(f"{model}: {field} {config[field]} is not divisible by 256")


def measure(args, models):
    rounds = []
    for i in range(args.rounds):
        rounds.append([model.bench(args) for model in models])
        print(f"round {i + 1} of {args.rounds}", file=sys.stderr)
    return rounds


def print_table(args, models, rounds):
    ours = [i for i, model in enumerate(models) if isinstance(model, Ours)]
    print(f"Prompt of {args.prompt} tokens; {args.tokens} tokens one by one from the start; "
          f"{args.threads} threads, medians of {args.rounds} interleaved rounds\n")
    titles = "".join(f"{models[i].name}: prompt, decode | " for i in ours)
    print(f"| model | bytes | prompt tokens/s | decode tokens/s | {titles}types by bytes |")
    print("|---" * (5 + len(ours)) + "|")
    for j, model in enumerate(models):
        median = [statistics.median(r[j][k] for r in rounds) for k in (0, 1)]
        ratios = ""
        for i in ours:
            ratio = [statistics.median(r[i][k] / r[j][k] for r in rounds) for k in (0, 1)]
            ratios += f"{ratio[0]:.2f}, {ratio[1]:.2f} | " if i != j else "| "
        print(f"| {model.name} | {model.bytes} | {median[0]:.1f} | {median[1]:.2f} | {ratios}"
              f"{model.types} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--tq", required=True, type=pathlib.Path)
    parser.add_argument("--llama", required=True, type=pathlib.Path)
    parser.add_argument("--ik", type=pathlib.Path)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--bits", default="2")
    parser.add_argument("--packed", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--types", default="F16,Q4_0,Q2_K,IQ2_XXS")
    parser.add_argument("--ik-types", default="Q2_K_R4,IQ2_KT,IQ2_XXS_R4")
    parser.add_argument("--threads", default=2, type=int)
    parser.add_argument("--rounds", default=3, type=int)
    parser.add_argument("--prompt", default=512, type=int)
    parser.add_argument("--tokens", default=128, type=int)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    check_rows(args.model)
    args.work.mkdir(parents=True, exist_ok=True)

    if not (args.work / "f32.gguf").exists():
        from f32_gguf import write_f32_gguf

        write_f32_gguf(args.model, args.work / "f32.gguf.part")
        (args.work / "f32.gguf.part").rename(args.work / "f32.gguf")
    models = [Packed(args, folder) for folder in args.packed]
    models += [Ours(args, bits) for bits in args.bits.split(",")]
    models += [Peer(args, "llama.cpp", args.llama, kind) for kind in args.types.split(",")]
    if args.ik:
        models += [Peer(args, "ik_llama.cpp", args.ik, kind) for kind in args.ik_types.split(",")]
    rounds = measure(args, models)
    print_table(args, models, rounds)
    if args.json:
        args.json.write_text(json.dumps(
            [{"model": m.name, "bytes": m.bytes, "types": m.types,
              "prompt_tokens_per_s": [r[j][0] for r in rounds],
              "decode_tokens_per_s": [r[j][1] for r in rounds]}
             for j, m in enumerate(models)], indent=1))


if __name__ == "__main__":
    main()
