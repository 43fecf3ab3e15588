"""A compact residual network (He et al. 2016) of plain 3×3 convolutions: what runs fastest on CPUs for what it knows.

Squeeze-and-excitation (Hu et al. 2018) and SiLU (Elfwing et al. 2018) cost small networks little and make them learn
faster. Stem and stages are our choice.
"""

from dataclasses import dataclass
from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from avemo.models.layers import ConvNorm, DType, SqueezeExcite, divisible, silu


@dataclass(frozen=True)
class ResNetConfig:
    """Size of the trunk.

    Attributes:
        widths: Channels of the stem and of each stage after it; the stem and every stage halve the map.
        blocks: Residual blocks of each stage, one number per stage, so one fewer than `widths`.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    blocks: tuple[int, ...] = (1, 1, 1)

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths is {self.widths}; it must hold positive channel counts")
        if len(self.blocks) != len(self.widths) - 1 or min(self.blocks, default=1) < 1:
            raise ValueError(
                f"blocks is {self.blocks}; widths {self.widths} need {len(self.widths) - 1} positive numbers"
            )

    def map_size(self, image_size: int) -> int:
        """Side of the trunk's map for a square image."""
        return -(-image_size // 2 ** len(self.widths))

    def trunk(self, dtype: DType, name: str) -> nn.Module:
        """The trunk as a module."""
        return ResNetTrunk(self, dtype, name=name)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and squeeze-and-excitation beside a shortcut, the first one optionally with stride 2.

    Attributes:
        features: Number of output channels.
        stride: Step of the first convolution.
        dtype: Compute dtype.
    """

    features: int
    stride: int = 1
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, maps_BxHxWxC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w features"]:
        """Map BxHxWxC to BxhxwxF, h = ⌈H / stride⌉."""
        conv = partial(ConvNorm, self.features, padding="SAME", activation=silu, dtype=self.dtype)
        residual = conv((3, 3), self.stride, name="conv_1")(maps_BxHxWxC, train)
        residual = conv((3, 3), activation=None, name="conv_2")(residual, train)
        residual = SqueezeExcite(divisible(self.features / 4), self.dtype, name="excite")(residual)
        shortcut = maps_BxHxWxC
        if self.stride != 1 or shortcut.shape[-1] != self.features:
            shortcut = conv((1, 1), self.stride, activation=None, name="shortcut")(shortcut, train)
        return silu(shortcut + residual)


class ResNetTrunk(nn.Module):
    """A stem of one 3×3 convolution and a few stages of residual blocks.

    Attributes:
        config: Size of the trunk.
        dtype: Compute dtype.
    """

    config: ResNetConfig
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, images_BxHxWx3: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w C"]:
        """Map normalised images BxHxWx3 to maps BxhxwxC with C the last of `widths`."""
        stem, *widths = self.config.widths
        maps = ConvNorm(stem, (3, 3), 2, "SAME", silu, dtype=self.dtype, name="stem")(images_BxHxWx3, train)
        for stage, (width, blocks) in enumerate(zip(widths, self.config.blocks, strict=True), start=1):
            for i in range(blocks):
                block = ResidualBlock(width, 2 if i == 0 else 1, self.dtype, name=f"stage_{stage}_{i}")
                maps = block(maps, train)
        return maps
