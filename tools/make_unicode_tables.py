#!/usr/bin/env python3
"""Writes src/tokenizer/unicode_tables.cc from Python's Unicode database.

    python3.11 tools/make_unicode_tables.py > src/tokenizer/unicode_tables.cc

Python 3.11 has Unicode 14, as Debian 12's PCRE2 has, whose classes of characters the
pre-tokenisers use.
"""

import sys
import unicodedata

HANGUL = range(0xAC00, 0xD7A4)
WIDTH = 100


def decompositions():
    """(code point, first, second, composes); canonical ones have no "<tag>"."""
    for code in range(0x110000):
        mapping = unicodedata.decomposition(chr(code))
        if not mapping or mapping.startswith("<") or code in HANGUL:
            continue
        parts = [int(part, 16) for part in mapping.split()]
        composes = len(parts) == 2 and unicodedata.normalize("NFC", chr(code)) == chr(code)
        yield code, parts[0], parts[1] if len(parts) == 2 else 0, composes


def combining_classes():
    """(first, last, class) of the largest ranges of one class that is not 0."""
    begin, last = 0, 0
    for code in range(1, 0x110001):
        value = unicodedata.combining(chr(code)) if code < 0x110000 else -1
        if value != last:
            if last > 0:
                yield begin, code - 1, last
            begin, last = code, value


def table(kind, name, entries):
    print(f"constexpr {kind} {name}[] = {{")
    line = "    "
    for entry in entries:
        text = "{" + ",".join(str(int(number)) for number in entry) + "},"
        if len(line) + len(text) > WIDTH:
            print(line)
            line = "    "
        line += text
    print(line + "\n};\n")


def main():
    version = unicodedata.unidata_version
    if version != "14.0.0":
        sys.exit(f"make_unicode_tables.py: this Python has Unicode {version}, want 14.0.0")
    print("// Written by tools/make_unicode_tables.py.\n// clang-format off")
    print('#include "tokenizer/unicode_tables.h"\n\nnamespace tq {\nnamespace {\n')
    table("CanonicalDecomposition", "kDecompositions", decompositions())
    table("CombiningClassRange", "kClasses", combining_classes())
    print("}  // namespace\n")
    print("const std::span<const CanonicalDecomposition> kCanonicalDecompositions = kDecompositions;")
    print("const std::span<const CombiningClassRange> kCombiningClasses = kClasses;\n")
    print("}  // namespace tq")


if __name__ == "__main__":
    main()
