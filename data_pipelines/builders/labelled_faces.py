"""A face with its labels as a record: what AffectNet and people's own pictures have in common."""

from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from avemo.labels import EXPRESSIONS
from data_pipelines.faces import CropConfig, align_by_landmarks, crop_box, encode_jpeg, longer_side, read_picture
from data_pipelines.releases.items import Face

WITHOUT_EXPRESSION = -1
"""What a record has for a face without an expression."""

COUNTED = (*EXPRESSIONS, "without_expression", "without_valence_arousal")


def features(size: int, soft_label: bool) -> dict[str, Any]:
    """The features of a record.

    Args:
        size: Side of the crop in pixels.
        soft_label: Whether there is a share for each expression.

    Returns:
        Features by name, in TFDS's terms.
    """
    found = {
        "key": tfds.features.Text(),
        "image": jpeg(size),
        "expression": tfds.features.ClassLabel(names=EXPRESSIONS),
        "valence_arousal": tfds.features.Tensor(shape=(2,), dtype=np.float32),
        "valence_arousal_valid": tfds.features.Scalar(np.bool_),
        "face_size_px": tfds.features.Scalar(np.float32),
    }
    if soft_label:
        found["soft_label"] = tfds.features.Tensor(shape=(len(EXPRESSIONS),), dtype=np.float32)
    return found


def jpeg(size: int) -> tfds.features.Image:
    """The feature that holds a face crop."""
    return tfds.features.Image(shape=(size, size, 3), encoding_format="jpeg")


def cut(face: Face, config: CropConfig, align: bool) -> tuple[np.ndarray, float] | str:
    """Cuts a face out of its picture.

    Args:
        face: The face.
        config: How to cut.
        align: Whether to turn and scale it by its landmarks, instead of cutting along its box.

    Returns:
        uint8 RGB, size×size×3, and the face's size in the picture in pixels; or the reason why there is none.
    """
    image = read_picture(face.image)
    if isinstance(image, str):
        return image
    if not align:
        crop = crop_box(image, face.box, config)
    elif face.landmarks is None:
        return "landmarks missing"
    else:
        crop = align_by_landmarks(image, face.landmarks, config)
    return "box outside the picture" if crop is None else (crop, longer_side(image, face.box))


def record(
    face: Face, crop: np.ndarray, size_px: float, config: CropConfig, soft_label: bool
) -> tuple[dict[str, Any], dict[str, int]]:
    """A face as a record, and what is counted of it; a soft label that is missing is all zeros."""
    fields = {
        "key": face.key,
        "image": encode_jpeg(crop, config.jpeg_quality),
        "expression": WITHOUT_EXPRESSION if face.expression is None else face.expression,
        "valence_arousal": np.array(face.valence_arousal or (0, 0), np.float32),
        "valence_arousal_valid": face.valence_arousal is not None,
        "face_size_px": np.float32(size_px),
    }
    if soft_label:
        fields["soft_label"] = np.array(face.soft_label or np.zeros(len(EXPRESSIONS)), np.float32)
    counts = {
        "without_expression" if face.expression is None else EXPRESSIONS[face.expression]: 1,
        "without_valence_arousal": int(face.valence_arousal is None),
    }
    return fields, counts
