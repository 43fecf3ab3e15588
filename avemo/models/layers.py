"""Building blocks that several networks share."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Float

TrainingDType = Literal["float32", "bfloat16"]
"""Names of the compute dtypes that a configuration may ask for; parameters are always float32."""

DType = Literal["float32", "bfloat16", "float16"]
"""Those that a network can be run in. None is trained in float16: its gradients would vanish (they end at 6e-8)."""

BATCH_NORM_MOMENTUM = 0.9
"""Share of the running statistics kept at each step; facenet-pytorch's 0.1 in torch's way of counting."""

BATCH_NORM_EPSILON = 1e-3
"""Added to the variance, as in FaceNet's Inception-ResNet-v1."""


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015) as every face network here uses it.

    Values, parameters and running statistics are those of `flax.linen.BatchNorm`, the statistics always float32. Its
    gradient is written out below, which takes fewer passes over the maps. Under `jax.jit` the statistics are those of
    the global batch, so no `axis_name` is needed.

    Attributes:
        train: True normalises by the batch and updates the running statistics, False uses those.
        dtype: Compute dtype of the output.
    """

    train: bool
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, maps_BxHxWxC: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Normalise each channel of BxHxWxC."""
        channels = maps_BxHxWxC.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale_C = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias_C = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        if not self.train:
            rate_C = jax.lax.rsqrt(running_var.value + BATCH_NORM_EPSILON)
            centred = maps_BxHxWxC.astype(jnp.float32) - running_mean.value
            return (centred * (rate_C * scale_C) + bias_C).astype(self.dtype)
        normalised, mean_C, var_C = normalise_by_batch(maps_BxHxWxC, scale_C, bias_C)
        if not self.is_initializing():
            running_mean.value = BATCH_NORM_MOMENTUM * running_mean.value + (1 - BATCH_NORM_MOMENTUM) * mean_C
            running_var.value = BATCH_NORM_MOMENTUM * running_var.value + (1 - BATCH_NORM_MOMENTUM) * var_C
        return normalised.astype(self.dtype)


@jax.custom_vjp
def normalise_by_batch(
    maps_BxHxWxC: Float[Array, "B H W C"], scale_C: Float[Array, " C"], bias_C: Float[Array, " C"]
) -> tuple[Float[Array, "B H W C"], Float[Array, " C"], Float[Array, " C"]]:
    """Normalise each channel by its mean and (biased) variance over the batch.

    It can be differentiated backwards only, and mean and variance, which only the running statistics take, pass no
    gradient on.

    Args:
        maps_BxHxWxC: Input, in any compute dtype.
        scale_C: Factor after normalisation.
        bias_C: Added at last.

    Returns:
        The normalised maps, and the mean and variance of each channel; all float32.
    """
    return _normalise(maps_BxHxWxC, scale_C, bias_C)[0]


def _normalise(maps_BxHxWxC: Array, scale_C: Array, bias_C: Array) -> tuple[Any, Any]:
    """The result, and what its gradient needs."""
    count = maps_BxHxWxC.size // maps_BxHxWxC.shape[-1]
    maps = maps_BxHxWxC.astype(jnp.float32)
    mean_C = channel_sums(maps) / count
    var_C = jnp.maximum(channel_sums(maps**2) / count - mean_C**2, 0)
    rate_C = jax.lax.rsqrt(var_C + BATCH_NORM_EPSILON)
    normalised = (maps - mean_C) * (rate_C * scale_C) + bias_C
    return (normalised, mean_C, var_C), (maps_BxHxWxC, scale_C, mean_C, rate_C)


def _normalise_backward(residuals: Any, gradients: Any) -> tuple[Array, Array, Array]:
    """Gradients of maps, scale and bias (Ioffe and Szegedy 2015, section 3)."""
    maps_BxHxWxC, scale_C, mean_C, rate_C = residuals
    d_normalised, maps = gradients[0], maps_BxHxWxC.astype(jnp.float32)
    count = maps_BxHxWxC.size // maps_BxHxWxC.shape[-1]
    centred, factor_C = maps - mean_C, rate_C * scale_C
    d_bias_C = channel_sums(d_normalised)
    d_scale_C = channel_sums(d_normalised * centred) * rate_C
    d_maps = factor_C * (d_normalised - d_bias_C / count - centred * (rate_C * d_scale_C / count))
    return d_maps.astype(maps_BxHxWxC.dtype), d_scale_C, d_bias_C


normalise_by_batch.defvjp(_normalise, _normalise_backward)


def channel_sums(maps_BxHxWxC: Float[Array, "B H W C"]) -> Float[Array, " C"]:
    """Sum over everything but the channels, float32.

    XLA's CPU compiler takes three times as long for sums as for products with rows of ones, and they are less exact.
    """
    batch, height, width, channels = maps_BxHxWxC.shape
    return jax.lax.platform_dependent(
        maps_BxHxWxC.reshape(batch, height * width, channels),
        cpu=lambda pixels_BxNxC: (jnp.ones((batch, 1, height * width)) @ pixels_BxNxC).sum((0, 1)),
        default=lambda pixels_BxNxC: pixels_BxNxC.sum((0, 1)),
    )


def float32_bias(*arrays: Array | None, dtype: Any = None, inexact: bool = True) -> list[Array | None]:
    """Inputs and kernel in the compute dtype but the bias in float32: a `promote_dtype` for `nn.Conv` and `nn.Dense`.

    A bias' gradient is a sum over all rows and pixels. In bfloat16, whose numbers have 8 bits, such a sum soon stops
    growing: XLA's for CPUs gives 12,000 where 106,000 is right. What the layer returns is float32, too.
    """
    *products, bias = arrays
    return [*promote_dtype(*products, dtype=dtype, inexact=inexact), bias]


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
        if max(strides) > 1:  # by a slice, since indexing gathers where the size of the batch is a symbol
            maps_BxHxWxC = jax.lax.slice(maps_BxHxWxC, (0,) * 4, maps_BxHxWxC.shape, (1, *strides, 1))
        return maps_BxHxWxC @ kernel_hxwxCxF[0, 0]
    return jax.lax.conv_general_dilated(maps_BxHxWxC, kernel_hxwxCxF, strides, padding, **settings)


def convolve_depthwise(
    maps_BxHxWxC: Array, kernel_hxwx1xC: Array, strides: Sequence[int], padding: Any, **settings: Any
) -> Array:
    """`jax.lax.conv_general_dilated` for an `nn.Conv` with a group for each channel.

    XLA's CPU compiler takes a hundred times as long for it as it should; there, the kernel's taps are added up one
    after the other.

    Args:
        maps_BxHxWxC: Input.
        kernel_hxwx1xC: Kernel.
        strides: Steps down and to the right.
        padding: Numbers of pixels around the map: ((above, below), (left, right)).
        settings: What else `nn.Conv` says.

    Returns:
        BxhxwxC.
    """

    def add_taps(maps_BxHxWxC: Array, kernel_hxwx1xC: Array) -> Array:
        padded = jnp.pad(maps_BxHxWxC, ((0, 0), *padding, (0, 0)))
        rows, columns = (
            (size - taps) // stride + 1
            for size, taps, stride in zip(padded.shape[1:3], kernel_hxwx1xC.shape, strides, strict=False)
        )
        down, right = strides
        taps = [
            padded[:, i : i + down * rows : down, j : j + right * columns : right][:, :rows, :columns]
            * kernel_hxwx1xC[i, j, 0]
            for i, j in np.ndindex(kernel_hxwx1xC.shape[:2])
        ]
        return sum(taps[1:], taps[0])

    return jax.lax.platform_dependent(
        maps_BxHxWxC,
        kernel_hxwx1xC,
        cpu=add_taps,
        default=partial(jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **settings),
    )


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation and an activation.

    Attributes:
        features: Number of output channels.
        kernel: Height and width of the kernel.
        stride: Step in both directions.
        padding: "VALID" (none), "SAME", or "CENTRED": as many pixels on either side as the kernel reaches from its
            middle, as torch's networks have it (SAME has fewer above and on the left where the stride is 2).
        activation: What follows; None for nothing.
        depthwise: Whether each channel has a kernel of its own and sees no other; `features` is the input's then.
        dtype: Compute dtype.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: Literal["VALID", "SAME", "CENTRED"] = "VALID"
    activation: Callable[[Array], Array] | None = nn.relu
    depthwise: bool = False
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, maps_BxHxWxC: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w features"]:
        """Map BxHxWxC to BxhxwxF; `train` decides where batch normalisation takes its statistics from."""
        maps_BxHxWxC = nn.Conv(
            self.features,
            self.kernel,
            strides=self.stride,
            padding=[(size // 2, size // 2) for size in self.kernel] if self.padding == "CENTRED" else self.padding,
            feature_group_count=self.features if self.depthwise else 1,
            use_bias=False,
            dtype=self.dtype,
            conv_general_dilated=convolve_depthwise if self.depthwise else convolve,
            name="conv",
        )(maps_BxHxWxC)
        maps_BxHxWxC = BatchNorm(train, self.dtype, name="bn")(maps_BxHxWxC)
        return maps_BxHxWxC if self.activation is None else self.activation(maps_BxHxWxC)


def silu(maps_BxHxWxC: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """SiLU, x · sigmoid(x) (Elfwing et al. 2018), computed in float32 whatever the dtype of the maps."""
    return nn.silu(maps_BxHxWxC.astype(jnp.float32)).astype(maps_BxHxWxC.dtype)


class SqueezeExcite(nn.Module):
    """Each channel scaled by what the mean of all channels says (Hu et al. 2018), with a hard sigmoid.

    Attributes:
        squeezed: Channels in between.
        dtype: Compute dtype.
    """

    squeezed: int
    dtype: DType = "float32"

    @nn.compact
    def __call__(self, maps_BxHxWxC: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Map BxHxWxC to the same shape."""
        dense = partial(nn.Dense, dtype=self.dtype, promote_dtype=float32_bias)
        means_BxC = maps_BxHxWxC.astype(jnp.float32).mean((1, 2))
        hidden = nn.relu(dense(self.squeezed, name="fc1")(means_BxC))
        scale_BxC = nn.hard_sigmoid(dense(maps_BxHxWxC.shape[-1], name="fc2")(hidden))
        return (maps_BxHxWxC.astype(jnp.float32) * scale_BxC[:, None, None]).astype(self.dtype)


def divisible(channels: float) -> int:
    """The nearest multiple of 8 that isn't more than a tenth below, at least 8: torchvision's way of rounding."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
