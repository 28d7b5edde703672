#!/usr/bin/env python3
"""Enforces the include arrows: a folder of src/ may include only itself and what the
arrows below reach. Also that nothing in include/ needs src/, and file lengths."""

import pathlib
import re
import sys

# folder -> folders it may include; what those may include is included too.
ARROWS = {
    "base": [],
    "tensor": ["base"],
    "device": ["tensor"],
    "kernels": ["base"],
    "codec": ["device", "kernels"],
    "checkpoint": ["codec"],
    "tokenizer": ["checkpoint"],
    "model": ["codec", "checkpoint", "tokenizer"],
    "evaluate": ["model"],
    "compress": ["evaluate"],
    "generate": ["model"],
    "export": ["tokenizer"],
    "api": ["compress", "generate", "evaluate"],
    "cli": ["compress", "generate", "export", "evaluate"],
}
MAX_LINES = 600

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def reachable(folder: str) -> set[str]:
    found, todo = {folder}, [folder]
    while todo:
        for target in ARROWS[todo.pop()]:
            if target not in found:
                found.add(target)
                todo.append(target)
    return found


def main() -> int:
    root = pathlib.Path(__file__).resolve().parent.parent
    errors = []
    files = sorted(p for p in (root / "src").rglob("*") if p.suffix in (".h", ".cc", ".cu", ".cuh"))
    if not files:
        errors.append("src: no sources found")
    for path in files:
        name = path.relative_to(root).as_posix()
        folder = path.relative_to(root / "src").parts[0]
        if folder not in ARROWS:
            errors.append(f"{name}: folder {folder} has no arrows in tools/check_includes.py")
            continue
        text = path.read_text(encoding="utf-8")
        allowed = reachable(folder)
        for include in INCLUDE.findall(text):
            target = include.split("/")[0]
            if target == "turboquant":
                if folder not in ("api", "cli"):
                    errors.append(f"{name}: only src/api implements {include}")
            elif include.startswith("../../tests/support/") and path.name.endswith("_test.cc"):
                continue  # helpers of tests may be used by tests, from anywhere
            elif target not in ARROWS or not (root / "src" / include).exists():
                errors.append(f"{name}: {include} is not found from src/")
            elif target not in allowed:
                errors.append(f"{name}: {folder} may not include {include}")
        lines = text.count("\n")
        if lines > MAX_LINES:
            errors.append(f"{name}: {lines} lines, the limit is {MAX_LINES}")
    for path in sorted((root / "include").rglob("*.h")):
        name = path.relative_to(root).as_posix()
        for include in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if not include.startswith("turboquant/"):
                errors.append(f"{name}: a public header may not include {include}")
    for error in errors:
        print(error, file=sys.stderr)
    print(f"{len(files)} files, {len(errors)} errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
