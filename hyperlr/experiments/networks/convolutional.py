"""The two networks of Section 6, in Flax linen: VGG-11 and ResNet-18 in their CIFAR forms."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

# Filters of every convolution of VGG-11; "pool" halves the image.
_VGG_11: tuple[int | str, ...] = (
    64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool",
)  # fmt: skip
# Filters and stride of the first block of each of the four stages of ResNet-18, of two blocks each.
_RESNET_18 = ((64, 1), (128, 2), (256, 2), (512, 2))

_conv = functools.partial(
    nn.Conv, kernel_size=(3, 3), padding=1, kernel_init=nn.initializers.he_normal()
)


class _Network(nn.Module):
    num_classes: int
    """Outputs."""
    width: int = 64
    """Filters of the first layer, 64 in the paper; the others are in proportion."""


class Vgg11(_Network):
    """VGG-11 with batch normalization and one linear layer; 9,231,114 parameters for 10 classes."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns the logits [n, classes] of images [n, 32, 32, 3]."""
        hidden = images
        for filters in _VGG_11:
            if isinstance(filters, str):
                hidden = nn.max_pool(hidden, (2, 2), strides=(2, 2))
            else:
                hidden = _conv(filters * self.width // 64)(hidden)
                hidden = nn.relu(_batch_norm(train)(hidden))
        return nn.Dense(self.num_classes)(hidden.reshape(len(hidden), -1))


class ResNet18(_Network):
    """ResNet-18 with a 3 × 3 stem and no max-pooling; 11,220,132 parameters for 100 classes."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Returns the logits [n, classes] of images [n, 32, 32, 3]."""
        hidden = _conv(self.width, use_bias=False)(images)
        hidden = nn.relu(_batch_norm(train)(hidden))
        for filters, stride in _RESNET_18:
            for block_stride in (stride, 1):
                hidden = _Block(filters * self.width // 64, block_stride)(hidden, train)
        return nn.Dense(self.num_classes)(jnp.mean(hidden, axis=(1, 2)))


class _Block(nn.Module):
    """Two convolutions and a way around them, which is a 1 × 1 convolution where shapes change."""

    filters: int
    stride: int

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        strides = (self.stride, self.stride)
        hidden = _conv(self.filters, strides=strides, use_bias=False)(inputs)
        hidden = nn.relu(_batch_norm(train)(hidden))
        hidden = _batch_norm(train)(_conv(self.filters, use_bias=False)(hidden))
        if inputs.shape != hidden.shape:
            around = _conv(
                self.filters, kernel_size=(1, 1), strides=strides, padding=0, use_bias=False
            )
            inputs = _batch_norm(train)(around(inputs))
        return nn.relu(hidden + inputs)


def _batch_norm(train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
