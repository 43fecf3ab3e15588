"""`avemo evaluate`: score trained networks on the evaluation partitions and write `results.json` and `report.html`.

Beside it `predictions.npz` keeps what the report draws: samples of faces, and traces of valence and arousal.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from avemo.augment import centre_crop
from avemo.labels import DIMENSIONS, EXPRESSIONS, FRAME_RATE_HZ
from avemo.metrics import Regression
from avemo.models.face import FaceConfig, FaceNetwork
from avemo.stages import fusion, supervision
from data_pipelines import loaders
from data_pipelines.loaders import ClipSet, FaceSet
from launch.errors import LaunchError
from launch.evaluation import (
    EVAL_BATCH_SIZE,
    Evaluator,
    ccc_results,
    fec_results,
    label_results,
    score_faces,
    swap_voices,
)
from launch.mesh import data_mesh
from launch.prepare import check_image_size, preparations
from launch.report import PREDICTIONS_FILE, RESULTS_FILE, print_table, write_report
from launch.runs import command_line, package_versions, read_record, write_json
from launch.speed import measure_speed
from launch.train import load_face_network
from launch.train_fusion import (
    FittedOnDev,
    load_fitted,
    load_fusion,
    load_recordings,
    noted_of,
    predict_recordings,
)


@dataclass(frozen=True)
class Evaluate:
    """Score trained networks: AffectNet (validation), FEC (test) and RECOLA, or your own faces and clips.

    Attributes:
        data: folder of the prepared corpora.
        out: folder for results.json and report.html.
        teacher: run of the teacher.
        student: run of the student.
        fusion: run of the fusion network; its own record names the face network it was trained over.
        recola_split: the split of the recordings that is scored.
        truth: truth.json of synthetic corpora, whose ceilings are put beside the results.
        faces: the faces that teacher and student are scored on: AffectNet's, or your own (`avemo prepare faces`).
        clips: the recordings that the fusion is scored on: RECOLA's, or your own (`avemo prepare clips`).
    """

    data: Path
    out: Path
    teacher: Path | None = None
    student: Path | None = None
    fusion: Path | None = None
    recola_split: str = "test"
    truth: tuple[Path, ...] = ()
    faces: FaceSet = "affectnet"
    clips: ClipSet = "recola"

    def __call__(self) -> None:
        """Score, and write results.json, predictions.npz and report.html."""
        mesh = data_mesh()
        results: dict[str, Any] = {self.faces: {}, "fec": {}, self.clips: {}, "ceiling": {}, "speed": {}}
        arrays: dict[str, np.ndarray] = {}
        runs = {name: run for name in ("teacher", "student", "fusion") if (run := getattr(self, name))}
        if not runs:
            raise LaunchError("nothing to evaluate: give --teacher, --student or --fusion")
        for path in self.truth:
            results["ceiling"] |= read_ceiling(path)
        self.out.mkdir(parents=True, exist_ok=True)
        for name in ("teacher", "student"):
            if name in runs:
                evaluate_face_network(name, runs[name], self.data, self.faces, mesh, results, arrays)
        if "fusion" in runs:
            evaluate_fusion(runs["fusion"], self.data, self.clips, self.recola_split, mesh, results, arrays)
        results["provenance"] = provenance(self.data, runs)

        np.savez_compressed(self.out / PREDICTIONS_FILE, allow_pickle=False, **arrays)
        write_json(self.out / RESULTS_FILE, results)
        print_table(results)
        print(f"results: {self.out / RESULTS_FILE}\nreport: {write_report(self.out)}")


def evaluate_face_network(
    name: str,
    run: Path,
    data: Path,
    faces: FaceSet,
    mesh: Mesh,
    results: dict[str, Any],
    arrays: dict[str, np.ndarray],
) -> None:
    """Add a teacher's or student's figures, its confusion matrix and its predictions on sample faces."""
    config, variables = load_face_network(run, mesh)
    with_fec = read_record(run).config["triplet_batch_size"] > 0 and "fec" in preparations(data)
    for corpus in (faces, "fec") if with_fec else (faces,):
        check_image_size(data, corpus, config.image_size)
    evaluator = Evaluator(partial(supervision.evaluate_faces, FaceNetwork(config)), mesh)
    metrics = score_faces(evaluator, variables, data, faces, with_fec, progress=f"evaluate {name}")
    results[faces][name] = label_results(metrics)
    if with_fec:
        results["fec"][name] = fec_results(metrics)
    if (counts := metrics["confusion_8"].counts_KxK).any():
        arrays[f"{name}/confusion"] = counts
    results["speed"][name] = measure_speed(config, variables)
    sample_predictions(name, config, variables, data, faces, arrays)


def sample_predictions(
    name: str,
    config: FaceConfig,
    variables: Any,
    data: Path,
    faces: FaceSet,
    arrays: dict[str, np.ndarray],
    per_class: int = 2,
) -> None:
    """Add the first few validation faces of each class, with labels and the network's probabilities."""
    kept: dict[int, list[np.ndarray]] = {label: [] for label in range(len(EXPRESSIONS))}
    for batch in loaders.face_eval_batches(data, batch_size=EVAL_BATCH_SIZE, name=faces):
        images = np.asarray(centre_crop(jnp.asarray(batch["image"]), config.image_size))
        has_class = batch["valid"] & batch["expression_valid"]
        for label, image, valid in zip(batch["expression"], images, has_class, strict=True):
            if valid and len(kept[label]) < per_class:
                kept[label].append(image)
        if all(len(images) == per_class for images in kept.values()):
            break
    samples = [(image, label) for label, images in kept.items() for image in images]
    if not samples:
        return
    crops = np.stack([image for image, _ in samples])
    outputs = jax.jit(lambda v, x: FaceNetwork(config).apply(v, x, train=False))(variables, crops)
    arrays[f"{name}/sample_images"] = crops
    arrays[f"{name}/sample_labels"] = np.array([label for _, label in samples])
    arrays[f"{name}/sample_probabilities"] = np.asarray(jax.nn.softmax(outputs["expression"]))


def evaluate_fusion(
    run: Path,
    data: Path,
    clips: ClipSet,
    split: str,
    mesh: Mesh,
    results: dict[str, Any],
    arrays: dict[str, np.ndarray],
) -> None:
    """Add the CCC of the fused network, of either modality alone, after post-processing, and of two controls.

    "face" and "voice" are the same network with the other modality masked; "fused_beyond_face" is by how much both
    tell more than the face alone, "fused_beyond_voice" likewise. The controls are voices swapped between the
    recordings, and chance: each recording scored with the prediction for another.
    """
    fingerprint = loaders.fingerprint(data, clips)
    if read_record(run).inputs.get(clips, fingerprint) != fingerprint:
        raise LaunchError(f"{data / clips} is not what {run} was trained on: its partitions may overlap with these")
    trained, fitted = load_fusion(run, mesh), load_fitted(run)
    config, face = trained.config, (trained.face_config, trained.face_variables)
    rated, left_out = [], []
    for recording in load_recordings(data, clips, split, config, face, mesh):
        labels = noted_of(trained, recording)
        if labels["valid"].any(0).all():
            rated.append((recording, labels))
        else:
            left_out.append(str(recording["name"]))
    if left_out:
        print(f"not scored, since they end before the raters' delay has passed: {', '.join(left_out)}")
    if not rated:
        raise LaunchError(f"{data / clips}: all of {split} end before the raters' delay has passed; give longer ones")
    recordings, noted = zip(*rated, strict=True)
    predicted = predict_recordings(trained, recordings, mesh)
    best = [each[config.modalities] for each in predicted]
    traces = {name: [each[name]["valence_arousal"] for each in predicted] for name in predicted[0]}
    traces["post_processed"] = [post_processed(each["valence_arousal"], fitted) for each in best]
    if len(recordings) > 1:
        if fusion.MODALITIES[config.modalities][1]:
            swapped = predict_recordings(trained, swap_voices(recordings), mesh)
            traces["voice_swapped"] = [each[config.modalities]["valence_arousal"] for each in swapped]
        others = [*best[1:], best[0]]
        traces["chance"] = [
            np.resize(other["valence_arousal"], each["labels"].shape) for other, each in zip(others, noted, strict=True)
        ]
    scored = {
        name: [
            jax.device_get(Regression.of(*map(jnp.asarray, (value, each["labels"], each["valid"]))))
            for value, each in zip(values, noted, strict=True)
        ]
        for name, values in traces.items()
    }
    results[clips] |= {name: ccc_results(per_recording) for name, per_recording in scored.items()}
    if "fused" in scored:
        for name in ("face", "voice"):
            results[clips][f"fused_beyond_{name}"] = ccc_results(scored["fused"], beyond=scored[name])
    results[clips]["spread"] = spread_results(best, noted, fitted)
    preparation = preparations(data)[clips]
    results[clips]["protocol"] = {
        "split": split,
        "recordings": [str(recording["name"]) for recording in recordings],
        "left_out": left_out,
        "gold_standard": preparation["gold_standard"],
        "partition": preparation.get("partition", "as listed"),
        "delay": config.delay,
        "annotation_delay_s": dict(zip(DIMENSIONS, (trained.delay / FRAME_RATE_HZ).tolist(), strict=True)),
        "post_processing": asdict(fitted)["post_processing"],
    }
    factor_D = np.array([fitted.spread_factor[dimension] for dimension in DIMENSIONS], np.float32)
    for i, (recording, each) in enumerate(zip(recordings, noted, strict=True)):
        named = {"gold_standard": each["labels"], "band": factor_D * best[i]["spread"]}
        named |= {name: values[i] for name, values in traces.items()}
        where = each["valid"].all(1)
        arrays |= {f"{clips}/{recording['name']}/{name}": value[where] for name, value in named.items()}


def post_processed(trace_TxD: np.ndarray, fitted: FittedOnDev) -> np.ndarray:
    """A recording's prediction after what was fitted on the development recordings."""
    columns = zip(DIMENSIONS, trace_TxD.T, strict=True)
    return np.stack([fitted.post_processing[name](trace_T) for name, trace_T in columns], axis=1).astype(np.float32)


def spread_results(
    predictions: Sequence[Mapping[str, np.ndarray]], noted: Sequence[Mapping[str, np.ndarray]], fitted: FittedOnDev
) -> dict[str, Any]:
    """How many of the raters' values lie in the predicted band, how wide it is, and what the spread is scaled by."""
    found: dict[str, Any] = {"nominal_coverage": fitted.nominal_coverage}
    for i, dimension in enumerate(DIMENSIONS):
        inside, widths = [], []
        for prediction, each in zip(predictions, noted, strict=True):
            rows = each["valid"][:, i]
            half_T = fitted.spread_factor[dimension] * prediction["spread"][rows, i]
            inside.append(np.abs(each["ratings"][:, rows, i] - prediction["valence_arousal"][rows, i]) <= half_T)
            widths.append(2 * half_T)
        found[dimension] = {
            "coverage": float(np.concatenate([part.ravel() for part in inside]).mean()),
            "mean_width": float(np.concatenate(widths).mean()),
            "factor": fitted.spread_factor[dimension],
        }
    return found


def read_ceiling(path: Path) -> dict[str, Any]:
    """The figures that a perfect model would reach on a synthetic corpus, under the corpus' name."""
    try:
        truth = json.loads(path.read_text())
        return {truth["corpus"]: truth["ceiling"]}
    except (OSError, ValueError, KeyError) as error:
        raise LaunchError(f"{path} is no truth.json of a synthetic corpus: {error}") from error


def provenance(data: Path, runs: Mapping[str, Path]) -> dict[str, Any]:
    """All that is needed to repeat the evaluation and the trainings it rests on."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": command_line(),
        "versions": package_versions(),
        "devices": [str(device.device_kind) for device in jax.devices()],
        "data": {
            corpus: {"fingerprint": loaders.fingerprint(data, corpus), **preparation}
            for corpus, preparation in preparations(data).items()
        },
        "runs": {name: asdict(read_record(run)) | {"path": str(run.absolute())} for name, run in runs.items()},
    }
