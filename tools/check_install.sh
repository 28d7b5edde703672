#!/usr/bin/env bash
# Installs a build into a scratch prefix and builds the example against the installed
# package, with nothing of the source tree in reach: tools/check_install.sh BUILD_FOLDER
set -euo pipefail

source=$(realpath "$(dirname "$0")/..")
build=$(realpath "$1")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cmake --install "$build" --prefix "$scratch/prefix" >/dev/null
cp -r "$source/examples/generate" "$scratch/example"
cmake -S "$scratch/example" -B "$scratch/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_PREFIX_PATH="$scratch/prefix" >/dev/null
cmake --build "$scratch/build"
"$scratch/prefix/bin/tq" --version
# Without arguments the example explains itself and fails.
if "$scratch/build/generate_example" 2>/dev/null; then
  echo "the example took no model for a model" >&2
  exit 1
fi
echo "installed package works"
