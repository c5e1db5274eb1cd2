"""The site has every page and every public name, and nothing in it leads astray."""

import importlib
import inspect
import re
import tomllib

import pages
import pytest

PUBLIC = ["hyperlr"] + [
    f"hyperlr.{name}" for name in ("curvature", "flax", "offline", "optimizers", "plots")
]
PUBLIC += ["hyperlr.rules", "hyperlr.schedules", "hyperlr.search"]


def public_names(module):
    module = importlib.import_module(module)
    names = getattr(module, "__all__", None) or ["plot_metrics"]
    return {name: getattr(module, name) for name in names}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_reference_has_every_public_name(module):
    documented = re.findall(r"^\.\. auto\w+:: ([\w.]+)$", (pages.DOCS / "api.md").read_text(), re.M)
    assert len(documented) == len(set(documented)), "a name is there twice"
    objects = [
        getattr(importlib.import_module(path), name)
        for path, name in (entry.rsplit(".", 1) for entry in documented)
    ]
    for name, value in public_names(module).items():
        if not hasattr(value, "__path__"):  # a package has no entry, its names have
            assert any(value is x for x in objects), f"docs/api.md has no {module}.{name}"


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_has_a_docstring_with_arguments_and_result(module):
    for name, value in public_names(module).items():
        if hasattr(value, "__path__"):
            continue
        assert value.__doc__, name
        if not isinstance(value, type):
            signature = inspect.signature(value)
            assert "Args:" in value.__doc__ or not signature.parameters, name
            assert "Returns:" in value.__doc__ or signature.return_annotation is None, name
            assert ">>> " in value.__doc__, name


def test_every_page_is_in_the_table_of_contents():
    trees = "".join(
        re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL)[i]
        for page in (pages.DOCS / "index.md", pages.DOCS / "gallery.md")
        for i in range(len(re.findall(r"```\{toctree\}", page.read_text())))
    )
    entries = {line for line in trees.splitlines() if line and not line.startswith(":")}
    there = {page.stem for page in pages.DOCS.glob("*.md")} - {"index"}
    there |= {f"notebooks/{path.stem}" for path in (pages.ROOT / "notebooks").glob("*.py")}
    assert entries == there


def test_links_hold_where_the_readme_is_shown_alone():
    """The package index has the README and nothing beside it (pyproject.toml)."""
    project = tomllib.loads((pages.ROOT / "pyproject.toml").read_text())
    [cut] = project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    readme = (pages.ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", re.sub(cut["pattern"], cut["replacement"], readme))
    assert not [link for link in links if not link.startswith(("https://", "#"))]
    assert all((pages.ROOT / path).is_file() for path in re.findall(r"docs/\w+\.\w+", readme))


def test_every_figure_that_a_page_shows_is_saved_by_one():
    saved = {name for page in pages.PAGES for name in pages.figures(page.read_text())}
    shown = {
        name
        for page in pages.DOCS.glob("*.md")
        for name in re.findall(r"_figures/([\w.-]+)", page.read_text())
    }
    assert shown <= saved
