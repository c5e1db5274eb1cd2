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
# # HD, RTHO and MARTHE on two surfaces in the plane
#
# All three methods learn the learning rate $\eta$ during one descent, by a gradient of the loss
# in $\eta$. They differ in how much of the past it remembers. With $B_t$ the derivative of the step
# in $\eta$, and $A_t$ its derivative in the point,
#
# $$Z_{t+1} = \mu_t A_t Z_t + B_t, \qquad \Delta\eta_t = \langle Z_t, \nabla L(w_t) \rangle, \qquad
# \eta_t = \max(\eta_{t-1} - \beta \Delta\eta_t, 0).$$
#
# **HD** forgets at once ($\mu = 0$), **RTHO** never ($\mu = 1$), and **MARTHE** decides at every
# step. Two surfaces show why neither extreme is safe.

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import hyperlr
from hyperlr.experiments.methods import METHODS
from hyperlr.experiments.surfaces import experiment, figures
from hyperlr.experiments.surfaces.functions import beale

# Continuous integration runs every cell, with few steps.
SHORT = os.environ.get("HYPERLR_SHORT") == "1"
T = 10 if SHORT else experiment.Settings().num_steps

# %% [markdown]
# ## One descent, written out
#
# Beale's function has steep walls and a wide plateau. From $\eta_0 = 0$, MARTHE finds a learning
# rate by itself. Any loop over an optax optimizer will do; `hyperlr` only needs the loss as a
# function, for the derivative of its gradient.

# %%
optimizer = hyperlr.marthe(optax.sgd, learning_rate=0.0, hyper_learning_rate=1e-5)


def step(carry, _):
    point, state = carry
    value, grads = jax.value_and_grad(beale)(point)
    updates, state = optimizer.update(grads, state, point, value_fn=beale)
    metrics = hyperlr.metrics(state)
    return (optax.apply_updates(point, updates), state), (value, metrics["learning_rate"])


start = jnp.array([1.0, 1.0])
_, (values, learning_rates) = jax.lax.scan(step, (start, optimizer.init(start)), length=T)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot(values)
left.set(xlabel="step", ylabel="L", yscale="log")
right.plot(learning_rates)
right.set(xlabel="step", ylabel="learning rate η")
plt.show()

# %% [markdown]
# ## Both surfaces, all three methods, many values of β
#
# Bukin's function N. 6 is the opposite of Beale's: a narrow valley, where what was learned on the
# way down is soon out of date.

# %%
descents = {
    surface: {
        method: experiment.descend(method, problem, problem.betas, num_steps=T)
        for method in experiment.SHOWN_METHODS
    }
    for surface, problem in experiment.PROBLEMS.items()
}
figure = figures.surfaces_and_schedules(experiment.PROBLEMS, descents)
figure

# %% [markdown]
# The columns: the paths, with a square at the end; the distance from the minimum by step; the
# learning rate by step; and the best distance against β, where a missing point diverged.
#
# * On **Beale's** plateau each single gradient is small, and HD, which sees only the last one,
#   hardly moves $\eta$. RTHO adds them up, and so does MARTHE.
# * In **Bukin's** valley the gradient changes its direction from step to step. RTHO's sum drives
#   $\eta$ up and then to zero, where it ends. MARTHE notices that its memory contradicts the
#   last step, and drops it: $\mu = 0$.

# %%
for surface, problem in experiment.PROBLEMS.items():
    shown = problem.betas.index(problem.shown_beta)
    discounts = descents[surface]["marthe_mu"].discounts[shown]
    print(f"{problem.title}: μ = 0 on {np.mean(discounts == 0):.0%} of the steps")
    for method, descent in descents[surface].items():
        gap = descent.best_values[shown] - problem.minimum
        print(f"  {METHODS[method].label:20} best L − min L = {gap:.1e}")
