"""Sphinx for `make docs`: Airflow's theme, Markdown with MyST, the reference from docstrings.

The build needs no network. It fetches no inventories, so names of other projects are not links.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

# The reference imports Airflow as a library, without a database, in its own home.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="magichour-docs-")
os.environ["_AIRFLOW__AS_LIBRARY"] = "1"

from magichour_provider import __version__  # noqa: E402

project = "airflow-provider-magichour"
author = "The airflow-provider-magichour authors"
project_copyright = f"2026, {author}"
version = release = __version__
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_airflow_theme",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!magichour_provider\.).*"),  # other projects, and names that a signature shortens
    ("py:.*", r".*\.(_\w+|T)(\.\w+)?"),  # private names
    ("py:.*", r"magichour_provider\.client\.(downloads|protocol)\..*"),  # used by documented modules only
    ("py:.*", r"magichour_provider\.sandbox\.(faults|jobs|schemas)\..*"),
    ("py:.*", r"magichour_provider\.storage\.locations\..*"),
]

default_role = "code"
"""One pair of backticks is code, in docstrings as in Markdown."""

myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True, "exclude-members": "model_config"}
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 90

html_theme = "sphinx_airflow_theme"
html_theme_options = {"sidebar_collapse": True, "sidebar_includehidden": True}
html_title = f"{project} {version}"
html_short_title = project
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {"**": ["searchbox.html", "globaltoc.html"]}
html_copy_source = False
html_use_index = True
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"


def scroll_tables(app: Sphinx, doctree: nodes.document) -> None:
    """Wrap each table in a box, so that a wide table scrolls."""
    from docutils import nodes

    for table in list(doctree.findall(nodes.table)):
        box = nodes.container(classes=["table-box"])
        table.replace_self(box)
        box += table


def keep_drawings(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Show the indented lines of a module docstring as a drawing, as Markdown does."""
    if what != "module":
        return
    for number in reversed(range(1, len(lines))):
        if lines[number].startswith("    ") and not lines[number - 1]:
            lines[number:number] = ["::", ""]


def link_changelog(app: Sphinx, page: str, source: list[str]) -> None:
    """Turn a link to the file of the changelog, which is right on GitHub, into a link to its page."""
    source[0] = source[0].replace("](../CHANGELOG.md)", "](changelog.md)")


def setup(app: Sphinx) -> None:
    """Connect the handlers; Sphinx calls this."""
    from pygments.lexers.shell import BashLexer

    app.add_lexer("console", BashLexer)  # our blocks contain commands without prompts
    app.connect("autodoc-process-docstring", keep_drawings)
    app.connect("source-read", link_changelog)
    app.connect("doctree-read", scroll_tables)
