"""Which runs and which predictors a comparison means, and whether they may be compared at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from slabench.errors import UsageError, did_you_mean, unknown_name
from slabench.fsio import SHORT
from slabench.results.leaderboard import Entry, entries
from slabench.results.record import RunRecord
from slabench.results.store import ResultStore

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
    for entry in entries(done, include_limited=True):
        record = entry.records[0]
        models[entry.group, record.recipe_digest, record.limited][entry.predictor] = entry
    full = [model for model in models.values() if not first_record(model).limited]
    return full or list(models.values())


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
    kinds = ["transductive" if group[-1] else "inductive" for group in (mine, other)]
    return UsageError(
        f"{a} is {kinds[0]} and {b} is {kinds[1]}: one saw the queries of an episode together, the other one by one",
        "compare it with a run of its own kind",
    )


def predictor_pairs(left: Model, right: Model, pa: str | None, pb: str | None) -> list[tuple[str, str]]:
    """The pairs of predictors, the one in question first."""
    for side, model, name in (("A", left, pa), ("B", right, pb)):
        if name is not None and name not in model:
            raise unknown_name(f"predictor of {side}, {first_record(model).name}:", name, model)
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


def _group(model: Mapping[str, Entry]) -> tuple[Any, ...]:
    return next(iter(model.values())).group


def _trained(model: Mapping[str, Entry]) -> bool:
    """Whether this model was trained otherwise than a plain baseline."""
    return str(first_record(model).recipe.get("sla", {}).get("objective", "baseline")) != "baseline"


def _brief(value: object) -> str:
    return (str(value)[:SHORT] if isinstance(value, str) and "/" not in value else str(value)) or "none"
