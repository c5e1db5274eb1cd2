"""Fine-tuning: low-rank adapters of a network that knows upright digits, on turned ones."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hyperlr.experiments.comparison.tasks import digits
from hyperlr.experiments.comparison.tasks.task import Data, Task, grids, sample_rows
from hyperlr.experiments.networks import mlp

_RANK = 8
_NUM_FOR_NETWORK = 1_500  # training images that the network has seen, upright; none comes back
_NETWORK_STEPS, _NETWORK_RATE = 400, 2e-3

Params = list[dict[str, jax.Array]]


def make_data(seed: int) -> Data:
    """Turned images uint8 [n, 784] and labels int32 [n]; `frozen` holds the network."""
    upright = digits.make_data(seed)
    for_network = tuple(x[:_NUM_FOR_NETWORK] for x in upright.train)
    rest = tuple(x[_NUM_FOR_NETWORK:] for x in upright.train)
    return Data(
        train=_turned(rest),
        val=_turned(upright.val),
        test=_turned(upright.test),
        frozen=(jax.tree.map(np.asarray, _trained_network(jax.random.key(seed), for_network)),),
    )


def init(key: jax.Array) -> Params:
    """`down` normal, of variance 1/inputs, and `up` zero: the network is unchanged at first."""
    pairs = list(itertools.pairwise(digits.WIDTHS))
    return [
        {
            "down": inputs**-0.5 * jax.random.normal(layer_key, (inputs, _RANK), jnp.float32),
            "up": jnp.zeros((_RANK, outputs), jnp.float32),
        }
        for layer_key, (inputs, outputs) in zip(
            jax.random.split(key, len(pairs)), pairs, strict=True
        )
    ]


def adapted(params: Params, network: mlp.Params) -> mlp.Params:
    """The network with each weight matrix W replaced by W + down · up."""
    return [
        {"weight": layer["weight"] + adapter["down"] @ adapter["up"], "bias": layer["bias"]}
        for layer, adapter in zip(network, params, strict=True)
    ]


def loss(params: Params, examples: tuple[jax.Array, jax.Array], network: mlp.Params) -> jax.Array:
    """The mean cross-entropy of the adapted network."""
    return digits.loss(adapted(params, network), examples)


def score(params: Params, examples: tuple[jax.Array, jax.Array], network: mlp.Params) -> jax.Array:
    """The accuracy of the adapted network."""
    return digits.score(adapted(params, network), examples)


def _turned(examples: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The images turned by a quarter."""
    images, labels = examples
    side = round(images.shape[1] ** 0.5)
    turned = np.rot90(images.reshape(-1, side, side), axes=(1, 2))
    return np.ascontiguousarray(turned).reshape(images.shape), labels


@functools.partial(jax.jit, static_argnames="num_steps")
def _trained_network(
    key: jax.Array, examples: tuple[np.ndarray, np.ndarray], num_steps: int = _NETWORK_STEPS
) -> mlp.Params:
    """A network trained on upright digits by Adam."""
    tx = optax.adam(_NETWORK_RATE)
    init_key, *keys = jax.random.split(key, num_steps + 1)
    network = digits.init(init_key)

    def step(
        carry: tuple[mlp.Params, optax.OptState], key: jax.Array
    ) -> tuple[tuple[mlp.Params, optax.OptState], None]:
        params, state = carry
        grads = jax.grad(digits.loss)(params, sample_rows(key, examples, 100))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (network, _), _ = jax.lax.scan(step, (network, tx.init(network)), jnp.stack(keys))
    return network


ADAPTERS = Task(
    name="adapters",
    title="low-rank adapters, from upright digits to turned ones",
    score_name="accuracy",
    make_data=make_data,
    init=init,
    loss=loss,
    score=score,
    num_steps=500,
    batch_size=100,
    gradient_cost=1.5,
    rates=grids(3e-3, 1e-2, 1e-1),
    sample=sample_rows,
)
