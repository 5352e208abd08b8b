"""Stale records: of another protocol version, or of frozen files that are no longer those of this machine."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_records import make_record

from slabench.cli.common import chosen, notes_console
from slabench.core import paths, versions
from slabench.core.suites import SUITES
from slabench.episodes import files
from slabench.ranking.entries import entries
from slabench.records.record import RunRecord
from slabench.records.staleness import stale
from slabench.records.store import ResultStore
from slabench.suites.classifier import data as classifier
from slabench.suites.fewshot import data as fewshot

NAME = "fc100/test-5w5s15q-2000"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with one file of episodes and one subset, whose bytes a test may change."""
    for name in ("splits/fc100.json", f"{NAME}.json", "longtail/cifar100/exp-r100-label-s0.json"):
        (tmp_path / "episodes" / name).parent.mkdir(parents=True, exist_ok=True)
    published = paths.episodes() / NAME
    for suffix in (".npy", ".json"):
        target = (tmp_path / "episodes" / NAME).with_suffix(suffix)
        target.write_bytes(published.with_suffix(suffix).read_bytes())
    (tmp_path / "episodes" / "longtail" / "cifar100" / "exp-r100-label-s0.npy").write_bytes(npy([1, 2, 3]))
    monkeypatch.setenv("SLABENCH_HOME", str(tmp_path))
    monkeypatch.setenv("SLABENCH_DATA", str(tmp_path / "data"))
    return tmp_path


def npy(values: list[int]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, dtype=np.uint16))
    return buffer.getvalue()


def on_episodes(**changes: Any) -> RunRecord:
    """A record of the published episodes, whose digest comes from the room that reads them."""
    path = files.find(NAME)
    assert path is not None
    manifest = files.read_manifest(path)
    file = files.EpisodeFile(NAME, None, manifest, manifest.sha256, path)  # type: ignore[arg-type]
    return make_record(episodes=NAME, episodes_digest=files.protocol_part(file), **changes)


def test_the_versions_are_those_of_the_suites() -> None:
    assert {name: suite.protocol_version for name, suite in SUITES.items()} == {
        "fewshot": fewshot.PROTOCOL_VERSION,
        "imbalanced": classifier.PROTOCOL_VERSION,
        "supervised": classifier.PROTOCOL_VERSION,
    }


def test_published_records_are_all_present() -> None:
    records, problems = ResultStore(paths.shipped_results()).scan()
    assert not problems
    assert len(records) > 20
    assert {stale(record) for record in records} == {None}


def test_another_version_is_stale(home: Path) -> None:
    assert stale(on_episodes()) is None
    version = versions.FEWSHOT
    assert stale(on_episodes(protocol_version=version + 1)) == (
        f"made by version {version + 1} of the protocol, which is now version {version}"
    )
    assert stale(on_episodes(suite="of-a-plugin", protocol_version=7)) is None


def test_other_episodes_are_stale(home: Path) -> None:
    record = on_episodes()
    assert stale(record) is None
    path = home / "episodes" / f"{NAME}.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert stale(record) == f"made with other episodes than the present {NAME}"
    own = home / "data" / "episodes" / f"{NAME}.npy"
    own.parent.mkdir(parents=True)
    data[-1] ^= 1
    own.write_bytes(bytes(data))
    assert stale(record) is None, "the user has these episodes"


def test_episodes_that_are_not_here_contradict_nothing(home: Path) -> None:
    assert stale(make_record(episodes="mini-imagenet/test-5w5s15q-2000")) is None
    assert stale(make_record(episodes=None, episodes_digest=None)) is None


@pytest.mark.parametrize(("sha256", "why"), [("0" * 64, "made with another subset than the present "), (None, None)])
def test_another_subset_is_stale(home: Path, sha256: str | None, why: str | None) -> None:
    import hashlib

    name = "cifar100/exp-r100-label-s0"
    facts = {"subset": name, "subset_sha256": sha256 or hashlib.sha256(npy([1, 2, 3])).hexdigest()}
    record = make_record(suite="imbalanced", episodes=None, episodes_digest=None, training_set=facts)
    assert stale(record) == (why and why + name)
    gone = make_record(training_set={**facts, "subset": "cifar100/exp-r7-label-s0"}, episodes=None)
    assert stale(gone) is None


@pytest.mark.parametrize(
    ("derived", "trial", "present"),
    [
        ({"weights": "a" * 64}, {"outputs_sha256": "a" * 64, "outputs_file": "x"}, True),
        ({"weights": "a" * 64}, {"outputs_sha256": "b" * 64, "outputs_file": "x"}, False),
        ({"weights": "a" * 64}, {}, False),  # the trial has none any more
        (
            {},
            {"started": "2026-01-01T00:00:00+00:00"},
            True,
        ),  # from before weights were named: the trial is older than it
        ({}, {"started": "2026-01-01T02:00:00+00:00"}, False),
    ],
)
def test_what_is_derived_is_of_the_trial_s_present_weights(
    derived: dict[str, Any], trial: dict[str, Any], present: bool
) -> None:
    of = make_record(**trial)
    made = make_record(
        name="fewshot/baseline+cosine",
        derived={"of": of.key, "method": "score", **derived},
        finished="2026-01-01T01:00:00+00:00",
    )
    by_name = {entry.records[0].name: entry for entry in entries([made, of], None)}
    assert by_name["fewshot/baseline"].ranked
    assert by_name["fewshot/baseline+cosine"].ranked == present
    assert (of.key[:12] in (by_name["fewshot/baseline+cosine"].stale or "")) != present
    # Without the trial's record nothing contradicts it; among others it is found.
    assert entries([made], None)[0].ranked
    assert entries([made], None, among=[of])[0].ranked == present


def test_a_figure_of_one_protocol_knows_the_trials_of_others(tmp_path: Path) -> None:
    """Heads are scored on other shots and ways than the trial's own: `plot --protocol` leaves the trial itself out."""
    store = ResultStore(tmp_path)
    of = make_record(outputs_sha256="b" * 64, outputs_file="x")
    derived = {"of": of.key, "method": "score", "weights": "a" * 64}
    made = make_record(name="fewshot/baseline+cosine", protocol="fewshot/fc100/10w5s15q", derived=derived)
    for record in (of, made):
        store.save(record, {"single": np.array([0.5, 0.7])})
    source = chosen(notes_console(), tmp_path, False, keep=lambda record: "10w5s" in record.protocol)
    (entry,) = source.entries
    assert of.key[:12] in (entry.stale or "")
