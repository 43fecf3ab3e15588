"""Compiled evaluation: every record counts once, on any number of devices, and what comes out has the field's names."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from avemo.labels import DIMENSIONS, SAMPLES_PER_FRAME
from avemo.metrics import Regression, merge
from data_pipelines import loaders
from data_pipelines.loaders import FaceSet
from launch.hosts import compile_together, host_share
from launch.interruption import Check
from launch.mesh import compiler_options, own_rows, put_batch, replicated

EVAL_BATCH_SIZE = 128
"""Faces in an evaluation batch; it has no influence on the result."""


def to_the_end(number: int) -> None:
    """The `Check` of an evaluation that nobody interrupts."""


class Evaluator:
    """A stage's evaluation step, compiled once per shape of batch, and the sum over batches."""

    def __init__(self, eval_step: Callable[[Any, Any], Any], mesh: Mesh) -> None:
        self.mesh = mesh
        everywhere = replicated(mesh)  # so that every host can read the figures
        options = compiler_options(mesh.devices.flat[0])
        self.eval_step = jax.jit(eval_step, out_shardings=everywhere, compiler_options=options)
        self.merge = jax.jit(merge, out_shardings=everywhere)

    def __call__(self, variables: Any, batches: Iterable[Mapping[str, Any]], check: Check = to_the_end) -> Any:
        """Metrics over all batches, on the host. Batches have one shape; the last one is padded and masked.

        Each host gives its own rows of every batch, and all hosts give the same number of batches.

        Raises:
            Interrupted: `check` did, after some batch.
        """
        variables = jax.device_put(variables, replicated(self.mesh))
        total = None
        for number, batch in enumerate(batches, start=1):
            given = put_batch(self.mesh, batch)
            if number == 1:
                compile_together(self.eval_step, variables, given)
            metrics = self.eval_step(variables, given)
            total = metrics if total is None else self.merge(total, metrics)
            check(number)
        return jax.device_get(total)


def score_faces(
    evaluator: Evaluator,
    variables: Any,
    data: Path,
    faces: FaceSet,
    with_fec: bool,
    progress: str | None = None,
    check: Check = to_the_end,
    held_out: float = 0.0,
) -> dict[str, Any]:
    """Metrics of a face network on labelled faces (validation split) and, if wanted, on FEC's test split.

    Or on the faces of the training split that a training held out, and on nothing else.

    Args:
        evaluator: of `supervision.evaluate_faces`.
        variables: the network's.
        data: folder of the prepared corpora.
        faces: which labelled faces.
        with_fec: whether to score triplets too.
        progress: what progress bars say; None shows none.
        check: called after each batch.
        held_out: which share of the training faces was held out.
    """
    size = -(-EVAL_BATCH_SIZE // evaluator.mesh.size) * evaluator.mesh.size
    share: Any = {"batch_size": size // jax.process_count()} | host_share()
    part: Any = {"split": "train", "held_out": held_out} if held_out else {}
    sources = {"affectnet": loaders.face_eval_batches(data, name=faces, **part, **share)}
    if with_fec and not held_out:
        sources["fec"] = loaders.triplet_eval_batches(data, **share)
    total: dict[str, Any] = {}
    for corpus, batches in sources.items():
        name = faces if corpus == "affectnet" else corpus
        shown = tqdm(batches, desc=f"{progress} on {name}", unit="batch", disable=progress is None)
        total |= evaluator(variables, ({corpus: batch} for batch in shown), check)
    return total


def face_results(metrics: Mapping[str, Any]) -> dict[str, float]:
    """All figures of a face network in one flat dictionary, for the log of a training."""
    return label_results(metrics) | (fec_results(metrics) if "triplet" in metrics else {})


def label_results(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The figures of the AffectNet protocol: on expressions, and on valence and arousal, where there are labels."""
    results: dict[str, float] = {}
    for classes in (8, 7):
        confusion = metrics[f"confusion_{classes}"]
        if confusion.counts_KxK.any():
            results |= {f"accuracy_{classes}": confusion.accuracy(), f"macro_f1_{classes}": confusion.macro_f1()}
    return results | regression_results(metrics["valence_arousal"])


def regression_results(regression: Regression) -> dict[str, float]:
    """RMSE, Pearson, CCC and SAGR of valence and arousal, e.g. "ccc_valence"; empty where nothing was scored."""
    if not regression.count.any():
        return {}
    return {
        f"{name}_{dimension}": float(values[i])
        for name, values in (
            ("rmse", regression.rmse()),
            ("pearson", regression.pearson()),
            ("ccc", regression.ccc()),
            ("sagr", regression.sagr()),
        )
        for i, dimension in enumerate(DIMENSIONS)
    }


def fec_results(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Triplet accuracy, overall and per type."""
    triplet = metrics["triplet"]
    return {"triplet_accuracy": triplet.accuracy()} | {
        f"triplet_accuracy_{kind.removesuffix('_TRIPLET').lower()}": value
        for kind, value in triplet.accuracy_by_kind().items()
    }


def fusion_batches(recordings: Sequence[Mapping[str, Any]], mesh: Mesh) -> list[dict[str, np.ndarray]]:
    """Whole recordings, padded to the longest, as many to a batch as there are devices; padding has no labels.

    Every host holds all recordings and gets its own rows of each batch.
    """
    frames = max(len(recording["face_valid"]) for recording in recordings)
    padded = [_padded(fusion_arrays(recording), frames) for recording in recordings]
    nothing = jax.tree.map(np.zeros_like, padded[0])
    padded += [nothing] * (-len(padded) % mesh.size)
    return [
        own_rows(jax.tree.map(lambda *leaves: np.stack(leaves), *padded[i : i + mesh.size]))
        for i in range(0, len(padded), mesh.size)
    ]


def fusion_arrays(recording: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A recording's arrays as the fusion stage wants them: "face" or "frames", whichever there is, and the rest.

    Where the raters are not known one by one, the gold standard counts as the one rater.
    """
    gold, ratings = recording["gold_standard"], recording["ratings"]
    ratings = ratings if ratings.shape[1] else gold[:, None]
    return {name: recording[name] for name in ("face", "frames") if name in recording} | {
        "face_valid": recording["face_valid"],
        "waveform": recording["waveform"],
        "voice_valid": recording["voice_valid"],
        "labels": gold,
        "labels_valid": np.ones(len(gold), bool),
        "rating_mean": ratings.mean(1),
        "rating_square": np.square(ratings).mean(1),
    }


def swap_voices(recordings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give each recording the sound of the next one, cut or repeated to its own length (a control)."""
    swapped = []
    for i, recording in enumerate(recordings):
        other = recordings[(i + 1) % len(recordings)]
        heard = {name: np.resize(other[name], len(recording[name])) for name in ("waveform", "voice_valid")}
        swapped.append({**recording, **heard})
    return swapped


def ccc_results(
    per_recording: Sequence[Regression], beyond: Sequence[Regression] | None = None, draws: int = 2_000
) -> dict[str, dict[str, Any]]:
    """CCC of valence and of arousal, pooled in both ways in use: all files concatenated, and the mean over files.

    Beside each its 95 % interval: a bootstrap over files (Efron & Tibshirani 1993), since the frames of a file are
    anything but independent. With few files it is rather too narrow.

    Args:
        per_recording: one prediction, file by file.
        beyond: another prediction of the same files; given, the results are by how much the first one's CCC is
            higher, in pairs: the files of a draw are the same for both.
        draws: of the bootstrap.
    """
    files = len(per_recording)
    chosen_NxF = np.vstack([np.arange(files), np.random.default_rng(0).integers(files, size=(draws, files))])
    pooled = _pooled(per_recording, chosen_NxF)
    if beyond is not None:
        pooled = {pooling: pooled[pooling] - value_NxD for pooling, value_NxD in _pooled(beyond, chosen_NxF).items()}
    return {
        dimension: {pooling: float(value_NxD[0, i]) for pooling, value_NxD in pooled.items()}
        | {
            f"{pooling}_interval": np.percentile(value_NxD[1:, i], (2.5, 97.5)).tolist()
            for pooling, value_NxD in pooled.items()
        }
        for i, dimension in enumerate(DIMENSIONS)
    }


def _pooled(per_recording: Sequence[Regression], chosen_NxF: np.ndarray) -> dict[str, np.ndarray]:
    """CCC of N choices of files, NxD for each pooling."""
    per_file_FxD = np.array([regression.ccc() for regression in per_recording])
    return {
        "ccc_concatenated": _concatenated(per_recording, chosen_NxF),
        "ccc_per_file": per_file_FxD[chosen_NxF].mean(1),
    }


def _concatenated(per_recording: Sequence[Regression], chosen_NxF: np.ndarray) -> np.ndarray:
    """CCC of N choices of files, one after the other, NxD: all choices take in their next file at once."""
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *per_recording)
    return reduce(merge, (jax.tree.map(itemgetter(file_N), stacked) for file_N in chosen_NxF.T)).ccc()


def _padded(recording: Mapping[str, np.ndarray], frames: int) -> dict[str, np.ndarray]:
    lengths = {name: frames * (SAMPLES_PER_FRAME if name == "waveform" else 1) for name in recording}
    return {
        name: np.concatenate([value, np.zeros((lengths[name] - len(value), *value.shape[1:]), value.dtype)])
        for name, value in recording.items()
    }
