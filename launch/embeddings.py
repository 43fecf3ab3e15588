"""Frozen face embeddings: recordings go through the face network once, before fusion is trained or scored."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from avemo.augment import centre_crop
from avemo.models.face import FaceConfig, FaceNetwork
from launch.mesh import compiler_options, own_rows, put_batch, replicated

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


def embed_recordings(recordings: Iterable[Mapping[str, Any]], embed: Embedder) -> Iterator[dict[str, Any]]:
    """Replace each recording's "frames" (T, H, W, 3) by "face" (T, D), float32; rows without a face are zero."""
    for recording in recordings:
        face = embed(recording["frames"]) * recording["face_valid"][:, None]
        yield {"face": face} | {name: value for name, value in recording.items() if name != "frames"}
