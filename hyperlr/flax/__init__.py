"""hyperlr in Flax: helpers for nnx models, and a ``TrainState`` for linen ones.

Not imported by ``hyperlr`` itself, and the only part of the library that needs Flax:
``pip install "hyperlr[flax]"``.
"""

try:
    from hyperlr.flax import _serialization
    from hyperlr.flax._nnx import eval_params, metrics, val_grad, value_and_grad, value_fn
    from hyperlr.flax._statistics import recompute_statistics, recomputed_statistics
    from hyperlr.flax._train_state import TrainState
except ModuleNotFoundError as error:
    if error.name != "flax":
        raise
    raise ModuleNotFoundError(
        'hyperlr.flax needs Flax; install the extra: pip install "hyperlr[flax]"', name="flax"
    ) from None

_serialization.register()

__all__ = [
    "TrainState",
    "eval_params",
    "metrics",
    "recompute_statistics",
    "recomputed_statistics",
    "val_grad",
    "value_and_grad",
    "value_fn",
]
