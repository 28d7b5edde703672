#!/usr/bin/env bash
# Compares readers, exported files, tokenizers, chat templates and answers to questions with the reference
# implementations from PyPI, on the demo's model and on the texts of TQ_DATA_DIR: tools/check_oracles.sh BUILD_FOLDER
set -euo pipefail

source=$(realpath "$(dirname "$0")/..")
build=$(realpath "$1")
venv=$source/build/oracles
[[ -x $venv/bin/python ]] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check \
  tokenizers sentencepiece protobuf gguf numpy jinja2

echo "block types of GGUF: the golden file is what PyPI gguf writes"
"$venv/bin/python" "$source/benchmarks/oracles/gguf_blocks.py" "$venv/blocks.gguf"
cmp "$venv/blocks.gguf" "$source/tests/golden/gguf/blocks.gguf"
"$venv/bin/python" "$source/benchmarks/oracles/gguf_oracle.py" \
  --decode "$build/src/checkpoint/tq_decode_gguf"

echo "forward passes: the golden logits are what PyPI transformers computes"
torch_venv=$source/build/oracles_torch
if [[ ! -x $torch_venv/bin/python ]]; then
  python3 -m venv "$torch_venv"
fi
"$torch_venv/bin/pip" install --quiet --disable-pip-version-check \
  torch transformers safetensors accelerate
"$torch_venv/bin/python" "$source/benchmarks/oracles/forward_oracle.py" \
  "$source/tests/golden/forward" --check

echo "chat templates: ours and random expressions, as PyPI jinja2 renders them"
"$venv/bin/python" "$source/benchmarks/oracles/chat_template_oracle.py" \
  --render "$build/src/tokenizer/tq_render_chat"

models=()
[[ -f $source/build/demo/model.gguf ]] && models+=("$source/build/demo/model.gguf")
if [[ -n ${TQ_DATA_DIR:-} && -d $TQ_DATA_DIR/models/llama-30m ]]; then
  models+=("$TQ_DATA_DIR/models/llama-30m")
fi
echo "exported GGUF files: PyPI gguf reads the same model, of every architecture"
"$venv/bin/python" "$source/benchmarks/oracles/export_oracle.py" --tq "$build/src/cli/tq" \
  --small "$source/tests/golden/forward" "${models[@]}"
echo "exported GPTQ and AWQ directories: the same weights by a decoder of the layouts' description"
"$venv/bin/python" "$source/benchmarks/oracles/exchange_oracle.py" --tq "$build/src/cli/tq"
if [[ -z ${TQ_DATA_DIR:-} ]]; then
  echo "SKIPPED: the oracles of tokenizers and of questions need TQ_DATA_DIR"
  exit 0
fi
if [[ -d $TQ_DATA_DIR/models/llama-30m ]]; then
  echo "answers to questions: as many are right as by PyPI lm_eval"
  "$torch_venv/bin/pip" install --quiet --disable-pip-version-check "lm_eval[hf]"
  "$torch_venv/bin/python" "$source/benchmarks/oracles/tasks_oracle.py" --tq "$build/src/cli/tq" \
    --model "$TQ_DATA_DIR/models/llama-30m" "$TQ_DATA_DIR"/tasks/*
fi
made=$venv/tokenizers
# TQ_WHEELS: a folder of wheels with vocabularies of real models (make_tokenizers.py names them).
"$venv/bin/python" "$source/benchmarks/oracles/make_tokenizers.py" "$made" \
  ${TQ_WHEELS:+--wheels "$TQ_WHEELS"}
models+=("$made"/*)
"$venv/bin/python" "$source/benchmarks/oracles/tokenizer_oracle.py" \
  --tokenize "$build/src/tokenizer/tq_tokenize" "${models[@]}"

echo "exported tokenizers: the same ids as from the model"
folders=()
for path in "$made"/*; do
  if [[ -d $path ]]; then folders+=("$path"); fi
done
"$venv/bin/python" "$source/benchmarks/oracles/export_tokenizer_oracle.py" --tq "$build/src/cli/tq" \
  --tokenize "$build/src/tokenizer/tq_tokenize" "${folders[@]}"
