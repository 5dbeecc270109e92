"""Sphinx configuration: MyST pages, the Furo theme, and references that are generated from the package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pdkernel.common.version import VERSION

project = "pdkernel"
author = "The pdkernel authors"
project_copyright = "The pdkernel authors"
version = release = VERSION

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "generated_reference",
]
exclude_patterns = ["_build"]
smartquotes = False  # `--option` keeps its dashes
default_role = "code"  # docstrings and help texts mark code with one backtick

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

suppress_warnings = ["ref.python"]  # the word `type` could be the attribute of several classes

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}

html_theme = "furo"
html_title = f"pdkernel {VERSION}"
html_static_path = ["_static"]
html_css_files = ["pdkernel.css"]

copybutton_prompt_text = r"\$ |> "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_remove_prompts = True
