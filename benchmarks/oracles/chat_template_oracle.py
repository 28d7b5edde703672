#!/usr/bin/env python3
"""Compares our chat templates with Jinja, set up as Hugging Face's `transformers` does it.

    pip install jinja2
    benchmarks/oracles/chat_template_oracle.py            # tests/golden/chat/expected.json is right
    benchmarks/oracles/chat_template_oracle.py --write    # makes it anew
    ninja -C build/release tq_render_chat
    ... --render build/release/src/tokenizer/tq_render_chat [--templates FOLDER]

With --render our program renders the same templates, random expressions and, given --templates,
all *.jinja of a folder with every conversation. Both must write the same bytes, or both must
fail; what we refuse and Jinja runs is counted, and an error for our own templates. In the folder's
templates we may run what Jinja does not: filters that give generators give lists here, which have
a length and a form in JSON. Exits with 1 at a difference.
"""

import argparse
import collections
import datetime
import functools
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import warnings

import jinja2
import jinja2.ext
import jinja2.sandbox

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "chat"
NOW = datetime.datetime(2024, 7, 26, 13, 5, 9)


class Generation(jinja2.ext.Extension):
    """{% generation %}: what the assistant says; marked in training, plain text here."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_write")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _write(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


@functools.lru_cache
def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


@functools.lru_cache(maxsize=64)
def compiled(source):
    """The template, or None when Jinja cannot read it."""
    try:
        return environment().from_string(source)
    except Exception:  # of Python's, too, when it compiles what Jinja has made
        return None


def jinja(source, inputs):
    """The text, or None when it fails."""
    variables = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
    variables.update(json.loads(json.dumps(inputs)))
    template = compiled(source)
    try:
        return None if template is None else template.render(**variables)
    except Exception:  # templates fail with any of Python's
        return None


def ours(program, jobs):
    """A list of {"text": ...} or {"error": ...}."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "jobs.json").write_text(json.dumps(jobs, ensure_ascii=False))
        subprocess.run([program, path / "jobs.json", path / "out.json"], check=True)
        return json.loads((path / "out.json").read_text())


def corpus():
    conversations = json.loads((GOLDEN / "conversations.json").read_text())
    templates = {p.stem: p.read_bytes().decode() for p in sorted(GOLDEN.glob("*.jinja"))}
    return templates, conversations


class Expressions:
    """Random expressions, most of which can be computed."""

    TEXTS = ["", "a", "Ab c", " x ", "<b>", "é€", "a,b,,c", "it's", "12", "-3.5", "n\nl"]
    FILTERS = [
        "trim", "upper", "lower", "length", "list", "first", "last", "string", "int", "float",
        "tojson", "title", "capitalize", "reverse | list", "sort | list", "join", "join('-')",
        "default('d')", "default('d', true)", "abs", "items | list", "replace('a', 'bb')",
        "map('string') | list", "select('string') | list", "unique | list", "indent(2)",
    ]  # fmt: skip
    TESTS = [
        "defined", "none", "string", "mapping", "iterable", "number", "true", "odd", "integer",
        "in ['a', 1]", "eq 1", "sequence", "boolean", "float", "divisibleby 2", "ne 'a'",
    ]  # fmt: skip
    METHODS = [
        "strip()", "split(',')", "split()", "upper()", "startswith('a')", "find('b')", "title()",
        "replace('a', 'c')", "items() | list", "get('k')", "splitlines()", "lstrip('a ')",
        "rsplit(',', 1)", "isdigit()", "count('a')",
    ]  # fmt: skip

    def __init__(self, seed):
        self.rng = random.Random(seed)

    def atom(self):
        choices = [
            lambda: str(self.rng.randint(-9, 99)),
            lambda: self.rng.choice(["0.5", "2.0", "1e3", "1e-7", "true", "false", "none", "gone"]),
            lambda: json.dumps(self.rng.choice(self.TEXTS), ensure_ascii=False),
            lambda: "[" + ", ".join(self.atom() for _ in range(self.rng.randint(0, 3))) + "]",
            lambda: "{'k': " + self.atom() + "}",
            lambda: "(" + self.atom() + ", " + self.atom() + ")",
        ]
        return self.rng.choice(choices)()

    def expression(self, depth=3):
        if depth == 0 or self.rng.random() < 0.15:
            return self.atom()
        a, b = self.expression(depth - 1), self.expression(depth - 1)
        bound = lambda: self.rng.choice(["", "", str(self.rng.randint(-4, 4))])
        choices = [
            lambda: f"({a} | {self.rng.choice(self.FILTERS)})",
            lambda: f"({a} is {self.rng.choice(['', 'not '])}{self.rng.choice(self.TESTS)})",
            lambda: f"({a}).{self.rng.choice(self.METHODS)}",
            lambda: f"({a} {self.rng.choice(['+', '-', '*', '/', '//', '%'])} {b})",
            lambda: f"({a} {self.rng.choice(['==', '!=', '<', '<=', '>', 'in', 'not in'])} {b})",
            lambda: f"({a} {self.rng.choice(['and', 'or', '~'])} {b})",
            lambda: f"({a} if {b} else {self.atom()})",
            lambda: f"(not {a})",
            lambda: f"({a})[{bound()}:{bound()}:{self.rng.choice(['', '', '2', '-1'])}]",
            lambda: f"({a})[{self.rng.randint(-3, 3)}]",
        ]
        return self.rng.choice(choices)()


def compare(program, jobs, names, lenient=False):
    """Returns (equal, refused {reason: count}); prints and exits at a difference. `lenient`: what
    Jinja fails at does not count as one."""
    equal, refused = 0, collections.Counter()
    for name, job, got in zip(names, jobs, ours(program, jobs)):
        want = jinja(job["template"], job["inputs"])
        if got.get("text") == want or (lenient and want is None):
            equal += 1
        elif "text" not in got:
            refused[got["error"]] += 1
        else:
            print(f"{name} differs")
            print("  jinja", repr(want))
            print("  ours ", repr(got["text"]))
            sys.exit(1)
    return equal, refused


def check_folder(program, folder, conversations):
    """Real templates: how many are equal for all conversations, and why others are refused."""
    same, refused = [], {}
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_bytes().decode()
        jobs = [{"template": source, "inputs": inputs} for inputs in conversations.values()]
        names = [f"{path.name}, {c}" for c in conversations]
        equal, reasons = compare(program, jobs, names, lenient=True)
        if reasons:
            refused[path.name] = (equal, reasons)
        else:
            same.append(path.name)
    print(f"{len(same)} templates of {folder}: equal for all {len(conversations)} conversations")
    for name, (equal, reasons) in refused.items():
        print(f"  {name}: {equal} equal, refused: {dict(reasons)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="make expected.json anew")
    parser.add_argument("--render", help="the program tq_render_chat")
    parser.add_argument("--templates", type=pathlib.Path, help="a folder of more templates")
    parser.add_argument("--expressions", type=int, default=3000, help="random ones")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", SyntaxWarning)  # of what random expressions become
    templates, conversations = corpus()
    expected = {
        name: {key: jinja(source, inputs) for key, inputs in conversations.items()}
        for name, source in templates.items()
    }
    text = json.dumps(expected, ensure_ascii=False, indent=1) + "\n"
    file = GOLDEN / "expected.json"
    if arguments.write:
        file.write_text(text)
    elif file.read_text() != text:
        sys.exit(f"{file}: jinja {jinja2.__version__} writes something else")
    print(f"{len(templates)} templates, {len(conversations)} conversations: as expected")
    if not arguments.render:
        return
    jobs = [
        {"template": source, "inputs": inputs}
        for source in templates.values()
        for inputs in conversations.values()
    ]
    names = [f"{name}, {key}" for name in templates for key in conversations]
    equal, refused = compare(arguments.render, jobs, names)
    if refused:
        sys.exit(f"refused: {dict(refused)}")
    print(f"{equal} renderings equal")
    generator = Expressions(20240726)
    sources = [f"{{{{ {generator.expression()} }}}}" for _ in range(arguments.expressions)]
    jobs = [{"template": source, "inputs": {"messages": []}} for source in sources]
    equal, refused = compare(arguments.render, jobs, sources)
    print(f"{equal} random expressions equal, {sum(refused.values())} refused")
    for reason, count in refused.most_common(8):
        print(f"  {count} x {reason}")
    if sum(refused.values()) * 5 > len(sources):
        sys.exit("too many are refused")
    if arguments.templates:
        check_folder(arguments.render, arguments.templates, conversations)


if __name__ == "__main__":
    main()
