"""Interactive charts as Vega-Lite specifications (https://vega.github.io/vega-lite): what to draw, not how.

Data go in as CSV, one column a line, so that a run's curves stay small. Colors of text and axes are `currentColor`:
those of the page, light or dark.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from collections.abc import Mapping, Sequence
  from typing import Any, TypeAlias

  import numpy as np
  from jaxtyping import Float, Int

  Chart: TypeAlias = dict[str, Any]  # a Vega-Lite specification

HEIGHT, MOST_POINTS, FEW_STEPS = 210, 500, 6
# Points of all lines of a page together: what keeps it below two megabytes.
PAGE_POINTS = 45_000
PALETTE = ("#3b82c4", "#e07b28", "#2f9e62", "#d14d4d", "#8e6cc0", "#a5745a", "#d169a8", "#7d8590", "#a8a62f", "#22a7b5",
           "#5b6ee1", "#c98a00", "#159a8c", "#b5476e", "#6b8e23", "#9b59b6", "#557a95", "#c0652b", "#3f9b3f", "#8a8a5c")
GRAY = "#8b939d"

CONFIG = {
    "background": "transparent", "font": "system-ui, sans-serif", "view": {"stroke": None},
    "axis": {"labelColor": "currentColor", "titleColor": "currentColor", "domainColor": GRAY, "tickColor": GRAY,
             "gridColor": GRAY, "gridOpacity": 0.2, "titleFontWeight": "normal", "labelFontSize": 11,
             "titleFontSize": 11},
    "legend": {"labelColor": "currentColor", "orient": "bottom", "title": None,
               "symbolType": "stroke", "symbolStrokeWidth": 3, "labelFontSize": 11, "padding": 0, "offset": 4}}


def number(value: float | None) -> str:
  """A number in as few characters as five digits take; what is no finite number is left empty."""
  return f"{value:.5g}" if value is not None and math.isfinite(value) else ""


def thinned(points: list[Any], most: int = MOST_POINTS) -> list[Any]:
  """At most about `most` of the points, evenly spread, the last among them."""
  every = max(1, -(-len(points) // most))
  return points[::-1][::every][::-1]


def _table(series, most):
  """`{name: {x: y}}` as CSV with columns x, s0, s1, ..."""
  xs = thinned(sorted({x for points in series for x in points}), most)
  # Where lines are logged at other steps each keeps its own.
  if any(not set(points) <= set(xs) for points in series):
    xs = sorted({x for points in series for x in thinned(sorted(points), most)})
  lines = ["x," + ",".join(f"s{i}" for i in range(len(series)))]
  lines += [f"{number(x)}," + ",".join(number(points.get(x)) for points in series) for x in xs]
  return "\n".join(lines)


def lines(series: Mapping[str, Mapping[float, float]], *, x: str = "step", wide: bool = False,
          logarithmic: bool = False, bands: Sequence[tuple[str, str, str]] = (), folded: bool = False,
          baselines: Mapping[str, float] | None = None, dashed: Sequence[str] = (), most: int = MOST_POINTS) -> Chart:
  """Lines against the step, their values on hover, a box that switches to a logarithmic axis.

  Args:
    series: `{name: {x: y}}`.
    x: title of the horizontal axis.
    wide: whether that axis is logarithmic.
    logarithmic: whether the box is ticked at first.
    bands: triples of names `(lower, upper, line)`: the area between two series, in the color of that line.
    folded: whether a band stands behind its line's value on hover, instead of on lines of its own.
    baselines: `{name: y}`: dotted horizontal lines.
    dashed: names drawn dashed, in the color of the line before.
    most: points of a line at most.
  """
  names = list(series)
  columns = {name: f"s{i}" for i, name in enumerate(names)}
  in_band = {name for band in bands for name in band[:2]}
  drawn = [name for name in names if name not in in_band]
  solid = [name for name in drawn if name not in dashed]
  data = {"values": _table(list(series.values()), most),
          "format": {"type": "csv", "parse": {"x": "number", **dict.fromkeys(columns.values(), "number")}}}
  scaled = lambda field: f"logarithmic ? ({field} > 0 ? log({field}) / LN10 : null) : {field}"
  colors = _colors(drawn, dashed)
  # On an axis of one value Vega rounds its label to an integer.
  plain = "datum.label" if len({y for points in series.values() for y in points.values()}) > 1 else \
      "format(datum.value, '.4~g')"
  drawn_values = [y for points in series.values() for y in points.values()] + list((baselines or {}).values())
  y_axis = {"title": None, "labelExpr": f"logarithmic ? format(pow(10, datum.value), '.4~g') : {plain}",
            "tickCount": 6, "values": {"expr": f"logarithmic ? {_logarithms(_round_numbers(drawn_values))} : null"}}
  y = {"field": "y", "type": "quantitative", "scale": {"zero": False}, "axis": y_axis}
  x_field = {"field": "x", "type": "quantitative", "title": x}
  if wide:
    x_field |= {"scale": {"type": "log", "nice": False},
                "axis": {"values": sorted({point for points in series.values() for point in points}), "format": "~g"}}
  else:
    x_field |= {"scale": {"zero": False, "nice": False},
                "axis": {"tickCount": 5, **({"format": "~s", **_whole(series)} if x == "step" else {"format": "~g"})}}
  labels = "{" + ",".join(f"'{columns[name]}':{_quoted(name)}" for name in drawn) + "}[datum.value]"
  color = {"field": "s", "type": "nominal", "scale": {"domain": [columns[n] for n in drawn], "range": colors},
           "legend": {"labelExpr": labels, "values": [columns[n] for n in solid], "labelLimit": 300,
                      "columns": max(1, min(3, 50 // (max(map(len, drawn)) + 5)))} if len(drawn) > 1 else None}
  layer = []
  for i, (low, high, name) in enumerate(bands):
    layer.append({
        "transform": [{"calculate": scaled(f"datum.{columns[low]}"), "as": "low"},
                      {"calculate": scaled(f"datum.{columns[high]}"), "as": "high"},
                      {"filter": "isValid(datum.low) && isValid(datum.high)"}],
        "mark": {"type": "area", "color": colors[drawn.index(name) if name in drawn else i],
                 "opacity": 0.22 if len(bands) < 3 else 0.08},
        "encoding": {"x": x_field, "y": {**y, "field": "low"}, "y2": {"field": "high"}}})
  few = max(map(len, series.values())) <= 30
  layer.append({
      "transform": [{"fold": [columns[name] for name in drawn], "as": ["s", "value"]},
                    {"filter": "isValid(datum.value)"}, {"calculate": scaled("datum.value"), "as": "y"},
                    {"filter": "isValid(datum.y)"}],
      "mark": {"type": "line", "strokeWidth": 1.6, "point": {"size": 18} if few else False},
      "encoding": {"x": x_field, "y": y, "color": color, **_dash(drawn, dashed, columns)}})
  # Under the pointer lies a cell around the nearest rule, whose datum is the rule's item.
  row = "(datum.datum || datum)"
  said = [f"{_quoted(x)}: format({row}.x, ',')"]
  # An interval stands behind its mean.
  intervals = {name: (low, high) for low, high, name in bands} if folded else {}
  bounds = {end for ends in intervals.values() for end in ends}
  shown = lambda name: f"format({row}.{columns[name]}, '.4~g')"
  for name in columns:
    if name not in bounds:
      ends = f" + ' (' + {shown(intervals[name][0])} + ' to ' + {shown(intervals[name][1])} + ')'" \
          if name in intervals else ""
      said.append(f"{_quoted(name)}: isValid({row}.{columns[name]}) ? {shown(name)}{ends} : '–'")
  layer.append({
      "mark": {"type": "rule", "strokeWidth": 1, "color": GRAY, "tooltip": {"expr": "{" + ", ".join(said) + "}"}},
      "params": [{"name": "near", "select": {"type": "point", "fields": ["x"], "nearest": True, "on": "pointerover",
                                             "clear": "pointerout"}}],
      "encoding": {"x": x_field, "opacity": {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0}}})
  if baselines:
    named = {"data": {"values": [{"b": value, "name": name} for name, value in baselines.items()]},
             "transform": [{"calculate": scaled("datum.b"), "as": "y"}]}
    layer.append({**named, "mark": {"type": "rule", "strokeDash": [2, 3], "color": GRAY, "strokeWidth": 1.5},
                  "encoding": {"y": y}})
    layer.append({**named, "encoding": {"y": y, "text": {"field": "name"}, "x": {"value": 4}},
                  "mark": {"type": "text", "align": "left", "baseline": "bottom", "color": GRAY, "dy": -2}})
  return {**_chart(), "data": data, "layer": layer,
          "params": [{"name": "logarithmic", "value": logarithmic, "bind": {"input": "checkbox", "name": "log "}}]}


def _round_numbers(values, fewest=4, most=9):
  """Round numbers in the range of the positive values, for the ticks of a logarithmic axis; [] where that is a point.

  >>> _round_numbers([1.78, 4.47]), _round_numbers([2e-7, 3.0])
  ([2.0, 2.5, 3.0, 3.5, 4.0], [1e-06, 1e-05, 0.0001, 0.001, 0.01, 0.1, 1.0])
  """
  values = [value for value in values if 1e-300 < value < math.inf]
  if not values or max(values) - min(values) < 1e-6 * max(values):  # no more digits are said
    return []
  low, high = min(values), max(values)
  decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
  for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
    found = [x for decade in decades for m in mantissas if low <= (x := float(f"{m}e{decade}")) <= high]
    if len(found) >= fewest:
      return found[::-(-len(found) // most)]
  exponent = math.floor(math.log10((high - low) / fewest))
  step = max((m for m in (1, 2, 5) if m * 10.0**exponent <= (high - low) / fewest), default=1)
  first = math.ceil(low / (step * 10.0**exponent))
  return [x for i in range(first, first + 2 * most) if (x := float(f"{i * step}e{exponent}")) <= high]


def _logarithms(values):
  return [round(math.log10(value), 6) for value in values] or "null"


def _whole(series):
  """The ticks of an axis of few steps, where Vega would mark half ones too."""
  xs = {point for points in series.values() for point in points}
  few = max(xs) - min(xs) <= FEW_STEPS
  return {"values": list(range(int(min(xs)), int(max(xs)) + 1))} if few else {}


def spectra(values: Mapping[str, Sequence[float]]) -> Chart:
  """Eigenvalues from the largest, as shares of their sum, on two logarithmic axes; `values` is `{name: shares}`."""
  rows = [{"k": k, "share": float(f"{share:.4g}"), "s": name} for name, shares in values.items()
          for k, share in enumerate(shares, 1) if share > 1e-7]
  colors = _colors(list(values), ())
  return {**_chart(), "data": {"values": rows}, "mark": {"type": "line", "strokeWidth": 1.6, "point": {"size": 14}},
          "encoding": {
              "x": {"field": "k", "type": "quantitative", "scale": {"type": "log"},
                    "title": "eigenvalue, from the largest",
                    "axis": {"tickCount": 4, "grid": False}},
              "y": {"field": "share", "type": "quantitative", "scale": {"type": "log"}, "title": None,
                    "axis": {"format": ".0e", "tickCount": 5}},
              "color": {"field": "s", "type": "nominal", "scale": {"domain": list(values), "range": colors},
                        "legend": {"columns": 1, "labelLimit": 300}},
              "tooltip": [{"field": "s", "title": "of"}, {"field": "k", "title": "eigenvalue"},
                          {"field": "share", "format": ".3~g"}]}}


def ratios(bars: Sequence[tuple[str, str, float]]) -> Chart:
  """Bars from 1 up or down on a logarithmic axis; `bars` are triples of group, name within it, and positive value."""
  rows = [{"group": group, "name": name, "ratio": float(f"{value:.4g}")} for group, name, value in bars]
  groups, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("group", "name"))
  axis = {"title": None, "labelAngle": 0, "grid": False}
  y = {"field": "ratio", "type": "quantitative", "title": None, "scale": {"type": "log"}, "axis": {"tickCount": 5}}
  return {**_chart(), "data": {"values": rows}, "layer": [
      {"mark": "bar", "encoding": {
          "x": {"field": "group", "type": "nominal", "sort": groups, "axis": axis},
          "xOffset": {"field": "name", "sort": names},
          "y": y, "y2": {"datum": 1},
          "color": {"field": "name", "type": "nominal",
                    "scale": {"domain": names, "range": _colors(names, ())},
                    "legend": {"symbolType": "square", "columns": 1}},
          "tooltip": [{"field": "group", "title": "when"}, {"field": "name", "title": "variance"},
                      {"field": "ratio", "format": ".4~g"}]}},
      {"mark": {"type": "rule", "color": "currentColor"}, "encoding": {"y": {"datum": 1}}}]}


def scatter(points: Float[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"], class_names: Sequence[str]) -> Chart:
  """A map of the test set: `(n, 2)` coordinates, colored by class; a click on a class in the legend shows it alone."""
  many = len(class_names) > len(PALETTE)
  rows = [f"{number(a)},{number(b)},{int(c)}" for (a, b), c in zip(points.tolist(), labels.tolist())]
  names = "[" + ",".join(map(_quoted, class_names)) + "][datum.c]"
  here = sorted({class_names[int(c)] for c in labels if c >= 0})
  color = {"field": "class", "type": "nominal", "legend": None if many else {"columns": 5, "symbolType": "circle"},
           "scale": {"domain": here, "range": _colors(here, ())}}
  axis = {"labels": False, "ticks": False, "domain": False, "grid": False}
  return {**_chart(300), "data": {"values": "a,b,c\n" + "\n".join(rows), "format": {
      "type": "csv", "parse": {"a": "number", "b": "number", "c": "number"}}},
          "transform": [{"calculate": f"datum.c < 0 ? 'none' : {names}", "as": "class"}],
          "params": [{"name": "only", "select": {"type": "point", "fields": ["class"]}, "bind": "legend"}],
          "mark": {"type": "circle", "size": 22},
          "encoding": {
              "x": {"field": "a", "type": "quantitative", "title": "first principal component", "axis": axis},
              "y": {"field": "b", "type": "quantitative", "title": "second principal component", "axis": axis},
              "color": color,
              "opacity": {"condition": {"param": "only", "value": 0.75}, "value": 0.05},
              "tooltip": [{"field": "class"}]}}


def _chart(height=HEIGHT):
  return {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "width": "container", "height": height,
          "autosize": {"type": "fit-x", "contains": "padding"}, "config": CONFIG}


def _colors(names, dashed):
  """A color for each name; a dashed line has that of the line before it."""
  colors, k = [], -1
  for name in names:
    k += name not in dashed
    colors.append(PALETTE[max(k, 0) % len(PALETTE)])
  return colors


def _dash(drawn, dashed, columns):
  if not dashed:
    return {}
  return {"strokeDash": {"condition": {"test": {"field": "s", "oneOf": [columns[n] for n in drawn if n in dashed]},
                                       "value": [5, 3]}, "value": [1, 0]}}


def _quoted(text):
  """A string of Vega's expression language."""
  escaped = str(text).replace("\\", "\\\\").replace("'", "\\'").replace("\n", " ")
  return f"'{escaped}'"
