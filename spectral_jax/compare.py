"""Rules of batch selection against each other: does choosing batches by their spectrum save time?

  python -m spectral_jax.compare [--config=configs/NAME.py] [--rules=random,greedy_balanced,...] [--seeds=0,1,2,3,4]
      [--target=0.98] [--knn_target=0.97] [--workdir=DIR] [--page=docs/results.md [--section=NAME]]
      [--config.KEY=VALUE ...]

Trains the config once for every rule and seed, from the same initialization with the same augmentations, and scores it
every `eval_every_epochs`. Leaves results.json, table.md and curves.png; runs that are there already are not repeated,
so a comparison that was stopped goes on, and rules and seeds can be added.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from spectral_jax import command
from spectral_jax._errors import ConfigError
from spectral_jax.command import flags

if TYPE_CHECKING:
  from collections.abc import Sequence

  from spectral_jax._types import Config

RULES = flags.DEFINE_list(
    "rules", "random,greedy_balanced,greedy_independent,pool_p1,pool_p3,log_det,hard", "Rules to compare.")
SEEDS = flags.DEFINE_list("seeds", "0,1,2,3,4", "Seeds of the initialization, the augmentations and the batches.")
TARGET = flags.DEFINE_float("target", 0.98, "Linear accuracy to reach.", lower_bound=0.0, upper_bound=1.0)
KNN_TARGET = flags.DEFINE_float(
    "knn_target", None, "kNN accuracy to reach; by default --target.", lower_bound=0.0, upper_bound=1.0)
PAGE = flags.DEFINE_string(
    "page", None, "A page of results, e.g. docs/results.md, that gets or renews this comparison's section.")
SECTION = flags.DEFINE_string("section", None, "Name of the page's section; by default the config's.")


def main(config: Config, name: str) -> None:
  # After the flags: a wrong one is reported at once.
  from spectral_jax.studies import curves, page, selection_rules
  from spectral_jax.studies.intervals import summarize
  from spectral_jax.studies.study import Study, conduct, publish

  rules, seeds = RULES.value, seeds_of(SEEDS.value)
  labels = {f"{rule}-{seed}": {"rule": rule, "seed": seed} for seed in seeds for rule in rules}
  knn_target = TARGET.value if KNN_TARGET.value is None else KNN_TARGET.value
  targets = {"linear_accuracy": TARGET.value, "knn_accuracy": knn_target}
  study = Study(
      module="spectral_jax.compare", seeds=seeds, labels=labels, section=page.section,
      cases={case: selection_rules.with_rule(config, **label) for case, label in labels.items()},
      setting=f"{config.model.encoder}, {config.loss.name}, batches of {config.batch_size}, epochs that a bank serves: "
              f"{config.bank.refresh_epochs}, {config.selection.candidates or 'all'} candidates.",
      tell=lambda runs: {"targets": targets, "summary": summarize(runs, targets)},
      draw=lambda folder, content: curves.save_comparison(
          folder / "curves.png", content["runs"], targets, content["about"]["clock"]))
  folder = pathlib.Path(command.WORKDIR.value or f"runs/compare-{name}")
  content = conduct(study, config, folder)
  if PAGE.value:
    title = f"{content['runs'][0]['dataset']}: {len(seeds)} seeds"
    publish(pathlib.Path(PAGE.value), SECTION.value or name, title, study, content, folder)


def seeds_of(words: Sequence[str]) -> list[int]:
  """The seeds as integers, or a ValueError that names the one that is not."""
  try:
    seeds = [int(word) for word in words]
  except ValueError:
    raise ConfigError(f"--seeds must be integers with commas between them, got {','.join(words)!r}") from None
  if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
    raise ConfigError(f"--seeds must name at least one seed, none twice and none negative; got {','.join(words)!r}")
  return seeds


if __name__ == "__main__":
  command.run(main)
