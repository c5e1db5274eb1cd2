# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # First steps: your data, your model, no learning rate
#
# A table, a small network, an ordinary optax loop. First with a rate that somebody guessed, then
# with a few rates to choose from, and then with **`hyperlr.auto`**, which is given none. Put your
# own arrays in the first cell and your own loss in the second; nothing else has to change.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from mlxtend.data import autompg_data

import hyperlr

# Continuous integration runs every cell, with few steps.
SHORT = os.environ.get("HYPERLR_SHORT") == "1"
T = 20 if SHORT else 300

# %% [markdown]
# ## Data
#
# How many miles a car of the seventies and eighties goes on a gallon, from its cylinders, weight,
# power and so on: 392 cars. Any two arrays with a common first axis would do. A part is kept for
# validation, where a choice has to be made, and another one for the end.

# %%
features, miles = autompg_data()
features = features[:, np.isfinite(features).all(axis=0)]  # the name of a car is no number
x = (features - features.mean(axis=0)) / features.std(axis=0)
y = (miles - miles.mean()) / miles.std()
order = np.random.default_rng(0).permutation(len(x))
x, y = jnp.asarray(x[order], jnp.float32), jnp.asarray(y[order], jnp.float32)
(x, x_val, x_test), (y, y_val, y_test) = (jnp.split(array, [250, 320]) for array in (x, y))
print(f"{len(x)} cars to train on, {len(x_val)} to validate on, {len(x_test)} for the end")

# %% [markdown]
# ## Model and loss
#
# Two hidden layers, and the squared error. The loss takes the parameters and a minibatch.


# %%
def initial_params(key, sizes=(x.shape[1], 64, 64, 1)):
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(k, (m, n)) / np.sqrt(m), "b": jnp.zeros(n)}
        for k, m, n in zip(keys, sizes, sizes[1:], strict=False)
    ]


def loss(params, batch):
    inputs, targets = batch
    for i, layer in enumerate(params):
        inputs = inputs @ layer["w"] + layer["b"]
        inputs = jnp.tanh(inputs) if i < len(params) - 1 else inputs
    return jnp.mean((inputs[:, 0] - targets) ** 2)


# %% [markdown]
# ## One loop for all
#
# It is an optax loop, with `hyperlr.value_and_grad` in place of `jax.value_and_grad`, and
# `hyperlr.eval_params` for the weights that are kept. With a plain optimizer both do what their
# plain counterparts do, so that the loop need not know what it trains with.


# %%
def train(tx, seed=0):
    tx = optax.with_extra_args_support(tx)
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    params = initial_params(init_key)

    def step(carry, key):
        params, state = carry
        rows = jax.random.randint(key, (50,), 0, len(x))
        value, grads, extra = hyperlr.value_and_grad(loss)(params, (x[rows], y[rows]), state=state)
        updates, state = tx.update(grads, state, params, **extra)
        logged = {"loss": value, "rate": optax.tree.get(state, "learning_rate", jnp.nan)}
        return (optax.apply_updates(params, updates), state), logged

    keys = jax.random.split(batch_key, T)
    (params, state), log = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(
        (params, tx.init(params))
    )
    return hyperlr.eval_params(state, params), log


def error(params, inputs, targets):
    return float(loss(params, (inputs, targets)))


# %% [markdown]
# ## With a rate that was guessed, and with the best of five

# %%
guessed, _ = train(optax.adam(1e-3))
rates = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
runs = {rate: train(optax.adam(rate))[0] for rate in rates}
best = min(rates, key=lambda rate: error(runs[rate], x_val, y_val))
print(f"adam(0.001), one run:        test error {error(guessed, x_test, y_test):.3f}")
print(f"adam({best}), best of 5 runs: test error {error(runs[best], x_test, y_test):.3f}")

# %% [markdown]
# ## With none
#
# `hyperlr.auto` takes the *factory* of an optimizer, `hyperlr.optimizers.adam` without its
# brackets, since it makes the optimizer with another rate at every step. A step in which the rate
# moves costs four gradients, or two with `value_and_grad(loss, share=0.25)` on minibatches that are
# large enough to take a quarter of. That is so in the first hundred steps, and then in eight of
# every 64.

# %%
learned, log = train(hyperlr.auto(hyperlr.optimizers.adam))
print(f"auto, one run:               test error {error(learned, x_test, y_test):.3f}")
print(f"its rate went from {log['rate'][0]:.1e} to {log['rate'][-1]:.1e}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.semilogy(log["loss"])
left.set(xlabel="step", ylabel="loss of the minibatch")
right.semilogy(log["rate"])
right.set(xlabel="step", ylabel="learning rate")
plt.show()

# %% [markdown]
# A learned rate fits the training loss as well as it can, and that is all it does. On 250 cars ten
# times as many steps are too many for every optimizer here, and the more so the better it fits:
# stop where the validation error does not fall any more, as you would without hyperlr.

# %% [markdown]
# ## Where to go on
#
# The pages *In your own loop* and *Flax* have the same for schedules, weight decay, accumulation,
# frozen layers and Flax models; *How do I know it works?* says what to look at when it does not.
