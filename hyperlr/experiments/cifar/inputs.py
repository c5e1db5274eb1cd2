"""What becomes of an image before the network sees it: random crop, flip, normalization."""

import jax
import jax.numpy as jnp

PADDING = 4


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Crops images at random out of a black frame 4 pixels wide, and flips half of them.

    Both are uint8 [n, rows, columns, 3].
    """
    key_crop, key_flip = jax.random.split(key)
    num_images, *shape = images.shape
    frame = ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))
    corners = jax.random.randint(key_crop, (num_images, 2), 0, 2 * PADDING + 1)
    cropped = jax.vmap(
        lambda image, corner: jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), shape)
    )(jnp.pad(images, frame), corners)
    flips = jax.random.bernoulli(key_flip, 0.5, (num_images, 1, 1, 1))
    return jnp.where(flips, cropped[:, :, ::-1, :], cropped)


def normalize(images: jax.Array, mean: jax.Array, deviation: jax.Array) -> jax.Array:
    """Returns float32 images [n, rows, columns, 3] with each colour's mean 0 and deviation 1.

    The images are uint8; mean and deviation float32 [3], of the pixels over 255.
    """
    scaled = images.astype(jnp.float32) / 255.0
    return (scaled - mean[None, None, None, :]) / deviation[None, None, None, :]
