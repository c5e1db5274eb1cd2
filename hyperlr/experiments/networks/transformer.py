"""A pre-norm transformer with softmax attention: twelve arrays a layer, and five more."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

VOCABULARY = 16

Params = dict[str, Any]  # arrays, and under "layers" a list of dicts, or one dict of stacks


def params(
    key: jax.Array,
    num_layers: int,
    *,
    width: int = 32,
    num_heads: int = 4,
    length: int = 16,
    stacked: bool = False,
    dtype: Any = jnp.float32,
) -> Params:
    """Normal weights of variance 1/inputs; those of all layers ``stacked`` for `scanned_loss`.

    The number of heads divides the width of the embeddings; the hidden layer of each MLP is four
    times as wide. The length is that of the longest sequence.
    """
    keys = iter(jax.random.split(key, 6 * num_layers + 3))

    def dense(*shape: int, fan_in: int = width) -> jax.Array:
        return (jax.random.normal(next(keys), shape) / fan_in**0.5).astype(dtype)

    def norm() -> Params:
        return {"scale": jnp.ones(width, dtype), "bias": jnp.zeros(width, dtype)}

    def layer() -> Params:
        heads = num_heads, width // num_heads
        return {
            "norm_1": norm(),
            "query": dense(width, *heads),
            "key": dense(width, *heads),
            "value": dense(width, *heads),
            "out": dense(*heads, width),
            "norm_2": norm(),
            "in": {"w": dense(width, 4 * width), "b": jnp.zeros(4 * width, dtype)},
            "down": {"w": dense(4 * width, width, fan_in=4 * width), "b": jnp.zeros(width, dtype)},
        }

    layers: Any = [layer() for _ in range(num_layers)]
    if stacked:
        layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return {
        "tokens": dense(VOCABULARY, width),
        "positions": dense(length, width),
        "layers": layers,
        "norm": norm(),
        "logits": dense(width, VOCABULARY),
    }


def batch(key: jax.Array, size: int = 8, length: int = 16) -> jax.Array:
    """Random tokens, int32 [size, length + 1]."""
    return jax.random.randint(key, (size, length + 1), 0, VOCABULARY)


def loss(params: Params, batch: jax.Array, *, checkpoint: bool = False) -> jax.Array:
    """Mean cross-entropy of every next token; ``checkpoint``, each layer is computed anew."""
    apply = jax.checkpoint(_apply_layer) if checkpoint else _apply_layer
    return _loss(params, batch, lambda x: functools.reduce(apply, params["layers"], x))


def scanned_loss(params: Params, batch: jax.Array, *, checkpoint: bool = False) -> jax.Array:
    """The same of stacked layers, by one scan; ``checkpoint``, each layer is computed anew."""
    apply = jax.checkpoint(_apply_layer) if checkpoint else _apply_layer

    def body(x: jax.Array, layer: Params) -> tuple[jax.Array, None]:
        return apply(x, layer), None

    return _loss(params, batch, lambda x: jax.lax.scan(body, x, params["layers"])[0])


def _loss(
    params: Params, batch: jax.Array, apply_layers: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    inputs, targets = batch[:, :-1], batch[:, 1:]
    positions = params["positions"][: inputs.shape[1]]
    x = apply_layers(params["tokens"][inputs] + positions[None])
    logits = _normalized(x, params["norm"]) @ params["logits"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)
    return jnp.mean(losses)


def _apply_layer(x: jax.Array, layer: Params) -> jax.Array:
    normalized = _normalized(x, layer["norm_1"])
    query, key, value = (
        jnp.einsum("btd,dhk->bhtk", normalized, layer[name]) for name in ("query", "key", "value")
    )
    scores = jnp.einsum("bhtk,bhsk->bhts", query, key) / query.shape[-1] ** 0.5
    causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    weights = jax.nn.softmax(jnp.where(causal[None, None], scores, -1e4), axis=-1)
    attended = jnp.einsum("bhts,bhsk->bthk", weights, value)
    x = x + jnp.einsum("bthk,hkd->btd", attended, layer["out"])
    hidden = _normalized(x, layer["norm_2"]) @ layer["in"]["w"] + layer["in"]["b"][None, None]
    return x + jax.nn.gelu(hidden) @ layer["down"]["w"] + layer["down"]["b"][None, None]


def _normalized(x: jax.Array, norm: Params) -> jax.Array:
    wide = x.astype(jnp.float32)
    centered = wide - wide.mean(-1, keepdims=True)
    unit = centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-5)
    return unit.astype(x.dtype) * norm["scale"][None, None] + norm["bias"][None, None]
