"""Time, FLOPs, memory and compilation of a training step of each method, beside the plain one.

On the digits' network 784-500-500-500-10, a convolutional network with batch normalization, and a
transformer of four layers, written out and as a scan over its layers; with momentum and Adam. All
methods of one network take their turns with its plain step, so that the noise of the machine falls
on all of them. A ratio of times is the median of the ratios of the rounds.

    python scripts/benchmarks/online.py --rounds 20 --json benchmark.json

"loop" is a Python loop of compiled steps, "scan" one program of them. FLOPs, temporaries and
compilation are those of the step. With `every 4` the program holds both kinds of step, so that its
FLOPs say little, and its time all.

`--peers` adds what learns no rate by a hypergradient, the optimizers without a rate of
`optax.contrib`, and, where PyTorch is installed, MARTHE by double backward on the digits' network.

With `--donate`, parameters and state are donated to the step. That saves memory, and on GPU and TPU
costs nothing. On CPU, XLA protects a donated buffer that is read and overwritten in one program by
copying it, so there it is the slower way.
"""

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch_marthe
from networks import NETWORKS, Network
from optax import contrib
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from steps import Compiled, compile_step, looped, time_rounds

import hyperlr

STEPS = 8
USUAL = ["digits", "cnn", "transformer", "scanned"]
RATE = 1e-3
INNER = {
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "Adam": functools.partial(optax.adam, eps_root=1e-12),
}


class Method(NamedTuple):
    """One row of the table: how the step is made from an inner optimizer."""

    name: str
    make: Callable[[Any], optax.GradientTransformation]
    validates: bool = False
    share: float = 1.0


def _marthe(inner: Any, **options: Any) -> optax.GradientTransformationExtraArgs:
    return hyperlr.marthe(inner, RATE, hyper_learning_rate=1e-9, **options)


METHODS = (
    Method("plain", lambda inner: inner(RATE)),
    Method("HD", lambda inner: hyperlr.hd(inner, RATE, 1e-9)),
    Method("MARTHE, E = L", _marthe),
    Method("MARTHE, validation", _marthe, validates=True),
    Method("MARTHE, share 1/4", _marthe, share=0.25),
    Method("MARTHE, every 4", functools.partial(_marthe, every=4)),
    Method("auto, share 1/4", hyperlr.auto, share=0.25),
)
PEERS = (
    Method("prodigy", lambda inner: contrib.prodigy()),
    Method("dadapt_adamw", lambda inner: contrib.dadapt_adamw()),
    Method("mechanize", lambda inner: contrib.mechanize(inner(RATE))),
    Method("schedule_free_adamw", lambda inner: contrib.schedule_free_adamw(RATE)),
)


def make_step(network: Network, method: Method, tx: Any) -> Any:
    """A step as the README writes it; batch statistics are dropped, as they cost nothing."""
    loss_fn = hyperlr.value_and_grad(network.loss, share=method.share)
    tx = optax.with_extra_args_support(tx)

    def step(params: Any, state: Any, batch: Any, val_batch: Any) -> tuple[Any, Any]:
        objective = {"val_batch": val_batch} if method.validates else {}
        _, grads, extra = loss_fn(params, batch, state=state, **objective)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return step


def measure(
    network: Network, inner: str, methods: tuple[Method, ...], arguments: Any, advance: Any
) -> list[dict[str, Any]]:
    """A dict a method, of one network and inner optimizer; the first method is the plain one."""
    params = network.init(jax.random.key(0))
    batches = network.batch(jax.random.key(1)), network.batch(jax.random.key(2))
    compiled, loops, scans = [], [], []
    for method in methods:
        tx = method.make(INNER[inner])
        program = compile_step(
            make_step(network, method, tx),
            params,
            tx.init(params),
            *batches,
            length=STEPS,
            donate=arguments.donate,
        )
        compiled.append(program)
        for runs, call, times in ((loops, program.step, STEPS), (scans, program.scan, 1)):
            carry = jax.tree.map(jnp.copy, params), tx.init(params)
            runs.append(looped(call, carry, batches, times))
        advance()
    loop_seconds, scan_seconds = (time_rounds(runs, arguments.rounds) for runs in (loops, scans))
    rows = []
    for i, (method, program) in enumerate(zip(methods, compiled, strict=True)):
        rows.append(
            {
                "network": network.name,
                "inner": inner,
                "method": method.name,
                "milliseconds": 1e3 * float(np.median(loop_seconds[:, i])) / STEPS,
                "loop_ratio": float(np.median(loop_seconds[:, i] / loop_seconds[:, 0])),
                "scan_ratio": float(np.median(scan_seconds[:, i] / scan_seconds[:, 0])),
                **_of_the_program(program, compiled[0]),
            }
        )
    return rows


def _of_the_program(program: Compiled, plain: Compiled) -> dict[str, float]:
    return {
        "flops_ratio": program.flops / plain.flops,
        "temporary_megabytes": program.temporary_bytes / 1e6,
        "temporary_ratio": program.temporary_bytes / plain.temporary_bytes,
        "compile_seconds": program.compile_seconds,
        "compile_ratio": program.compile_seconds / plain.compile_seconds,
    }


COLUMNS = {
    "milliseconds": "ms",
    "loop_ratio": "time,\nloop",
    "scan_ratio": "time,\nscan",
    "flops_ratio": "FLOPs",
    "temporary_megabytes": "temp.\nMB",
    "temporary_ratio": "temp.",
    "compile_seconds": "comp.\ns",
    "compile_ratio": "comp.",
}


def table(rows: list[dict[str, Any]]) -> Table:
    """One network with one inner optimizer; what has no unit is a ratio to the plain step."""
    title = f"{rows[0]['network']}, {rows[0]['inner']}"
    view = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    view.add_column("method", no_wrap=True)
    for heading in COLUMNS.values():
        view.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        view.add_row(row["method"], *(f"{row[key]:.2f}" if key in row else "" for key in COLUMNS))
    return view


def main() -> None:
    """Measures, prints a table for each network and inner optimizer, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="rounds of timing (default 20)")
    parser.add_argument("--network", choices=NETWORKS, nargs="+", default=USUAL)
    parser.add_argument("--inner", choices=INNER, nargs="+", default=list(INNER))
    parser.add_argument("--peers", action="store_true", help="also what has no hypergradient")
    parser.add_argument("--donate", action="store_true", help="donate parameters and state")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    methods = METHODS + (PEERS if arguments.peers else ())
    console, results = Console(), []
    groups = [(network, inner) for network in arguments.network for inner in arguments.inner]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(groups) * len(methods))
        for name, inner in groups:
            rows = measure(
                NETWORKS[name], inner, methods, arguments, lambda: progress.advance(task)
            )
            if arguments.peers and name == "digits" and torch_marthe.IS_INSTALLED:
                rows += torch_marthe.measure(inner, arguments.rounds, rows[0])
            results += rows
            console.print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
