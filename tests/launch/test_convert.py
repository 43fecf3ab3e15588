"""`avemo convert` and `--trunk`, but for the reading of torch's own file (see test_convert_parity)."""

import jax
import numpy as np
import pytest
from conftest import avemo
from flax.traverse_util import flatten_dict
from test_chain import TEACHER, message

from avemo.models.face import FaceConfig, FaceNetwork, trunk_shapes
from avemo.models.inception_resnet import InceptionResNetConfig
from launch.convert import facenet_trunk, flax_name, read_trunk
from launch.errors import LaunchError


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("conv2d_1a.conv.weight", "params/conv2d_1a/conv/kernel"),
        ("repeat_1.0.branch2.1.bn.running_var", "batch_stats/repeat_1_0/branch2_1/bn/var"),
        ("repeat_2.9.conv2d.bias", "params/repeat_2_9/conv2d/bias"),
        ("mixed_7a.branch0.1.bn.weight", "params/mixed_7a/branch0_1/bn/scale"),
        ("last_linear.weight", ""),
    ],
)
def test_where_an_array_goes(theirs, ours):
    assert flax_name(theirs) == ours


def test_other_weights_are_refused():
    with pytest.raises(LaunchError, match="they are not those of facenet-pytorch's InceptionResnetV1"):
        facenet_trunk({"fc.weight": np.zeros((2, 2))})


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
    (tmp_path / "no.npz").write_bytes(b"no")
    with pytest.raises(LaunchError, match="is no converted trunk"):
        read_trunk(tmp_path / "no.npz")


def test_a_teacher_begins_with_it_or_says_why_not(tiny, tmp_path):
    smallest_trunk(tmp_path / "trunk.npz")
    options = ["--data", tiny.data, "--trunk", tmp_path / "trunk.npz", *TEACHER]
    avemo("train", "teacher", "--out", tmp_path / "run", *options)
    assert "is none of InceptionResNetConfig" in message(
        "train", "teacher", "--out", tmp_path / "other", *options, "--network.trunk.width", "0.25"
    )
