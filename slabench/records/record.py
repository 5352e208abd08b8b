"""The record of one trial: what was run, on what, with what result, at what cost, and how it was selected.

One JSON file a trial. Accuracies are fractions in [0, 1]; times are seconds; NaN and unknown keys are refused.
`docs/records.md` describes every field for readers of the files.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_serializer,
    model_validator,
)

from slabench.core.files import canonical_json, digest_json

SCHEMA: Literal["slabench.run/1"] = "slabench.run/1"

_LARGEST = 2**63 - 1

ACCURACY, AUROC = "accuracy", "auroc"
"""What `Score.value` may be of."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=_LARGEST)]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""What people read in tables and folders are named by: one line, as long as a file system takes."""
NonNegative = Annotated[float, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{12,64}$")]


WHOLE: dict[str, bool] = {"whole": True}
"""A context of validation: the value was validated before, and comes from JSON, so that its plain parts need no second walk."""


def _plain(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    if info.context is WHOLE:
        return value
    try:
        canonical_json(value)
        _check_numbers(value, "")
    except (TypeError, RecursionError) as error:  # pydantic reports a ValueError with the field, these not
        raise ValueError(str(error)) from error
    return value


def _check_numbers(value: Any, where: str) -> None:
    """Refuse whole numbers of more than 64 bits: no setting has one, and no mean or table can show it."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(f"'{where[:60]}' is a number of more than 64 bits")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        _check_numbers(item, f"{where}.{key}" if where else str(key))


def _utc(value: str) -> str:
    if datetime.fromisoformat(value).utcoffset() != timedelta(0):
        raise ValueError(f"'{value}' is not in UTC: write datetime.now(UTC).isoformat()")
    return value


def _known(value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    # A hundred numbers a score: half of the time that all of a record takes.
    return value if info.context is WHOLE and type(value) is dict else check(value)


PlainDict = Annotated[dict[str, Any], AfterValidator(_plain)]
ByClass = Annotated[dict[str, Fraction], WrapValidator(_known)]
UtcTime = Annotated[str, AfterValidator(_utc)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Chosen(_Strict):
    """The test accuracy that another selection rule would have reported, and the step that it would have chosen."""

    step: Count
    value: Fraction


class ClassScores(_Strict):
    """What else is known of a classifier's predictions; see `slabench.evaluation.metrics`. None: not defined."""

    balanced: Fraction
    many: Fraction | None = None
    medium: Fraction | None = None
    few: Fraction | None = None
    top5: Fraction | None = None
    macro_f1: Fraction
    g_mean: Fraction
    g_mean_corrected: Fraction
    nll: NonNegative
    ece: Fraction
    auroc: Fraction | None = None


class Calibration(_Strict):
    """Whether a few-shot head's probabilities, softmax of its logits, mean what they say.

    `nll` and `ece` (`bins` of equal width) are over all queries of the test episodes together. `temperature` is of the least NLL
    on the first `n` validation episodes called `episodes`, of validation classes; `nll_scaled` and `ece_scaled` are those of the
    test logits divided by it. `features_digest` is of the validation images' features where they are of a stored set.
    """

    nll: NonNegative
    ece: Fraction
    bins: Count
    temperature: Annotated[float, Field(gt=0)]
    nll_scaled: NonNegative
    ece_scaled: Fraction
    episodes: Name
    episodes_digest: Digest
    n: Count
    features_digest: Digest | None = None


class HeadSelection(_Strict):
    """How a few-shot head's own parameter was come by: `rule` is `validation` or `ensemble`; a fixed one is not told.

    `value` is the best on the validation episodes, with the accuracy `val_accuracy` there; an ensemble over the grid has none.
    The grid and the episodes stand in the recipe (`model.head_selection`).
    """

    rule: Name
    parameter: Name
    value: float | None = None
    val_accuracy: Fraction | None = None


class OpenSet(_Strict):
    """Of episodes with queries of unknown classes, whose score is the AUROC of the largest logit, means over episodes.

    `fpr95` is the part of the unknown queries that is accepted where 95 % of the known ones are, `accuracy` that of the known
    queries, `unknown` the number of unknown classes of an episode.
    """

    unknown: Count
    fpr95: Fraction
    fpr95_ci95: NonNegative | None = None
    accuracy: Fraction
    accuracy_ci95: NonNegative | None = None


class Score(_Strict):
    """One predictor's accuracy on the test episodes, or on the test images.

    `value` is the mean over `n` episodes or images of what `metric` says, `std` (ddof 1) their spread, `ci95` the half width of
    the 95 % t interval. `per_class` is the accuracy over all queries or images of a class, `worst_class` the least of them.
    `metrics` are a classifier's. `best_val` and `oracle` say what selection on validation, and on the test itself, would have
    given. Of episodes with unequal queries `balanced` is the mean over episodes of the accuracy averaged over classes,
    `balanced_ci95` its interval. `solver_residual` is the largest KKT residual of a head that solves a problem in each episode.
    `calibration` is there where somebody has asked for it (`slabench score --calibrate`), `open_set` where some queries are of
    unknown classes (`--open-set`), `head_selection` where the head's parameter is not fixed (`--head-selection`).
    """

    predictor: Name
    metric: str = ACCURACY
    value: Fraction
    ci95: NonNegative | None = None
    n: Count
    std: NonNegative | None = None
    worst_class: Fraction | None = None
    per_class: ByClass | None = None
    metrics: ClassScores | None = None
    balanced: Fraction | None = None
    balanced_ci95: NonNegative | None = None
    solver_residual: NonNegative | None = None
    best_val: Chosen | None = None
    oracle: Chosen | None = None
    calibration: Calibration | None = None
    open_set: OpenSet | None = None
    head_selection: HeadSelection | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, values: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What came later is not named where it is absent: older records stay byte for byte what they were."""
        written: dict[str, Any] = values(self)
        return {name: value for name, value in written.items() if value is not None or name not in _LATER_SCORES}


_LATER_SCORES = ("calibration", "open_set", "head_selection")


class Cost(_Strict):
    """What a trial cost. `images_seen` counts forward passes of training images, transformed copies too.

    `effective_batch` is the number of images of one step's forward pass, copies counted.
    """

    train_seconds: NonNegative
    eval_seconds: NonNegative
    images_seen: Count
    steps: Count
    episodes: Count
    parameters: Count
    peak_memory_bytes: Count | None = None
    images_per_second: NonNegative | None = None
    effective_batch: Count | None = None


class Selection(_Strict):
    """Which weights were scored: of the last step, the best on validation, or (`oracle`) the best on test itself.

    `candidates` is the number of checkpoints the rule chose from.
    """

    rule: Literal["last", "best_val", "oracle"]
    step: Count
    val_accuracy: Fraction | None = None
    candidates: Count = 1


class CurvePoint(_Strict):
    """The state of training after `step` steps; `val` maps a predictor to its accuracy on the validation episodes or images,
    `test` (which decides nothing) to that on the test images.
    """

    step: Count
    images_seen: Count
    seconds: NonNegative
    loss: float | None = None
    train_accuracy: Fraction | None = None
    val: dict[str, Fraction] = Field(default_factory=dict)
    test: dict[str, Fraction] = Field(default_factory=dict)


class RunRecord(_Strict):
    """One trial (recipe and seed) and its result.

    `key` names the trial: a digest of the resolved recipe, the seed, the protocol version and the data, split and
    episode digests, and of no path or device. `recipe_digest` is that of the recipe alone, so equal over seeds.
    `protocol_digest` covers everything that must agree before two numbers are compared (see `protocol_digest`).
    `data_source` says from what kind of files the images were read, and how many of them are lossy copies.
    `training_set` says which training images a classifier learned from. `outputs_file` holds a classifier's logits, features and
    layers; it is large and stays where the trial was run. `derived` says of which trial, by which post-hoc method and with what
    chosen values a record was made without training. `embedder` says what is known of the pre-trained network that features come
    from (`slabench.embedders.facts`); a record without one is of a network trained from scratch, and names no such field.
    `limited` marks runs of a reduced budget, which are never ranked.
    `argv` is the command line.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True)

    schema_: Literal["slabench.run/1"] = Field(default=SCHEMA, alias="schema")
    key: Digest
    name: Name
    recipe: PlainDict
    recipe_digest: Digest
    seed: Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]
    suite: Name
    protocol: Name
    protocol_version: Annotated[int, Field(ge=1, le=_LARGEST)]
    protocol_digest: Digest
    dataset: Name
    dataset_digest: str
    split_digest: str | None = None
    episodes: Name | None = None
    episodes_digest: str | None = None
    train_classes: Count | None = None
    test_classes: Count | None = None
    images_per_class: dict[str, Count] | Count | None = None
    data_source: PlainDict | None = None
    training_set: PlainDict | None = None
    derived: PlainDict | None = None
    embedder: PlainDict | None = None
    scores: list[Score] = Field(default_factory=list)
    curve: list[CurvePoint] = Field(default_factory=list)
    selection: Selection | None = None
    transductive: bool = False
    limited: bool = False
    warnings: list[str] = Field(default_factory=list)
    cost: Cost | None = None
    environment: PlainDict = Field(default_factory=dict)
    started: UtcTime
    finished: UtcTime
    status: Literal["done", "failed", "interrupted"]
    error: str | None = None
    side_file: Name | None = None
    side_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    outputs_file: Name | None = None
    outputs_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    argv: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _whole(self) -> RunRecord:
        if self.status == "done":
            missing = [name for name in ("scores", "selection", "cost") if not getattr(self, name)]
            if missing:
                raise ValueError(f"a finished trial has {', '.join(missing)}")
            if self.error is not None:
                raise ValueError("a finished trial has no error")
        if self.status == "failed" and not self.error:
            raise ValueError("a failed trial needs a reason in `error`")
        predictors = [score.predictor for score in self.scores]
        if len(set(predictors)) != len(predictors):
            raise ValueError(f"a predictor is scored twice: {', '.join(predictors)}")
        if (self.side_file is None) != (self.side_sha256 is None):
            raise ValueError("side_file and side_sha256 go together")
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, values: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Records from before there were embedders stay byte for byte what they were when they are written again."""
        written: dict[str, Any] = values(self)
        if self.embedder is None:
            written.pop("embedder", None)
        return written

    @property
    def pretrained(self) -> bool:
        """Whether it rests on a network that was trained on other data: never ranked beside rows trained from scratch."""
        return self.embedder is not None

    def setting(self, *names: str) -> Any:
        """`recipe[a][b]...`, or None where the recipe has no such key."""
        value: Any = self.recipe
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    def score(self, predictor: str) -> Score | None:
        """The score of `predictor`, None where this trial has none."""
        return next((score for score in self.scores if score.predictor == predictor), None)


def protocol_digest(
    protocol: str, version: int, *, dataset_digest: str, split_digest: str | None, episodes_digest: str | None
) -> str:
    """sha256 (hex) of all that must agree before two numbers are compared: the task, its version and its data."""
    return digest_json(
        {
            "protocol": protocol,
            "version": version,
            "dataset": dataset_digest,
            "split": split_digest,
            "episodes": episodes_digest,
        }
    )
