"""The search for κ of Donini et al., 2020, Section 4: from a high one down, until none diverges."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hyperlr import _checks

# Powers of ten as floats are not exactly ten times one another.
_ROUNDING = 1e-5


class FoundStepSize(NamedTuple):
    """Result of :func:`find_step_size`, with K candidates and N steps.

    Attributes:
      value: the candidate that was found, a Python float.
      place: its place among the candidates, a Python int.
      margin_seen: bool, whether a candidate at least ``margin`` times as large was tried. Where
        not, the found one is near the upper end of the candidates: pass larger ones.
      candidates: as they were passed, shape [K].
      survived: bool, shape [K], whether each candidate survived; margins do not enter here.
      losses: what ``run`` returned, shape [K, N].
      records: what else ``run`` returned with ``has_aux=True``, each leaf with a leading axis K;
        ``None`` without.
    """

    value: float
    place: int
    margin_seen: bool
    candidates: jax.Array
    survived: jax.Array
    losses: jax.Array
    records: Any


class NoSurvivorError(ValueError):
    """No candidate survived with the margin; ``result`` has what was recorded, and ``value`` NaN.

    Attributes:
      result: a :class:`FoundStepSize` with ``value`` NaN, ``place`` -1 and ``margin_seen``
        ``False``.
    """

    def __init__(self, message: str, result: FoundStepSize):
        super().__init__(message)
        self.result = result


def find_step_size(
    run: Callable[[jax.Array], Any],
    candidates: jax.Array | Sequence[float],
    *,
    max_growth: float = 2.0,
    margin: float = 10.0,
    batch_size: int | None = None,
    has_aux: bool = False,
) -> FoundStepSize:
    r"""Finds the largest step size with which the first steps of training do not diverge.

    For κ (``meta_learning_rate``), β (``hyper_learning_rate``) and γ (of
    :func:`hyperlr.exponentiated_gradient`) alike. The candidates are trained side by side, in one
    compiled program. With L_t(κ) the loss at step t, a candidate survives where::

        L_t(κ) is finite, and L_t(κ) ≤ max_growth · L_0(κ),   t = 0 … N − 1

    and the one found is the largest κ such that every candidate in [κ, margin · κ] survives, and
    the largest candidate is no smaller than margin · κ. (If there is none, then without this last
    condition.) What diverges late does so with a step size not much below those that diverge early:
    the margin keeps away from them.

    Args:
      run: ``run(candidate)`` trains with a step size, a float scalar that is traced, and returns
        the losses of the first N steps, shape [N]; a ``lax.scan`` around an optax loop, as below.
        Whatever else counts as divergence, let it return NaN there, for example
        ``jnp.where(learning_rate > 1.0, jnp.nan, loss)``. Arrays that it closes over, such as the
        data, become arguments of the compiled program, not constants inside it.
      candidates: the step sizes, numbers ≥ 0, shape [K], in any order; such as powers of ten.
      max_growth: how many times the first loss a loss may be, ≥ 1, no unit (default 2). With
        ``math.inf`` any finite loss will do; otherwise the first loss must be positive.
      margin: how many times as large as the found one those are that must survive too, ≥ 1, no
        unit (default 10). With 1 no margin is kept.
      batch_size: how many candidates are trained side by side, ≥ 1 (default: all). Memory is in
        proportion to it. With 1 they are trained one after another, without ``vmap``.
      has_aux: whether ``run`` returns a pair (losses, records), where records are any tree of
        arrays, such as the learning rates of all steps (default ``False``).

    Returns:
      A :class:`FoundStepSize`. To be called from Python, not under ``jit`` or ``vmap``.

    Raises:
      TypeError: ``candidates`` or what ``run`` returns are not arrays of numbers with one axis;
        ``batch_size`` is not an integer.
      NoSurvivorError: no candidate survived with the margin; a ``ValueError`` that has what was
        recorded.
      ValueError: a number out of range; a first loss that is not positive; something is traced.

    Example:
      >>> import jax, jax.numpy as jnp, optax, hyperlr
      >>> def loss_fn(w):
      ...     return jnp.sum((w - 1.0) ** 2)
      >>> def run(kappa):
      ...     tx = hyperlr.marthe(optax.sgd, 0.01, meta_learning_rate=kappa)
      ...     def step(carry, _):
      ...         params, state = carry
      ...         loss, grads = jax.value_and_grad(loss_fn)(params)
      ...         updates, state = tx.update(grads, state, params, value_fn=loss_fn)
      ...         return (optax.apply_updates(params, updates), state), loss
      ...     params = jnp.zeros(3)
      ...     _, losses = jax.lax.scan(step, (params, tx.init(params)), length=50)
      ...     return losses
      >>> found = hyperlr.find_step_size(run, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
      >>> found.survived.tolist(), found.value
      ([True, True, True, False, False, False], 1e-05)

    References:
      Donini et al., "MARTHE: scheduling the learning rate via online hypergradients", 2020,
      Section 4, where κ is divided by ten until the run does not diverge.
    """
    sizes = _checked_candidates(candidates)
    _check_at_least_one("max_growth", max_growth)
    _check_at_least_one("margin", margin)
    if batch_size is None:
        batch_size = len(sizes)
    _check_batch_size(batch_size)

    def losses_and_records(candidate: jax.Array) -> tuple[jax.Array, Any]:
        result = run(candidate)
        if has_aux and not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"run must return (losses, records) with has_aux=True, got {result!r}")
        losses, records = result if has_aux else (result, None)
        _check_losses(losses)
        return losses, records

    tried = _as_floats(candidates)
    losses, records = _map_in_groups(losses_and_records, tried, batch_size)
    if _checks.is_traced(losses):
        raise ValueError(
            "the losses are traced, and what is found depends on their values: call "
            "find_step_size outside jit and vmap"
        )
    curves = losses.tolist()
    survived = _survivors(curves, max_growth)
    place, margin_seen = _largest_with_margin(sizes, survived, margin)
    result = FoundStepSize(math.nan, -1, False, tried, jnp.asarray(survived), losses, records)
    if place is None:
        raise NoSurvivorError(_no_survivor(sizes, survived, curves, margin), result)
    return result._replace(value=sizes[place], place=place, margin_seen=margin_seen)


def _map_in_groups(
    function: Callable[[jax.Array], Any], candidates: jax.Array, batch_size: int
) -> Any:
    """``function`` of every candidate, ``batch_size`` of them at once, by one compiled program.

    Not ``lax.map``'s own ``batch_size``, which evaluates what is left over apart and uncompiled,
    nor a jit around it, which would make constants of the arrays that ``function`` closes over.
    """
    if batch_size == 1:  # A convolution with a batched kernel is slow, even where the batch is 1.
        return jax.lax.map(function, candidates)
    num_groups = -(-candidates.size // batch_size)
    length = -(-candidates.size // num_groups)
    padded = jnp.pad(candidates, (0, num_groups * length - candidates.size), mode="edge")
    results = jax.lax.map(jax.vmap(function), padded.reshape(num_groups, length))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: candidates.size], results)


def _survivors(curves: list[list[float]], max_growth: float) -> list[bool]:
    """Whether the losses of each candidate are finite and within bounds."""
    lowest = min(losses[0] for losses in curves)
    if lowest <= 0 and not math.isinf(max_growth):
        raise ValueError(
            f"run returned {lowest} as its first loss, no multiple of which is a bound from above: "
            "return positive losses, or pass max_growth=math.inf"
        )
    return [
        all(map(math.isfinite, losses))
        and (math.isinf(max_growth) or max(losses) <= max_growth * losses[0])
        for losses in curves
    ]


def _largest_with_margin(
    sizes: list[float], survived: list[bool], margin: float
) -> tuple[int | None, bool]:
    """The place of the largest survivor whose margin holds none that diverged; if it was seen.

    One whose margin the candidates reach beyond goes before a larger one: near their upper end, a
    lucky survivor among those that diverge has nothing above it that would give it away.
    """
    lost = [size for size, survives in zip(sizes, survived, strict=True) if not survives]
    kept = [
        (max(sizes) >= margin * size * (1 - _ROUNDING), size, place)
        for place, size in enumerate(sizes)
        if not any(size <= other <= margin * size * (1 + _ROUNDING) for other in lost)
    ]
    seen, _, place = max(kept, default=(False, 0.0, None))
    return place, seen


def _no_survivor(
    sizes: list[float], survived: list[bool], curves: list[list[float]], margin: float
) -> str:
    if any(survived):
        kept = [size for size, survives in zip(sizes, survived, strict=True) if survives]
        return (
            f"no candidate survived with a margin of {margin:g}: {kept} survived, but larger "
            "ones within the margin did not: pass smaller candidates, too, or a smaller margin"
        )
    if not any(math.isfinite(losses[0]) for losses in curves):
        return (
            "no candidate survived, since the very first losses are not finite: look at the "
            "parameters, the data and the loss"
        )
    return (
        f"no candidate survived, down to {min(sizes):g}: pass smaller ones, or look at the other "
        "settings of the optimizer, such as its first learning rate"
    )


def _checked_candidates(candidates: jax.Array | Sequence[float]) -> list[float]:
    """The candidates as Python floats: what is found is one that was passed, to the last digit."""
    if any(map(_checks.is_traced, jax.tree.leaves(candidates))):
        raise ValueError(
            "candidates are traced: call find_step_size outside jit and vmap, since which "
            "one it finds depends on their values"
        )
    remedy = "pass floats in one axis, for example candidates=[1e-8, 1e-7, 1e-6]"
    if callable(candidates):
        raise TypeError(f"candidates must be numbers, got {candidates!r}: {remedy}")
    array = _as_floats(candidates)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"candidates must be floating-point, got {array.dtype}: {remedy}")
    if array.ndim != 1:
        raise TypeError(f"candidates must have one axis, got shape {array.shape}: {remedy}")
    if array.size == 0:
        raise ValueError(f"candidates is empty: {remedy}")
    # Arrays at once: under jit even a concrete one has traced elements.
    given = candidates.tolist() if hasattr(candidates, "tolist") else candidates
    sizes = list(map(float, given))
    if not all(math.isfinite(size) and size >= 0 for size in sizes):
        raise ValueError(f"candidates must be finite and not negative, got {sizes}")
    return sizes


def _as_floats(candidates: jax.Array | Sequence[float]) -> jax.Array:
    array = jnp.asarray(candidates)
    return array.astype(float) if jnp.issubdtype(array.dtype, jnp.integer) else array


def _check_losses(losses: Any) -> None:
    if not hasattr(losses, "shape") or losses.ndim != 1 or losses.size == 0:
        raise TypeError(
            "run must return the losses of its steps, an array with one axis, got "
            f"{jax.tree.map(jnp.shape, losses)} (shapes): return the losses that lax.scan stacked, "
            "and what else there is next to them, with has_aux=True"
        )
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"run must return floating-point losses, got {losses.dtype}")


def _check_at_least_one(name: str, value: Any) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r}: pass for example {name}=10.0")
    if not float(value) >= 1.0:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _check_batch_size(batch_size: Any) -> None:
    if not isinstance(batch_size, Integral) or isinstance(batch_size, bool):
        raise TypeError(f"batch_size must be an integer or None, got {batch_size!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
