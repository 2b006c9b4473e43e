"""The documentation site, built by `make docs`: pages, notebooks, and the API from the docstrings.

Nothing is fetched when a page is looked at: equations become MathML, which browsers draw themselves.
"""

import pathlib
import re
import sys

from docutils import nodes
from latex2mathml.converter import convert

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import spectral_jax  # noqa: E402

HERE = ROOT / "docs"

# Sphinx takes pages from one folder alone. What a notebook finds in ../docs lies one folder up here, what the README
# finds in docs/ lies beside it, and the site does not hold the tests.
(HERE / "notebooks").mkdir(exist_ok=True)
for path in (ROOT / "notebooks").glob("*.ipynb"):
  (HERE / "notebooks" / path.name).write_text(path.read_text().replace("](../docs/", "](../"))
PAGES = {"README.md": "_readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
for source, page in PAGES.items():
  text = (ROOT / source).read_text().replace("](docs/", "](")
  text = re.sub(r"\]\((CONTRIBUTING|CHANGELOG)\.md\)", lambda match: f"]({match.group(1).lower()}.md)", text)
  (HERE / page).write_text(re.sub(r"\[([^]]*)\]\((tests/[^)]*|CITATION\.cff)\)", r"\1", text))

project = "spectral_jax"
author = "the authors of spectral_jax"
version = release = spectral_jax.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_nb"]
exclude_patterns = ["_build", "_readme.md", "**.ipynb_checkpoints"]
default_role = "code"  # docstrings write code and equations between single backticks

nb_execution_mode = "off"  # the tests run the notebooks; their outputs are kept in the files
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80  # longer ones: a line for each argument
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "spectral_jax"
html_static_path = ["_static"]
html_css_files = ["spectral_jax.css"]
html_math_renderer = "mathml"
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False}
html_copy_source = False


def _math(self, node, display):
  self.body.append(convert(node.astext(), display=display))
  raise nodes.SkipNode


def _as_napoleon_reads(app, what, name, obj, options, lines):
  """Equations set apart by four spaces keep their lines, and what goes on under Raises is no further exception."""
  raises = False
  for i, line in enumerate(lines):
    raises = line == "Raises:" or (raises and line.startswith(" "))
    if raises and line.startswith("  ") and not re.match(r" +\w+(, \w+)*: ", line):
      lines[i] = "    " + line
  for i in reversed(range(1, len(lines))):
    begins = lines[i].startswith("    ") and not lines[i - 1].strip()
    above = next((line for line in reversed(lines[:i]) if line.strip()), "")
    if begins and not above.startswith((" ", "- ", "Args:", ">>>")):
      lines[i:i] = ["::", ""]


def _skips(app, what, name, obj, skip, options):
  """The fields of named tuples, which their class describes, would each be "Alias for field number"."""
  return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
  app.connect("autodoc-process-docstring", _as_napoleon_reads, priority=400)  # before napoleon
  app.connect("autodoc-skip-member", _skips)
  of = lambda display: (lambda self, node: _math(self, node, display), None)
  app.add_html_math_renderer("mathml", of("inline"), of("block"))
