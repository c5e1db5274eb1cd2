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
# # What does the best learning-rate schedule look like?
#
# A learning-rate schedule is usually *chosen*: a constant, a cosine, a few steps down. Here it is
# *computed*. Training for $T$ steps is a function that takes a schedule
# $\eta = (\eta_0, \dots, \eta_{T-1})$ to the final weights $w_T$, and the validation loss
# $f(\eta) = E(w_T(\eta))$ has a gradient in all $T$ numbers. Gradient descent on it is **LRS-OPT**.
#
# That is far too expensive for everyday use: every step of it is a whole training run, and back.
# But it shows what the cheap methods that adapt the rate *during* one run, such as **HD** and
# **MARTHE**, are trying to find. This notebook puts the three side by side on a few thousand
# digits, as Section 5 of the MARTHE paper (Donini et al., 2020) does. It takes a few minutes.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import hyperlr
from hyperlr.experiments import data
from hyperlr.experiments.data import batches
from hyperlr.experiments.digits.log_space import smoothed_log_adam
from hyperlr.experiments.networks import mlp

# Continuous integration runs every cell, with a horizon too short to see much.
SHORT = os.environ.get("HYPERLR_SHORT") == "1"
T = 12 if SHORT else 512
OUTER_ITERATIONS = 2 if SHORT else 20

# %% [markdown]
# ## The task
#
# 3,500 digits to train on, 500 to validate, 1,000 for the final test; a network with one hidden
# layer; minibatches of 100; plain gradient descent. A minibatch is a row of indices, so that $T$ of
# them take little room.

# %%
digits = data.load_packaged()
images, labels = data.as_inputs(jnp.asarray(digits.images)), jnp.asarray(digits.labels)
test_images = data.as_inputs(jnp.asarray(digits.test_images))
test_labels = jnp.asarray(digits.test_labels)
train, validation = data.split_indices(digits, seed=0)

params = mlp.init_mlp(jax.random.key(0), (784, 100, 10))


def loss_fn(params, indices):
    logits = mlp.apply_mlp(params, images[indices])
    return mlp.cross_entropy(logits, labels[indices])


def objective_fn(params):
    return loss_fn(params, validation)


def sample_batches(key):
    epochs = -(-T * 100 // len(train))
    shuffled = [jax.random.permutation(k, train) for k in jax.random.split(key, epochs)]
    return jnp.concatenate(shuffled)[: T * 100].reshape(T, 100)


# One fixed progression, on which all schedules are compared.
progression = jnp.asarray(batches.epoch_batches(np.random.default_rng(0), train, T, 100))


@jax.jit
def of_weights(trained):
    """The accuracy on the validation and on the test digits."""
    val = mlp.accuracy(mlp.apply_mlp(trained, images[validation]), labels[validation])
    return val, mlp.accuracy(mlp.apply_mlp(trained, test_images), test_labels)


@jax.jit
def accuracies(schedule):
    """Trains with a schedule; the accuracies of what comes out."""
    trained, _ = hyperlr.unroll(optax.sgd, params, schedule, progression, loss_fn)
    return of_weights(trained)


# %% [markdown]
# ## The hypergradient
#
# By the chain rule, the derivative of the final loss in one of the learning rates is (Eq. 4)
#
# $$\frac{\partial f}{\partial \eta_t} = -\nabla L_t(w_t)^\top
# \left(\prod_{s=t+1}^{T-1} A_s\right)^{\!\top} \nabla E(w_T), \qquad A_s = I - \eta_s H_s .$$
#
# Read from the right: take the slope of the validation loss at the end, carry it back through the
# remaining steps, and compare it with the step that was taken at time $t$. If they point the same
# way, a larger $\eta_t$ would have helped. Nobody forms the matrices. One call gives all $T$
# derivatives, in about the time of three training runs:

# %%
constant = jnp.full(T, 0.01)
value, hypergradient = jax.jit(
    lambda schedule: hyperlr.schedule_hypergradient(
        optax.sgd, params, schedule, progression, loss_fn, objective_fn
    )
)(constant)
negative = np.mean(hypergradient < 0)
print(f"E(w_T) = {value:.3f} at η = 0.01; {negative:.0%} of the derivatives are negative")

# %% [markdown]
# Is it right? The directional derivative along $(1, \dots, 1)$ is the sum of the entries, and a
# difference of two training runs should agree with it. It does up to a few percent: the gradient of
# a ReLU network jumps where a unit switches on or off, and a second derivative does not see that.

# %%
final_loss = jax.jit(
    lambda rate: objective_fn(
        hyperlr.unroll(optax.sgd, params, jnp.full(T, rate), progression, loss_fn)[0]
    )
)
difference = (final_loss(0.0105) - final_loss(0.0095)) / 0.001
print(f"sum of the hypergradient {hypergradient.sum():.2f}, difference {difference:.2f}")

# %%
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.plot(hypergradient)
axes.axhline(0, color="black", linewidth=0.8)
axes.set(xlabel="step t", ylabel="∂f / ∂η_t", title="Hypergradient at the constant 0.01")
plt.show()

# %% [markdown]
# At 0.01 a longer step would have helped almost everywhere: the rate is far too small.
#
# ## Online: one run, learning the rate on the way
#
# HD compares each validation gradient with the step just taken, and forgets everything before it.
# MARTHE keeps a discounted memory of the earlier steps, at the price of one Hessian-vector product.
# Both are optax transformations. The scale-free variant of MARTHE moves $\log \eta$ by the angle
# between that memory and the validation gradient, so that its step size has no units to tune.


# %%
def train_online(optimizer):
    """One run with a learning rate that adapts; returns the schedule it produced."""
    rng = np.random.default_rng(1)
    val_batches = batches.independent_batches(rng, validation, T, 100)

    def step(carry, batch):
        params, state = carry
        train_indices, val_indices = batch

        def value_fn(params):
            return loss_fn(params, train_indices)

        grads = jax.grad(value_fn)(params)
        val_grad = jax.grad(loss_fn)(params, val_indices)
        updates, state = optimizer.update(
            grads, state, params, value_fn=value_fn, val_grad=val_grad
        )
        learning_rate = hyperlr.metrics(state)["learning_rate"]
        return (optax.apply_updates(params, updates), state), learning_rate

    carry = (params, optimizer.init(params))
    return jax.jit(lambda: jax.lax.scan(step, carry, (progression, val_batches))[1])()


rule = hyperlr.exponentiated_gradient(0.2)
schedules = {
    "constant 0.01": constant,
    "HD": train_online(hyperlr.hd(optax.sgd, 0.01, 1e-3)),
    "MARTHE (scale-free)": train_online(
        hyperlr.marthe(optax.sgd, 0.01, discount=0.99, hyper_optimizer=rule)
    ),
}

# %% [markdown]
# `hyperlr.auto` needs no first rate, no $\beta$ and no validation digits: it follows the training
# loss at the average of the weights, which is also what it keeps. So its accuracy is that of the
# average, and not of a run with its rates.


# %%
@jax.jit
def train_auto():
    """One run with nothing given: the rates, and the averaged weights."""
    optimizer = hyperlr.auto(optax.sgd)

    def step(carry, train_indices):
        params, state = carry
        _, grads, extra = hyperlr.value_and_grad(loss_fn)(params, train_indices, state=state)
        updates, state = optimizer.update(grads, state, params, **extra)
        learning_rate = hyperlr.metrics(state)["learning_rate"]
        return (optax.apply_updates(params, updates), state), learning_rate

    carry = (params, optimizer.init(params))
    (last, state), rates = jax.lax.scan(step, carry, progression)
    return rates, hyperlr.eval_params(state, last)


schedules["auto"], averaged = train_auto()

# %% [markdown]
# ## What one would have done instead
#
# Five constants, and five rates that fall to zero along a cosine, of which the validation digits
# choose the best: five runs each, where HD and MARTHE needed a $\beta$ or a $\gamma$.

# %%
GRID = (0.03, 0.1, 0.3, 1.0, 3.0)
for name, shape in (
    ("constant", jnp.ones(T)),
    ("cosine", (1 + jnp.cos(jnp.pi * jnp.arange(T) / T)) / 2),
):
    found = {rate: accuracies(rate * shape)[0] for rate in GRID}
    best = max(found, key=found.get)
    schedules[f"best {name}"] = best * shape
    print(f"best {name} of {len(GRID)}: {best}")

# %% [markdown]
# ## Offline: descent on the whole schedule
#
# From the same constant 0.01. The minibatches are drawn afresh for every outer iteration, so that
# the schedule cannot adapt to one order of the images. Plain descent, `hyperlr.lrs_opt`, gets there
# in thousands of iterations. With Adam on $\log \eta$, fed with hypergradients that are averaged
# over neighbouring steps, twenty are enough to see the shape.

# %%
optimized = hyperlr.optimize_schedule(
    optax.sgd,
    params,
    constant,
    sample_batches,
    loss_fn,
    objective_fn,
    optimizer=smoothed_log_adam(4.5, OUTER_ITERATIONS, width=31),
    num_iterations=OUTER_ITERATIONS,
    key=jax.random.key(1),
)
schedules["LRS-OPT"] = optimized.schedule
print("E(w_T) of every outer iteration:", np.round(optimized.values, 3))

# %% [markdown]
# ## The comparison

# %%
colors = {
    "constant 0.01": "#777777",
    "HD": "#4477AA",
    "MARTHE (scale-free)": "#AA3377",
    "auto": "#EE7733",
    "best constant": "#BBBBBB",
    "best cosine": "#DDAA33",
    "LRS-OPT": "#000000",
}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
for row, (name, schedule) in enumerate(schedules.items()):
    val, test = of_weights(averaged) if name == "auto" else accuracies(jnp.asarray(schedule))
    left.plot(schedule, color=colors[name], label=name)
    right.plot(val, row - 0.1, "o", color=colors[name], label="validation" if row == 0 else None)
    right.plot(
        test,
        row + 0.1,
        "D",
        color=colors[name],
        markerfacecolor="none",
        label="test" if row == 0 else None,
    )
    print(f"{name:20} validation {val:.1%}, test {test:.1%}")
left.set(xlabel="step", ylabel="learning rate η", yscale="log", title="Schedules")
left.legend(loc="center")
right.set_yticks(range(len(schedules)), list(schedules))
right.invert_yaxis()
right.set(xlabel="final accuracy", title="What they lead to")
right.legend()
plt.show()

# %% [markdown]
# ## What it means
#
# * The optimized schedule is high from the first steps on, and falls in the last thirty. Nobody
#   told it to cool down.
# * HD sees one step ahead. From there a small rate nearly always looks better than it is: a long
#   step along a steep direction costs at once what it earns later. So HD stays ten times too low.
# * MARTHE looks back over many steps, and finds the right height within the first hundred of a
#   single run. It cannot see the end coming, so it does not fall there: that only LRS-OPT knows.
# * `auto` is given nothing, and ends where the best of five constants does. It took one run, in
#   which the 148 steps that move the rate cost four gradients (two, with `share=0.25`) and the
#   others one, and no validation digits.
# * Between a bad schedule and a good one lie ten points of accuracy; among good ones, whether
#   tuned, learned or searched, hardly more than a thousand test digits can tell apart.
#
# A schedule found once is a plain `optax.Schedule` from then on, of any length:

# %%
schedule = hyperlr.schedules.from_array(optimized.schedule, steps=2 * T)
optimizer = optax.sgd(schedule)
print([round(float(schedule(t)), 3) for t in (0, T // 2, T, 2 * T - 1)])
