"""Augmentation of faces on the device, inside the compiled step, so that loader workers only decode."""

from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Key, UInt8


@dataclass(frozen=True)
class AugmentConfig:
    """How training faces are varied (our choice; the paper does not say).

    Attributes:
        brightness: largest change of brightness, as a share of the full range.
        contrast: largest relative change of contrast.
        grey: probability of taking the colours out.
        zoom: largest change of size: a face grows or shrinks by up to exp(zoom).
        rotation: largest angle by which a face is turned, in degrees.
        shift: largest move along either axis, as a share of the side, beside that of the random crop.
        erase: side of a square, anywhere on the face, that is painted over with its mean, as a share of the face's side
            (Zhong et al. 2020; DeVries & Taylor 2017).
    """

    brightness: float = 0.15
    contrast: float = 0.2
    grey: float = 0.1
    zoom: float = 0.0
    rotation: float = 0.0
    shift: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 0.0 <= value <= (most := 180.0 if name == "rotation" else 1.0):
                raise ValueError(f"augment.{name} must lie in [0, {most:g}], not {value}")


def augment(
    keys_B: Key[Array, " B"],
    images_BxHxWxC: UInt8[Array, "B H W C"] | Float[Array, "B H W C"],
    size: int,
    config: AugmentConfig,
) -> Float[Array, "B size size C"]:
    """A random crop of `size` pixels, a mirror image half of the time, and random place, light and colour.

    A face and its key give the same, whatever the rest of the batch.

    Returns float32 in 0 … 255. Raises ValueError where the images are smaller than `size`.
    """
    _, height, width, _ = images_BxHxWxC.shape
    _check_size(height, width, size)
    return jax.vmap(lambda key, image: _augment(key, image, size, config))(keys_B, images_BxHxWxC)


def _augment(key: Array, image_HxWxC: Array, size: int, config: AugmentConfig) -> Array:
    height, width, _ = image_HxWxC.shape
    top_key, left_key, flip_key, bright_key, contrast_key, grey_key, warp_key, erase_key = jax.random.split(key, 8)
    top = jax.random.randint(top_key, (), 0, height - size + 1)
    left = jax.random.randint(left_key, (), 0, width - size + 1)
    if config.zoom or config.rotation or config.shift:
        image = _warp(warp_key, image_HxWxC, top, left, size, config)
    else:
        image = jax.lax.dynamic_slice(image_HxWxC, (top, left, 0), (size, size, image_HxWxC.shape[-1])).astype(
            jnp.float32
        )

    image = jnp.where(jax.random.bernoulli(flip_key, 0.5), image[:, ::-1], image)
    image = jnp.where(jax.random.bernoulli(grey_key, config.grey), image.mean(-1, keepdims=True), image)
    gain = 1.0 + config.contrast * jax.random.uniform(contrast_key, minval=-1.0)
    shift = 255.0 * config.brightness * jax.random.uniform(bright_key, minval=-1.0)
    mean = image.mean()
    image = jnp.clip((image - mean) * gain + mean + shift, 0.0, 255.0)
    return _erase(erase_key, image, config.erase) if config.erase else image


def _warp(key: Array, image_HxWxC: Array, top: Array, left: Array, size: int, config: AugmentConfig) -> Array:
    """The crop at (top, left), zoomed, turned and moved (bilinear); the picture's edge goes on beyond the picture."""
    zoom, turn, down, right = jax.random.uniform(key, (4,), minval=-1.0)
    scale = jnp.exp(config.zoom * zoom)
    angle = jnp.deg2rad(config.rotation) * turn
    middle = (size - 1) / 2
    y, x = jnp.meshgrid(jnp.arange(size) - middle, jnp.arange(size) - middle, indexing="ij")
    rows = scale * (jnp.cos(angle) * y - jnp.sin(angle) * x) + top + middle + config.shift * size * down
    columns = scale * (jnp.sin(angle) * y + jnp.cos(angle) * x) + left + middle + config.shift * size * right
    sample = lambda channel: map_coordinates(channel, [rows, columns], order=1, mode="nearest")
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image_HxWxC.astype(jnp.float32))


def _erase(key: Array, image_SxSxC: Array, share: float) -> Array:
    """Paint over a square whose middle may lie anywhere; what reaches over the edge is cut off."""
    size = image_SxSxC.shape[0]
    middle = size * jax.random.uniform(key, (2,))
    near = jnp.abs(jnp.arange(size) + 0.5 - middle[:, None]) < share * size / 2
    square = near[0][:, None, None] & near[1][None, :, None]
    return jnp.where(square, image_SxSxC.mean(), image_SxSxC)


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
