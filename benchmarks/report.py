"""Turns a benchmark's rows into Markdown and puts them into docs/performance.md, with the machine they came from."""

import datetime
import os
import pathlib
import platform

import jax

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def table(rows):
  """Markdown of a list of dicts, one row each; columns are the keys of the first."""
  columns = list(dict.fromkeys(key for row in rows for key in row))
  lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
  lines += ["| " + " | ".join(_cell(row.get(key)) for key in columns) + " |" for row in rows]
  return "\n".join(lines)


def tables(named_rows):
  return "\n\n".join(f"### {name}\n\n{table(rows)}" for name, rows in named_rows.items() if rows)


def _cell(value):
  if value is None:
    return ""
  if isinstance(value, float):
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
  return f"{value:,}" if isinstance(value, int) else str(value)


def machine():
  """The processor, its cores, and the versions that the figures belong to."""
  cpu = next((line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine())
  devices = ", ".join(sorted({d.device_kind for d in jax.devices()}))
  return (f"{cpu}, {os.cpu_count()} cores; JAX device: {devices}; Python {platform.python_version()}, jax "
          f"{jax.__version__}; "
          f"{datetime.date.today():%Y-%m-%d}")


def _cpu_lines():
  try:
    return pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return []


def write(section, command, text, *, page=PAGE, note="Medians of one run."):
  """Replaces the part of a page between `section`'s markers; the first line says how and where it was made."""
  begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
  before, rest = page.read_text().split(begin)
  page.write_text(f"{before}{begin}\nMade by `{command}`. {machine()}. {note}\n\n{text}\n{end}{rest.split(end)[1]}")
