"""One pass, all scores: the features of a trained few-shot run under every head, at any ways and shots, as records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slabench import plugins
from slabench.core import paths
from slabench.core.errors import DataError, UsageError
from slabench.core.files import SHORT
from slabench.core.registry import DATASETS, HEADS
from slabench.core.versions import HEAD_REVISIONS
from slabench.data import load
from slabench.data.catalog import info
from slabench.data.imageset import ImageSet
from slabench.episodes.files import EpisodeFile
from slabench.episodes.profiles import BALANCED
from slabench.evaluation.episodes import embed
from slabench.learners import EpisodicLearner, build_backbone, with_head
from slabench.recipes import parse_recipe
from slabench.recipes.fewshot import Recipe
from slabench.records.environment import derive, derived_key
from slabench.records.outputs import ModelWeights, check_owner, load_weights
from slabench.records.record import RunRecord, Score
from slabench.records.staleness import outdated
from slabench.records.store import ResultStore
from slabench.suites import on_device
from slabench.suites.fewshot.chosen_heads import heads_of_run
from slabench.suites.fewshot.cross_domain import Crossing, crossing
from slabench.suites.fewshot.data import Prepared, prepare, trial_key
from slabench.suites.fewshot.features import image_features
from slabench.suites.fewshot.head_scores import HeadScores, scored
from slabench.suites.fewshot.head_selection import BY_VALIDATION, FIXED, Selector, named, selectable
from slabench.suites.fewshot.head_settings import Setting, check_counts, check_open_set, predictors_of, settings_of
from slabench.suites.fewshot.scoring import base_mean
from slabench.suites.fewshot.validation import validation_of
from slabench.suites.on_features import Features, transforms_of
from slabench.training.device import choose_device, exact_float32, use_threads


@dataclass(frozen=True)
class Scoring:
    """A scoring that is under way.

    Attributes:
        of: the record of the trained run.
        results: head by head, setting by setting, each scored when it is asked for.
        left_out: heads that cannot be scored on this run, with the reason.
        count: how many results there will be.
        heads: that are scored.
    """

    of: RunRecord
    results: Iterator[HeadScores]
    left_out: list[str]
    count: int
    heads: tuple[str, ...] = ()


def score_heads(
    run: str,
    heads: Sequence[str] | None = None,
    ways: Sequence[int] | None = None,
    shots: Sequence[int] | None = None,
    *,
    queries: int | None = None,
    episodes: int | None = None,
    predictors: Sequence[str] | None = None,
    support_profile: str | None = None,
    query_profile: str | None = None,
    open_set: int | None = None,
    on: str | None = None,
    results: Path | None = None,
    data_folder: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    save: bool = False,
    again: bool = False,
    calibrate: bool = False,
    head_selection: str = FIXED,
    plan_only: bool = False,
    argv: Sequence[str] = (),
    told: Callable[[str], None] = lambda text: None,
) -> Scoring:
    """Score heads on the features of a finished few-shot run.

    Args:
        run: the first characters of the trial's key.
        heads: registered names, or `HEAD_GROUPS`; None takes all that need no training of their own and are not transductive,
            and the run's own head.
        ways: N of the episodes; by default the run's.
        shots: K; by default the run's.
        queries: Q per class; by default the run's.
        episodes: how many; by default the run's.
        predictors: some of `slabench.evaluation.episodes.PREDICTORS`; None: both. `aggregated` of a head that solves the joint
            problem costs M times M as much and more.
        support_profile: see `slabench.episodes.profiles`; None: the run's.
        query_profile: the same.
        open_set: so many classes of each episode are unknown: they have queries and no supports (`slabench.evaluation.open_set`).
        on: another few-shot data set, whose test classes are scored; None: the run's own.
        results: the folder of records.
        data_folder: of prepared data.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        threads: CPU threads; None leaves torch's choice.
        save: keep a record of each head and setting beside the trial's; what is kept already is not computed again.
        again: compute it all the same.
        calibrate: with NLL and ECE, and a temperature chosen on episodes of the validation classes of the run's own data set.
        head_selection: how heads come by their own parameter: `fixed`, the best of a grid on those `validation` episodes, or an
            `ensemble` over the grid.
        plan_only: check what is asked for, and embed and score nothing: there are no results then.
        argv: the command line, for these records.
        told: told what is going on.

    Raises:
        UsageError: no such run, head or setting, or a run that left no weights.
        DataError: its weights are missing or damaged, or the data is not here.
    """
    check_counts(queries, episodes, open_set)
    check_open_set(open_set, calibrate)
    use_threads(threads)
    store = ResultStore(paths.results(results))
    record = store.match(run)
    weights = open_weights(record, store)
    recipe = parse_recipe({**record.recipe, "seeds": [record.seed]})
    assert isinstance(recipe, Recipe)
    _check_code(recipe, record)
    own = recipe.model.head
    chosen, left_out = heads_of_run(heads, own, recipe.model.learner)
    chosen, fixed = selectable(chosen, head_selection, heads)
    left_out += fixed
    wanted = predictors_of(predictors)
    settings = settings_of(
        recipe.protocol,
        ways,
        shots,
        queries=queries,
        episodes=episodes,
        support_profile=support_profile,
        query_profile=query_profile,
        open_set=open_set,
    )
    where = choose_device(device)
    across = crossing(recipe.data.dataset, on)
    tested = across.target.name if across else recipe.data.dataset
    train, test, embedded = _open(recipe, record, tested, data_folder)
    doubts = across.doubts(train, test) if across else []
    for line in doubts:
        told(f"note: {line}")
    val = _validation(recipe, data_folder) if calibrate or head_selection == BY_VALIDATION else None
    # Before anything is embedded: a setting that the classes cannot serve stops here.
    files = {setting: setting.file(test, tested) for setting in settings}

    def prepared_for(file: EpisodeFile) -> Prepared:  # no validation here
        trained_on = recipe.data.dataset if across else None
        return Prepared(_info(recipe), train, test, test, file, file, features=embedded, trained_on=trained_on)

    longest = named(max(chosen, key=len), head_selection)
    for file in files.values() if save else ():  # what cannot be saved is not computed
        store.check_writable(prepared_for(file).suite, prepared_for(file).protocol, f"{record.name}+{longest}")
    if plan_only:
        return Scoring(record, iter(()), left_out, len(settings) * len(chosen), tuple(chosen))
    learners = {name: learner_of(recipe, record.seed, embedded, name, weights).to(where).eval() for name in chosen}
    features = image_features(learners[chosen[0]], recipe, test, store.root, record, told, across)
    centre = None
    if any(learner.head.centred for learner in learners.values()):
        told("embedding the training classes, for their mean")
        learner = learners[chosen[0]]
        with exact_float32():
            centre = base_mean(learner, train, transforms_of(recipe), _info(recipe)).to(where)

    validation = None
    if val is not None:

        def of_validation(rows: Tensor) -> Tensor:
            told(f"embedding {len(rows):,} validation images under {transforms_of(recipe).M} transformations")
            images = on_device(val.images, torch.device("cpu"), rows.numpy())
            with exact_float32():
                return embed(learners[chosen[0]], images, transforms_of(recipe), _info(recipe)).to(where)

        validation = validation_of(val, recipe.data.dataset, settings, of_validation, centre)

    selector = Selector(head_selection, validation if head_selection == BY_VALIDATION else None)

    def work_of(head: str, setting: Setting) -> _Derivation:
        selection = selector.facts(head, setting)
        return _Derivation(record, recipe, head, setting, prepared_for(files[setting]), across, doubts, selection)

    found = scored(
        files,
        learners,
        wanted,
        work_of,
        features=features,
        centre=centre,
        class_names=test.class_names,
        store=store,
        save=save,
        again=again,
        argv=argv,
        calibration=validation if calibrate else None,
        selector=selector,
    )
    return Scoring(record, found, left_out, len(settings) * len(chosen), tuple(chosen))


def open_weights(record: RunRecord, store: ResultStore) -> ModelWeights:
    """The checked weights of a few-shot trial.

    Raises:
        UsageError: it is not a few-shot trial, or left no weights.
        DataError: they are missing or damaged.
    """
    label = f"run {record.key[:SHORT]} ({record.name})"
    if record.suite != "fewshot":
        raise UsageError(
            f"{label} is of the suite {record.suite}", "heads are scored on few-shot runs; see: slabench posthoc"
        )
    if record.pretrained and record.outputs_file is None:  # `slabench score --features`: nothing was trained
        raise UsageError(
            f"{label} rests on the features {record.setting('model', 'embedder')}, and trained nothing on them",
            f"slabench score --features {record.setting('model', 'embedder')} --dataset {record.dataset}",
        )
    if record.derived is not None:
        raise UsageError(
            f"{label} was itself made by slabench score", f"name the run that it scores: {record.derived['of'][:SHORT]}"
        )
    if record.outputs_file is None or record.outputs_sha256 is None:
        raise UsageError(
            f"{label} left no weights: its status is {record.status}, made by slabench {record.environment.get('slabench')}",
            "run it again with --resume force",
        )
    path = store.path(record).parent / Path(record.outputs_file).name
    if not path.is_file():
        raise DataError(
            f"the weights of {label} are not here: {path}",
            "they stay where the trial was run: copy the file from there, or run it again with --resume force",
        )
    weights = load_weights(path, record.outputs_sha256)
    check_owner(weights, record, path)
    return weights


def _open(
    recipe: Recipe, record: RunRecord, tested: str, data_folder: Path | None
) -> tuple[ImageSet, ImageSet, Features | None]:
    """Training images, and test images of `tested`; of a run on features, what stands in their place.

    Raises:
        DataError: the features are others than when the trial was run.
        UsageError: a run on features, and another data set to test on.
    """
    name = recipe.data.dataset
    if not recipe.model.embedder:
        return load(name, "train", data_folder), load(tested, "test", data_folder), None
    if tested != name:
        raise UsageError(
            f"--on {tested} with a run on features of {name}: an adapter is scored on the data set that it was trained on",
            "leave --on out, or name a run that was trained on images",
        )
    prepared = prepare(recipe, data_folder)
    if trial_key(recipe, record.seed, prepared, plugins.recorded(record.environment)) != record.key:
        raise DataError(
            f"the feature set '{recipe.model.embedder}', or what it is of, is another one now than in run {record.key[:SHORT]}",
            "run the trial again on the features that are here",
        )
    return prepared.train, prepared.test, prepared.features


def _validation(recipe: Recipe, data_folder: Path | None) -> ImageSet:
    """Validation images of the run's own data set, or what stands in their place."""
    if recipe.model.embedder:
        return prepare(recipe, data_folder).val
    return load(recipe.data.dataset, "val", data_folder)


def _check_code(recipe: Recipe, record: RunRecord) -> None:
    """Refuse weights of a network, or transformations, whose code is another one now than when the trial was run.

    A head's code is in the key of its scores, and images have a digest of their own.

    Raises:
        DataError: names what differs.
    """
    then, now = (
        {(p["kind"], p["name"]): p["sha256"] for p in found if p["kind"] not in (HEADS.kind, DATASETS.kind)}
        for found in (plugins.recorded(record.environment), plugins.used(recipe))
    )
    for kind, name in sorted(then.keys() | now.keys()):
        if then.get((kind, name)) != now.get((kind, name)):
            raise DataError(
                f"the {kind} '{name}' has other code than in run {record.key[:SHORT]}",
                "load the plug-in as it was then, or run the trial again with this one",
            )


def learner_of(
    recipe: Recipe, seed: int, features: Features | None, head: str, weights: ModelWeights
) -> EpisodicLearner:
    """The trained backbone, or the adapter on `features`, under another head; the run's own head keeps what it has learned."""
    model = recipe.model
    backbone = build_backbone(model, _info(recipe), seed) if features is None else features.adapter(model, seed)
    learner = with_head(backbone, HEADS.get(head), seed)
    known = learner.state_dict()
    own = head == recipe.model.head
    wanted = {name for name in known if name.startswith("backbone.") or own}
    # A pre-trained classifier has no scale; its value never changes which class comes first.
    missing = sorted(name for name in wanted - set(weights.tensors) if name != "scale")
    if missing:
        raise DataError(f"the weights of the run lack {missing[0]}", "run the trial again with --resume force")
    learner.load_state_dict({**known, **{name: weights.tensors[name] for name in wanted if name in weights.tensors}})
    return learner


def _info(recipe: Recipe) -> Any:
    return info(recipe.data.dataset)


class _Derivation:
    """The record of a head on a trial: the trial's, with what the head and the episodes change.

    Its recipe is the trial's with the episodes and the head that were scored, and a section `score` that tells it from a trial
    trained that way; it is equal over seeds. A head from a plug-in brings its code into the key, as in a trial.
    """

    def __init__(
        self,
        of: RunRecord,
        recipe: Recipe,
        head: str,
        setting: Setting,
        prepared: Prepared,
        across: Crossing | None = None,
        doubts: Sequence[str] = (),
        selection: Mapping[str, Any] | None = None,
    ) -> None:
        self.selection = selection
        self.across, self.doubts = across, doubts
        self.of, self.recipe, self.head, self.setting, self.prepared = of, recipe, head, setting, prepared
        scored = recipe.model_copy(update={"model": recipe.model.model_copy(update={"head": head})})
        self.code = [plugin for plugin in plugins.used(scored) if plugin["kind"] == HEADS.kind]
        self.revision = HEAD_REVISIONS.get(head, 1)
        self.given: dict[str, Any] = {"head": head, "protocol": prepared.protocol_digest}
        if self.revision > 1:
            self.given["head_revision"] = self.revision
        if selection is not None:
            self.given["head_selection"] = dict(selection)
        if across is not None:
            self.given |= across.facts()
        self.key = derived_key(of.key, "score", self.given, self.code)

    def outdated(self, kept: RunRecord) -> bool:
        """Whether it was made from weights that the trial no longer has."""
        return outdated(kept, self.of) is not None

    def record(
        self, scores: list[Score], seconds: float, transductive: bool, started: datetime, argv: Sequence[str]
    ) -> RunRecord:
        """With these scores, which took so long, of a head that was found to look at other queries or not to."""
        of, recipe = self.of, self.recipe
        asked = self.setting.plain()
        profiles = {  # a recipe that says that they are balanced goes on saying it
            name: BALANCED for name in ("support_profile", "query_profile") if name in of.recipe["protocol"]
        }
        trained = {"head": recipe.model.head, "ways": recipe.train_ways, "shots": recipe.train_shots}
        # The head is another one, and its supports are the images themselves.
        model = {k: v for k, v in of.recipe["model"].items() if k not in ("head_revision", "support_copies")}
        made = {
            **of.recipe,
            "protocol": {**of.recipe["protocol"], **profiles, **asked},
            "model": {**model, "head": self.head}
            | ({"head_revision": self.revision} if self.revision > 1 else {})
            | ({"head_selection": dict(self.selection)} if self.selection else {}),
            "train": {**of.recipe["train"], "ways": recipe.train_ways, "shots": recipe.train_shots},
            "score": {"trained": trained} | (self.across.facts() if self.across else {}),
        }
        assert of.cost is not None  # a trial with weights is finished
        changes = {
            "recipe": made,
            "suite": self.prepared.suite,
            **self.prepared.facts(),
            "scores": scores,
            "transductive": transductive,
            "derived": {"of": of.key, "method": "score", "head": self.head}
            | (self.across.facts() if self.across else {}),
            "dataset": self.across.target.name if self.across else of.dataset,
            "cost": of.cost.model_copy(update={"eval_seconds": round(seconds, 3)}),
            "warnings": list(self.doubts),
        }
        method = named(self.head, self.selection["rule"] if self.selection else FIXED)
        return derive(of, "score", method, self.given, started, argv, changes, self.code)
