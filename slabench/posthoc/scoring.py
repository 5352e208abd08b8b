"""Post-hoc methods on a recorded trial: its outputs found, each method scored, and the scores as records of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slabench.core import paths
from slabench.core.errors import DataError, UsageError, unknown_name
from slabench.core.files import SHORT
from slabench.evaluation.metrics import ClassificationScores, score
from slabench.losses import uses_counts
from slabench.posthoc.methods import METHODS, PLAIN, Adjusted, logit_adjust, plain, tau_normalise, temperature
from slabench.posthoc.training import DEFAULT, crt, lws
from slabench.records.environment import derive
from slabench.records.outputs import ModelOutputs, check_owner, load_outputs
from slabench.records.record import RunRecord, Score
from slabench.records.store import ResultStore
from slabench.sla.objectives import classifier_objective
from slabench.suites.classifier.scores import class_score

if TYPE_CHECKING:
    from slabench.posthoc.training import Stage2


def apply(
    outputs: ModelOutputs,
    methods: Sequence[str] | None = None,
    *,
    tau: float = 1.0,
    norm_tau: float | None = None,
    seed: int = 0,
    stage: Stage2 | None = None,
) -> tuple[list[Adjusted], list[str]]:
    """The plain model and what each method makes of it.

    Args:
        outputs: the model.
        methods: names of `METHODS`; None takes all that this model allows.
        tau: of logit adjustment.
        norm_tau: of tau-normalisation; None chooses it on validation.
        seed: of what cRT and LWS draw.
        stage: their training; None is the default one.

    Returns:
        The results, the plain model first; and, where all were asked for, a line for each method that was left out.

    Raises:
        UsageError: an unknown method, or a named one that this model does not allow.
    """
    training = stage or DEFAULT
    calls: dict[str, Callable[[], Adjusted]] = {
        "logit-adjust": lambda: logit_adjust(outputs, tau),
        "tau-norm": lambda: tau_normalise(outputs, norm_tau),
        "crt": lambda: crt(outputs, seed, training),
        "lws": lambda: lws(outputs, seed, training),
        "temperature": lambda: temperature(outputs),
    }
    for name in methods or ():
        if name not in METHODS:
            raise unknown_name("post-hoc method", name, METHODS)
    classifier_objective(outputs.objective)
    found, left_out = [plain(outputs)], []
    for name in METHODS if methods is None else dict.fromkeys(methods):
        begin = time.perf_counter()
        try:
            found.append(replace(calls[name](), seconds=time.perf_counter() - begin))
        except UsageError as error:
            if methods is not None:
                raise
            left_out.append(f"{name} left out: {error.message}")
    return found, left_out


@dataclass(frozen=True)
class Row:
    """One method under one predictor.

    Attributes:
        method: a name of `slabench.posthoc.methods.METHODS`, or `none`.
        predictor: single, aggregated or distilled.
        parameter: the name of the method's hyper-parameter; None where it has none.
        value: what was given or chosen for it.
        scores: on the test.
    """

    method: str
    predictor: str
    parameter: str | None
    value: float | None
    scores: ClassificationScores


@dataclass(frozen=True)
class Posthoc:
    """What post-hoc methods make of a trial.

    Attributes:
        of: the trial's record.
        rows: method by method, the plain model first.
        notes: how parameters were chosen and layers trained, what was left out and why, what is doubtful.
        records: one of each method but the plain one, as `slabench.records` keeps them.
        right: by key of these records and by predictor, which test images were classified rightly: float32 `[n]`, 0 or 1.
    """

    of: RunRecord
    rows: list[Row]
    notes: list[str]
    records: list[RunRecord]
    right: dict[str, dict[str, NDArray[np.float32]]] = field(repr=False)


def posthoc(
    run: str,
    methods: Sequence[str] | None = None,
    *,
    tau: float = 1.0,
    norm_tau: float | None = None,
    results: Path | None = None,
    save: bool = False,
    argv: Sequence[str] = (),
) -> Posthoc:
    """Score post-hoc methods on a finished classifier, without its images.

    Args:
        run: the first characters of the trial's key.
        methods: names of `slabench.posthoc.methods.METHODS`; None takes all that the model allows.
        tau: of logit adjustment.
        norm_tau: of tau-normalisation; None chooses it on validation.
        results: the folder of records.
        save: keep the records of the methods beside the trial's.
        argv: the command line, for these records.

    Raises:
        UsageError: no such run or no classifier's, an unknown method, or one that this model does not allow.
        DataError: its outputs are missing or damaged.
    """
    store = ResultStore(paths.results(results))
    record = store.match(run)
    outputs = open_outputs(record, store)
    if save:  # what cannot be saved is not computed
        store.check_writable(record.suite, record.protocol, f"{record.name}+{max(METHODS, key=len)}")
    started = datetime.now(UTC)
    found, left_out = apply(outputs, methods, tau=tau, norm_tau=norm_tau, seed=record.seed)
    truth = outputs.splits["test"].labels.numpy()
    # Groups by training images mean something where classes differ in size on purpose.
    counts = outputs.counts if record.suite == "imbalanced" else None
    rows, records, right = [], [], {}
    for one in found:
        scored = {name: score(z.numpy(), truth, counts) for name, z in one.logits.items()}
        rows += [Row(one.method, name, one.parameter, one.values.get(name), s) for name, s in scored.items()]
        if one.method == PLAIN:
            continue  # the trial's own record has it
        own = {name: (z.numpy().argmax(1) == truth).astype(np.float32) for name, z in one.logits.items()}
        scores = [class_score(name, s, own[name], outputs.class_names) for name, s in scored.items()]
        made = _derive(record, one, _given(one.method, tau, norm_tau), scores, started, argv)
        records.append(made)
        right[made.key] = own
    notes = [f"{one.method}: {one.how}" for one in found if one.how not in ("", "given")]
    result = Posthoc(record, rows, notes + left_out + _doubts(record, found), records, right)
    for made in records if save else ():
        store.save(made, right[made.key])
    return result


def find_outputs(record: RunRecord, results_root: Path) -> Path:
    """Where the outputs of a trial lie: beside its record.

    Raises:
        UsageError: it is not a classifier's trial, or left no outputs.
        DataError: they are not there.
    """
    label = f"run {record.key[:SHORT]} ({record.name})"
    if "posthoc" in record.recipe:
        base = record.name.removesuffix(f"+{record.recipe['posthoc']['method']}")
        raise UsageError(f"{label} is a post-hoc result itself", f"name the run of {base} with seed {record.seed}")
    if record.outputs_file is None or record.suite == "fewshot":
        why = (
            "is not a classifier's: its suite is fewshot"
            if record.suite == "fewshot"
            else f"{record.status}, without outputs"
        )
        raise UsageError(
            f"{label} {why}; post-hoc methods need its features and layers", "slabench run imbalanced keeps them"
        )
    path = ResultStore(results_root).path(record).parent / Path(record.outputs_file).name
    if not path.is_file():
        raise DataError(
            f"the outputs of {label} are not here: {path}",
            "they stay where the trial was run: copy the file from there, or run it again with --resume force",
        )
    return path


def open_outputs(record: RunRecord, store: ResultStore) -> ModelOutputs:
    """The checked outputs of a trial.

    Raises:
        UsageError: it is not a classifier's trial, or left no outputs.
        DataError: they are missing, damaged, or another trial's.
    """
    path = find_outputs(record, store.root)
    outputs = load_outputs(path, record.outputs_sha256 or "")
    check_owner(outputs, record, path)
    return outputs


def _derive(
    record: RunRecord,
    one: Adjusted,
    given: Mapping[str, Any],
    scores: list[Score],
    started: datetime,
    argv: Sequence[str],
) -> RunRecord:
    """The record of a method on a trial: the trial's, with what the method changes.

    Its recipe is the trial's and the section `posthoc`, equal over seeds; what was chosen on this seed's validation
    images is in `derived`.
    """
    assert record.cost is not None  # a trial with outputs is finished
    changes = {
        "recipe": {**record.recipe, "posthoc": dict(given)},
        "scores": scores,
        "derived": {
            "of": record.key,
            "method": one.method,
            "how": one.how,
            one.parameter or "values": dict(one.values),
        },
        "cost": record.cost.model_copy(update={"train_seconds": round(record.cost.train_seconds + one.seconds, 3)}),
    }
    return derive(record, "posthoc", one.method, given, started, argv, changes)


def _given(method: str, tau: float, norm_tau: float | None) -> dict[str, Any]:
    """What decides a method's result, apart from the trial."""
    stage = {key: value for key, value in vars(DEFAULT).items() if method == "crt" or key != "weight_decay"}
    parameters: dict[str, dict[str, Any]] = {
        "logit-adjust": {"tau": float(tau)},
        "tau-norm": {"tau": "validation" if norm_tau is None else float(norm_tau)},
        "crt": stage,
        "lws": stage,
        "temperature": {},
    }
    return {"method": method, **parameters[method]}


def _doubts(record: RunRecord, found: Sequence[Adjusted]) -> list[str]:
    """Where logit adjustment makes up for counts that training has made up for already."""
    if not any(one.method == "logit-adjust" for one in found):
        return []
    balance, loss = record.recipe.get("balance", {}), record.recipe.get("loss", {}).get("name", "")
    done = [f"{kind} {balance[kind]}" for kind in ("reweight", "sampler") if balance.get(kind, "none") != "none"]
    done += [f"loss {loss}"] if uses_counts(loss) else []
    if not done:
        return []
    return [f"warning: trained with {' and '.join(done)}, logit adjustment makes up for the same counts a second time"]
