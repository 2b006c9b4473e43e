"""Writes the sections of docs/results.md on coupled learners and on batch sizes, from stored results of sweeps.

  python benchmarks/results.py                # from docs/results_alignment.json and docs/results_batches.json
  python benchmarks/results.py --from=DIR     # first makes these two of the sweeps in DIR, in folders of these names

A sweep that is not there is left out of its section, which says so. Every sentence that states an outcome is computed.
"""

import argparse
import itertools
import json
import math
import pathlib
import re
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from spectral_jax.studies import curves, page
from spectral_jax.studies.intervals import interval, spearman

DOCS = ROOT / "docs"
ALIGNMENT = ("coupled_digits", "coupled_omniglot_classes", "coupled_omniglot_temperature", "coupled_time")
BATCHES = ("batch_softmax", "batch_kcl", "sensitivity_softmax", "sensitivity_kcl")
VARIANCE = "batch_variance"
KEPT = ("knn_accuracy", "linear_accuracy", "few_shot_accuracy", "test_encoder_cka", "test_encoder_cka_unbiased",
        "test_encoder_rsa", "test_encoder_mutual_knn", "test_projector_cka", "weight_gap", "similarity_drift",
        "similarity_drift_bound", "similarity_drift_largest", "similarity_cka", "similarity_cka_bound",
        "similarity_rsa", "similarity_rsa_bound", "loss_gap", "loss_gap_bound", "test_projector_alignment",
        "test_projector_uniformity",
        "test_projector_wasserstein_uniformity", "test_projector_effective_rank", "step")
OTHERS = ("nscl", "supcon", "cross_entropy")
WRITTEN = "Written by `python benchmarks/results.py` from the JSON beside this page."
PUBLISHED = ("Published, not measured here: CIFAR-100, ResNet-50, 300 epochs, CKA(CL, NSCL) .91 and RSA .91; at "
             "temperatures .1, .5 and 1 CKA of about .85, .95 and .97; CKA(CL, SCL) of .04 on Tiny-ImageNet "
             "(arXiv 2510.08852).")


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--from", dest="folder", type=pathlib.Path, help="a folder of sweeps")
  options = parser.parse_args()
  if options.folder:
    for name, sweeps in (("alignment", ALIGNMENT), ("batches", BATCHES)):
      _store(name, {sweep: compact(options.folder / sweep, sweep == "coupled_time") for sweep in sweeps
                    if (options.folder / sweep / "results.json").exists()})
    variance = options.folder / f"{VARIANCE}.json"
    if variance.exists():
      _store("variance", json.loads(variance.read_text()))
  stored = {name: json.loads(path.read_text()) if (path := DOCS / f"results_{name}.json").exists() else {}
            for name in ("alignment", "batches", "variance")}
  results = DOCS / "results.md"
  page.write_section(results, "alignment", "Contrastive and supervised learners under shared randomness",
                     alignment(stored["alignment"]))
  page.write_section(results, "batches", "Batch size: InfoNCE, DCL, DHEL and KCL",
                     batches(stored["batches"], stored["variance"]))


def _store(name, content):
  text = json.dumps(content, separators=(",", ":")).replace('{"values"', '\n{"values"')  # a run a line
  (DOCS / f"results_{name}.json").write_text(text + "\n")


def compact(folder, whole):
  """What the page needs of a sweep: of each run the values, and the last point (all of them where `whole`)."""
  content = json.loads((folder / "results.json").read_text())
  kept = lambda point: {key: float(f"{value:.6g}") for key, value in point.items() if key.rpartition("/")[2] in KEPT}
  named = lambda names: names if len(names) <= 50 else len(names)
  about = {**content["about"], "command": re.sub(r"data_dir=\S+", "data_dir=DIR", content["about"]["command"])}
  return {"about": about, "failures": content["failures"], "runs": [
      {"values": run["values"], "class_names": named(run["class_names"]),
       "curve": [kept(point) for point in (run["curve"] if whole else run["curve"][-1:])]} for run in content["runs"]]}


# Alignment -----------------------------------------------------------------------------------------------------------

def alignment(sweeps):
  lines = [WRITTEN, "", "Learners `cl` (DCL), `nscl`, `supcon` and `cross_entropy` of one run begin as one network, "
           "and see the same batches and views. CKA is the linear, biased one that papers report, RSA Pearson's on "
           "cosines; both of the encoder's features on the whole test set. Means with 95% intervals over seeds "
           "(Student's t).", "",
           PUBLISHED, ""]
  for sweep, title in (("coupled_digits", "Digits"), ("coupled_omniglot_classes", "Omniglot, number of classes"),
                       ("coupled_omniglot_temperature", "Omniglot, temperature")):
    if sweep not in sweeps:
      lines += [f"### {title}", "", "Not run.", ""]
      continue
    runs = sweeps[sweep]["runs"]
    if sweep == "coupled_omniglot_temperature":
      more = sweeps.get("coupled_omniglot_classes", {"runs": []})["runs"]
      runs = sorted(runs + [run for run in more if run["values"]["data.classes"] == "242"],
                    key=lambda run: run["values"]["loss.temperature"])
    lines += [f"### {title}", "", *_origin(sweeps[sweep]), *_pairs_table(runs), "", *_closest(runs), *_trends(runs), ""]
    if sweep == "coupled_digits":
      picture = curves.save_against(DOCS / "results_alignment.png", "data.classes", _panels(runs))
      lines += [f"![CKA against the number of classes]({picture})", ""]
  if "coupled_time" in sweeps:
    lines += _over_time(sweeps["coupled_time"])
  runs = [run for sweep in sweeps.values() for run in sweep["runs"]]
  return "\n".join([*lines, *_bounds(runs)])


def _origin(sweep):
  about = sweep["about"]
  failed = f" Failed cells: {', '.join(sweep['failures'])}." if sweep["failures"] else ""
  return [f"`{about['command']}`", "", f"{about['date']}, {about['hardware']}, shared. {about['setting']} "
          f"Seeds {about['seeds']}.{failed}", ""]


def _cells(runs):
  """`{(classes, temperature): [last point of each seed]}`."""
  found = {}
  for run in runs:
    key = int(run["values"].get("data.classes", 0)), run["values"]["loss.temperature"]
    found.setdefault(key, []).append(run["curve"][-1])
  return found


def _of_pair(point, a, b, metric):
  return point[f"{'~'.join(sorted((a, b)))}/{metric}"]


def _pairs_table(runs):
  head = [f"CKA(cl, {other})" for other in OTHERS] + ["RSA(cl, nscl)", "mutual kNN(cl, nscl)", "weight gap(cl, nscl)"]
  wanted = [(other, "test_encoder_cka") for other in OTHERS] + [
      ("nscl", metric) for metric in ("test_encoder_rsa", "test_encoder_mutual_knn", "weight_gap")]
  lines = ["| classes | temperature | " + " | ".join(head) + " |", "|---:|---:|" + "---:|" * len(head)]
  for (classes, temperature), points in _cells(runs).items():
    values = [_plain([_of_pair(point, "cl", other, metric) for point in points]) for other, metric in wanted]
    lines.append(f"| {classes} | {temperature:g} | " + " | ".join(values) + " |")
  return lines


def _closest(runs):
  """In which cells NSCL is nearer to CL than the others are, seed by seed."""
  lines = []
  for other in OTHERS[1:]:
    said = {"nearer": [], "farther": [], "not distinguishable": []}
    for (classes, temperature), points in _cells(runs).items():
      cka = lambda point, name: _of_pair(point, "cl", name, "test_encoder_cka")
      mean, half = interval([cka(point, "nscl") - cka(point, other) for point in points])
      side = "nearer" if mean > half else "farther" if mean < -half else "not distinguishable"
      said[side].append(f"{classes} classes at {temperature:g}")
    told = "; ".join(f"{side}: {', '.join(cells)}" for side, cells in said.items() if cells)
    lines.append(f"- NSCL against {other} by CKA with CL, differences within a seed whose interval excludes zero: "
                 f"{told}.")
  return lines


def _trends(runs):
  """Whether CKA(cl, nscl) grows from the smallest to the largest number of classes, and temperature."""
  cells, lines = _cells(runs), []
  for axis, what in ((0, "number of classes"), (1, "temperature")):
    for fixed in sorted({key[1 - axis] for key in cells}):
      keys = sorted(key for key in cells if key[1 - axis] == fixed)
      if len(keys) < 2:
        continue
      series = [[_of_pair(p, "cl", "nscl", "test_encoder_cka") for p in cells[key]] for key in keys]
      mean, half = interval(np.subtract(series[-1], series[0]))
      verdict = "rises" if mean > half else "falls" if mean < -half else "no change can be told"
      at = f"temperature {fixed:g}" if axis == 0 else f"{fixed} classes"
      lines.append(f"- CKA(cl, nscl) with the {what}, at {at}, from {keys[0][axis]:g} to {keys[-1][axis]:g}: {verdict} "
                   f"({_signed(mean, half)}; means {', '.join(f'{np.mean(s):.3f}' for s in series)}).")
  return lines


def _panels(runs):
  panels = {}
  for (classes, temperature), points in _cells(runs).items():
    for other in OTHERS:
      panels.setdefault(f"CKA of the features, temperature {temperature:g}", {}).setdefault(f"cl ~ {other}", []).append(
          (classes, [_of_pair(point, "cl", other, "test_encoder_cka") for point in points]))
  return panels


def _over_time(sweep):
  """Do weights drift apart while representations stay aligned?"""
  lines = ["### Weights against representations, over training", "", *_origin(sweep)]
  by_temperature = {}
  for run in sweep["runs"]:
    by_temperature.setdefault(run["values"]["loss.temperature"], []).append(run["curve"])
  heads = [f"{what}, cl ~ {other}" for what in ("weight gap", "CKA") for other in OTHERS]
  lines += ["| temperature | step | " + " | ".join(heads) + " |",
            "|---:|---:|" + "---:|" * 6]
  verdicts, drawn = [], {}
  for temperature, seeds in by_temperature.items():
    for points in zip(*seeds):
      row = [_plain([_of_pair(p, "cl", other, metric) for p in points])
             for metric in ("weight_gap", "test_encoder_cka") for other in OTHERS]
      lines.append(f"| {temperature:g} | {points[0]['step']:.0f} | " + " | ".join(row) + " |")
    for metric, what in (("weight_gap", "weight gap"), ("test_encoder_cka", "CKA")):
      for other in OTHERS:
        drawn.setdefault(f"{what}, temperature {temperature:g}", {})[f"cl ~ {other}"] = [
            (int(points[0]["step"]), [_of_pair(p, "cl", other, metric) for p in points]) for points in zip(*seeds)]
      change = interval([_of_pair(c[-1], "cl", "nscl", metric) - _of_pair(c[0], "cl", "nscl", metric) for c in seeds])
      first, last = (np.mean([_of_pair(c[i], "cl", "nscl", metric) for c in seeds]) for i in (0, -1))
      verdicts.append(f"- {what}(cl, nscl) at temperature {temperature:g}: {first:.3f} at step "
                      f"{seeds[0][0]['step']:.0f}, {last:.3f} at step {seeds[0][-1]['step']:.0f}, a change of "
                      f"{_signed(*change)}.")
  picture = curves.save_against(DOCS / "results_alignment_time.png", "step", drawn, columns=2)
  return [*lines, "", *verdicts, "", f"![Weight gap and CKA over training]({picture})", ""]


def _bounds(runs):
  """What the bounds said, over all cells and evaluations."""
  points = [point for run in runs for point in run["curve"]]
  if not points:
    return []
  lines = ["### The bounds", ""]
  gaps = [(point[key], point[f"{key}_bound"]) for point in points for key in point if key.endswith("/loss_gap")]
  if gaps:
    ratios = [gap / bound for gap, bound in gaps if bound > 0]
    lines.append(f"- Loss gap: {sum(gap <= bound for gap, bound in gaps)} of {len(gaps)} measured lie within the "
                 f"bound, at {min(ratios):.1%} to {max(ratios):.1%} of it. (The tests ask it of every step.)")
  for name, title in (("similarity_cka", "CKA"), ("similarity_rsa", "RSA")):
    rows = [(point[key], point[f"{key}_bound"]) for point in points for key in point if key.endswith(f"/{name}")]
    if rows:
      held = sum(value >= bound - 1e-4 for value, bound in rows)
      vacuous = sum(bound <= 0 for _, bound in rows)
      rest = [value - bound for value, bound in rows if bound > 0]
      lines.append(f"- {title} of similarities by their distance: {held} of {len(rows)} measured lie above the bound, "
                   f"which is vacuous (0 or less) in {vacuous}; elsewhere it is below the value by "
                   f"{np.median(rest):.3f} (median).")
  drifts = [(run["values"]["loss.temperature"], point) for run in runs for point in run["curve"]
            if "cl~nscl/similarity_drift_bound" in point]
  for temperature, of_temperature in itertools.groupby(sorted(drifts, key=lambda row: row[0]), key=lambda row: row[0]):
    rows = [point for _, point in of_temperature]
    bounds = [row["cl~nscl/similarity_drift_bound"] for row in rows]
    vacuous = sum(not b < row["cl~nscl/similarity_drift_largest"] for b, row in zip(bounds, rows))
    exceeded = sum(row["cl~nscl/similarity_drift"] > b for b, row in zip(bounds, rows))
    measured = _range([row["cl~nscl/similarity_drift"] for row in rows])
    lines.append(f"- Drift of similarities at temperature {temperature:g}: measured {measured}, "
                 f"the theorem's number {_range(bounds)}: vacuous in {vacuous}, exceeded in {exceeded} of {len(rows)}.")
  if drifts:
    lines += ["", "The theorem on drift is about gradient descent on the similarities themselves; the runs descend in "
              "parameters with AdamW, whose step sizes stand for the theorem's. Where its number is exceeded, it is "
              "not a bound on such a run. "
              "`notebooks/04_alignment.ipynb` has the descent that it is about."]
  return lines


# Batch sizes ---------------------------------------------------------------------------------------------------------

MEASURES = (("few_shot_accuracy", "few labels"), ("linear_accuracy", "linear"), ("knn_accuracy", "kNN"),
            ("test_projector_alignment", "alignment"), ("test_projector_uniformity", "uniformity"),
            ("test_projector_wasserstein_uniformity", "Wasserstein uniformity"),
            ("test_projector_effective_rank", "effective rank"))


def batches(sweeps, variance):
  lines = [WRITTEN, "", "One encoder, the same seeds and as many epochs at every batch size, the learning rate "
           "growing with its root. Measured on the test set: accuracy of frozen features; of the projections "
           "alignment and uniformity (lower is closer, more uniform), Wasserstein uniformity (0 is uniform) and "
           "effective rank (entropy). Means with 95% intervals over seeds. As many epochs means fewer steps of larger batches.", ""]
  runs = []
  for sweep in BATCHES[:2]:
    if sweep not in sweeps:
      lines += [f"The sweep {sweep} was not run.", ""]
      continue
    lines += _origin(sweeps[sweep])
    runs += sweeps[sweep]["runs"]
  if runs:
    lines += [*_measures(runs, ("loss.name", "batch_size")), "", *_batch_trends(runs), "", *_which_ranks(runs), ""]
    panels = {title: _lines_of(runs, key) for key, title in MEASURES if key != "linear_accuracy"}
    picture = curves.save_against(DOCS / "results_batches.png", "batch size", panels)
    lines += [f"![Measures against the batch size]({picture})", ""]
  for sweep, key in ((BATCHES[2], "loss.temperature"), (BATCHES[3], "loss.kwargs.gamma")):
    lines += [f"### Sensitivity to {key}", ""]
    if sweep in sweeps:
      lines += [*_origin(sweeps[sweep]), *_measures(sweeps[sweep]["runs"], ("loss.name", key)), ""]
    else:
      lines += ["Not run.", ""]
  return "\n".join([*lines, *_variance(variance)]).rstrip()


def _by(runs, keys):
  found = {}
  for run in runs:
    found.setdefault(tuple(run["values"][key] for key in keys), []).append(run["curve"][-1])
  return found


def _measures(runs, keys):
  heads = [*(key.rpartition(".")[2] for key in keys), *(title for _, title in MEASURES)]
  lines = [f"| {' | '.join(heads)} |",
           "|---|---:|" + "---:|" * len(MEASURES)]
  for values, points in _by(runs, keys).items():
    cells = [_plain([point[key] for point in points], 2 if "rank" in key else 3) for key, _ in MEASURES]
    lines.append(f"| {' | '.join(map(str, values))} | " + " | ".join(cells) + " |")
  return lines


def _batch_trends(runs):
  """What few labels' accuracy does from the smallest to the largest batch, and whether losses differ."""
  cells, lines = _by(runs, ("loss.name", "batch_size")), []
  accuracy = lambda name, size: [point["few_shot_accuracy"] for point in cells[name, size]]
  for name in dict.fromkeys(name for name, _ in cells):
    sizes = sorted(size for of, size in cells if of == name)
    mean, half = interval(np.subtract(accuracy(name, sizes[-1]), accuracy(name, sizes[0])))
    verdict = "rises" if mean > half else "falls" if mean < -half else "no change can be told"
    lines.append(f"- Few labels' accuracy of {name} from batches of {sizes[0]} to {sizes[-1]}: {verdict} "
                 f"({_signed(mean, half)}).")
  for name in dict.fromkeys(name for name, _ in cells if name != "info_nce"):
    sizes = sorted(size for of, size in cells if of == name and ("info_nce", size) in cells)
    apart = {size: interval(np.subtract(accuracy(name, size), accuracy("info_nce", size))) for size in sizes}
    told = [f"{size} ({_signed(*apart[size])})" for size in sizes if abs(apart[size][0]) > apart[size][1]]
    lines.append(f"- {name} against info_nce at the same batch size and seed: "
                 f"{'differs at ' + ', '.join(told) if told else 'no difference can be told at any size'}.")
  return lines


def _lines_of(runs, key):
  lines = {}
  for (loss, size), points in _by(runs, ("loss.name", "batch_size")).items():
    lines.setdefault(loss, []).append((size, [point[key] for point in points]))
  return lines


def _which_ranks(runs):
  """Rank correlation of each measure with accuracy, over all runs and within each loss."""
  lines = ["Does a measure rank runs by their accuracy? Spearman's correlation with it, with a 95% bootstrap interval "
           "over runs (uniformities with their sign turned: more uniform is larger). Runs of one seed and batch size are "
           "alike whatever the loss: over all of them the interval is too narrow.", "",
           "| runs | number | accuracy | " + " | ".join(title for _, title in MEASURES[4:]) + " |",
           "|---|---:|---|" + "---:|" * 3]
  groups = {"all": runs}
  for run in runs:
    groups.setdefault(run["values"]["loss.name"], []).append(run)
  for name, group in groups.items():
    last = [run["curve"][-1] for run in group]
    for accuracy, title in (MEASURES[0], MEASURES[2]):
      cells = []
      for key, _ in MEASURES[4:]:
        sign = -1 if "uniformity" in key else 1
        value, low, high = spearman([sign * point[key] for point in last], [point[accuracy] for point in last])
        cells.append(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")
      lines.append(f"| {name} | {len(group)} | {title} | " + " | ".join(cells) + " |")
  return lines


def _variance(content):
  lines = ["### Gradient variance against the batch size", ""]
  if not content:
    return [*lines, "Not run."]
  about, runs = content["about"], content["runs"]
  lines += [f"`{about['command']}`", "", f"{about['machine']}. The digits, the network of half the digits config's "
            f"width after {about['steps']} steps, {about['batches']} batches a size, running batch statistics, "
            f"{len(runs)} seeds. `B variance` is the batch size times the trace of the covariance of the parameters' "
            "gradient, over its value at 512: 1 for a mean over independent examples.", ""]
  names, sizes = list(runs[0]["rows"]), list(next(iter(runs[0]["rows"].values())))
  lines += ["| B | " + " | ".join(f"{name}: loss | B variance | variance / squared mean" for name in names) + " |",
            "|---:|" + "---:|" * 3 * len(names)]
  for size in sizes:
    cells = []
    for name in names:
      rows = [run["rows"][name] for run in runs]
      cells += [_plain([row[size]["loss"][0] for row in rows]),
                _plain([int(size) * row[size]["variance"] / (512 * row["512"]["variance"]) for row in rows], 2),
                f"{np.mean([row[size]['normalized'] for row in rows]):.3g}"]
    lines.append(f"| {size} | " + " | ".join(cells) + " |")
  over = lambda name, of: [(int(size), [of(run["rows"][name][size]) for run in runs]) for size in sizes]
  logarithm = lambda row: math.log10(row["variance"])
  panels = {"log10 of the gradient's variance": {name: over(name, logarithm) for name in names},
            "mean loss": {name: over(name, lambda row: row["loss"][0]) for name in names}}
  picture = curves.save_against(DOCS / "results_variance.png", "batch size", panels)
  return [*lines, "", *_expectations(runs, names, sizes), "", f"![Gradient variance against the batch size]({picture})"]


def _expectations(runs, names, sizes):
  """Whether the expected loss depends on the batch."""
  lines = []
  for name in names:
    first, last = ([run["rows"][name][size]["loss"][0] for run in runs] for size in (sizes[0], sizes[-1]))
    mean, half = interval(np.subtract(last, first))
    verdict = "changes" if abs(mean) > half else "no change can be told"
    lines.append(f"- Mean loss of {name} from B = {sizes[0]} to {sizes[-1]}: {verdict} ({_signed(mean, half)}).")
  return lines


# Numbers -------------------------------------------------------------------------------------------------------------

def _plain(values, digits=3):
  mean, half = interval(values)
  return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def _signed(mean, half):
  return f"{mean:+.3f} ± {half:.3f}"


def _range(values):
  low, high = min(values), max(values)
  return f"{low:.3g} to {high:.3g}"


if __name__ == "__main__":
  main()
