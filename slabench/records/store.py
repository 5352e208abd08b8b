"""The folder of results: one JSON record a trial, and beside it the per-episode accuracies that paired tests need.

    ROOT/runs/<suite>/<protocol>/<name>/seed<seed>-<key>.json
    ROOT/runs/<suite>/<protocol>/<name>/seed<seed>-<key>.<sha256>.npz
    ROOT/runs/<suite>/<protocol>/<name>/seed<seed>-<key>.<sha256>.outputs.safetensors

The side file is named by its digest and written first, so that a killed process or a second writer never leaves a
record beside the accuracies of another: a reader finds the old pair or the new one. The third file, a classifier's logits,
features and layers or the weights of a few-shot trial, is large: it stays on the machine of the trial, and a record is
whole without it.
"""

from __future__ import annotations

import gc
import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slabench.core import paths
from slabench.core.errors import DataError, IntegrityError, SlabenchError, UsageError
from slabench.core.files import SHORT, read_plain, write_bytes, write_json
from slabench.core.locks import hold
from slabench.records.folder import RecordFolder
from slabench.records.leftovers import check_place, leftovers, remove_leftovers
from slabench.records.reading import read_record
from slabench.records.record import RunRecord

if TYPE_CHECKING:
    import numpy
    from numpy.typing import ArrayLike, NDArray

    from slabench.records.outputs import ModelOutputs, ModelWeights


_SAVING = 60.0  # seconds that another process may take to save the same result


class ResultsWarning(UserWarning):
    """A file in a folder of results that cannot be used; the others are."""


class ResultStore:
    """The records under `root`/runs. Nothing is created before the first `save`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.folder = self.root / "runs"
        self._records = RecordFolder(self.folder)

    def find(self, key: str) -> RunRecord | None:
        """The record of the trial `key`; None when there is none, or (with a warning) when it is damaged."""
        return next(self._of_keys([key]), None)

    def finished(self, key: str) -> bool:
        """Whether the trial `key` is done and its record whole, per-episode accuracies included.

        A damaged result is not finished: the warning names the file, and running the trial again makes it anew.
        """
        return bool(self.finished_among([key]))

    def finished_among(self, keys: Iterable[str]) -> dict[str, RunRecord]:
        """The records of the trials `keys` that are `finished`, by key; the folder is looked through once for all of them."""
        found: dict[str, RunRecord] = {}
        for record in self._of_keys(keys):
            if record.status != "done":
                continue
            try:
                read_accuracies(record, self.path(record).parent)
            except DataError as error:
                warnings.warn(ResultsWarning(str(error)), stacklevel=3)
                continue
            found[record.key] = record
        return found

    def _of_keys(self, keys: Iterable[str]) -> Iterator[RunRecord]:
        """The records of some trials, one each; a warning names each damaged file that is called like one of them."""
        missing = set(keys)
        names = {key[:SHORT] for key in missing}
        for path in self._records.files() if missing else ():
            if not path.name.startswith("seed") or path.stem.rpartition("-")[2] not in names:
                continue
            try:
                record = read_record(path)
            except DataError as error:
                warnings.warn(ResultsWarning(str(error)), stacklevel=3)
                continue
            if record.key in missing:
                missing.discard(record.key)
                yield record

    def save(
        self,
        record: RunRecord,
        per_episode: Mapping[str, ArrayLike],
        outputs: ModelOutputs | ModelWeights | None = None,
    ) -> Path:
        """Write a trial's result atomically, replacing an earlier one of the same key.

        What was there stays until the new result is whole. A record of an attempt that failed does not replace one that is done.

        Args:
            record: its `side_file` and `side_sha256` are set here, on a copy.
            per_episode: per predictor, the accuracy of every test episode or image in order, [n] fractions (kept as float32).
                Empty for a trial without scores.
            outputs: a classifier's logits, features and layers, or the weights of a few-shot trial. They get the record's key.

        Returns:
            The path of the JSON file.

        Raises:
            SlabenchError: an array that belongs to no score, is not [n], or holds a value outside [0, 1].
        """
        path = self.path(record)
        with hold(path.with_suffix(".lock"), seconds=_SAVING) as state:
            if record.status == "done" or (there := _readable(path)) is None or there.status != "done":
                try:
                    self._write(path, record, per_episode, outputs)
                finally:
                    if state == "held":
                        _tidy(path)
        return path

    def tidy(self, record: RunRecord) -> None:
        """Remove what a killed process left beside a record: side files that no record names, temporary files."""
        path = self.path(record)
        if leftovers(path, {record.side_file, record.outputs_file}):
            with hold(path.with_suffix(".lock")) as state:
                if state == "held":
                    _tidy(path)

    def check_writable(self, suite: str, protocol: str, name: str) -> None:
        """Try whether results of this name can be saved, before anything is computed; errors as of `check_place`."""
        check_place(self.folder / _place(suite, protocol, name, 2**31, "0" * SHORT), name)

    def _write(
        self,
        path: Path,
        record: RunRecord,
        per_episode: Mapping[str, ArrayLike],
        outputs: ModelOutputs | ModelWeights | None,
    ) -> None:
        if per_episode:
            data = _pack(record, per_episode)
            sha256 = hashlib.sha256(data).hexdigest()
            side = path.with_suffix(f".{sha256[:SHORT]}.npz")
            if not side.is_file() or side.read_bytes() != data:
                write_bytes(side, data)
            update: dict[str, Any] = {"side_file": side.name, "side_sha256": sha256}
        else:
            update = {"side_file": None, "side_sha256": None}
        if outputs is not None:
            update |= _save_outputs(path, replace(outputs, key=record.key))
        # Through the validator: a record changed after it was made (lists, dicts) is checked as it is written.
        record = RunRecord.model_validate({**record.model_dump(by_alias=True), **update})
        write_json(path, record.model_dump(mode="json", by_alias=True))

    def path(self, record: RunRecord) -> Path:
        """Where the record of this trial lies."""
        return self.folder / _name(record)

    def records(self) -> list[RunRecord]:
        """Every readable record, ordered by path. A damaged file gets a `ResultsWarning` that names it."""
        records, problems = self.scan()
        for problem in problems:
            warnings.warn(ResultsWarning(problem), stacklevel=2)
        return records

    def scan(self) -> tuple[list[RunRecord], list[str]]:
        """Every readable record, ordered by path, and a line for each file that is not."""
        found = self._records.read()
        problems = [str(one) for one in found if isinstance(one, DataError)]
        return [one for one in found if isinstance(one, RunRecord)], problems

    def match(self, key_prefix: str) -> RunRecord:
        """The one record whose key begins with `key_prefix`.

        Raises:
            UsageError: there is none, or more than one.
        """
        wanted = key_prefix.lower()
        records, problems = self.scan()
        found = {record.key: record for record in records if wanted and record.key.startswith(wanted)}
        if not found:
            unread = f" ({len(problems)} damaged records were passed over)" if problems else ""
            raise UsageError(
                f"no run in {self.root} has a key that begins with '{key_prefix}'{unread}", "see: slabench list runs"
            )
        if len(found) > 1:
            keys = ", ".join(sorted(key[:SHORT] for key in found))
            raise UsageError(f"'{key_prefix}' is the beginning of {len(found)} keys: {keys}", "type more of the key")
        return next(iter(found.values()))

    def episodes(self, record: RunRecord) -> dict[str, NDArray[numpy.float32]]:
        """Per predictor, the accuracy of every test episode, [n]; empty for a record without a side file.

        Raises:
            IntegrityError: the side file is missing, or its digest is not the record's.
            DataError: it is not a plain npz.
        """
        if record.side_file is None:
            return {}
        name = f"{os.path.dirname(_name(record))}/{os.path.basename(record.side_file)}"
        return self._records.arrays(
            name, str(record.side_sha256), lambda: read_accuracies(record, (self.folder / name).parent)
        )


class EpisodeCache:
    """Accuracies behind records, each side file read once; one that is missing or damaged counts as none.

    For callers that have named what is damaged already, by `ResultStore.episodes` itself. Without a store it has none at all.
    """

    def __init__(self, store: ResultStore | None) -> None:
        self._store = store
        self._read: dict[str, dict[str, NDArray[numpy.float32]]] = {}

    def __call__(self, record: RunRecord) -> Mapping[str, NDArray[numpy.float32]]:
        """Per predictor the accuracy on every test episode or image, [n]."""
        if self._store is None:
            return {}
        if record.key not in self._read:
            try:
                self._read[record.key] = self._store.episodes(record)
            except DataError:
                self._read[record.key] = {}
        return self._read[record.key]


@lru_cache(maxsize=4096)
def slug(text: str) -> str:
    """`text` as a folder name: 'fewshot/fc100/5w5s15q' becomes 'fewshot-fc100-5w5s15q'."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.") or "unnamed"


def read_accuracies(record: RunRecord, folder: Path) -> dict[str, NDArray[numpy.float32]]:
    """Per predictor the accuracies in the side file of a record, which lies in `folder`; errors as of `ResultStore.episodes`."""
    if record.side_file is None:
        return {}
    path = folder / Path(record.side_file).name
    remedy = "run the trial again with --resume force, or restore the file from its source"
    try:
        data = read_plain(path)
    except DataError as error:
        raise IntegrityError(f"{error.message}: it holds the per-episode accuracies", remedy) from error
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != record.side_sha256:
        raise IntegrityError(f"{path} has the sha256 {sha256}, and its record says {record.side_sha256}", remedy)
    return _unpack(data, path)


def _name(record: RunRecord) -> str:
    """The path of a record from the folder of records on."""
    return _place(record.suite, record.protocol, record.name, record.seed, record.key)


def _place(suite: str, protocol: str, name: str, seed: int, key: str) -> str:
    return f"{slug(suite)}/{slug(protocol)}/{slug(name)}/seed{seed}-{key[:SHORT]}.json"


def _readable(path: Path) -> RunRecord | None:
    try:
        return read_record(path)
    except (DataError, FileNotFoundError):
        return None


def _tidy(path: Path) -> None:
    record = _readable(path)
    if record or not path.exists():  # of a damaged record, nobody knows which side files are its own
        remove_leftovers(path, {record.side_file, record.outputs_file} if record else set())


def _save_outputs(path: Path, outputs: ModelOutputs | ModelWeights) -> dict[str, Any]:
    """Write the outputs beside the record at `path`, under a name with their digest."""
    from slabench.records.outputs import (  # imports torch, which reading records does not need
        ModelWeights,
        save_outputs,
        save_weights,
    )

    temporary = path.with_suffix(".outputs.tmp")
    if isinstance(outputs, ModelWeights):
        sha256 = save_weights(outputs, temporary)
    else:
        sha256 = save_outputs(outputs, temporary)
    final = path.with_suffix(f".{sha256[:SHORT]}.outputs.safetensors")
    temporary.replace(final)
    return {"outputs_file": final.name, "outputs_sha256": sha256}


def _pack(record: RunRecord, per_episode: Mapping[str, ArrayLike]) -> bytes:
    import numpy

    scored = [score.predictor for score in record.scores]
    arrays: dict[str, Any] = {}
    for predictor in sorted(per_episode):
        if predictor not in scored:
            raise SlabenchError(f"per-episode accuracies of '{predictor}', which has no score: {', '.join(scored)}")
        array = numpy.asarray(per_episode[predictor], dtype=numpy.float32)
        if array.ndim != 1 or len(array) == 0:
            raise SlabenchError(f"per-episode accuracies of '{predictor}' have the shape {array.shape}, not [n]")
        if not bool(((array >= 0) & (array <= 1)).all()):
            raise SlabenchError(
                f"per-episode accuracies of '{predictor}' are not all in [0, 1]",
                "they are fractions: look for NaN or percentages",
            )
        arrays[predictor] = array
    file = io.BytesIO()
    numpy.savez_compressed(file, **arrays)
    return file.getvalue()


def _unpack(data: bytes, path: Path) -> dict[str, NDArray[numpy.float32]]:
    import numpy

    from slabench.core.arrays import parse_npz

    remedy = "run the trial again"
    arrays = parse_npz(data, str(path), remedy)
    for name, array in arrays.items():
        if array.ndim != 1 or not len(array) or not bool(((array >= 0) & (array <= 1)).all()):
            raise DataError(f"{path}: '{name[:60]}' is {list(array.shape)}, not [n] fractions in [0, 1]", remedy)
    return {name: array.astype(numpy.float32) for name, array in arrays.items()}


@dataclass
class Opened:
    """A folder with its records.

    Attributes:
        store: the folder.
        records: those that can be read.
        problems: a line for each that cannot.
        note: why these are the shipped records although nobody asked for them; None where they are what was asked for.
    """

    store: ResultStore
    records: list[RunRecord]
    problems: list[str] = field(default_factory=list)
    note: str | None = None


def open_results(
    results: Path | None, *, shipped: bool = False, serves: Callable[[RunRecord], bool] = lambda record: True
) -> Opened:
    """The records of `results`, or of the user's own folder; the shipped ones on request, or where the user's own serve nothing.

    Args:
        results: the folder asked for; it is never replaced by another.
        shipped: the records that travel with slabench.
        serves: whether a record is of use to the caller.

    Raises:
        UsageError: `shipped` and a folder.
    """
    if shipped and results is not None:
        raise UsageError("--shipped and --results name two folders", "give one of them")
    travelling = paths.shipped_results()
    store = ResultStore(travelling if shipped else paths.results(results))
    opened = Opened(store, *store.scan())
    # Records stay until the command ends: Python's search for circles need not go through a million objects again and again.
    gc.freeze()
    if shipped or results is not None or any(map(serves, opened.records)):
        return opened
    if travelling.resolve() == store.root.resolve():
        return opened
    other = ResultStore(travelling)
    records, problems = other.scan()
    if not any(map(serves, records)):
        return opened
    note = f"{absence(store, opened.records)}: these are the results shipped with this version"
    return Opened(other, records, [*opened.problems, *problems], note)


def absence(store: ResultStore, records: Sequence[RunRecord]) -> str:
    """Why records give nothing to show."""
    if not records:
        return f"{store.folder} holds no records"
    if all(record.status != "done" for record in records):
        return f"none of the {len(records)} records in {store.folder} is of a finished trial"
    return f"the records in {store.folder} are all of quick runs (--include-quick shows them)"
