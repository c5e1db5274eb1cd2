"""Draws docs/picture.png, the picture of the README: the figure of docs/start.md.

``python scripts/docs/picture.py``
"""

import pathlib
import tempfile

import pages

PICTURE = pages.DOCS / "picture.png"


def main() -> None:
    """Runs the page, and keeps its figure."""
    with tempfile.TemporaryDirectory() as folder:
        _, namespace = pages.run(pages.DOCS / "start.md", pathlib.Path(folder))
    namespace["figure"].savefig(PICTURE, dpi=110, metadata={"Software": None})
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
