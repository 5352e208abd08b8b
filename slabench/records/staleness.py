"""Whether a record is still about what this slabench measures: the same protocol version, the same frozen files, known code;
and whether what was derived from a trial is still of the trial's present weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from slabench.core import paths
from slabench.core.files import SHORT, sha256_file
from slabench.core.suites import KNOWN
from slabench.episodes import episodes_digest
from slabench.plugins import recorded, untold
from slabench.records.record import RunRecord


class Present:
    """The index files of this machine, each looked for once, however many records name it: for one look at many records."""

    def __init__(self) -> None:
        self._digests: dict[str, list[str]] = {}
        self._episodes: dict[tuple[Any, ...], list[str]] = {}

    def digests(self, name: str) -> list[str]:
        """sha256 of the index files of that name: the published one, and the user's, perhaps drawn from other data."""
        if name not in self._digests:
            candidates = (folder / f"{name}.npy" for folder in (paths.episodes(), paths.user_episodes()))
            self._digests[name] = [_sha256(path) for path in candidates if path.is_file()]
        return self._digests[name]

    def episodes(self, record: RunRecord) -> list[str]:
        """Digests of the files of the record's episodes, cut into supports and queries as its protocol does."""
        shape = record.recipe.get("protocol")
        if not record.episodes or not isinstance(shape, Mapping):
            return []
        sizes = [shape.get(name) for name in ("ways", "shots", "queries")]
        what = (record.episodes, *sizes)
        if what not in self._episodes:
            self._episodes[what] = [episodes_digest(sha256, *sizes) for sha256 in self.digests(record.episodes)]
        return self._episodes[what]


def stale(record: RunRecord, present: Present | None = None) -> str | None:
    """Why a record no longer belongs beside present ones, as a phrase; None where nothing says so.

    Args:
        record: any.
        present: what was found on this machine for other records of the same look.

    Only what is on this machine can contradict a record: episodes or a subset that are not here leave it as it is. Data that
    differs (another digest of the images) is a group of its own, not stale.
    """
    for kind in ("plugins", "score_plugins"):
        if why := untold(recorded(record.environment, kind)):
            return f"not of known code: {why}"
    suite = KNOWN.get(record.suite)
    if suite is not None and record.protocol_version != suite.protocol_version:
        return (
            f"made by version {record.protocol_version} of the protocol, which is now version {suite.protocol_version}"
        )
    present = present or Present()
    episodes = present.episodes(record)
    if episodes and record.episodes_digest not in episodes:
        return f"made with other episodes than the present {record.episodes}"
    drawn, sha256 = ((record.training_set or {}).get(name) for name in ("draws", "draws_sha256"))
    files = present.digests(str(drawn)) if drawn and sha256 else []
    if files and sha256 not in files:
        return f"made with other training images than the present draws {drawn}"
    subset, sha256 = ((record.training_set or {}).get(name) for name in ("subset", "subset_sha256"))
    subsets = present.digests(f"longtail/{subset}") if subset and sha256 else []
    if subsets and sha256 not in subsets:
        return f"made with another subset than the present {subset}"
    return None


def outdated(record: RunRecord, trial: RunRecord | None) -> str | None:
    """Why a derived record is not of the weights that its trial has now, as a phrase; None where it is, or is not derived.

    A derived record from before its `derived` named the digest of the weights counts until its trial is run again.

    Args:
        record: any.
        trial: the record that `derived` names; None where it is not here, which contradicts nothing.
    """
    if record.derived is None or trial is None:
        return None
    weights = record.derived.get("weights")
    if weights is None:
        present = _time(record.finished) >= _time(trial.started)
    else:
        present = weights == trial.outputs_sha256
    if present:
        return None
    again = f"slabench {'score' if 'score' in record.recipe else 'posthoc'} {trial.key[:SHORT]}"
    again += f" --on {record.derived['on']}" if record.derived.get("on") else ""
    return f"made from weights that its trial {trial.key[:SHORT]} no longer has (again: {again})"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _sha256(path: Path) -> str:
    status = path.stat()
    return _digest_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _digest_of(path: Path, mtime_ns: int, size: int) -> str:
    """One reading of a file serves all of its records; a file that has changed since is read again."""
    return sha256_file(path)
