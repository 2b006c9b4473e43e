"""The cells of a sweep: every combination of the values that config keys are to take.

`over` is written as on the command line, "loss.temperature=0.1,0.5,1;data.classes=2,5,10;seed=0,1,2": keys with the
values of each; the cells are the product.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import urllib.parse
from typing import TYPE_CHECKING

from spectral_jax._errors import ConfigError
from spectral_jax._names import nearest
from spectral_jax.config import keys
from spectral_jax.defaults import get_defaults
from spectral_jax.training.checks import MAY_BE_NONE, check_config

if TYPE_CHECKING:
  from collections.abc import Mapping, Sequence
  from typing import Any

  from spectral_jax._types import Config

LONGEST = 200  # characters of a folder's name; most file systems take 255 bytes
SEED = "seed"  # of the config; cells that differ in nothing else are one setting


def parse(over: str, config: Config) -> dict[str, list[Any]]:
  """Returns `{key: [values]}` of the words in `over`, each value of the type that the config's key has.

  Raises:
    ConfigError: a key that the config does not have, that stands twice or has no value; a value of another type, or
      twice.

  >>> from spectral_jax.config import load_config
  >>> parse("loss.temperature=0.1,1;data.classes=2,10;seed=0", load_config("digits"))
  {'loss.temperature': [0.1, 1.0], 'data.classes': ['2', '10'], 'seed': [0]}
  """
  axes = {}
  for part in filter(None, (part.strip() for part in split(over, ";"))):
    key, equals, words = part.partition("=")
    key = key.strip().removeprefix("config.")
    if not equals or not words.strip():
      raise ConfigError(f"--over: {part!r} names no values; write KEY=VALUE,VALUE;KEY=VALUE,...")
    if key in axes:
      raise ConfigError(f"--over has {key} twice; write all of its values after one")
    values = [_value(key, word.strip(), config) for word in split(words, ",")]
    if any(values[:i].count(value) for i, value in enumerate(values)):
      raise ConfigError(f"--over: {key} has one value twice in {words!r}")
    axes[key] = values
  if not axes:
    raise ConfigError("--over is empty; name the keys to vary, as in --over='loss.temperature=0.1,0.5;seed=0,1,2'")
  return axes


def cells(config: Config, axes: Mapping[str, Sequence[Any]]) -> dict[str, tuple[dict[str, Any], Config]]:
  """Returns `{name: (values, config)}`, an entry for each combination, in the order of nested loops.

  Raises:
    ConfigError: a combination that no run could use; the message names it.
  """
  made = {}
  for chosen in itertools.product(*axes.values()):
    values = dict(zip(axes, chosen))
    name, copy = cell_name(values), config.copy_and_resolve_references()
    for key, value in values.items():
      section, last = _at(copy, key)
      with section.unlocked():
        section[last] = value
    try:
      check_config(copy)
    except ConfigError as error:
      raise ConfigError(f"the cell {name} cannot be run: {error}") from None
    made[name] = values, copy
  return made


def cell_name(values: Mapping[str, Any]) -> str:
  """The name of a cell, and of its folder.

  >>> cell_name({"data.classes": "2", "seed": 0})
  'data.classes=2,seed=0'
  """
  name = urllib.parse.quote(",".join(f"{key}={value}" for key, value in values.items()), safe="=,.+ ()")
  if len(name) <= LONGEST:
    return name
  return f"{name[:LONGEST - 17]},{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def setting(values: Mapping[str, Any]) -> str:
  """What a cell has in common with those of other seeds: its values without the seed.

  >>> setting({"data.classes": "2", "seed": 0})
  'data.classes=2'
  """
  return ", ".join(f"{key}={value}" for key, value in values.items() if key != SEED) or "as configured"


def split(text: str, separator: str) -> list[str]:
  """Splits where the separator stands outside brackets and quotes.

  >>> split("gaussian(2.0),(1, 2),'a,b'", ",")
  ['gaussian(2.0)', '(1, 2)', "'a,b'"]
  """
  parts, depth, quote = [""], 0, ""
  for letter in text:
    quote = "" if letter == quote else letter if not quote and letter in "'\"" else quote
    if not quote:
      depth += (letter in "([{") - (letter in ")]}")
    if letter == separator and not quote and depth <= 0:
      parts.append("")
    else:
      parts[-1] += letter
  return parts


def _at(config, key):
  """The section that a key lies in, and the last part of its name."""
  *sections, last = key.split(".")
  for name in sections:
    config = config[name]
  return config, last


def _value(key, word, config):
  known = keys(config)
  section = key.rpartition(".")[0]
  if key not in known:
    if section in known and section.split(".")[-1] == "kwargs":  # a loss's own keywords: any name
      return _literal(word)
    hint = [k for k in known if k.split(".")[-1] == key] if "." not in key else []
    raise ConfigError(f"--over: the config has no key {key!r}."
                      + (f" Did you mean {hint[0]!r}?" if hint else nearest(key, known)))
  holder, last = _at(config, key)
  kind = holder.get_type(last)
  if hasattr(holder[last], "items"):
    raise ConfigError(f"--over: {key} is a section; name one of its keys: {', '.join(holder[last]) or 'it has none'}")
  if word == "None" and (holder[last] is None or _default(key) is None or key in MAY_BE_NONE):
    return None
  if kind is str:
    return word.strip("'\"")
  value = _literal(word)
  if kind is bool and word.lower() in ("true", "false"):
    value = word.lower() == "true"
  if kind is float and type(value) is int:
    value = float(value)
  if kind is tuple and isinstance(value, list):
    value = tuple(value)
  exact = kind in (int, float, bool)  # True is an int, and no seed
  if (type(value) is not kind) if exact else (not isinstance(value, kind) and holder[last] is not None):
    raise ConfigError(f"--over: {key} takes {kind.__name__}, got {word!r}")
  return value


def _default(key):
  config = get_defaults()
  if key not in keys(config):
    return key  # a learner's, say: it has none
  section, last = _at(config, key)
  return section[last]


def _literal(word):
  """A Python literal, or else the word itself."""
  try:
    return ast.literal_eval(word)
  except (ValueError, SyntaxError):
    return word
