"""report.html: what one run, or several side by side, left in their workdirs, on one page that needs no network.

Made from config.json, summary.json, metrics.jsonl and report.npz alone, and the same bytes whenever it is made from the
same files.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from spectral_jax.defaults import get_defaults
from spectral_jax.evaluation import SCORES, few_labels
from spectral_jax.reports import charts, html
from spectral_jax.reports.panels import charts_of, line_name, named
from spectral_jax.reports.recorded import recorded
from spectral_jax.workdir.folder import config_dict, flat, write_text

if TYPE_CHECKING:
  from collections.abc import Sequence

  from spectral_jax.reports.recorded import Recorded


def write(path: str | pathlib.Path, folders: Sequence[str | pathlib.Path]) -> pathlib.Path:
  """Writes the page of some workdirs whole or not at all; returns its path."""
  return write_text(path, page(recorded(folders)))


def page(runs: Sequence[Recorded]) -> str:
  """The whole page of `Recorded` runs."""
  one = runs[0] if len(runs) == 1 else None
  title = _title(one) if one else f"{len(runs)} runs: " + ", ".join(run.name for run in runs)
  groups, others = charts_of(runs)
  body = [f"<h1>{html.text(title)}</h1>"]
  if one:
    body += [_opening(one), html.section("What the features are worth", _scores(runs), _closing(one))]
  else:
    body += [html.section("Where the configs differ", _differences(runs)),
             html.section("What the features are worth", _scores(runs), _costs(runs))]
  for name, panels in groups.items():
    extra = _spectra(runs) if name.startswith("How the embedding") else []
    body.append(html.section(name, html.grid(panels + extra)))
  body.append(html.section("The test set on its first two principal components", html.grid(_maps(runs))))
  if one and one.arrays:
    body += [html.section("What the loss pulls together: two views of each image", _pairs(one.arrays)),
             html.section("Nearest training images by cosine similarity of the features", _neighbors(one.arrays))]
  body += [_tables(run, with_name=not one) for run in runs]
  if others:
    body.append(html.section("Other metrics", html.folded(f"{len(others)} more", html.grid(others))))
  body += [html.section("Config" if one else f"Config of {run.name}", _config(run)) for run in runs]
  return html.page(title, "\n".join(part for part in body if part))


def _title(run):
  data = run.config["data.name"]
  if data == "folder":  # as the run itself calls it
    data = pathlib.Path(run.config["data.data_dir"]).name or data
  return f"{run.name}: {_losses(run)} on {data}"


def _losses(run):
  learners = sorted({key.split(".")[1] for key in run.config if key.startswith("learners.") and key.count(".") > 1})
  return ", ".join(learners) or run.config["loss.name"]


def _opening(run):
  config = run.config
  length = f"{config['steps']:,} steps" if config["steps"] else f"{config['epochs']:,} epochs"
  state = "" if run.summary else " This run has not finished: there is no summary yet."
  return html.paragraph(f"{config['model.encoder']}, batches of {config['batch_size']:,}, {length}, "
                        f"{config['optimizer.name']}, seed {config['seed']}.{state}")


def _learners(run):
  """`{name: scores}` of a finished run: its learners, or itself."""
  return run.summary.get("learners") or ({"trained": run.summary} if run.summary else {})


def _scores(runs):
  """Every learner's scores, beside the run's baselines; the best of each data set stand out, be it a baseline's."""
  columns, data = {}, {}
  for run in runs:
    of_run = {**_learners(run), "raw pixels": run.summary.get("raw_pixels"),
              "random init": run.summary.get("random_init")}
    for name, scores in of_run.items():
      if scores:
        label = name if len(runs) == 1 else f"{run.name}" if name == "trained" else f"{run.name}: {name}"
        columns[label] = scores
        data.setdefault(tuple(run.config.get(key) for key in DATA), []).append(label)
  if not columns:
    return ""
  shots = {run.config["eval.shots"] for run in runs}
  few = few_labels(shots.pop()) if len(shots) == 1 else "few labels a class"
  rows = [("effective_rank", "effective rank, test embedding")]
  rows = [(one.key, few if one.key == "few_shot_accuracy" else one.title) for one in SCORES] + rows
  rows += [(key, key.replace("_", " ")) for key in dict.fromkeys(k for scores in columns.values() for k in scores)
           if key.endswith("_accuracy") and key not in dict(rows) and not key.startswith("best_")]
  lines = [[title, *(scores.get(key) for scores in columns.values())] for key, title in rows]
  names, best = list(columns), set()
  for i, (key, _) in enumerate(rows):
    for alike in data.values():
      values = {names.index(name) + 1: columns[name][key] for name in alike if key in columns[name]}
      if key.endswith("_accuracy") and values:
        best |= {(i, j) for j, value in values.items() if value == max(values.values())}
  if len(runs) > 1 or len(names) > 6:  # a column for each score, a line for each representation
    lines = [[name, *(line[j] for line in lines)] for j, name in enumerate(names, 1)]
    return html.table(["", *(title for _, title in rows)], lines, {(j - 1, i + 1) for i, j in best})
  return html.table(["", *names], lines, best)


DATA = ("data.name", "data.data_dir", "data.classes", "eval.test_limit")  # what must agree for scores to be compared
COSTS = {"final_loss": "final loss", "train_seconds": "seconds of training, with compilation",
         "images_per_second": "images a second",
         "best_step": "best step", "best_knn_accuracy": "kNN at the best step"}


def _closing(run):
  found = {title: run.summary[key] for key, title in COSTS.items() if run.summary.get(key) is not None}
  return html.facts(found) if found else ""


def _costs(runs):
  lines = [[run.name, *(run.summary.get(key) for key in COSTS)] for run in runs if run.summary]
  return html.table(["", *COSTS.values()], lines) if lines else ""


def _differences(runs):
  missing = object()
  keys = dict.fromkeys(key for run in runs for key in run.config)
  rows = [[key, *(_value(run.config[key]) if key in run.config else "—" for run in runs)] for key in keys
          if any(run.config.get(key, missing) != runs[0].config.get(key, missing) for run in runs)]
  if not rows:
    return html.paragraph("These runs have the same config.")
  return html.table(["key", *(run.name for run in runs)], rows)


def _value(value):
  return '""' if value == "" else str(value)


def _config(run):
  """What differs from the defaults, and folded away every key."""
  defaults, missing = flat(config_dict(get_defaults())), object()
  changed = {key: value for key, value in run.config.items() if value != defaults.get(key, missing)}
  tables = [html.table(["key", "value"], [[key, _value(value)] for key, value in sorted(which.items())])
            for which in (changed, run.config)]
  return html.paragraph("Keys that differ from the defaults:") + tables[0] + html.folded("Every key", tables[1])


def _spectra(runs):
  """Of one run all three spectra, of several the embedding's of each."""
  lines = {}
  for run in runs:
    for i, name in enumerate(run.arrays.get("spectra", [])):
      if len(runs) == 1 or i == 0:
        label = name if len(runs) == 1 else run.name
        lines[f"{label}: {run.arrays['ranks'][i]:.1f}"] = run.arrays[f"spectrum_{i}"].tolist()
  title = "Spectrum on the test set, and effective rank" + ("" if len(runs) == 1 else ", after the projector")
  return [html.card(title, html.chart(charts.spectra(lines)))] if lines else []


def _maps(runs):
  cards, most = [], 12
  for run in runs:
    for i, learner in enumerate(run.arrays.get("maps", [])[:most - len(cards)]):
      share = f"{100 * float(run.arrays[f'map_share_{i}']):.0f}% of the variance"
      owner = "" if learner == "main" else str(learner)
      name = ", ".join(part for part in (line_name(run, owner, runs), share) if part)
      cards.append(html.card(name, html.chart(charts.scatter(
          run.arrays[f"map_{i}"], run.arrays[f"map_labels_{i}"], run.arrays["class_names"].tolist()))))
  return cards


def _pairs(arrays):
  rows = (("image", arrays["images"]), ("view u", arrays["views"][:, 0]), ("view v", arrays["views"][:, 1]))
  cells = [cell for name, images in rows
           for cell in (f'<span class="name">{name}</span>', *(html.image(one, name) for one in images))]
  return html.tiles(len(arrays["images"]) + 1, cells)


def _neighbors(arrays):
  names, cells = arrays["class_names"], []
  near = arrays["neighbors"]
  for i, (query, label) in enumerate(zip(arrays["queries"], arrays["query_labels"])):
    cells += [f'<span class="name">{html.text(names[label])}</span>',
              f"<figure>{html.image(query, names[label])}</figure>"]
    for one, other in zip(near[i], arrays["neighbor_labels"][i]):
      same = other == label
      caption = "" if same else f"<figcaption>{html.text(names[other])}</figcaption>"
      cells.append(f'<figure class="{"same" if same else "other"}">{html.image(one, names[other])}{caption}</figure>')
  note = html.paragraph("The test image is on the left. Green frame: the same class. Red frame: another class, "
                        "whose name is below.")
  return note + html.tiles(near.shape[1] + 2, cells)


def _tables(run, with_name):
  """Whatever else the summary holds in tables: {name: {column: number}}."""
  parts = []
  for key, value in run.summary.items():
    if key in ("learners", "raw_pixels", "random_init") or not isinstance(value, dict) or not value:
      continue
    rows = {name: row for name, row in value.items() if isinstance(row, dict)}
    if rows:
      columns = list(dict.fromkeys(column for row in rows.values() for column in row))
      lines = [["", *(named(column) for column in columns)]]
      lines += [[name, *(_cell(row.get(column)) for column in columns)] for name, row in rows.items()]
      if len(columns) > 8 and len(columns) > len(rows):  # rather long than wide
        lines = list(map(list, zip(*lines)))
      parts.append(html.section(_headed(key, run, with_name), html.table(lines[0], lines[1:])))
    numbers = {name: x for name, x in value.items() if isinstance(x, (int, float, str))}
    if numbers:
      parts.append(html.section(_headed(key, run, with_name), html.facts(numbers)))
  return "\n".join(parts)


def _headed(key, run, with_name):
  return key.replace("_", " ").capitalize() + (f" of {run.name}" if with_name else "")


def _cell(value):
  """Yes or nothing for a boolean, so that what is out of line stands out."""
  if isinstance(value, bool):
    return "yes" if value else ""
  return value if isinstance(value, (int, float, str)) else None
