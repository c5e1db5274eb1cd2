"""A linear model with a dense and a sparse feature, the optimizers, and their descents on it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperlr import optimizers
from hyperlr.experiments.core import style
from hyperlr.experiments.core.descent import descend
from hyperlr.experiments.core.experiment import Arrays, Work, unpack
from hyperlr.experiments.data.batches import independent_batches

NUM_EXAMPLES = 200
NUM_SPARSE = 20
"""In how many examples the sparse feature is not zero."""
BATCH_SIZE = 10
COMPARED_STEP = 100
"""After how many steps losses are compared over η_0."""
SHORT_MEMORY = 0.9
"""A β₂ so small that one zero gradient shows in the effective rate."""
LEARNING_RATES = tuple(float(rate) for rate in np.geomspace(1e-3, 10.0, 25))
"""The η_0 over which the losses are compared."""
ADADELTA_EPS = (1e-6, 1e-4, 1e-2)
"""The ε over which AdaDelta is compared; the first is the customary one."""


class Problem(NamedTuple):
    """A linear regression, its loss ½ mean (x w − y)² a quadratic in two weights."""

    inputs: np.ndarray
    """float64 [n, 2], the dense feature and the sparse one."""
    targets: np.ndarray
    """float64 [n]."""
    start: np.ndarray
    """float64 [2]."""
    minimizer: np.ndarray
    """float64 [2]."""
    hessian: np.ndarray
    """float64 [2, 2]."""


class Descents(NamedTuple):
    """Descents of one optimizer from the same start, one for each of R values of η_0."""

    learning_rates: np.ndarray
    """float64 [R], η_0."""
    points: np.ndarray
    """float64 [R, T + 1, 2], from the start on."""
    gaps: np.ndarray
    """float64 [R, T + 1], the loss on all examples there, less its minimum."""
    rates: np.ndarray
    """float64 [R, T, 2], the effective rate of each feature at every step."""


class Study(NamedTuple):
    """All descents of the experiment; rows beyond the first are for LEARNING_RATES."""

    full: dict[str, Descents]
    """On all examples: the optimizer's own η_0, then LEARNING_RATES."""
    mini: dict[str, Descents]
    """On minibatches, the same for every optimizer; its own η_0."""
    oscillation: Descents
    """RMSprop on all examples, at its η_0 and half of it."""
    adadelta: tuple[Descents, ...]
    """On all examples, for each of ADADELTA_EPS."""
    uncorrected: Descents
    """Adam without bias correction, on all examples."""
    short_memory: dict[str, Descents]
    """Adam and Adam Max with a short memory, on minibatches."""


def make_problem() -> Problem:
    """Draws the data, always the same."""
    rng = np.random.default_rng(0)
    sparse = np.zeros(NUM_EXAMPLES)
    sparse[:NUM_SPARSE] = rng.normal(size=NUM_SPARSE)
    inputs = np.stack([rng.normal(size=NUM_EXAMPLES), rng.permutation(sparse)], axis=1)
    targets = inputs @ np.array([2.0, 2.0]) + 0.3 * rng.normal(size=NUM_EXAMPLES)
    hessian = inputs.T @ inputs / NUM_EXAMPLES
    return Problem(
        inputs=inputs,
        targets=targets,
        start=np.array([-1.0, -0.5]),
        minimizer=np.linalg.solve(hessian, inputs.T @ targets / NUM_EXAMPLES),
        hessian=hessian,
    )


def gap(problem: Problem, points: np.ndarray) -> np.ndarray:
    """Returns the loss on all examples, less its minimum, at points [..., 2]; exact near 0."""
    offset = points - problem.minimizer
    return 0.5 * np.einsum("...i,ij,...j", offset, problem.hessian, offset)


class Optimizer(NamedTuple):
    """An optimizer of the comparison."""

    label: str
    learning_rate: float
    """η_0."""
    make: Callable[[Any], optax.GradientTransformation]
    """Builds the optimizer from η_0."""
    rates: Callable[[Any, Any, Any, Any], Any]
    """Effective rates [2], from η_0, the states before and after the update, and the inputs: what
    multiplies the gradient, or where there is one, the (corrected) average of gradients."""
    color: str = style.GREY


def _constant_rate(rate: Any, before: Any, after: Any, inputs: Any) -> Any:
    return jnp.full(2, rate)


def _over_root_of(name: str) -> Callable[..., Any]:
    """Of an optimizer that divides by the root of this entry of its state."""
    return lambda rate, before, after, inputs: rate / jnp.sqrt(optax.tree.get(after, name) + 1e-16)


def adadelta(eps: float) -> Optimizer:
    """AdaDelta; its η_0 is 1, which is no choice but the published algorithm."""

    def rates(rate: Any, before: Any, after: Any, inputs: Any) -> Any:
        past_updates, gradients = optax.tree.get(before, "e_x"), optax.tree.get(after, "e_g")
        return rate * jnp.sqrt(past_updates + eps) / jnp.sqrt(gradients + eps)

    make = functools.partial(optimizers.adadelta, eps=eps)
    return Optimizer("AdaDelta", 1.0, make, rates, style.GREEN)


def adam_like(
    label: str,
    make: Callable[..., optax.GradientTransformation],
    b2: float = 0.999,
    color: str = style.GREY,
) -> Optimizer:
    """Adam or a variant of it whose state has Adam's v, at η_0 = 0.1."""

    def rates(rate: Any, before: Any, after: Any, inputs: Any) -> Any:
        corrected = optax.tree.get(after, "nu") / (1 - b2 ** optax.tree.get(after, "count"))
        return jnp.broadcast_to(rate / jnp.sqrt(corrected + 1e-16), (2,))

    return Optimizer(label, 0.1, functools.partial(make, b2=b2), rates, color)


# fmt: off
OPTIMIZERS = {
    "gd": Optimizer("GD", 0.3, optax.sgd, _constant_rate, style.DARK),
    "gd_sparsity": Optimizer(
        "GD, sparsity-scaled", 0.3,
        lambda rate: optax.chain(optimizers.scale_by_sparsity(), optax.sgd(rate)),
        lambda rate, before, after, inputs: rate * optimizers.sparsity_factor(inputs),
        style.PURPLE),
    "momentum": Optimizer(
        "momentum", 0.1, functools.partial(optax.sgd, momentum=0.9), _constant_rate),
    "adagrad": Optimizer(
        "AdaGrad", 0.3, optimizers.adagrad, _over_root_of("sum_of_squares"), style.YELLOW),
    "rmsprop": Optimizer("RMSprop", 0.1, optimizers.rmsprop, _over_root_of("nu"), style.RED),
    "adadelta": adadelta(1e-4),
    "adam": adam_like("Adam", optimizers.adam, color=style.BLUE),
    "adamax": Optimizer(
        "AdaMax", 0.1, optimizers.adamax,
        lambda rate, before, after, inputs: rate / optax.tree.get(after, "nu")),
    "adam_max": adam_like("Adam Max", optimizers.adam_max, color=style.CYAN),
    "nadam": adam_like("NAdam", optimizers.nadam),
}
# fmt: on


def _uncorrected_adam(learning_rate: Any) -> optax.GradientTransformation:
    """Adam whose averages are not corrected for starting at zero."""
    init = optimizers.scale_by_adam().init

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        mu = optax.tree.update_moment(updates, optax.tree.get(state, "mu"), 0.9, 1)
        nu = optax.tree.update_moment(updates, optax.tree.get(state, "nu"), 0.999, 2)
        return -learning_rate * mu / jnp.sqrt(nu + 1e-16), optax.tree.set(state, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


UNCORRECTED_ADAM = Optimizer("Adam, uncorrected", 0.1, _uncorrected_adam, _over_root_of("nu"))


class Run(NamedTuple):
    """One of the descents of the study."""

    optimizer: Optimizer
    others: tuple[float, ...] = ()
    """Values of η_0 besides the optimizer's own."""
    in_minibatches: bool = False


_IN_MINIBATCHES = ("gd", "gd_sparsity", "adagrad", "rmsprop", "adam")
RUNS: dict[str, Run] = {
    **{f"full-{name}": Run(each, LEARNING_RATES) for name, each in OPTIMIZERS.items()},
    **{f"mini-{name}": Run(OPTIMIZERS[name], (), True) for name in _IN_MINIBATCHES},
    "oscillation": Run(OPTIMIZERS["rmsprop"], (OPTIMIZERS["rmsprop"].learning_rate / 2,)),
    **{f"adadelta-{eps:g}": Run(adadelta(eps)) for eps in ADADELTA_EPS},
    "uncorrected": Run(UNCORRECTED_ADAM),
    "short_memory-adam": Run(adam_like("Adam", optimizers.adam, SHORT_MEMORY), (), True),
    "short_memory-adam_max": Run(
        adam_like("Adam Max", optimizers.adam_max, SHORT_MEMORY), (), True
    ),
}


def compute(run: Run, num_steps: int, work: Work) -> Descents:
    """Makes one run of T steps, in float64."""
    optimizer, problem = run.optimizer, make_problem()
    learning_rates = (optimizer.learning_rate, *run.others)
    indices = np.arange(NUM_EXAMPLES, dtype=np.int32)
    batches = np.tile(indices, (num_steps, 1))
    if run.in_minibatches:  # the same for every optimizer
        batches = independent_batches(np.random.default_rng(1), indices, num_steps, BATCH_SIZE)

    def record(rate: jax.Array, before: Any, after: Any, examples: Any) -> jax.Array:
        return optimizer.rates(rate, before, after, examples[0])

    examples = problem.inputs[batches], problem.targets[batches]
    points, rates = descend(
        optimizer.make, _gradient, record, problem.start, learning_rates, examples
    )
    return Descents(np.asarray(learning_rates), points, gap(problem, points), rates)


def _gradient(point: jax.Array, examples: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, dict]:
    x, y = examples
    return x.T @ (x @ point - y) / len(y), {"inputs": x}


def study(arrays: Mapping[str, Arrays]) -> Study:
    """Puts together what came of RUNS."""
    runs = {name: unpack(Descents, arrays[name]) for name in RUNS}

    def of_kind(kind: str) -> dict[str, Descents]:
        prefix = f"{kind}-"
        return {k.removeprefix(prefix): run for k, run in runs.items() if k.startswith(prefix)}

    return Study(
        full=of_kind("full"),
        mini=of_kind("mini"),
        oscillation=runs["oscillation"],
        adadelta=tuple(of_kind("adadelta").values()),
        uncorrected=runs["uncorrected"],
        short_memory=of_kind("short_memory"),
    )
