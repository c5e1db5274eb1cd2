"""The rules that move η and β, by their formulas in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

import hyperlr

RATE = {"learning_rate": jnp.array(0.1)}


def moved(rule, hypergradients, **extra):
    """The rates after each of the hypergradients."""
    values, state, rates = RATE, rule.init(RATE), []
    for slope in hypergradients:
        steps, state = rule.update({"learning_rate": jnp.array(slope)}, state, values, **extra)
        values = {"learning_rate": values["learning_rate"] + steps["learning_rate"]}
        rates.append(float(values["learning_rate"]))
    return rates


def norms(of_tangent, of_objective, excess=None):
    given = {"tangent_norm": {"learning_rate": jnp.array(of_tangent)}}
    given["objective_norm"] = jnp.array(of_objective)
    if excess is not None:
        given["tangent_excess"] = {"learning_rate": jnp.array(excess)}
    return given


def test_the_step_size_grows_while_hypergradients_agree_and_stops_at_zero():
    """β_t = max(β_{t-1} + κ Δη_t Δη_{t-1}, 0), η_t = η_{t-1} − β_t Δη_t."""
    slopes, beta, kappa, rate, previous, expected = [-1.0, -2.0, 3.0, -1.0], 0.01, 0.004, 0.1, 0, []
    for slope in slopes:
        beta = max(beta + kappa * slope * previous, 0.0)
        rate, previous = rate - beta * slope, slope
        expected.append(rate)
    found = moved(hyperlr.adaptive_sgd(0.01, kappa), slopes)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[2] == found[1]  # β is 0 there, and not below


@pytest.mark.parametrize(
    ("slope", "norm_z", "norm_e", "options", "excess", "exponent"),
    [
        (-0.5, 1.0, 2.0, {}, None, 0.25),
        (0.5, 1.0, 2.0, {}, None, -0.25),
        (0.5, 1.0, 2.0, {"shrink": 0.5}, None, -0.125),
        (-0.5, 1.0, 2.0, {"shrink": 0.5}, None, 0.25),
        (-0.5, 1.0, 2.0, {"push": 0.5}, 0.4, 0.25 - 0.2),
        (0.5, 1.0, 2.0, {"shrink": 0.5, "push": 0.5}, 0.4, -0.125 - 0.2),
        (0.0, 1.0, 2.0, {"push": 0.5}, 50.0, -1.0),  # the push is 1 at most
        (-8.0, 1.0, 2.0, {}, None, 1.0),  # and so is the cosine, whatever rounding makes of it
        (8.0, 1.0, 2.0, {}, None, -1.0),
        (-0.5, 0.0, 2.0, {}, None, 0.0),
    ],
)
def test_the_factor_is_the_exponential_of_the_cosine(
    slope, norm_z, norm_e, options, excess, exponent
):
    rule = hyperlr.exponentiated_gradient(0.3, **options)
    [found] = moved(rule, [slope], **norms(norm_z, norm_e, excess))
    np.testing.assert_allclose(found, 0.1 * np.exp(0.3 * exponent), rtol=1e-6)
