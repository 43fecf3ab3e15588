"""Augmentation of faces on the device, inside the compiled step, so that loader workers only decode."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8


@dataclass(frozen=True)
class AugmentConfig:
    """How training faces are varied (our choice; the paper does not say).

    Attributes:
        brightness: largest change of brightness, as a share of the full range.
        contrast: largest relative change of contrast.
        grey: probability of taking the colours out.
    """

    brightness: float = 0.15
    contrast: float = 0.2
    grey: float = 0.1

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "grey"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"augment.{name} must lie in [0, 1], not {getattr(self, name)}")


def augment(
    keys_B: Key[Array, " B"], images_BxHxWx3: UInt8[Array, "B H W 3"], size: int, config: AugmentConfig
) -> Float[Array, "B size size 3"]:
    """A random crop of `size` pixels, a mirror image half of the time, and random light and colour.

    A face and its key give the same, whatever the rest of the batch.

    Returns float32 in 0 … 255. Raises ValueError where the images are smaller than `size`.
    """
    _, height, width, _ = images_BxHxWx3.shape
    _check_size(height, width, size)
    return jax.vmap(lambda key, image: _augment(key, image, size, config))(keys_B, images_BxHxWx3)


def _augment(key: Array, image_HxWx3: Array, size: int, config: AugmentConfig) -> Array:
    height, width, _ = image_HxWx3.shape
    top_key, left_key, flip_key, bright_key, contrast_key, grey_key = jax.random.split(key, 6)
    top = jax.random.randint(top_key, (), 0, height - size + 1)
    left = jax.random.randint(left_key, (), 0, width - size + 1)
    image = jax.lax.dynamic_slice(image_HxWx3, (top, left, 0), (size, size, 3)).astype(jnp.float32)

    image = jnp.where(jax.random.bernoulli(flip_key, 0.5), image[:, ::-1], image)
    image = jnp.where(jax.random.bernoulli(grey_key, config.grey), image.mean(-1, keepdims=True), image)
    gain = 1.0 + config.contrast * jax.random.uniform(contrast_key, minval=-1.0)
    shift = 255.0 * config.brightness * jax.random.uniform(bright_key, minval=-1.0)
    mean = image.mean()
    return jnp.clip((image - mean) * gain + mean + shift, 0.0, 255.0)


def centre_crop(images_BxHxWx3: UInt8[Array, "*B H W 3"], size: int) -> UInt8[Array, "*B size size 3"]:
    """The middle `size` pixels, for evaluation. Raises ValueError where the images are smaller."""
    height, width = images_BxHxWx3.shape[-3:-1]
    _check_size(height, width, size)
    top, left = (height - size) // 2, (width - size) // 2
    return images_BxHxWx3[..., top : top + size, left : left + size, :]


def _check_size(height: int, width: int, size: int) -> None:
    if min(height, width) < size:
        raise ValueError(
            f"the prepared faces are {height}x{width} pixels, the network wants {size}x{size}: "
            f"prepare them again with --size {size} or more"
        )
