"""Runs a teacher once over every way that faces are varied, for `avemo train student --cache-teacher`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from avemo.labels import DIMENSIONS, EXPRESSIONS
from avemo.models.face import FaceConfig, FaceNetwork
from avemo.stages.student import Distillation, teach
from avemo.stages.supervision import vary
from data_pipelines import loaders
from data_pipelines.kept_outputs import KeptOutputs
from launch.embeddings import check_shared, outputs_key
from launch.hosts import from_first_host, host_share, is_first_host
from launch.mesh import compiler_options, put_batch, replicated

FACES_PER_CALL = 256
"""Faces in one call of the teacher, per device; it has no influence on the result."""


@dataclass(frozen=True, eq=False)
class TeacherCache:
    """What a teacher says of the faces of one stream in each of their views.

    Attributes:
        data: folder of the prepared corpora.
        stream: how the training calls these faces, see `supervision.STREAMS`.
        source: their dataset and split.
        network: the teacher's.
        variables: the teacher's.
        config: the distillation; says how faces are varied.
        mesh: the devices.
    """

    data: Path
    stream: str
    source: tuple[str, str]
    network: FaceConfig
    variables: Any
    config: Distillation
    mesh: Mesh

    @cached_property
    def kept(self) -> KeptOutputs:
        """Where it is read from, once it's filled."""
        network, config = self.network, self.config
        sizes = {
            "embedding": network.embedding_size,
            "triplet": network.triplet_size,
            "expression": len(EXPRESSIONS),
            "valence_arousal": len(DIMENSIONS),
        }
        corpus = loaders.corpus_of(self.source[0])
        faces = [loaders.fingerprint(self.data, corpus), *self.source, self.stream]
        seen = [config.network.image_size, config.network.colours, asdict(config.augment), config.both_ways]
        key = outputs_key([*faces, asdict(network), *seen], self.variables)
        return KeptOutputs.beside(self.data, "taught", corpus, key, sizes, config.views)

    def fill(self) -> None:
        """Run the teacher over the views that aren't kept yet.

        Raises:
            LaunchError: a host doesn't see what the first one has written.
        """
        say = _speaker(self.stream, self.network, self.variables, self.config, self.mesh)
        missing = [view for view in range(self.config.views) if from_first_host(partial(self.kept.lacks, view))]
        shown = {"desc": f"teacher on {loaders.corpus_of(self.source[0])}", "unit": "view"}
        for view in tqdm(missing, **shown, disable=not (missing and is_first_host())):
            outputs = _all_outputs(self.data, self.source, partial(say, view), self.mesh)
            if is_first_host():
                self.kept.write(view, outputs)
        check_shared(self.kept)


def _speaker(stream: str, network: FaceConfig, variables: Any, config: Distillation, mesh: Mesh) -> Callable[..., Any]:
    """(view, batch of faces) -> the teacher's outputs, and which face each is of."""
    variables = jax.device_put(variables, replicated(mesh))

    @partial(jax.jit, out_shardings=replicated(mesh), compiler_options=compiler_options(mesh.devices.flat[0]))
    def say(variables: Any, view: int, batch: Any) -> Any:
        images = vary(stream, batch["image"], batch["index"], view, config, config.views)
        outputs, _ = teach(FaceNetwork(network), variables, config.both_ways, images)
        return outputs, batch["index"]

    return partial(say, variables)


def _all_outputs(data: Path, source: tuple[str, str], say: Callable[[Any], Any], mesh: Mesh) -> dict[str, Any]:
    """The teacher's outputs on all faces of a dataset's split, in order."""
    size = FACES_PER_CALL * mesh.size
    dataset, split = source
    batches = loaders.all_pictures(data, dataset, split, batch_size=size // jax.process_count(), **host_share())
    said, places = [], []
    for batch in batches:
        outputs, index = jax.device_get(say(put_batch(mesh, {key: batch[key] for key in ("image", "index")})))
        said.append(outputs)
        places.append(index)
    # The last batch repeats faces, and hosts take turns: every face once, in order.
    _, first = np.unique(np.concatenate(places), return_index=True)
    return {key: np.concatenate([outputs[key] for outputs in said])[first] for key in said[0]}
