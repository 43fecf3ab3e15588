"""Frozen face embeddings: recordings go through the face network once, before fusion is trained or scored."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from avemo.augment import centre_crop
from avemo.models.face import FaceConfig, FaceNetwork
from launch.mesh import put_batch, replicated

FRAMES_PER_CALL = 256
"""Frames in one call of the network, per device; it has no influence on the result."""


def embed_recordings(
    recordings: Iterable[Mapping[str, Any]], config: FaceConfig, variables: Any, mesh: Mesh
) -> Iterator[dict[str, Any]]:
    """Replace each recording's "frames" (T, H, W, 3) by "face" (T, D), float32; rows without a face are zero."""
    network = FaceNetwork(config)
    variables = jax.device_put(variables, replicated(mesh))

    @jax.jit
    def embed(images: jax.Array) -> jax.Array:
        outputs: Any = network.apply(variables, centre_crop(images, config.image_size), train=False)
        return outputs["embedding"]

    size = FRAMES_PER_CALL * mesh.size
    for recording in recordings:
        frames = recording["frames"]
        padded = np.concatenate([frames, np.zeros((-len(frames) % size, *frames.shape[1:]), frames.dtype)])
        parts = [
            np.asarray(embed(put_batch(mesh, padded[start : start + size]))) for start in range(0, len(padded), size)
        ]
        face = np.concatenate(parts)[: len(frames)] * recording["face_valid"][:, None]
        yield {"face": face} | {name: value for name, value in recording.items() if name != "frames"}
