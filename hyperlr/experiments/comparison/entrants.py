"""Who takes part: methods that learn a rate, tuned rates, and optimizers that need none."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax
from optax import contrib

import hyperlr
from hyperlr import optimizers
from hyperlr.experiments.core import style
from hyperlr.experiments.methods import BURSTS, INNER, cost_of_steps, scale_free

# η_0 and β of HD as its authors have them (Baydin et al., 2018, Section 4).
_HD = {"adam": (1e-3, 1e-7), "momentum": (1e-3, 1e-3), "sgd": (1e-3, 1e-3)}


class Entrant(NamedTuple):
    """A method of the comparison."""

    label: str
    color: str
    given: str
    """What has to be given: T is the number of steps, "grid" five runs; empty: nothing."""
    make: Callable[[str, Any, int], optax.GradientTransformation]
    """`make(inner, rate, num_steps)`, with a key of INNER, and of a grid a (traced) rate."""
    cost: float = 1.0
    """Gradients that a step costs in a deep network, if the rate moves in it."""
    every: Callable[[Any], Any] | None = None
    """Whether it moves in the steps of an array; None: in all."""
    share: float = 1.0
    """Of the minibatch for the product and the objective."""
    learns: bool = False
    """Whether its state has a learning rate, in `hyperlr.metrics`."""
    inner: tuple[str, ...] = tuple(INNER)
    """The inner optimizers that it takes part with."""
    evaluated: Callable[[Any, Any], Any] = hyperlr.eval_params
    """`evaluated(state, params)`: the parameters that are evaluated, and kept."""

    def gradients(self, num_steps: int) -> np.ndarray:
        """What the first steps cost, float [num_steps], each with all before it."""
        return cost_of_steps(self.cost, self.every, num_steps)

    @property
    def tuned(self) -> bool:
        """Whether the best rate of a grid is chosen on validation data."""
        return "grid" in self.given


def _auto(inner: str, rate: Any, num_steps: int) -> optax.GradientTransformation:
    return hyperlr.auto(INNER[inner][1], every=BURSTS)


def _scale_free(inner: str, rate: Any, num_steps: int) -> optax.GradientTransformation:
    return scale_free(INNER[inner][1], 1e-3, 0.1)


def _hd(inner: str, rate: Any, num_steps: int) -> optax.GradientTransformation:
    return hyperlr.hd(INNER[inner][1], *_HD[inner])


def _constant(inner: str, rate: Any, num_steps: int) -> optax.GradientTransformation:
    return INNER[inner][1](learning_rate=rate)


def _cosine(inner: str, rate: Any, num_steps: int) -> optax.GradientTransformation:
    schedule = hyperlr.schedules.cosine_annealing(rate, num_steps)
    return INNER[inner][1](learning_rate=schedule)


def _cosine_of_one(num_steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(1.0, num_steps)


def _alone(make: Callable[[], optax.GradientTransformation]) -> Callable[..., Any]:
    """Of an optimizer that takes neither an inner one nor a rate."""
    return lambda inner, rate, num_steps: make()


_ADAM = ("adam",)
# Each optimizer without a rate as its own documentation has it.
# fmt: off
ENTRANTS = {
    "auto": Entrant("auto, share 1/4", style.ORANGE, "", _auto, 2.0, BURSTS, 0.25, True),
    "auto_full": Entrant("auto, share 1", style.RED, "", _auto, 4.0, BURSTS, learns=True),
    "auto_eighth": Entrant("auto, share 1/8", style.GOLD, "", _auto, 1.5, BURSTS, 0.125, True),
    "marthe_scale_free": Entrant(
        "MARTHE (scale-free)", style.PURPLE, "γ", _scale_free, 3.0, learns=True),
    "hd": Entrant("HD", style.BLUE, "η₀, β", _hd, learns=True),
    "adam": Entrant(
        "Adam, 0.001", style.GREY, "η", lambda i, r, t: optimizers.adam(1e-3), inner=_ADAM),
    "adam_cosine": Entrant(
        "Adam, 0.001, cosine", style.DARK, "η, T",
        lambda i, r, t: optimizers.adam(optax.cosine_decay_schedule(1e-3, t)), inner=_ADAM),
    "constant_tuned": Entrant("constant, tuned", style.BLACK, "grid", _constant),
    "cosine_tuned": Entrant("cosine, tuned", style.LIGHT, "grid, T", _cosine),
    "prodigy": Entrant("prodigy", style.GREEN, "", _alone(contrib.prodigy), inner=_ADAM),
    "prodigy_cosine": Entrant(
        "prodigy, cosine", style.CYAN, "T",
        lambda i, r, t: contrib.prodigy(_cosine_of_one(t)), inner=_ADAM),
    "mechanize": Entrant(
        "mechanize, cosine", style.YELLOW, "T",
        lambda i, r, t: contrib.mechanize(optax.adam(_cosine_of_one(t))), inner=_ADAM),
    "dadapt_adamw": Entrant(
        "D-adapted AdamW", style.BLUE, "", _alone(contrib.dadapt_adamw), inner=_ADAM),
    "dowg": Entrant("DoWG", style.RED, "", _alone(contrib.dowg), inner=_ADAM),
    "cocob": Entrant("COCOB", style.PURPLE, "", _alone(contrib.cocob), inner=_ADAM),
    "momo_adam": Entrant("MoMo-Adam", style.GOLD, "", _alone(contrib.momo_adam), inner=_ADAM),
    "schedule_free_adamw": Entrant(
        "schedule-free AdamW", style.DARK, "", _alone(contrib.schedule_free_adamw), inner=_ADAM,
        evaluated=contrib.schedule_free_eval_params),
}
# fmt: on


def num_steps_of(entrant: Entrant, budget: str, num_steps: int) -> int:
    """How many steps a method makes.

    Args:
      entrant: the method.
      budget: "steps": as many as all others; "gradients": as many as two gradients for each of
        the steps pay for.
      num_steps: T of the task.
    """
    if budget == "steps":
        return num_steps
    return int(np.abs(entrant.gradients(2 * num_steps) - 2 * num_steps).argmin()) + 1
