"""Recipes of the suite `fewshot`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from slabench.core.versions import HEAD_REVISIONS
from slabench.episodes import MOST_EPISODES
from slabench.episodes.profiles import BALANCED, parse_profile
from slabench.losses import SmoothingOver
from slabench.recipes.base import (
    LATER,
    AboveZero,
    BaseRecipe,
    Between,
    Few,
    FewOrNone,
    Fraction,
    LearningRate,
    Natural,
    NotNegative,
    OnFeatures,
    OptimizerName,
    Part,
    Positive,
)

ADAPTED = ("maml", "anil")
"""Learners that adapt weights to each episode; they have no head."""


class Data(Part):
    """What is learned on."""

    dataset: str


class Protocol(Part):
    """The episodes of the evaluation: N ways, K shots, Q queries, and how many of them.

    With a profile (`slabench.episodes.profiles`) classes of an episode get unequal shares of its N*K supports or N*Q queries.
    """

    ways: Positive = 5
    shots: Positive = 5
    queries: Positive = 15
    episodes: Annotated[Positive, Field(le=MOST_EPISODES)] = 2000
    support_profile: str = Field(default=BALANCED, json_schema_extra=LATER, description="such as linear:9")
    query_profile: str = Field(default=BALANCED, json_schema_extra=LATER, description="such as dirichlet:2")

    @field_validator("support_profile", "query_profile")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        return str(parse_profile(value, "--" + str(info.field_name).replace("_", "-")))


class Model(OnFeatures):
    """Backbone and head by their registered names, and how they are trained.

    `episodic`: backbone and head together, on episodes. `classifier`: the backbone with a linear layer over the training classes,
    on batches of images; the head comes to it on validation and test episodes. `maml` and `anil` adapt a linear layer to each
    episode in place of a head; `head` then repeats the learner's name, so that tables show it where they show a head.
    """

    backbone: str = "conv4"
    head: str = "protonet"
    head_revision: Positive = Field(
        default=1, json_schema_extra=LATER, description="of what the head computes; follows from the head"
    )
    learner: Literal["episodic", "classifier", "maml", "anil"] = Field(default="episodic", json_schema_extra=LATER)
    support_copies: Annotated[int, Field(ge=0, le=100)] = Field(
        default=0,
        json_schema_extra=LATER,
        description="augmented copies that stand for each support of a validation or test episode (RFS: 5); 0: the image itself",
    )

    @model_validator(mode="before")
    @classmethod
    def _adapted_layer_for_head(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("learner") not in ADAPTED:
            return given
        learner, default = given["learner"], cls.model_fields["head"].default
        if given.get("head", default) not in (default, learner):
            raise ValueError(f"the learner {learner} has no head: it adapts a linear layer to each episode")
        return {**given, "head": learner}

    @model_validator(mode="before")
    @classmethod
    def _present_revision(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        head = given.get("head", cls.model_fields["head"].default)
        now = HEAD_REVISIONS.get(head, 1) if isinstance(head, str) else 1
        if given.get("head_revision", now) != now:
            raise ValueError(f"the head {head} is at revision {now} here: leave head_revision out")
        return {**given, "head_revision": now}


class Maml(Part):
    """The inner loop of the learners `maml` and `anil`: gradient descent on the mean cross-entropy of an episode's supports.

    Steps and learning rate are those of MAML on mini-ImageNet (Finn, Abbeel and Levine, ICML 2017, appendix A.1). learn2learn's
    examples take 1 step at 0.5 for MAML (`maml_miniimagenet.py`) and 5 steps at 0.1 for ANIL (`anil_fc100.py`).
    """

    steps: Few = Field(default=5, description="inner steps in training")
    test_steps: Few = Field(default=10, description="inner steps on validation and test episodes")
    lr: LearningRate = Field(default=0.01, description="inner learning rate")
    first_order: bool = Field(default=False, description="no gradient through the inner gradients (FOMAML)")
    batch_norm: Literal["auto", "support", "batch", "running"] = Field(
        default="auto",
        description="whose statistics normalise the queries: of the episode's supports, of the queries themselves (transductive, "
        "as in both papers' code), or running ones; auto: support for maml, running for anil",
    )


class Sla(Part):
    """The training objective, and the transformations that it and the aggregated predictor use."""

    objective: str = "baseline"
    transforms: str = "rotation"


class Train(Part):
    """How it is trained. Counts are of steps; a step is `episodes_per_step` episodes and one update."""

    ways: Positive | None = Field(default=None, description="ways of training episodes; by default as evaluated")
    shots: Positive | None = Field(default=None, description="shots of training episodes; by default as evaluated")
    queries: Positive = 6
    steps: Natural = Field(
        default=4000,
        description="updates; 0, on features alone, is no training at all, and follows from the adapter none",
    )
    episodes_per_step: Few = 1
    batch_size: Positive = Field(
        default=64, json_schema_extra=LATER, description="images of a step (learner classifier), copies not counted"
    )
    optimizer: OptimizerName = "adam"
    lr: LearningRate = 1e-3
    momentum: Fraction = 0.9
    nesterov: bool = Field(default=True, json_schema_extra=LATER, description="as in MetaOptNet; RFS has none")
    weight_decay: NotNegative = 0.0
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    milestones: tuple[Between, ...] = Field(
        default=(), description="`step` schedule: fractions of the steps at which the learning rate changes"
    )
    factors: tuple[AboveZero, ...] = Field(
        default=(), description="`step` schedule: the learning rate after each milestone, as a fraction of lr"
    )
    label_smoothing: Fraction = 0.0
    smoothing_over: SmoothingOver = Field(
        default="all", json_schema_extra=LATER, description="classes that share the smoothing; see slabench.losses.loss"
    )
    crop: bool = True
    flip: bool = True
    jitter: Fraction = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @property
    def warmup(self) -> tuple[int, int]:
        """No warm-up; see `slabench.training.schedule.Optimisation`."""
        return (0, 1)


class Select(Part):
    """Validation on frozen episodes of the validation classes, and which weights are scored on the test."""

    rule: Literal["last", "best_val"] = "last"
    points: FewOrNone = Field(
        default=8, description="validations, evenly over the steps; the last one after the last step"
    )
    episodes: Positive = 500
    start: bool = Field(
        default=False,
        json_schema_extra=LATER,
        description="validate before the first update too, so that best_val may keep the weights that nothing has trained",
    )


class Recipe(BaseRecipe):
    """Everything that decides a few-shot result but the seed."""

    suite: Literal["fewshot"] = "fewshot"
    data: Data
    protocol: Protocol = Protocol()
    model: Model = Model()
    maml: Maml = Field(default=Maml(), json_schema_extra=LATER)
    sla: Sla = Sla()
    train: Train = Train()
    select: Select = Select()

    @model_validator(mode="before")
    @classmethod
    def _nothing_to_train(cls, given: Any) -> Any:
        """Raw features are not trained, whatever the steps of a recipe's other variants are."""
        model, train = (given.get(part) for part in ("model", "train")) if isinstance(given, Mapping) else (None, None)
        if not isinstance(model, Mapping) or not model.get("embedder") or model.get("adapter", "none") != "none":
            return given
        return {**given, "train": {**train, "steps": 0} if isinstance(train, Mapping) else {"steps": 0}}

    @property
    def batch_norm(self) -> str:
        """`maml.batch_norm`, or what the learner takes where that is `auto`."""
        chosen = self.maml.batch_norm
        if chosen == "auto":
            return "support" if self.model.learner == "maml" else "running"
        return chosen

    @property
    def from_features(self) -> bool:
        """Whether the features of an image are the same in every episode, so that each is embedded once.

        They are others where an episode adapts the backbone, or normalises by its own statistics.
        """
        learner = self.model.learner
        return learner not in ADAPTED or (learner == "anil" and self.batch_norm == "running")

    @property
    def train_ways(self) -> int:
        """Ways of a training episode."""
        return self.train.ways or self.protocol.ways

    @property
    def train_shots(self) -> int:
        """Shots of a training episode."""
        return self.train.shots or self.protocol.shots
