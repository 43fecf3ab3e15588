"""Records on disk are what TFDS would have written, byte for byte where it is itself stable."""

import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_pipelines.builders.labelled_faces import features
from data_pipelines.faces import encode_jpeg
from data_pipelines.records import serialized

JPEG = encode_jpeg(np.zeros((16, 16, 3), np.uint8), 95)


def by_tfds(spec: dict, record: dict) -> bytes:
    found = tfds.features.FeaturesDict(spec)
    example = ExampleSerializer(found.get_serialized_info()).get_tf_example(found.encode_example(record))
    return example.SerializeToString(deterministic=True)


@pytest.mark.parametrize("expression", [-1, 3])
def test_a_labelled_face(expression: int) -> None:
    record = {
        "key": "1/ä.jpg",
        "image": JPEG,
        "expression": expression,
        "valence_arousal": np.array([0.25, -1], np.float32),
        "valence_arousal_valid": True,
        "face_size_px": np.float32(99.5),
        "soft_label": np.full(8, 0.125, np.float32),
    }
    spec = features(16, soft_label=True)
    assert serialized(record) == by_tfds(spec, record | {"image": io.BytesIO(JPEG)})


def test_sequences_and_arrays_as_bytes() -> None:
    spec = {
        "frames": tfds.features.Sequence(tfds.features.Image(shape=(16, 16, 3), encoding_format="jpeg")),
        "faces": tfds.features.Tensor(shape=(3,), dtype=np.int64),
        "ratings": tfds.features.Tensor(shape=(None, 2), dtype=np.float32, encoding="bytes"),
        "face_valid": tfds.features.Tensor(shape=(None,), dtype=np.bool_, encoding="bytes"),
    }
    record = {
        "frames": [JPEG, JPEG],
        "faces": np.array([5, 0, 7]),
        "ratings": np.arange(6, dtype=np.float32).reshape(3, 2),
        "face_valid": np.array([True, False]),
    }
    stored = record | {name: record[name].tobytes() for name in ("ratings", "face_valid")}
    assert serialized(stored) == by_tfds(spec, record | {"frames": [io.BytesIO(JPEG), io.BytesIO(JPEG)]})
