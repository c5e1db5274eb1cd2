"""The next character of source text, by a small transformer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hyperlr.experiments.comparison.tasks.source_text import MODULES, read_module
from hyperlr.experiments.comparison.tasks.task import Data, Task, grids
from hyperlr.experiments.networks import mlp

_CONTEXT = 32
_WIDTH, _NUM_HEADS, _NUM_LAYERS = 32, 2, 2
_NUM_MODULES = 8
_BLOCK = 1_024  # characters that are held out together
_NUM_VAL, _NUM_TEST = 24, 48  # blocks
# Printable ASCII and the line break; whatever else there is stands as the last symbol.
_ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
_NUM_SYMBOLS = len(_ALPHABET) + 1

Params = dict[str, Any]  # arrays, and under "layers" a list of dicts of arrays


@functools.cache
def blocks() -> np.ndarray:
    """The text as symbols, uint8 [blocks, 1024]."""
    text = "".join(map(read_module, MODULES[:_NUM_MODULES]))
    numbers = {symbol: number for number, symbol in enumerate(_ALPHABET)}
    symbols = np.array([numbers.get(c, _NUM_SYMBOLS - 1) for c in text], np.uint8)
    return symbols[: len(symbols) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)


def make_data(seed: int) -> Data:
    """Text to train on, uint8 [n]; windows of held-out text, uint8 [n, 33]."""
    order = np.random.default_rng(0).permutation(len(blocks()))
    test, others = order[:_NUM_TEST], order[_NUM_TEST:]
    others = np.random.default_rng([seed, 1]).permutation(others)
    val, train = others[:_NUM_VAL], np.sort(others[_NUM_VAL:])
    size = _CONTEXT + 1

    def windows(held_out: np.ndarray) -> np.ndarray:
        whole = blocks()[held_out][:, : _BLOCK // size * size]
        return whole.reshape(-1, size)

    return Data(train=blocks()[train].reshape(-1), val=windows(val), test=windows(test))


def sample(key: jax.Array, train: jax.Array, size: int) -> jax.Array:
    """Draws windows uint8 [size, 33] of the text [n], with replacement."""
    starts = jax.random.randint(key, (size,), 0, len(train) - _CONTEXT)
    return train[starts[:, None] + jnp.arange(_CONTEXT + 1)[None, :]]


def init(key: jax.Array) -> Params:
    """Normal weights of variance 1/inputs; the embeddings of variance 1/width."""
    keys = iter(jax.random.split(key, 3 + 4 * _NUM_LAYERS))

    def matrix(inputs: int, outputs: int, variance: float | None = None) -> jax.Array:
        scale = (1.0 / inputs if variance is None else variance) ** 0.5
        return scale * jax.random.normal(next(keys), (inputs, outputs), jnp.float32)

    def layer() -> dict[str, jax.Array]:
        return {
            "attention_scale": jnp.ones(_WIDTH, jnp.float32),
            "queries_keys_values": matrix(_WIDTH, 3 * _WIDTH),
            "mixed": matrix(_WIDTH, _WIDTH),
            "mlp_scale": jnp.ones(_WIDTH, jnp.float32),
            "up": matrix(_WIDTH, 4 * _WIDTH),
            "down": matrix(4 * _WIDTH, _WIDTH),
        }

    return {
        "symbols": matrix(_NUM_SYMBOLS, _WIDTH, 1.0 / _WIDTH),
        "positions": matrix(_CONTEXT, _WIDTH, 1.0 / _WIDTH),
        "layers": [layer() for _ in range(_NUM_LAYERS)],
        "scale": jnp.ones(_WIDTH, jnp.float32),
        "logits": matrix(_WIDTH, _NUM_SYMBOLS),
    }


def apply(params: Params, symbols: jax.Array) -> jax.Array:
    """Returns the logits [n, 32, symbols] of what follows each of the symbols [n, 32]."""
    hidden = params["symbols"][symbols] + params["positions"][None]
    for layer in params["layers"]:
        hidden = hidden + _attention(layer, _normalized(hidden, layer["attention_scale"]))
        wide = jax.nn.gelu(_normalized(hidden, layer["mlp_scale"]) @ layer["up"])
        hidden = hidden + wide @ layer["down"]
    return _normalized(hidden, params["scale"]) @ params["logits"]


def _normalized(x: jax.Array, scale: jax.Array) -> jax.Array:
    root = jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    return x * root * scale[None, None, :]


def _attention(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Causal attention [n, 32, width] of x, of the same shape."""
    by_head = (*x.shape[:2], 3, _NUM_HEADS, _WIDTH // _NUM_HEADS)
    queries, keys, values = jnp.moveaxis((x @ layer["queries_keys_values"]).reshape(by_head), 2, 0)
    similarity = jnp.einsum("nqhd,nkhd->nhqk", queries, keys) / by_head[-1] ** 0.5
    visible = jnp.tril(jnp.ones(similarity.shape[-2:], bool))[None, None]
    weights = jax.nn.softmax(jnp.where(visible, similarity, -jnp.inf), axis=-1)
    return jnp.einsum("nhqk,nkhd->nqhd", weights, values).reshape(x.shape) @ layer["mixed"]


def loss(params: Params, windows: jax.Array) -> jax.Array:
    """The mean cross-entropy, in nats a character."""
    return mlp.cross_entropy(apply(params, windows[:, :-1]), windows[:, 1:])


def score(params: Params, windows: jax.Array) -> jax.Array:
    """The loss with its sign turned, so that higher is better."""
    value = -loss(params, windows)
    return jnp.where(jnp.isfinite(value), value, jnp.nan)


CHARACTERS = Task(
    name="characters",
    title="characters of source text, transformer",
    score_name="−nats a character",
    make_data=make_data,
    init=init,
    loss=loss,
    score=score,
    num_steps=600,
    batch_size=32,
    gradient_cost=19.0,
    rates=grids(3e-3, 1e-1, 1.0),
    sample=sample,
)
