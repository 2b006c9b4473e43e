"""Unknown names answered with the nearest right one."""

import difflib

from spectral_jax._errors import ConfigError


def nearest(name, allowed):
  """Returns ' Did you mean ...?' or an empty string."""
  close = difflib.get_close_matches(str(name), [str(a) for a in allowed], n=1, cutoff=0.5)
  return f" Did you mean {close[0]!r}?" if close else ""


def check_name(key, value, allowed):
  """Raises ConfigError naming the config key, what came, the nearest right one and all that are allowed."""
  if value not in allowed:
    raise ConfigError(
        f"config.{key}={value!r} is not known.{nearest(value, allowed)} "
        f"It must be one of {', '.join(map(repr, sorted(allowed)))}.")
