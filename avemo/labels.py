"""Names and rates that the data pipelines and the models must agree on: plain data, no imports.

This is the only module of `avemo` that `data_pipelines` may import.
"""

EXPRESSIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
"""Expression classes in AffectNet's own order (codes 0 to 7). Published models differ: map by name."""

EXPRESSIONS_7 = EXPRESSIONS[:7]
"""The seven-class protocol leaves contempt out."""

DIMENSIONS = ("valence", "arousal")
"""Order of the last axis wherever valence and arousal stand together."""

TRIPLET_KINDS = ("ONE_CLASS_TRIPLET", "TWO_CLASS_TRIPLET", "THREE_CLASS_TRIPLET")
"""Google FEC's triplet types, in the order of their integer code in prepared records."""

FRAME_RATE_HZ = 25
"""Rate of video frames, of labels and of predictions."""

SAMPLE_RATE_HZ = 16_000
"""Rate of prepared sound."""

SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FRAME_RATE_HZ
"""Sound samples that belong to one 40 ms frame (640)."""
