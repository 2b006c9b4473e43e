"""Pieces of a page that stands alone: escaped text, tables, images in the page itself, charts, light and dark."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from spectral_jax.reports import vega

if TYPE_CHECKING:
  from collections.abc import Collection, Mapping, Sequence
  from typing import Any, TypeAlias

  from jaxtyping import UInt8

  Cell: TypeAlias = str | float | bool | None

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1d2430; --soft: #5c6675; --line: #dfe3e8; --card: #f7f8fa;
  --good: #1f7a4a; --bad: #b3362f; --mark: #fff3cf; --accent: #2b6cb0; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181f; --ink: #e5e9ef; --soft: #9aa5b4; --line: #2c333e;
  --card: #1b2029; --good: #5fc48d; --bad: #ef8077; --mark: #40391f; --accent: #7db3ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem clamp(.8rem, 3vw, 2.5rem) 4rem; max-width: 1320px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .2rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: .92rem; margin: 0 5rem .4rem 0; font-weight: 600; overflow-wrap: anywhere; }
p { margin: .3rem 0 .7rem; max-width: 75ch; } .soft { color: var(--soft); }
a { color: var(--accent); } code { font-size: .88em; overflow-wrap: anywhere; }
.grid { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 345px), 1fr)); }
.card { position: relative; min-width: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem .8rem; }
.scroll { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .28rem .8rem .28rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); } td:first-child, th:first-child { text-align: left; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.best { font-weight: 700; color: var(--good); } .warn { color: var(--bad); } .changed { background: var(--mark); }
.facts { display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; padding: 0; margin: .8rem 0; list-style: none; }
.facts b { font-variant-numeric: tabular-nums; }
details { margin: .8rem 0; } summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
.tiles { display: grid; gap: 4px; align-items: center; justify-items: center; font-size: .74rem; color: var(--soft);
  width: max-content; }
.tiles img { display: block; width: 56px; height: 56px; border-radius: 3px; }
.tiles img.pixels { image-rendering: pixelated; }
.tiles .same img { outline: 2px solid var(--good); } .tiles .other img { outline: 2px solid var(--bad); }
.tiles .name { text-align: right; padding-right: .4rem; max-width: 9rem; overflow-wrap: anywhere; justify-self: end; }
.tiles figure { margin: 2px; align-self: start; text-align: center; max-width: 60px; overflow-wrap: anywhere;
  line-height: 1.15; } .tiles figcaption { margin-top: 4px; }
.vega-embed { display: block !important; width: 100%; padding: 0 !important; }
.vega-embed .vega-bindings { position: absolute; top: -1.75rem; right: 1.9rem; font-size: .78rem; color: var(--soft); }
.vega-embed .vega-bind-name { margin: 0; } .vega-embed .vega-bind-checkbox { vertical-align: -2px; margin: 0 0 0 3px; }
.vega-embed details { margin: 0; top: -1.9rem !important; } .vega-embed > details > summary { padding: 3px !important;
  background: transparent !important; border: 0 !important; box-shadow: none !important;
  color: var(--soft) !important; }
.vega-embed .vega-actions { background: var(--paper) !important; border-color: var(--line) !important; }
.vega-embed .vega-actions a { color: var(--ink) !important; }
#vg-tooltip-element { background: var(--paper) !important; color: var(--ink) !important;
  border-color: var(--line) !important; font-size: 12px; }
#vg-tooltip-element table tr td.key { color: var(--soft) !important; max-width: 220px; }
#vg-tooltip-element td { border: 0; padding: 0 .4rem 0 0; white-space: normal; }
"""


def page(title: str, body: str) -> str:
  """The whole document; it asks the network for nothing."""
  scripts = f"<script>{vega.bundle()}</script>\n<script>{vega.GLUE}</script>\n" if 'class="chart"' in body else ""
  return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
          f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{text(title)}</title>\n'
          f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n{scripts}</body>\n</html>\n")


def text(value: object) -> str:
  return html.escape(str(value))


def section(title: str, *parts: str) -> str:
  """A headed part of the page, or nothing where it would be empty."""
  inside = "\n".join(part for part in parts if part)
  return f"<section><h2>{text(title)}</h2>\n{inside}\n</section>" if inside else ""


def paragraph(content: str, kind: str = "soft") -> str:
  return f'<p class="{kind}">{text(content)}</p>'


def grid(cards: Sequence[str]) -> str:
  return f'<div class="grid">{"".join(cards)}</div>' if cards else ""


def card(title: str, content: str) -> str:
  return f'<div class="card"><h3>{text(title)}</h3>{content}</div>'


def folded(title: str, content: str) -> str:
  """A part that is closed at first."""
  return f"<details><summary>{text(title)}</summary>{content}</details>" if content else ""


def chart(specification: Mapping[str, Any]) -> str:
  """The place of a chart, its specification before it."""
  stored = json.dumps(specification, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
  return f'<script type="application/json" class="chart">{stored}</script><div></div>'


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], best: Collection[tuple[int, int]] = ()) -> str:
  """A table; `rows` are lists of cells, numbers or text, `best` the places `(row, column)` that stand out."""
  first = "".join(f"<th>{text(name)}</th>" for name in head)
  lines = []
  for i, row in enumerate(rows):
    cells = "".join(f"<td{_kind(cell, (i, j) in best, j)}>{text(said(cell))}</td>" for j, cell in enumerate(row))
    lines.append(f"<tr>{cells}</tr>")
  return f'<div class="scroll"><table><thead><tr>{first}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _kind(cell, best, column):
  kinds = ["best"] * best + ["text"] * (column > 0 and isinstance(cell, str) and len(cell) > 40)
  return f' class="{" ".join(kinds)}"' if kinds else ""


def said(cell: Cell) -> str:
  """A number in four digits, text as it is, nothing for None."""
  if cell is None:
    return ""
  if isinstance(cell, bool) or not isinstance(cell, (int, float)):
    return str(cell)
  if math.isfinite(cell) and (isinstance(cell, int) or abs(cell) >= 1000):
    return f"{round(cell):,}" if abs(cell) < 1e9 else f"{cell:.4g}"
  return f"{cell:.4f}" if 1e-3 <= abs(cell) < 10 else f"{cell:.4g}"


def facts(named: Mapping[str, Cell]) -> str:
  """Short facts in a row: `{what: number or text}`."""
  return '<ul class="facts">' + "".join(
      f'<li><span class="soft">{text(name)}</span> <b>{text(said(value))}</b></li>' for name,
      value in named.items()) + "</ul>"


def image(pixels: UInt8[np.ndarray, "h w c"], title: str = "") -> str:
  """A uint8 image `(h, w, c)` in the page: PNG, or JPEG where PNG would be large."""
  gray = pixels.shape[-1] == 1
  # Strokes on white, as digits are drawn on paper.
  picture = Image.fromarray(255 - pixels[..., 0] if gray else np.ascontiguousarray(pixels))
  kind = "png" if pixels.shape[0] <= 32 else "jpeg"
  stream = io.BytesIO()
  picture.save(stream, kind, **({"optimize": True} if kind == "png" else {"quality": 80}))
  data = base64.b64encode(stream.getvalue()).decode()
  small = ' class="pixels"' if pixels.shape[0] <= 32 else ""
  return f'<img{small} alt="{text(title)}" title="{text(title)}" src="data:image/{kind};base64,{data}">'


def tiles(columns: int, cells: Sequence[str]) -> str:
  """Cells in rows of `columns`; wider than a phone they scroll."""
  return (f'<div class="scroll"><div class="tiles" style="grid-template-columns: repeat({columns}, auto)">'
          f'{"".join(cells)}</div></div>')
