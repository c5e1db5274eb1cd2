"""Running statistics at averaged parameters, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import hyperlr.flax

BATCHES = [np.asarray(x) for x in 2.0 + 3.0 * jax.random.normal(jax.random.key(0), (6, 16, 2))]


def expected(momentum):
    """The average of the batches' own statistics, of which the newest has the most weight."""
    weights = momentum ** np.arange(len(BATCHES))[::-1]
    weights /= weights.sum()
    means = np.stack([x.mean(axis=0) for x in BATCHES])
    variances = np.stack([x.var(axis=0) for x in BATCHES])
    return weights @ means, weights @ variances


@pytest.mark.parametrize("momentum", [0.99, 0.5])
def test_nnx_statistics_are_those_of_the_batches_alone(momentum):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(2, momentum=momentum, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.dropout(self.norm(x))

    model = Model(nnx.Rngs(0))
    for x in np.ones((3, 4, 2)):
        model(x)  # what the statistics were before does not count
    model.eval()
    count = model.dropout.rngs.count[...]
    hyperlr.flax.recompute_statistics(model, BATCHES)
    mean, var = expected(momentum)
    np.testing.assert_allclose(model.norm.mean[...], mean, rtol=1e-4)
    np.testing.assert_allclose(model.norm.var[...], var, rtol=1e-4)
    assert model.norm.use_running_average
    assert model.dropout.rngs.count[...] == count


def test_linen_statistics_of_layers_with_several_momenta():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            for momentum in (0.9, 0.5):
                nn.BatchNorm(use_running_average=not train, momentum=momentum)(x)
            return x

    model = Network()
    variables = model.init(jax.random.key(0), BATCHES[0], train=True)

    def pass_fn(batch_stats, x):
        given = {**variables, "batch_stats": batch_stats}
        return model.apply(given, x, train=True, mutable="batch_stats")[1]["batch_stats"]

    found = hyperlr.flax.recomputed_statistics(pass_fn, variables["batch_stats"], iter(BATCHES))
    for name, momentum in (("BatchNorm_0", 0.9), ("BatchNorm_1", 0.5)):
        mean, var = expected(momentum)
        np.testing.assert_allclose(found[name]["mean"], mean, rtol=1e-5)
        np.testing.assert_allclose(found[name]["var"], var, rtol=1e-5)


def test_counters_are_those_of_the_last_pass():
    found = hyperlr.flax.recomputed_statistics(
        lambda s, x: {"count": s["count"] + 1, "mean": 0.5 * s["mean"] + 0.5 * x},
        {"count": jnp.array(7), "mean": jnp.array(9.0)},
        [jnp.array(2.0)] * 3,
    )
    assert found["count"] == 10
    np.testing.assert_allclose(found["mean"], 2.0, rtol=1e-6)


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="batches is empty"):
        hyperlr.flax.recomputed_statistics(lambda s, x: s, {"mean": jnp.zeros(2)}, [])
