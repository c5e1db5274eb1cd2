"""Section 6: networks and fixed schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hyperlr.experiments.cifar import methods as cifar_methods
from hyperlr.experiments.networks import convolutional


@pytest.mark.parametrize(
    ("network", "expected"),
    [(convolutional.Vgg11(10), 9_231_114), (convolutional.ResNet18(100), 11_220_132)],
    ids=["VGG-11", "ResNet-18"],
)
def test_number_of_parameters(network, expected):
    def outputs():
        inputs = jnp.ones((2, 32, 32, 3))
        variables = network.init(jax.random.key(0), inputs, train=False)
        return variables, network.apply(variables, inputs, train=False)

    variables, logits = jax.eval_shape(outputs)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected
    assert logits.shape == (2, network.num_classes)


def test_fixed_schedules_are_the_papers():
    inner = cifar_methods.INNER["momentum"]
    schedules = {
        name: cifar_methods.rates(name, inner, 1_000).reshape(200, 5)
        for name in cifar_methods.NUMBERS
    }
    for schedule in schedules.values():
        np.testing.assert_array_equal(schedule.min(axis=1), schedule.max(axis=1))
    first = {name: schedule[:, 0] for name, schedule in schedules.items()}
    epochs = np.arange(200)
    np.testing.assert_allclose(first["exponential"], 0.1 * 0.99**epochs, rtol=1e-5)
    np.testing.assert_allclose(first["staircase"], 0.1 * 0.1 ** (epochs // 60), rtol=1e-5)
    for name, restarts in (("sgdr", [0, 10, 30, 70, 150]), ("sgdr_2264", [0, 10, 33, 84])):
        np.testing.assert_array_equal(np.flatnonzero(first[name] == np.float32(0.1)), restarts)
    assert first["sgdr_2264"][-1] < 1e-4  # the last period ends with the run
    np.testing.assert_array_equal(schedules["marthe_zero"], 0.0)
    np.testing.assert_array_equal(schedules["marthe"], np.float32(0.1))
    adam = cifar_methods.INNER["adam"]
    assert cifar_methods.rates("hd", adam, 5)[0] == np.float32(3e-4)
