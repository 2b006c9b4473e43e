"""The tables of a study and the page they go to, made from its stored JSON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from spectral_jax.evaluation import SCORES
from spectral_jax.workdir.folder import write_text

if TYPE_CHECKING:
  import pathlib
  from collections.abc import Mapping, Sequence
  from typing import Any

TITLES = {one.key: one.short for one in SCORES}
BEGIN, END = "<!-- {}:begin -->", "<!-- {}:end -->"
HEADER = """# Results: does choosing batches by their spectrum save time?

Every section is written by `python -m spectral_jax.compare` from the stored results beside this page; nothing is edited
by hand. Rules are those of `spectral_jax.selection`; one that names no coverage chooses each batch from all examples.

Beside them, as the paper states them and not measured here (arXiv 2510.05767, ImageNet-100): Greedy-64 reaches 67.5%
top-1 in 15% less time than random batches and in 24% less than Pool-P3.
"""


def section(results: Mapping[str, Any]) -> str:
  """Markdown of one comparison, from the content of its `results.json`."""
  about, rows, targets = results["about"], results["summary"], results["targets"]
  return "\n".join([
      *_origin(about, "Seconds are training time: steps, bank refreshes and selection, without evaluation and "
               "compilation; processor seconds are those of all cores together, which other work on the machine hardly "
               "moves."),
      *_final(rows), *_verdict(rows), "", *_to_targets(rows, targets), "", *_cost(rows), "",
      *(f"![Accuracy over training time]({picture})" for picture in about["pictures"])])


def _origin(about, note):
  return [f"`{about['command']}`", "",
          f"{about['date']}, {about['hardware']}. {about['setting']} Seeds {about['seeds']}; means with 95% confidence "
          f"intervals over seeds (Student's t). {note}", ""]


def sweep_section(results: Mapping[str, Any]) -> str:
  """Markdown of one sweep, from the content of its `results.json`: tables of what is to be shown, and the pictures."""
  about, rows = results["about"], results["summary"]
  lines = _origin(about, "Values at the last evaluation.")
  metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row["metrics"]))
  alone = [metric for metric in shown(metrics, results["show"]) if "/" not in metric]
  if alone:
    lines += [*_values(rows, {metric: metric for metric in alone}, "setting"), ""]
  for metric in results["show"]:
    owned = {one.partition("/")[0]: one for one in shown(metrics, [metric]) if "/" in one}
    if owned:
      lines += [f"{metric}:", "", *_values(rows, owned, "setting"), ""]
  if results["failures"]:
    lines += ["Failed:", "", *(f"- {name}: {why.splitlines()[0]}" for name, why in results["failures"].items()), ""]
  return "\n".join([*lines, *(f"![{picture}]({picture})" for picture in about["pictures"])]).rstrip()


def shown(metrics: Sequence[str], names: Sequence[str]) -> list[str]:
  """Those of `metrics` that are called as in `names`, with or without a learner or a pair before it.

  Of a run of several learners the main one's, which stand without its name for the run, are left out.

  >>> shown(["loss", "a/loss", "a~b/gap", "rank"], ["loss", "gap", "rank"])
  ['a/loss', 'a~b/gap', 'rank']
  """
  found = [metric for name in names for metric in metrics if metric.partition("/")[2] == name or metric == name]
  owned = {metric.partition("/")[2] for metric in found}
  return [metric for metric in found if "/" in metric or metric not in owned]


def _values(rows, columns, first):
  """Rows of a table: the settings, and the interval of each column's metric."""
  return _table([first, "seeds", *columns], [
      [name, str(row["seeds"]), *(_significant(row["metrics"][metric]) if metric in row["metrics"] else ""
                                  for metric in columns.values())] for name, row in rows.items()])


def _significant(interval):
  """A value with four significant digits, three after the point at most."""
  mean, _ = interval
  if not math.isfinite(mean):
    return str(mean)
  digits = max(0, 3 - math.floor(math.log10(abs(mean)))) if mean and abs(mean) >= 1 else 3
  return _plain(interval, digits) if abs(mean) < 1e6 else f"{mean:.1e}"


def _final(rows):
  beside = ", and its difference from random batches of the same seed" if "random" in rows else ""
  return [f"Final accuracy in percent{beside}:", "", *_table(
      ["rule", *(head for title in TITLES.values() for head in (title, "against random"))],
      [[rule, *(cell for name in TITLES
                for cell in (_percent(row[name]), "" if rule == "random" else _points(row[f"{name}_gain"])))]
       for rule, row in rows.items()])]


def _table(heads, rows):
  """Lines of a table; a column without any entry is left out."""
  kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
  line = lambda cells: "| " + " | ".join(cells[i] for i in kept) + " |"
  return [line(heads), "|---|" + "---:|" * (len(kept) - 1), *map(line, rows)]


def _cost(rows):
  lines = ["What it cost, and what the rule did to the batches' effective rank (participation ratio in the bank):", ""]
  lines += _table(
      ["rule", "training, s", "processor, s", "processor / random's", "selected / random rank"],
      [[rule, _plain(row["seconds"], 1), _plain(row["processor_seconds"], 1), _versus(rule, row["processor_ratio"]),
        "" if row["rank_ratio"] is None else f"{row['rank_ratio'][0]:.2f}"] for rule, row in rows.items()])
  uniform = rows.get("random")
  if uniform and uniform["seeds"] > 1:
    lines += ["", "Runs with random batches do the same work for every seed; they took from "
              f"{uniform['fastest']:.1f} to {uniform['slowest']:.1f} s. So much the machine itself moves the seconds; "
              "steps and examples are free of it, processor seconds nearly."]
  return lines


def _to_targets(rows, targets):
  lines = []
  for name in targets:
    ratio = "; the ratio over those that do with both" if "random" in rows else ""
    lines += ["", f"To {100 * targets[name]:.1f}% {TITLES[name]} accuracy: the first evaluation that reaches it, means "
              f"over the seeds that do{ratio}:", ""]
    cells = []
    for rule, row in rows.items():
      to = row[f"{name}_target"]
      found = [_plain(to[key], digits) if to["reached"] else ""
               for key, digits in (("seconds", 1), ("processor_seconds", 1), ("step", 0), ("examples", 0))]
      cells.append([rule, f"{to['reached']} of {row['seeds']}", *found[:2], _versus(rule, to["processor_ratio"]),
                    *found[2:]])
    lines += _table(["rule", "seeds that reach it", "seconds", "processor s", "processor / random's", "steps",
                     "examples"], cells)
  return lines[1:]


def _verdict(rows):
  """What the intervals allow to say, whichever way it falls; nothing where random batches were not compared."""
  if "random" not in rows:
    return []
  lines = [""]
  for name, title in TITLES.items():
    gains = {rule: row[f"{name}_gain"] for rule, row in rows.items()
             if rule != "random" and not math.isnan(row[f"{name}_gain"][1])}
    sides = {"better": [r for r, (mean, half) in gains.items() if mean > half],
             "worse": [r for r, (mean, half) in gains.items() if mean < -half],
             "not distinguishable": [r for r, (mean, half) in gains.items() if abs(mean) <= half]}
    said = "; ".join(f"{side}: {', '.join(names)}" for side, names in sides.items() if names)
    lines.append(f"- Final {title} accuracy against random, seed by seed, by intervals that exclude zero (not "
                 f"corrected for the number of rules): {said or 'too few seeds to say'}.")
  return lines


def _versus(rule, ratio):
  """A ratio to random batches; nothing for these themselves, or where there is no pair."""
  return "" if rule == "random" else _plain(ratio, 2)


def _percent(interval):
  return _plain([100 * x for x in interval], 2)


def _points(interval):
  mean, half = (100 * x for x in interval)
  if math.isnan(mean):
    return ""
  return f"{mean:+.2f}" + ("" if math.isnan(half) else f" ± {half:.2f}")


def _plain(interval, digits):
  mean, half = interval
  if math.isnan(mean):
    return ""
  return f"{mean:,.{digits}f}" + ("" if math.isnan(half) else f" ± {half:,.{digits}f}")


def write_section(path: pathlib.Path, name: str, title: str, text: str) -> None:
  """Replaces the section `name` of a page, or adds it at the end under `title`."""
  begin, end = BEGIN.format(name), END.format(name)
  page = path.read_text(encoding="utf-8") if path.exists() else HEADER
  if begin in page:
    page = page.split(begin, 1)[0] + f"{begin}\n{text}\n{end}" + page.split(end, 1)[1]
  else:
    page = f"{page.rstrip()}\n\n## {title}\n\n{begin}\n{text}\n{end}\n"
  path.parent.mkdir(parents=True, exist_ok=True)
  write_text(path, page)
