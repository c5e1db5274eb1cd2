"""The Python of every page runs as printed, prints what the page shows, and learns."""

import math
import re
import subprocess
import sys

import numpy as np
import pages
import pytest

WITH_CODE = [page for page in pages.PAGES if any(pages.blocks(page.read_text()))]


@pytest.mark.parametrize("page", WITH_CODE, ids=[page.stem for page in WITH_CODE])
def test_every_block_runs_and_prints_what_is_shown(page, tmp_path):
    printed, namespace = pages.run(page, tmp_path)
    shown = list(pages.blocks(page.read_text()))
    for block, out in zip(shown, printed, strict=True):
        if block.output is None:
            assert out == "", f"line {block.line}: {out!r} is printed and not shown"
        else:
            problem = pages.differs(out, block.output)
            assert problem is None, f"{page.name}, line {block.line}: {problem}"
    assert {path.name for path in tmp_path.iterdir()} == set(pages.figures(page.read_text()))
    check = CHECKS.get(page.stem)
    if check:
        check("".join(printed), namespace)


# What a page promises beyond what it prints.


def _losses_and_rates(out, name):
    lines = re.findall(rf"{name}loss ([\d.]+), learning rate ([\d.]+)", out)
    return [[float(x) for x in column] for column in zip(*lines, strict=True)]


def _readme(out, namespace):
    auto, adam, best = (float(x) for x in re.findall(r"test loss ([\d.]+)", out))
    assert 0.01 < auto < 1.2 * best < 0.05  # of 0.5 at the start, and 0.01 of noise
    assert auto < 0.6 * adam


def _start(out, namespace):
    correct = dict(re.findall(r"^(auto|adam\(1e-3\)) +test accuracy ([\d.]+)%", out, re.MULTILINE))
    assert float(correct["auto"]) > float(correct["adam(1e-3)"]) > 85


def _flax(out, namespace):
    for name in ("nnx", "linen"):
        losses, rates = _losses_and_rates(out, f"{name}: ")
        assert len(set(rates)) == len(rates) == 4
        assert losses[-1] < 0.6 * losses[0]
    [mean] = map(float, re.findall(r"the mean alone: ([\d.]+)", out))
    on_new_data = [float(x) for x in re.findall(r"on new data: ([\d.]+)", out)]
    assert len(on_new_data) == 3
    assert max(on_new_data) < 0.55 * mean
    [auto, adam] = map(float, re.findall(r"(?:auto, on new data|adam\(1e-3\)): ([\d.]+)", out))
    assert auto < adam
    assert namespace["found"].value < 0.8 * namespace["found"].values[0]


def _own_loop(out, namespace):
    losses = [float(x) for x in re.findall(r"^loss ([\d.]+)(?: body .*)?$", out, re.MULTILINE)]
    assert len(losses) >= 11
    assert max(losses) < 0.1  # of 0.5 at the start, and 0.01 of noise
    np.testing.assert_allclose(namespace["solution"].value, 3.0, rtol=1e-3)


def _how_do_i_know(out, namespace):
    losses = [float(x) for x in re.findall(r"loss on new data (\S+)", out)]
    well, beta, kappa, nan, floor, averaged, *_ = losses
    assert math.isnan(beta)
    assert well < min(kappa, nan)
    assert averaged < 0.2 * floor


CHECKS = {
    "README": _readme,
    "start": _start,
    "flax": _flax,
    "own_loop": _own_loop,
    "how_do_i_know": _how_do_i_know,
}


def test_checks_are_of_pages_that_exist():
    assert set(CHECKS) <= {page.stem for page in WITH_CODE}


def test_output_is_compared_by_words_and_by_numbers_up_to_rounding():
    assert pages.differs("loss 0.051, rate 1.02e-3\n", "loss 0.050, rate 1.00e-3\n") is None
    assert pages.differs("loss nan", "loss nan") is None
    assert pages.differs("loss 0.065", "loss 0.050") is not None
    assert pages.differs("loss 2e-3", "loss 1e-3") is not None
    assert pages.differs("after 3 steps", "after 4 steps") is not None
    assert pages.differs("loss nan", "loss 0.050") is not None
    assert pages.differs("True", "False") is not None


def test_blocks_are_found_in_lists_and_with_their_output():
    in_a_list = "- a\n\n  ```python\n  print(1)\n  ```\n\n  ```text\n  1\n  ```\n\n"
    text = in_a_list + "```python\nx = 2\n```\n"
    first, second = pages.blocks(text)
    assert first.code == "print(1)\n"
    assert first.output.strip() == "1"
    assert text[slice(*first.span)] == first.output
    assert first.line == 4
    assert (second.code, second.output) == ("x = 2\n", None)


def test_an_error_names_the_page_and_the_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\nundefined\n```\n")
    with pytest.raises(NameError) as info:
        pages.run(page, tmp_path)
    frame = info.traceback[-1]
    assert (frame.path.name, frame.lineno + 1) == ("page.md", 5)


def test_the_script_writes_outputs(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n```\n")
    subprocess.run([sys.executable, pages.__file__, str(page)], check=True, capture_output=True)
    assert page.read_text() == "```python\nprint(1 + 1)\n```\n\n```text\n2\n```\n"
