"""Accumulators in at least float32, and dtypes that do not drift."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from hyperlr._trees import accumulation_dtype, cast_like


def in_float32(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Runs ``transformation`` on float32 copies of bfloat16 gradients and parameters.

    Its state is float32 for bfloat16 and float32 parameters, float64 for float64 ones, and keeps
    these dtypes whatever dtype a traced hyperparameter has. In bfloat16 a running average with
    decay 0.999 would not decay at all: 0.999 rounds to 1. The updates come back in the dtype of
    the gradients, rounded once.
    """
    transformation = optax.with_extra_args_support(transformation)

    def init_fn(params: optax.Params) -> optax.OptState:
        return transformation.init(_at_least_float32(params))

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        # A float32 hyperparameter meets arrays of other dtypes in there, and an integer count meets
        # floats: mixtures that are not the caller's, who may have set promotion to strict.
        with jax.numpy_dtype_promotion("standard"):
            new_updates, new_state = transformation.update(
                _at_least_float32(updates), state, _at_least_float32(params), **extra_args
            )
        return cast_like(new_updates, updates), cast_like(new_state, state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _at_least_float32(tree: optax.Params) -> optax.Params:
    return jax.tree.map(lambda x: jnp.asarray(x).astype(accumulation_dtype(x)), tree)
