"""Losses of known curvature."""

import jax
import jax.numpy as jnp
import numpy as np


def rotated(spectrum, seed=0):
    """A symmetric matrix with these eigenvalues, and its eigenvectors."""
    n = len(spectrum)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return q @ np.diag(spectrum) @ q.T, q


def quadratic(matrix):
    matrix = jnp.asarray(matrix)
    return lambda w: 0.5 * jnp.vdot(w, matrix @ w)


def beale(w):
    x, y = w
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def network_loss(params):
    """Not a quadratic, and over a tree."""
    inputs = jnp.asarray(np.linspace(-1, 1, 12).reshape(4, 3), params["w"].dtype)
    hidden = jnp.tanh(inputs @ params["w"] + params["b"][None])
    return jnp.mean((hidden @ params["out"] - inputs[:, 0]) ** 2)


def network_params(dtype):
    rng = np.random.default_rng(3)
    shapes = {"w": (3, 4), "b": (4,), "out": (4,)}
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


def dense_hessian(loss, params):
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return np.asarray(jax.hessian(lambda w: loss(unravel(w)))(flat), np.float64)
