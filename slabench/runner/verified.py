"""What `slabench verify` looks at, and the digests that a record's recipe and data give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slabench.core import paths
from slabench.core.errors import DataMissingError, SlabenchError
from slabench.core.files import SHORT, digest_json, read_json
from slabench.core.registry import HEADS
from slabench.core.versions import HEAD_REVISIONS
from slabench.episodes.files import episode_name, find, protocol_part, read_manifest
from slabench.plugins import bound, recorded
from slabench.recipes import parse_recipe
from slabench.records.environment import derived_key
from slabench.records.reading import read_record
from slabench.records.record import RunRecord
from slabench.records.staleness import outdated
from slabench.records.store import read_accuracies
from slabench.suites import suite_of
from slabench.suites.fewshot.data import plain_key
from slabench.suites.fewshot.frozen import FROZEN, frozen_key
from slabench.suites.fewshot.rules import VALIDATION_FILE_EPISODES

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


class Fault(Exception):
    """What a check has found, in words."""


class Unchecked(Exception):
    """Why there is nothing here to hold a record against."""


class Trials:
    """Records by key: given ones first, then those of the folders around them, then the shipped ones. Read when asked for.

    Attributes:
        missing: data sets that were asked for and could not be had: not asked for again, over the network, for every record.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._read: dict[str, RunRecord] | None = None
        self.missing: set[str] = set()

    def __call__(self, key: str) -> RunRecord | None:
        """The trial of this key, if it is known."""
        if self._read is None:
            roots = {parent for file in self._files for parent in file.resolve().parents if parent.name == "runs"}
            self._read = {}
            around = (
                p for root in sorted({paths.shipped_results() / "runs", *roots}) for p in root.rglob("seed*-*.json")
            )
            for path in (*around, *self._files):
                try:
                    record = read_record(path)
                except SlabenchError:
                    continue
                if record.derived is None:
                    self._read[record.key] = record
        return self._read.get(key)


@dataclass
class Subject:
    """A record that is checked: its file, what is in it, and the records around it."""

    path: Path
    record: RunRecord
    known: Trials
    raw: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # As written: reading gives a renamed head its present name, and digests are of the old one.
        self.raw = read_json(self.path)

    @cached_property
    def episodes(self) -> Mapping[str, NDArray[numpy.float32]]:
        """The side file, read beside the record wherever it lies, its digest checked."""
        return read_accuracies(self.record, self.path.parent)

    @cached_property
    def trial(self) -> RunRecord:
        """Of a derived record, the trial that it was made of."""
        of = str((self.record.derived or {}).get("of"))
        trial = self.known(of)
        if trial is None:
            raise Unchecked(f"its trial {of[:SHORT]} is not here: hand in its record too")
        return trial

    @property
    def kind(self) -> str:
        """Of a derived record: `score` or `posthoc`."""
        return "score" if "score" in self.record.recipe else "posthoc"

    @property
    def trained_on(self) -> str:
        """The data set of the recipe."""
        return str(self.record.setting("data", "dataset"))


def check_recipe(s: Subject) -> None:
    """`recipe_digest` is that of the recipe."""
    r, raw = s.record, s.raw["recipe"]
    if r.derived is None:
        settings = {name: value for name, value in raw.items() if name != "name"}
        # Heads on frozen features: the network stands in the place of all that a trial would train.
        frozen = {name: value for name, value in (r.embedder or {}).items() if name != "features"}
        plain = digest_json({"recipe": raw, "embedder": frozen} if is_frozen(r) else settings)
        made = bound(plain, recorded(r.environment))
    else:
        made = derived_key(s.trial.recipe_digest, s.kind, _given(s), recorded(r.environment, f"{s.kind}_plugins"))
    if made != r.recipe_digest:
        raise Fault(f"the recipe gives {made[:SHORT]}, and recipe_digest is {r.recipe_digest[:SHORT]}")


def is_frozen(r: RunRecord) -> bool:
    """Whether a record is of a head on features that nothing was trained for; see `slabench.suites.fewshot.frozen`."""
    return r.embedder is not None and r.setting("model", "learner") == FROZEN


def check_key(s: Subject) -> None:
    """The key follows from recipe, seed, protocol and data."""
    r = s.record
    if r.derived is not None:
        if old := outdated(r, s.trial):
            raise Fault(old)
        made = derived_key(s.trial.key, s.kind, _given(s), recorded(r.environment, f"{s.kind}_plugins"))
    elif is_frozen(r):
        made = _frozen_key(s)
    elif r.suite == "fewshot":
        made = _fewshot_key(s)
    else:
        made = _prepared_key(s)
    if made != r.key:
        raise Fault(f"recipe, seed, protocol and data give the key {made[:SHORT]}, and it has {r.key[:SHORT]}")


def _given(s: Subject) -> dict[str, Any]:
    """What decided a derived record apart from its trial; see `slabench.suites.fewshot.score_heads` and `slabench.posthoc`."""
    if s.kind == "posthoc":
        return dict(s.raw["recipe"]["posthoc"])
    derived, model = s.raw["derived"], s.raw["recipe"]["model"]
    given = {"head": derived["head"], "protocol": s.record.protocol_digest}
    if model.get("head_revision", 1) > 1:
        given["head_revision"] = HEAD_REVISIONS.get(derived["head"], 1)
    if "head_selection" in model:
        given["head_selection"] = model["head_selection"]
    return given | {name: derived[name] for name in ("on", "resized") if name in derived}


def _fewshot_key(s: Subject) -> str:
    r = s.record
    shape = r.recipe["protocol"]
    name = episode_name(r.dataset, "val", shape["ways"], shape["shots"], shape["queries"], VALIDATION_FILE_EPISODES)
    path = find(name)
    if path is None:
        raise Unchecked(f"the key rests on the validation episodes too, and {name} is not here")
    validation = protocol_part(read_manifest(path))
    resolved = {key: value for key, value in s.raw["recipe"].items() if key != "name"}
    features = (r.embedder or {}).get("features")
    key = plain_key(resolved, r.seed, r.protocol_digest, r.dataset_digest, validation, features)
    return bound(key, recorded(r.environment))


def _frozen_key(s: Subject) -> str:
    """Of a head on frozen features."""
    r = s.record
    facts = {name: value for name, value in (r.embedder or {}).items() if name != "features"}
    features = str((r.embedder or {}).get("features"))
    drawn = r.suite == "allclasses"  # its seed is that of a draw
    key = frozen_key(s.raw["recipe"], facts, features, None, r.protocol_digest, r.seed if drawn else None)
    made = bound(key, recorded(r.environment))
    if made != r.key and not drawn and HEADS.get(r.recipe["model"]["head"]).centred:
        raise Unchecked("the key rests on the features of the training classes too, by which this head centres")
    return made


def _prepared_key(s: Subject) -> str:
    """A classifier's, which rests on the very images that it learned from: they have to be here."""
    absent = Unchecked(f"the key of a classifier rests on its training images, and {s.trained_on} is not here")
    if s.trained_on in s.known.missing:
        raise absent
    recipe = parse_recipe({**s.record.recipe, "seeds": [s.record.seed]})
    suite = suite_of(recipe)
    try:
        prepared = suite.prepare(recipe)
    except DataMissingError:
        s.known.missing.add(s.trained_on)
        raise absent from None
    return suite.trial_key(recipe, s.record.seed, prepared, recorded(s.record.environment))
