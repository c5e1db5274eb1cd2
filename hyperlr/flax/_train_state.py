"""Flax's ``TrainState`` for linen models, with extra arguments for the transformation."""

import dataclasses
import functools
from typing import Any

import optax
from flax.linen.fp8_ops import OVERWRITE_WITH_GRADIENT
from flax.training import train_state

from hyperlr._inner_step import accepted_args


class TrainState(train_state.TrainState):
    """Flax's ``TrainState``, whose ``apply_gradients`` hands extra arguments to the transformation.

    A drop-in: created, replaced, subclassed and saved like Flax's own, and a subclass of it. Flax's
    takes every keyword for a field to replace, so ``value_fn`` and ``val_grad`` never reach the
    transformation; here a keyword that names no field goes to ``tx.update``.

    Args:
      step: int, number of updates so far.
      apply_fn: usually ``model.apply``.
      params: tree of the parameters.
      tx: any optax transformation.
      opt_state: its state.

    Example:
      >>> import flax.linen as nn, hyperlr, hyperlr.flax, jax, jax.numpy as jnp, optax
      >>> model, x = nn.Dense(1), jnp.ones((4, 2))
      >>> state = hyperlr.flax.TrainState.create(
      ...     apply_fn=model.apply,
      ...     params=model.init(jax.random.key(0), x)["params"],
      ...     tx=hyperlr.marthe(optax.sgd, 0.1, meta_learning_rate=1e-3),
      ... )
      >>> def loss_fn(params, x):
      ...     return jnp.mean((state.apply_fn({"params": params}, x) - 1.0) ** 2)
      >>> for _ in range(10):
      ...     value_fn = lambda params: loss_fn(params, x)
      ...     grads = jax.grad(value_fn)(state.params)
      ...     val_grad = jax.grad(loss_fn)(state.params, x / 2)
      ...     state = state.apply_gradients(grads=grads, value_fn=value_fn, val_grad=val_grad)
      >>> state.step, float(hyperlr.metrics(state.opt_state)["learning_rate"]) == 0.1
      (10, False)

    References:
      ``flax.training.train_state.TrainState``.
    """

    def apply_gradients(self, *, grads: Any, **kwargs: Any) -> Any:
        """Makes one step, with the fields and the extra arguments in ``kwargs``.

        Args:
          grads: gradients, like ``params``.
          **kwargs: fields to replace, such as ``batch_stats`` of a subclass; and extra arguments of
            the transformation, such as ``value_fn`` and ``val_grad``. A transformation without
            extra arguments gets none.

        Returns:
          The new state.

        Example:
          >>> import hyperlr.flax, jax.numpy as jnp, optax
          >>> state = hyperlr.flax.TrainState.create(
          ...     apply_fn=None, params={"w": jnp.ones(2)}, tx=optax.sgd(0.5)
          ... )
          >>> state.apply_gradients(grads={"w": jnp.ones(2)}, unknown_to_sgd=1).params["w"].tolist()
          [0.5, 0.5]
        """
        fields = {field.name for field in dataclasses.fields(self)}
        replaced = {name: value for name, value in kwargs.items() if name in fields}
        extra = {name: value for name, value in kwargs.items() if name not in fields}
        if OVERWRITE_WITH_GRADIENT in grads:
            extra = _without_overwritten(self.params, extra)
        # Flax's own step, with a transformation that has the extra arguments filled in.
        update = functools.partial(self.tx.update, **accepted_args(self.tx.update, extra))
        bound = optax.GradientTransformation(self.tx.init, update)
        return train_state.TrainState.apply_gradients(
            self.replace(tx=bound), grads=grads, **{"tx": self.tx, **replaced}
        )


def _without_overwritten(params: Any, extra: dict[str, Any]) -> dict[str, Any]:
    """The extra arguments for the part of the parameters that Flax shows to the transformation.

    With float8 layers, ``params`` holds scales beside the parameters proper; their gradient is
    their new value, and the transformation never sees them.
    """
    value_fn, val_grad = extra.get("value_fn"), extra.get("val_grad")
    if value_fn is not None:
        extra = extra | {
            "value_fn": lambda proper, *rest: value_fn({**params, "params": proper}, *rest)
        }
    if val_grad is not None and OVERWRITE_WITH_GRADIENT in val_grad:
        extra = extra | {"val_grad": val_grad["params"]}
    return extra
