"""DenseNet (Huang et al. 2017): every layer sees the maps of all layers of its block before it.

Layers, transitions and stem are those of torchvision's `densenet121` and its like, so that weights in its naming can be
converted one by one.
"""

from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from avemo.models.layers import BatchNorm, ConvNorm, DType, convolve


@dataclass(frozen=True)
class DenseNetConfig:
    """Size of the trunk; the defaults are DenseNet-121 without its classifier, 6.95 M parameters.

    Attributes:
        growth: Channels that each layer adds.
        blocks: Layers of each dense block; between two blocks the channels and the side of the map are halved.
        stem_channels: Channels of the first convolution.
        large_stem: Whether it is 7×7 with stride 2, a max-pooling following, as published; or else 3×3 with stride 1,
            as the paper has it for pictures of 32 pixels.
    """

    growth: int = 32
    blocks: tuple[int, ...] = (6, 12, 24, 16)
    stem_channels: int = 64
    large_stem: bool = True

    def __post_init__(self) -> None:
        if not self.blocks or min(self.growth, self.stem_channels, *self.blocks) < 1:
            raise ValueError(f"growth, stem_channels and blocks must be positive: {self}")

    def map_size(self, image_size: int) -> int:
        """Side of the trunk's map for a square image."""
        if self.large_stem:
            image_size = -(-image_size // 2)
            image_size = -(-image_size // 2)
        return image_size // 2 ** (len(self.blocks) - 1)

    def trunk(self, dtype: DType, name: str) -> nn.Module:
        """The trunk as a module."""
        return DenseNetTrunk(self, dtype, name=name)


class DenseLayer(nn.Module):
    """BN-ReLU-1×1 to four times the growth, BN-ReLU-3×3, appended to the input.

    Attributes:
        growth: Number of channels added.
        dtype: Compute dtype.
    """

    growth: int
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, maps_BxHxWxC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B H W D"]:
        """Map BxHxWxC to BxHxWx(C + growth)."""
        new = nn.relu(BatchNorm(train, self.dtype, name="bn_1")(maps_BxHxWxC))
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype, conv_general_dilated=convolve)
        new = conv(4 * self.growth, (1, 1), name="conv_1")(new)
        new = nn.relu(BatchNorm(train, self.dtype, name="bn_2")(new))
        new = conv(self.growth, (3, 3), name="conv_2")(new)
        return jnp.concatenate([maps_BxHxWxC, new], axis=-1)


class DenseNetTrunk(nn.Module):
    """A stem and dense blocks with transitions between them, normalised at the end.

    Attributes:
        config: Size of the trunk.
        dtype: Compute dtype.
    """

    config: DenseNetConfig
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, images_BxHxWx3: Float[Array, "B H W 3"], train: bool) -> Float[Array, "B h w C"]:
        """Map normalised images BxHxWx3 to maps BxhxwxC."""
        config = self.config
        kernel, stride = ((7, 7), 2) if config.large_stem else ((3, 3), 1)
        stem = ConvNorm(config.stem_channels, kernel, stride, "CENTRED", dtype=self.dtype, name="stem")
        maps = stem(images_BxHxWx3, train)
        if config.large_stem:
            maps = nn.max_pool(maps, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)])
        for block, layers in enumerate(config.blocks):
            if block:
                norm = BatchNorm(train, self.dtype, name=f"transition_{block}_bn")
                halved = nn.Conv(
                    maps.shape[-1] // 2,
                    (1, 1),
                    use_bias=False,
                    dtype=self.dtype,
                    conv_general_dilated=convolve,
                    name=f"transition_{block}_conv",
                )
                maps = nn.avg_pool(halved(nn.relu(norm(maps))), (2, 2), strides=(2, 2))
            for i in range(layers):
                maps = DenseLayer(config.growth, self.dtype, name=f"dense_{block}_{i}")(maps, train)
        return nn.relu(BatchNorm(train, self.dtype, name="bn")(maps))
