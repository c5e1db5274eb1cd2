"""The notebooks run from end to end, in short; each is in sync with a text file, and stripped."""

import pathlib

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from problems import processes

FOLDER = pathlib.Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
WITH_FIGURES = ["first_steps", "mnist_lrs_opt", "toy_surfaces"]


def test_every_text_file_has_its_notebook_and_the_other_way_round():
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == NAMES
    assert set(WITH_FIGURES) <= set(NAMES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebook_and_text_file_are_in_sync(path):
    notebook = nbformat.read(path, as_version=4)
    text = jupytext.read(path.with_suffix(".py"))
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    assert cells == [(cell.cell_type, cell.source) for cell in text.cells], (
        f"run: jupytext --update --to ipynb {path.with_suffix('.py')}"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_outputs_are_stripped(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            # What jupytext notes of the text file may stay; what a run leaves may not.
            assert set(cell.metadata) <= {"lines_to_next_cell"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_every_cell_runs(path, monkeypatch):
    monkeypatch.setenv("HYPERLR_SHORT", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    monkeypatch.setenv("XLA_FLAGS", processes.QUICK_TO_COMPILE)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert any(output.get("name") == "stdout" for output in outputs)
    if path.stem in WITH_FIGURES:
        assert any("image/png" in output.get("data", {}) for output in outputs)
    complaints = [output.text for output in outputs if output.get("name") == "stderr"]
    assert complaints == []
