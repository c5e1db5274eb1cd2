"""Writes the tables of docs/comparison.md, from what ``hyperlr compare`` has left in a folder.

``python scripts/docs/comparison.py results/compare`` also copies the figures that the page shows.
"""

import argparse
import json
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import pages
from rich.table import Table

from hyperlr.experiments.comparison import summary
from hyperlr.experiments.core.experiment import Summary

PAGE = pages.DOCS / "comparison.md"
_PLACE = re.compile(r"(<!-- tables -->\n).*?(<!-- end of tables -->)", re.DOTALL)
_FIGURE = re.compile(r"\]\(gallery/compare_(\w[\w-]*)\.png\)")


def main(results: pathlib.Path) -> None:
    """Replaces the tables between the two comments, and the figures that the page links to."""
    stored = json.loads((results / "metrics.json").read_text())
    found = Summary(_with_arrays(stored["methods"]), {}, stored["config"])
    tables = "\n".join(markdown(table) for table in summary.table(found))
    text = _PLACE.sub(lambda match: f"{match[1]}\n{tables}\n{match[2]}", PAGE.read_text())
    PAGE.write_text(text)
    for name in sorted(set(_FIGURE.findall(text))):
        shutil.copy(results / f"{name}.png", pages.DOCS / "gallery" / f"compare_{name}.png")
    print(f"wrote {PAGE}")


def markdown(table: Table) -> str:
    """A table of the terminal as one of Markdown, with its title above."""
    columns = table.columns
    rows = [[str(column.header) for column in columns], ["---"] * len(columns)]
    rows += zip(*([cell.replace("\n", " ") for cell in c.cells] for c in columns), strict=True)
    lines = ("| " + " | ".join(row) + " |" for row in rows)
    return f"**{table.title}**\n\n" + "\n".join(lines) + "\n"


def _with_arrays(node: Any) -> Any:
    """Lists as arrays, in which what was not finite is NaN again."""
    if isinstance(node, dict):
        return {name: _with_arrays(each) for name, each in node.items()}
    return np.array(node, float) if isinstance(node, list) else node


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=pathlib.Path, help="the folder of --out")
    main(parser.parse_args().results)
