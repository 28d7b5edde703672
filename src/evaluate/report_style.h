// The style sheet of the report page. No '<' and no '&': the page is also well-formed XML.
#pragma once

#include <string_view>

namespace tq {

// Colours: --c0 .. --c7 are categories. --b0 .. --b11 (amount) and --e0 .. --e11 (loss) are scales
// of equal steps in OKLCH lightness, so that order is seen without colour: in light from 0.93 to
// 0.36 and from 0.94 to 0.38, in dark from 0.36 to 0.93 and from 0.32 to 0.92; more always
// stands out more from the page. Hues: 110 to 270, 275 to 105; 90 to 15, 10 to 85 degrees.
// Print is always light.
inline constexpr std::string_view kReportStyle = R"css(
:root {
  color-scheme:light dark;
  --page:#ffffff; --card:#f5f7f9; --ink:#1b1f24; --soft:#57606a; --rule:#d8dee4; --link:#0a5cc2;
  --c0:#2f6fb7; --c1:#c75a12; --c2:#2e8b57; --c3:#8e4ec6; --c4:#c2304f; --c5:#857200;
  --c6:#1f8a94; --c7:#6b7280;
  --b0:#ebeea7; --b1:#c9e29d; --b2:#a5d698; --b3:#7fc997; --b4:#56bb99; --b5:#23ac9c;
  --b6:#01999c; --b7:#058598; --b8:#027293; --b9:#035f8f; --b10:#034992; --b11:#233285;
  --e0:#fbeabe; --e1:#f0d7a7; --e2:#e7c492; --e3:#ddb07e; --e4:#d49d6b; --e5:#ca895a;
  --e6:#bf754c; --e7:#b46140; --e8:#a84d36; --e9:#9b392f; --e10:#8e232a; --e11:#7f0327;
}
@media screen and (prefers-color-scheme:dark) {
  :root {
    --page:#14171b; --card:#1d2126; --ink:#e6e9ed; --soft:#9ba5b0; --rule:#343a42; --link:#79b8ff;
    --c0:#6fb1f5; --c1:#f2a25c; --c2:#6fcf97; --c3:#c39bf0; --c4:#f0839a; --c5:#d6c350;
    --c6:#5fd0d8; --c7:#a3abb5;
    --b0:#2e3576; --b1:#234986; --b2:#025e93; --b3:#077295; --b4:#008599; --b5:#02999c;
    --b6:#08ad9b; --b7:#47be95; --b8:#75cc8d; --b9:#a1d985; --b10:#cbe480; --b11:#f5ed81;
    --e0:#541e29; --e1:#662c31; --e2:#783a38; --e3:#8b493f; --e4:#9d5945; --e5:#af6a4c;
    --e6:#c07b53; --e7:#d08e5a; --e8:#e0a163; --e9:#efb56c; --e10:#fdc977; --e11:#fee1a4;
  }
}
* {box-sizing:border-box}
html {-webkit-text-size-adjust:100%; text-size-adjust:100%}
body {
  margin:0 auto; padding:28px 20px 48px; max-width:1000px; background:var(--page); color:var(--ink);
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;
  overflow-wrap:anywhere;
}
h1 {font-size:1.75rem; line-height:1.2; margin:0 0 4px}
h2 {font-size:1.3rem; line-height:1.25; margin:48px 0 8px; padding-top:14px; border-top:1px solid var(--rule)}
h3 {font-size:1.05rem; margin:32px 0 6px}
p {margin:6px 0 12px}
a {color:var(--link)}
code,pre {font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace; font-size:.86em}
.soft,.caption {color:var(--soft); font-size:.875rem}
p.caption {margin:12px 0 8px}
.figures {
  display:grid; grid-template-columns:repeat(2,minmax(0,1fr)); gap:10px; margin:18px 0 12px;
  padding:0;
}
@media (min-width:640px) {.figures {grid-template-columns:repeat(4,minmax(0,1fr))}}
.figures div {background:var(--card); border-radius:8px; padding:11px 13px 10px; break-inside:avoid}
.figures dt {color:var(--soft); font-size:.8125rem}
.figures dd {margin:0}
.figures .value {font-size:1.3rem; font-weight:600; line-height:1.35; font-variant-numeric:tabular-nums}
@media (max-width:900px) {.figures .small {font-size:.95rem; line-height:1.85}}
.figures .note {color:var(--soft); font-size:.8125rem; line-height:1.4}
svg {overflow:visible; display:block}
svg text {fill:var(--ink); font-size:12px; font-variant-numeric:tabular-nums}
svg text.caption {fill:var(--soft); font-size:12px}
.map {display:flex; gap:14px; margin:14px 0 6px}
.map .layers {flex:1 1 0; min-width:0}
.map .sides {flex:none}
.map rect {stroke:var(--page); stroke-width:1}
.map .dense rect {stroke:none; shape-rendering:crispEdges}
.scale {display:flex; flex-wrap:wrap; align-items:center; gap:4px 12px; margin:2px 0 8px}
.scale span {color:var(--soft); font-size:.8125rem}
.plot {padding:6px 14px 46px 60px}
.plot svg text.beside {
  font-weight:600; paint-order:stroke; stroke:var(--page); stroke-width:4px; stroke-linejoin:round
}
.grid {stroke:var(--rule); stroke-width:1}
.line {fill:none; stroke:var(--c); stroke-width:2; vector-effect:non-scaling-stroke; stroke-linejoin:round}
.dashed {stroke-dasharray:5 4}
.mark {fill:var(--c); stroke:var(--page); stroke-width:1.5}
.hollow {fill:var(--page); stroke:var(--c); stroke-width:2}
.bare {fill:transparent}
.key {list-style:none; margin:8px 0 12px; padding:0; display:flex; flex-wrap:wrap; gap:4px 22px; font-size:.875rem}
.key li {display:flex; gap:7px; align-items:flex-start}
.key svg {flex:none; margin-top:3px}
.bar {margin:12px 0}
.part {fill:var(--c)}
.bar .part {stroke:var(--page); stroke-width:1}
.free {fill:var(--card); stroke:var(--rule); stroke-width:1}
.limit {stroke:var(--ink); stroke-width:2.5}
.swatch {display:inline-block; margin-right:8px}
.scroll {overflow-x:auto; margin:8px 0 12px; overflow-wrap:normal}
.scroll.tall {max-height:480px; overflow-y:auto}
table {border-collapse:collapse; font-size:.875rem; font-variant-numeric:tabular-nums}
th,td {padding:5px 16px 5px 0; text-align:left; border-bottom:1px solid var(--rule); white-space:nowrap; vertical-align:top}
th:last-child,td:last-child {padding-right:0}
th {color:var(--soft); font-weight:500}
tbody th {color:var(--ink); font-weight:400}
.tall thead th {position:sticky; top:0; background:var(--page)}
th.n,td.n {text-align:right}
tr.chosen th,tr.chosen td {font-weight:600}
tr.sum th,tr.sum td {border-bottom:0; font-weight:600}
details {margin:6px 0 12px}
summary {cursor:pointer; color:var(--link); font-size:.875rem}
.sample {display:grid; grid-template-columns:minmax(0,1fr); gap:10px; margin:0 0 22px; break-inside:avoid}
@media (min-width:640px) {.sample {grid-template-columns:repeat(2,minmax(0,1fr))}}
.sample div {background:var(--card); border-radius:8px; padding:10px 13px}
.sample .prompt {grid-column:1/-1; background:none; padding:0}
.sample b {display:block; color:var(--soft); font-size:.8125rem; font-weight:500}
.text {white-space:pre-wrap; font-size:.9375rem}
.text mark {color:inherit; background:none; text-decoration:underline; text-decoration-color:var(--c1); text-decoration-thickness:2px; text-underline-offset:3px}
dl.facts {display:grid; grid-template-columns:minmax(88px,auto) 1fr; gap:5px 16px; margin:10px 0; font-size:.875rem}
dl.facts dt {color:var(--soft)}
dl.facts dd {margin:0; min-width:0; white-space:pre-wrap}
.c0 {--c:var(--c0)} .c1 {--c:var(--c1)} .c2 {--c:var(--c2)} .c3 {--c:var(--c3)}
.c4 {--c:var(--c4)} .c5 {--c:var(--c5)} .c6 {--c:var(--c6)} .c7 {--c:var(--c7)}
.b0 {fill:var(--b0)} .b1 {fill:var(--b1)} .b2 {fill:var(--b2)} .b3 {fill:var(--b3)}
.b4 {fill:var(--b4)} .b5 {fill:var(--b5)} .b6 {fill:var(--b6)} .b7 {fill:var(--b7)}
.b8 {fill:var(--b8)} .b9 {fill:var(--b9)} .b10 {fill:var(--b10)} .b11 {fill:var(--b11)}
.e0 {fill:var(--e0)} .e1 {fill:var(--e1)} .e2 {fill:var(--e2)} .e3 {fill:var(--e3)}
.e4 {fill:var(--e4)} .e5 {fill:var(--e5)} .e6 {fill:var(--e6)} .e7 {fill:var(--e7)}
.e8 {fill:var(--e8)} .e9 {fill:var(--e9)} .e10 {fill:var(--e10)} .e11 {fill:var(--e11)}
@media print {
  body {max-width:none; padding:0; font-size:10.5pt}
  svg {print-color-adjust:exact; -webkit-print-color-adjust:exact}
  .figures div,.sample div:not(.prompt) {border:1px solid var(--rule)}
  h2,h3 {break-after:avoid}
  .map,.plot,.bar,.scale,tr {break-inside:avoid}
  .scroll,.scroll.tall {overflow:visible; max-height:none}
  details:not([open]) {display:none}
}
)css";

}  // namespace tq
