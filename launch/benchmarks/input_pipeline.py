"""Something for our loaders to load: small synthetic corpora, drawn and prepared in the size of a preset."""

from pathlib import Path

from avemo.stages.fusion import FusionTraining
from avemo.stages.supervision import FaceTraining
from data_pipelines import loaders
from data_pipelines.builders.affectnet import AffectNetPreparation, prepare_affectnet
from data_pipelines.builders.dataset_builder import Workers
from data_pipelines.builders.fec import FecPreparation, prepare_fec
from data_pipelines.synthetic import affectnet, fec
from launch.benchmarks.workload import random_recording
from launch.loop import Batches, Together
from launch.train_fusion import fusion_windows

FACES = 256
"""Training faces drawn; batches are endless, so more would change nothing: what was read once stays in memory."""

RECORDINGS, RECORDING_FRAMES = 4, 7_500
"""Recordings for the fusion stage, of five minutes as RECOLA's are."""


def prepare_faces(folder: Path, size: int, processes: int) -> Path:
    """Draw AffectNet and FEC, and prepare them with faces of `size` pixels. Returns the folder of prepared corpora."""
    head = min(max(size / 2, 12.0), 75.0)
    canvas = max(64, 2 * size)
    faces = affectnet.SyntheticAffectNetConfig(
        train_faces=FACES,
        validation_faces_per_class=1,
        train_identities=32,
        validation_identities=8,
        unusable_per_code=1,
        canvas_size=(canvas, canvas),
        processes=processes,
    )
    photographs = fec.SyntheticFecConfig(
        train_photographs=FACES // 4,
        test_photographs=16,
        train_triplets=FACES,
        test_triplets=9,
        train_identities=32,
        test_identities=8,
        absent_photographs=0,
        clarity=1.0,  # any triplet will do
        face_size=(head, head),
        processes=processes,
    )
    affectnet.synthesize(folder / "affectnet", faces, seed=0)
    fec.synthesize(folder / "fec", photographs, seed=0)
    prepared = folder / "prepared"
    prepare_affectnet(folder / "affectnet", prepared, AffectNetPreparation(size=size), Workers(processes))
    prepare_fec(folder / "fec", prepared, FecPreparation(size=size), Workers(processes))
    return prepared


def batches_of(config: FaceTraining | FusionTraining, prepared: Path) -> Batches:
    """The batches of a stage, from the loaders that `avemo train` takes them from; endless.

    Args:
        config: The stage's configuration.
        prepared: What `prepare_faces` made; the fusion stage doesn't need it.
    """
    if isinstance(config, FusionTraining):
        frames = max(RECORDING_FRAMES, config.window_frames)
        recordings = [random_recording(config, frames, seed) for seed in range(RECORDINGS)]
        return fusion_windows(recordings, config, batch_size=config.batch_size, seed=0)
    streams: dict[str, Batches] = {"affectnet": loaders.face_batches(prepared, batch_size=config.batch_size, seed=0)}
    if config.triplet_batch_size:
        streams["fec"] = loaders.triplet_batches(prepared, batch_size=config.triplet_batch_size, seed=0)
    return Together(streams)
