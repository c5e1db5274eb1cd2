"""Configuration of the site: ``sphinx-build -W -n docs site``, as ``.ci/docs`` calls it."""

import importlib
import os
import pathlib
import shutil
import sys

import hyperlr

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT / "scripts" / "docs"))
os.environ.setdefault("MPLBACKEND", "agg")

pages = importlib.import_module("pages")  # from the folder of scripts

project = "hyperlr"
author = "the hyperlr authors"
project_copyright = author
release = version = hyperlr.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",  # formulas without a network, too
]
exclude_patterns = ["conf.py", "_build", "_figures"]
source_suffix = {".md": "myst-nb", ".py": "myst-nb"}

# Pages.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nitpicky = True

# The notebooks are text; they are executed when the site is built (HYPERLR_SHORT=1: in short).
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_cache_path = str(DOCS / "_build" / ".notebooks")
nb_execution_timeout = 1_200
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

# The reference.
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures have them in the source; the docstrings have the words
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_use_ivar = True

# Looks.
html_theme = "sphinx_book_theme"
html_title = "hyperlr"
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]


def _copy_notebooks() -> None:
    """Notebooks live beside the site, for those who open them in Jupyter."""
    folder = DOCS / "notebooks"
    folder.mkdir(exist_ok=True)
    sources = {source.name: source for source in (ROOT / "notebooks").glob("*.py")}
    for copy in folder.iterdir():
        if copy.name not in sources:
            copy.unlink()
    for name, source in sources.items():
        target = folder / name
        if not target.exists() or target.read_text() != source.read_text():
            shutil.copyfile(source, target)


def setup(app):
    """Makes what the pages show."""
    _copy_notebooks()
    pages.draw(DOCS / "_figures")
