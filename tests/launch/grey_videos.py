"""Videos that tell by their grey which frame is shown."""

import av
import numpy as np


def write_video(path, frames, size=(64, 48), rate=25, sound_s=0.0):
    """Grey pictures, the k-th 3 k brighter than the first, and a tone."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "1"})
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono") if sound_s else None
        for number in range(frames):
            image = np.full((size[1], size[0], 3), 16 + 3 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        if audio:
            tone = 0.4 * np.sin(np.arange(round(16_000 * sound_s)) / 10).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
        container.mux(video.encode(None))
    return path
