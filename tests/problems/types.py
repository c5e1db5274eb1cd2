"""What must not change from one update to the next."""

import jax


def types(tree):
    """Structure, shape, dtype and weak type: what a lax.scan carry must keep."""
    avals = jax.tree.map(lambda x: (jax.typeof(x).str_short(), jax.typeof(x).weak_type), tree)
    return jax.tree.structure(tree), jax.tree.leaves(avals)
