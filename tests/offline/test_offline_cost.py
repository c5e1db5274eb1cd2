"""What the hypergradient of a schedule costs: memory, multiplications, traces."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems.networks import NETWORK_SIZES, mlp_loss, network_loss
from problems.schedules import mlp_problem

import hyperlr


def network_hypergradient(num_steps, checkpointing):
    """The hypergradient of the paper's network, and abstract arguments of it."""
    shape = jax.ShapeDtypeStruct
    params = [
        {"w": shape((m, n), jnp.float32), "b": shape((n,), jnp.float32)}
        for m, n in itertools.pairwise(NETWORK_SIZES)
    ]
    batches = (shape((num_steps, 100, 784), jnp.float32), shape((num_steps, 100), jnp.int32))
    val_batch = (shape((100, 784), jnp.float32), shape((100,), jnp.int32))

    def hypergradient(params, schedule, batches, val_batch):
        return hyperlr.schedule_hypergradient(
            optax.sgd,
            params,
            schedule,
            batches,
            network_loss,
            lambda w: network_loss(w, val_batch),
            checkpointing=checkpointing,
        )

    return hypergradient, (params, shape((num_steps,), jnp.float32), batches, val_batch)


def temporaries(num_steps, checkpointing="chunk"):
    """Megabytes of temporaries of the compiled hypergradient."""
    hypergradient, arguments = network_hypergradient(num_steps, checkpointing)
    compiled = jax.jit(hypergradient).lower(*arguments).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def test_memory_grows_with_the_root_of_the_number_of_steps():
    at_64 = temporaries(64)
    assert at_64 < 100
    assert temporaries(256) < 2.2 * at_64
    assert temporaries(64, "none") > 400


def multiplications(jaxpr):
    """Multiplications in matrix products, loops counted as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * int(np.prod([shape[i] for i in contracted]))
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            total += times * multiplications(inner) if hasattr(inner, "eqns") else 0
    return total


def test_work_is_a_second_gradient_above_backpropagation():
    """Per step: 1 forwards, 1 again, 1.66 for the Hessian-vector product; the tail not again."""
    counts = {}
    for checkpointing in ("none", "chunk"):
        hypergradient, arguments = network_hypergradient(64, checkpointing)
        counts[checkpointing] = multiplications(jax.make_jaxpr(hypergradient)(*arguments).jaxpr)
    params, _, _, val_batch = arguments
    plain = multiplications(jax.make_jaxpr(jax.grad(network_loss))(params, val_batch).jaxpr)
    assert 2.6 < counts["none"] / (64 * plain) < 2.7
    assert 3.5 < counts["chunk"] / (64 * plain) < 3.65


def test_the_loss_is_traced_a_fixed_number_of_times():
    """However long the schedule: compiling must not grow with T through Python."""
    counts = []
    for num_steps in (50, 200):
        params, batches, objective, schedule = mlp_problem(num_steps)
        traced = []

        def loss(params, batch, traced=traced):
            traced.append(1)
            return mlp_loss(params, batch)

        jax.make_jaxpr(
            lambda s, b=batches, loss=loss: hyperlr.schedule_hypergradient(
                optax.sgd, params, s, b, loss, objective
            )
        )(schedule)
        counts.append(len(traced))
    assert counts[0] == counts[1] <= 2
