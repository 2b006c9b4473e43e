"""report.html of a study: its table and its curves over seeds, from results.json alone."""

import json
import math
import os
import pathlib

from spectral_jax.evaluation import SCORES
from spectral_jax.reports import charts, html
from spectral_jax.studies.intervals import interval
from spectral_jax.workdir.folder import flat, read_json

RESULTS = "results.json"
ABOUT = ("step", "examples", "seconds")
MOST_CHARTS = 120


def is_study(folder):
  return (pathlib.Path(folder) / RESULTS).exists()


def write(path, folder):
  """Writes the page of a study's folder whole or not at all; returns its path."""
  path, folder = pathlib.Path(path), pathlib.Path(folder).absolute()
  content = page(folder.name, read_json(folder / RESULTS))
  part = path.with_name(path.name + ".part")
  part.write_text(content, encoding="utf-8")
  os.replace(part, path)
  return path


def page(name, results):
  """The whole page, from the content of results.json."""
  about, runs = results.get("about", {}), results.get("runs", [])
  head = [f"<h1>{html.text(name)}</h1>", f'<p><code>{html.text(about.get("command", ""))}</code></p>']
  setting = [about.get("setting", ""), about.get("hardware", ""), str(about.get("date", "")),
             f"seeds {about['seeds']}" if "seeds" in about else ""]
  head.append(html.paragraph("; ".join(part.rstrip(".") for part in setting if part) + ". Means with 95% confidence "
                             "intervals over seeds (Student's t)."))
  shown, others = _curves(runs, results)
  failed = [[case, why] for case, why in results.get("failures", {}).items()]
  return html.page(name, "\n".join([
      *head, html.section("At the end", *_tables(results)), html.section("Over training", html.grid(shown)),
      html.section("Other metrics", html.folded(f"{len(others)} more", html.grid(others))) if others else "",
      html.section("Cases that failed", html.table(["case", "why"], failed)) if failed else ""]))


def _shown(results):
  """Metrics that the study is about, without a learner's name."""
  return [*results.get("show", []), *(one.key for one in SCORES)]


def _tables(results):
  """The summary's rows: what the study is about, the rest folded."""
  rows = {name: _cells(row) for name, row in results.get("summary", {}).items()}
  columns = list(dict.fromkeys(column for row in rows.values() for column in row))
  first = [c for c in columns if c.rpartition("/")[2] in _shown(results) or ("/" not in c and not _is_metric(c, results))]
  rest = [c for c in columns if c not in first]
  table = lambda chosen: html.table(
      ["", *(c.replace("_", " ") for c in chosen)], [[name, *(row.get(c) for c in chosen)] for name, row in rows.items()])
  return [table(first) if first else "", html.folded(f"{len(rest)} more columns", table(rest)) if rest else ""]


def _is_metric(column, results):
  return any(column in row.get("metrics", {}) for row in results.get("summary", {}).values())


def _cells(row):
  """A row of a summary as `{column: number or text}`; a pair of numbers is a mean and half its interval."""
  cells = {}
  for key, value in flat({k: v for k, v in row.items() if k not in ("values", "metrics")}).items():
    cells[key] = value
  cells |= row.get("values", {}) | row.get("metrics", {})
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
  metrics = list(dict.fromkeys(key for run in runs for point in run["curve"] for key in point if key not in ABOUT))
  most = max(30, 45_000 // max(1, 3 * len(groups) * len(metrics)))
  shown, others = [], []
  for metric in metrics[:MOST_CHARTS]:
    about = metric.rpartition("/")[2] in _shown(results)
    axes = ("step", "seconds") if metric in results.get("targets", {}) else ("step",)
    for axis in axes:
      title = metric.replace("_", " ").replace("~", " ~ ") + (", over seconds of training" if axis == "seconds" else "")
      found = _chart(groups, metric, axis, results.get("targets", {}).get(metric), most)
      (shown if about else others).append(html.card(title, html.chart(found)))
  return shown, others


def _chart(groups, metric, axis, target, most):
  series, bands = {}, []
  for name, curves in groups.items():
    points = [point for point in zip(*curves) if all(metric in of_seed for of_seed in point)]
    found = [(sum(p[axis] for p in point) / len(point), *interval([p[metric] for p in point])) for point in points]
    if not found:
      continue
    series[name] = {x: mean for x, mean, _ in found}
    if not any(math.isnan(half) for _, _, half in found):
      low, high = f"{name}, from", f"{name}, to"
      series |= {low: {x: mean - half for x, mean, half in found}, high: {x: mean + half for x, mean, half in found}}
      bands.append((low, high, name))
  return charts.lines(series, x=axis, bands=bands, baselines=None if target is None else {"target": target}, most=most)
