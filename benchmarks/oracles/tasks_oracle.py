#!/usr/bin/env python3
"""Answers to multiple-choice questions: tq eval --tasks beside lm-evaluation-harness.

tasks_oracle.py --tq PROGRAM --model DIRECTORY [--limit N] FILE...

The harness (PyPI lm_eval, with torch and transformers) encodes contexts and choices its way, runs the model
in float32 and sums log-probabilities; its rules of acc and acc_norm take the choices. Its keys and values are
not rounded to half precision as ours are, so that of questions with choices about as likely one in a hundred may be
answered otherwise. FILE: JSON lines, or HellaSwag as llama.cpp has it. DIRECTORY: of Hugging Face's kind.
"""

import argparse
import json
import pathlib
import subprocess
import sys

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


def read(path: pathlib.Path, limit: int) -> list:
    """(contexts, choices, gold) of each question, one context and one choice for each answer."""
    lines = path.read_text(encoding="utf-8").splitlines()
    questions = []
    if path.suffix == ".jsonl":
        for line in lines[:limit]:
            q = json.loads(line)
            if "query" in q:
                questions.append(([q["query"]] * len(q["choices"]), q["choices"], q["gold"]))
            else:
                contexts = q["context_options"]
                questions.append((contexts, [q["continuation"]] * len(contexts), q["gold"]))
    else:
        for i in range(0, 6 * limit, 6):
            questions.append(([lines[i]] * 4, lines[i + 2 : i + 6], int(lines[i + 1])))
    return questions


def harness(model: HFLM, questions: list) -> tuple[int, int]:
    """How many answers are right by acc, and by acc_norm."""
    pairs = []
    for contexts, choices, _ in questions:
        for context, choice in zip(contexts, choices):
            pairs.append((context, choice if context[-1].isspace() else " " + choice))
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)
    ]
    sums = iter([sum_ for sum_, _ in model.loglikelihood(requests, disable_tqdm=True)])
    right = right_norm = 0
    for _, choices, gold in questions:
        own = [next(sums) for _ in choices]
        norm = [s / len(choice) for s, choice in zip(own, choices)]
        right += own.index(max(own)) == gold
        right_norm += norm.index(max(norm)) == gold
    return right, right_norm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tq", required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE")
    args = parser.parse_args()
    tokenizer_config = json.loads((args.model / "tokenizer_config.json").read_text(encoding="utf-8"))
    model = HFLM(
        pretrained=str(args.model),
        device="cpu",
        dtype="float32",
        batch_size=1,
        add_bos_token=bool(tokenizer_config.get("add_bos_token")),
    )
    worst = 0.0
    for file in args.files:
        questions = read(file, args.limit)
        command = [args.tq, "eval", args.model, "--tasks", file, "--tasks-limit", str(args.limit), "--json", "-"]
        run = subprocess.run(command, check=True, capture_output=True)
        ours = json.loads(run.stdout)
        count = ours["questions"]
        theirs = [right / count for right in harness(model, questions)]
        for name, share in zip(("accuracy", "accuracy_norm"), theirs):
            worst = max(worst, abs(ours[name] - share))
            print(f"{file.name:32} {count} questions  {name:13} {ours[name]:.4f}, harness {share:.4f}")
    if worst > 0.01:
        print(f"the largest difference is {worst:.4f}, above 0.01", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
