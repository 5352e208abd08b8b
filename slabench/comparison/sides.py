"""Which rows of the leaderboard a comparison means, whether they may be compared at all, and the accuracies behind them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy

from slabench.core.errors import DataError, UsageError, did_you_mean, unknown_name
from slabench.core.files import SHORT
from slabench.ranking.entries import Entry, entries
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.sla.transforms import copies

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Accuracies = dict[int, NDArray[numpy.float64]]  # by seed, [n] accuracies of the test units


@dataclass(frozen=True)
class Contender:
    """A row of the leaderboard (one recipe, one predictor, its seeds) with the accuracies behind it."""

    entry: Entry
    accuracies: Accuracies

    @property
    def record(self) -> RunRecord:
        """The record of the first seed."""
        return self.entry.records[0]

    @property
    def name(self) -> str:
        """The name of the recipe."""
        return self.record.name

    @property
    def predictor(self) -> str:
        """The predictor of the row."""
        return self.entry.predictor

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, ascending."""
        return tuple(sorted(self.accuracies))

    @property
    def objective(self) -> str:
        """The training objective: baseline, da, rotated-classes, sla."""
        return self.entry.objective

    @property
    def backbone(self) -> str:
        """The registered name of the backbone."""
        return str(self.record.setting("model", "backbone") or "")

    @property
    def model(self) -> tuple[Any, ...]:
        """What is not in question between objectives; see `slabench.ranking.entries.Entry.model`."""
        return self.entry.model

    @property
    def images_seen(self) -> int:
        """Images passed through the backbone in training, mean over seeds."""
        return self.entry.images_seen

    @property
    def views(self) -> int:
        """Views that the predictor takes of a test image: M when it aggregates over transformed copies, else 1."""
        if self.predictor != "aggregated":
            return 1
        return copies(str(self.record.setting("sla", "transforms") or "")) or 0  # 0: of a plug-in that is not here


def contender(entry: Entry, store: ResultStore) -> Contender:
    """The row with the accuracies of each seed.

    Raises:
        DataError: a record has none, or its side file is missing or damaged.
    """
    return Contender(entry, {record.seed: _accuracies(store, record, entry.predictor) for record in entry.records})


def usable(entries: Sequence[Entry], store: ResultStore, problems: list[str]) -> list[Contender]:
    """The rows that have accuracies; a seed without them is left out, and `problems` says why."""
    found = []
    for entry in entries:
        accuracies: Any = {}
        for record in entry.records:
            try:
                accuracies[record.seed] = _accuracies(store, record, entry.predictor)
            except DataError as error:
                problems.append(error.message)
        if accuracies:
            found.append(Contender(entry, accuracies))
    return found


def _accuracies(store: ResultStore, record: RunRecord, predictor: str) -> NDArray[numpy.float64]:
    array = store.episodes(record).get(predictor)
    if array is None:
        raise DataError(
            f"{store.path(record)} has no side file with the {predictor} accuracy of each test "
            f"{'episode' if record.episodes else 'image'}, which a paired comparison is made from",
            "run the trial again with --resume force, or restore the file from its source",
        )
    return array.astype(numpy.float64)


Model = dict[str, Entry]
"""A recipe's rows by predictor, all of the same records."""


_GROUP = ("protocol", "protocol version", "protocol digest", "data digest", "split digest", "episodes digest")


def choose(
    store: ResultStore, records: Sequence[RunRecord], a: str, b: str, protocol: str | None
) -> tuple[Model, Model]:
    """The two models that are meant: the one pair that was scored on one test."""
    if not records:
        raise UsageError(
            f"{store.folder} holds no records", "name another folder with --results, or make one: slabench run"
        )
    options = [_models(store, records, text, protocol) for text in (a, b)]
    fitting = [(left, right) for left in options[0] for right in options[1] if _group(left) == _group(right)]
    if not fitting:
        # The closest two: of one protocol if there are such.
        pairs = [(left, right) for left in options[0] for right in options[1]]
        raise _refusal(
            *min(pairs, key=lambda pair: first_record(pair[0]).protocol != first_record(pair[1]).protocol), a, b
        )
    if len(fitting) > 1:
        protocols = sorted({first_record(left).protocol for left, _ in fitting})
        if len(protocols) > 1:
            raise UsageError(
                f"'{a}' and '{b}' were both run on {len(protocols)} protocols: {', '.join(protocols)}",
                f"choose one with --protocol {protocols[0]}",
            )
        found = [first_record(side) for pair in fitting for side in pair]
        keys = list(dict.fromkeys(f"{record.name} {record.key[:SHORT]}" for record in found))
        raise UsageError(f"'{a}' and '{b}' fit several recipes: {', '.join(keys)}", "name runs by their keys")
    left, right = fitting[0]
    return left, right


def choose_one(store: ResultStore, records: Sequence[RunRecord], text: str, protocol: str | None) -> RunRecord:
    """The first record of the one model that `text` means; see `choose`.

    Raises:
        UsageError: there is none, or it was run on several protocols.
    """
    found = _models(store, records, text, protocol)
    if len(found) > 1:
        names = sorted({first_record(model).protocol for model in found})
        raise UsageError(f"'{text}' was run on {len(found)} protocols: {', '.join(names)}", "give --protocol, or a key")
    return first_record(found[0])


def _models(store: ResultStore, records: Sequence[RunRecord], text: str, protocol: str | None) -> list[Model]:
    """What `text` may mean: a recipe by its name, on each protocol it was run on; else a run by its key."""
    wanted = text.strip()
    named = [r for r in records if wanted in (r.name, r.name.removeprefix(f"{r.suite}/"), r.name.rpartition("/")[2])]
    found = named or [r for r in records if wanted and r.key.startswith(wanted.lower())]
    keys = sorted({record.key for record in found})
    if not found:
        raise UsageError(
            f"no run in {store.root} is called '{text}' or has a key that begins with it",
            did_you_mean(wanted, {r.name.removeprefix(f"{r.suite}/") for r in records}) + "; see: slabench list runs",
        )
    if not named and len(keys) > 1:
        short = ", ".join(key[:SHORT] for key in keys)
        raise UsageError(f"'{text}' begins the keys of {len(keys)} runs: {short}", "give more of the key")
    done = [record for record in found if record.status == "done"]
    if not done:
        raise UsageError(
            f"no run of '{text}' is finished: {', '.join(sorted({r.status for r in found}))}", "run it again"
        )
    if protocol is not None:
        kept = [record for record in done if protocol in record.protocol]
        exact = [record for record in kept if record.protocol == protocol]
        if not kept:
            raise unknown_name(f"protocol of '{text}'", protocol, {record.protocol for record in done})
        done = exact or kept
    models: dict[Any, Model] = defaultdict(dict)
    for entry in entries(done, None, include_limited=True, among=records):
        record = entry.records[0]
        models[entry.group, record.recipe_digest, record.limited, entry.stale][entry.predictor] = entry
    found_models = list(models.values())
    for unranked in (why_stale, lambda model: first_record(model).limited):
        found_models = [model for model in found_models if not unranked(model)] or found_models
    return found_models


def _refusal(left: Model, right: Model, a: str, b: str) -> UsageError:
    """Why two models may not be compared: which digest differs, and both of its values."""
    mine, other = _group(left), _group(right)
    differing = [(name, x, y) for name, x, y in zip(_GROUP, mine, other, strict=False) if x != y]
    if len(differing) > 1:
        differing = [item for item in differing if item[0] != "protocol digest"]  # it covers the others
    parts = [f"{name} {_brief(x)} of {a}, {_brief(y)} of {b}" for name, x, y in differing]
    if parts:
        return UsageError(
            f"{a} and {b} were not scored on the same test: {'; '.join(parts)}",
            "run both on the same data, split and episodes; slabench show run KEY says what a run was scored on",
        )
    if mine[-2] != other[-2]:
        origins = [
            "rests on a pre-trained network" if group[-2] else "is trained from scratch" for group in (mine, other)
        ]
        return UsageError(
            f"{a} {origins[0]} and {b} {origins[1]}: what one of them has seen, the other has not",
            "compare it with a run of its own kind",
        )
    kinds = ["transductive" if group[-1] else "inductive" for group in (mine, other)]
    return UsageError(
        f"{a} is {kinds[0]} and {b} is {kinds[1]}: one saw the queries of an episode together, the other one by one",
        "compare it with a run of its own kind",
    )


def predictor_pairs(left: Model, right: Model, pa: str | None, pb: str | None) -> list[tuple[str, str]]:
    """The pairs of predictors, the one in question first."""
    for side, given, name in (("A", left, pa), ("B", right, pb)):
        if name is not None and name not in given:
            raise unknown_name(f"predictor of {side}, {first_record(given).name}:", name, given)
    same = {r.key for e in left.values() for r in e.records} & {r.key for e in right.values() for r in e.records}
    if same and (pa is None or pb is None or pa == pb):
        raise UsageError(
            f"A and B are the same run ({min(same)[:SHORT]})",
            "two predictors of one run: --predictor-a aggregated --predictor-b single",
        )
    lefts, rights = [pa] if pa else list(left), [pb] if pb else list(right)
    if pa or pb:
        return sorted(((x, y) for x in lefts for y in rights), key=lambda pair: pair[0] != pair[1])
    both = [(p, p) for p in left if p in right]
    gains = _trained(left), _trained(right)
    if gains[0] and not gains[1]:
        cross = [(p, "single") for p in left if p != "single" and "single" in right]
    elif gains[1] and not gains[0]:
        cross = [("single", p) for p in right if p != "single" and "single" in left]
    else:
        cross = []
    wanted = list(dict.fromkeys([*sorted(cross, key=lambda pair: "aggregated" not in pair), *both]))
    if not wanted:
        raise UsageError(
            f"A has the predictors {', '.join(left)} and B {', '.join(right)}: none in common",
            "choose with --predictor-a and --predictor-b",
        )
    return wanted


def first_record(model: Mapping[str, Entry]) -> RunRecord:
    """The record of the first seed."""
    return next(iter(model.values())).records[0]


def why_stale(model: Mapping[str, Entry]) -> str | None:
    """Why the model's records are stale; None where they are not."""
    return next(iter(model.values())).stale


def _group(model: Mapping[str, Entry]) -> tuple[Any, ...]:
    return next(iter(model.values())).group


def _trained(model: Mapping[str, Entry]) -> bool:
    """Whether this model was trained otherwise than a plain baseline."""
    return str(first_record(model).recipe.get("sla", {}).get("objective", "baseline")) != "baseline"


def _brief(value: object) -> str:
    return (str(value)[:SHORT] if isinstance(value, str) and "/" not in value else str(value)) or "none"
