"""`avemo train fusion`: a network over recordings, and what is fitted on development recordings after its training."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh
from pydantic import TypeAdapter
from tqdm import tqdm
from tyro.conf import arg

from avemo import annotation_delay, post_processing
from avemo.labels import DIMENSIONS, FRAME_RATE_HZ
from avemo.log_mel import LogMelConfig, log_mel
from avemo.models.audio import STEPS_PER_FRAME
from avemo.models.face import FaceConfig, FaceNetwork
from avemo.models.fusion import FusionNetwork
from avemo.post_processing import PostProcessing
from avemo.stages import fusion
from avemo.stages.fusion import FusionTraining
from data_pipelines import loaders
from data_pipelines.loaders import ClipSet
from launch.embeddings import load_embedded
from launch.errors import LaunchError
from launch.evaluation import Evaluator, fusion_arrays, fusion_batches, regression_results
from launch.hosts import from_first_host, host_share, is_first_host
from launch.interruption import Check
from launch.loop import Batches, start_run, train
from launch.mesh import check_batch_size, put_batch, replicated
from launch.prepare import check_image_size, crop_settings, what_they_are
from launch.runs import RunRecord, read_record, run_input, stage_config, write_json
from launch.train import Run, finished_variables, load_face_network

DELAYS_FILE = "delays.json"
FITTED_FILE = "fitted_on_dev.json"

NOMINAL_COVERAGE = 0.9
"""Share of the raters' values that the predicted band is to hold (our choice)."""


@dataclass(frozen=True)
class TrainFusion(Run):
    """Train audio encoder, fusion and recurrent core on RECOLA (or your own clips), over a face network.

    Attributes:
        face: run of the student (or teacher) whose embeddings are used.
        clips: which recordings it learns from: RECOLA's, or your own (`avemo prepare clips`).
        config: the training itself.
    """

    face: Path = tyro.MISSING
    clips: ClipSet = "recola"
    config: Annotated[FusionTraining, arg(name="")] = fusion.PAPER

    def train_on(self, mesh: Mesh) -> None:
        """Train on these devices, and then fit post-processing and spread on the development recordings."""
        config = self.config
        check_batch_size(mesh, config.accumulate, batch_size=config.batch_size)
        face = load_face_network(self.face, mesh)
        check_face_size(config, face[0], self.face)
        inputs = {self.clips: loaders.fingerprint(self.data, self.clips), "face": run_input(self.face)}
        crop = crop_settings(self.data, self.clips)
        corpora = what_they_are(self.data, [self.clips])
        record = RunRecord.new("fusion", self.preset, self.seed, config, inputs, crop, True, corpora, [self.face])
        left = start_run(self.out, record, config.steps, self.resume)
        if not left and from_first_host((self.out / FITTED_FILE).exists):
            return
        parts = {split: load_recordings(self.data, self.clips, split, config, face, mesh) for split in ("train", "dev")}
        if config.delay != "searched":  # the search refuses recordings itself
            self._check_lengths(parts)
        if left:
            self._train(parts, face, mesh)
        trained = load_fusion(self.out, mesh)
        fitted = fit_on_dev(trained, predict_recordings(trained, parts["dev"], mesh), parts["dev"])
        if is_first_host():
            write_json(self.out / FITTED_FILE, asdict(fitted))

    def _check_lengths(self, parts: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Raise LaunchError where all of a split end before anything that raters noted of them could be read."""
        delay_s = max(self.config.annotation_delay_s)
        for split, recordings in parts.items():
            longest_s = max(len(recording["gold_standard"]) for recording in recordings) / FRAME_RATE_HZ
            if longest_s <= delay_s + 1 / FRAME_RATE_HZ:
                raise LaunchError(
                    f"{self.data / self.clips}: no recording of {split} lasts over {longest_s:.2f} s, too short for "
                    f"a delay of {delay_s:.2f} s: lower --annotation-delay-s"
                )

    def _train(
        self, parts: Mapping[str, Sequence[Mapping[str, Any]]], face: tuple[FaceConfig, Any], mesh: Mesh
    ) -> None:
        config = self.config
        delay_s = self._searched_delay(face, mesh) if config.delay == "searched" else config.annotation_delay_s
        learning = (FaceNetwork(face[0]), jax.device_get(face[1])) if config.face_learns else None
        stage = fusion.build(config, self.seed, delay_s, learning)
        evaluator = Evaluator(stage.eval_step, mesh)
        dev = fusion_batches(parts["dev"], mesh)

        def evaluate(variables: Any, check: Check) -> dict[str, float]:
            metrics = evaluator(variables, dev, check)
            figures = {
                f"{name}/{figure}": value
                for name, regression in metrics.items()
                for figure, value in regression_results(regression).items()
                if figure.startswith("ccc")
            }
            delays_s = np.asarray(jax.device_get(variables["params"][fusion.DELAY])).tolist()
            return figures | {f"delay_s/{name}": value for name, value in zip(DIMENSIONS, delays_s, strict=True)}

        train(
            name="fusion",
            run=self.out,
            stage=stage,
            batches=fusion_windows(
                [fusion_arrays(recording) for recording in parts["train"]],
                config,
                batch_size=config.batch_size // jax.process_count(),
                seed=self.seed,
                **host_share(),
            ),
            steps=config.steps,
            examples_per_step=config.batch_size,
            seed=self.seed,
            mesh=mesh,
            rhythm=self.rhythm,
            evaluate=evaluate,
            profile_steps=self.profile,
        )

    def _searched_delay(self, face: tuple[FaceConfig, Any], mesh: Mesh) -> tuple[float, float]:
        """The delay of each dimension at which labels can best be read from the signals; all that was tried is kept."""
        longest = round(self.config.longest_delay_s * FRAME_RATE_HZ)
        train, dev = (
            [
                (signals_of(recording, self.config.network.log_mel), recording["gold_standard"])
                for recording in load_embedded(self.data, self.clips, split, *face, mesh)
            ]
            for split in ("train", "dev")
        )
        try:
            correlation = annotation_delay.search(train, dev, longest)
        except ValueError as error:
            raise LaunchError(f"{self.data / self.clips}: {error}: lower --longest-delay-s") from error
        valence_s, arousal_s = (correlation.argmax(0) / FRAME_RATE_HZ).tolist()
        if is_first_host():
            print(f"annotation delay found: {valence_s:.2f} s in valence, {arousal_s:.2f} s in arousal")
            tried = dict(zip(DIMENSIONS, correlation.T.tolist(), strict=True))
            tried_s = (np.arange(longest + 1) / FRAME_RATE_HZ).tolist()
            found = {"valence_s": valence_s, "arousal_s": arousal_s, "tried_s": tried_s, "correlation": tried}
            write_json(self.out / DELAYS_FILE, found)
        return valence_s, arousal_s


def fusion_windows(
    recordings: Sequence[Mapping[str, Any]], config: FusionTraining, batch_size: int, seed: int, **share: int
) -> Batches:
    """Training batches of windows of recordings (see `fusion_arrays`), as a training wants them."""
    return loaders.window_batches(
        recordings,
        window_frames=config.window_frames,
        stride_frames=config.stride_frames,
        in_succession=config.stateful,
        reaching=("labels", "labels_valid", "rating_mean", "rating_square"),
        reach_frames=config.reach_frames,
        batch_size=batch_size,
        seed=seed,
        **share,
    )


@dataclass(frozen=True)
class FittedOnDev:
    """What is fitted on the development recordings once the network is trained.

    Attributes:
        post_processing: of each dimension's trace.
        spread_factor: what the predicted spread of each dimension is multiplied by, for a band that holds the nominal
            share of the raters' values.
        nominal_coverage: that share.
    """

    post_processing: dict[str, PostProcessing]
    spread_factor: dict[str, float]
    nominal_coverage: float


@dataclass(frozen=True)
class Fusion:
    """A trained fusion network and the face network under it.

    Attributes:
        config: how it was trained.
        variables: its own, the annotation delay among the parameters.
        face_config: the face network's size.
        face_variables: the face network's, as trained alone or as the fusion's training left them.
    """

    config: FusionTraining
    variables: Any
    face_config: FaceConfig
    face_variables: Any

    @property
    def delay(self) -> np.ndarray:
        """The annotation delay of each dimension in frames, (2,)."""
        return np.asarray(fusion.delay_frames(self.variables["params"], self.config.longest_delay_s))


def load_fusion(run: Path, mesh: Mesh) -> Fusion:
    """The networks of a fusion's run.

    Raises:
        LaunchError: the run holds something else, isn't finished, or the face network's run is another by now.
    """
    config = stage_config(run, "fusion", FusionTraining)
    face_config, face_variables = load_face_network(trained_face(run), mesh)
    learning = (FaceNetwork(face_config), jax.device_get(face_variables)) if config.face_learns else None
    stage = fusion.build(config, 0, face=learning)
    like = jax.eval_shape(lambda: stage.init(jax.random.key(0)).trained)
    variables = finished_variables(run, config.steps, like, mesh)
    if config.face_learns:
        face_variables = {"params": variables["params"][fusion.FACE_NETWORK], "batch_stats": variables["batch_stats"]}
    return Fusion(config, variables, face_config, face_variables)


def trained_face(run: Path) -> Path:
    """The face network's run that a fusion network was trained over. Raises LaunchError where it is another by now."""
    face = read_record(run).inputs["face"]
    if run_input(Path(face["run"])) != face:
        raise LaunchError(f"{face['run']} is not the run any more that {run} was trained over: train the fusion anew")
    return Path(face["run"])


def load_fitted(run: Path) -> FittedOnDev:
    """What was fitted on the development recordings. Raises LaunchError where it wasn't."""
    path = run / FITTED_FILE
    try:
        return TypeAdapter(FittedOnDev).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LaunchError(f"{path} can't be read ({error}): finish the run with --resume") from error


def load_recordings(
    data: Path, clips: ClipSet, split: str, config: FusionTraining, face: tuple[FaceConfig, Any], mesh: Mesh
) -> list[dict[str, Any]]:
    """All recordings of a split: with the face network's embeddings, or with faces where that network learns too."""
    if not config.face_learns:
        return load_embedded(data, clips, split, *face, mesh)
    check_image_size(data, clips, face[0].image_size)
    shown = tqdm(loaders.recordings(data, split, clips), desc=f"load {split}", unit="recording")
    return list(shown)


def check_face_size(config: FusionTraining, network: FaceConfig, face: Path) -> None:
    """Raise LaunchError where the fusion network expects face embeddings of another size."""
    if network.embedding_size != config.network.face_size:
        raise LaunchError(
            f"{face} gives {network.embedding_size}-d face embeddings, the fusion network takes "
            f"{config.network.face_size}: add --network.face-size {network.embedding_size}"
        )


def signals_of(recording: Mapping[str, Any], config: LogMelConfig) -> np.ndarray:
    """What the delay is searched in, TxF: face embedding and mel bands of each frame, NaN where there is no face."""
    bands_SxM = np.asarray(log_mel(jnp.asarray(recording["waveform"])[None], config)[0])
    bands_TxM = bands_SxM.reshape(-1, STEPS_PER_FRAME, config.mel_bands).mean(1)
    face_TxD = np.where(recording["face_valid"][:, None], recording["face"], np.nan)
    return np.concatenate([face_TxD, bands_TxM], axis=1)


Predictions = dict[str, dict[str, np.ndarray]]
"""Of one recording: "valence_arousal" and "spread" (T, 2), for each entry that `fusion.predict` has."""


def predict_recordings(trained: Fusion, recordings: Sequence[Mapping[str, Any]], mesh: Mesh) -> list[Predictions]:
    """Predictions of whole recordings."""
    network = FusionNetwork(trained.config.network)
    face_network = FaceNetwork(trained.face_config) if trained.config.face_learns else None
    predict: Callable[..., Any] = jax.jit(
        lambda variables, batch: fusion.predict(network, face_network, variables, batch, trained.config.modalities),
        out_shardings=replicated(mesh),
    )
    batches = tqdm(fusion_batches(recordings, mesh), desc="predict", unit="batch", disable=not is_first_host())
    parts = [jax.device_get(predict(trained.variables, put_batch(mesh, batch))) for batch in batches]
    together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    return [
        jax.tree.map(lambda leaf: leaf[i, : len(recording["face_valid"])], together)  # noqa: B023
        for i, recording in enumerate(recordings)
    ]


def noted_of(trained: Fusion, recording: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What raters noted of a recording's frames, the delay taken out.

    Returns:
        "labels" float32 and "valid" bool (T, 2), "ratings" float32 (R, T, 2).
    """
    gold, ratings = recording["gold_standard"], recording["ratings"]
    ratings = ratings if ratings.shape[1] else gold[:, None]
    delay_D, frames = jnp.asarray(trained.delay), len(gold)
    at = lambda values: np.asarray(annotation_delay.at_delay(jnp.asarray(values), delay_D, frames))
    valid = annotation_delay.valid_at_delay(jnp.ones((1, frames), bool), delay_D, frames)
    return {"labels": at(gold[None])[0], "ratings": at(ratings.swapaxes(0, 1)), "valid": np.asarray(valid)[0]}


def fit_on_dev(
    trained: Fusion, predictions: Sequence[Predictions], recordings: Sequence[Mapping[str, Any]]
) -> FittedOnDev:
    """Post-processing and the spread's factor, of what the network makes of all that it may use."""
    noted = [noted_of(trained, recording) for recording in recordings]
    found = [each[trained.config.modalities] for each in predictions]
    processing, factor = {}, {}
    for i, dimension in enumerate(DIMENSIONS):
        valid = [each["valid"][:, i] for each in noted]
        traces = [
            (prediction["valence_arousal"][rows, i], each["labels"][rows, i])
            for prediction, each, rows in zip(found, noted, valid, strict=True)
        ]
        processing[dimension] = post_processing.fit(traces)
        distances = [
            np.abs(each["ratings"][:, rows, i] - prediction["valence_arousal"][rows, i]) / prediction["spread"][rows, i]
            for prediction, each, rows in zip(found, noted, valid, strict=True)
        ]
        factor[dimension] = float(np.quantile(np.concatenate([each.ravel() for each in distances]), NOMINAL_COVERAGE))
    return FittedOnDev(processing, factor, NOMINAL_COVERAGE)
