"""Imports point one way, optax and JAX are used through public names, the base install is small."""

import ast
import importlib.util
import pathlib
import subprocess
import sys

import pytest

import hyperlr

PACKAGE = pathlib.Path(hyperlr.__file__).parent
BASE = {"jax", "optax", "chex"}
# What a single file needs of an extra; it imports it when it is called, not before (tested below).
EXTRAS = {"_files": {"orbax"}, "plots": {"matplotlib", "numpy"}}
SHARED = {"_trees", "_numbers", "_inner_step", "_derivatives", "_linearize"}
ROOMS = {"methods", "rules", "search", "offline", "optimizers", "schedules", "curvature"}
FORBIDDEN = {
    "_files": SHARED | ROOMS,
    "_checks": SHARED | ROOMS,
    "_trees": {"_numbers", "_inner_step", "_derivatives", "_linearize"} | ROOMS,
    "_numbers": {"_inner_step", "_derivatives", "_linearize"} | ROOMS,
    "_inner_step": ROOMS,
    "_derivatives": {"_linearize"} | ROOMS,
    "_linearize": ROOMS,
    "methods": {"offline", "optimizers", "schedules", "curvature"},
    "rules": ROOMS - {"rules"},
    "search": ROOMS - {"search"},
    "offline": ROOMS - {"offline"},
    "optimizers": {"methods", "offline", "rules", "search"},
    "schedules": {"methods", "offline", "rules", "search"},
    "curvature": {"methods", "offline", "rules", "search"},
}
FILES = sorted(PACKAGE.rglob("*.py"))
# In experiments: what all share imports nothing of what is above it, and no experiment another.
SHARED_BY_EXPERIMENTS = {"core", "data", "methods", "networks", "training"}
ALLOWED_IN_EXPERIMENTS = {
    "core": {"core"},
    "data": {"core", "data"},
    "methods": {"core"},
    "networks": {"networks"},
    "training": {"data", "methods", "networks"},
    "curvature": SHARED_BY_EXPERIMENTS | {"curvature", "surfaces"},  # for Beale's function
    "cli": {"core", "digits", "cifar", "comparison"},  # and others by their names
}


def imported_modules(path):
    """Every dotted name that a file imports, also inside functions; ``from a import b`` is a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


SCRIPTS = sorted((pathlib.Path(__file__).parents[1] / "scripts").rglob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=[f.name for f in SCRIPTS])
def test_what_scripts_import_of_this_project_is_there(path, monkeypatch):
    """They are run by hand, now and then, and would not be missed until then."""
    monkeypatch.syspath_prepend(str(path.parent))
    for module in imported_modules(path):
        name, _, attribute = module.rpartition(".")
        if name.partition(".")[0] in {"hyperlr", "problems"} | {f.stem for f in SCRIPTS}:
            found = importlib.import_module(name)
            assert hasattr(found, attribute) or importlib.util.find_spec(module), module


@pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(PACKAGE)) for f in FILES])
def test_imports_point_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "hyperlr" and len(parts) > 1:
            assert parts[1] not in FORBIDDEN.get(part, set()), f"{path} imports {name}"
            if part not in ("experiments", "__main__"):
                assert parts[1] != "experiments", f"{path} imports {name}"
                assert part == "flax" or parts[1] != "flax", f"{path} imports {name}"
        if parts[0] in BASE or (parts[0] == "flax" and part == "flax"):
            assert not any(p.startswith("_") for p in parts), f"{path} imports private {name}"
        elif parts[0] != "hyperlr" and part not in ("experiments", "__main__"):
            known = sys.stdlib_module_names | EXTRAS.get(part, set())
            assert parts[0] in known, f"{path} needs {parts[0]}"


@pytest.mark.parametrize(
    "path",
    [f for f in FILES if "experiments" in f.parts],
    ids=lambda f: f"{f.parent.name}/{f.name}",
)
def test_imports_of_experiments_point_one_way(path):
    room = path.relative_to(PACKAGE / "experiments").parts[0].removesuffix(".py")
    allowed = ALLOWED_IN_EXPERIMENTS.get(room, SHARED_BY_EXPERIMENTS | {room})
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[:2] == ["hyperlr", "experiments"] and len(parts) > 2:
            assert parts[2] in allowed, f"{path} imports {name}"


def test_importing_hyperlr_loads_nothing_of_the_extras():
    extras = ["flax", "matplotlib", "mlxtend", "orbax", "rich", "typer"]
    code = f"import sys, hyperlr; print([m for m in {extras} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
