"""The rule that moves a whole schedule fast: Adam on log η, with smoothed, normalized gradients."""

import functools

import jax
import jax.numpy as jnp
import optax

_LARGEST_STEP = 0.5


@functools.cache
def smoothed_log_adam(
    distance: float, num_iterations: int, width: int
) -> optax.GradientTransformation:
    """Returns Adam on log η with steps that shrink to nothing in the course of the iterations.

    The gradient of log η_t is η_t times that of η_t. Single entries of it are mostly noise of the
    minibatches, so it is averaged twice over `width` neighbouring steps; and near the largest
    stable learning rate it sometimes is a hundred times longer than usual, so it is brought to
    length 1 before Adam sees it. Steps that shrink take the place of an average of the schedules.

    Args:
      distance: how far log η can move in all iterations together; 4.6 is a factor of 100. It bounds
        η: beyond the largest stable learning rate the runs that survive still ask for more, and
        those that do not have no gradient.
      num_iterations: how many outer iterations there will be. With few, the steps are as long as is
        safe, and the distance is shorter.
      width: neighbours that are averaged, odd; 1 for none.
    """
    # The mean of the cosine is half of its peak.
    peak = min(_LARGEST_STEP, 2 * distance / max(1, num_iterations))
    steps = optax.cosine_decay_schedule(peak, max(1, num_iterations))

    def smoothed(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        # A triangle of neighbours, without the sudden end of a single mean.
        return jax.tree.map(lambda g: smooth(smooth(g, width), width), updates)

    return log_space(
        optax.chain(
            optax.stateless(smoothed),
            optax.normalize_by_update_norm(),
            optax.scale_by_adam(b1=0.8, b2=0.99),
            optax.scale_by_learning_rate(steps),
        )
    )


def log_space(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a transformation to log η: η ← η exp(u), u its update for the gradient η ∂f/∂η."""

    def init_fn(params: optax.Params) -> optax.OptState:
        return inner.init(jax.tree.map(jnp.log, params))

    def update_fn(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        assert params is not None
        in_log = jax.tree.map(jnp.multiply, updates, params)
        steps, state = inner.update(in_log, state, jax.tree.map(jnp.log, params))
        factors = jax.tree.map(lambda value, step: value * jnp.expm1(step), params, steps)
        return factors, state

    return optax.GradientTransformation(init_fn, update_fn)


def smooth(values: jax.Array, width: int) -> jax.Array:
    """Returns the mean of `width` (odd) neighbours of every entry of an array [T].

    Beyond the ends the first and the last entry are repeated.
    """
    half = width // 2
    padded = jnp.pad(values, half, mode="edge")
    return jnp.convolve(padded, jnp.full(2 * half + 1, 1.0 / (2 * half + 1)), mode="valid")
