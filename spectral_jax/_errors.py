"""What the project raises on purpose: a command prints its message alone; anything else keeps its traceback."""


class ConfigError(ValueError):
  """A setting, a file or a folder that cannot be used; the message has it, what came, what is expected, the remedy."""


class RunError(RuntimeError):
  """A run that had to stop for a reason that is known: a full disk, a damaged checkpoint, a loss that is not finite."""
