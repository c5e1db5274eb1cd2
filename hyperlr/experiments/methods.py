"""The one table of methods: what each is called, its colour, how it is made, what it costs."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hyperlr
from hyperlr import optimizers, schedules
from hyperlr.experiments.core import style

LEARNING_RATE = 0.01
"""η_0, where every schedule of the paper's Section 5 starts."""

BURSTS = hyperlr.Bursts()
"""When `auto` moves its rate."""

Inner = Callable[..., optax.GradientTransformation]


class Method(NamedTuple):
    """A fixed schedule (`schedule` is set), or a method that learns the rate (`online` is)."""

    label: str
    """Name in figures and tables."""
    color: str
    cost: float
    """FLOPs of a step that moves the rate, over a plain one's, of the network of Section 5."""
    schedule: Callable[[Any, int], optax.Schedule] | None = None
    """Makes the schedule from its rate and the number of steps; of the four of Section 6, a
    function of the epoch in a run of 200."""
    online: Callable[[Inner, Any, Any], optax.GradientTransformationExtraArgs] | None = None
    """Makes the transformation from the inner optimizer's factory, η_0, and β, κ or γ. All but the
    factory may be traced."""
    symbol: str = ""
    """Of the number that has to be given: β, κ, γ, or η; empty where there is none to find."""
    coarse_grid: tuple[float, ...] = ()
    """Such numbers from far too small to far too large, few of them, in ascending order."""
    grid: tuple[float, ...] = ()
    """Numbers closer to one another, in ascending order."""
    margin: float = 10.0
    """How many times as large as the one that is found a number must not diverge either."""
    share: float | None = None
    """Of the minibatch, on which `hyperlr.value_and_grad` takes product and objective; None: the
    objective is the loss on a minibatch of validation images."""
    every: Callable[[Any], Any] | None = None
    """Whether the rate moves in the steps of an array; None: in all."""

    def plain_steps(self, num_steps: int) -> float:
        """What a run costs, in plain steps."""
        return float(cost_of_steps(self.cost, self.every, num_steps)[-1])

    @property
    def tuned(self) -> bool:
        """Whether the number is the rate itself, chosen on validation data."""
        return self.schedule is not None and bool(self.symbol)


def cost_of_steps(cost: float, every: Callable[[Any], Any] | None, num_steps: int) -> np.ndarray:
    """What the first steps cost, float [num_steps], each with all before it.

    A step that moves the rate costs `cost`, and the others 1; `every` is that of `Method`.
    """
    moves = np.ones(num_steps) if every is None else every(np.arange(num_steps))
    return np.cumsum(1.0 + (cost - 1.0) * moves)


INNER: Mapping[str, tuple[str, Inner]] = {
    # The square root of Adam in optax has no derivative at 0, where ε is outside of it.
    "adam": ("Adam", optimizers.adam),
    "momentum": ("momentum 0.9", functools.partial(optax.sgd, momentum=0.9)),
    "sgd": ("SGD", optax.sgd),
}
"""Inner optimizers: key → name, and factory."""


def marthe_fixed(
    inner: Inner, rate: Any, number: Any, discount: Any = 0.99
) -> optax.GradientTransformationExtraArgs:
    """MARTHE with fixed β and μ (Donini et al., 2020, Figure 9)."""
    return hyperlr.marthe(inner, rate, hyper_learning_rate=number, discount=discount)


def scale_free(inner: Inner, rate: Any, number: Any) -> optax.GradientTransformationExtraArgs:
    """MARTHE whose rule is exponentiated gradient, with γ."""
    rule = hyperlr.exponentiated_gradient(number)
    return hyperlr.marthe(inner, rate, discount=0.99, hyper_optimizer=rule)


def _marthe(number_is: str) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Returns what makes MARTHE, of which the number is this argument."""
    return lambda inner, rate, number: hyperlr.marthe(inner, rate, **{number_is: number})


def _constant(rate: Any, num_steps: int) -> optax.Schedule:
    return optax.constant_schedule(rate)


def decades(first: int, last: int, *digits: int) -> tuple[float, ...]:
    """Returns the powers of ten from the first to the last, and digits times each but the last."""
    steps = [float(f"{digit}e{power}") for power in range(first, last) for digit in (1, *digits)]
    return (*steps, float(f"1e{last}"))


# η itself, which validation chooses.
_RATES = (0.03, 0.1, 0.2, 0.3, 0.5, 1.0), (0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
# γ is a step size of log η, not of η: on seeds 0 and 1 of the packaged digits it was a matter of
# luck from 0.4 on whether a run diverged, and all from 0.025 to 0.2 did well. A margin of 4 keeps
# away from the ones without giving up the others.
_GAMMAS = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8), (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)

# fmt: off
METHODS = {
    "constant": Method("constant", style.GREY, 1.0, _constant),
    "constant_tuned": Method("constant, tuned", style.DARK, 1.0, _constant, None, "η", *_RATES),
    "cosine_tuned": Method(
        "cosine, tuned", style.LIGHT, 1.0, schedules.cosine_annealing, None, "η", *_RATES),
    "adam": Method("Adam", style.GOLD, 1.0, _constant),
    "hd": Method(
        "HD", style.BLUE, 2.0, None, hyperlr.hd, "β", decades(-5, -1), decades(-5, -1, 3)),
    "rtho": Method(
        "RTHO", style.RED, 3.67, None, hyperlr.rtho, "β",
        decades(-6, -2), decades(-7, -3, 3)),
    "marthe_fixed": Method(
        "MARTHE (μ = 0.99)", style.YELLOW, 3.67, None, marthe_fixed, "β",
        decades(-6, -2), decades(-6, -2, 3)),
    "marthe_mu": Method(
        "MARTHE (μ adapted)", style.CYAN, 3.67, None, _marthe("hyper_learning_rate"), "β",
        decades(-5, -1), decades(-5, -1, 3)),
    "marthe": Method(
        "MARTHE (μ, β adapted)", style.GREEN, 3.67, None, _marthe("meta_learning_rate"), "κ",
        decades(-8, -3), decades(-11, -3)),
    "marthe_scale_free": Method(
        "MARTHE (scale-free)", style.PURPLE, 3.67, None, scale_free, "γ", *_GAMMAS, margin=4.0),
    "auto": Method(
        "auto", style.ORANGE, 1.92, None,
        lambda inner, rate, number: hyperlr.auto(inner, rate, every=BURSTS),
        share=0.25, every=BURSTS),
    # The cost is that of an outer iteration, over as many plain steps.
    "lrs_opt": Method("LRS-OPT", style.BLACK, 4.0),
    # Section 6.
    "exponential": Method(
        "exponential decay", style.LIGHT, 1.0,
        lambda rate, num_epochs: schedules.exponential_decay(rate, -math.log(0.99))),
    "staircase": Method(
        "staircase", style.DARK, 1.0,
        lambda rate, num_epochs: schedules.step_decay(rate, 0.1, 60)),
    "sgdr": Method(
        "SGDR (2)", style.YELLOW, 1.0,
        lambda rate, num_epochs: schedules.warm_restarts(rate, 10, 2.0)),
    "sgdr_2264": Method(
        "SGDR (2.264)", style.ORANGE, 1.0,
        lambda rate, num_epochs: schedules.warm_restarts(rate, 10, 2.264)),
    "marthe_zero": Method(
        "MARTHE, η₀ = 0", style.CYAN, 3.67, None, _marthe("meta_learning_rate"), "κ"),
}
# fmt: on


@functools.cache
def maker(
    name: str, inner: Inner, rate: float | None, num_steps: int
) -> Callable[[Any], optax.GradientTransformationExtraArgs]:
    """Returns what makes a method from its number; the same function for the same arguments.

    Args:
      name: key of METHODS, which has a schedule or learns the rate.
      inner: factory of the inner optimizer.
      rate: η_0, or that of a schedule which is not tuned; None for a method that finds its own.
      num_steps: T.
    """
    method, schedule = METHODS[name], METHODS[name].schedule
    if schedule is None:
        assert method.online is not None
        return functools.partial(method.online, inner, rate)
    return lambda number: following(inner, schedule(number if method.symbol else rate, num_steps))


class FollowingState(NamedTuple):
    """State of `following`."""

    inner: optax.OptState
    step_count: jax.Array
    """int32, updates so far."""
    learning_rate: jax.Array
    """float32, of the last update."""


def following(inner: Inner, schedule: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Returns the inner optimizer with a fixed schedule, which keeps the rate in its state."""
    transformation = optax.with_extra_args_support(inner(learning_rate=schedule))

    def init_fn(params: Any) -> FollowingState:
        zero = jnp.zeros((), jnp.int32)
        return FollowingState(transformation.init(params), zero, jnp.zeros((), jnp.float32))

    def update_fn(updates: Any, state: FollowingState, params: Any = None, **extra: Any) -> Any:
        updates, after = transformation.update(updates, state.inner, params, **extra)
        rate = jnp.asarray(schedule(state.step_count), jnp.float32)
        return updates, FollowingState(after, optax.safe_increment(state.step_count), rate)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def step_records(opt_state: optax.OptState) -> dict[str, jax.Array]:
    """Returns the scalars of a method's last update, of which `learning_rate` always is one."""
    if isinstance(opt_state, FollowingState):
        return {"learning_rate": opt_state.learning_rate}
    return hyperlr.metrics(opt_state)
