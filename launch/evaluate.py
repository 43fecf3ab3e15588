"""`avemo evaluate`: score trained networks on the evaluation partitions and write `results.json` and `report.html`.

Beside it `predictions.npz` keeps what the report draws: samples of faces, and traces of valence and arousal.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from avemo.augment import centre_crop
from avemo.labels import EXPRESSIONS
from avemo.metrics import Regression
from avemo.models.face import FaceConfig, FaceNetwork
from avemo.models.fusion import FusionNetwork, init_variables
from avemo.stages import fusion, supervision
from avemo.stages.fusion import FusionTraining
from data_pipelines import loaders
from data_pipelines.loaders import ClipSet, FaceSet
from launch.embeddings import face_embedder
from launch.errors import LaunchError
from launch.evaluation import (
    EVAL_BATCH_SIZE,
    Evaluator,
    ccc_results,
    fec_results,
    fusion_batches,
    label_results,
    score_faces,
    swap_voices,
)
from launch.mesh import data_mesh, put_batch
from launch.prepare import check_image_size, preparations
from launch.report import PREDICTIONS_FILE, RESULTS_FILE, print_table, write_report
from launch.runs import command_line, package_versions, read_record, run_input, stage_config, write_json
from launch.speed import measure_speed
from launch.train import finished_variables, load_embedded, load_face_network


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
    """Add the CCC of the fused network, of either modality alone, and of the control with swapped voices.

    "face" and "voice" are the same network with the other modality masked, not networks trained for one modality.
    """
    config = stage_config(run, "fusion", FusionTraining)
    fingerprint = loaders.fingerprint(data, clips)
    if read_record(run).inputs.get(clips, fingerprint) != fingerprint:
        raise LaunchError(f"{data / clips} is not what {run} was trained on: its partitions may overlap with these")
    network = FusionNetwork(config.network)
    face_network, face_variables = load_face_network(trained_face(run), mesh)
    embed = face_embedder(face_network, face_variables, mesh)
    recordings = load_embedded(data, clips, split, face_network, embed)
    like = jax.eval_shape(lambda: init_variables(network, jax.random.key(0)))
    variables = finished_variables(run, config.steps, like, mesh)
    predict = jax.jit(lambda variables, batch: fusion.predict(network, variables, batch))

    def predictions_of(recordings: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        batches = tqdm(fusion_batches(recordings, config.delay_frames, mesh), desc="evaluate fusion", unit="batch")
        parts = [jax.device_get(predict(variables, put_batch(mesh, batch))) for batch in batches]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(recordings)], *parts)

    predictions = predictions_of(recordings)
    if len(recordings) > 1:
        predictions["voice_swapped"] = predictions_of(swap_voices(recordings))["fused"]
    labels = [fusion.compensate_delay(recording["gold_standard"], config.delay_frames) for recording in recordings]
    for name, values in predictions.items():
        per_recording = [
            Regression.of(*map(jnp.asarray, (value[: len(label)], label, valid)))
            for value, (label, valid) in zip(values, labels, strict=True)
        ]
        results[clips][name] = ccc_results(per_recording)
    preparation = preparations(data)[clips]
    results[clips]["protocol"] = {
        "split": split,
        "recordings": [str(recording["name"]) for recording in recordings],
        "gold_standard": preparation["gold_standard"],
        "partition": preparation.get("partition", "as listed"),
        "annotation_delay_s": config.annotation_delay_s,
        "post_processing": "none",
    }
    for i, recording in enumerate(recordings):
        label, valid = labels[i]
        arrays[f"{clips}/{recording['name']}/gold_standard"] = label[valid]
        for name, values in predictions.items():
            arrays[f"{clips}/{recording['name']}/{name}"] = values[i, : len(label)][valid]


def trained_face(run: Path) -> Path:
    """The face network's run that a fusion network was trained over. Raises LaunchError where it is another by now."""
    face = read_record(run).inputs["face"]
    if run_input(Path(face["run"])) != face:
        raise LaunchError(f"{face['run']} is not the run any more that {run} was trained over: train the fusion anew")
    return Path(face["run"])


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
