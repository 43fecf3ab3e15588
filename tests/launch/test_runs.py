import json
from dataclasses import replace

import pytest

from avemo.models.face import DEMO_STUDENT
from avemo.stages import fusion, student, teacher
from launch.errors import LaunchError
from launch.loop import start_run
from launch.runs import RunRecord, first_difference, plain, read_record, stage_config

CONFIGS = [
    ("teacher", teacher.PAPER),
    ("teacher", teacher.DEMO),
    ("student", student.PAPER),
    ("student", student.DEMO),
    ("fusion", fusion.PAPER),
    ("fusion", fusion.DEMO),
]


@pytest.mark.parametrize(("stage", "config"), CONFIGS)
def test_every_preset_survives_the_way_through_json(tmp_path, stage, config):
    start_run(tmp_path / "run", RunRecord.new(stage, "demo", 0, config, {}), steps=1, resume=False)
    assert stage_config(tmp_path / "run", stage, type(config)) == config


def test_the_record_holds_what_repeats_the_run(tmp_path):
    record = RunRecord.new("teacher", "demo", 7, teacher.DEMO, {"affectnet": "abc"})
    start_run(tmp_path / "run", record, steps=1, resume=False)
    assert read_record(tmp_path / "run") == record
    assert record.seed == 7
    assert {"python", "jax", "numpy"} <= set(record.versions)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(LaunchError, match="is no training run"):
        read_record(tmp_path)


def test_a_run_of_another_stage_is_refused(tmp_path):
    start_run(tmp_path / "run", RunRecord.new("fusion", "demo", 0, fusion.DEMO, {}), steps=1, resume=False)
    with pytest.raises(LaunchError, match="holds a fusion, not a teacher"):
        stage_config(tmp_path / "run", "teacher", teacher.FaceTraining)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record["config"].update(unheard_of=1),
        lambda record: record["config"].update(steps="many"),
        lambda record: record["config"].update(steps=0),
        lambda record: record.pop("config"),
    ],
)
def test_a_spoilt_record_is_one_line(tmp_path, spoil):
    run = tmp_path / "run"
    start_run(run, RunRecord.new("teacher", "demo", 0, teacher.DEMO, {}), steps=1, resume=False)
    record = json.loads((run / "run.json").read_text())
    spoil(record)
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(LaunchError, match=r"run\.json") as error:
        stage_config(run, "teacher", teacher.FaceTraining)
    assert "\n" not in str(error.value)


def test_first_difference_is_named_by_its_path():
    one, other = plain(teacher.DEMO), plain(replace(teacher.DEMO, network=replace(DEMO_STUDENT, growth=3)))
    assert first_difference(one, one) is None
    assert first_difference(one, other, "config").startswith("config.network")


def test_a_run_goes_on_where_the_one_that_it_builds_on_was_moved_but_not_where_it_is_another(tmp_path):
    built_on = lambda where, what: {"teacher": [{"run": where, "fingerprint": what}]}
    record = lambda inputs: RunRecord.new("student", "demo", 0, student.DEMO, inputs)
    start_run(tmp_path / "run", record(built_on("/here", "abc")), steps=1, resume=False)
    assert start_run(tmp_path / "run", record(built_on("/there", "abc")), steps=1, resume=True)
    with pytest.raises(LaunchError, match=r"another inputs\.teacher"):
        start_run(tmp_path / "run", record(built_on("/here", "abd")), steps=1, resume=True)
