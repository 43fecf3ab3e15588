"""MobileNetV3 (Howard et al. 2019): depthwise-separable convolutions with squeeze-and-excitation, for phones.

Blocks, channels and rounding are those of torchvision's `mobilenet_v3_small` and `mobilenet_v3_large`, so that weights
in its naming can be converted one by one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from avemo.models.layers import ConvNorm, DType, SqueezeExcite, divisible


class Bottleneck(NamedTuple):
    """A row of the paper's tables 1 and 2."""

    kernel: int
    expanded: int
    channels: int
    excited: bool
    activation: Callable[[Array], Array]
    stride: int


RELU, SWISH = nn.relu, nn.hard_swish

SMALL = (
    Bottleneck(3, 16, 16, True, RELU, 2),
    Bottleneck(3, 72, 24, False, RELU, 2),
    Bottleneck(3, 88, 24, False, RELU, 1),
    Bottleneck(5, 96, 40, True, SWISH, 2),
    Bottleneck(5, 240, 40, True, SWISH, 1),
    Bottleneck(5, 240, 40, True, SWISH, 1),
    Bottleneck(5, 120, 48, True, SWISH, 1),
    Bottleneck(5, 144, 48, True, SWISH, 1),
    Bottleneck(5, 288, 96, True, SWISH, 2),
    Bottleneck(5, 576, 96, True, SWISH, 1),
    Bottleneck(5, 576, 96, True, SWISH, 1),
)
"""MobileNetV3-Small, table 2."""

LARGE = (
    Bottleneck(3, 16, 16, False, RELU, 1),
    Bottleneck(3, 64, 24, False, RELU, 2),
    Bottleneck(3, 72, 24, False, RELU, 1),
    Bottleneck(5, 72, 40, True, RELU, 2),
    Bottleneck(5, 120, 40, True, RELU, 1),
    Bottleneck(5, 120, 40, True, RELU, 1),
    Bottleneck(3, 240, 80, False, SWISH, 2),
    Bottleneck(3, 200, 80, False, SWISH, 1),
    Bottleneck(3, 184, 80, False, SWISH, 1),
    Bottleneck(3, 184, 80, False, SWISH, 1),
    Bottleneck(3, 480, 112, True, SWISH, 1),
    Bottleneck(3, 672, 112, True, SWISH, 1),
    Bottleneck(5, 672, 160, True, SWISH, 2),
    Bottleneck(5, 960, 160, True, SWISH, 1),
    Bottleneck(5, 960, 160, True, SWISH, 1),
)
"""MobileNetV3-Large, table 1."""

STEM_CHANNELS = 16


@dataclass(frozen=True)
class MobileNetConfig:
    """Size of the trunk; without its heads, "small" has 0.93 M parameters, "large" 2.97 M, at a width of 1.4 5.8 M.

    Attributes:
        size: Which of the published tables.
        width: Factor on every channel count.
        stem_stride: Step of the first convolution; 2 in the paper, 1 leaves small pictures (48 pixels) more detail.
    """

    size: Literal["small", "large"] = "small"
    width: float = 1.0
    stem_stride: int = 2

    def __post_init__(self) -> None:
        if self.width <= 0 or self.stem_stride < 1:
            raise ValueError(f"width {self.width} and stem_stride {self.stem_stride} must be positive")

    @property
    def bottlenecks(self) -> tuple[Bottleneck, ...]:
        """The published blocks."""
        return SMALL if self.size == "small" else LARGE

    def channels(self, published: int) -> int:
        """A published number of channels times `width`, see `divisible`."""
        return divisible(published * self.width)

    def map_size(self, image_size: int) -> int:
        """Side of the trunk's map for a square image."""
        for stride in (self.stem_stride, *(block.stride for block in self.bottlenecks)):
            image_size = -(-image_size // stride)
        return image_size

    def trunk(self, dtype: DType, name: str) -> nn.Module:
        """The trunk as a module."""
        return MobileNetTrunk(self, dtype, name=name)


class InvertedResidual(nn.Module):
    """1×1 up to the expanded channels, depthwise, squeeze-and-excitation, 1×1 down; added to the input if of its shape.

    Attributes:
        config: The trunk's, for its width.
        row: The published sizes.
        dtype: Compute dtype.
    """

    config: MobileNetConfig
    row: Bottleneck
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, maps_BxHxWxC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w D"]:
        """Map BxHxWxC to BxhxwxD, h = ⌈H / stride⌉."""
        row = self.row
        expanded, channels = self.config.channels(row.expanded), self.config.channels(row.channels)
        conv = partial(ConvNorm, padding="CENTRED", dtype=self.dtype, activation=row.activation)
        maps = maps_BxHxWxC
        if expanded != maps.shape[-1]:
            maps = conv(expanded, name="expand")(maps, train)
        maps = conv(expanded, (row.kernel,) * 2, row.stride, depthwise=True, name="depthwise")(maps, train)
        if row.excited:
            maps = SqueezeExcite(divisible(expanded / 4), self.dtype, name="excite")(maps)
        maps = conv(channels, activation=None, name="project")(maps, train)
        return maps_BxHxWxC + maps if maps.shape == maps_BxHxWxC.shape else maps


class MobileNetTrunk(nn.Module):
    """A stem, the published blocks, and the 1×1 convolution that ends them.

    Attributes:
        config: Size of the trunk.
        dtype: Compute dtype.
    """

    config: MobileNetConfig
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, images_BxHxWx3: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w C"]:
        """Map normalised images BxHxWx3 to maps BxhxwxC, C six times the last block's channels."""
        config = self.config
        conv = partial(ConvNorm, padding="CENTRED", dtype=self.dtype, activation=SWISH)
        stem = conv(config.channels(STEM_CHANNELS), (3, 3), config.stem_stride, name="stem")
        maps = stem(images_BxHxWx3, train)
        for i, row in enumerate(config.bottlenecks):
            maps = InvertedResidual(config, row, self.dtype, name=f"block_{i}")(maps, train)
        return conv(6 * config.channels(config.bottlenecks[-1].channels), name="last")(maps, train)
