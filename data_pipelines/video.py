"""Video and its sound: frames at 25 Hz, uint8 RGB, H×W×3, and 16 kHz mono, decoded bit by bit in constant memory.

Frames come upright: turned and mirrored as the file says, which phones make use of.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soxr
from av.stream import Disposition

from avemo.labels import FRAME_RATE_HZ, SAMPLE_RATE_HZ
from data_pipelines.errors import DataError
from data_pipelines.sound import check_numbers

Played = tuple[Literal["picture", "sound"], np.ndarray]
"""A part of what is played: uint8 RGB H×W×3, or float32 samples in [-1, 1], mono, 16 kHz."""

DEVICES = ("v4l2", "alsa", "pulse", "lavfi")
"""FFmpeg's names of Linux' cameras and microphones, and of test pictures, for sources such as v4l2:/dev/video0."""

_FRONT = ("FL", "FR", "FC")
"""FFmpeg's names of the front channels; of sound with more than two channels only these are heard (our choice)."""

_LISTS = ("hls", "concat", "dash", "imf")
"""Files of these kinds only name others, which may lie anywhere."""

_GUESSED = ("aac", "ac3", "amr", "eac3", "h264", "hevc", "m4v", "mp3")
"""Of files of these kinds, FFmpeg guesses from their size and first rate how long they last."""

_LONGEST_GAP_S = 0.1
"""Where sound is missing for longer than this, silence stands in for it (our choice; cameras drop sound at times),
and where two parts of it overlap by more, the second one's beginning is left out."""

_LONGEST_WAIT_S = 10
"""So long sound is held back until the first picture has come, since it begins with that (our choice)."""

_LONGEST_STEP_BACK_S, _LONGEST_STEP_S = 1, 12 * 60 * 60
"""Where times jump further than that, back or ahead, the stream goes on as if they didn't (our choice)."""


def play(
    source: Path | str, pictures: bool = True, sound: bool = True, damage: Callable[[str], None] | None = None
) -> Iterator[Played]:
    """Plays a file, or what a camera or a server sends, in the order in which it comes.

    Frame k is the one whose time is nearest to k / 25 s after the first; a video at 25 Hz keeps every frame,
    of others some are left out or repeated. A video that lasts D seconds gives 25 · D frames, rounded. Its sound
    begins with the first frame: what comes before is left out, what is missing is silence.

    Args:
        source: A file, or anything else that FFmpeg opens; one that has neither pictures nor sound gives nothing.
        pictures: Whether to decode pictures.
        sound: Whether to decode sound.
        damage: Is told "video" or "sound" for each packet that can't be decoded, and playing goes on without it, the
            gap filled as above; None puts up with none.

    Yields:
        Pictures and sound; the same picture may come more than once.

    Raises:
        DataError: The source can't be opened, or can't be decoded further.
    """
    with _open(source) as container:
        video = _video_stream(container) if pictures else None
        audio = _audio_stream(container) if sound else None
        if video is not None and isinstance(source, Path):
            video.thread_type = "AUTO"  # of a camera it would hold frames back, one for each thread
        streams = [stream for stream in (video, audio) if stream is not None]
        if not streams:
            return
        clock = _Clock(video)
        ears = None
        if audio is not None:
            ears = _Ears(audio, _begins(source, _video_stream(container) or audio), waits=video is not None)
        kind = "sound" if video is None else "video"
        try:
            for frame in _decoded(container, streams, source, damage):
                if isinstance(frame, av.VideoFrame):
                    kind = "video"
                    yield from (("picture", image) for image in clock.show(frame))
                    parts = ears.begin(clock.first_s) if ears is not None else ()
                else:
                    kind = "sound"
                    parts = ears.hear(frame) if ears is not None else ()
                yield from (("sound", _checked(samples, source)) for samples in parts)
        except (av.FFmpegError, ValueError) as error:
            raise _broken(source, kind, error) from error
        yield from (("picture", image) for image in clock.rest())
        if ears is not None:
            yield from (("sound", _checked(samples, source)) for samples in ears.rest())


def frames(path: Path, damage: Callable[[str], None] | None = None) -> Iterator[np.ndarray]:
    """The pictures alone, see `play`.

    Raises:
        DataError: As `play`, or the file has no video stream.
    """
    if not has_video(path):
        raise DataError(f"{path}: has no video stream; give a video")
    for _, image in play(path, sound=False, damage=damage):
        yield image


@dataclass(frozen=True)
class Contents:
    """What there is in a source.

    Attributes:
        video: Whether there are pictures that move; those that only decorate a sound file don't count.
        sound: Whether there is sound, be it silence.
        undecodable_sound: Whether there is sound, but none that FFmpeg has a decoder for.
        picture: Whether it is a single picture.
        duration_s: How long it says it lasts from its first picture, or where it has none its sound, until both have
            ended; None if it doesn't, can only guess from its size, or is a single picture.
        frame_rate_hz: How many pictures it says it has per second; None if it doesn't.
    """

    video: bool
    sound: bool
    undecodable_sound: bool
    picture: bool
    duration_s: float | None
    frame_rate_hz: float | None


def look_into(source: Path | str) -> Contents:
    """What there is in a file, or in what a camera or a server sends; of a video file, one picture is decoded.

    Raises:
        DataError: It can't be opened.
    """
    with _open(source) as container:
        picture = container.format.name == "image2" or container.format.name.endswith("_pipe")
        video = _video_stream(container)
        stream = video or _audio_stream(container)
        duration_s = None
        if stream is not None and container.duration and not picture and container.format.name not in _GUESSED:
            end_s = Fraction((container.start_time or 0) + container.duration, av.time_base)
            duration_s = float(end_s - _begins(source, stream))
        rate_hz = float(video.average_rate) if video is not None and video.average_rate else None
        sound = _audio_stream(container) is not None
        undecodable_sound = not sound and len(container.streams.audio) > 0
        return Contents(video is not None and not picture, sound, undecodable_sound, picture, duration_s, rate_hz)


def has_video(path: Path) -> bool:
    """Whether a file has pictures that move; those that only decorate a sound file don't count.

    Raises:
        DataError: The file can't be opened.
    """
    with _open(path) as container:
        return _video_stream(container) is not None


def is_resampled(path: Path) -> bool:
    """Whether `frames` leaves frames of a video out or repeats some: whether it isn't at 25 Hz throughout.

    Read from the times in the container; nothing is decoded.

    Args:
        path: A video, see `has_video`.

    Raises:
        DataError: The file can't be read.
    """
    with _open(path) as container:
        stream = _video_stream(container)
        if stream is None or not stream.time_base:
            return False
        try:
            packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        except av.FFmpegError as error:
            raise _broken(path, "video", error) from error
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        if len(times) < len(packets):  # Files without times say only how many frames they have per second.
            return stream.average_rate not in (None, FRAME_RATE_HZ)
        numbers = [round((time - times[0]) * stream.time_base * FRAME_RATE_HZ) for time in times]
        return numbers != list(range(len(numbers)))


def load_sound_track(path: Path) -> np.ndarray:
    """The sound of a video file, from the time of its first frame on.

    Args:
        path: Any container that FFmpeg reads.

    Returns:
        float32 in [-1, 1], mono (the mean of the channels; of more than two, of the front ones), 16 kHz; empty if the
        file has no sound.

    Raises:
        DataError: The file can't be opened, or its sound can't be decoded.
    """
    if look_into(path).undecodable_sound:
        raise DataError(f"{path}: no decoder for its sound; encode the sound anew, as AAC for example")
    parts = [samples for _, samples in play(path, pictures=False)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _open(source: Path | str) -> av.container.InputContainer:
    """Open a file, which may lead to no other one and to no server; or, given as text, whatever the user names."""
    try:
        if isinstance(source, Path):
            path = str(source.absolute())  # in a relative one, what precedes a colon would be taken for a protocol
            container = av.open(path, options={"protocol_whitelist": "file"}, metadata_errors="replace")
            if container.format.name in _LISTS:
                container.close()
                raise DataError(f"{source}: only a list of other files ({container.format.name}); give the files")
            return container
        device, _, name = source.partition(":")
        if device in DEVICES:
            return av.open(name, format=device, metadata_errors="replace")
        return av.open(source, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise DataError(f"{source}: can't be opened as video ({error}); fetch the file anew") from error


def _video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The pictures of a file; not the cover of an album."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    return None


def _audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The sound of a file, where there is any and FFmpeg knows how it is encoded."""
    for stream in container.streams.audio:
        if stream.codec_context is not None and stream.codec_context.sample_rate:
            return stream
    return None


def _decoded(
    container: av.container.InputContainer,
    streams: Sequence[av.VideoStream | av.AudioStream],
    source: Path | str,
    damage: Callable[[str], None] | None,
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    """The frames of some streams in the order in which they come; `damage` as in `play`."""
    for packet in container.demux(streams):
        try:
            decoded = packet.decode()
        except av.FFmpegError as error:
            kind = "video" if isinstance(packet.stream, av.VideoStream) else "sound"
            if damage is None:
                raise _broken(source, kind, error) from error
            damage(kind)
            continue
        yield from (frame for frame in decoded if isinstance(frame, av.VideoFrame | av.AudioFrame))


def _broken(source: Path | str, kind: str, error: Exception) -> DataError:
    return DataError(f"{source}: broken {kind} ({error}); fetch the file anew")


def _seconds(stream: av.VideoStream | av.AudioStream) -> Fraction:
    """When a stream begins, as it says."""
    return (stream.start_time or 0) * (stream.time_base or Fraction(1))


def _begins(source: Path | str, stream: av.VideoStream | av.AudioStream) -> Fraction:
    """When the pictures of a file begin that can be decoded: after a cut, that may be later than they say."""
    if isinstance(source, Path) and isinstance(stream, av.VideoStream):
        with _open(source) as container, contextlib.suppress(av.FFmpegError):
            same = [each for each in container.streams.video if each.index == stream.index]
            first = next(_decoded(container, same, source, damage=lambda kind: None), None)
            if isinstance(first, av.VideoFrame) and first.pts is not None and first.time_base is not None:
                return first.pts * first.time_base
    return _seconds(stream)


def _checked(samples: np.ndarray, source: Path | str) -> np.ndarray:
    check_numbers(samples, source)
    return samples


class _Continued:
    """The times of a stream, made to go on where they jump: in files that were joined, or where a counter wraps."""

    def __init__(self) -> None:
        self._shift = Fraction(0)
        self._last: tuple[Fraction, Fraction] | None = None

    def time(self, time: Fraction, duration: Fraction) -> Fraction:
        """When a frame begins that says it begins then, and that lasts so long."""
        time += self._shift
        if self._last is not None and not -_LONGEST_STEP_BACK_S <= time - self._last[0] <= _LONGEST_STEP_S:
            end = self._last[0] + self._last[1]
            self._shift, time = self._shift + end - time, end
        self._last = time, duration
        return time


class _Clock:
    """Shows the frames of a video at 25 Hz, each when the next one's time is known.

    Attributes:
        first_s: When the first one begins, once it has come.
    """

    def __init__(self, stream: av.VideoStream | None) -> None:
        rate = stream.average_rate if stream is not None else None
        self._duration = 1 / Fraction(rate or FRAME_RATE_HZ)
        self._aspect = Fraction((stream.sample_aspect_ratio if stream is not None else None) or 1)
        self._continued = _Continued()
        self.first_s = Fraction(0)
        self._last: tuple[Fraction, av.VideoFrame] | None = None
        self._decoded = self._shown = 0

    def show(self, frame: av.VideoFrame) -> Iterator[np.ndarray]:
        """Take the next frame; what comes out is the one before, as often as it is to be shown."""
        time = self._decoded * self._duration  # Files without times say only how many frames they have per second.
        if frame.pts is not None and frame.time_base is not None:
            time = frame.pts * frame.time_base
        time = self._continued.time(time, self._duration)
        if self._decoded == 0:
            self.first_s = time
        start = time - self.first_s
        if self._last is not None:
            middle = (self._last[0] + start) / 2 * FRAME_RATE_HZ
            yield from self._until(math.floor(middle) + 1)
        self._last = start, frame
        self._decoded += 1

    def rest(self) -> Iterator[np.ndarray]:
        """The last frame, as often as it is to be shown."""
        if self._last is not None:
            yield from self._until(round((self._last[0] + self._duration) * FRAME_RATE_HZ))

    def _until(self, count: int) -> Iterator[np.ndarray]:
        """The frame at hand, until so many have been shown in all."""
        if self._shown < count and self._last is not None:
            image = _upright(self._last[1], self._aspect)
            for _ in range(count - self._shown):
                self._shown += 1
                yield image


class _Ears:
    """Turns the decoded sound of a stream into 16 kHz, mono, from a given time on."""

    def __init__(self, stream: av.AudioStream, start: Fraction, waits: bool) -> None:
        """Begin at a time; where it waits, only if none else has been said after a while."""
        self._rate_hz = stream.rate
        self._as_float = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        self._front = [i for i, channel in enumerate(stream.layout.channels) if channel.name in _FRONT]
        self._resampler = soxr.ResampleStream(stream.rate, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
        self._continued = _Continued()
        self._end = _seconds(stream)
        self._start, self._waits = start, waits
        self._surplus = round((start - self._end) * self._rate_hz)
        self._held: list[av.AudioFrame] = []

    def begin(self, start: Fraction) -> Iterator[np.ndarray]:
        """Begin at this time, unless it has begun; what was held back comes now."""
        if self._waits:
            self._waits = False
            self._surplus = round((start - self._end) * self._rate_hz)
            for frame in self._held:
                yield from self.hear(frame)
            self._held.clear()

    def hear(self, frame: av.AudioFrame) -> Iterator[np.ndarray]:
        """The samples of the next frame, and before them silence where something is missing, a second at a time."""
        if self._waits:
            self._held.append(frame)
            if sum(each.samples for each in self._held) > _LONGEST_WAIT_S * self._rate_hz:
                yield from self.begin(self._start)
            return
        if frame.pts is None or frame.time_base is None:
            time = self._end
        else:
            time = self._continued.time(frame.pts * frame.time_base, Fraction(frame.samples, self._rate_hz))
        if abs(time - self._end) > _LONGEST_GAP_S:
            self._surplus -= round((time - self._end) * self._rate_hz)
            self._end = time
        parts = [self._mixed(part.to_ndarray()) for part in self._as_float.resample(frame)]
        samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        self._end += Fraction(len(samples), self._rate_hz)
        left_out = min(max(self._surplus, 0), len(samples))
        while self._surplus < 0:
            silence = np.zeros(min(-self._surplus, self._rate_hz), np.float32)
            self._surplus += len(silence)
            yield self._resampler.resample_chunk(silence)
        self._surplus -= left_out
        yield self._resampler.resample_chunk(samples[left_out:].astype(np.float32))

    def rest(self) -> Iterator[np.ndarray]:
        """What has been kept back."""
        yield from self.begin(self._start)
        yield self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def _mixed(self, samples_CxN: np.ndarray) -> np.ndarray:
        """The mean of the channels; of many, that of the front ones, where speech is."""
        return (samples_CxN[self._front] if len(samples_CxN) > 2 and self._front else samples_CxN).mean(axis=0)


def _upright(frame: av.VideoFrame, aspect: Fraction) -> np.ndarray:
    """A frame as it is to be shown: its pixels square, turned by quarters and mirrored as its display matrix says."""
    image = _square(frame, aspect).to_ndarray(format="rgb24")
    try:
        display = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 stumbles over kinds that it has no name for, such as a JPEG's EXIF
        display = None
    if display is None:
        return image
    # Of x' = a·x + c·y, y' = b·x + d·y, in rows (a, b, 0), (c, d, 0), only the signs matter for quarter turns.
    a, b, _, c, d = np.frombuffer(display, np.int32)[:5].tolist()  # type: ignore[call-overload]  # It is a buffer.
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _square(frame: av.VideoFrame, aspect: Fraction) -> av.VideoFrame:
    """A frame whose pixels are as wide as they are high; those of old cameras and of DVDs aren't."""
    if aspect == 1:
        return frame
    return frame.reformat(width=max(round(frame.width * aspect), 1), interpolation="BILINEAR")
