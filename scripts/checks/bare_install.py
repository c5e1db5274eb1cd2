"""Learns a rate with what a bare ``pip install hyperlr`` brings; run by ``.ci/package``.

Fails where hyperlr is not the installed one, or where something of an extra is there after all.
"""

import importlib.metadata
import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import optax

import hyperlr


def loss(params: jax.Array, batch: jax.Array) -> jax.Array:
    """The squared distance of the parameters from a batch of points."""
    return jnp.mean((params - batch) ** 2)


def main() -> None:
    """Checks where hyperlr comes from, that it is alone, and that it learns."""
    assert pathlib.Path(hyperlr.__file__).is_relative_to(sys.prefix), hyperlr.__file__
    assert importlib.metadata.version("hyperlr") == hyperlr.__version__
    extras = ["flax", "matplotlib", "mlxtend", "orbax", "rich", "typer"]
    assert not [name for name in extras if importlib.util.find_spec(name)]

    tx = hyperlr.auto(hyperlr.optimizers.adam)
    params, batch = jnp.zeros(3), jnp.ones((8, 3))
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        value, grads, extra = hyperlr.value_and_grad(loss)(params, batch, state=state)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state, value

    params, state, first = step(params, state)
    rate = hyperlr.metrics(state)["learning_rate"]
    for _ in range(20):
        params, state, last = step(params, state)
    assert last < first
    assert hyperlr.metrics(state)["learning_rate"] != rate
    print(f"hyperlr {hyperlr.__version__} in jax {jax.__version__}, optax {optax.__version__}:")
    print(f"  loss {first:.3f} to {last:.3f}, first learning rate {rate:.3g}")


if __name__ == "__main__":
    main()
