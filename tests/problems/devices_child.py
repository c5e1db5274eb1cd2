"""What eight virtual devices do, as JSON for test_devices.py; run as a process of its own.

The number of devices is fixed before JAX starts, by the environment that test_devices.py gives this
process; a test process with one device cannot ask for eight. Everything is in float64, so that "the
same to rounding" is far from "nearly the same".
"""

import contextlib
import functools
import json
import re
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import hyperlr
from hyperlr import offline
from problems import networks

SIZES = (32, 128, 16)
BATCH = 40
STEPS = 6
HORIZON = 2

MOMENTUM = functools.partial(optax.sgd, momentum=0.9)
ADAM = functools.partial(optax.adam, eps_root=1e-8)
ONLINE = {
    "hd": hyperlr.hd(MOMENTUM, 0.05, 1e-3),
    "marthe": hyperlr.marthe(ADAM, 0.01, meta_learning_rate=1e-6, hyper_learning_rate=1e-4),
}
AUTO = hyperlr.auto(ADAM)
LRS_OPT = hyperlr.lrs_opt(1.0)


class Layout(NamedTuple):
    """Where parameters and minibatches live."""

    mesh: Mesh
    params: Any
    """A PartitionSpec for each parameter; minibatches are divided along the axis "data"."""
    loss: Any = networks.mlp_loss


def explicit_loss(params, batch, mesh):
    """``networks.mlp_loss`` as it is written where axes are explicit, for layers divided."""
    x, y = batch
    first, last = params["layer_0"], params["layer_1"]
    x = jnp.tanh(x @ first["w"] + first["b"][None, :])
    divided = NamedSharding(mesh, PartitionSpec("data"))
    x = jnp.matmul(x, last["w"], out_sharding=divided) + last["b"][None, :]
    return jnp.mean((x - y) ** 2)


def layouts():
    """Data-parallel; layers divided as by Megatron; every array divided along its first axis.

    Layers divided also by axes that are part of the types of arrays.
    """
    P = PartitionSpec
    line = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    grid = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    explicit = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    # The hidden units are divided: the only sum over them is in the second layer's product.
    megatron = {
        "layer_0": {"w": P(None, "model"), "b": P("model")},
        "layer_1": {"w": P("model"), "b": P()},
    }

    def everywhere(spec):
        return {name: {"w": spec, "b": spec} for name in megatron}

    return {
        "data": Layout(line, everywhere(P())),
        "tensor": Layout(grid, megatron),
        "fsdp": Layout(line, everywhere(P("data"))),
        "explicit": Layout(explicit, megatron, functools.partial(explicit_loss, mesh=explicit)),
    }


def init(tx, params, mesh):
    """The state of ``tx``: what is like the parameters lies where they do, the rest everywhere."""
    replicated = NamedSharding(mesh, PartitionSpec())
    shardings = optax.tree_utils.tree_map_params(
        tx,
        lambda _, w: w.sharding,
        jax.eval_shape(tx.init, params),
        params,
        transform_non_params=lambda _: replicated,
    )
    return jax.jit(tx.init, out_shardings=shardings)(params)


def online_step(tx, loss=networks.mlp_loss):
    """A training step with a validation batch."""

    def step(carry, batch, val_batch):
        params, state = carry
        value_fn = functools.partial(loss, batch=batch)
        grads = jax.grad(value_fn)(params)
        val_grad = jax.grad(loss)(params, val_batch)
        updates, state = tx.update(grads, state, params, value_fn=value_fn, val_grad=val_grad)
        return optax.apply_updates(params, updates), state

    return step


def auto_step(loss=networks.mlp_loss):
    """A training step without a number: it finds its first rate, and looks at the average."""

    def step(carry, batch, val_batch):
        del val_batch
        params, state = carry
        value_and_grad = hyperlr.value_and_grad(loss, share=0.5)
        _, grads, extra = value_and_grad(params, batch, state=state)
        updates, state = AUTO.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return step


def floor_step(carry, batch, val_batch, vector):
    """No hyperlr: a step of Adam, the validation gradient, and a Hessian-vector product."""
    params, state = carry
    gradient = jax.grad(functools.partial(networks.mlp_loss, batch=batch))
    updates, state = ADAM(0.01).update(gradient(params), state, params)
    val_grad = jax.grad(networks.mlp_loss)(params, val_batch)
    product = jax.jvp(gradient, (params,), (vector,))[1]
    return optax.apply_updates(params, updates), state, val_grad, product


def outer_step(state, params, batches, val_batch):
    """One iteration of LRS-OPT, its minibatches in a fresh order."""
    state, _ = offline.outer_step(
        MOMENTUM,
        params,
        state,
        lambda key: jax.tree.map(lambda x: x[jax.random.permutation(key, HORIZON)], batches),
        networks.mlp_loss,
        functools.partial(networks.mlp_loss, batch=val_batch),
        optimizer=LRS_OPT,
        key=jax.random.key(3),
    )
    return state


def collectives(compiled):
    """Kind and shape of the result of every collective, those inside loops too."""
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-\\w+|ragged-all-to-all"
    found = []
    for results, kind in re.findall(rf" = (.*?) ({kinds})(?:-start)?\(", compiled.as_text()):
        for shape in re.findall(r"\w+\[([\d,]*)\]", results):
            found.append([kind, [int(n) for n in shape.split(",") if n]])
    return found


def run(step, state, arguments, out_shardings=None):
    """The states after each step, and what is to be known of the program.

    One compiled program takes back what it returned; had a shape, dtype or sharding changed, it
    would refuse it, where ``jax.jit`` would compile another.
    """
    compiled = jax.jit(step, out_shardings=out_shardings).lower(state, *arguments[0]).compile()
    states, start = [], state
    for inputs in arguments:
        state = compiled(state, *inputs)
        states.append(state)
    leaves = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(start), strict=True)
    memory = compiled.memory_analysis()
    return states, {
        "moved": [
            jax.tree_util.keystr(path)
            for (path, x), y in leaves
            if not x.sharding.is_equivalent_to(y.sharding, x.ndim)
        ],
        "collectives": collectives(compiled),
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "leaves": len(jax.tree.leaves(start)),
        "scalars": sum(x.nbytes for x in jax.tree.leaves(start) if x.ndim == 0),
    }


def difference(states, alone):
    """The largest difference of two sets of states, each array relative to its largest entry."""

    def relative(a, b):
        a, b = np.asarray(a, float), np.asarray(b, float)  # some are bool
        return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30))

    return max(jax.tree.leaves(jax.tree.map(relative, states, alone)))


def at(tree, t):
    """Minibatch t of a stack, or several."""
    return jax.tree.map(lambda x: x[t], tree)


def trajectories_of_one_device(params, batches, val_batches):
    """The states of every method, with nothing said about where anything lives."""
    found = {}
    for name, tx in ONLINE.items():
        arguments = [(at(batches, t), at(val_batches, t)) for t in range(STEPS)]
        found[name], _ = run(online_step(tx), (params, jax.jit(tx.init)(params)), arguments)
    arguments = [(at(batches, t), at(val_batches, t)) for t in range(STEPS)]
    found["auto"], _ = run(auto_step(), (params, jax.jit(AUTO.init)(params)), arguments)
    schedule = offline.init_outer_state(jnp.full(HORIZON, 0.05), LRS_OPT)
    arguments = [(params, at(batches, slice(HORIZON)), at(val_batches, 0))] * STEPS
    found["lrs_opt"], _ = run(outer_step, schedule, arguments)
    return jax.device_get(found)


def main():
    """Prints the facts of every layout and method."""
    params, batches, val_batches = jax.device_get(
        (
            networks.mlp_params(jax.random.key(0), SIZES),
            networks.mlp_batches(jax.random.key(1), STEPS, BATCH, SIZES),
            networks.mlp_batches(jax.random.key(2), STEPS, BATCH, SIZES),
        )
    )
    one = jax.devices()[0]
    alone = trajectories_of_one_device(*jax.device_put((params, batches, val_batches), one))
    report = {"travel": {name: difference(s[0], s[-1]) for name, s in alone.items()}}
    for layout_name, layout in layouts().items():
        place = functools.partial(NamedSharding, layout.mesh)
        w = jax.device_put(params, jax.tree.map(place, layout.params))
        one_by_one = [
            jax.device_put(at((batches, val_batches), t), place(PartitionSpec("data")))
            for t in range(STEPS)
        ]
        facts = report[layout_name] = {}
        for name, tx in ONLINE.items():
            step = online_step(tx, layout.loss)
            states, facts[name] = run(step, (w, init(tx, w, layout.mesh)), one_by_one)
            facts[name]["difference"] = difference(states, alone[name])
        if layout_name != "explicit":
            state = (w, init(ADAM(0.01), w, layout.mesh))
            floor = jax.jit(floor_step).lower(state, *one_by_one[0], w).compile()
            facts["floor"] = {"collectives": collectives(floor)}
        if layout_name == "fsdp":
            continue  # half as much again to compile, and nothing that "tensor" does not show
        state = (w, init(AUTO, w, layout.mesh))
        # Where the guard chooses between two states, XLA may divide even what was whole.
        there = jax.tree.map(lambda x: x.sharding, state)
        # With explicit axes as users have them: a zero that is made without a mesh lies elsewhere.
        is_explicit = layout_name == "explicit"
        with jax.set_mesh(layout.mesh) if is_explicit else contextlib.nullcontext():
            states, facts["auto"] = run(auto_step(layout.loss), state, one_by_one, there)
        facts["auto"]["difference"] = difference(states, alone["auto"])
        if is_explicit:
            continue  # a schedule is searched for by the same arithmetic
        schedule = offline.init_outer_state(jnp.full(HORIZON, 0.05), LRS_OPT)
        schedule = jax.device_put(schedule, place(PartitionSpec()))
        stack = jax.device_put(at(batches, slice(HORIZON)), place(PartitionSpec(None, "data")))
        arguments = [(w, stack, one_by_one[0][1])] * STEPS
        states, facts["lrs_opt"] = run(outer_step, schedule, arguments)
        facts["lrs_opt"]["difference"] = difference(states, alone["lrs_opt"])
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    # Here, since pytest imports this file, too, and looks for doctests in it.
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    main()
