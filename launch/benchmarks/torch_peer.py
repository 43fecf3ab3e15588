"""PyTorch's side of the measurement: the twins' training steps, and the proof that they are twins.

Whoever imports this needs torch (extra "benchmark").
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor, nn

from avemo.models.face import FaceNetwork
from avemo.models.fusion import FusionConfig, FusionNetwork
from avemo.stages.fusion import FusionTraining
from avemo.stages.student import Distillation
from launch.benchmarks import torch_training, torch_twins
from launch.benchmarks.our_step import OurRecurrent
from launch.benchmarks.streaming import STEP, WHOLE, OurRecordings, OurStreamStep
from launch.benchmarks.torch_training import Step
from launch.benchmarks.workload import CLASS_WEIGHTS, Workload
from launch.errors import LaunchError

TOLERANCE = 1e-4
"""Largest difference between our outputs and the twin's, as a share of the largest output; both compute in float32."""

EXAMPLES = 2
"""Examples that twins are compared on."""


def absence() -> str | None:
    """Why PyTorch can't be measured beside JAX, if it can't."""
    platform = jax.default_backend()
    if platform == "gpu" and not torch.cuda.is_available():
        return "this PyTorch can't use the GPU"
    return None if platform in ("cpu", "gpu") else f"PyTorch isn't measured on {platform}"


def device() -> str:
    """The device that JAX uses, by torch's name."""
    return "cuda" if jax.default_backend() == "gpu" else "cpu"


def settings(dtype: str) -> dict[str, str]:
    """How the twins run, for the file of results."""
    return {
        "device": device(),
        "layout": "channels last",
        "precision": "bfloat16 autocast, parameters float32" if dtype == "bfloat16" else "float32",
        "products of float32": "TF32" if device() == "cuda" else "float32",
        "compiler": "torch.compile" if device() == "cuda" else "none (eager)",
        "threads": str(torch.get_num_threads()),
    }


def allow_tf32(allowed: bool) -> None:
    """Let CUDA round the factors of float32 products to TF32, as JAX does at its default precision, or not."""
    if device() == "cuda":
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cudnn.benchmark = True  # tries algorithms for convolutions, as XLA does


class TorchStep:
    """The twin of a training step, ready to run.

    On a GPU the loss, with augmentation and network, is compiled by torch.compile; on a CPU it runs as it is.

    Attributes:
        seconds: What the first step took: compiling, where there is a compiler.
    """

    def __init__(self, work: Workload, variables: Mapping[str, Any]) -> None:
        config, where = work.config, device()
        self.batch = torch_training.to_tensors(work.batch, where)
        weights = torch.from_numpy(CLASS_WEIGHTS).to(where)
        bfloat16 = config.network.dtype == "bfloat16"

        def wrapper(loss_of: Step) -> Step:
            def loss(batch: Mapping[str, Any]) -> Tensor:
                with torch.autocast(where, torch.bfloat16, enabled=bfloat16):
                    return loss_of(batch)

            return torch.compile(loss) if where == "cuda" else loss

        network = placed(twin(config.network), variables).train()
        if isinstance(config, FusionTraining):
            self.step = torch_training.fusion_step(network, config, wrapper)
        elif isinstance(config, Distillation) and work.taught_by:
            teacher = placed(twin(work.taught_by.network), work.stage.frozen[0][0]).eval()
            sizes = config.network.embedding_size, work.taught_by.network.embedding_size
            projection = nn.Linear(*sizes, device=where)
            self.step = torch_training.student_step(network, teacher, projection, config, weights, wrapper)
        else:
            self.step = torch_training.teacher_step(network, config, weights, wrapper)
        self.seconds = self(1)

    def __call__(self, steps: int) -> float:
        """Do steps with a batch that lies on the device. Returns the seconds they took."""
        allow_tf32(True)
        start = time.perf_counter()
        for _ in range(steps):
            self.step(self.batch)
        synchronize()
        return time.perf_counter() - start


class TorchRecurrent:
    """`nn.LSTM` or `nn.GRU` (on a GPU, cuDNN's) in place of our recurrent core; see `OurRecurrent`."""

    def __init__(self, ours: OurRecurrent) -> None:
        self.network = placed(
            torch_twins.recurrent(ours.inputs.shape[-1], ours.network.config), {"params": ours.params}
        )
        self.inputs = torch.from_numpy(np.array(ours.inputs)).to(device()).requires_grad_()

    def __call__(self, steps: int) -> float:
        """Take gradients so many times. Returns the seconds it took."""
        allow_tf32(True)
        start = time.perf_counter()
        for _ in range(steps):
            self.network.zero_grad(set_to_none=True)
            self.inputs.grad = None
            self.network(self.inputs)[0].square().sum().backward()
        synchronize()
        return time.perf_counter() - start


def synchronize() -> None:
    """Wait until the device is done."""
    if device() == "cuda":
        torch.cuda.synchronize()


def twin(network: Any) -> nn.Module:
    """The twin of a network, by its configuration, with weights of its own."""
    return torch_twins.FusionNetwork(network) if isinstance(network, FusionConfig) else torch_twins.FaceNetwork(network)


def placed(network: nn.Module, variables: Mapping[str, Any]) -> nn.Module:
    """A twin with our weights, channels last, on the device."""
    torch_twins.load(network, jax.device_get(variables))
    return network.to(device=device(), memory_format=torch.channels_last)  # type: ignore[call-overload]


def prove_step(work: Workload, variables: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Show that the network, and its teacher if it has one, is its twin's equal, in float32.

    Args:
        work: What is trained.
        variables: Of the network.

    Returns:
        "network" and, where there is one, "teacher", each as `compare` gives it.

    Raises:
        LaunchError: one of them isn't.
    """
    found = {"network": _prove_network(work.config.network, variables, work.batch)}
    if work.taught_by:
        found["teacher"] = _prove_network(work.taught_by.network, work.stage.frozen[0][0], work.batch)
    return found


def prove_recurrent(ours: OurRecurrent, theirs: TorchRecurrent) -> dict[str, float]:
    """The same for the recurrent core. Raises LaunchError where the outputs differ."""
    allow_tf32(False)
    with jax.default_matmul_precision("highest"), torch.no_grad():
        expected = jax.jit(ours.outputs)(ours.params, ours.inputs)
        return compare("the recurrent core", {"hidden": expected}, {"hidden": theirs.network(theirs.inputs)[0]})


def _prove_network(config: Any, variables: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, float]:
    config = replace(config, dtype="float32")
    variables = jax.tree.map(_perturbed, variables)
    theirs = placed(twin(config), variables).eval()
    network: Any
    if isinstance(config, FusionConfig):
        inputs = [batch[name][:EXAMPLES] for name in ("face", "face_valid", "waveform", "voice_valid")]
        network, heads = FusionNetwork(config), ["valence_arousal", "spread"]
    else:
        size = config.image_size
        inputs = [batch["affectnet"]["image"][:EXAMPLES, :size, :size]]
        network, heads = FaceNetwork(config), ["embedding", "triplet", "expression", "valence_arousal"]
    allow_tf32(False)
    with jax.default_matmul_precision("highest"), torch.no_grad():
        ours: Any = jax.jit(lambda variables, *inputs: network.apply(variables, *inputs, train=False))(
            variables, *inputs
        )
        answer = theirs(*(torch.from_numpy(np.array(each)).to(device()) for each in inputs))
    return compare(type(network).__name__, {name: ours[name] for name in heads}, answer)


def _perturbed(leaf: jax.Array) -> jax.Array:
    """What starts at zero or one moved away from it, so that nothing can take another's place unseen."""
    return leaf + 0.1 * jnp.sin(jnp.arange(leaf.size, dtype=jnp.float32)).reshape(leaf.shape)


def compare(what: str, ours: Mapping[str, Any], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """Compare outputs by name.

    Returns:
        "largest_difference" and "tolerance", both as shares of the largest output.

    Raises:
        LaunchError: they differ by more than `TOLERANCE`, or are not finite.
    """
    largest = 0.0
    for name, value in ours.items():
        expected = np.asarray(value)
        difference = np.abs(expected - theirs[name].detach().cpu().numpy()).max() / np.abs(expected).max()
        if not difference <= TOLERANCE:
            raise LaunchError(
                f"{what}: its {name} differs from that of its twin in PyTorch by {difference:.1e} of the largest "
                f"value, more than {TOLERANCE:.0e}; speeds of unequal networks aren't compared"
            )
        largest = max(largest, float(difference))
    return {"largest_difference": largest, "tolerance": TOLERANCE}


class TorchStreamStep:
    """The twin of `streaming.OurStreamStep`: face network, voice and fusion, frame by frame."""

    def __init__(self, ours: OurStreamStep) -> None:
        model = ours.model
        self.face = placed(twin(model.face.config), model.variables[0]).eval()
        self.fusion = placed(twin(model.fusion.config), model.variables[1]).eval()  # type: ignore[union-attr]
        self.signals = ours.signals
        self.carry: Any = None

    def step(self) -> dict[str, np.ndarray]:
        """One frame; from its signals to numbers that can be read."""
        faces, face_valid, sound, voice_valid = (torch.from_numpy(signal).to(device()) for signal in self.signals)
        with torch.inference_mode():
            seen = self.face(faces[0])
            said = self.fusion(seen["embedding"][None], face_valid, sound, voice_valid, self.carry)
            self.carry = said["carry"]
            expression = torch.softmax(seen["expression"], dim=-1)[None]
            shown = {"expression": expression, **{name: said[name] for name in ("valence_arousal", "spread")}}
            return {name: value.cpu().numpy() for name, value in shown.items()}

    def __call__(self, steps: int) -> float:
        """Do so many. Returns the seconds they took."""
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        return time.perf_counter() - start


class TorchRecordings:
    """The twin of `streaming.OurRecordings`."""

    def __init__(self, ours: OurRecordings) -> None:
        self.network = placed(twin(ours.config), ours.variables).eval()
        self.signals = [torch.from_numpy(signal).to(device()) for signal in ours.signals]

    def outputs(self) -> dict[str, Any]:
        """What the network says."""
        with torch.inference_mode():
            return self.network(*self.signals)

    def __call__(self, steps: int) -> float:
        """Do so many. Returns the seconds they took."""
        start = time.perf_counter()
        for _ in range(steps):
            self.outputs()
        synchronize()
        return time.perf_counter() - start


def prove_stream(step: OurStreamStep, whole: OurRecordings) -> dict[str, dict[str, float]]:
    """Show that the twins say the same, over some frames of a stream and over recordings. Raises LaunchError if not."""
    theirs = TorchStreamStep(step)
    for _ in range(EXAMPLES):
        ours, answer = step.step()._asdict(), theirs.step()
    step.carry = step.model.initial_carry()
    recordings = whole.apply(whole.variables, *whole.signals)
    names = ["valence_arousal", "spread"]
    return {
        STEP: compare(STEP, ours, {name: torch.from_numpy(value) for name, value in answer.items()}),
        WHOLE: compare(WHOLE, {name: recordings[name] for name in names}, TorchRecordings(whole).outputs()),
    }
