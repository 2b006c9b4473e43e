"""From the name of a rule in a comparison to the `selection` section of a run's config."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from spectral_jax._errors import ConfigError
from spectral_jax._names import nearest
from spectral_jax.config import keys
from spectral_jax.selection.epoch import COVERAGES, SPLITS

if TYPE_CHECKING:
  from spectral_jax._types import Config

# A rule that does not name its coverage chooses every batch from all examples, as published rules do.
RULES = {
    "random": {"rule": "random"},
    "greedy": {"rule": "greedy", "objective": "max"},
    "greedy_min": {"rule": "greedy", "objective": "min"},
    "greedy_target": {"rule": "greedy", "objective": "target"},
    "pool_p1": {"rule": "pool", "policy": "P1"},
    "pool_p2": {"rule": "pool", "policy": "P2"},
    "pool_p3": {"rule": "pool", "policy": "P3"},
    "log_det": {"rule": "log_det"},
    "hard": {"rule": "hard"},
    "submodular": {"rule": "submodular"},
    # These split the examples: they have one coverage, and take no ending.
    **{rule: {"rule": rule, "coverage": "balanced"} for rule in SPLITS},
}


def rule_names() -> list[str]:
  """Every name that `--rules` takes."""
  return [*RULES, *(f"{rule}_{coverage}" for rule in RULES if rule not in ("random", *SPLITS)
            for coverage in COVERAGES)]


def with_rule(config: Config, rule: str, seed: int) -> Config:
  """Returns a copy of `config` that selects by the rule of that name, from `seed`.

  Settings of the rule may follow its name: "greedy:candidates=8" is Greedy-8, "greedy_balanced:bank.refresh_epochs=5"
  is chosen from a bank that serves five epochs. A key without a section is one of `config.selection`.

  >>> from spectral_jax.config import load_config
  >>> with_rule(load_config("digits"), "greedy_balanced:candidates=8", 3).selection.coverage
  'balanced'
  """
  bare, *settings = rule.split(":")
  if bare not in rule_names():
    raise ConfigError(f"--rules: {bare!r} is not known.{nearest(bare, rule_names())} Known are {', '.join(RULES)}, "
                      f"each but random, {', '.join(SPLITS)} also with an ending _{', _'.join(COVERAGES)}.")
  kind, coverage = bare, "independent"
  for ending in COVERAGES:
    if bare.endswith(f"_{ending}"):
      kind, coverage = bare.removesuffix(f"_{ending}"), ending
  copy = config.copy_and_resolve_references()
  copy.seed = seed
  copy.selection.update({"coverage": coverage, **RULES[kind]})
  copy.update_from_flattened_dict(dict(_setting(rule, word, keys(config)) for word in settings))
  return copy


def _setting(name, word, known):
  """`(key, value)` of a setting in a rule's name, the key with its section."""
  key, equals, text = word.partition("=")
  full = key if "." in key else f"selection.{key}"
  if not equals or full not in known:
    own = [k.removeprefix("selection.") for k in known]
    raise ConfigError(f"--rules: {name!r} has the setting {word!r}, which must be KEY=VALUE, KEY of config.selection "
                      f"or with its section.{nearest(key, own)}")
  try:
    return full, ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return full, text  # a word
