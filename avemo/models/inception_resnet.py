"""Inception-ResNet-v1 as FaceNet uses it, cut after `mixed_7a`: the teacher's trunk.

Architecture: Szegedy et al. 2017 (arXiv 1602.07261) in the form whose VGGFace2 weights facenet-pytorch
publishes. Submodules bear facenet-pytorch's names, so that those weights can be converted one by one.
"""

from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from avemo.models.layers import ConvNorm, DType, convolve, float32_bias


@dataclass(frozen=True)
class InceptionResNetConfig:
    """Size of the trunk; the defaults are the published network.

    Attributes:
        width: Factor on every channel count, rounded to a multiple of 8 (our addition).
        blocks: Number of Block35 and of Block17.
        stem_pool: Whether the stem's max-pooling is there; without it, images of 48×48 suffice at a quarter
            of the cost that a first convolution of stride 1 would have (our addition).
    """

    width: float = 1.0
    blocks: tuple[int, int] = (5, 10)
    stem_pool: bool = True

    def __post_init__(self) -> None:
        if self.width <= 0:
            raise ValueError(f"width is {self.width}; it must be positive")
        if min(self.blocks) < 0:
            raise ValueError(f"blocks is {self.blocks}; numbers of blocks can't be negative")

    def channels(self, published: int) -> int:
        """The published number of channels times `width`, as a multiple of 8 and at least 8."""
        return max(8, 8 * round(published * self.width / 8))

    def map_size(self, image_size: int) -> int:
        """Side of the trunk's map for a square image; less than 1 where the image is too small."""
        size = (image_size - 3) // 2 + 1 - 2  # conv2d_1a, conv2d_2a
        if self.stem_pool:
            size = (size - 3) // 2 + 1  # maxpool_3a
        size = (size - 2 - 3) // 2 + 1  # conv2d_4a, conv2d_4b
        size = (size - 3) // 2 + 1  # mixed_6a
        return (size - 3) // 2 + 1  # mixed_7a

    def trunk(self, dtype: DType, name: str) -> nn.Module:
        """The trunk as a module."""
        return InceptionResNetTrunk(self, dtype, name=name)


def _max_pool(maps_BxHxWxC: Array) -> Array:
    return nn.max_pool(maps_BxHxWxC, (3, 3), strides=(2, 2))


def _add_residual(maps_BxHxWxC: Array, branches: list[Array], scale: float, dtype: DType) -> Array:
    """Join the branches, project them to the block's channels (submodule `conv2d`), scale, add, ReLU."""
    project = nn.Conv(
        maps_BxHxWxC.shape[-1],
        (1, 1),
        dtype=dtype,
        promote_dtype=float32_bias,
        conv_general_dilated=convolve,
        name="conv2d",
    )
    return nn.relu(maps_BxHxWxC + scale * project(jnp.concatenate(branches, axis=-1))).astype(dtype)


class Block35(nn.Module):
    """Residual block after the stem: kernels 1, 1-3 and 1-3-3, residual scaled by 0.17."""

    config: InceptionResNetConfig
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, maps_BxHxWxC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """Map BxHxWxC to the same shape."""
        conv = partial(ConvNorm, self.config.channels(32), padding="SAME", dtype=self.dtype)
        branch0 = conv((1, 1), name="branch0")(maps_BxHxWxC, train)
        branch1 = conv((1, 1), name="branch1_0")(maps_BxHxWxC, train)
        branch1 = conv((3, 3), name="branch1_1")(branch1, train)
        branch2 = conv((1, 1), name="branch2_0")(maps_BxHxWxC, train)
        branch2 = conv((3, 3), name="branch2_1")(branch2, train)
        branch2 = conv((3, 3), name="branch2_2")(branch2, train)
        return _add_residual(maps_BxHxWxC, [branch0, branch1, branch2], scale=0.17, dtype=self.dtype)


class Block17(nn.Module):
    """Residual block after `mixed_6a`: kernels 1 and 1-(1×7)-(7×1), residual scaled by 0.10."""

    config: InceptionResNetConfig
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, maps_BxHxWxC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W C"]:
        """Map BxHxWxC to the same shape."""
        conv = partial(ConvNorm, self.config.channels(128), padding="SAME", dtype=self.dtype)
        branch0 = conv((1, 1), name="branch0")(maps_BxHxWxC, train)
        branch1 = conv((1, 1), name="branch1_0")(maps_BxHxWxC, train)
        branch1 = conv((1, 7), name="branch1_1")(branch1, train)
        branch1 = conv((7, 1), name="branch1_2")(branch1, train)
        return _add_residual(maps_BxHxWxC, [branch0, branch1], scale=0.10, dtype=self.dtype)


class Mixed6a(nn.Module):
    """Reduction from 256 to 896 channels at half the size."""

    config: InceptionResNetConfig
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, maps_BxHxWxC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        """Map BxHxWxC to half the height and width."""
        conv = partial(ConvNorm, dtype=self.dtype)
        channels = self.config.channels
        branch0 = conv(channels(384), (3, 3), stride=2, name="branch0")(maps_BxHxWxC, train)
        branch1 = conv(channels(192), name="branch1_0")(maps_BxHxWxC, train)
        branch1 = conv(channels(192), (3, 3), padding="SAME", name="branch1_1")(branch1, train)
        branch1 = conv(channels(256), (3, 3), stride=2, name="branch1_2")(branch1, train)
        return jnp.concatenate([branch0, branch1, _max_pool(maps_BxHxWxC)], axis=-1)


class Mixed7a(nn.Module):
    """Reduction from 896 to 1792 channels at half the size."""

    config: InceptionResNetConfig
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, maps_BxHxWxC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        """Map BxHxWxC to half the height and width."""
        conv = partial(ConvNorm, dtype=self.dtype)
        channels = self.config.channels
        branch0 = conv(channels(256), name="branch0_0")(maps_BxHxWxC, train)
        branch0 = conv(channels(384), (3, 3), stride=2, name="branch0_1")(branch0, train)
        branch1 = conv(channels(256), name="branch1_0")(maps_BxHxWxC, train)
        branch1 = conv(channels(256), (3, 3), stride=2, name="branch1_1")(branch1, train)
        branch2 = conv(channels(256), name="branch2_0")(maps_BxHxWxC, train)
        branch2 = conv(channels(256), (3, 3), padding="SAME", name="branch2_1")(branch2, train)
        branch2 = conv(channels(256), (3, 3), stride=2, name="branch2_2")(branch2, train)
        return jnp.concatenate([branch0, branch1, branch2, _max_pool(maps_BxHxWxC)], axis=-1)


class InceptionResNetTrunk(nn.Module):
    """Inception-ResNet-v1 from the stem to `mixed_7a`: 140×140×3 becomes 3×3×1792.

    Attributes:
        config: Size of the trunk.
        dtype: Compute dtype.
    """

    config: InceptionResNetConfig
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, images_BxHxWx3: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w C"]:
        """Map normalised images BxHxWx3 to maps Bxhxwx1792 (times the configured width)."""
        conv = partial(ConvNorm, dtype=self.dtype)
        channels = self.config.channels
        maps = conv(channels(32), (3, 3), stride=2, name="conv2d_1a")(images_BxHxWx3, train)
        maps = conv(channels(32), (3, 3), name="conv2d_2a")(maps, train)
        maps = conv(channels(64), (3, 3), padding="SAME", name="conv2d_2b")(maps, train)
        if self.config.stem_pool:
            maps = _max_pool(maps)
        maps = conv(channels(80), name="conv2d_3b")(maps, train)
        maps = conv(channels(192), (3, 3), name="conv2d_4a")(maps, train)
        maps = conv(channels(256), (3, 3), stride=2, name="conv2d_4b")(maps, train)
        for i in range(self.config.blocks[0]):
            maps = Block35(self.config, self.dtype, name=f"repeat_1_{i}")(maps, train)
        maps = Mixed6a(self.config, self.dtype, name="mixed_6a")(maps, train)
        for i in range(self.config.blocks[1]):
            maps = Block17(self.config, self.dtype, name=f"repeat_2_{i}")(maps, train)
        return Mixed7a(self.config, self.dtype, name="mixed_7a")(maps, train)
