"""What curvature says of gradient descent, measured on a quadratic, on Beale and on the digits."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperlr import curvature
from hyperlr.experiments import training
from hyperlr.experiments.core.descent import float64
from hyperlr.experiments.core.experiment import Work
from hyperlr.experiments.data import Data
from hyperlr.experiments.methods import LEARNING_RATE, METHODS, maker
from hyperlr.experiments.networks import mlp
from hyperlr.experiments.surfaces.functions import beale

SPECTRUM = (10.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05)
"""Eigenvalues of the quadratic, whose L is the largest."""
FACTORS = (0.5, 1.0, 1.9, 1.99, 2.0, 2.01, 2.1)
"""The step sizes of descent on the quadratic, in units of 1/L."""
NUM_DIGITS = 200
"""How many digits the loss of the network is measured on."""
METHOD = "marthe_fixed"
"""The method whose sharpness is followed."""
LABEL = METHODS[METHOD].label
HYPER_LEARNING_RATE = 1e-3
"""Its β."""

Loss = Callable[[Any], jax.Array]


class Settings(NamedTuple):
    """Size of the experiment."""

    quadratic_steps: int = 200
    """Steps of descent on the quadratic and on Beale."""
    network_steps: int = 100
    """Steps of descent with the network."""
    marthe_steps: int = 512
    """Steps of the MARTHE run."""
    sharpness_every: int = 16
    """Steps of it between two measurements of the sharpness."""
    hidden_widths: tuple[int, ...] = mlp.HIDDEN_WIDTHS
    """Units of the network's hidden layers."""


class OneStep(NamedTuple):
    """A loss after one step of gradient descent, against the step size ε."""

    epsilons: np.ndarray
    """[E], from 0 on."""
    losses: np.ndarray
    """[E]."""
    second_order: np.ndarray
    """[E], f − ε gᵀg + ½ ε² gᵀHg."""
    bound: float
    """2 gᵀg / gᵀHg."""


class Descent(NamedTuple):
    """Gradient descent with a constant step; finite or not, values are as they came."""

    values: np.ndarray
    """[T + 1], the loss, from the start on."""
    squared_norms: np.ndarray
    """[T + 1], ‖g‖²."""
    lipschitz: float
    """L: the largest |λ(H)| on the way, or a bound on it."""

    @property
    def share_of_bound(self) -> np.ndarray:
        """min ‖g‖² over the O(1/t) bound, [T]; the bound holds where it is at most 1."""
        steps = np.arange(1, len(self.values))
        smallest = np.minimum.accumulate(self.squared_norms)[:-1]
        return smallest * steps / (2 * self.lipschitz * self.values[0])


class Sharpness(NamedTuple):
    """A MARTHE run, and the curvature measured along it on digits that stay the same."""

    learning_rates: np.ndarray
    """[T], η of every step."""
    steps: np.ndarray
    """int [M], after how many steps curvature was measured."""
    lipschitz: np.ndarray
    """[M], the largest |λ(H)|."""
    along_gradient: np.ndarray
    """[M], gᵀHg / gᵀg."""
    losses: np.ndarray
    """[M]."""

    @property
    def rates(self) -> np.ndarray:
        """The learning rate of the step at every measurement, [M]; after the last, the last."""
        return self.learning_rates[np.minimum(self.steps, len(self.learning_rates) - 1)]


class Study(NamedTuple):
    """All that is measured."""

    one_step: dict[str, OneStep]
    """On the quadratic, on Beale and on the network."""
    on_quadratic: dict[float, Descent]
    """ε in units of 1/L → descent."""
    bounded: dict[str, Descent]
    """With ε = 1/L, on the quadratic, on Beale and on the network."""
    sharpness: Sharpness
    """Along a MARTHE run."""


def quadratic(point: jax.Array) -> jax.Array:
    """½ wᵀHw with H of eigenvalues SPECTRUM in a rotated basis; minimum 0 at 0."""
    n = len(SPECTRUM)
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))
    matrix = jnp.asarray(basis @ np.diag(SPECTRUM) @ basis.T, point.dtype)
    return 0.5 * point @ (matrix @ point)


SURFACES: dict[str, tuple[Loss, np.ndarray]] = {
    "quadratic": (quadratic, np.ones(len(SPECTRUM))),
    "beale": (beale, np.array([2.0, 0.8])),
}
"""Losses in float64, and the start on each."""


def network(data: Data, settings: Settings) -> tuple[Loss, mlp.Params]:
    """Returns the cross-entropy on NUM_DIGITS training digits of seed 0, and initial weights."""
    lanes = _one_lane(data, settings)
    indices = jnp.asarray(lanes.train_batches[0].reshape(-1)[:NUM_DIGITS])
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
    loss = functools.partial(training.loss_fn, images=images, labels=labels, indices=indices)
    return loss, jax.tree.map(lambda w: w[0], lanes.params)


def one_step(loss: Loss, params: Any, num_points: int = 61) -> OneStep:
    """Measures the loss at ε from 0 to half as far again as the bound.

    Raises:
      ValueError: curvature along the gradient is not positive, so that there is no bound.
    """

    @jax.jit
    def measure(params: Any) -> tuple[jax.Array, ...]:
        value, grads = jax.value_and_grad(loss)(params)
        bound = curvature.max_stable_learning_rate(loss, params, grads)
        epsilons = jnp.linspace(0.0, 1.5, num_points) * bound
        moved = jax.lax.map(lambda epsilon: loss(_moved(params, grads, epsilon)), epsilons)
        squared_norm = optax.tree.norm(grads, squared=True)
        # gᵀHg = 2 gᵀg / bound.
        second_order = value - epsilons * squared_norm + epsilons**2 * squared_norm / bound
        return epsilons, moved, second_order, bound

    epsilons, losses, second_order, bound = map(np.asarray, measure(params))
    if not np.isfinite(bound):
        raise ValueError("there is no bound on the step where curvature is not positive")
    return OneStep(epsilons, losses, second_order, float(bound))


def descend(
    loss: Loss,
    params: Any,
    step_size: float,
    num_steps: int,
    *,
    lipschitz_every: int = 0,
    lipschitz_limit: float = np.inf,
) -> Descent:
    """Descends with a constant step.

    The sharpness is measured every so many steps (0: not at all), and where it is above its limit
    the descent ends early.
    """
    values, squared_norms, lipschitz = [], [], 0.0
    for t in range(num_steps + 1):
        if lipschitz_every and t % lipschitz_every == 0:
            lipschitz = max(lipschitz, float(_sharpness(loss, params)))
            if lipschitz > lipschitz_limit:
                break
        params, value, squared_norm = _advance(loss, params, step_size)
        values.append(float(value))
        squared_norms.append(float(squared_norm))
    return Descent(np.array(values), np.array(squared_norms), lipschitz)


def descent_on_quadratic(factor: float, num_steps: int) -> Descent:
    """Descends the quadratic with ε = factor / L."""
    loss, point = SURFACES["quadratic"]
    with float64():
        start = jnp.asarray(point)
        lipschitz = float(curvature.lipschitz_constant(loss, start, tolerance=1e-10))
        return descend(loss, start, factor / lipschitz, num_steps)._replace(lipschitz=lipschitz)


def descent_with_bound(loss: Loss, params: Any, num_steps: int, *, lipschitz_every: int) -> Descent:
    """Descends with ε = 1/L for an L that holds all along the way, as the O(1/t) bound asks.

    L depends on the way, and the way on L: it starts from the L of the first point, and where a
    larger one is met, begins again with that and a little more.
    """
    lipschitz = float(_sharpness(loss, params)) * _MARGIN
    while True:
        limits: Any = {"lipschitz_every": lipschitz_every, "lipschitz_limit": lipschitz}
        descent = descend(loss, params, 1 / lipschitz, num_steps, **limits)
        if descent.lipschitz <= lipschitz:
            return descent._replace(lipschitz=lipschitz)
        lipschitz = descent.lipschitz * _MARGIN


# More than the tolerance of the sharpness.
_MARGIN = 1.1


def follow_marthe(data: Data, settings: Settings, work: Work) -> Sharpness:
    """Trains the network with MARTHE, and measures curvature on the way."""
    loss, params = network(data, settings)
    lanes = _one_lane(data, settings)
    images, labels = jnp.asarray(data.images), jnp.asarray(data.labels)
    make = maker(METHOD, optax.sgd, LEARNING_RATE, settings.marthe_steps)
    state = jax.jit(make(HYPER_LEARNING_RATE).init)(params)

    @jax.jit
    def measure(params: Any) -> tuple[jax.Array, ...]:
        value, grads = jax.value_and_grad(loss)(params)
        along_gradient = curvature.rayleigh_quotient(loss, params, grads)
        return _sharpness(loss, params), along_gradient, value

    @jax.jit
    def advance(params: Any, state: Any, train: jax.Array, val: jax.Array) -> Any:
        beta = jnp.asarray(HYPER_LEARNING_RATE, jnp.float32)
        return training.train_steps(make, params, state, beta, images, labels, train, val)

    learning_rates, measured = [], [measure(params)]
    every = settings.sharpness_every
    for start in range(0, settings.marthe_steps, every):
        both = (x[0, start : start + every] for x in (lanes.train_batches, lanes.val_batches))
        params, state, records = advance(params, state, *map(jnp.asarray, both))
        learning_rates.append(np.asarray(records["learning_rate"]))
        measured.append(measure(params))
        work.advance(len(records["learning_rate"]) / settings.marthe_steps)
    steps = np.arange(len(measured)) * every
    columns = (np.array(column) for column in zip(*measured, strict=True))
    return Sharpness(np.concatenate(learning_rates), steps, *columns)


@functools.partial(jax.jit, static_argnums=0)
def _advance(loss: Loss, params: Any, step_size: float) -> tuple[Any, jax.Array, jax.Array]:
    """Returns the next point, and the loss and ‖g‖² at this one."""
    value, grads = jax.value_and_grad(loss)(params)
    squared_norm = optax.tree.norm(grads, squared=True)
    return _moved(params, grads, step_size), value, squared_norm


def _moved(params: Any, grads: Any, step_size: Any) -> Any:
    return jax.tree.map(lambda w, g: w - step_size * g, params, grads)


@functools.partial(jax.jit, static_argnums=0)
def _sharpness(loss: Loss, params: Any) -> jax.Array:
    """The largest |λ(H)|, to a hundredth; the basis of a large network takes much memory."""
    return curvature.lipschitz_constant(loss, params, tolerance=1e-2, max_iterations=32)


def _one_lane(data: Data, settings: Settings) -> training.Lanes:
    size: Any = {"num_steps": settings.marthe_steps, "hidden_widths": settings.hidden_widths}
    return training.make_lanes(data, [0], [HYPER_LEARNING_RATE], batch_size=100, **size)
