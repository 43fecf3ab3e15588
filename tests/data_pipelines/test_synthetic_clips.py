"""The project's own clips, H.264 and PCM sound, through face finding, alignment and sound preparation."""

import cv2
import numpy as np
import pytest

from data_pipelines import loaders
from data_pipelines.faces import FACE_TEMPLATE, FaceFinder


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_clips_come_out_found_aligned_and_voiced(tiny, split):
    (recording,) = loaders.recordings(tiny.data, split)
    frames = len(recording["frames"])
    assert recording["face_valid"].mean() > 0.95
    assert recording["voice_valid"].all()
    assert recording["waveform"].shape == (640 * frames,)
    assert recording["gold_standard"].shape == (frames, 2)
    assert recording["ratings"].shape == (frames, 6, 2)

    size, finder = recording["frames"].shape[1], FaceFinder()
    eyes = []
    for image in recording["frames"][recording["face_valid"]][::15]:
        framed = cv2.copyMakeBorder(image, *[size // 2] * 4, cv2.BORDER_REPLICATE)
        for face in finder.find(cv2.resize(framed, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC))[:1]:
            eyes.append((face.landmarks[:2] / 3 - size // 2) / size)
    assert len(eyes) > 5
    np.testing.assert_allclose(np.median(eyes, axis=0), FACE_TEMPLATE[:2], atol=0.08)
