"""From the name of a rule in a comparison to the `selection` section of a run's config."""

from spectral_jax._errors import ConfigError
from spectral_jax._names import nearest
from spectral_jax.selection.epoch import COVERAGES, SPLITS

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


def rule_names():
  """Every name that `--rules` takes."""
  return [*RULES, *(f"{rule}_{coverage}" for rule in RULES if rule not in ("random", *SPLITS)
            for coverage in COVERAGES)]


def with_rule(config, rule, seed):
  """Returns a copy of `config` that selects by the rule of that name, from `seed`.

  >>> from spectral_jax.config import load_config
  >>> with_rule(load_config("digits"), "greedy_balanced", 3).selection.coverage
  'balanced'
  """
  if rule not in rule_names():
    raise ConfigError(f"--rules: {rule!r} is not known.{nearest(rule, rule_names())} Known are {', '.join(RULES)}, each "
                      f"but random, {', '.join(SPLITS)} also with an ending _{', _'.join(COVERAGES)}.")
  coverage = "independent"
  for ending in COVERAGES:
    if rule.endswith(f"_{ending}"):
      rule, coverage = rule.removesuffix(f"_{ending}"), ending
  copy = config.copy_and_resolve_references()
  copy.seed = seed
  copy.selection.update({"coverage": coverage, **RULES[rule]})
  return copy
