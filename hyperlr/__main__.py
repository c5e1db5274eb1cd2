"""Entry point of the command `hyperlr` and of `python -m hyperlr`."""

import importlib.util
import sys

_EXTRA = ("matplotlib", "mlxtend", "orbax", "rich", "typer")


def main() -> None:
    """Runs the command line, or says which extra it needs."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"Error: the experiments need {', '.join(missing)}; install the extra: "
            'pip install "hyperlr[experiments]"'
        )
    from hyperlr.experiments.cli import app

    app(prog_name="hyperlr")


if __name__ == "__main__":
    main()
