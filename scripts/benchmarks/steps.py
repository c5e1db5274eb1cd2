"""What a training step costs: its compiled programs, and their times round by round."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Step = Callable[..., tuple[Any, Any]]
"""(params, state, batch, val_batch) → (params, state)."""


class Compiled(NamedTuple):
    """A step, compiled as it is and as the body of a scan, and what the compiler tells of it."""

    step: Any
    scan: Any
    compile_seconds: float
    """Trace and compilation of the step."""
    flops: float
    temporary_bytes: int


def compile_step(
    step: Step, params: Any, state: Any, batch: Any, val_batch: Any, *, length: int, donate: bool
) -> Compiled:
    """Compiles a step; the scan makes ``length`` of them on the same batches."""

    def scan(params: Any, state: Any, batch: Any, val_batch: Any) -> tuple[Any, Any]:
        def body(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            return step(*carry, batch, val_batch), None

        return jax.lax.scan(body, (params, state), None, length=length)[0]

    donated = (0, 1) if donate else ()
    arguments = (params, state, batch, val_batch)
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=donated).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    return Compiled(
        step=compiled,
        scan=jax.jit(scan, donate_argnums=donated).lower(*arguments).compile(),
        compile_seconds=seconds,
        flops=compiled.cost_analysis()["flops"],
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes,
    )


def time_rounds(runs: Sequence[Callable[[], None]], rounds: int) -> np.ndarray:
    """Seconds [rounds, runs]: in every round all runs, one after another.

    So that the noise of the machine falls on all. The first round, which touches every buffer for
    the first time, is not counted.
    """
    seconds = np.zeros((rounds + 1, len(runs)))
    for row in seconds:
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            row[i] = time.perf_counter() - start
    return seconds[1:]


def looped(call: Callable[..., tuple[Any, Any]], carry: Any, batches: Any, times: int) -> Any:
    """A run that goes on from where the last one ended, ``times`` calls of a compiled program."""
    params, state = carry

    def run() -> None:
        nonlocal params, state
        for _ in range(times):
            params, state = call(params, state, *batches)
        jax.block_until_ready((params, state))

    return run
