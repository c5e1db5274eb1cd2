"""The Python of docs/flax.md runs as printed."""

import pathlib
import re

import jax
import numpy as np

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "flax.md"


def test_every_python_block_runs_and_the_learning_rates_move(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    namespace = {}
    with jax.numpy_rank_promotion("allow"):  # what a reader's JAX does
        for code in blocks:
            exec(code, namespace)
    out = capsys.readouterr().out
    for name in ("nnx", "linen", "equinox"):
        lines = re.findall(rf"{name}: loss ([\d.]+), learning rate ([\d.]+)", out)
        losses, rates = zip(*((float(a), float(b)) for a, b in lines), strict=True)
        assert len(set(rates)) == len(rates) == 4
        assert losses[-1] < losses[0]
    assert namespace["found"].value < 0.8 * namespace["found"].values[0]
    np.testing.assert_allclose(namespace["solution"].value, 3.0, rtol=1e-3)
