"""report.html: what one run, or several side by side, left in their workdirs, on one page that needs no network.

Made from config.json, summary.json, metrics.jsonl and report.npz alone, and the same bytes whenever it is made from the
same files.
"""

import os
import pathlib
import zipfile
from typing import Any, NamedTuple

import numpy as np

from spectral_jax._errors import ConfigError
from spectral_jax.defaults import get_defaults
from spectral_jax.evaluation import SCORES
from spectral_jax.reports import charts, html
from spectral_jax.reports.gallery import ARRAYS
from spectral_jax.training.diagnostics import VANISHED
from spectral_jax.workdir.folder import SUMMARY, config_dict, flat, read_config, read_json
from spectral_jax.workdir.logs import METRICS, read_metrics

# Points of all lines of a page together: what keeps it below two megabytes.
MOST_POINTS = 45_000
# Lines that an eye still tells apart.
MOST_LINES = 20
COUNTED = ("step", "seconds", "trained_seconds", "evaluation_seconds")


class Panel(NamedTuple):
  """One chart: metrics that belong together, by their names without a learner's."""
  title: str
  metrics: tuple[tuple[str, str], ...]   # metric and its name in the legend
  logarithmic: bool = False
  band: tuple[str, str] | None = None    # metrics drawn as an area
  note: str = ""


PANELS = {
    "Learning": (
        Panel("Loss", (("loss", "loss"),)),
        Panel("Accuracy of nearest neighbors, test set", (("knn_accuracy", "k-NN"),)),
        Panel("Accuracy of nearest class centers, test set", (("nccc_accuracy", "NCCC"),)),
        Panel("Norm of the gradient of the parameters", (("gradient_norm", "gradient norm"),), True),
        Panel("Learning rate", (("learning_rate", "learning rate"),))),
    "Gradients of the embeddings, and their bounds": (
        Panel("Squared gradient norm, mean over anchors, in its band",
              (("band_lower", "lower bound"), ("band_upper", "upper bound"), ("band_value", "measured")), True,
              ("band_lower", "band_upper")),
        Panel("Bounds over the measured norm",
              (("band_upper_ratio", "upper bound"), ("band_lower_ratio", "lower bound"))),
        Panel("Effective negatives of an anchor", (("effective_negatives", "effective negatives"),)),
        Panel(f"Share of anchors that have all but stopped learning, q < {VANISHED}",
              (("vanished_share", "share"),))),
    "How the embedding uses its space": (
        Panel("Effective ranks of the embeddings",
              (("effective_rank", "entropy"), ("effective_rank_rankme", "RankMe"),
               ("effective_rank_participation", "participation"), ("effective_rank_stable", "stable"))),
        Panel("Largest eigenvalue's share", (("top_eigenvalue", "share"),)),
        Panel("Alignment", (("alignment", "alignment"),)),
        Panel("Uniformity", (("uniformity", "uniformity"),))),
    "Batches": (
        Panel("Effective rank of batches, in the bank", (("selected_rank", "selected"), ("random_rank", "random"))),
        Panel("Seconds of choosing", (("selection_seconds", "selection"), ("refresh_seconds", "making the bank")))),
    "Learners beside each other": (
        *(Panel(f"{title}, {layer}, test set", ((f"test_{layer}_{key}", title),))
          for key, title in (("cka", "Linear CKA"), ("rsa", "RSA"), ("mutual_knn", "Mutual nearest neighbors"))
          for layer in ("encoder", "projector")),
        Panel("Weight gap", (("weight_gap", "weight gap"),)),
        Panel("CKA of the similarities, its lower bound dashed",
              (("similarity_cka", "measured"), ("similarity_cka_bound", "bound"))),
        Panel("RSA of the similarities, its lower bound dashed",
              (("similarity_rsa", "measured"), ("similarity_rsa_bound", "bound"))),
        Panel("Drift of the similarities, its bound dashed",
              (("similarity_drift", "measured"), ("similarity_drift_bound", "bound")), True),
        Panel("Contrastive loss over label-aware, its bound dashed",
              (("loss_gap", "measured"), ("loss_gap_bound", "bound"))),
        *(Panel(f"{title}, {layer}, test set", ((f"test_{layer}_{key}", title),), True)
          for key, title in (("cdnv", "CDNV"), ("directional_cdnv", "Directional CDNV"))
          for layer in ("encoder", "projector"))),
}


class Recorded(NamedTuple):
  """What a workdir holds; a run that has not finished has no summary and no arrays."""
  name: str
  folder: pathlib.Path
  config: dict[str, Any]           # flat
  summary: dict[str, Any]
  series: dict[str, dict[int, float]]   # {metric, its learner's name included: {step: value}}
  arrays: dict[str, np.ndarray]


def write(path, folders):
  """Writes the page of some workdirs whole or not at all; returns its path."""
  path = pathlib.Path(path)
  content = page(recorded(folders))
  part = path.with_name(path.name + ".part")
  part.write_text(content, encoding="utf-8")
  os.replace(part, path)
  return path


def recorded(folders):
  """Reads workdirs; their names are as short as tells them apart.

  Raises:
    ConfigError: a folder is no workdir, is named twice, or has a damaged file.
  """
  folders = [pathlib.Path(folder).expanduser().absolute() for folder in folders]
  if len(set(folders)) < len(folders):
    raise ConfigError("a workdir is named twice; name each once")
  configs = [read_config(folder) for folder in folders]
  return [read(folder, name, config) for folder, name, config in zip(folders, _names(folders), configs)]


def read(folder, name, config):
  """One workdir, in words and numbers."""
  summary = read_json(folder / SUMMARY) if (folder / SUMMARY).exists() else {}
  series = {}
  for record in read_metrics(folder) if (folder / METRICS).exists() else []:
    for key, value in record.items():
      if key not in COUNTED and isinstance(value, (int, float)):
        series.setdefault(key, {})[record["step"]] = value
  arrays = {}
  if (folder / ARRAYS).exists():
    try:
      with np.load(folder / ARRAYS, allow_pickle=False) as stored:
        arrays = dict(stored)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
      raise ConfigError(f"{folder / ARRAYS} is damaged ({error}); delete it, and the report is made without pictures"
                        ) from error
  return Recorded(name, folder, flat(config_dict(config)), summary, series, arrays)


def _names(folders):
  for depth in range(1, max(len(folder.parts) for folder in folders)):
    names = ["/".join(folder.parts[-depth:]) for folder in folders]
    if len(set(names)) == len(names):
      return names
  return list(map(str, folders))


def page(runs):
  """The whole page of `Recorded` runs."""
  one = runs[0] if len(runs) == 1 else None
  title = _title(one) if one else f"{len(runs)} runs: " + ", ".join(run.name for run in runs)
  groups, others = _charts(runs)
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
  return f"{run.name}: {_losses(run)} on {run.config['data.name']}"


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
  """Every learner's scores, beside the run's baselines; the best of the trained stand out."""
  columns, trained = {}, []
  for run in runs:
    of_run = {**_learners(run), "raw pixels": run.summary.get("raw_pixels"),
              "random init": run.summary.get("random_init")}
    for name, scores in of_run.items():
      if scores:
        label = name if len(runs) == 1 else f"{run.name}" if name == "trained" else f"{run.name}: {name}"
        columns[label] = scores
        if name in _learners(run):
          trained.append(label)
  if not columns:
    return ""
  shots = {run.config["eval.shots"] for run in runs}
  few = f"{shots.pop()} labels a class" if len(shots) == 1 else "few labels a class"
  rows = [("effective_rank", "effective rank, test embedding")]
  rows = [(one.key, few if one.key == "few_shot_accuracy" else one.title) for one in SCORES] + rows
  rows += [(key, key.replace("_", " ")) for key in dict.fromkeys(k for scores in columns.values() for k in scores)
           if key.endswith("_accuracy") and key not in dict(rows) and not key.startswith("best_")]
  lines = [[title, *(scores.get(key) for scores in columns.values())] for key, title in rows]
  names, best = list(columns), set()
  for i, (key, _) in enumerate(rows):
    values = {j: columns[name][key] for j, name in enumerate(names, 1) if name in trained and key in columns[name]}
    if key.endswith("_accuracy") and values:
      best |= {(i, j) for j, value in values.items() if value == max(values.values())}
  if len(runs) > 1 or len(names) > 6:  # a column for each score, a line for each representation
    lines = [[name, *(line[j] for line in lines)] for j, name in enumerate(names, 1)]
    return html.table(["", *(title for _, title in rows)], lines, {(j - 1, i + 1) for i, j in best})
  return html.table(["", *names], lines, best)


COSTS = {"final_loss": "final loss", "train_seconds": "seconds of training", "images_per_second": "images a second",
         "best_step": "best step", "best_knn_accuracy": "k-NN there"}


def _closing(run):
  found = {title: run.summary[key] for key, title in COSTS.items() if run.summary.get(key) is not None}
  return html.facts(found) if found else ""


def _costs(runs):
  lines = [[run.name, *(run.summary.get(key) for key in COSTS)] for run in runs if run.summary]
  return html.table(["", *COSTS.values()], lines) if lines else ""


def _differences(runs):
  missing = object()
  keys = dict.fromkeys(key for run in runs for key in run.config)
  rows = [[key, *(_value(run.config.get(key, "")) for run in runs)] for key in keys
          if any(run.config.get(key, missing) != runs[0].config.get(key, missing) for run in runs)]
  if not rows:
    return html.paragraph("They do not: these runs have the same config.")
  return html.table(["key", *(run.name for run in runs)], rows)


def _value(value):
  return "—" if value is None else '""' if value == "" else str(value)


def _config(run):
  """What differs from the defaults, and folded away every key."""
  defaults, missing = flat(config_dict(get_defaults())), object()
  changed = {key: value for key, value in run.config.items() if value != defaults.get(key, missing)}
  tables = [html.table(["key", "value"], [[key, _value(value)] for key, value in sorted(which.items())])
            for which in (changed, run.config)]
  return html.paragraph("Not as the defaults:") + tables[0] + html.folded("Every key", tables[1])


def _charts(runs):
  """`({group: cards}, other cards)`: the panels that have data, and whatever else was measured."""
  total = sum(len(run.series) for run in runs)
  most = max(40, min(charts.MOST_POINTS, MOST_POINTS // max(total, 1)))
  used, groups = set(), {}
  for group, panels in PANELS.items():
    groups[group] = [card for panel in panels for card in _panel(runs, panel, most, used)]
  others = []
  for bare in dict.fromkeys(_bare(key) for run in runs for key in run.series if key not in used):
    others += _panel(runs, Panel(bare.replace("_", " "), ((bare, bare),)), most, used)
  return groups, others


def _bare(key):
  return key.rpartition("/")[2]


def _panel(runs, panel, most, used):
  """The cards of a panel: one with all its metrics where there is one source, else one for each metric."""
  sources = {}
  for run in runs:
    for owner in dict.fromkeys(key.rpartition("/")[0] for key in run.series):
      names = [f"{owner}/{metric}" if owner else metric for metric, _ in panel.metrics]
      found = {metric: run.series[name] for (metric, _), name in zip(panel.metrics, names)
               if any(np.isfinite(v) for v in run.series.get(name, {}).values())}
      # The main learner's accuracy stands for a run of several a second time, without a name.
      repeated = not owner and any(key.endswith(f"/{panel.metrics[0][0]}") for key in run.series)
      if found and not repeated:
        sources[_source(run, owner, runs)] = found
      used.update(name for name in names if name in run.series)
  if not sources:
    return []
  if len(sources) > 1 and all(found == next(iter(sources.values())) for found in sources.values()):
    sources = {"": next(iter(sources.values()))}  # the same line many times, such as the learning rate of every learner
  titles = dict(panel.metrics)
  bounds = [metric for metric in titles if metric.endswith("_bound")]
  if panel.band:
    return [html.card(panel.title + (f": {source}" if source else ""), html.chart(charts.lines(
        {titles[metric]: points for metric, points in found.items()}, logarithmic=panel.logarithmic, most=most,
        bands=[tuple(titles[metric] for metric in panel.band) + ("band",)] if set(panel.band) <= set(found) else [])))
        for source, found in list(sources.items())[:MOST_LINES] if set(found) - set(panel.band)]
  if len(sources) == 1:
    [(source, found)] = sources.items()
    series = [{titles[metric]: points for metric, points in found.items()}]
    heads = [panel.title + (f": {source}" if source else "")]
    dashed = [titles[metric] for metric in bounds]
  elif bounds:
    series = [{(source if metric not in bounds else f"{source}, bound"): points for source, found in sources.items()
               for metric, points in found.items()}]
    heads, dashed = [panel.title], [name for name in series[0] if name.endswith(", bound")]
  else:
    series = [{source: found[metric] for source, found in sources.items() if metric in found} for metric in titles]
    heads = [panel.title + (f": {title}" if len(titles) > 1 else "") for title in titles.values()]
    dashed = ()
  baselines = _baselines(runs) if panel.metrics[0][0] == "knn_accuracy" else None
  cards = []
  for head, lines in zip(heads, series):
    if not lines:
      continue
    left = len(lines) - MOST_LINES
    lines = dict(list(lines.items())[:MOST_LINES])
    note = html.paragraph(f"The first {MOST_LINES} lines; {left} more are left out.") if left > 0 else ""
    cards.append(html.card(head, html.chart(charts.lines(
        lines, logarithmic=panel.logarithmic and _positive(lines), baselines=baselines, dashed=dashed,
        most=most)) + note))
  return cards


def _positive(lines):
  return all(value > 0 for points in lines.values() for value in points.values() if np.isfinite(value))


def _source(run, owner, runs):
  owner = owner.replace("~", " ~ ")
  return owner if len(runs) == 1 else f"{run.name}: {owner}" if owner else run.name


def _baselines(runs):
  found = {run.name: run.summary["raw_pixels"]["knn_accuracy"] for run in runs if "raw_pixels" in run.summary}
  if len(set(found.values())) == 1:
    return {"raw pixels": next(iter(found.values()))}
  return {f"raw pixels, {name}": value for name, value in found.items()}


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
      name = ", ".join(part for part in (_source(run, owner, runs), share) if part)
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
  note = html.paragraph("Left the test image; a green frame is of its class, a red one of another, which is named.")
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
      lines = [["", *(column.replace("_", " ") for column in columns)]]
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
