"""`avemo convert` and `--trunk`, but for the reading of torch's own file (see test_convert_parity)."""

import jax
import numpy as np
import pytest
from conftest import avemo
from flax.traverse_util import flatten_dict
from test_chain import TEACHER, message

from avemo.models.face import FaceConfig, FaceNetwork, trunk_shapes
from avemo.models.inception_resnet import InceptionResNetConfig
from launch.convert import PUBLISHED, convert_trunk, flax_name, read_trunk
from launch.errors import LaunchError


@pytest.mark.parametrize(
    ("network", "theirs", "ours"),
    [
        ("facenet", "conv2d_1a.conv", "conv2d_1a/conv"),
        ("facenet", "repeat_1.0.branch2.1.bn", "repeat_1_0/branch2_1/bn"),
        ("facenet", "repeat_2.9.conv2d", "repeat_2_9/conv2d"),
        ("facenet", "mixed_7a.branch0.1.bn", "mixed_7a/branch0_1/bn"),
        ("densenet121", "features.conv0", "stem/conv"),
        ("densenet121", "features.denseblock4.denselayer16.norm2", "dense_3_15/bn_2"),
        ("densenet121", "features.denseblock1.denselayer2.conv.1", "dense_0_1/conv_1"),  # in published files
        ("densenet121", "features.transition3.norm", "transition_3_bn"),
        ("densenet121", "classifier", ""),
        ("mobilenet_v3_small", "features.0.1", "stem/bn"),
        ("mobilenet_v3_small", "features.1.block.0.0", "block_0/depthwise/conv"),  # 16 channels: not expanded
        ("mobilenet_v3_small", "features.1.block.1.fc2", "block_0/excite/fc2"),
        ("mobilenet_v3_small", "features.2.block.2.1", "block_1/project/bn"),
        ("mobilenet_v3_small", "features.12.0", "last/conv"),
        ("mobilenet_v3_large", "features.16.1", "last/bn"),
        ("mobilenet_v3_large", "classifier.0", ""),
        ("mobilenet_v3_small", "features.13.block.0.0", ""),  # large's
        ("mobilenet_v3_large", "features.1.block.2.0", ""),  # small's
    ],
)
def test_where_a_module_goes(network, theirs, ours):
    assert PUBLISHED[network].ours(theirs) == ours


@pytest.mark.parametrize(
    ("kind", "axes", "name"),
    [
        ("weight", 4, "params/stem/kernel"),
        ("weight", 1, "params/stem/scale"),
        ("bias", 1, "params/stem/bias"),
        ("running_mean", 1, "batch_stats/stem/mean"),
        ("running_var", 1, "batch_stats/stem/var"),
    ],
)
def test_what_an_array_is_called(kind, axes, name):
    assert flax_name("stem", kind, axes) == name


@pytest.mark.parametrize(("network", "name"), [("facenet", "InceptionResnetV1"), ("densenet121", "densenet121")])
def test_other_weights_are_refused(network, name):
    with pytest.raises(LaunchError, match=f"they are not those of [a-z-]+'s {name}"):
        convert_trunk({"fc.weight": np.zeros((2, 2))}, network)


def smallest_trunk(path):
    trunk = InceptionResNetConfig(width=0.125, blocks=(1, 1), stem_pool=False)
    shapes = trunk_shapes(FaceNetwork(FaceConfig(trunk=trunk)))
    rng = np.random.default_rng(0)
    trunk = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes)
    np.savez(path, **flatten_dict(trunk, sep="/"))
    return trunk


def test_what_was_written_is_read_again(tmp_path):
    trunk = smallest_trunk(tmp_path / "trunk.npz")
    jax.tree.map(np.testing.assert_array_equal, read_trunk(tmp_path / "trunk.npz"), trunk)
    whole = (tmp_path / "trunk.npz").read_bytes()
    for damaged in (b"no", b"", whole[: len(whole) // 2]):
        (tmp_path / "no.npz").write_bytes(damaged)
        with pytest.raises(LaunchError, match="is no converted trunk"):
            read_trunk(tmp_path / "no.npz")


def test_a_teacher_begins_with_it_or_says_why_not(tiny, tmp_path):
    smallest_trunk(tmp_path / "trunk.npz")
    options = ["--data", tiny.data, "--trunk", tmp_path / "trunk.npz", *TEACHER]
    avemo("train", "teacher", "--out", tmp_path / "run", *options)
    assert "is none of InceptionResNetConfig" in message(
        "train", "teacher", "--out", tmp_path / "other", *options, "--network.trunk.width", "0.25"
    )
