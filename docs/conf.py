"""The site: `make docs` builds it into build/docs. Texts lie where one reads them on a code host, too."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import robal

project = "robal"
author = copyright = "The robal authors"
version = release = robal.__version__

extensions = [
    "cyclopts.ext.sphinx",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
# The source is the whole repository, so that a link between two texts is right here and there.
root_doc = "docs/index"
include_patterns = [
    "docs/**",
    "benchmarks/README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "examples/*.py",
]
exclude_patterns = ["docs/site", "docs/**.py"]
html_extra_path = ["site"]  # sends / to /docs/

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# The examples are scripts; here they are run as notebooks.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_cache_path = "build/examples"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = True

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "robal"
html_show_sourcelink = False
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 5,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"docs/index": []}
default_role = "py:obj"

_CODE_OR_MARK = re.compile(r"(``?[^`]+``?)|([|*])")


def _plain_mathematics(_app: Sphinx, _what: str, _name: str, _it: object, _options: object, lines: list[str]) -> None:
    """Docstrings write |x| and ‖x‖* as one does on paper; to reStructuredText these are marks."""
    lines[:] = [_CODE_OR_MARK.sub(lambda found: found[1] or "\\" + found[2], line) for line in lines]


def _formula(self: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Formulas as MathML, which browsers draw by themselves: no script, nothing from elsewhere."""
    block = isinstance(node, nodes.math_block)
    self.body.append(convert(node.astext(), display="block" if block else "inline"))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    app.connect("autodoc-process-docstring", _plain_mathematics)
