#!/usr/bin/env bash
# Opens sample reports in headless Chromium, in light and dark, on a wide screen and a phone, and
# prints them: tools/check_report.sh BUILD_FOLDER. Fails on any message of the browser's console,
# on markup that was not read whole, and on a page wider than a phone. What it saw is left in
# build/report/*.png and *.pdf.
set -euo pipefail

source=$(realpath "$(dirname "$0")/..")
build=$(realpath "$1")
out=$source/build/report
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
rm -rf "$out"
mkdir -p "$out"

fail() {
  echo "check_report: $*" >&2
  exit 1
}

# browse ARGUMENT...: what it prints; the log must be free of console messages.
browse() {
  local log=$profile/log
  timeout 120 chromium --headless --no-sandbox --disable-gpu --hide-scrollbars \
    --user-data-dir="$profile/data" --enable-logging=stderr "$@" 2>"$log" ||
    { tail -n 20 "$log" >&2; fail "chromium failed: $*"; }
  if grep 'CONSOLE' "$log" >&2; then fail "console messages: $*"; fi
}

# size PAGE WIDTH: the width that its content takes in a window of that width with all tables
# unfolded, and the height with them folded.
size() {
  cat >"$profile/frame.html" <<HTML
<!DOCTYPE html><title>frame</title>
<iframe src="file://$out/$1.html" style="width:$2px;height:800px;border:0"
  onload="const e = contentDocument.documentElement;
          const height = e.scrollHeight;
          for (const d of contentDocument.querySelectorAll('details')) d.open = true;
          document.title = 'size ' + e.scrollWidth + ' ' + height;"></iframe>
HTML
  browse --allow-file-access-from-files --dump-dom "file://$profile/frame.html" |
    sed -nE 's/.*<title>size ([0-9]+) ([0-9]+)<\/title>.*/\1 \2/p'
}

"$build/tools/sample_report" "$out"
for page in "$out"/*.html; do
  name=$(basename "$page" .html)
  browse --dump-dom "file://$page" >"$profile/dom.html"
  for tag in svg rect title table tr div; do
    wrote=$(grep -o "<$tag[ >]" "$page" | wc -l)
    read_back=$(grep -o "<$tag[ >]" "$profile/dom.html" | wc -l)
    ((wrote == read_back)) || fail "$name: $wrote <$tag> were written, $read_back read"
  done
  grep -q 'How it was made' "$profile/dom.html" || fail "$name: the end was not read"
  for width in 360 390 1280; do
    read -r needed height <<<"$(size "$name" "$width")"
    [[ -n ${height:-} ]] || fail "$name: no size at $width pixels"
    ((needed <= width)) || fail "$name: $needed pixels wide in a window of $width"
    ((width > 360)) || continue
    for scheme in dark light; do  # Blink counts them so, from 0
      preferred=$([[ $scheme == dark ]] && echo 0 || echo 1)
      browse --blink-settings=preferredColorScheme="$preferred" \
        --window-size="$width,$((height < 12000 ? height : 12000))" \
        --screenshot="$out/$name-$scheme-$width.png" "file://$page"
    done
  done
  browse --no-pdf-header-footer --print-to-pdf="$out/$name.pdf" "file://$page"
  [[ -s $out/$name.pdf ]] || fail "$name: was not printed"
  echo "$name: sound at 360, 390 and 1280 pixels and in print"
done
# A dark page that looks like the light one was not seen in dark.
if cmp -s "$out/quantize-dark-390.png" "$out/quantize-light-390.png"; then
  fail "dark and light look the same"
fi
