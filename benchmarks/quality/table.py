#!/usr/bin/env python3
"""Size against loss: quantises one model in many ways and measures each.

    table.py --tq build/release/src/cli/tq --model MODEL --text TEXT [--windows 128]
             [--set sizes|ablation] [--calibration FILE] [--work FOLDER] [--json FILE]

Prints a Markdown table. Finished steps are kept in the work folder, so a run that was
stopped goes on where it was.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys

SIZES = [("trellis", bits, []) for bits in (4, 3, 2.5, 2, 1.5, 1)] + [
    (method, bits, []) for method in ("gptq", "awq", "rtn") for bits in (4, 3, 2)
] + [("ternary", 1.6, [])]
ABLATION = [("trellis", 2, extra) for extra in (
    [],
    ["--ablate", "rotation"],
    ["--ablate", "hessian"],
    ["--ablate", "hessian-scales"],
    ["--fast"],
    ["--ablate", "v1"],
)]


def run(command, output):
    """Runs a tq command that writes JSON to `output`, unless it is there already."""
    if not output.exists():
        part = output.with_suffix(".part")
        subprocess.run([*command, "--json", str(part)], check=True, stdout=subprocess.DEVNULL)
        part.rename(output)
    return json.loads(output.read_text())


def measure(args, method, bits, extra):
    name = f"{method}-{bits:g}" + "".join(extra).replace("--", "-").replace("ablate", "no-")
    folder = args.work / name
    quantize = [args.tq, "quantize", args.model, "-o", str(folder), "--method", method,
                "--bits", str(bits), *extra]
    if method == "trellis":
        quantize.append("--uniform")  # tq compare measures allocated rates
    if args.calibration:
        quantize += ["--calibration", args.calibration]
    made = run(quantize, args.work / f"{name}.quantize.json")
    result = run([args.tq, "eval", str(folder), "--reference", args.model, "--text", args.text,
                  "--windows", str(args.windows)], args.work / f"{name}.eval.json")
    speed = run([args.tq, "bench", str(folder), "--prompt", "128", "--tokens", "64"],
                args.work / f"{name}.bench.json")
    return {
        "name": f"{method} {bits:g}" + (" " + " ".join(extra) if extra else ""),
        "method": method,
        "bits_per_weight": result["bits_per_weight"],
        "file_bytes": result["file_bytes"],
        "decoder_bits_per_weight": made["decoder_bits_per_weight"],
        "kl": result["kl_mean"],
        "kl_stderr": result["kl_stderr"],
        "top1": result["top1_agreement"],
        "perplexity": result["perplexity"],
        "seconds": made["seconds"],
        "peak_rss_bytes": made["peak_rss_bytes"],
        "decode": speed["decode_tokens_per_s"],
    }


def original(args):
    result = run([args.tq, "eval", args.model, "--text", args.text, "--windows",
                  str(args.windows)], args.work / "original.eval.json")
    speed = run([args.tq, "bench", args.model, "--prompt", "128", "--tokens", "16"],
                args.work / "original.bench.json")
    return {"name": "original", "bits_per_weight": result["bits_per_weight"],
            "file_bytes": result["file_bytes"], "perplexity": result["perplexity"],
            "decode": speed["decode_tokens_per_s"]}


def print_table(rows):
    print("| model | bytes | bits/weight | decoder bits | KL divergence | top-1 | perplexity "
          "| seconds | peak RSS | decode tokens/s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        if row["name"] == "original":
            loss = "| - | - | - "
            tail = "| - | - "
        else:
            loss = (f"| {row['decoder_bits_per_weight']:.3f} | {row['kl']:.4f} ± "
                    f"{row['kl_stderr']:.4f} | {100 * row['top1']:.1f} % ")
            tail = f"| {row['seconds']:.0f} | {row['peak_rss_bytes'] / 2**20:.0f} MiB "
        print(f"| {row['name']} | {row['file_bytes']} | {row['bits_per_weight']:.3f} {loss}"
              f"| {row['perplexity']:.3f} {tail}| {row['decode']:.1f} |")


def print_equal_bytes(rows):
    """Trellis' KL at each baseline's size, its logarithm interpolated between neighbours."""
    trellis = sorted((r["bits_per_weight"], math.log(r["kl"])) for r in rows
                     if r.get("method") == "trellis")
    print("\n| baseline | bits/weight | its KL | trellis at equal bytes | ratio |")
    print("|---|---|---|---|---|")
    for row in rows:
        if row.get("method", "trellis") == "trellis":
            continue
        x = row["bits_per_weight"]
        pair = next(((a, b) for a, b in zip(trellis, trellis[1:]) if a[0] <= x <= b[0]), None)
        if pair is None:
            # Outside the measured sizes: the largest is the fair, pessimistic stand-in.
            at, log_kl = trellis[-1] if x > trellis[-1][0] else trellis[0]
            note = f" (at {at:.2f})"
        else:
            (x0, y0), (x1, y1) = pair
            log_kl, note = y0 + (y1 - y0) * (x - x0) / (x1 - x0), ""
        print(f"| {row['name']} | {x:.3f} | {row['kl']:.4f} | {math.exp(log_kl):.4f}{note} "
              f"| {row['kl'] / math.exp(log_kl):.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tq", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--calibration")
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--set", choices=["sizes", "ablation"], default="sizes")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/quality"))
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    rows = [original(args)]
    for method, bits, extra in SIZES if args.set == "sizes" else ABLATION:
        print(f"{method} {bits:g} {' '.join(extra)}", file=sys.stderr)
        rows.append(measure(args, method, bits, extra))
    print_table(rows)
    if args.set == "sizes":
        print_equal_bytes(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
