"""Our networks once more in PyTorch, with our weights: what the parity tests and the benchmarks compare with.

Whoever imports this needs torch (extra "benchmark"). Submodules bear the names of ours, so that weights find their
places by name. Inputs and vectors have the shapes of ours; maps are BxCxHxW, as torch wants them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from avemo.labels import DIMENSIONS, EXPRESSIONS
from avemo.log_mel import LOG_MEAN, LOG_SCALE, POWER_FLOOR, LogMelConfig, mel_filters
from avemo.models.audio import AudioConfig
from avemo.models.face import BRIGHTNESS, NORM_EPSILON, FaceConfig
from avemo.models.fusion import SMALLEST_SPREAD, FusionConfig, initial_carry
from avemo.models.inception_resnet import InceptionResNetConfig
from avemo.models.layers import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, divisible
from avemo.models.recurrent import RecurrentConfig
from avemo.models.resnet import ResNetConfig
from avemo.stages.fusion import DELAY

LAYER_NORM_EPSILON = 1e-6
"""Flax's default, which ours have; torch's would be 1e-5."""


def load(twin: nn.Module, variables: Mapping[str, Any]) -> None:
    """Give a twin the weights of our network.

    Args:
        twin: A module of this file.
        variables: Of the module it is the twin of: "params", and "batch_stats" where it has some.

    Raises:
        RuntimeError: They belong to another network.
    """
    params = {name: value for name, value in variables["params"].items() if name != DELAY}  # no part of the network
    state = torch_state(params) | torch_state(variables.get("batch_stats", {}))
    counters = {name: value for name, value in twin.state_dict().items() if name.endswith("num_batches_tracked")}
    twin.load_state_dict(state | counters)


def torch_state(variables: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    """Parameters or running statistics under the names of the twins and with torch's order of axes."""
    if "recurrent_0" in variables:
        return {prefix + name: value for name, value in _recurrent_state(variables).items()}
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    state: dict[str, Tensor] = {}
    for name, value in variables.items():
        if isinstance(value, Mapping):
            state |= torch_state(value, prefix + re.sub(r"^(branch\d)_", r"\1.", name) + ".")
        else:
            array = np.asarray(value)
            if name == "kernel":  # taps, inputs, outputs -> outputs, inputs, taps
                array = array.transpose(-1, -2, *range(array.ndim - 2))
            state[prefix + names.get(name, name)] = torch.from_numpy(array.copy())
    return state


def _recurrent_state(params: Mapping[str, Any]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for i in range(sum(name.startswith("recurrent_") for name in params)):
        input_bias = np.asarray(params[f"input_{i}"]["bias"])
        recurrent_bias = np.zeros_like(input_bias)
        if f"new_bias_{i}" in params:
            new_bias = np.asarray(params[f"new_bias_{i}"])
            recurrent_bias[-len(new_bias) :] = new_bias
        arrays = {
            "weight_ih": np.asarray(params[f"input_{i}"]["kernel"]).T,
            "weight_hh": np.asarray(params[f"recurrent_{i}"]).T,
            "bias_ih": input_bias,
            "bias_hh": recurrent_bias,
        }
        state |= {f"{name}_l{i}": torch.from_numpy(array.copy()) for name, array in arrays.items()}
    return state


def recurrent(inputs: int, config: RecurrentConfig) -> nn.LSTM | nn.GRU:
    """Twin of `avemo.models.recurrent.Recurrent`."""
    kind = nn.LSTM if config.kind == "lstm" else nn.GRU
    return kind(inputs, config.features, config.layers, batch_first=True)


class Conv(nn.Conv2d):
    """Convolution that pads as ours: "VALID" not at all; "SAME" with one pixel more at the end where it's uneven."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int, padding: str, bias: bool = False
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, bias=bias)
        self.same = padding == "SAME"

    def forward(self, maps: Tensor) -> Tensor:
        """Map BxCxHxW to BxDxhxw."""
        if not self.same:
            return super().forward(maps)
        (top, bottom), (left, right) = map(_same_padding, maps.shape[2:], self.kernel_size, self.stride)
        if (top, left) == (bottom, right):
            return functional.conv2d(maps, self.weight, self.bias, self.stride, (top, left))
        return super().forward(functional.pad(maps, (left, right, top, bottom)))


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    padding = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return padding // 2, padding - padding // 2


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Twin of `avemo.models.layers.BatchNorm`, but that torch keeps the unbiased variance, n / (n - 1) of ours."""
    return nn.BatchNorm2d(channels, BATCH_NORM_EPSILON, momentum=1 - BATCH_NORM_MOMENTUM)


class ConvNorm(nn.Module):
    """Twin of `avemo.models.layers.ConvNorm`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        padding: str = "VALID",
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.conv = Conv(inputs, outputs, kernel, stride, padding)
        self.bn = batch_norm(outputs)
        self.activation = activation(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """Map BxCxHxW to BxDxhxw."""
        return self.activation(self.bn(self.conv(maps)))


def chain(inputs: int, *convs: tuple[Any, ...]) -> nn.Sequential:
    """`ConvNorm`s one after the other; of each, the arguments that follow the number of its inputs."""
    channels = [inputs, *(conv[0] for conv in convs)]
    return nn.Sequential(*(ConvNorm(size, *conv) for size, conv in zip(channels[:-1], convs, strict=True)))


class Branches(nn.Module):
    """Branches "branch0", "branch1" … of the same input, joined along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.count = len(branches)
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)

    def forward(self, maps: Tensor) -> Tensor:
        """Map BxCxHxW to BxDxhxw."""
        return torch.cat([self.get_submodule(f"branch{i}")(maps) for i in range(self.count)], dim=1)


class Residual(Branches):
    """Twin of the blocks of `avemo.models.inception_resnet` that leave the shape as it is."""

    def __init__(self, channels: int, joined: int, scale: float, *branches: nn.Module) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.scale = scale

    def forward(self, maps: Tensor) -> Tensor:
        """Map BxCxHxW to the same shape."""
        return torch.relu(maps + self.scale * self.conv2d(super().forward(maps)))


def block35(config: InceptionResNetConfig) -> Residual:
    """Twin of `avemo.models.inception_resnet.Block35`."""
    channels, width = config.channels(256), config.channels(32)
    one, three = (width,), (width, (3, 3), 1, "SAME")
    return Residual(
        channels,
        3 * width,
        0.17,
        ConvNorm(channels, width),
        chain(channels, one, three),
        chain(channels, one, three, three),
    )


def block17(config: InceptionResNetConfig, channels: int) -> Residual:
    """Twin of `avemo.models.inception_resnet.Block17`."""
    width = config.channels(128)
    tall = chain(channels, (width,), (width, (1, 7), 1, "SAME"), (width, (7, 1), 1, "SAME"))
    return Residual(channels, 2 * width, 0.10, ConvNorm(channels, width), tall)


def inception_resnet(config: InceptionResNetConfig) -> tuple[nn.Sequential, int]:
    """Twin of `avemo.models.inception_resnet.InceptionResNetTrunk`, and the number of its outputs."""
    width = config.channels
    stem = width(256)
    middle = width(384) + width(256) + stem
    layers: dict[str, nn.Module] = {
        "conv2d_1a": ConvNorm(3, width(32), (3, 3), 2),
        "conv2d_2a": ConvNorm(width(32), width(32), (3, 3)),
        "conv2d_2b": ConvNorm(width(32), width(64), (3, 3), 1, "SAME"),
        **({"maxpool_3a": nn.MaxPool2d(3, 2)} if config.stem_pool else {}),
        "conv2d_3b": ConvNorm(width(64), width(80)),
        "conv2d_4a": ConvNorm(width(80), width(192), (3, 3)),
        "conv2d_4b": ConvNorm(width(192), stem, (3, 3), 2),
        **{f"repeat_1_{i}": block35(config) for i in range(config.blocks[0])},
        "mixed_6a": Branches(
            ConvNorm(stem, width(384), (3, 3), 2),
            chain(stem, (width(192),), (width(192), (3, 3), 1, "SAME"), (width(256), (3, 3), 2)),
            nn.MaxPool2d(3, 2),
        ),
        **{f"repeat_2_{i}": block17(config, middle) for i in range(config.blocks[1])},
        "mixed_7a": Branches(
            chain(middle, (width(256),), (width(384), (3, 3), 2)),
            chain(middle, (width(256),), (width(256), (3, 3), 2)),
            chain(middle, (width(256),), (width(256), (3, 3), 1, "SAME"), (width(256), (3, 3), 2)),
            nn.MaxPool2d(3, 2),
        ),
    }
    trunk = nn.Sequential()
    for name, layer in layers.items():
        trunk.add_module(name, layer)
    return trunk, width(384) + 2 * width(256) + middle


class SqueezeExcite(nn.Module):
    """Twin of `avemo.models.layers.SqueezeExcite` as the residual blocks have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, divisible(channels / 4))
        self.fc2 = nn.Linear(self.fc1.out_features, channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Map BxCxHxW to the same shape."""
        scale = functional.hardsigmoid(self.fc2(functional.relu(self.fc1(maps.mean((2, 3))))))
        return maps * scale[:, :, None, None]


class ResidualBlock(nn.Module):
    """Twin of `avemo.models.resnet.ResidualBlock`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_1 = ConvNorm(inputs, outputs, (3, 3), stride, "SAME", nn.SiLU)
        self.conv_2 = ConvNorm(outputs, outputs, (3, 3), 1, "SAME", nn.Identity)
        self.excite = SqueezeExcite(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = ConvNorm(inputs, outputs, (1, 1), stride, "SAME", nn.Identity)

    def forward(self, maps: Tensor) -> Tensor:
        """Map BxCxHxW to BxDxhxw."""
        return functional.silu(self.shortcut(maps) + self.excite(self.conv_2(self.conv_1(maps))))


def resnet(config: ResNetConfig) -> tuple[nn.Sequential, int]:
    """Twin of `avemo.models.resnet.ResNetTrunk`, and the number of its outputs."""
    channels, *widths = config.widths
    trunk = nn.Sequential()
    trunk.add_module("stem", ConvNorm(3, channels, (3, 3), 2, "SAME", nn.SiLU))
    for stage, (width, blocks) in enumerate(zip(widths, config.blocks, strict=True), start=1):
        for i in range(blocks):
            trunk.add_module(f"stage_{stage}_{i}", ResidualBlock(channels, width, 2 if i == 0 else 1))
            channels = width
    return trunk, channels


class DenseLayer(nn.Module):
    """Twin of `avemo.models.densenet.DenseLayer`."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn_1, self.bn_2 = batch_norm(inputs), batch_norm(4 * growth)
        self.conv_1 = Conv(inputs, 4 * growth, (1, 1), 1, "VALID")
        self.conv_2 = Conv(4 * growth, growth, (3, 3), 1, "SAME")

    def forward(self, maps: Tensor) -> Tensor:
        """Map BxCxHxW to Bx(C + growth)xHxW."""
        new = self.conv_1(functional.relu(self.bn_1(maps), inplace=True))
        new = self.conv_2(functional.relu(self.bn_2(new), inplace=True))
        return torch.cat([maps, new], dim=1)


class FaceNetwork(nn.Module):
    """Twin of `avemo.models.face.FaceNetwork`."""

    def __init__(self, config: FaceConfig) -> None:
        super().__init__()
        trunk, self.grey = config.trunk, config.colours == "grey"
        if not isinstance(trunk, InceptionResNetConfig | ResNetConfig):
            raise TypeError(f"{trunk} has no twin")
        self.trunk, channels = inception_resnet(trunk) if isinstance(trunk, InceptionResNetConfig) else resnet(trunk)
        self.reduce = ConvNorm(channels, config.reduced_channels)
        channels = config.reduced_channels
        self.dense = [f"dense_{i}" for i in range(config.dense_layers)]
        for name in self.dense:
            self.add_module(name, DenseLayer(channels, config.growth))
            channels += config.growth
        self.embed = ConvNorm(channels, config.embedding_size)
        self.triplet = nn.Linear(config.embedding_size, config.triplet_size)
        self.expression = nn.Linear(config.embedding_size, len(EXPRESSIONS))
        self.valence_arousal = nn.Linear(config.embedding_size, len(DIMENSIONS))

    def forward(self, images_BxHxWx3: Tensor) -> dict[str, Tensor]:
        """Run the network.

        Args:
            images_BxHxWx3: RGB with values 0 … 255, uint8 or float; as it lies in memory, it is channels-last already.

        Returns:
            What ours returns, but the maps BxCxHxW.
        """
        images = (images_BxHxWx3.permute(0, 3, 1, 2).float() - 127.5) / 128
        if self.grey:
            images = (images * images.new_tensor(BRIGHTNESS)[:, None, None]).sum(1, keepdim=True).expand_as(images)
        trunk_map = self.trunk(images)
        reduced_map = self.reduce(trunk_map)
        dense_map = reduced_map
        for name in self.dense:
            dense_map = self.get_submodule(name)(dense_map)
        embedding_map = self.embed(dense_map)
        with torch.autocast(images.device.type, enabled=False):  # float32 from here, as ours
            embedding = embedding_map.float().mean(dim=(2, 3))
            triplet = self.triplet(embedding)
            return {
                "trunk_map": trunk_map,
                "reduced_map": reduced_map,
                "dense_map": dense_map,
                "embedding_map": embedding_map,
                "embedding": embedding,
                "triplet": triplet * torch.rsqrt(triplet.square().sum(-1, keepdim=True) + NORM_EPSILON),
                "expression": self.expression(embedding),
                "valence_arousal": torch.tanh(self.valence_arousal(embedding)),
            }


class LogMel(nn.Module):
    """Twin of `avemo.log_mel.log_mel`."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        window = torch.hann_window(config.window_size, periodic=True, dtype=torch.float64)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("filters", torch.from_numpy(mel_filters(config)).float(), persistent=False)

    def forward(self, waveform_BxN: Tensor, before_BxP: Tensor) -> Tensor:
        """Map sound BxN, and the samples before it, to BxSxM."""
        window, hop = self.config.window_size, self.config.hop_size
        steps = waveform_BxN.shape[1] // hop
        framed_BxSxW = torch.cat([before_BxP, waveform_BxN], dim=1).unfold(1, window, hop)[:, :steps]
        spectrum = torch.fft.rfft(framed_BxSxW * self.window, self.config.fft_size)
        power = spectrum.real.square() + spectrum.imag.square()
        return (torch.log((power @ self.filters).clamp(min=POWER_FLOOR)) - LOG_MEAN) / LOG_SCALE


class AudioEncoder(nn.Module):
    """Twin of `avemo.models.audio.AudioEncoder`."""

    def __init__(self, config: AudioConfig, mel_bands: int) -> None:
        super().__init__()
        self.config = config
        for i, inputs in enumerate((mel_bands, config.features)):
            self.add_module(f"conv_{i}", nn.Conv1d(inputs, config.features, 3, 2))
            self.add_module(f"norm_{i}", layer_norm(config.features))
        for i, dilation in enumerate(config.dilations):
            self.add_module(f"temporal_norm_{i}", layer_norm(config.features))
            self.add_module(f"temporal_{i}", nn.Conv1d(config.features, config.features, 3, dilation=dilation))
        self.norm = layer_norm(config.features)

    def forward(self, log_mel_BxSxM: Tensor, carry: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Map BxSxM to BxTxD, with what each convolution needs of the steps before, and return what comes after."""
        before, after = iter(carry), []

        def convolve(name: str, new_BxTxD: Tensor) -> Tensor:
            kept_BxPxD = next(before)
            whole_BxTxD = torch.cat([kept_BxPxD.to(new_BxTxD.dtype), new_BxTxD], dim=1)
            after.append(whole_BxTxD[:, whole_BxTxD.shape[1] - kept_BxPxD.shape[1] :])
            return self.get_submodule(name)(whole_BxTxD.transpose(1, 2)).transpose(1, 2)

        frames = log_mel_BxSxM
        for i in range(2):
            frames = functional.relu(self.get_submodule(f"norm_{i}")(convolve(f"conv_{i}", frames)))
        for i in range(len(self.config.dilations)):
            new = functional.relu(self.get_submodule(f"temporal_norm_{i}")(frames))
            frames = frames + convolve(f"temporal_{i}", new)
        return self.norm(frames), after


def layer_norm(features: int) -> nn.LayerNorm:
    """Twin of our layer normalisation."""
    return nn.LayerNorm(features, LAYER_NORM_EPSILON)


class Modality(nn.Module):
    """Twin of `avemo.models.fusion.Modality`."""

    def __init__(self, inputs: int, features: int) -> None:
        super().__init__()
        self.norm = layer_norm(inputs)
        self.project = nn.Linear(inputs, features)
        self.missing = nn.Parameter(torch.zeros(features))

    def forward(self, frames_BxTxD: Tensor, valid_BxT: Tensor) -> Tensor:
        """Map BxTxD to BxTxF."""
        valid_BxTx1 = valid_BxT[..., None]
        frames = self.norm(torch.where(valid_BxTx1, frames_BxTxD, 0))
        frames = functional.relu(self.project(frames))
        return torch.where(valid_BxTx1, frames, self.missing.to(frames.dtype))


class FusionCarry(NamedTuple):
    """Twin of `avemo.models.fusion.FusionCarry`; None is a recurrent core at rest."""

    sound: Tensor
    audio: list[Tensor]
    recurrent: Any


class FusionNetwork(nn.Module):
    """Twin of `avemo.models.fusion.FusionNetwork`; the recurrent core is torch's own."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config.log_mel)
        self.audio = AudioEncoder(config.audio, config.log_mel.mel_bands)
        self.face = Modality(config.face_size, config.projection)
        self.voice = Modality(config.audio.features, config.projection)
        self.dropout = nn.Dropout(config.dropout)
        self.recurrent = recurrent(2 * config.projection, config.recurrent)
        self.valence_arousal = nn.Linear(config.recurrent.features, len(DIMENSIONS))
        self.spread = nn.Linear(config.recurrent.features, len(DIMENSIONS))

    def forward(
        self,
        face_BxTxD: Tensor,
        face_valid_BxT: Tensor,
        waveform_BxN: Tensor,
        voice_valid_BxT: Tensor,
        carry: FusionCarry | None = None,
    ) -> dict[str, Any]:
        """Predict valence and arousal, and their spread, BxTx2 each; "carry" is for the frames that follow."""
        carry = carry or self.initial_carry(len(waveform_BxN), waveform_BxN.device)
        log_mel = self.log_mel(waveform_BxN, carry.sound)
        last_sound = torch.cat([carry.sound, waveform_BxN], dim=1)[:, waveform_BxN.shape[1] :]
        audio, audio_carry = self.audio(log_mel, carry.audio)
        voice = self.voice(audio, voice_valid_BxT)
        fused = self.dropout(torch.cat([self.face(face_BxTxD, face_valid_BxT), voice], dim=-1))
        with torch.autocast(waveform_BxN.device.type, enabled=False):  # float32 from here, as ours
            hidden, recurrent_carry = self.recurrent(fused.float(), carry.recurrent)
            hidden = self.dropout(hidden)
            return {
                "valence_arousal": torch.tanh(self.valence_arousal(hidden)),
                "spread": functional.softplus(self.spread(hidden.detach())) + SMALLEST_SPREAD,
                "carry": FusionCarry(last_sound, audio_carry, recurrent_carry),
            }

    def initial_carry(self, batch: int, device: torch.device) -> FusionCarry:
        """Silence, and networks at rest."""
        ours = initial_carry(self.config, batch)
        zeros = lambda value: torch.zeros(value.shape, device=device)
        return FusionCarry(zeros(ours.sound), [zeros(state) for state in ours.audio], None)
