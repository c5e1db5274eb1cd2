"""A learned schedule for plain optax: from an array, and to and from a JSON file."""

import copy
import functools
import json
import math
import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import optax

from hyperlr._trees import accumulation_dtype
from hyperlr.schedules._formula import Number, between, schedule_of

_FORMAT = "hyperlr.schedule"
_VERSION = 1


def from_array(values: jax.Array, steps: int | None = None) -> optax.Schedule:
    r"""A schedule through given values, stretched or shrunk to another number of steps.

    With v_0 … v_{T−1} the ``values`` and S = ``steps``, the value at step t is their linear
    interpolation at the position x, which runs from the first value to the last::

        x   = clip(t, 0, S − 1) · (T − 1) / (S − 1)
        η_t = (1 − x + ⌊x⌋) v_⌊x⌋ + (x − ⌊x⌋) v_{⌊x⌋+1}

    so that η_t = v_t where S = T, and the ends are held before and after. S = 1 holds the first.

    Args:
      values: v, an array [T] with T ≥ 1, or a list of numbers; maybe traced. Integers become
        floats.
      steps: S ≥ 1, how many steps the schedule takes; the default is T. Static.

    Returns:
      A schedule, step → value, for a step that may be traced, in the dtype of ``values``. ``jvp``
      and ``vjp`` in ``values``, and ``vmap``, are supported.

    Raises:
      TypeError: ``values`` is not an array of numbers, or ``steps`` not an integer.
      ValueError: ``values`` is not of shape [T], or ``steps`` less than 1.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from hyperlr.schedules import from_array
      >>> schedule = from_array(jnp.array([0.5, 1.0, 0.0]), steps=5)
      >>> print([float(schedule(t)) for t in range(7)])
      [0.5, 0.75, 1.0, 0.5, 0.0, 0.0, 0.0]
      >>> tx, params = optax.sgd(schedule), jnp.array(1.0)
      >>> updates, state = tx.update(jnp.array(1.0), tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      0.5
    """
    dtype = _float_dtype("values", values)
    if steps is not None and (not isinstance(steps, Integral) or isinstance(steps, bool)):
        raise TypeError(f"steps must be an integer or None, got {steps!r}")
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    last = (len(values) if steps is None else int(steps)) - 1
    kept = values if isinstance(values, jax.Array) else copy.copy(values)
    return schedule_of(functools.partial(_interpolated, kept, dtype, last))


def _interpolated(given: Any, dtype: Any, last: int, step: Number) -> jax.Array:
    values, num_values = jnp.asarray(given, dtype), len(given)
    scale = (num_values - 1) / last if last else 0.0
    # In float32 whatever the dtype of the values: bfloat16 cannot count to T.
    held = jnp.clip(step, 0, last).astype(accumulation_dtype(values))
    position = held * scale
    left = jnp.floor(position).astype(jnp.int32)
    # At the end left + 1 is beyond it, where JAX takes the last value.
    return between(values[left], values[left + 1], position - left).astype(values.dtype)


def save_array(path: str | os.PathLike[str], values: Any) -> None:
    """Writes a learned schedule to a JSON file, from which every float comes back as it was.

    The file appears whole or not at all: an interruption leaves the one that was there.

    Args:
      path: the file to write, by custom ending in ``.json``; its directory must exist.
      values: a floating-point array [T], or a dict of them; finite.

    Raises:
      TypeError: ``values`` is not an array of floats, or a dict of such, or is traced.
      ValueError: an array is not of shape [T], or a value is not finite.

    Example:
      >>> import pathlib, tempfile, jax.numpy as jnp
      >>> from hyperlr.schedules import from_array, load_array, save_array
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     path = pathlib.Path(directory, "schedule.json")
      ...     save_array(path, jnp.array([0.1, 0.2]))
      ...     schedule = from_array(load_array(path), steps=100)
      >>> print(schedule(0), schedule(99))
      0.1 0.2
    """
    if isinstance(values, Mapping):
        if not values:
            raise ValueError("values is an empty dict: name at least one array in it")
        content: Any = {str(name): _encode(f"values[{name!r}]", x) for name, x in values.items()}
    else:
        content = _encode("values", values)
    document = {"format": _FORMAT, "version": _VERSION, "schedule": content}
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_array(path: str | os.PathLike[str]) -> Any:
    """Reads a schedule that :func:`save_array` wrote.

    Args:
      path: the file to read.

    Returns:
      The array [T], or the dict of arrays, in the dtypes that were saved; float64 becomes float32
      where JAX has 64-bit types switched off.

    Raises:
      OSError: the file cannot be read.
      ValueError: it does not hold a schedule.

    Example:
      >>> import pathlib, tempfile, jax.numpy as jnp
      >>> from hyperlr.schedules import load_array, save_array
      >>> with tempfile.TemporaryDirectory() as directory:
      ...     path = pathlib.Path(directory, "schedule.json")
      ...     save_array(path, {"learning_rate": jnp.array([0.1, 0.2])})
      ...     print(load_array(path)["learning_rate"])
      [0.1 0.2]
    """
    try:
        document = json.loads(Path(path).read_text("utf-8"), parse_constant=_refuse_constant)
        found = (document["format"], document["version"])
        if found != (_FORMAT, _VERSION):
            raise ValueError(f"its format and version are {found}, not {(_FORMAT, _VERSION)}")
        content = document["schedule"]
        if not content:
            raise ValueError("its schedule is empty")
        if "values" in content and isinstance(content["values"], list):
            return _decode(content)
        return {name: _decode(entry) for name, entry in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} does not hold a schedule that hyperlr.schedules.save_array wrote: {error}"
        ) from error


def _float_dtype(name: str, values: Any) -> Any:
    """The dtype of ``values`` as an array [T] of floats; an error where they are none."""
    remedy = "pass a floating-point array of shape [T], such as jnp.array([0.1, 0.05])"
    if isinstance(values, Mapping):
        raise TypeError(f"{name} is a dict: {remedy}, or one entry of the dict")
    if callable(values):
        raise TypeError(f"{name} must be an array, got a function, a schedule already: {remedy}")
    try:
        # The shape alone: building a schedule computes nothing on a device.
        array = jax.eval_shape(lambda: jnp.asarray(values))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of floats: {remedy}") from error
    if array.ndim != 1 or array.shape[0] == 0:
        raise ValueError(f"{name} must have shape [T] with T ≥ 1, got {array.shape}: {remedy}")
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array.dtype
    if jnp.issubdtype(array.dtype, jnp.integer):
        return jnp.result_type(float)
    raise TypeError(f"{name} must have a floating-point dtype, got {array.dtype}: {remedy}")


def _encode(name: str, values: Any) -> dict[str, Any]:
    """An array as dtype and decimal numbers; Python writes as many digits as a float needs."""
    array = jnp.asarray(values, _float_dtype(name, values))
    if isinstance(array, jax.core.Tracer):
        raise TypeError(f"{name} is traced: call save_array outside jit, vmap and grad")
    numbers = [float(x) for x in jax.device_get(array)]
    for t, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(f"{name}[{t}] is {number}: a schedule to keep must be finite")
    return {"dtype": str(array.dtype), "values": numbers}


def _decode(content: Any) -> jax.Array:
    """The inverse of :func:`_encode`."""
    numbers, dtype = content["values"], jnp.dtype(content["dtype"])
    if not numbers or not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
        raise ValueError("its values are not a list of finite numbers")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"its dtype is {dtype}")
    return jnp.asarray(numbers, jax.dtypes.canonicalize_dtype(dtype))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
