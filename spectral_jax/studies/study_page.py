"""report.html of a study: its table and its curves over seeds, from results.json alone."""

from __future__ import annotations

import json
import math
import pathlib
from typing import TYPE_CHECKING

from spectral_jax.evaluation import SCORES
from spectral_jax.reports import charts, html
from spectral_jax.studies.intervals import interval
from spectral_jax.workdir.folder import flat, read_json, write_text

if TYPE_CHECKING:
  from collections.abc import Mapping
  from typing import Any

RESULTS = "results.json"
ABOUT = ("step", "examples", "seconds", "processor_seconds")
# Of all charts together; the libraries take as much again.
MOST_CHARACTERS = 950_000


def is_study(folder: str | pathlib.Path) -> bool:
  return (pathlib.Path(folder) / RESULTS).exists()


def write(path: str | pathlib.Path, folder: str | pathlib.Path) -> pathlib.Path:
  """Writes the page of a study's folder whole or not at all; returns its path."""
  folder = pathlib.Path(folder).absolute()
  content = read_json(folder / RESULTS, {"about": dict, "runs": list, "summary": dict})
  return write_text(path, page(folder.name, content))


def page(name: str, results: Mapping[str, Any]) -> str:
  """The whole page, from the content of results.json."""
  about, runs = results.get("about", {}), results.get("runs", [])
  head = [f"<h1>{html.text(name)}</h1>", f'<p><code>{html.text(about.get("command", ""))}</code></p>']
  setting = [about.get("setting", ""), about.get("hardware", ""), str(about.get("date", "")),
             f"seeds {about['seeds']}" if "seeds" in about else ""]
  head.append(html.paragraph("; ".join(part.rstrip(".") for part in setting if part) + ". Means with 95% confidence "
                             "intervals over seeds (Student's t)."))
  against, more = _against(runs, results)
  shown, others = _curves(runs, results)
  against, shown, others = _fitting(against, shown, [*more, *others])
  failed = [[case, why] for case, why in results.get("failures", {}).items()]
  return html.page(name, "\n".join([
      *head, html.section("At the end", *_tables(results)), html.section("Against what was varied", html.grid(against)),
      html.section("Over training", html.grid(shown)),
      html.section("Other metrics", html.folded(f"{len(others)} more", html.grid(others))) if others else "",
      html.section("Cases that failed", html.table(["case", "why"], failed)) if failed else ""]))


def _fitting(*groups):
  """The groups' cards as far as the page stays below two megabytes, the first groups first."""
  left, kept = MOST_CHARACTERS, []
  for cards in groups:
    kept.append([])
    for card in cards:
      if len(card) <= left:
        left -= len(card)
        kept[-1].append(card)
  return kept


def _shown(results):
  """Metrics that the study is about, without a learner's name."""
  return [*results.get("show", []), *(one.key for one in SCORES)]


def _tables(results):
  """The summary's rows: what the study is about, the rest folded."""
  rows = {name: _cells(row) for name, row in results.get("summary", {}).items()}
  columns = list(dict.fromkeys(column for row in rows.values() for column in row))
  first = [c for c in columns
           if c.rpartition("/")[2] in _shown(results) or ("/" not in c and not _is_metric(c, results))]
  rest = [c for c in columns if c not in first]
  table = lambda chosen: html.table(
      ["", *(c.replace("_", " ") for c in chosen)],
      [[name, *(row.get(c) for c in chosen)] for name, row in rows.items()])
  return [table(first) if first else "", html.folded(f"{len(rest)} more columns", table(rest)) if rest else ""]


def _is_metric(column, results):
  return any(column in row.get("metrics", {}) for row in results.get("summary", {}).values())


def _cells(row):
  """A row of a summary as `{column: number or text}`; a pair of numbers is a mean and half its interval."""
  cells = flat({k: v for k, v in row.items() if k not in ("values", "metrics")})
  cells |= {key: str(value) for key, value in row.get("values", {}).items()} | row.get("metrics", {})
  return {key: _mean(value) for key, value in cells.items() if value is not None and value != {}}


def _mean(value):
  if isinstance(value, (list, tuple)):
    mean, half = value if len(value) == 2 else (value, math.nan)
    if isinstance(mean, (int, float)) and isinstance(half, (int, float)):
      if not half > 0:
        return html.said(float(mean))
      digits = max(0, 1 - math.floor(math.log10(half)))
      return f"{mean:,.{digits}f} ± {half:,.{digits}f}"
    return json.dumps(value)
  return value


def _label(run):
  if "rule" in run:
    return str(run["rule"])
  values = run.get("values", {})
  return ", ".join(f"{key}={value}" for key, value in values.items() if key != "seed") or "all"


def _curves(runs, results):
  """`(cards, other cards)`: each metric's mean over seeds against the step; scores of rules against seconds as well."""
  groups = {}
  for run in runs:
    groups.setdefault(_label(run), []).append(run["curve"])
  if all(len(curve) < 2 for curves in groups.values() for curve in curves):
    return [], []
  targets, shown, others = results.get("targets", {}), [], []
  clock = results.get("about", {}).get("clock", "seconds")
  metrics = _metrics(runs)
  most = max(30, charts.PAGE_POINTS // max(1, 3 * len(groups) * len(metrics)))
  for metric in metrics:
    about = metric.rpartition("/")[2] in _shown(results)
    for axis in ("step", clock) if metric in targets else ("step",):
      found = {name: points for name, curves in groups.items() if (points := _mean_curve(curves, metric, axis))}
      title = _said(metric) + (f", over {_said(clock)} of training" if axis == clock else "")
      (shown if about else others).append(_card(title, found, axis, targets.get(metric), most))
  return shown, others


def _mean_curve(curves, metric, axis):
  points = [point for point in zip(*curves) if all(metric in of_seed for of_seed in point)]
  places = [interval([p[axis] for p in point if axis in p])[0] for point in points]
  return [(x, *interval([p[metric] for p in point])) for x, point in zip(places, points) if not math.isnan(x)]


def _against(runs, results):
  """Each metric at the end against each key that was given several numbers, a line for each setting of the others."""
  shown, others = [], []
  keys = [key for key, values in results.get("over", {}).items()
          if key != "seed" and len(values) > 1 and all(isinstance(value, (int, float)) for value in values)]
  for metric in _metrics(runs):
    for key in keys:
      lines = {}
      for run in runs:
        rest = ", ".join(f"{k}={v}" for k, v in run["values"].items() if k not in (key, "seed")) or _said(metric)
        if metric in run["curve"][-1]:
          lines.setdefault(rest, {}).setdefault(run["values"][key], []).append(run["curve"][-1][metric])
      found = {rest: [(x, *interval(of_seeds)) for x, of_seeds in sorted(values.items())] for rest,
               values in lines.items()}
      if found:
        about = metric.rpartition("/")[2] in _shown(results)
        (shown if about else others).append(_card(f"{_said(metric)}, against {key}", found, key))
  return shown, others


def _metrics(runs):
  """Names of what was measured; of several learners the main one's stand there a second time, without a name."""
  names = list(dict.fromkeys(key for run in runs for point in run["curve"] for key in point if key not in ABOUT))
  repeated = {name.rpartition("/")[2] for name in names if "/" in name}
  return [name for name in names if name not in repeated]


def _said(metric):
  return metric.replace("_", " ").replace("~", " ~ ").replace("/", ": ")


def _card(title, found, axis, target=None, most=charts.MOST_POINTS):
  """A chart of `{line: [(x, mean, half)]}`."""
  series, bands = {}, []
  for name, points in found.items():
    series[name] = {x: mean for x, mean, _ in points}
    if not any(math.isnan(half) for _, _, half in points):
      low, high = f"{name}, from", f"{name}, to"
      series |= {low: {x: mean - half for x, mean, half in points}, high: {x: mean + half for x, mean, half in points}}
      bands.append((low, high, name))
  xs = [x for points in found.values() for x, _, _ in points]
  return html.card(title, html.chart(charts.lines(
      series, x=axis, wide=axis not in ABOUT and min(xs) > 0 and max(xs) >= 8 * min(xs), bands=bands, folded=True,
      baselines=None if target is None else {"target": target}, most=most)))
