"""The same training by one process and by several, each with its part of every minibatch.

Starts N processes on this machine that find each other by `jax.distributed` on 127.0.0.1, trains
with HD, MARTHE and LRS-OPT, data-parallel, and compares every step with the training of a single
process. Ends with an error where they differ by more than rounding.

    python scripts/checks/distributed_check.py --processes 2
"""

import argparse
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import hyperlr
from hyperlr import offline
from hyperlr.experiments.networks import mlp

WIDTHS = (16, 32, 8)
BATCH = 32
STEPS = 10
HORIZON = 4
TOLERANCE = 1e-9  # float64 over ten steps; sums of many parts come in another order

MOMENTUM = functools.partial(optax.sgd, momentum=0.9)
ADAM = functools.partial(optax.adam, eps_root=1e-8)

METHODS = ("HD", "MARTHE", "LRS-OPT")

Place = Callable[[np.ndarray, int], jax.Array]


def online_methods() -> dict[str, optax.GradientTransformationExtraArgs]:
    """A function: they hold arrays, which may only exist once the processes have met."""
    return {
        "HD": hyperlr.hd(MOMENTUM, 0.05, 1e-3),
        "MARTHE": hyperlr.marthe(ADAM, 0.01, meta_learning_rate=1e-6, hyper_learning_rate=1e-4),
    }


def loss_fn(params: mlp.Params, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Cross-entropy on (inputs, labels)."""
    inputs, labels = batch
    return mlp.cross_entropy(mlp.apply_mlp(params, inputs), labels)


def minibatches(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """STEPS minibatches of points and their labels; every process draws the same."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(STEPS, BATCH, WIDTHS[0]))
    return inputs, inputs[..., : WIDTHS[-1]].argmax(axis=-1).astype(np.int32)


def trajectories(
    methods: Sequence[str], place: Place, replicate: Callable[[Any], Any]
) -> dict[str, list[float]]:
    """The learning rates of every method, step by step, and the losses that they led to.

    Args:
      methods: which of METHODS to train with.
      place: makes a global array of what this process holds of a minibatch; its second argument is
        the axis of the examples.
      replicate: puts a tree on every device.
    """
    params = mlp.init_mlp(jax.random.key(0), WIDTHS)
    params = replicate(jax.tree.map(lambda x: np.asarray(x, np.float64), params))
    train, val = minibatches(1), minibatches(2)
    batches = [
        [tuple(place(x[t], 0) for x in stack) for stack in (train, val)] for t in range(STEPS)
    ]
    found = {}
    for name, tx in online_methods().items():
        if name not in methods:
            continue

        @jax.jit
        def step(params: Any, state: Any, batch: Any, val_batch: Any, tx: Any = tx) -> Any:
            value_fn = functools.partial(loss_fn, batch=batch)
            loss, grads = jax.value_and_grad(value_fn)(params)
            val_grad = jax.grad(loss_fn)(params, val_batch)
            updates, state = tx.update(grads, state, params, value_fn=value_fn, val_grad=val_grad)
            rate = hyperlr.metrics(state)["learning_rate"]
            return optax.apply_updates(params, updates), state, jnp.stack([rate, loss])

        weights, state = params, replicate(jax.device_get(tx.init(jax.device_get(params))))
        records = []
        for batch, val_batch in batches:
            weights, state, record = step(weights, state, batch, val_batch)
            records.append(record)
        found[name] = np.concatenate(jax.device_get(records)).tolist()

    if "LRS-OPT" in methods:
        stack = tuple(place(x[:HORIZON], 1) for x in train)
        found["LRS-OPT"] = schedules(params, stack, batches[0][1], replicate)
    return found


def schedules(
    params: mlp.Params, stack: Any, val_batch: Any, replicate: Callable[[Any], Any]
) -> list[float]:
    """The schedules of LRS-OPT, iteration by iteration, and the values that they had."""
    optimizer = hyperlr.lrs_opt(1.0)

    @jax.jit
    def outer_step(state: Any, params: Any, stack: Any, val_batch: Any) -> Any:
        return offline.outer_step(
            MOMENTUM,
            params,
            state,
            lambda key: jax.tree.map(lambda x: x[jax.random.permutation(key, HORIZON)], stack),
            loss_fn,
            functools.partial(loss_fn, batch=val_batch),
            optimizer=optimizer,
            key=jax.random.key(3),
        )

    state = replicate(jax.device_get(offline.init_outer_state(jnp.full(HORIZON, 0.05), optimizer)))
    values = []
    for _ in range(STEPS):
        state, record = outer_step(state, params, stack, val_batch)
        values += [*jax.device_get(state.schedule).tolist(), float(record.value)]
    return values


def train_part(
    process: int, num_processes: int, port: int, out: Path, methods: Sequence[str]
) -> None:
    """One of several processes; the first writes the trajectories to a file."""
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}", num_processes, process, initialization_timeout=120
    )
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))

    def place(array: np.ndarray, axis: int) -> jax.Array:
        part = np.split(array, num_processes, axis)[process]  # all that this process has loaded
        sharding = NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))
        return jax.make_array_from_process_local_data(sharding, part, array.shape)

    def replicate(tree: Any) -> Any:
        everywhere = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(everywhere, np.asarray(x)), tree
        )

    found = trajectories(methods, place, replicate)
    if process == 0:
        out.write_text(json.dumps(found))
    jax.distributed.shutdown()


def free_port() -> int:
    """A port on which nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def train_together(num_processes: int, methods: Sequence[str]) -> dict[str, list[float]]:
    """Starts the processes, waits for all, and returns what the first found."""
    # One device for each process, whatever the caller's environment says.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "trajectories.json"
        command = [sys.executable, __file__, f"--processes={num_processes}", f"--out={out}"]
        command += [f"--port={free_port()}", "--methods", *methods]
        started = [
            subprocess.Popen(
                [*command, f"--process={process}"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for process in range(num_processes)
        ]
        said = [process.communicate()[0] for process in started]
        for process, text in zip(started, said, strict=True):
            if process.returncode:
                raise RuntimeError(f"a process ended with code {process.returncode}:\n{text}")
        return json.loads(out.read_text())


def difference(found: list[float], expected: list[float]) -> float:
    """The largest difference, relative to the largest number."""
    return float(np.max(np.abs(np.subtract(found, expected))) / np.max(np.abs(expected)))


def main() -> None:
    """Compares, prints a line for each method, and fails where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="how many processes (default 2)")
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    arguments = parser.parse_args()
    count = arguments.processes
    if count < 1 or BATCH % count:
        parser.error(f"--processes must divide the minibatch of {BATCH}, got {count}")
    jax.config.update("jax_enable_x64", True)
    if arguments.process is not None:
        train_part(arguments.process, count, arguments.port, arguments.out, arguments.methods)
        return
    alone = trajectories(
        arguments.methods, lambda array, axis: jnp.asarray(array), lambda tree: tree
    )
    together = train_together(count, arguments.methods)
    for name, expected in alone.items():
        gap = difference(together[name], expected)
        print(f"{name:8} {count} processes and one differ by {gap:.1e}")
        if not gap <= TOLERANCE:
            sys.exit(f"{name}: more than rounding ({TOLERANCE:g})")


if __name__ == "__main__":
    main()
