"""Decoding, cutting, aligning: geometry by hand, colours by hand, and both ways to a crop framing alike."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.faces import (
    FACE_TEMPLATE,
    CropConfig,
    FaceFinder,
    align_by_landmarks,
    crop_box,
    decode_image,
    encode_jpeg,
    landmark_template,
    longer_side,
    read_picture,
    similarity_transform,
)
from data_pipelines.synthetic.drawing import draw_face
from data_pipelines.synthetic.face_model import FaceParameters, Pose, sample_identity

RED_BLUE = np.zeros((8, 16, 3), np.uint8)
RED_BLUE[:, :8, 0] = RED_BLUE[:, 8:, 2] = 255


def ramp(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 4 * y, x + y], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP"])
def test_decodes_by_content_as_rgb(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RED_BLUE).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    decoded = decode_image(buffer.getvalue())
    assert decoded is not None
    np.testing.assert_array_equal(decoded, RED_BLUE)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RED_BLUE).convert(mode).save(buffer, "TIFF")
    decoded = decode_image(buffer.getvalue())
    assert decoded is not None
    assert decoded.shape == RED_BLUE.shape
    assert decoded.dtype == np.uint8


def test_orientation_in_the_header_is_ignored() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RED_BLUE).save(buffer, "JPEG", exif=exif)
    decoded = decode_image(buffer.getvalue())
    assert decoded is not None
    assert decoded.shape == (8, 16, 3)


@pytest.mark.parametrize("data", [b"", b"no picture at all", b"\xff\xd8\xff\xe0", b"II*\0\x08\0\0\0\0\0"])
def test_undecodable_gives_none(data: bytes) -> None:
    assert decode_image(data) is None


def test_postscript_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments, **_: started.append(arguments))
    assert decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n") is None
    assert started == []


def test_whatever_a_decoder_raises_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("data_pipelines.faces.Image.open", fail)
    assert decode_image(b"no picture") is None
    monkeypatch.setattr("data_pipelines.faces.cv2.imdecode", fail)
    assert decode_image(b"no picture") is None


def test_jpeg_keeps_colour_order_and_is_deterministic() -> None:
    data = encode_jpeg(RED_BLUE, 95)
    assert data == encode_jpeg(RED_BLUE, 95)
    decoded = decode_image(data)
    assert decoded is not None
    assert np.abs(decoded[:, [0, -1]].astype(int) - RED_BLUE[:, [0, -1]]).max() < 10
    assert len(encode_jpeg(ramp(), 30)) < len(encode_jpeg(ramp(), 95))


def test_crop_without_scaling_is_the_box() -> None:
    image = ramp()
    crop = crop_box(image, (10, 5, 26, 21), CropConfig(size=16))
    np.testing.assert_array_equal(crop, image[5:21, 10:26])


def test_margin_and_square() -> None:
    image = ramp()
    # A box 8 wide and 16 high, centre (24, 20); square of 16, with half of it added on each side: 32.
    crop = crop_box(image, (20, 12, 28, 28), CropConfig(size=32, margin=0.5))
    np.testing.assert_array_equal(crop, image[4:36, 8:40])


def test_outside_repeats_the_edge() -> None:
    image = ramp()
    crop = crop_box(image, (0, 0, 16, 16), CropConfig(size=32, margin=0.5))
    assert crop is not None
    np.testing.assert_array_equal(crop[8:, 8:], image[:24, :24])
    np.testing.assert_array_equal(crop[:8, 8:], image[:1, :24].repeat(8, axis=0))
    assert (crop[:8, :8] == image[0, 0]).all()


def test_a_box_is_clipped_to_the_picture() -> None:
    image = ramp()
    np.testing.assert_array_equal(crop_box(image, (-100, -100, 16, 16), CropConfig(size=16)), image[:16, :16])
    for outside in ((60, 0, 80, 20), (-20, 0, 0, 20), (0, 40, 20, 60), (59.5, 0, 80, 20)):
        assert crop_box(image, outside, CropConfig(size=16)) is None


def test_shrinking_averages() -> None:
    board = np.indices((32, 32)).sum(0) % 2 * 200
    crop = crop_box(np.repeat(board[..., None], 3, axis=-1).astype(np.uint8), None, CropConfig(size=8))
    assert (crop == 100).all()


@pytest.mark.parametrize("resize_filter", ["bilinear", "bicubic", "lanczos"])
def test_other_filters_are_pillows(resize_filter) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pillow = Image.fromarray(image).resize((20, 20), Image.Resampling[resize_filter.upper()])
    config = CropConfig(size=20, resize_filter=resize_filter)
    np.testing.assert_array_equal(crop_box(image, None, config), np.asarray(pillow))
    assert not np.array_equal(crop_box(image, None, CropConfig(size=20)), np.asarray(pillow))


def test_files_that_fail_say_why(tmp_path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "good.dat").write_bytes(cv2.imencode(".png", ramp())[1].tobytes())
    assert read_picture(tmp_path / "absent.jpg") == "unreadable file"
    assert read_picture(tmp_path / "bad.jpg") == "undecodable picture"
    np.testing.assert_array_equal(read_picture(tmp_path / "good.dat"), ramp()[..., ::-1])


def test_the_size_of_a_face_is_its_boxs_longer_side() -> None:
    assert longer_side(ramp(), (10, 5, 20, 45)) == 40
    assert longer_side(ramp(), None) == max(ramp().shape)


def test_similarity_transform_is_recovered() -> None:
    angle, scale, shift = 0.3, 1.7, np.array([5.0, -3.0])
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = similarity_transform(FACE_TEMPLATE, FACE_TEMPLATE @ rotation.T + shift)
    np.testing.assert_allclose(matrix, np.column_stack([rotation, shift]), atol=1e-12)


@pytest.mark.parametrize("margin", [0.0, 0.2])
@pytest.mark.parametrize("side", [24, 48, 144])
def test_aligning_an_upright_face_frames_it_as_its_box_does(side: int, margin: float) -> None:
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8), (0, 0), 12)
    picture = cv2.normalize(picture, picture, 0, 255, cv2.NORM_MINMAX)
    config = CropConfig(size=48, margin=margin)
    aligned = align_by_landmarks(picture, FACE_TEMPLATE * side + [120, 100], config)
    cut = crop_box(picture, (120, 100, 120 + side, 100 + side), config)
    assert cut is not None
    # Boxes are cut at whole pixels, alignment isn't: that is what remains of a difference.
    assert np.abs(aligned.astype(int) - cut).mean() < 2.5
    assert np.abs(aligned.astype(int) - np.roll(cut, 2, axis=1)).mean() > 5


def test_aligning_undoes_a_rotation() -> None:
    config = CropConfig(size=64)
    picture = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8), (0, 0), 6)
    landmarks = FACE_TEMPLATE * 100 + 100
    turn = cv2.getRotationMatrix2D((150, 150), 20, 1.0)
    turned = cv2.warpAffine(picture, turn, (300, 300), borderMode=cv2.BORDER_REPLICATE)
    moved = (landmarks - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5
    straight = align_by_landmarks(picture, landmarks, config).astype(int)
    assert np.abs(align_by_landmarks(turned, moved, config) - straight).mean() < 1


def test_finds_a_drawn_face_and_frames_it_as_its_box() -> None:
    rng = np.random.default_rng(5)
    picture, drawn = draw_face(FaceParameters(sample_identity(rng), pose=Pose(roll=0.2)), 240, rng)
    (found,) = FaceFinder().find(picture)
    left, top, side, _ = drawn.box
    points = drawn.landmarks
    five = np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])
    assert np.abs(found.landmarks - five).max() < 0.08 * side
    assert found.confidence > 0.9

    upright, still = draw_face(FaceParameters(sample_identity(np.random.default_rng(5))), 240, rng)
    left, top, side, _ = still.box
    config = CropConfig(size=96)
    cut = crop_box(upright, (left, top, left + side, top + side), config)
    aligned = align_by_landmarks(picture, found.landmarks, config)
    assert cut is not None
    # Eyes in both crops, as found in enlarged copies with a border.
    eyes = [FaceFinder().find(cv2.copyMakeBorder(crop, *[48] * 4, cv2.BORDER_REPLICATE))[0] for crop in (cut, aligned)]
    assert np.abs(eyes[0].landmarks - eyes[1].landmarks).max() < 0.08 * config.size


@pytest.mark.parametrize("shape", [(1, 1), (12, 12), (19, 300), (64, 64)])
def test_finds_nothing_where_nothing_is(shape: tuple[int, int]) -> None:
    assert FaceFinder().find(np.full((*shape, 3), 128, np.uint8)) == []


def test_large_pictures_are_searched_shrunk() -> None:
    rng = np.random.default_rng(5)
    picture, drawn = draw_face(FaceParameters(sample_identity(rng)), 720, rng)
    (found,) = FaceFinder(working_size=240).find(picture)
    points = drawn.landmarks
    assert np.abs(found.landmarks[:2].mean(0) - points[36:48].mean(0)).max() < 0.05 * drawn.box[2]


def test_the_template_lies_within_its_margin() -> None:
    np.testing.assert_allclose(landmark_template(CropConfig(size=100)), FACE_TEMPLATE * 100)
    np.testing.assert_allclose(landmark_template(CropConfig(size=100, margin=0.5)), FACE_TEMPLATE * 50 + 25)


@pytest.mark.parametrize("setting", [{"size": 4}, {"margin": -0.1}, {"jpeg_quality": 0}])
def test_settings_are_checked(setting: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        CropConfig(**setting)
