"""`slabench verify`: is a record whole, do its numbers follow from its own files, and was it made on what slabench ships?

A record is held against its side file (every accuracy of it), against itself (digests, key), and against the frozen episodes,
class splits, subsets and digests of data sets that are here. Nothing is trained, and no pixel is read but to draw episodes that
nobody has frozen. What cannot be held against anything here is told as that. Digests are no signatures: see docs/trust.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slabench.core import manifests, paths
from slabench.core.errors import DataError, SlabenchError, UsageError
from slabench.core.files import SHORT
from slabench.core.suites import KNOWN
from slabench.data import load
from slabench.data.catalog import DATASETS
from slabench.data.splits import load_split
from slabench.data.store import is_prepared, store_folder
from slabench.episodes import draws
from slabench.episodes.files import episode_name, find, load_episodes, protocol_part, read_manifest
from slabench.episodes.profiles import BALANCED
from slabench.evaluation.intervals import finite_or_none, t_interval
from slabench.plugins import recorded, untold
from slabench.records.reading import read_record
from slabench.records.record import AUROC, Score, protocol_digest
from slabench.records.staleness import stale
from slabench.runner.verified import Fault, Subject, Trials, Unchecked, check_key, check_recipe, is_frozen
from slabench.suites.fewshot.rules import VALIDATION_FILE_EPISODES

_ENVIRONMENT = (
    "slabench",
    "python",
    "torch",
    "numpy",
    "platform",
    "processor",
    "threads",
    "device",
    "host",
    "precision",
)
_CLOSE = 1e-6
"""Of accuracies: side files hold float32."""


@dataclass(frozen=True)
class Line:
    """One check of one record.

    Attributes:
        check: what was held against what.
        state: `unchecked`: nothing here that it could be held against.
        message: what is wrong, why it is unchecked, or a remark on what is right.
    """

    check: str
    state: Literal["ok", "wrong", "unchecked"]
    message: str = ""


@dataclass(frozen=True)
class Verdict:
    """A record's file with the outcome of every check; `ok` where none is wrong."""

    path: Path
    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Whether no check is wrong."""
        return all(line.state != "wrong" for line in self.lines)


def record_files(given: Iterable[Path]) -> list[Path]:
    """The records that files and folders name.

    Raises:
        UsageError: something is neither, or a folder without records.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("seed*-*.json") if not p.name.startswith("."))
            if not inside:
                raise UsageError(
                    f"{path} holds no records", "name a record's JSON file, or a folder such as results/runs"
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"{path} is not here", "name a record's JSON file, or a folder such as results/runs")
    return found


def verify(files: Iterable[Path]) -> Iterator[Verdict]:
    """Check records one by one; those among `files`, in their folders and shipped with slabench are known to each other."""
    files = list(files)
    known = Trials(files)
    for path in files:
        try:
            record = read_record(path)
        except SlabenchError as error:
            yield Verdict(path, (Line("record", "wrong", str(error)),))
            continue
        subject = Subject(path, record, known)
        yield Verdict(path, (Line("record", "ok"), *(_line(name, check, subject) for name, check in _CHECKS)))


def _line(name: str, check: Callable[[Subject], str | None], subject: Subject) -> Line:
    try:
        return Line(name, "ok", check(subject) or "")
    except Fault as fault:
        return Line(name, "wrong", str(fault))
    except Unchecked as reason:
        return Line(name, "unchecked", str(reason))
    except DataError as error:
        return Line(name, "wrong", str(error))


def _finished(s: Subject) -> str | None:
    if s.record.status != "done":
        raise Fault(f"its status is {s.record.status}: only a finished trial is a result")
    doubts = [
        text
        for text, so in (
            ("a run of a reduced budget, never ranked", s.record.limited),
            ("selected on the test, never ranked", s.record.selection and s.record.selection.rule == "oracle"),
        )
        if so
    ]
    return "; ".join(doubts)


def _named(s: Subject) -> None:
    expected = f"seed{s.record.seed}-{s.record.key[:SHORT]}.json"
    if s.path.name != expected:
        raise Fault(f"the file is called {s.path.name}, not {expected}")


def _side(s: Subject) -> str:
    if s.record.side_file is None:
        raise Fault("it names no side file: the accuracies of the episodes or images are what it is judged by")
    scored, there = {score.predictor for score in s.record.scores}, set(s.episodes)
    if scored != there:
        raise Fault(f"scores of {', '.join(sorted(scored))}, and accuracies of {', '.join(sorted(there))}")
    return s.record.side_file


def _scores(s: Subject) -> str:
    for score in s.record.scores:
        values = s.episodes.get(score.predictor)
        if values is None:
            raise Fault(f"{score.predictor} has no accuracies in the side file")
        if score.n != len(values):
            raise Fault(f"{score.predictor}: n is {score.n}, and the side file holds {len(values)}")
        found = t_interval(values)
        facts = (("value", score.value, found.mean), ("ci95", score.ci95, finite_or_none(found.half_width)))
        for name, told, made in (*facts, ("std", score.std, finite_or_none(found.std))):
            if told is None and name != "value":
                continue
            if made is None or not math.isclose(float(told or 0), made, rel_tol=0, abs_tol=_CLOSE):
                raise Fault(f"{score.predictor}: {name} is {told}, and the side file gives {made}")
    return ", ".join(f"{score.predictor} {100 * score.value:.2f} of {score.n:,}" for score in s.record.scores)


def _counts(s: Subject) -> None:
    """Accuracies are whole numbers of right queries; what is told by class agrees with itself."""
    shape = s.record.recipe.get("protocol")
    asked = 1
    if s.record.suite in ("fewshot", "openset") and isinstance(shape, Mapping):
        asked = shape["ways"] * shape["queries"]
        # An AUROC counts pairs of a known and an unknown query, and half ones for ties.
        asked *= 2 * shape.get("unknown", 0) * shape["queries"] if s.record.suite == "openset" else 1
    for score in s.record.scores:
        right = s.episodes[score.predictor].astype(float) * asked if score.predictor in s.episodes else None
        if right is None:
            raise Fault(f"{score.predictor} has no accuracies in the side file")
        off = abs(right - right.round())
        if float(off.max()) > max(1e-3, 1e-7 * asked):  # float32
            place = int(off.argmax())
            raise Fault(
                f"{score.predictor}: accuracy {right[place] / asked:.6f} at {place} is no whole number of {asked} right"
            )
        _by_class(score)


def _by_class(score: Score) -> None:
    if not score.per_class:
        return
    values = list(score.per_class.values())
    if score.worst_class is not None and abs(score.worst_class - min(values)) > 1e-5:
        raise Fault(f"{score.predictor}: worst_class is {score.worst_class}, and the least by class is {min(values)}")
    mean = math.fsum(values) / len(values)
    if score.metrics is not None and abs(score.metrics.balanced - mean) > 1e-5:
        raise Fault(f"{score.predictor}: balanced is {score.metrics.balanced}, and the mean by class is {mean:.6f}")
    # An accuracy over all queries lies between those of the classes, whatever their shares.
    if not min(values) - 1e-5 <= score.value <= max(values) + 1e-5:
        raise Fault(f"{score.predictor}: value {score.value} is outside of the accuracies by class")


def _protocol(s: Subject) -> str:
    r = s.record
    suite = KNOWN.get(r.suite)
    if suite is None:
        raise Fault(f"the suite {r.suite} is unknown: {', '.join(KNOWN)}")
    if why := stale(r):
        raise Fault(why)
    made = protocol_digest(
        r.protocol,
        r.protocol_version,
        dataset_digest=r.dataset_digest,
        split_digest=r.split_digest,
        episodes_digest=r.episodes_digest,
    )
    if made != r.protocol_digest:
        raise Fault(f"its protocol and digests give {made[:SHORT]}, and protocol_digest is {r.protocol_digest[:SHORT]}")
    if not r.protocol.startswith(f"{r.suite}/{r.dataset}/"):
        raise Fault(f"{r.protocol} is no protocol of {r.suite} on {r.dataset}")
    return r.protocol


def _episode_file(s: Subject) -> str:
    r = s.record
    if r.suite == "allclasses":
        return _draws(s)
    if r.suite not in ("fewshot", "openset"):
        return "none: images are tested"
    shape = r.recipe["protocol"]
    unknown = shape.get("unknown", 0)
    if bool(unknown) != (r.suite == "openset") or any((score.metric == AUROC) != bool(unknown) for score in r.scores):
        raise Fault(
            f"{unknown} unknown classes, scored by {', '.join(score.metric for score in r.scores)} in {r.suite}"
        )
    profiles = (shape.get("support_profile", BALANCED), shape.get("query_profile", BALANCED), unknown)
    sizes = (shape["ways"], shape["shots"], shape["queries"], shape["episodes"])
    name = episode_name(r.dataset, "test", *sizes, *profiles)
    if r.episodes != name:
        raise Fault(f"its recipe asks for {name}, and it was tested on {r.episodes}")
    manifest = read_manifest(find(name) or _made(r.dataset, (*sizes, *profiles), name))
    if protocol_part(manifest) != r.episodes_digest:
        raise Fault(
            f"{name} here has the digest {protocol_part(manifest)[:SHORT]}, not {str(r.episodes_digest)[:SHORT]}"
        )
    if manifest.dataset_digest != r.dataset_digest or manifest.split_digest != (r.split_digest or ""):
        raise Fault(f"{name} here was drawn from other images or another class split")
    wrong = [score.predictor for score in r.scores if score.n != manifest.episodes]
    if wrong:
        raise Fault(f"{name} has {manifest.episodes} episodes, and {wrong[0]} was scored on another number")
    return name


def _calibration(s: Subject) -> str:
    """What a calibration rests on, and the least that its likelihoods can be."""
    found = [(score, score.calibration) for score in s.record.scores if score.calibration]
    for score, told in found:
        # A wrong answer gives the true class at most a half, so that it costs log 2 or more.
        least = (1 - score.value) * math.log(2) - _CLOSE
        if min(told.nll, told.nll_scaled) < least:
            raise Fault(f"{score.predictor}: an NLL below {least:.4f} is not possible at accuracy {score.value}")
        _validation_file(s, told.episodes, told.episodes_digest)
    return ", ".join(f"{score.predictor} T {told.temperature:.3g}" for score, told in found) or "none"


def _head_selection(s: Subject) -> str:
    """That what was chosen is of the grid, and on validation episodes that are those here."""
    facts = s.record.setting("model", "head_selection")
    told = [(score.predictor, score.head_selection) for score in s.record.scores if score.head_selection]
    if not isinstance(facts, Mapping):
        if told:
            raise Fault(f"{told[0][0]}: a parameter was chosen, and the recipe says nothing of it")
        return "fixed"
    if len(told) < len(s.record.scores):
        raise Fault(
            f"its recipe chooses by {facts.get('rule')}, and {len(told)} of {len(s.record.scores)} scores say what"
        )
    for predictor, chosen in told:
        if (chosen.rule, chosen.parameter) != (facts.get("rule"), facts.get("parameter")):
            raise Fault(f"{predictor}: chosen by {chosen.rule}, and the recipe says {facts.get('rule')}")
        if (chosen.value is None) != (chosen.rule == "ensemble") or chosen.value not in (None, *facts["grid"]):
            raise Fault(f"{predictor}: {chosen.parameter} = {chosen.value} is not of the grid {facts['grid']}")
    if facts["rule"] == "validation":
        _validation_file(s, str(facts.get("episodes")), str(facts.get("episodes_digest")))
    return f"{facts['rule']}, " + ", ".join(f"{name} {c.parameter} {c.value or 'averaged'}" for name, c in told)


def _validation_file(s: Subject, told: str, digest: str) -> None:
    """Validation episodes of the record's sizes are the ones that it names, and those here."""
    shape = s.record.recipe["protocol"]
    sizes = (shape["ways"], shape["shots"], shape["queries"], VALIDATION_FILE_EPISODES)
    name = episode_name(s.trained_on, "val", *sizes)
    if told != name:
        raise Fault(f"what was chosen was chosen on {told}, not on {name}")
    path = find(name)
    if path is None:
        raise Unchecked(f"{name} is not here")
    if protocol_part(read_manifest(path)) != digest:
        raise Fault(f"{name} here has another digest than {digest[:SHORT]}")


def _draws(s: Subject) -> str:
    """The frozen draws that supports of all classes are taken from."""
    r, shots = s.record, s.record.setting("protocol", "shots")
    name = draws.draw_name(r.dataset, shots)
    told = r.training_set or {}
    if (told.get("draws"), r.protocol) != (name, f"{r.suite}/{r.dataset}/{shots}s"):
        raise Fault(f"its recipe asks for {name}, and it learned from {told.get('draws')} ({r.protocol})")
    path = manifests.find(name)
    if path is None:
        raise Unchecked(f"{name} is not here")
    manifest = draws.read_manifest(path)
    if not manifest.sha256 == told.get("draws_sha256") == r.split_digest:
        raise Fault(f"{name} here has the digest {manifest.sha256[:SHORT]}, not {str(r.split_digest)[:SHORT]}")
    if manifest.dataset_digest != r.dataset_digest:
        raise Fault(f"{name} here was drawn from other images")
    if not 0 <= r.seed < manifest.draws or told.get("seed") != r.seed:
        raise Fault(f"its seed is {r.seed}, its draw {told.get('seed')}, and {name} has {manifest.draws} draws")
    return name


def _made(dataset: str, shape: tuple[Any, ...], name: str) -> Path:
    """Test episodes that nobody has frozen here, drawn now where the images are here: drawing gives everybody the same."""
    if dataset not in DATASETS or not is_prepared(store_folder(DATASETS[dataset], paths.data())):
        raise Unchecked(f"{name} is not here, and neither are the images to draw it from")
    return load_episodes(load(dataset, "test"), dataset, "test", *shape).path


def _data(s: Subject) -> str:
    r = s.record
    if r.dataset not in DATASETS:
        raise Unchecked(f"the data set {r.dataset} is not known here: load its plug-in, or import it")
    entry = DATASETS[r.dataset]
    if entry.fewshot and r.suite in ("fewshot", "openset") and r.split_digest != load_split(r.dataset).digest:
        raise Fault(f"the class split of {r.dataset} here has another digest than {str(r.split_digest)[:SHORT]}")
    if entry.digest is None:
        raise Unchecked(f"slabench knows no digest of {r.dataset}'s images")
    if entry.digest == r.dataset_digest:
        return f"{r.dataset}, the published pixels"
    jpeg = (r.data_source or {}).get("jpeg_copies")
    why = (
        f"{jpeg} images are JPEG copies"
        if jpeg
        else f"its digest is {r.dataset_digest[:SHORT]}, not {entry.digest[:SHORT]}"
    )
    raise Fault(f"other images than the published ones of {r.dataset}: {why}")


def _environment(s: Subject) -> str:
    e = s.record.environment
    said = {
        **e,
        **({"precision": s.record.embedder.get("precision")} if s.record.embedder and is_frozen(s.record) else {}),
    }
    missing = [name for name in _ENVIRONMENT if said.get(name) in (None, "")]
    if missing:
        raise Fault(f"it does not say: {', '.join(missing)}")
    if why := untold(recorded(e)):
        raise Fault(f"made by code that is not known: {why}")
    commit = str(e["commit"])[:SHORT] if e.get("commit") else "an installed package"
    changed = ", with changes that are in no commit" if e.get("dirty") else ""
    plugins = [str(plugin["name"]) for plugin in recorded(e)]
    return f"slabench {e['slabench']}, {commit}{changed}; {e['device']}" + (
        f"; plug-ins {', '.join(plugins)}" * bool(plugins)
    )


_CHECKS: tuple[tuple[str, Callable[[Subject], str | None]], ...] = (
    ("finished", _finished),
    ("file name", _named),
    ("side file", _side),
    ("accuracy and interval", _scores),
    ("counts", _counts),
    ("protocol", _protocol),
    ("episodes", _episode_file),
    ("calibration", _calibration),
    ("head selection", _head_selection),
    ("images and split", _data),
    ("recipe", check_recipe),
    ("key", check_key),
    ("environment", _environment),
)
