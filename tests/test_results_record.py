"""The schema: what a record must and must not say, and that it survives the round trip through JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import ValidationError
from result_records import make_record

from slabench.records import environment
from slabench.records.record import CurvePoint, RunRecord, Score, protocol_digest


def test_round_trip_through_json() -> None:
    record = make_record("sla", accuracies={"single": [0.5], "aggregated": [0.6]}, warnings=["a note: ±, 図"])
    text = record.model_dump_json(by_alias=True)
    assert json.loads(text)["schema"] == "slabench.run/1"
    assert RunRecord.model_validate_json(text) == record


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"surprise": 1}, "surprise"),
        ({"schema": "slabench.run/2"}, "schema"),
        ({"key": "not a digest"}, "key"),
        ({"started": "2026-01-01T00:00:00+02:00"}, "not in UTC"),
        ({"started": "2026-01-01T00:00:00"}, "not in UTC"),
        ({"started": "yesterday"}, "started"),
        ({"recipe": {"train": {"lr": math.nan}}}, "recipe"),
        ({"environment": {"device": object()}}, "environment"),
        ({"scores": []}, "a finished trial has scores|scores"),
        ({"cost": None}, "cost"),
        ({"selection": None}, "selection"),
        ({"error": "boom"}, "no error"),
        ({"status": "failed"}, "needs a reason"),
        ({"status": "paused"}, "status"),
        ({"side_file": "a.npz"}, "go together"),
        ({"scores": [{"predictor": "single", "value": 0.5, "n": 2}] * 2}, "scored twice"),
    ],
)
def test_what_a_record_refuses(changes: dict[str, Any], words: str) -> None:
    values = make_record().model_dump(by_alias=True)
    RunRecord.model_validate(values)
    with pytest.raises(ValidationError, match=words):
        RunRecord.model_validate({**values, **changes})


@pytest.mark.parametrize("value", [50.3, -0.1, math.nan, math.inf])
def test_a_score_is_a_fraction(value: float) -> None:
    with pytest.raises(ValidationError):
        Score(predictor="single", value=value, n=1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_does_not_have_are_refused(value: float) -> None:
    for field in ("ci95", "std"):
        with pytest.raises(ValidationError, match="finite"):
            Score.model_validate({"predictor": "single", "value": 0.5, "n": 1, field: value})
    with pytest.raises(ValidationError, match="finite"):
        CurvePoint(step=1, images_seen=1, seconds=1.0, loss=value)


def test_an_interrupted_trial_needs_no_scores() -> None:
    values = make_record().model_dump(by_alias=True)
    record = RunRecord.model_validate(
        {**values, "status": "interrupted", "scores": [], "cost": None, "selection": None}
    )
    assert record.score("single") is None


def test_the_protocol_digest_changes_with_each_of_its_parts() -> None:
    parts: dict[str, Any] = {"dataset_digest": "d", "split_digest": "s", "episodes_digest": "e"}
    digests = {protocol_digest("p", 1, **parts), protocol_digest("q", 1, **parts), protocol_digest("p", 2, **parts)}
    digests |= {protocol_digest("p", 1, **{**parts, name: "other"}) for name in parts}
    digests.add(protocol_digest("p", 1, dataset_digest="d", split_digest="e", episodes_digest="s"))
    assert len(digests) == 7


def test_the_environment_is_plain_and_names_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "secret-host")
    found = environment.describe("cpu")
    assert found["device"] == "cpu"
    assert "secret-host" not in json.dumps(found, allow_nan=False)
    assert found["threads"] >= 1
    make_record(environment=found)


def test_git_state_of_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "site" / "slabench" / "results" / "environment.py"))
    assert environment.git_state() == (None, None)


def test_git_state_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "slabench" / "results" / "environment.py"))
    monkeypatch.setenv("PATH", "")
    assert environment.git_state() == (None, None)


def test_peak_memory_is_that_of_a_process() -> None:
    peak = environment.peak_memory_bytes("cpu")
    assert peak is None or 10 * 2**20 < peak < 2**40
