"""The averaged iterate: parameters without the noise of the last steps, and their tangents.

With weights that grow like t^p, and c_t = (p + 1) / (t + 1 + p)::

    w̄_{t+1} = w̄_t + c_t (w_{t+1} − w̄_t),   Z̄_{t+1} = Z̄_t + c_t (Z_{t+1} − Z̄_t)

The tangent of an average is the average of the tangents, so that it is exact. Near its noise floor
a loss falls at once when the rate falls, and what looks a few steps ahead takes the rate down too
early (Wu et al., 2018); the loss at the average has no such noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from hyperlr import _trees
from hyperlr._state import Average, PerName, Tangent
from hyperlr._trees import Tree

Evaluated = Callable[[optax.OptState, Tree], Tree]


def first_average(params: Tree, tangent: PerName) -> Average:
    """w̄_0 = w_0 and Z̄_0 = 0, in the dtypes of the tangent.

    Args:
      params: w_0.
      tangent: Z_0 = 0, one :class:`hyperlr._state.Tangent` for each name.
    """
    like = next(iter(tangent.values())).params
    moving = _trees.restricted(params, like)
    return Average(
        step_count=jnp.zeros((), jnp.int32),
        params=jax.tree.map(lambda w, z: jnp.array(w, z.dtype), moving, like),
        tangent=PerName((name, optax.tree.zeros_like(z.params)) for name, z in tangent.items()),
    )


def sound_average(average: Average, params: Tree, is_sound: jax.Array) -> Average:
    """The average as it is, or where it is not sound, without what went wrong.

    Z̄ is then 0, and w̄ is ``params`` where it is not finite.
    """

    def replaced(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(is_sound | jnp.isfinite(old), old, new.astype(old.dtype))

    moving = _trees.restricted(params, average.params)
    return average._replace(
        params=jax.tree.map(replaced, average.params, moving),
        tangent=jax.tree.map(lambda z: jnp.where(is_sound, z, jnp.zeros_like(z)), average.tangent),
    )


def next_average(
    average: Average, power: float | jax.Array, params: Tree, tangent: PerName
) -> Average:
    """w̄_{t+1} and Z̄_{t+1}.

    Args:
      average: w̄_t and Z̄_t.
      power: p ≥ 0; 0 is the plain mean.
      params: w_{t+1}.
      tangent: Z_{t+1}.
    """
    dtype = jnp.result_type(float)
    power = jnp.asarray(power, dtype)
    weight = (power + 1.0) / (average.step_count.astype(dtype) + 1.0 + power)

    def mean(old: jax.Array, new: jax.Array) -> jax.Array:
        return old + weight.astype(old.dtype) * (new.astype(old.dtype) - old)

    moving = _trees.restricted(params, average.params)
    return Average(
        step_count=optax.safe_increment(average.step_count),
        params=jax.tree.map(mean, average.params, moving),
        tangent=PerName(
            (name, jax.tree.map(mean, old, tangent[name].params))
            for name, old in average.tangent.items()
        ),
    )


def kept_average(
    average: Average, evaluated: Evaluated, params: Tree, inner_state: Tree, tangent: PerName
) -> Average:
    """The average that the inner optimizer keeps itself, and its tangents: a function of (w, s).

    Args:
      average: the one before, whose form it has.
      evaluated: the function of inner state and parameters, which returns it.
      params: w_{t+1}.
      inner_state: s_{t+1}.
      tangent: Z_{t+1}.
    """

    def differentiable(moving: Tangent) -> Tree:
        state = _trees.with_floats(inner_state, moving.inner_state)
        found = evaluated(state, _trees.with_floats(params, moving.params))
        return _trees.cast_like(_trees.restricted(found, average.params), average.params)

    like = next(iter(tangent.values()))
    moving = _trees.restricted(Tangent(params, inner_state), like)
    found = {
        name: jax.jvp(differentiable, (moving,), (_trees.cast_like(z, moving),))
        for name, z in tangent.items()
    }
    return Average(
        step_count=optax.safe_increment(average.step_count),
        params=next(iter(found.values()))[0],
        tangent=PerName(
            (name, _trees.cast_like(found[name][1], z)) for name, z in average.tangent.items()
        ),
    )
