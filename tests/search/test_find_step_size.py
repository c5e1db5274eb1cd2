"""The search for a step size: on gradient descent, whose threshold is known, and on the methods."""

import functools
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hyperlr

CURVATURE = 4.0
CANDIDATES = [0.01, 0.1, 0.4, 0.49, 0.51, 1.0]


def descend(step_size, num_steps=40):
    """Gradient descent on a parabola: w ← (1 − 4 α) w, which grows if and only if α > 1/2."""

    def step(w, _):
        return w - step_size * CURVATURE * w, CURVATURE / 2 * w**2

    return jax.lax.scan(step, jnp.ones(()), length=num_steps)[1]


def marthe(kappa, target=1.0, num_steps=30):
    tx = hyperlr.marthe(optax.sgd, 0.01, meta_learning_rate=kappa)

    def loss_fn(w):
        return jnp.sum((w - target) ** 2)

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params, value_fn=loss_fn)
        rate = hyperlr.metrics(state)["learning_rate"]
        return (optax.apply_updates(params, updates), state), (loss, {"learning_rate": rate})

    params = jnp.zeros(3)
    return jax.lax.scan(step, (params, tx.init(params)), length=num_steps)[1]


def hd(step_size, make):
    tx = make(step_size)

    def step(carry, _):
        params, state = carry
        grads = jax.grad(lambda w: jnp.sum(w**2))(params)
        updates, state = tx.update(grads, state, params, value_fn=lambda w: jnp.sum(w**2))
        return (optax.apply_updates(params, updates), state), jnp.sum(params**2)

    params = jnp.ones(2)
    return jax.lax.scan(step, (params, tx.init(params)), length=20)[1]


@pytest.fixture(scope="module")
def found():
    return hyperlr.find_step_size(descend, CANDIDATES)


# What is found


def test_candidates_survive_up_to_the_threshold_in_closed_form(found):
    assert found.survived.tolist() == [True, True, True, True, False, False]
    factors = (1 - CURVATURE * np.array(CANDIDATES)) ** 2
    expected = CURVATURE / 2 * factors[:, None] ** np.arange(40)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize(
    ("margin", "expected"),
    [(1.0, 0.49), (1.03, 0.49), (1.05, 0.4), (1.3, 0.1), (5, 0.1), (10.0, 0.01), (50.0, 0.01)],
)
def test_margin_keeps_away_from_what_diverges(margin, expected):
    found = hyperlr.find_step_size(descend, CANDIDATES, margin=margin)
    assert found.value == expected
    assert CANDIDATES[found.place] == expected
    assert found.margin_seen


def test_margin_of_ten_sees_the_next_power_of_ten():
    """In floats 10 · 1e-5 < 1e-4, and 10 · 1e-6 > 1e-5."""
    for exponent in (-9, -6, -5):
        powers = [float(f"1e{exponent + k}") for k in range(4)]
        for candidates in (powers, jnp.asarray(powers), np.asarray(powers)):

            def run(candidate, limit=powers[2]):
                return jnp.where(candidate > 0.5 * limit, jnp.nan, jnp.ones(3))

            found = hyperlr.find_step_size(run, candidates)
            assert found.value == pytest.approx(powers[0], rel=1e-6)
            assert found.margin_seen


def test_where_all_survive_the_margin_ends_with_the_candidates():
    candidates = [0.01, 0.3, 0.03, 0.1]
    found = hyperlr.find_step_size(descend, candidates)
    assert (found.value, found.place, found.margin_seen) == (0.03, 2, True)
    # Where no margin can be seen, the largest is taken, and the result says so.
    found = hyperlr.find_step_size(descend, candidates, margin=31.0)
    assert (found.value, found.place, found.margin_seen) == (0.3, 1, False)


def test_a_lucky_survivor_at_the_upper_end_is_not_found():
    def run(candidate):
        return jnp.where(candidate == 0.4, jnp.nan, jnp.ones(3))

    candidates = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6]
    found = hyperlr.find_step_size(run, candidates, margin=3.9)
    assert (found.value, found.margin_seen) == (0.1, True)


def test_a_lucky_survivor_among_those_that_diverge_is_not_found():
    def run(candidate):
        lost = (candidate == 0.1) | (candidate == 1.0)
        return jnp.where(lost, jnp.nan, jnp.ones(3))

    candidates = [0.001, 0.01, 0.1, 0.5, 1.0]
    assert hyperlr.find_step_size(run, candidates, margin=5.0).value == 0.01
    assert hyperlr.find_step_size(run, candidates).value == 0.001
    # Without a margin it is the first one from above that does not diverge, as in the paper.
    assert hyperlr.find_step_size(run, candidates, margin=1.0).value == 0.5


def test_order_of_the_candidates_is_kept_and_does_not_matter(found):
    order = [3, 0, 5, 2, 1, 4]
    shuffled = hyperlr.find_step_size(descend, [CANDIDATES[i] for i in order])
    assert shuffled.value == found.value
    assert order[shuffled.place] == found.place
    for name in ("candidates", "survived", "losses"):
        whole, part = np.asarray(getattr(found, name)), np.asarray(getattr(shuffled, name))
        np.testing.assert_array_equal(part, whole[order], err_msg=name)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_one_loss_that_is_not_finite_is_divergence(bad):
    def run(candidate):
        return jnp.ones(5).at[3].set(jnp.where(candidate > 0.2, bad, 1.0))

    found = hyperlr.find_step_size(run, [0.1, 0.3], max_growth=math.inf, margin=1.0)
    assert found.survived.tolist() == [True, False]
    assert found.value == 0.1


def test_an_explosion_that_stays_finite_is_divergence_even_where_it_subsides():
    def run(candidate):
        return jnp.array([2.0, 1.0, 1.0, 0.5]).at[2].set(candidate)

    candidates = [0.0, 3.0, 5.0, 7.0]
    expected = {1.0: 0.0, 2.0: 3.0, 3.0: 5.0, math.inf: 7.0}
    for max_growth, value in expected.items():
        found = hyperlr.find_step_size(run, candidates, max_growth=max_growth, margin=1.0)
        assert found.value == value


def test_every_kind_of_step_size_is_found():
    """κ of MARTHE, β of HD and γ, each against runs of every candidate apart."""
    kinds = {
        "κ": (lambda kappa: marthe(kappa)[0], [1e-6, 1e-5, 1e-4, 1e-3, 1e-2]),
        "β": (
            functools.partial(hd, make=lambda size: hyperlr.hd(optax.sgd, 0.1, size)),
            [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0],
        ),
        "γ": (
            functools.partial(
                hd,
                make=lambda size: hyperlr.marthe(
                    optax.sgd, 0.1, hyper_optimizer=hyperlr.exponentiated_gradient(size)
                ),
            ),
            [0.01, 0.1, 1.0, 10.0, 100.0],
        ),
    }
    for name, (run, candidates) in kinds.items():
        found = hyperlr.find_step_size(run, candidates)
        alone = np.array([jax.jit(run)(jnp.float32(size)) for size in candidates])
        kept = np.isfinite(alone).all(axis=1) & (alone.max(axis=1) <= 2 * alone[:, 0])
        np.testing.assert_array_equal(found.survived, kept, err_msg=name)
        assert kept[0], name
        assert not kept[-1], name  # it was worth searching
        steady = int(np.argmin(kept))  # the first that diverges
        assert found.value == candidates[steady - 2], name
        rows = np.flatnonzero(kept)
        np.testing.assert_allclose(np.asarray(found.losses)[rows], alone[rows], rtol=1e-4)


# How it is computed


@pytest.mark.parametrize("batch_size", [1, 2, 4, 5, 6, 100])
def test_memory_is_saved_and_the_result_stays(found, batch_size):
    other = hyperlr.find_step_size(descend, CANDIDATES, batch_size=batch_size)
    assert other[:3] == found[:3]
    for name in ("candidates", "survived"):
        np.testing.assert_array_equal(getattr(other, name), getattr(found, name))
    np.testing.assert_allclose(other.losses, found.losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("batch_size", "shape"), [(None, "1,6"), (4, "2,3"), (1, "6")], ids=["all", "some", "one"]
)
def test_one_trace_and_one_program_of_which_data_are_arguments(batch_size, shape, caplog):
    traced, data = [], jnp.full((7, 11), CURVATURE)

    def run(candidate):
        traced.append(candidate)
        return descend(candidate) + 0.0 * data.sum()

    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        hyperlr.find_step_size(run, CANDIDATES, batch_size=batch_size)
    assert len(traced) == 1
    messages = [record.getMessage() for record in caplog.records]
    (program,) = [m for m in messages if m.startswith("Compiling") and "scan" in m.split()[1]]
    assert "float32[7,11]" in program
    assert f"float32[{shape}]" in program


def test_records_come_along_for_every_candidate():
    candidates = [1e-6, 1e-5]
    found = hyperlr.find_step_size(marthe, candidates, has_aux=True, batch_size=1)
    assert found.records["learning_rate"].shape == (2, 30)
    losses, records = jax.jit(marthe)(jnp.float32(candidates[1]))
    np.testing.assert_allclose(found.losses[1], losses, rtol=1e-5)
    np.testing.assert_allclose(
        found.records["learning_rate"][1], records["learning_rate"], rtol=1e-5
    )
    assert hyperlr.find_step_size(lambda k: marthe(k)[0], candidates).records is None


def test_no_more_lanes_are_trained_at_once_than_allowed():
    seen = []

    @jax.custom_batching.custom_vmap
    def watched(candidate):
        return candidate

    @watched.def_vmap
    def _(axis_size, in_batched, candidate):
        seen.append(axis_size)
        return candidate, in_batched[0]

    for batch_size in (None, 5, 4, 2, 1):
        hyperlr.find_step_size(
            lambda candidate: descend(watched(candidate)), CANDIDATES, batch_size=batch_size
        )
    # Groups of one size, so no more than are needed; a single one is not batched at all.
    assert list(dict.fromkeys(seen)) == [6, 3, 2]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtype_of_the_candidates_is_the_dtype_that_run_sees(dtype):
    seen = []

    def run(candidate):
        seen.append((candidate.dtype, candidate.weak_type))
        return jnp.ones(3, dtype)

    found = hyperlr.find_step_size(run, jnp.array([0.25, 0.5], dtype))
    assert seen == [(dtype, False)]
    assert (found.value, found.losses.dtype) == (0.5, dtype)
    assert isinstance(found.value, float)


# Errors


def ones(candidate):
    return jnp.ones(3) + 0.0 * candidate


@pytest.mark.parametrize(
    ("candidates", "error", "message"),
    [
        ([True], TypeError, r"candidates must be floating-point, got bool: pass floats"),
        (lambda step: 0.1, TypeError, r"candidates must be numbers, got <function"),
        (0.1, TypeError, r"candidates must have one axis, got shape \(\)"),
        ([[0.1]], TypeError, r"candidates must have one axis, got shape \(1, 1\)"),
        (np.zeros(0), ValueError, "candidates is empty"),
        ([0.1, -0.1], ValueError, "candidates must be finite and not negative"),
        ([0.1, math.nan], ValueError, "candidates must be finite"),
        ([0.1, math.inf], ValueError, "candidates must be finite"),
    ],
)
def test_candidates_are_checked(candidates, error, message):
    with pytest.raises(error, match=message):
        hyperlr.find_step_size(ones, candidates)


def test_the_margin_of_rounded_candidates_is_seen():
    """In float32, ten times a thousandth is a little more than a hundredth."""
    candidates = jnp.array([1e-3, 1e-2], jnp.float32)
    assert 10 * float(candidates[0]) > float(candidates[1])
    found = hyperlr.find_step_size(lambda size: jnp.ones(3) + 0.0 * size, candidates)
    assert found.place == 0
    assert found.margin_seen


def test_integers_are_numbers():
    for candidates in ([1, 2, 40], np.array([1, 2, 40]), jnp.array([1, 2, 40])):
        found = hyperlr.find_step_size(
            lambda size: 0.1 * size * jnp.ones(3),
            candidates,
            margin=np.int64(1),
            max_growth=np.float32(2),
            batch_size=np.int64(2),
        )
        assert found.value == 40.0
        assert found.candidates.dtype == found.losses.dtype == jnp.float32


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"margin": 0.5}, ValueError, "margin must be at least 1, got 0.5"),
        ({"margin": math.nan}, ValueError, "margin must be at least 1"),
        ({"max_growth": 0.9}, ValueError, "max_growth must be at least 1"),
        ({"max_growth": "2"}, TypeError, "max_growth must be a number, got '2'"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer or None"),
        ({"batch_size": True}, TypeError, "batch_size must be an integer or None"),
        ({"has_aux": True}, TypeError, r"must return \(losses, records\) with has_aux=True"),
    ],
)
def test_keywords_are_checked(keywords, error, message):
    with pytest.raises(error, match=message):
        hyperlr.find_step_size(ones, [0.1], **keywords)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda candidate: candidate, "an array with one axis"),
        (lambda candidate: jnp.ones((3, 2)), "an array with one axis"),
        (lambda candidate: jnp.ones(0), "an array with one axis"),
        (lambda candidate: None, "an array with one axis"),
        (lambda candidate: marthe(candidate), r"got \(\(30,\), .*with has_aux=True"),
        (lambda candidate: jnp.ones(3, jnp.int32), "floating-point losses, got int32"),
    ],
)
def test_what_run_returns_is_checked(run, message):
    with pytest.raises(TypeError, match=message):
        hyperlr.find_step_size(run, [0.1, 0.2])


def test_no_survivor_is_an_error_that_says_what_to_do_and_has_the_record():
    with pytest.raises(
        hyperlr.NoSurvivorError, match=r"no candidate survived, down to 0\.6: pass smaller"
    ) as caught:
        hyperlr.find_step_size(descend, [1.0, 0.6])
    result = caught.value.result
    assert math.isnan(result.value)
    assert result.survived.tolist() == [False, False]
    assert result.losses.shape == (2, 40)
    with pytest.raises(
        ValueError, match=r"margin of 10: \[0\.4\d*, 0\.49\d*\] survived.*or a smaller"
    ):
        hyperlr.find_step_size(descend, [1.0, 0.4, 0.49])
    with pytest.raises(ValueError, match="the very first losses are not finite: look at the param"):
        hyperlr.find_step_size(lambda candidate: jnp.full(3, jnp.nan), [0.1])


def test_losses_that_no_multiple_bounds_are_an_error():
    def run(candidate):
        return descend(candidate) - 2.0

    with pytest.raises(ValueError, match=r"run returned 0\.0 as its first loss.*max_growth=math"):
        hyperlr.find_step_size(run, CANDIDATES)
    found = hyperlr.find_step_size(run, CANDIDATES, max_growth=math.inf)
    assert found.survived.all()


def test_it_is_for_python_and_not_for_jit():
    with pytest.raises(ValueError, match=r"candidates are traced: call .* outside jit"):
        jax.jit(lambda c: hyperlr.find_step_size(ones, c).losses)(jnp.array([0.1]))
    with pytest.raises(ValueError, match="candidates are traced"):
        jax.jit(lambda c: hyperlr.find_step_size(ones, [c, 0.2]).losses)(0.1)
    with pytest.raises(ValueError, match=r"the losses are traced.*outside jit"):
        jax.jit(lambda x: hyperlr.find_step_size(lambda c: ones(c) + x, [0.1]).losses)(0.1)
