"""The JavaScript that draws the charts: Vega, Vega-Lite and Vega-Embed as vl-convert ships them, without a network."""

from __future__ import annotations

import contextlib
import functools
import os

import vl_convert

from spectral_jax.data.cache import cache_dir

# What runs in the page beside the libraries: each chart is drawn where its specification stands, and drawn anew at the
# right width when a part of the page that holds it is opened.
GLUE = """
for (const spec of document.querySelectorAll("script.chart")) {
  vegaEmbed(spec.nextElementSibling, JSON.parse(spec.textContent), {
    renderer: "svg", actions: {export: true, source: false, compiled: false, editor: false}});
}
addEventListener("toggle", () => dispatchEvent(new Event("resize")), true);
"""


@functools.cache
def bundle() -> str:
  """The libraries as one script, the same bytes for one version of vl-convert. It takes seconds, so it is kept."""
  path = cache_dir() / f"vega-{vl_convert.__version__}.js"  # pyright: ignore[reportAttributeAccessIssue]
  if path.is_file():
    return path.read_text()
  script = vl_convert.javascript_bundle().replace("</script", "<\\/script")  # pyright: ignore[reportCallIssue]
  with contextlib.suppress(OSError):  # a cache that cannot be written costs seconds, nothing else
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(script)
    part.replace(path)
  return script
