"""`avemo predict`: from drawn people in real files to rows, summaries and pages, whatever the files are like."""

import contextlib
import csv
import itertools
import json
import shutil
import threading
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from conftest import avemo
from PIL import Image
from test_streaming import FACE, FUSION

from avemo.labels import EXPRESSIONS
from data_pipelines.errors import DataError
from data_pipelines.faces import CropConfig
from data_pipelines.synthetic.drawing import draw_photograph
from data_pipelines.synthetic.face_geometry import Placement
from data_pipelines.synthetic.face_model import FaceParameters, sample_identity
from data_pipelines.video import load_sound_track, look_into, play
from launch import live, predict
from launch.benchmarks.streaming import untrained
from launch.prediction import ahead, joined, predict_stream
from launch.streaming import StreamModel

CROP = CropConfig(size=18)
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def model():
    return replace(untrained(FACE, FUSION), crop=CROP)


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """Call the command; its model is one of random numbers."""
    monkeypatch.setattr(predict, "load_model", lambda run: model)
    monkeypatch.setattr(predict, "run_input", lambda run: {"run": str(run), "fingerprint": "random"})

    def call(*arguments):
        out = tmp_path / "out"
        avemo("predict", *arguments, "--model", tmp_path / "run", "--out", out)
        return out

    return call


@pytest.fixture(scope="module")
def portraits():
    """A picture of one person and one of two, 240 lines."""
    people = [FaceParameters(sample_identity(np.random.default_rng(seed))) for seed in (3, 5)]
    places = [Placement(100, 120, 55), Placement(300, 120, 50)]
    together = list(zip(people, places, strict=True))
    draw = lambda people: draw_photograph(people, 240, 400, np.random.default_rng(0))[0]
    return SimpleNamespace(one=draw(together[:1]), two=draw(together), nobody=draw([]))


def tone(seconds, rate_hz=RATE_HZ, channels=1):
    wave = 0.2 * np.sin(np.arange(int(seconds * rate_hz)) * 2 * np.pi * 220 / rate_hz).astype(np.float32)
    return np.tile(wave[:, None], (1, channels))


def write(path, images, rate=25, sound=None, rate_hz=RATE_HZ, fast_start=False):
    """A video of these pictures, with this sound (N, C)."""
    options = {"movflags": "faststart"} if fast_start else {}
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream("libx264", rate=Fraction(rate), options={"crf": "18", "preset": "ultrafast"})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = "yuv420p"
        audio = None
        if sound is not None:
            layout = "mono" if sound.shape[1] == 1 else "stereo"
            audio = container.add_stream("aac", rate=rate_hz, layout=layout)
        for image in images:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(video.encode(None))
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound.T), format="fltp", layout=layout)
            frame.sample_rate = rate_hz
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def moving(image, frames, step=1.0):
    """The same picture, sliding to the right."""
    shift = lambda k: np.array([[1, 0, step * k], [0, 1, 0]], np.float64)
    height, width = image.shape[:2]
    return [cv2.warpAffine(image, shift(k), (width, height), borderMode=cv2.BORDER_REPLICATE) for k in range(frames)]


def rows_of(folder):
    with (folder / "frames.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_video_with_sound_gives_a_row_for_each_frame_in_every_format(run, portraits, tmp_path):
    write(tmp_path / "a.mp4", moving(portraits.one, 40), sound=tone(1.6))
    folder = run(tmp_path / "a.mp4", "--formats", "csv", "json", "parquet", "--html") / "a.mp4"
    rows, table = rows_of(folder), pq.read_table(folder / "frames.parquet").to_pylist()
    lines = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
    assert len(rows) == len(table) == len(lines) == 40
    for k, (row, line, full) in enumerate(zip(rows, lines, table, strict=True)):
        assert float(row["time_s"]) == line["time_s"] == pytest.approx(k / 25)
        assert row["face_valid"] == row["voice_valid"] == "1"
        assert sum(float(row[name]) for name in EXPRESSIONS) == pytest.approx(1, abs=1e-3)
        for name in (*EXPRESSIONS, "valence", "arousal", "valence_spread", "left", "bottom"):
            assert float(row[name]) == line[name] == pytest.approx(full[name], abs=1e-4)
    left = np.array([line["left"] for line in lines])
    np.testing.assert_allclose(np.diff(left).mean(), 1.0, atol=0.15)
    summary = summary_of(folder)
    assert (summary["kind"], summary["frames"], summary["rows_with_face"]) == ("video", 40, 40)
    assert summary["notes"] == []
    assert summary["faces"]["0"]["mean_valence"] == pytest.approx(
        np.mean([line["valence"] for line in lines]), abs=1e-4
    )
    assert "a.mp4" in (folder / "page.html").read_text()


def test_how_many_frames_are_predicted_at_a_time_changes_nothing(model, portraits, tmp_path):
    path = write(tmp_path / "a.mp4", moving(portraits.one, 30), sound=tone(1.2))
    found = [
        joined(predict_stream(model, play(path), True, True, step_frames=step_frames)) for step_frames in (1, 7, 25)
    ]
    for (other,) in found[1:]:
        for name in ("box", "face_valid", "voice_valid", "expression", "valence_arousal", "spread"):
            np.testing.assert_allclose(getattr(other, name), getattr(found[0][0], name), atol=1e-5)


def test_what_is_predicted_is_used_again_until_something_changes(run, portraits, tmp_path, capsys):
    write(tmp_path / "a.mp4", moving(portraits.one, 5))
    out = run(tmp_path / "a.mp4")
    before = (out / "a.mp4/frames.csv").stat().st_mtime_ns
    run(tmp_path / "a.mp4")
    assert (out / "a.mp4/frames.csv").stat().st_mtime_ns == before
    assert "reused" in capsys.readouterr().out
    run(tmp_path / "a.mp4", "--modalities", "face")
    assert (out / "a.mp4/frames.csv").stat().st_mtime_ns > before
    (out / "a.mp4/frames.csv").unlink()
    run(tmp_path / "a.mp4", "--modalities", "face")
    assert len(rows_of(out / "a.mp4")) == 5


def test_rows_of_another_model_are_never_taken_for_those_of_an_interrupted_prediction(run, portraits, tmp_path, capsys):
    write(tmp_path / "a.mp4", moving(portraits.one, 5))
    out = run(tmp_path / "a.mp4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "run_input", lambda run: {"fingerprint": "another"})
        patch.setattr(predict, "write_page", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(SystemExit, match="1 of 1"):
            run(tmp_path / "a.mp4", "--html", "--formats", "json")
    assert not (out / "a.mp4/frames.csv").exists()
    capsys.readouterr()
    run(tmp_path / "a.mp4")
    assert "reused" not in capsys.readouterr().out
    assert len(rows_of(out / "a.mp4")) == 5


def test_several_faces_have_rows_of_their_own_while_they_are_there(run, portraits, tmp_path):
    write(tmp_path / "two.mp4", [portraits.two] * 30 + [portraits.nobody] * 30)
    rows = rows_of(run(tmp_path / "two.mp4", "--faces", "3") / "two.mp4")
    by_face = {face: [row for row in rows if row["face"] == face] for face in ("0", "1")}
    assert len(by_face["0"]) + len(by_face["1"]) == len(rows)
    for face, (x, radius) in {"0": (100, 55), "1": (300, 50)}.items():
        mine = by_face[face]
        assert 30 <= len(mine) <= 32
        assert all(row["face_valid"] == "1" for row in mine)
        centre = (float(mine[5]["left"]) + float(mine[5]["right"])) / 2
        assert abs(centre - x) < radius / 3


def test_a_file_is_whole_also_where_none_of_several_faces_is_there_to_the_end(run, portraits, tmp_path):
    write(tmp_path / "gone.mp4", [portraits.one] * 20 + [portraits.nobody] * 80, sound=tone(4))
    write(tmp_path / "nobody.mp4", [portraits.nobody] * 30, sound=tone(1.2))
    out = run(tmp_path / "gone.mp4", tmp_path / "nobody.mp4", "--faces", "2", "--formats", "csv", "parquet")
    assert {each["result"] for each in json.loads((out / "outcomes.json").read_text())} == {"predicted"}
    assert (summary_of(out / "gone.mp4")["frames"], summary_of(out / "gone.mp4")["notes"]) == (100, [])
    assert (summary_of(out / "nobody.mp4")["frames"], summary_of(out / "nobody.mp4")["notes"]) == (
        30,
        ["no face was found"],
    )
    header, table = (out / "nobody.mp4/frames.csv").read_text(), pq.read_table(out / "nobody.mp4/frames.parquet")
    assert header.strip().split(",") == table.column_names
    assert table.num_rows == 0
    assert table.schema == pq.read_table(out / "gone.mp4/frames.parquet").schema


def test_one_face_has_a_row_for_each_frame_also_where_it_is_gone(run, portraits, tmp_path):
    write(tmp_path / "gone.mp4", [portraits.one] * 12 + [portraits.nobody] * 20, sound=tone(1.28))
    rows = rows_of(run(tmp_path / "gone.mp4") / "gone.mp4")
    valid = [row["face_valid"] for row in rows]
    assert valid[:12] == ["1"] * 12
    assert valid[14:] == ["0"] * 18
    assert rows[-1]["happiness"] == rows[-1]["left"] == ""
    assert rows[-1]["valence"] != ""


def test_silence_is_noticed_and_masked(run, portraits, tmp_path):
    write(tmp_path / "a.mp4", [portraits.one] * 20, sound=0 * tone(0.8))
    folder = run(tmp_path / "a.mp4") / "a.mp4"
    assert summary_of(folder)["notes"] == ["its sound is silent throughout: told from the face alone"]
    silent = rows_of(folder)
    assert {row["voice_valid"] for row in silent} == {"0"}
    deaf = rows_of(run(tmp_path / "a.mp4", "--modalities", "face") / "a.mp4")
    assert [row["valence"] for row in deaf] == [row["valence"] for row in silent]


def test_sound_without_a_decoder_is_told(run, portraits, tmp_path):
    video = write(tmp_path / "a.mkv", [portraits.one] * 20, sound=tone(0.8))
    video.write_bytes(video.read_bytes().replace(b"A_AAC", b"A_XYZ"))
    folder = run(video) / "a.mkv"
    assert summary_of(folder)["notes"] == ["no decoder for its sound: told from the face alone"]
    with pytest.raises(DataError, match=r"a\.mkv: no decoder for its sound; encode the sound anew"):
        load_sound_track(video)
    with pytest.raises(SystemExit):
        run(video, "--modalities", "voice")
    told = json.loads((tmp_path / "out" / "outcomes.json").read_text())
    assert "has pictures, and sound without a decoder; this model" in told[0]["notes"][0]


def test_sound_of_any_rate_and_layout_is_predicted_without_a_face(run, tmp_path):
    arousal = []
    for rate_hz, channels in ((16_000, 1), (8_000, 1), (44_100, 2), (96_000, 2)):
        soundfile.write(tmp_path / f"{rate_hz}.wav", tone(2, rate_hz, channels), rate_hz)
        folder = run(tmp_path / f"{rate_hz}.wav") / f"{rate_hz}.wav"
        rows = rows_of(folder)
        assert len(rows) == 50
        assert {row["voice_valid"] for row in rows} == {"1"}
        assert {row["face_valid"] for row in rows} == {"0"}
        assert summary_of(folder)["kind"] == "sound"
        arousal.append(float(rows[40]["arousal"]))
    np.testing.assert_allclose(arousal, arousal[0], atol=0.02)


def test_tags_in_any_encoding_and_names_with_colons_are_read(run, portraits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write("10:30.wav", tone(1), RATE_HZ)
    whole = (tmp_path / "10:30.wav").read_bytes()
    artist = b"IART" + (4).to_bytes(4, "little") + b"Ren\xe9"
    tags = b"LIST" + (4 + len(artist)).to_bytes(4, "little") + b"INFO" + artist
    (tmp_path / "10:30.wav").write_bytes(
        b"RIFF" + (len(whole) + len(tags) - 8).to_bytes(4, "little") + whole[8:] + tags
    )
    assert len(rows_of(run("10:30.wav") / "10:30.wav")) == 25


def test_files_that_were_joined_are_predicted_to_their_end(run, portraits, tmp_path):
    part = write(tmp_path / "part.ts", [portraits.one] * 40, sound=tone(1.6)).read_bytes()
    (tmp_path / "joined.ts").write_bytes(part + part)
    rows = rows_of(run(tmp_path / "joined.ts") / "joined.ts")
    assert len(rows) == pytest.approx(80, abs=3)
    assert [row["face_valid"] for row in rows[2:-2]] == ["1"] * (len(rows) - 4)
    assert [row["voice_valid"] for row in rows[2:-2]] == ["1"] * (len(rows) - 4)


def test_pictures_and_all_other_kinds_in_one_folder(run, portraits, tmp_path, capsys):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(portraits.two).save(folder / "two.png")
    turned = Image.fromarray(portraits.one).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned.save(folder / "phone.jpg", exif=exif, quality=95)
    Image.fromarray(portraits.nobody).save(folder / "nobody.bmp")
    soundfile.write(folder / "deep/a.wav", tone(1), RATE_HZ)
    (folder / "notes.txt").write_text("no picture")
    out = run(folder, "--faces", "2", "--html")
    assert len(rows_of(out / "two.png")) == 2
    (row,) = rows_of(out / "phone.jpg")
    assert abs((float(row["left"]) + float(row["right"])) / 2 - 100) < 15
    assert row["valence"] != ""
    assert summary_of(out / "nobody.bmp")["notes"] == ["no face was found"]
    assert not rows_of(out / "nobody.bmp")
    assert (out / "deep/a.wav/page.html").is_file()
    outcomes = {each["input"]: each["result"] for each in json.loads((out / "outcomes.json").read_text())}
    assert outcomes[str(folder / "notes.txt")] == "skipped"
    assert sorted(outcomes.values()) == ["predicted"] * 4 + ["skipped"]
    assert "no kind of file that is known here" in capsys.readouterr().out


@pytest.mark.parametrize(("rate", "frames"), [(1, 3), (240, 240), (Fraction(30_000, 1001), 30)])
def test_any_frame_rate_is_predicted_at_25(run, portraits, tmp_path, rate, frames):
    write(tmp_path / "a.mp4", [portraits.one] * frames, rate)
    folder = run(tmp_path / "a.mp4") / "a.mp4"
    assert len(rows_of(folder)) == round(frames / rate * 25)
    assert summary_of(folder)["notes"][0].endswith("pictures per second; predicted at 25")


def test_a_phones_video_is_turned_upright(run, portraits, tmp_path):
    upright = np.ascontiguousarray(np.rot90(portraits.one))
    write(tmp_path / "stored.mp4", [upright] * 10)
    with av.open(str(tmp_path / "stored.mp4")) as stored, av.open(str(tmp_path / "phone.mp4"), "w") as phone:
        stream = phone.add_stream_from_template(stored.streams.video[0])
        stream.set_display_rotation(-90) if hasattr(stream, "set_display_rotation") else pytest.skip("PyAV can't turn")
        for packet in stored.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                phone.mux(packet)
    rows = rows_of(run(tmp_path / "phone.mp4") / "phone.mp4")
    assert abs((float(rows[5]["left"]) + float(rows[5]["right"])) / 2 - 100) < 15


def test_what_cannot_be_predicted_is_told_and_the_rest_goes_on(run, portraits, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    good = write(folder / "good.mp4", [portraits.one] * 10)
    whole = good.read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("no video")
    Image.fromarray(portraits.one).save(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", folder / "picture.mp4")
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    with pytest.raises(SystemExit, match="4 of 6 could not be predicted"):
        run(folder)
    out = tmp_path / "out"
    outcomes = {each["input"].split("/")[-1]: each for each in json.loads((out / "outcomes.json").read_text())}
    assert {name: each["result"] for name, each in outcomes.items()} == {
        "good.mp4": "predicted",
        "picture.mp4": "predicted",
        "cut.mp4": "failed",
        "empty.mp4": "failed",
        "text.mp4": "failed",
        "list.mp4": "failed",
    }
    assert "only a list of other files" in outcomes["list.mp4"]["notes"][0]
    assert "can't be opened" in outcomes["cut.mp4"]["notes"][0]
    assert summary_of(out / "picture.mp4")["kind"] == "picture"
    assert "text.mp4" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["good.mp4", "outcomes.json", "picture.mp4"]


def test_results_within_the_folder_are_no_inputs(run, portraits, tmp_path):
    write(tmp_path / "a.mp4", [portraits.one] * 5)
    for _ in range(2):
        out = run(tmp_path)
        assert [each["input"] for each in json.loads((out / "outcomes.json").read_text())] == [str(tmp_path / "a.mp4")]


def test_a_detector_that_fails_is_told(run, portraits, tmp_path, monkeypatch):
    def fail(self, image):
        raise cv2.error("assertion\nfailed")

    monkeypatch.setattr("launch.prediction.FaceFollower.follow", fail)
    write(tmp_path / "a.mp4", [portraits.one] * 5)
    with pytest.raises(SystemExit, match="1 of 1"):
        run(tmp_path / "a.mp4")
    (outcome,) = json.loads((tmp_path / "out/outcomes.json").read_text())
    assert outcome["notes"] == ["error: assertion failed"]


def test_of_a_video_that_breaks_off_what_there_is_is_predicted(run, portraits, tmp_path):
    noise = np.random.default_rng(0).integers(0, 40, (75, *portraits.one.shape), np.uint8)
    whole = write(
        tmp_path / "whole.mp4",
        [np.clip(portraits.one + each, 0, 255).astype(np.uint8) for each in noise],
        fast_start=True,
    )
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    out = run(tmp_path / "cut.mp4", "--html")
    assert 20 < len(rows_of(out / "cut.mp4")) < 60
    (outcome,) = json.loads((out / "outcomes.json").read_text())
    assert outcome["result"] == "partly"
    assert any("are predicted" in note for note in outcome["notes"])


def test_damaged_packets_are_left_out_and_told(run, portraits, tmp_path):
    path = write(tmp_path / "whole.mkv", [portraits.one] * 50, sound=tone(2))
    with av.open(str(path)) as whole, av.open(str(tmp_path / "a.mkv"), "w") as damaged:
        streams = [damaged.add_stream_from_template(stream) for stream in whole.streams]
        for number, packet in enumerate(whole.demux()):
            if packet.dts is None:
                continue
            if packet.stream.type == "audio" and 40 < number < 45:
                nonsense = av.Packet(b"\xff" * 50)
                nonsense.pts, nonsense.dts, nonsense.time_base = packet.pts, packet.dts, packet.time_base
                nonsense.stream = streams[1]
                packet = nonsense
            else:
                packet.stream = streams[packet.stream.index]
            damaged.mux(packet)
    out = run(tmp_path / "a.mkv", "--html")
    assert len(rows_of(out / "a.mkv")) == 50
    (outcome,) = json.loads((out / "outcomes.json").read_text())
    assert outcome["result"] == "partly"
    assert outcome["notes"][0].startswith("damaged packets were left out: ")
    assert "Damaged packets were left out" in (out / "a.mkv/page.html").read_text()


def test_a_file_whose_streams_begin_or_end_apart_is_whole(run, portraits, tmp_path):
    write(tmp_path / "longer.mp4", [portraits.one] * 50, sound=tone(6))
    soundfile.write(tmp_path / "a.wav", tone(4), RATE_HZ)
    with av.open(str(tmp_path / "a.wav")) as wav, av.open(str(tmp_path / "a.aac"), "w", format="adts") as raw:
        stream = raw.add_stream("aac", rate=RATE_HZ, layout="mono")
        for frame in wav.decode(audio=0):
            raw.mux(stream.encode(frame))
        raw.mux(stream.encode(None))
    for arguments in ([], ["--modalities", "face"], ["--modalities", "voice"]):
        out = run(tmp_path / "longer.mp4", *arguments)
        assert [each["result"] for each in json.loads((out / "outcomes.json").read_text())] == ["predicted"]
    (outcome,) = json.loads((run(tmp_path / "a.aac") / "outcomes.json").read_text())
    assert outcome["result"] == "predicted"


def test_a_video_that_was_cut_before_a_key_frame_has_its_page(run, portraits, tmp_path):
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libvpx", rate=25, options={"g": "20", "deadline": "realtime"})
        video.height, video.width, video.pix_fmt = *portraits.one.shape[:2], "yuv420p"
        packets = [
            packet
            for image in [*[portraits.one] * 50, None]
            for packet in video.encode(None if image is None else av.VideoFrame.from_ndarray(image, format="rgb24"))
        ]
        for packet in packets[1:]:
            container.mux(packet)
    out = run(path, "--html")
    (outcome,) = json.loads((out / "outcomes.json").read_text())
    assert outcome["result"] in ("predicted", "partly")
    assert 25 <= len(rows_of(out / "a.webm")) <= 50
    assert (out / "a.webm/page.html").is_file()


def test_a_video_without_frames_fails_and_with_sound_it_is_heard(run, tmp_path):
    for name, sound in (("mute.mkv", None), ("heard.mkv", tone(2))):
        with av.open(str(tmp_path / name), "w") as container:
            container.add_stream("libx264", rate=25, width=64, height=48, pix_fmt="yuv420p")
            audio = container.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono")
            samples = np.zeros((1, 0), np.int16) if sound is None else (sound.T * 32767).astype(np.int16)
            container.start_encoding()
            if samples.size:
                frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
                frame.sample_rate = RATE_HZ
                container.mux(audio.encode(frame))
                container.mux(audio.encode(None))
    with pytest.raises(SystemExit, match="1 of 2 could not"):
        run(tmp_path / "mute.mkv", tmp_path / "heard.mkv")
    mute, heard = json.loads((tmp_path / "out/outcomes.json").read_text())
    assert mute["result"] == "failed"
    assert len(rows_of(tmp_path / "out/heard.mkv")) == 50
    assert "no face was found" in heard["notes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4 isn't there"),
        (["."], "holds no video, sound or picture"),
        (["a/x.wav", "b/x.wav"], "would both be written to x.wav"),
    ],
)
def test_inputs_that_cannot_be_meant_are_refused(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    if "a/x.wav" in arguments:
        for name in arguments:
            (tmp_path / name).parent.mkdir()
            soundfile.write(tmp_path / name, tone(0.1), RATE_HZ)
    with pytest.raises(SystemExit, match=message):
        run(*arguments)


def test_a_model_for_voices_alone_is_asked_of_sound_only(run, model, portraits, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "load_model", lambda run: replace(model, uses=(False, True)))
    Image.fromarray(portraits.one).save(tmp_path / "a.png")
    write(tmp_path / "mute.mp4", [portraits.one] * 5)
    write(tmp_path / "silent.mp4", [portraits.one] * 5, sound=0 * tone(0.2))
    soundfile.write(tmp_path / "a.wav", tone(1), RATE_HZ)
    with pytest.raises(SystemExit, match="2 of 4"):
        run(*(tmp_path / name for name in ("a.png", "mute.mp4", "silent.mp4", "a.wav")))
    outcomes = {each["input"].split("/")[-1]: each for each in json.loads((tmp_path / "out/outcomes.json").read_text())}
    for name in ("a.png", "mute.mp4"):
        assert outcomes[name]["result"] == "failed"
        assert "want something else" in outcomes[name]["notes"][0]
    assert "nothing that this model could tell" in outcomes["silent.mp4"]["notes"][0]
    assert outcomes["a.wav"]["result"] == "predicted"


def test_without_a_model_the_demos_is_taken_with_a_warning(tmp_path, monkeypatch, capsys, model):
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "a.wav", tone(0.2), RATE_HZ)
    with pytest.raises(SystemExit, match="no --model is named"):
        avemo("predict", "a.wav")
    (tmp_path / predict.DEMO_MODEL).mkdir(parents=True)
    synthetic = replace(model, synthetic=("affectnet", "recola"))
    monkeypatch.setattr(predict, "load_model", lambda run: synthetic)
    monkeypatch.setattr(predict, "run_input", lambda run: {"fingerprint": "demo"})
    avemo("predict", "a.wav", "--html")
    assert "warning: This model has learned from synthetic corpora in the form of AffectNet" in capsys.readouterr().out
    assert "AffectNet, RECOLA, whose people are drawn" in (tmp_path / "predictions/a.wav/page.html").read_text()


def test_a_face_network_alone_tells_no_valence_it_has_not_learned(run, model, portraits, tmp_path, monkeypatch):
    face = StreamModel.of_face(FACE, model.variables[0], CROP, rates=False)
    monkeypatch.setattr(predict, "load_model", lambda run: face)
    write(tmp_path / "a.mp4", [portraits.one] * 10, sound=tone(0.4))
    rows = rows_of(run(tmp_path / "a.mp4") / "a.mp4")
    assert {row["valence"] for row in rows} == {""}
    assert {row["voice_valid"] for row in rows} == {"0"}
    soundfile.write(tmp_path / "b.wav", tone(0.2), RATE_HZ)
    with pytest.raises(SystemExit, match="1 of 1"):
        run(tmp_path / "b.wav")


def test_live_tells_a_line_a_second_and_where_the_time_went(run, portraits, tmp_path, capsys):
    path = write(tmp_path / "a.mp4", moving(portraits.one, 30), sound=tone(1.2))
    out = run(path, "--live")
    said = capsys.readouterr().out
    assert "0.00 s  face 1" in said
    assert "1.00 s  face 1" in said
    for part in ("find the face", "cut it out", "networks", "face network alone", "voice network alone", "fusion"):
        assert part in said
    offline = rows_of(run(path) / "a.mp4")
    for row, other in zip(rows_of(out), offline, strict=True):
        assert float(row["valence"]) == pytest.approx(float(other["valence"]), abs=2e-4)


def test_of_a_stream_that_breaks_off_the_rows_are_kept(run, portraits, tmp_path, monkeypatch):
    def breaks_off(*_, **__):
        yield from (("picture", portraits.one) for _ in range(12))
        raise DataError("unplugged")

    write(tmp_path / "a.mp4", [portraits.one] * 30)
    monkeypatch.setattr("launch.live.video.play", breaks_off)
    with pytest.raises(SystemExit, match="unplugged"):
        run(tmp_path / "a.mp4", "--live")
    assert len(rows_of(tmp_path / "out")) == 12


def test_of_a_live_stream_the_rows_outlive_whatever_ends_it(run, portraits, tmp_path, monkeypatch):
    calls = itertools.count()

    def runs_out(latency, name, frames=1):
        if next(calls) == 60:
            raise OSError("No space left on device")
        return contextlib.nullcontext()

    write(tmp_path / "a.mp4", [portraits.one] * 40)
    monkeypatch.setattr("launch.latency.Latency.part", runs_out)
    with pytest.raises(SystemExit, match="No space left"):
        run(tmp_path / "a.mp4", "--live")
    assert 15 < len(rows_of(tmp_path / "out")) < 40


def test_live_pictures_and_sound_may_come_from_two_sources(run, portraits, tmp_path, capsys):
    write(tmp_path / "camera.mp4", [portraits.one] * 60)
    sound = np.concatenate([np.zeros((RATE_HZ, 1), np.float32), tone(9)])  # from the 25th frame on, and for longer
    soundfile.write(tmp_path / "microphone.wav", sound, RATE_HZ)
    rows = rows_of(run(tmp_path / "camera.mp4", tmp_path / "microphone.wav", "--live"))
    assert len(rows) == 60
    assert {row["face_valid"] for row in rows} == {"1"}
    voiced = [row["voice_valid"] == "1" for row in rows]
    assert voiced.index(True) == pytest.approx(25, abs=10)  # the two are opened one after the other
    assert all(voiced[35:])
    with pytest.raises(SystemExit, match="holds rows already"):
        run(tmp_path / "camera.mp4", "--live")
    with pytest.raises(SystemExit):
        run("a", "b", "c", "--live")
    assert "the sound of another" in capsys.readouterr().err


def test_sound_that_another_source_sends_before_the_first_picture_belongs_to_none():
    played = [("sound", 1), ("sound", 2), ("picture", 3), ("sound", 4), ("picture", 5)]
    assert list(live.from_first_picture(played)) == played[2:]


def test_live_makes_no_page(run, capsys):
    with pytest.raises(SystemExit):
        run("v4l2:/dev/video0", "--live", "--html")
    assert "--live keeps rows as CSV" in capsys.readouterr().err


def test_live_takes_whatever_ffmpeg_opens(run, tmp_path, capsys):
    run("lavfi:testsrc=size=320x240:rate=25:duration=0.4", "--live")
    assert "no face" in capsys.readouterr().out
    assert len(rows_of(tmp_path / "out")) == 10
    (tmp_path / "out/frames.csv").unlink()
    with pytest.raises(SystemExit, match="can't be opened"):
        run("v4l2:/dev/nothing", "--live")


def test_frames_are_as_old_as_their_pictures_or_their_sound():
    arrivals = live.Arrivals()
    list(arrivals.of([("sound", np.zeros(1_000)), ("picture", np.zeros(1)), ("picture", np.zeros(1))]))
    assert len(arrivals._times) == 2
    heard = live.Arrivals()
    list(heard.of([("sound", np.zeros(1_000)), ("sound", np.zeros(1_000))]))
    assert len(heard._times) == 3
    assert heard.age_s(2) >= 0


def test_what_is_made_ahead_comes_in_order_errors_too_and_the_thread_ends():
    assert list(ahead(iter(range(100)), most=3)) == list(range(100))

    def breaks():
        yield 1
        raise OSError("broken")

    items = ahead(breaks(), most=3)
    assert next(items) == 1
    with pytest.raises(OSError, match="broken"):
        next(items)
    endless = ahead(iter(int, 1), most=3)
    next(endless)
    endless.close()


def test_what_is_long_in_coming_is_not_waited_for_once_there_is_enough():
    told, never = threading.Event(), threading.Event()

    def stalls():
        yield 1
        never.wait()

    items = ahead(stalls(), most=3, enough=told.is_set)
    assert next(items) == 1
    told.set()
    assert list(items) == []
    never.set()


def test_looking_into_files_tells_what_they_hold(portraits, tmp_path):
    video = look_into(write(tmp_path / "a.mp4", [portraits.one] * 50, sound=tone(2)))
    assert (video.video, video.sound, video.picture, video.frame_rate_hz) == (True, True, False, 25)
    assert video.duration_s == pytest.approx(2, abs=0.1)
    Image.fromarray(portraits.one).save(tmp_path / "a.png")
    assert look_into(tmp_path / "a.png").picture
