"""`avemo fetch fec`: what a user sees of a run."""

from collections import Counter
from pathlib import Path

import pytest
import tyro

from data_pipelines.fetch import FetchConfig, Outcome
from launch import fetch
from launch.fetch import Fetch


def parse(*arguments: str) -> Fetch:
    return tyro.cli(Fetch, args=arguments)


def test_settings_come_from_the_command_line() -> None:
    command = parse("fec", "--source", "FEC", "--contact", "someone@example.org", "--per-host", "2", "--retry-failed")
    assert command == Fetch(
        "fec", Path("FEC"), FetchConfig(contact="someone@example.org", per_host=2, retry_failed=True)
    )


def test_links_to_this_machine_are_refused_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = "".join(f"http://127.0.0.1:1/{number},0.1,0.4,0.2,0.8," for number in range(3))
    for split in ("train", "test"):
        (tmp_path / f"faceexp-comparison-data-{split}-public.csv").write_text(f"{row}ONE_CLASS_TRIPLET,a,1\n")
    parse("fec", "--source", str(tmp_path))()
    shown = " ".join(capsys.readouterr().out.split())
    assert "address refused │ 3" in shown
    assert "another time" not in shown
    assert len((tmp_path / "fetched.jsonl").read_text().splitlines()) == 3


def test_what_may_work_later_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {Outcome.FETCHED: 5, Outcome.TIMED_OUT: 2, Outcome.NOT_FOUND: 4, Outcome.SERVER_ERROR: 1}
    monkeypatch.setattr(fetch, "fetch_photographs", lambda *_: Counter(counts))
    parse("fec", "--source", "FEC")()
    shown = " ".join(capsys.readouterr().out.split())
    assert "│ fetched │ 5 │ │ not found │ 4 │ │ timed out │ 2 │" in shown
    assert "3 links may work at another time" in shown


def test_an_interrupted_run_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "fetch_photographs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        parse("fec", "--source", "FEC")()
    assert "the same command goes on" in capsys.readouterr().out
