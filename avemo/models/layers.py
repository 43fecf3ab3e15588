"""Building blocks that several networks share."""

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Float

DType = Literal["float32", "bfloat16"]
"""Names of the compute dtypes that a configuration may ask for; parameters are always float32."""

BATCH_NORM_MOMENTUM = 0.9
"""Share of the running statistics kept at each step; facenet-pytorch's 0.1 in torch's way of counting."""

BATCH_NORM_EPSILON = 1e-3
"""Added to the variance, as in FaceNet's Inception-ResNet-v1."""


def batch_norm(train: bool, dtype: DType, name: str | None = None) -> nn.BatchNorm:
    """Batch normalisation as every face network here uses it; its statistics are always float32.

    Args:
        train: True normalises by the batch and updates the running statistics, False uses those.
        dtype: Compute dtype of the output.
        name: Name of the submodule.

    Returns:
        The module, to be called inside a compact method. Under `jax.jit` its statistics are those of the
        global batch, so no `axis_name` is needed.
    """
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=BATCH_NORM_MOMENTUM,
        epsilon=BATCH_NORM_EPSILON,
        dtype=dtype,
        name=name,
    )


def convolve(
    maps_BxHxWxC: Array, kernel_hxwxCxF: Array, strides: Sequence[int], padding: Any, **settings: Any
) -> Array:
    """`jax.lax.conv_general_dilated` for `nn.Conv`, but a kernel of 1×1 as what it is, a matrix product.

    XLA's CPU compiler takes several times as long for the kernel's gradient where it's told of a convolution.

    Args:
        maps_BxHxWxC: Input.
        kernel_hxwxCxF: Kernel.
        strides: Steps down and to the right.
        padding: "VALID", "SAME" or numbers of pixels; none of a 1×1 kernel's users gives numbers.
        settings: What else `nn.Conv` says, for kernels that aren't 1×1.

    Returns:
        BxhxwxF.
    """
    if kernel_hxwxCxF.shape[:2] == (1, 1):
        return maps_BxHxWxC[:, :: strides[0], :: strides[1]] @ kernel_hxwxCxF[0, 0]
    return jax.lax.conv_general_dilated(maps_BxHxWxC, kernel_hxwxCxF, strides, padding, **settings)


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation and (unless switched off) ReLU.

    Attributes:
        features: Number of output channels.
        kernel: Height and width of the kernel.
        stride: Step in both directions.
        padding: "VALID" (none) or "SAME".
        relu: Whether a ReLU follows.
        dtype: Compute dtype.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: Literal["VALID", "SAME"] = "VALID"
    relu: bool = True
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, maps_BxHxWxC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w features"]:
        """Map BxHxWxC to BxhxwxF; `train` decides where batch normalisation takes its statistics from."""
        maps_BxHxWxC = nn.Conv(
            self.features,
            self.kernel,
            strides=self.stride,
            padding=self.padding,
            use_bias=False,
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name="conv",
        )(maps_BxHxWxC)
        maps_BxHxWxC = batch_norm(train, self.dtype, name="bn")(maps_BxHxWxC)
        return nn.relu(maps_BxHxWxC) if self.relu else maps_BxHxWxC
