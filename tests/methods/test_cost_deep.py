"""What a step costs on a deep network, in plain steps of the same form: FLOPs and temporaries.

Softmax keeps XLA from merging two gradients of one loss; a gradient and its derivative that come
from one place need no merging.
"""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import hyperlr
from hyperlr.experiments.networks import transformer

LAYERS, WIDTH, LENGTH, BATCH = 4, 128, 48, 32
ADAMW = functools.partial(optax.adamw, weight_decay=1e-2, eps_root=1e-12)
FORMS = {
    "unrolled": {},
    "scanned": {"stacked": True},
    "checkpointed": {"checkpoint": True},
    "scanned and checkpointed": {"stacked": True, "checkpoint": True},
    "microbatches": {"microbatches": 4},
    "bfloat16": {"dtype": jnp.bfloat16},
}


@functools.cache
def cost(form, method, *, validates=False, share=1.0):
    """FLOPs and bytes of temporaries of one compiled step."""
    options = FORMS[form]
    stacked, checkpoint = options.get("stacked", False), options.get("checkpoint", False)
    params = jax.eval_shape(
        functools.partial(
            transformer.params,
            num_layers=LAYERS,
            width=WIDTH,
            length=LENGTH,
            stacked=stacked,
            dtype=options.get("dtype", jnp.float32),
        ),
        jax.random.key(0),
    )
    loss = transformer.scanned_loss if stacked else transformer.loss
    loss = functools.partial(loss, checkpoint=checkpoint)
    tx = {
        "plain": lambda: optax.with_extra_args_support(ADAMW(1e-3)),
        "marthe": lambda: hyperlr.marthe(ADAMW, 1e-3, hyper_learning_rate=1e-6),
        "three": lambda: hyperlr.online(
            lambda learning_rate, b1, weight_decay: optax.adamw(
                learning_rate, b1=b1, weight_decay=weight_decay, eps_root=1e-12
            ),
            {"learning_rate": 1e-3, "b1": 0.9, "weight_decay": 1e-2},
            discount=0.9,
            hyper_optimizer=hyperlr.adaptive_sgd(1e-6),
        ),
    }[method]()

    def gradient(params, batch):
        if "microbatches" not in options:
            return jax.grad(loss)(params, batch)

        def add(total, batch):
            return jax.tree.map(jnp.add, total, jax.grad(loss)(params, batch)), None

        micro = batch.reshape(options["microbatches"], -1, batch.shape[-1])
        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), micro)[0]

    def step(params, state, batch, val_batch):
        if method == "plain":
            grads, extra = gradient(params, batch), {}
        elif "microbatches" in options:
            grads, extra = hyperlr.linearize_grad(lambda w: gradient(w, batch), params, state)
            extra |= {"val_grad": gradient(params, val_batch)} if validates else {}
        else:
            _, grads, extra = hyperlr.value_and_grad(loss, share=share)(
                params, batch, state=state, val_batch=val_batch if validates else None
            )
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    batch = jax.ShapeDtypeStruct((BATCH, LENGTH + 1), jnp.int32)
    state = jax.eval_shape(tx.init, params)
    compiled = jax.jit(step).lower(params, state, batch, batch).compile()
    return compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes


def ratios(form, method="marthe", **options):
    plain, found = cost(form, "plain"), cost(form, method, **options)
    return found[0] / plain[0], found[1] / plain[1]


@pytest.mark.parametrize("form", FORMS)
def test_a_step_costs_three_gradients(form):
    flops, temporaries = ratios(form)
    assert 2.5 < flops <= 3.05
    assert temporaries <= 2.2


@pytest.mark.parametrize("form", FORMS)
def test_a_step_with_a_validation_batch_costs_four(form):
    flops, temporaries = ratios(form, validates=True)
    assert 3.5 < flops <= 4.05
    assert temporaries <= 3.1


def test_a_quarter_share_costs_less_than_two():
    assert 1.7 < ratios("unrolled", share=0.25)[0] <= 1.8


def test_every_further_hyperparameter_costs_two():
    one, three = ratios("unrolled")[0], ratios("unrolled", "three")[0]
    assert (three - one) / 2 <= 2.05
