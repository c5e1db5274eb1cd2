"""Prints the oldest versions of jax and optax that pyproject.toml allows, as requirements of pip.

``python scripts/checks/oldest_requirements.py`` prints a line such as ``jax==0.6.0 optax==0.2.5``.
"""

import pathlib
import re
import tomllib

PYPROJECT = pathlib.Path(__file__).parents[2] / "pyproject.toml"


def pinned(requirements: list[str]) -> list[str]:
    """Each requirement ``name>=version`` as ``name==version``.

    Raises:
      ValueError: one of them is not of this form, so that its oldest version is not known.
    """
    found = []
    for requirement in requirements:
        match = re.fullmatch(r"([\w-]+)>=([\w.]+)", requirement.replace(" ", ""))
        if match is None:
            raise ValueError(f"{requirement!r} is not of the form name>=version")
        found.append("==".join(match.groups()))
    return found


if __name__ == "__main__":
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    print(*pinned(project["dependencies"]))
