"""The page of a report: HTML in one file, which loads nothing else."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from detector.escaping import escape_line
from detector.evaluating.report.content import Content
from detector.evaluating.report.sections import Section, summary
from detector.plots.svg import STYLE
from detector.version import VERSION

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: only what it contains. It has no scripts."""

_PAGE_STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5a636d; --rule: #dfe3e8; --paper: #fff; --panel: #f5f7f9;
  --link: #00598c; --tp: #0072b2; --fp: #c94f00; --fn: #8a6100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a4adb8; --rule: #39414a; --paper: #15191d;
  --panel: #1e242a; --link: #7cc4f0; --tp: #56b4e9; --fp: #ff9047; --fn: #f0d94a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main, header, footer { max-width: 1040px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 32px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 48px 0 8px; padding-top: 16px; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 16px 0 4px; }
p { margin: 8px 0; max-width: 75ch; }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
nav { font-size: .9rem; margin: 20px 0 0; line-height: 1.9; }
nav a { margin-right: 14px; white-space: nowrap; }
small, .soft, footer, figcaption, caption { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
.cards div { background: var(--panel); border-radius: 8px; padding: 12px 16px; }
.cards dt { font-weight: 600; }
.cards dd { margin: 0; font-variant-numeric: tabular-nums; }
.cards b { display: block; font-size: 1.9rem; line-height: 1.2; }
.cards span, .cards i { display: block; color: var(--soft); font-size: .85rem; font-style: normal; }
.scroll { overflow-x: auto; margin: 12px 0; }
.long { max-height: 560px; overflow: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: .9rem; padding-bottom: 4px; }
th, td { text-align: left; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; }
tbody th { font-weight: 500; }
td small { white-space: nowrap; font-size: .85em; }
.facts td { overflow-wrap: anywhere; }
.facts th { min-width: 9em; }
.matrix td, .matrix th { padding: 6px 10px; text-align: right; border: 1px solid var(--rule); }
.matrix thead td { border: 0; }
.matrix .hit { background: color-mix(in srgb, var(--tp) var(--f), transparent); }
.matrix .error { background: color-mix(in srgb, var(--fp) var(--f), transparent); }
.matrix td a { color: inherit; display: block; margin: -6px -10px; padding: 6px 10px; }
.cell { display: none; scroll-margin-top: 50vh; }
.cell { background: var(--panel); border-radius: 8px; padding: 4px 16px 12px; margin: 12px 0; }
.cell:target { display: block; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 8px 40px; }
.chart { width: 100%; height: auto; max-width: 560px; display: block; margin: 8px 0; }
.shots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 16px; }
.crops { display: grid; grid-template-columns: repeat(auto-fill, minmax(145px, 1fr)); gap: 12px; }
figure { margin: 0; break-inside: avoid; }
figure svg { width: 100%; height: auto; display: block; border-radius: 4px; }
figcaption { font-size: .8rem; line-height: 1.35; margin-top: 4px; overflow-wrap: anywhere; }
figure rect { fill: none; vector-effect: non-scaling-stroke; stroke-width: 2; }
figure .halo { stroke: #000; stroke-width: 4; opacity: .55; }
figure .tp { stroke: #56b4e9; }
figure .fp { stroke: #ff9047; }
figure .fn { stroke: #f7e948; stroke-dasharray: 6 4; }
figure title { pointer-events: none; }
.legend span { display: inline-block; border: 3px solid; padding: 1px 8px; margin: 2px 8px 2px 0; border-radius: 3px; }
.legend .tp { border-color: var(--tp); } .legend .fp { border-color: var(--fp); }
.legend .fn { border-color: var(--fn); border-style: dashed; }
footer { padding: 32px 20px; font-size: .85rem; }
@media print { @page { size: A4; margin: 14mm; } body { font-size: 10.5pt; }
  :root { color-scheme: light; --ink: #1c2126; --soft: #5a636d; --rule: #dfe3e8; --paper: #fff; --panel: #f5f7f9;
    --tp: #0072b2; --fp: #c94f00; --fn: #8a6100; }
  nav, .cell, .cell:target { display: none; } h2, h3, section > p { break-after: avoid; break-inside: avoid; }
  .long { max-height: none; } .grid > div, tr, .matrix { break-inside: avoid; }
  main, header, footer { max-width: none; padding-left: 0; padding-right: 0; } h2 { margin-top: 24px; }
  .grid { grid-template-columns: 1fr 1fr; gap: 8px 20px; } .shots { grid-template-columns: 1fr 1fr 1fr; }
  .crops { grid-template-columns: repeat(5, 1fr); }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


_TITLE_PARTS = 3
"""Largest number of parts of a path in the title."""


def make_page(content: Content, sections: Sequence[Section], images: int, is_full: bool) -> str:
    """Return the page as HTML.

    Args:
        content: the numbers.
        sections: the sections.
        images: number of images in the page.
        is_full: whether images were left out because the page would be too large.
    """
    title = escape(escape_line(f"{_last_parts(content.subject.name)} on {content.split.name}"))
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a> ' for section in sections)
    body = "".join(
        f'<section id="{section.anchor}"><h2>{escape(section.title)}</h2>{section.html}</section>'
        for section in sections
    )
    left_out = " More were left out, so that the page stays below 10 MB." if is_full else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation of {title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<style>{_PAGE_STYLE}{STYLE}</style></head><body>"
        f'<header><h1>Evaluation of <bdi>{title}</bdi></h1>{summary(content)}<nav aria-label="Sections">{links}</nav>'
        f"</header><main>{body}</main><footer>{images} images and parts of images are in this page.{left_out} "
        f"report.json has all numbers, and plots/ all plots. Written by detector {VERSION}.</footer></body></html>\n"
    )


def _last_parts(name: str) -> str:
    """Return a name, or the last three parts of a long path; the complete path is among the facts.

    >>> _last_parts("/home/me/runs/mine/weights/best.safetensors"), _last_parts("cells")
    ('mine/weights/best.safetensors', 'cells')
    """
    return "/".join(Path(name).parts[-_TITLE_PARTS:])
