"""The face network: a trunk, densely connected layers, a 128-d embedding, and linear heads on it."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, UInt8

from avemo.labels import DIMENSIONS, EXPRESSIONS
from avemo.models.densenet import DenseLayer, DenseNetConfig
from avemo.models.inception_resnet import InceptionResNetConfig
from avemo.models.layers import ConvNorm, DType, TrainingDType
from avemo.models.mobilenet import MobileNetConfig
from avemo.models.resnet import ResNetConfig

Trunk = InceptionResNetConfig | ResNetConfig | DenseNetConfig | MobileNetConfig
"""What a face network may stand on. One of these has `map_size(image_size)` and `trunk(dtype, name)`, the module."""

Colours = Literal["rgb", "grey"]
"""What a face network looks at: colours, or their brightness alone."""

BRIGHTNESS = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the brightness of a pixel (ITU-R BT.601), as OpenCV and Pillow have it, too."""

NORM_EPSILON = 1e-12
"""Keeps the gradient of the triplet embedding finite where its squared length is zero."""


@dataclass(frozen=True)
class FaceConfig:
    """Size of a face network; the defaults are the paper's teacher.

    Attributes:
        image_size: Height and width of the face crop in pixels.
        resolution: Height and width to which the network scales the crop down before it looks at it; None leaves it as
            it is. So a student sees the same faces as its teacher at a fraction of the cost.
        colours: "grey" takes the colours out first, so that a network that learned from grey faces sees coloured ones
            alike. The trunk is given three equal channels all the same: published weights want three.
        trunk: The convolutional trunk.
        reduced_channels: Channels of the 1×1 convolution that follows the trunk.
        dense_layers: Number of densely connected layers.
        growth: Channels that each densely connected layer adds.
        embedding_size: Size of the embedding on which every head stands.
        triplet_size: Size of the unit vectors that Google FEC's triplets are judged by.
        dtype: Compute dtype; parameters, batch statistics and all outputs but the maps stay float32.
    """

    image_size: int = 140
    resolution: int | None = None
    colours: Colours = "rgb"
    trunk: Trunk = field(default_factory=InceptionResNetConfig)
    reduced_channels: int = 512
    dense_layers: int = 5
    growth: int = 64
    embedding_size: int = 128
    triplet_size: int = 32
    dtype: TrainingDType = "float32"

    def __post_init__(self) -> None:
        for name in ("reduced_channels", "growth", "embedding_size", "triplet_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.dense_layers < 0:
            raise ValueError(f"dense_layers is {self.dense_layers}; it can't be negative")
        if not 1 <= self.input_size <= self.image_size:
            raise ValueError(f"resolution is {self.resolution}; it must lie within 1 and image_size {self.image_size}")
        if self.trunk.map_size(self.input_size) < 1:
            raise ValueError(f"{self.input_size} pixels are too few: nothing is left of them after {self.trunk}")

    @property
    def input_size(self) -> int:
        """Side of what the trunk is given, in pixels."""
        return self.image_size if self.resolution is None else self.resolution


def normalise(images_BxHxWx3: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """FaceNet's fixed standardisation of RGB values 0 … 255: (x − 127.5) / 128, float32."""
    return (images_BxHxWx3.astype(jnp.float32) - 127.5) / 128


def grey(images_BxHxWx3: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """The brightness of each pixel (see `BRIGHTNESS`) in all three channels."""
    brightness_BxHxWx1 = (images_BxHxWx3 * jnp.array(BRIGHTNESS)).sum(-1, keepdims=True)
    return jnp.broadcast_to(brightness_BxHxWx1, images_BxHxWx3.shape)


class FaceNetwork(nn.Module):
    """Expression embedding and its heads (the paper's teacher; with another configuration, a student).

    Attributes:
        config: Size of the network.
        dtype: Compute dtype; None takes the configuration's.
    """

    config: FaceConfig
    dtype: DType | None = None

    @nn.compact
    def __call__(
        self, images_BxHxWx3: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"], train: bool
    ) -> dict[str, Float[Array, "..."]]:
        """Run the network and return what it computes on the way too, as distillation wants it.

        Args:
            images_BxHxWx3: RGB face crops with values 0 … 255, uint8 or float, of the configured size.
            train: True lets batch normalisation use the batch (and update "batch_stats").

        Returns:
            Maps in the compute dtype, BxHxWxC: "trunk_map", "reduced_map", "dense_map", "embedding_map".
            Float32: "embedding" BxD; "triplet" Bx32, unit vectors; "expression" Bx8, logits in the order of
            `avemo.labels.EXPRESSIONS`; "valence_arousal" Bx2 within [-1, 1] (this head, with its tanh, is our
            addition).

        Raises:
            ValueError: If the images aren't of the configured size.
        """
        config = self.config
        if images_BxHxWx3.shape[1:] != (config.image_size, config.image_size, 3):
            raise ValueError(
                f"images have shape {images_BxHxWx3.shape}; expected (batch, {config.image_size}, "
                f"{config.image_size}, 3)"
            )
        dtype = self.dtype or config.dtype
        images_BxHxWx3 = normalise(images_BxHxWx3)
        if config.colours == "grey":
            images_BxHxWx3 = grey(images_BxHxWx3)
        if config.input_size != config.image_size:
            shape = (images_BxHxWx3.shape[0], config.input_size, config.input_size, 3)
            images_BxHxWx3 = jax.image.resize(images_BxHxWx3, shape, "linear")  # with antialiasing
        images_BxHxWx3 = images_BxHxWx3.astype(dtype)

        trunk_map = config.trunk.trunk(dtype, name="trunk")(images_BxHxWx3, train)
        reduced_map = ConvNorm(config.reduced_channels, dtype=dtype, name="reduce")(trunk_map, train)
        dense_map = reduced_map
        for i in range(config.dense_layers):
            dense_map = DenseLayer(config.growth, dtype, name=f"dense_{i}")(dense_map, train)
        embedding_map = ConvNorm(config.embedding_size, dtype=dtype, name="embed")(dense_map, train)
        embedding_BxD = embedding_map.astype(jnp.float32).mean(axis=(1, 2))

        triplet = nn.Dense(config.triplet_size, name="triplet")(embedding_BxD)
        length_squared = jnp.sum(triplet**2, axis=-1, keepdims=True)
        return {
            "trunk_map": trunk_map,
            "reduced_map": reduced_map,
            "dense_map": dense_map,
            "embedding_map": embedding_map,
            "embedding": embedding_BxD,
            "triplet": triplet * jax.lax.rsqrt(length_squared + NORM_EPSILON),
            "expression": nn.Dense(len(EXPRESSIONS), name="expression")(embedding_BxD),
            "valence_arousal": jnp.tanh(nn.Dense(len(DIMENSIONS), name="valence_arousal")(embedding_BxD)),
        }


def init_variables(network: FaceNetwork, key: Key[Array, ""], trunk: Any = None) -> Any:
    """Fresh "params" and "batch_stats" of a face network, of which the trunk's may be given, see `check_trunk`."""
    size = network.config.image_size
    variables = dict(network.init(key, jnp.zeros((1, size, size, 3), jnp.uint8), train=False))
    return variables if trunk is None else {name: part | {"trunk": trunk[name]} for name, part in variables.items()}


def variable_shapes(network: FaceNetwork) -> Any:
    """Shapes and dtypes of what `init_variables` makes; nothing is computed."""
    return jax.eval_shape(lambda: init_variables(network, jax.random.key(0)))


def trunk_shapes(network: FaceNetwork) -> dict[str, Any]:
    """Those of the trunk alone, "params" and "batch_stats"."""
    return {name: part["trunk"] for name, part in variable_shapes(network).items()}


def check_trunk(network: FaceNetwork, trunk: Any) -> None:
    """Raise ValueError unless the arrays are "params" and "batch_stats" of the network's trunk."""
    if jax.tree.map(jnp.shape, trunk) != jax.tree.map(jnp.shape, trunk_shapes(network)):
        raise ValueError(f"the trunk given is none of {network.config.trunk}")


PAPER_TEACHER = FaceConfig()
"""The paper's teacher. 15,555,626 parameters; one image takes 2.02 GFLOPs (two per multiply-add)."""

MOBILE_STUDENT = FaceConfig(trunk=MobileNetConfig("large"), reduced_channels=128, dense_layers=0)
"""MobileNetV3-Large for the teacher's pictures (our choice). 3,117,146 parameters, 202 MFLOPs."""

DENSENET_STUDENT = FaceConfig(trunk=DenseNetConfig(), reduced_channels=128, dense_layers=0)
"""DenseNet-121 for the teacher's pictures (our choice). 7,107,242 parameters, 2.04 GFLOPs."""

SMALL_TEACHER = FaceConfig(
    image_size=48,
    colours="grey",
    trunk=ResNetConfig(widths=(32, 64, 128, 256), blocks=(2, 2, 1)),
    reduced_channels=128,
    dense_layers=0,
)
"""A residual teacher for 48 grey pixels and two CPU cores (our choice). 1,686,378 parameters, 78.4 MFLOPs."""

SMALL_STUDENT = FaceConfig(
    image_size=48,
    colours="grey",
    trunk=ResNetConfig(widths=(12, 24, 40, 104), blocks=(1, 2, 1)),
    reduced_channels=64,
    dense_layers=0,
)
"""A residual student with less than a tenth of its operations (our choice). 230,182 parameters, 7.8 MFLOPs."""

TINY_STUDENT = FaceConfig(
    image_size=48,
    colours="grey",
    trunk=ResNetConfig(widths=(8, 16, 24, 48)),
    reduced_channels=64,
    dense_layers=0,
)
"""A smaller one (our choice). 64,986 parameters, 2.5 MFLOPs."""

DEMO_TEACHER = FaceConfig(
    image_size=40,
    trunk=InceptionResNetConfig(width=0.1875, blocks=(1, 1), stem_pool=False),
    reduced_channels=128,
    dense_layers=2,
    growth=16,
)
"""Smaller still, for the demo's 40 pixels (our choice). 329,946 parameters, 8.3 MFLOPs."""

DEMO_STUDENT = replace(TINY_STUDENT, image_size=40, colours="rgb")
"""A residual student for the demo's teacher (our choice). 64,986 parameters, 1.9 MFLOPs."""
