"""The style sheet of the page of reports, light and dark, on paper too."""

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b2126; --soft: #56606a; --line: #d9dee3;
  --link: #0b57a4; --panel: #f5f6f8;
  --pass: #14662f; --pass-bg: #e2f3e7; --fail: #a31b15; --fail-bg: #fde7e5;
  --inconclusive: #734d00; --inconclusive-bg: #fdf0cf;
  --e-same: #eef1f4; --e-nan: #7a3fb0; --e0: #e0e6ec; --e1: #fdeccd; --e2: #fdd9a5; --e3: #fdbb75;
  --e4: #fb9a52; --e5: #ee7038; --e6: #d64a20; --e7: #ab2a12; --e8: #6f1009;
  --s0: #0b57a4; --s1: #b3470a; --s2: #14662f; --s3: #7a3fb0; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14181c; --ink: #e6e9ec; --soft: #a6b0b9; --line: #333b43; --link: #85bdf5;
    --panel: #1d2328;
    --pass: #7ad795; --pass-bg: #16301f; --fail: #ffa39a; --fail-bg: #431a17;
    --inconclusive: #f2c764; --inconclusive-bg: #3a2c0c;
    --e-same: #22292f; --e-nan: #b98be6; --e0: #2c353d; --e1: #46301a; --e2: #633a17; --e3: #854614;
    --e4: #ab5514; --e5: #d06c1f; --e6: #ec8c3a; --e7: #f9b56b; --e8: #fee6bd;
    --s0: #85bdf5; --s1: #f5a66b; --s2: #7ad795; --s3: #c9a2f0; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .8rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } h4 { font-size: .9rem; margin: .8rem 0 .2rem; }
a { color: var(--link); }
code { font: .9em/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; white-space: pre-wrap; }
.soft, figcaption, caption, small { color: var(--soft); font-size: .875rem; }
.vh { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
.counts { list-style: none; display: flex; flex-wrap: wrap; gap: .5rem; padding: 0; margin: 0; }
.counts li { padding: .3rem .8rem; border-radius: .4rem; border: 1px solid; }
.counts b { font-size: 1.3rem; } .counts .none { color: var(--soft); }
.pass { color: var(--pass); background: var(--pass-bg); }
.fail { color: var(--fail); background: var(--fail-bg); }
.inconclusive { color: var(--inconclusive); background: var(--inconclusive-bg); }
.facts { display: flex; flex-wrap: wrap; gap: .5rem 1.8rem; margin: 1rem 0; }
.facts dt { color: var(--soft); font-size: .8rem; } .facts dd { margin: 0; }
.scroll { overflow: auto; max-width: 100%; position: relative; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal; }
caption { text-align: left; padding: 0 0 .4rem; caption-side: top; }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 400; }
section > .scroll tbody th { position: sticky; left: 0; background: var(--paper); z-index: 1;
  min-width: 8rem; max-width: 20rem; overflow-wrap: anywhere; }
th small { display: block; }
.up { padding: .3rem 0; text-align: center; }
.up span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; }
.c { text-align: center; min-width: 1.9rem; padding: .3rem 0; font-weight: 700;
  border-left: 1px solid var(--line); }
.c.skipped { color: var(--soft); } .c a { color: inherit; display: block; }
.o { white-space: nowrap; font-weight: 600; }
.num { text-align: right; white-space: nowrap; }
.plain th, .plain td { overflow-wrap: anywhere; }
.function { color: inherit; background: none; border-top: 1px solid var(--line); padding: .6rem 0; }
.function:not(.function + .function) { margin-top: 2rem; }
.function > summary { cursor: pointer; } .function > summary h2 { display: inline; }
.inside { scroll-margin-top: 4rem; padding: 0 0 1rem; }
.badge { border-radius: .3rem; padding: .1rem .5rem; font-size: .875rem; font-weight: 600;
  white-space: nowrap; border: 1px solid; }
.finding { color: inherit; background: var(--panel); border-left: .3rem solid; padding: .1rem 1rem
  .8rem; margin: 1rem 0; border-radius: 0 .4rem .4rem 0; }
.finding.fail { border-color: var(--fail); } .finding.inconclusive { border-color:
  var(--inconclusive); }
.finding h3 { margin: .7rem 0 .4rem; }
.finding.fail h3 { color: var(--fail); } .finding.inconclusive h3 { color: var(--inconclusive); }
.finding h3 code { color: var(--ink); font-weight: 400; }
.looks { margin: .3rem 0 .6rem; font-size: 1.05rem; }
.lines { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .4rem 0; }
.lines dt { color: var(--soft); grid-column: 1; } .lines dd { margin: 0; grid-column: 2; }
.lines dt.vh + dd { grid-column: 1 / -1; }
figure { margin: 1rem 0; } svg { display: block; }
.map, .plot { max-width: 100%; height: auto; }
.legend { list-style: none; padding: 0; margin: .4rem 0; display: flex; flex-wrap: wrap;
  gap: .1rem 1rem; font-size: .875rem; color: var(--ink); }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem;
  border: 1px solid var(--line); }
.key.long { width: 1.8rem; border: 0; }
.e-same { fill: var(--e-same); } .e-nan { fill: var(--e-nan); }
.e-0 { fill: var(--e0); } .e-1 { fill: var(--e1); } .e-2 { fill: var(--e2); }
.e-3 { fill: var(--e3); } .e-4 { fill: var(--e4); } .e-5 { fill: var(--e5); }
.e-6 { fill: var(--e6); } .e-7 { fill: var(--e7); } .e-8 { fill: var(--e8); }
.cross { stroke: var(--paper); fill: none; }
.lattice { stroke: var(--panel); fill: none; }
.edge { stroke: var(--soft); fill: none; }
.halo { fill: none; stroke: var(--paper); stroke-width: 4; }
.frame { fill: none; stroke: var(--ink); stroke-width: 2; }
.curves { display: flex; flex-wrap: wrap; gap: 0 2rem; } .curves > div { min-width: 0; }
.plot text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); } .guide { stroke: var(--soft); stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 2; } .mark { stroke: var(--paper); }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); stroke-dasharray: 8 3; }
.line.s2 { stroke: var(--s2); stroke-dasharray: 2 3; } .line.s3 { stroke: var(--s3); }
.mark.s0 { fill: var(--s0); } .mark.s1 { fill: var(--s1); } .mark.s2 { fill: var(--s2); }
.mark.s3 { fill: var(--s3); }
.bar { width: 10rem; height: .7rem; margin-top: .35rem; } .rail { stroke: var(--line); }
.power { fill: var(--s0); } .power.weak { fill: var(--inconclusive); }
.more summary { cursor: pointer; color: var(--soft); }
ul { padding-left: 1.2rem; margin: .3rem 0; }
@media (max-width: 40rem) {
  body { padding: 1rem 1rem 3rem; } h1 { font-size: 1.3rem; }
  .facts { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem 1rem; }
  .facts > :first-child { grid-column: 1 / -1; }
  section > .scroll tbody th { min-width: 9rem; max-width: 9rem; }
  .o { text-align: center; } .o span { position: absolute; clip-path: inset(50%); width: 1px; }
  .finding { padding: .1rem .7rem .7rem; } .bar { width: 6rem; }
  .lines { grid-template-columns: 1fr; gap: 0; } .lines dd { grid-column: 1; margin: 0 0 .4rem; }
}
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { padding: 0; max-width: none; font-size: 10pt; }
  .scroll { overflow: visible; } table { font-size: 8.5pt; }
  section > .scroll tbody th { position: static; }
  .finding, tr, figure { break-inside: avoid; } summary, h2, h3 { break-after: avoid; }
  a { color: inherit; text-decoration: none; }
}
"""
