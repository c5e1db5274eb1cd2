"""The README's Python runs as printed."""

import pathlib
import re

import jax

README = pathlib.Path(__file__).parents[2] / "README.md"


def test_every_python_block_runs_and_the_learning_rate_moves(capsys):
    blocks = re.findall(
        r"^( *)```python\n(.*?)^ *```", README.read_text(), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) >= 3
    namespace = {}
    with jax.numpy_rank_promotion("allow"):  # what a reader's JAX does
        for indent, code in blocks:
            exec(re.sub(f"^{indent}", "", code, flags=re.MULTILINE), namespace)
    lines = re.findall(r"loss ([\d.]+), learning rate ([\d.]+)", capsys.readouterr().out)
    losses, rates = zip(*((float(a), float(b)) for a, b in lines), strict=True)
    assert len(set(rates)) == len(rates) == 4
    assert losses[-1] < losses[0]
