"""Frozen face embeddings: recordings go through the face network once, before fusion is trained or scored."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from avemo.augment import centre_crop
from avemo.models.face import FaceConfig, FaceNetwork
from data_pipelines import loaders
from data_pipelines.kept_outputs import KeptOutputs
from data_pipelines.loaders import ClipSet
from launch.errors import LaunchError
from launch.hosts import from_first_host, is_first_host
from launch.mesh import compiler_options, own_rows, put_batch, replicated
from launch.prepare import check_image_size

FRAMES_PER_CALL = 256
"""Frames in one call of the network, per device; it has no influence on the result."""

Embedder = Callable[[np.ndarray], np.ndarray]
"""Faces uint8 (T, H, W, 3) to embeddings float32 (T, D)."""


def face_embedder(config: FaceConfig, variables: Any, mesh: Mesh) -> Embedder:
    """A compiled face network for any number of frames; several hosts embed the same frames, each on its devices."""
    variables = jax.device_put(variables, replicated(mesh))
    size = FRAMES_PER_CALL * mesh.size

    @partial(jax.jit, out_shardings=replicated(mesh), compiler_options=compiler_options(mesh.devices.flat[0]))
    def apply(variables: Any, images: jax.Array) -> jax.Array:
        outputs: Any = FaceNetwork(config).apply(variables, centre_crop(images, config.image_size), train=False)
        return outputs["embedding"]

    def embed(frames: np.ndarray) -> np.ndarray:
        padded = np.concatenate([frames, np.zeros((-len(frames) % size, *frames.shape[1:]), frames.dtype)])
        batches = (own_rows(padded[i : i + size]) for i in range(0, len(padded), size))
        parts = [apply(variables, put_batch(mesh, batch)) for batch in batches]
        return np.concatenate(jax.device_get(parts))[: len(frames)]

    return embed


def load_embedded(
    data: Path, clips: ClipSet, split: str, config: FaceConfig, variables: Any, mesh: Mesh
) -> list[dict[str, Any]]:
    """All recordings of a split with "face", the network's embeddings (T, D) float32, instead of their frames.

    The embeddings are kept beside the data, so that the network runs once over them. Rows without a face are zero.
    """
    check_image_size(data, clips, config.image_size)
    key = outputs_key([loaders.fingerprint(data, clips), split, asdict(config)], variables)
    kept = KeptOutputs.beside(data, "embedded", clips, key, {"embedding": config.embedding_size})
    if from_first_host(partial(kept.lacks, 0)):
        embed = face_embedder(config, variables, mesh)
        shown = tqdm(
            loaders.recordings(data, split, clips),
            desc=f"embed {split} faces",
            unit="recording",
            disable=not is_first_host(),
        )
        embeddings = [embed(each["frames"]) * each["face_valid"][:, None] for each in shown]
        if is_first_host():
            kept.write(0, {"embedding": np.concatenate(embeddings)})
    check_shared(kept)
    recordings, first = [], 0
    for recording in loaders.recordings(data, split, clips, with_frames=False):
        places = first + np.arange(len(recording["face_valid"]))
        recordings.append(recording | {"face": kept.read(places, np.zeros_like(places))["embedding"]})
        first += len(places)
    return recordings


def check_shared(kept: KeptOutputs) -> None:
    """Raise LaunchError on a host that doesn't see what the first one has written; returns once all is written."""
    from_first_host(lambda: True)
    if any(map(kept.lacks, range(kept.views))):
        raise LaunchError(f"{kept.folder} must be one folder that all hosts see: put --data where they share it")


def outputs_key(what: Sequence[Any], variables: Any) -> str:
    """A digest of a network's variables and of all else that its outputs depend on."""
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for leaf in jax.tree.leaves(jax.device_get(variables)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
