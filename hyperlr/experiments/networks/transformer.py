"""A pre-norm transformer with softmax attention: twelve arrays a layer, and five more."""

import functools

import jax
import jax.numpy as jnp
import optax

VOCABULARY = 16


def params(key, num_layers, *, width=32, num_heads=4, length=16, stacked=False, dtype=jnp.float32):
    """Its weights; ``stacked``, those of all layers in one array each, for :func:`scanned_loss`."""
    keys = iter(jax.random.split(key, 6 * num_layers + 3))

    def dense(*shape, fan_in=width):
        return (jax.random.normal(next(keys), shape) / fan_in**0.5).astype(dtype)

    def norm():
        return {"scale": jnp.ones(width, dtype), "bias": jnp.zeros(width, dtype)}

    def layer():
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

    layers = [layer() for _ in range(num_layers)]
    if stacked:
        layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    return {
        "tokens": dense(VOCABULARY, width),
        "positions": dense(length, width),
        "layers": layers,
        "norm": norm(),
        "logits": dense(width, VOCABULARY),
    }


def batch(key, size=8, length=16):
    """Random tokens, [size, length + 1]."""
    return jax.random.randint(key, (size, length + 1), 0, VOCABULARY)


def loss(params, batch, *, checkpoint=False):
    """Mean cross-entropy of every next token; ``checkpoint``, each layer is computed anew."""
    apply = jax.checkpoint(_apply_layer) if checkpoint else _apply_layer
    return _loss(params, batch, lambda x: functools.reduce(apply, params["layers"], x))


def scanned_loss(params, batch, *, checkpoint=False):
    """The same of stacked layers, by one scan; ``checkpoint``, each layer is computed anew."""
    apply = jax.checkpoint(_apply_layer) if checkpoint else _apply_layer

    def body(x, layer):
        return apply(x, layer), None

    return _loss(params, batch, lambda x: jax.lax.scan(body, x, params["layers"])[0])


def _loss(params, batch, apply_layers):
    inputs, targets = batch[:, :-1], batch[:, 1:]
    positions = params["positions"][: inputs.shape[1]]
    x = apply_layers(params["tokens"][inputs] + positions[None])
    logits = _normalized(x, params["norm"]) @ params["logits"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)
    return jnp.mean(losses)


def _apply_layer(x, layer):
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


def _normalized(x, norm):
    wide = x.astype(jnp.float32)
    centered = wide - wide.mean(-1, keepdims=True)
    unit = centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-5)
    return unit.astype(x.dtype) * norm["scale"][None, None] + norm["bias"][None, None]
