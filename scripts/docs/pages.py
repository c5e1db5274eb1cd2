"""Runs the Python of the pages of the site, and writes what it prints and draws into them.

A page is Markdown. Its blocks marked ``python`` run from top to bottom in one namespace, in a
folder of their own, where figures are saved; a block marked ``text`` right after one is what it
prints. The tests run every page and compare (tests/docs/test_pages.py); the site's figures are
what the pages save (docs/conf.py).

``python scripts/docs/pages.py docs/start.md`` writes the ``text`` blocks of a page anew.
"""

import contextlib
import io
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# The README and the guide for contributors run like the pages of the site.
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])

_FENCE = re.compile(r"^( *)```python\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_OUTPUT = re.compile(r"\n+ *```text\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
# Training is chaotic: a processor that adds in another order changes the last digits shown.
TOLERANCE = 0.2


class Block(NamedTuple):
    """A block of Python in a page.

    Attributes:
      code: without the indentation of a list that it may be in.
      output: the text block after it, ``None`` where there is none.
      span: where the contents of that text block begin and end in the page.
      line: in the page, of the first line of code; for error messages.
    """

    code: str
    output: str | None
    span: tuple[int, int]
    line: int


def blocks(text: str) -> Iterator[Block]:
    """Every block of Python in a page."""
    for match in _FENCE.finditer(text):
        indent, code = match.groups()
        output = _OUTPUT.match(text, match.end())
        yield Block(
            code=re.sub(f"^{indent}", "", code, flags=re.MULTILINE),
            output=output and output.group(1),
            span=output.span(1) if output else (match.end(), match.end()),
            line=text.count("\n", 0, match.start(2)) + 1,
        )


def run(page: pathlib.Path, folder: pathlib.Path) -> tuple[list[str], dict[str, Any]]:
    """Runs a page in a folder; what each block printed, and the names that are left."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    with contextlib.chdir(folder), jax.numpy_rank_promotion("allow"):  # as a reader's JAX does
        for block in blocks(page.read_text()):
            # Errors name the page and its line.
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(code, namespace)
            printed.append(out.getvalue())
    return printed, namespace


def differs(printed: str, shown: str, tolerance: float = TOLERANCE) -> str | None:
    """What a block printed and the page does not show, if anything.

    Words and whole numbers must agree, other numbers up to ``tolerance`` of their size or one in
    the last digit shown.
    """
    if _NUMBER.sub("#", printed).split() != _NUMBER.sub("#", shown).split():
        return f"printed\n{printed}\nbut the page shows\n{shown}"
    for was, told in zip(_NUMBER.findall(printed), _NUMBER.findall(shown), strict=True):
        digits = len(told.partition(".")[2]) if "e" not in told else math.inf
        close = was == told
        if not close and digits:
            close = math.isclose(
                float(was), float(told), rel_tol=tolerance, abs_tol=1.1 * 10.0**-digits
            )
        if not close:
            return f"printed {was} where the page shows {told}, in\n{printed}"
    return None


def figures(text: str) -> list[str]:
    """The names of the files that a page saves."""
    return re.findall(r"savefig\(\"([\w.-]+)\"", text)


def draw(folder: pathlib.Path) -> None:
    """Runs the pages that save figures, those that are older than their figures left alone."""
    folder.mkdir(exist_ok=True)
    for page in PAGES:
        files = [folder / name for name in figures(page.read_text())]
        if any(not f.exists() or f.stat().st_mtime < page.stat().st_mtime for f in files):
            run(page, folder)


def main(names: list[str]) -> None:
    """Writes the outputs of the pages named."""
    drawn = DOCS / "_figures"
    drawn.mkdir(exist_ok=True)
    for page in map(pathlib.Path, names):
        text = page.read_text()
        printed, _ = run(page.resolve(), drawn)
        for block, out in reversed(list(zip(blocks(text), printed, strict=True))):
            if block.output is not None:
                text = text[: block.span[0]] + out + text[block.span[1] :]
        page.write_text(text)
        print(f"wrote {os.fspath(page)}")


if __name__ == "__main__":
    main(sys.argv[1:])
