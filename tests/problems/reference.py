"""The algorithms as plain float64 NumPy loops, written from the equations; no code of hyperlr's.

The problem is small enough for explicit matrices: L_t(w) = ½ wᵀH_t w + ¼ Σ w⁴ − b_tᵀ w, with its
gradient and Hessian written out. The inner optimizer is SGD with momentum m (0 is plain SGD):
v′ = m v + g, w′ = w − η v′, so that on the vector (w, v)

    A = [[I − ηH, −ηm I],    B = [[−v′],
         [H,       m I]]          [ 0 ]]
"""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """One minibatch of the problem: a symmetric matrix and a vector."""

    matrix: np.ndarray
    vector: np.ndarray


def make_batches(num: int, size: int, seed: int) -> list[Batch]:
    """Minibatches that scatter around one problem, with curvature between about 0.5 and 2."""
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(num):
        noise = rng.normal(size=(size, size)) * 0.2
        batches.append(Batch(np.eye(size) + (noise + noise.T) / 2, rng.normal(size=size)))
    return batches


def gradient(w: np.ndarray, batch: Batch) -> np.ndarray:
    """∇L by hand."""
    return batch.matrix @ w + w**3 - batch.vector


def hessian(w: np.ndarray, batch: Batch) -> np.ndarray:
    """∇²L by hand."""
    return batch.matrix + np.diag(3 * w**2)


def run(
    w0,
    train: list[Batch],
    val: list[Batch] | None,
    *,
    learning_rate,
    hyper_learning_rate,
    meta_learning_rate=0.0,
    discount=None,
    momentum=0.0,
    scale_free=False,
):
    """The recursion of Donini et al., 2020, Algorithm 1, as corrected; the record of every step.

    ``discount=None`` adapts μ; ``scale_free`` is the exponentiated gradient with γ in place of β.
    """
    n = len(w0)
    w, v = np.array(w0, float), np.zeros(n)
    Z, B = np.zeros(2 * n), np.zeros(2 * n)
    eta, beta = learning_rate, hyper_learning_rate
    mu, c, previous = 0.0, 0.0, 0.0
    record = []
    for t, batch in enumerate(train):
        g = gradient(w, batch)
        e = g if val is None else gradient(w, val[t])
        delta = 0.0
        if t > 0:
            delta = Z[:n] @ e
            if discount is None:
                one_step = B[:n] @ e
                q = 0.0 if one_step == 0 else min(max(delta / one_step, 0.0), 1.0)
                new_mu = q ** (1 / (c + 1))
            else:
                new_mu = discount
            mu, c = new_mu, mu * (1 + c)
            if scale_free:
                eta *= np.exp(-beta * delta / np.linalg.norm(Z[:n]) / np.linalg.norm(e))
            else:
                beta = max(beta + meta_learning_rate * delta * previous, 0.0)
                eta = max(eta - beta * delta, 0.0)
        previous = delta
        H, identity = hessian(w, batch), np.eye(n)
        A = np.block([[identity - eta * H, -eta * momentum * identity], [H, momentum * identity]])
        v = momentum * v + g
        B = np.concatenate([-v, np.zeros(n)])
        Z = mu * A @ Z + B
        w = w - eta * v
        record.append(
            {
                "learning_rate": eta,
                "hypergradient": delta,
                "discount": mu,
                "horizon": c,
                "hyper_learning_rate": beta,
                "params": w.copy(),
            }
        )
    return {key: np.array([row[key] for row in record]) for key in record[0]}
