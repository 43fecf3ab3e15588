"""One recording made ready: a face for every frame, the sound that belongs to them, and the labels.

This is the unit of work of a preparing process; it must stay light to import.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.face_track import black_jpeg, face_crops, track_face
from data_pipelines.faces import CropConfig, FaceFinder
from data_pipelines.gold_standard import GoldStandard, gold_standard
from data_pipelines.releases.items import Recording
from data_pipelines.sound import fit_to_frames, has_voice, load_sound, to_int16
from data_pipelines.video import frames, has_video, is_resampled, load_sound_track

Sound = Literal["auto", "file", "video"]
"""Where the sound comes from: the sound file, the video's own, or ("auto") the file where there is one."""

COUNTED = (
    "frames",
    "frames_without_face",
    "frames_missing",
    "frames_cut",
    "frames_with_several_faces",
    "frames_bridged",
    "samples_missing",
    "samples_cut",
    "labels_dropped",
    "without_video",
    "without_voice",
    "resampled_video",
)
"""What `prepare_recording` counts: first of frames, samples (at 16 kHz) and labels, then of recordings (0 or 1)."""


@dataclass(frozen=True)
class ClipConfig(CropConfig):
    """How a recording is prepared; how its faces are cut, see `CropConfig`.

    Attributes:
        gold_standard: How several raters become one, see `gold_standard.gold_standard`.
        sound: Where the sound comes from, see `Sound`.
        detect_every: Faces are looked for in every n-th frame and followed in between.
    """

    gold_standard: GoldStandard = "mean"
    sound: Sound = "auto"
    detect_every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("gold_standard", get_args(GoldStandard)), ("sound", get_args(Sound))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        if self.detect_every < 1:
            raise ValueError(f"detect_every must be at least 1, not {self.detect_every}")


def prepare_recording(recording: Recording, config: ClipConfig) -> tuple[dict[str, Any], dict[str, int]] | str:
    """Prepares one recording.

    Pictures and sound are made as long as the labels: what is missing at the end is filled up with frames without a
    face or with silence, what is too much is cut. A recording without pictures has no face in any frame, one without
    sound is silent.

    Args:
        recording: The recording, with T labels.
        config: How to prepare it.

    Returns:
        The reason why it can't be used; or the record and what was counted.

        The record: name; frames (T JPEGs, black without a face); face_valid (bool, T); face_size_px (float32, T, see
        `FaceTrack.face_sizes`); waveform (int16, 640·T, 16 kHz); voice_valid (bool: whether there is anything to
        hear); ratings (float32, T×R×2); gold_standard (float32, T×2).

        What was counted, see `COUNTED`. Missing and cut frames and samples are those at the end; for frames with
        several faces and bridged ones see `FaceTrack`; a resampled video is one that isn't at 25 Hz throughout.
    """
    count = len(recording.ratings)
    try:
        labels = gold_standard(recording.ratings, config.gold_standard, recording.gold_standard)
        sound = _load_sound(recording, config.sound)
        video = recording.video if recording.video is not None and has_video(recording.video) else None
        if video is None and not len(sound):
            return "neither pictures nor sound"
        faces, counts = _no_faces(count, config) if video is None else _cut_faces(video, count, config)
    except DataError as error:
        return str(error)
    except cv2.error as error:
        return f"finding faces failed ({' '.join(str(error).split())})"
    waveform = fit_to_frames(sound, count)
    voice_valid = has_voice(waveform)
    record = {
        "name": recording.name,
        **faces,
        "waveform": to_int16(waveform),
        "voice_valid": voice_valid,
        "ratings": recording.ratings,
        "gold_standard": labels,
    }
    counts |= {
        "frames": count,
        "frames_without_face": int((~faces["face_valid"]).sum()),
        "samples_missing": max(len(waveform) - len(sound), 0),
        "samples_cut": max(len(sound) - len(waveform), 0),
        "labels_dropped": recording.labels_dropped,
        "without_video": int(video is None),
        "without_voice": int(not voice_valid),
    }
    return record, {name: counts.get(name, 0) for name in COUNTED}


def _load_sound(recording: Recording, kind: Sound) -> np.ndarray:
    """Its sound, float32 at 16 kHz; empty where there is none."""
    if kind == "file" and recording.audio is None:
        raise DataError("without a sound file; choose sound auto")
    if kind == "video" and recording.video is None:
        raise DataError("without a video to take the sound from; choose sound auto")
    if recording.audio is not None and kind != "video":
        sound = load_sound(recording.audio)
        if not len(sound):
            raise DataError("sound without samples")
        return sound
    return np.zeros(0, np.float32) if recording.video is None else load_sound_track(recording.video)


def _no_faces(count: int, config: ClipConfig) -> tuple[dict[str, Any], dict[str, int]]:
    """The part of a record, and of the counts, that is seen, for `count` frames without a picture."""
    faces = {
        "frames": [black_jpeg(config)] * count,
        "face_valid": np.zeros(count, bool),
        "face_size_px": np.zeros(count, np.float32),
    }
    return faces, {"frames_missing": count}


def _cut_faces(video: Path, count: int, config: ClipConfig) -> tuple[dict[str, Any], dict[str, int]]:
    """As `_no_faces`, for the pictures of a video."""
    track = track_face(frames(video), FaceFinder(), config.detect_every)
    crops = list(itertools.islice(face_crops(video, track, config), count))
    if not crops:
        raise DataError("video without a frame that can be decoded")
    missing = count - len(crops)
    faces = {
        "frames": crops + [black_jpeg(config)] * missing,
        "face_valid": np.pad(track.valid[:count], (0, missing)),
        "face_size_px": np.pad(track.face_sizes()[:count], (0, missing)),
    }
    return faces, {
        "frames_missing": missing,
        "frames_cut": max(len(track.valid) - count, 0),
        "frames_with_several_faces": int(track.several[:count].sum()),
        "frames_bridged": int(track.bridged[:count].sum()),
        "resampled_video": int(is_resampled(video)),
    }
