"""Recipes of the suites that train an ordinary classifier: `imbalanced` and `supervised`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from slabench.recipes.base import (
    LATER,
    AboveZero,
    BaseRecipe,
    Between,
    FewOrNone,
    Fraction,
    LearningRate,
    Natural,
    NotNegative,
    OnFeatures,
    OptimizerName,
    Part,
    Positive,
    Seed,
)

Normalise = Literal["catalog", "half", "ldam"]
LayerInit = Literal["he-zero", "he", "torch"]
ConvInit = Literal["backbone", "fan-out"]


class ClassifierData(Part):
    """What is learned on. `ratio`, `class_order` and `seed` belong to the profiles `exp` and `step`."""

    dataset: str
    profile: Literal["full", "exp", "step", "counts"] = Field(
        default="full", description="images by class: all of them, exponential, step, or `counts`"
    )
    ratio: float = Field(default=100, gt=0, le=1e9, description="largest over smallest class, at least 1")
    class_order: str = Field(default="label", description="the most frequent class first: label, reversed, random:SEED")
    seed: Seed = Field(default=0, description="of the draw of the training images, apart from the trial's seed")
    normalise: Normalise = Field(
        default="catalog",
        json_schema_extra=LATER,
        description="mean and deviation of the colours: the catalog's, half (0.5 and 0.5, SLA's code), or ldam (LDAM-DRW's)",
    )
    counts: tuple[Positive, ...] | None = Field(default=None, description="own counts by label (profile counts)")
    per_class: Positive | None = Field(
        default=None, description="limited data: so many training images a class (profile full)"
    )
    val_fraction: Fraction = Field(
        default=0.1, description="profile full: held out of the training images of each class, for selection"
    )
    val_images: Natural = Field(
        default=20, description="long tails: at most so many a class of the training images that the subset leaves out"
    )


class ClassifierProtocol(Part):
    """The training protocol that a row is compared within: rows of different ones are never ranked together."""

    training: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")] = "standard"


class ClassifierModel(OnFeatures):
    """Backbone by its registered name, and the kind of its output layers (`auto`: as the loss needs)."""

    backbone: str = "resnet32"
    layer: Literal["auto", "linear", "cosine"] = "auto"
    layer_init: LayerInit = Field(
        default="he-zero",
        json_schema_extra=LATER,
        description="linear layers: He's normal weights, zero biases; he: torch's biases (LDAM-DRW); torch: torch's own (SLA)",
    )
    conv_init: ConvInit = Field(
        default="backbone",
        json_schema_extra=LATER,
        description="convolutions: as the backbone has them (CIFAR ResNets: He's by fan-in), or He's by fan-out (SLA)",
    )


class ClassifierSla(Part):
    """The objective, its transformations, and what SLA+SD and MT add."""

    objective: str = "baseline"
    transforms: str = "rotation"
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="over the transformed copies; the authors advise `sum` for large data sets"
    )
    temperature: AboveZero = Field(default=1.0, description="T of the distillation (sla+sd)")
    beta: NotNegative = Field(
        default=1.0, description="weight of the student's own loss (sla+sd), or of MT's second task"
    )


class LossPart(Part):
    """The loss of a sample; parameters that a loss does not have are left at their defaults."""

    name: str = "ce"
    smoothing: Fraction = 0.0
    gamma: NotNegative = Field(default=1.0, description="focal")
    max_margin: AboveZero = Field(default=0.5, description="ldam: margin of the smallest class")
    scale: AboveZero = Field(default=30.0, description="ldam and cosine layers: s")
    tau: AboveZero = Field(default=1.0, description="logit-adjusted")

    @property
    def parameters(self) -> dict[str, float]:
        """All but the name, as `slabench.losses.loss.build_loss` takes them."""
        return self.model_dump(exclude={"name"})


class Balance(Part):
    """Re-weighting and re-sampling."""

    reweight: str = "none"
    beta: Fraction = Field(default=0.9999, description="effective number, drw")
    sampler: str = "none"
    switch: Between = Field(
        default=0.8, description="drw and deferred: the fraction of the training after which they begin"
    )


class Mix(Part):
    """Mixing of images in pairs, before the transformations."""

    name: str = "none"
    alpha: AboveZero = 1.0
    skip_epochs: Natural = Field(default=3, description="cmo: first and last epochs without mixing")


class Augment(Part):
    """Image augmentation, before the transformations: the copies of an image share it."""

    crop: bool = True
    flip: bool = True
    cutout: Natural = Field(default=0, description="side of the square, in pixels")
    policy: Literal["none", "autoaugment", "randaugment"] = "none"
    jitter: Fraction = 0.0


class ClassifierTrain(Part):
    """How it is trained. Either `epochs` or `steps`; a batch counts images, not transformed copies."""

    epochs: Positive | None = 60
    steps: Positive | None = Field(default=None, description="updates; takes the place of epochs")
    batch_size: Positive = 128
    batches: Literal["epochs", "independent"] = Field(
        default="epochs", description="deal every epoch's images out, or draw each batch anew (SLA's code)"
    )
    optimizer: OptimizerName = "sgd"
    lr: LearningRate = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 2e-4
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    warmup_epochs: Natural = Field(
        default=0, description="epoch e of them has the learning rate lr * e / warmup_epochs"
    )
    milestones: tuple[Between, ...] = Field(
        default=(), description="`step` schedule: fractions of the steps at which the learning rate changes"
    )
    factors: tuple[AboveZero, ...] = Field(
        default=(), description="`step` schedule: the learning rate after each milestone, as a fraction of lr"
    )
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class ClassifierSelect(Part):
    """Validation during training, and which weights make the headline: the last ones, or the best on validation.

    Test accuracy is watched at the same points; it decides nothing but the column `oracle`.
    """

    rule: Literal["last", "best_val"] = "last"
    by: Literal["single", "distilled"] = Field(
        default="single",
        json_schema_extra=LATER,
        description="whose validation accuracy best_val goes by: distilled is the student's where there is one (SLA's code)",
    )
    points: FewOrNone = 10

    @property
    def start(self) -> bool:
        """Never before the first update: layers that nothing has trained are guessing."""
        return False


class ClassifierRecipe(BaseRecipe):
    """Everything that decides a classifier's result but the seed."""

    suite: Literal["imbalanced", "supervised"] = "imbalanced"
    data: ClassifierData
    protocol: ClassifierProtocol = ClassifierProtocol()
    model: ClassifierModel = ClassifierModel()
    sla: ClassifierSla = ClassifierSla()
    loss: LossPart = LossPart()
    balance: Balance = Balance()
    mix: Mix = Mix()
    augment: Augment = Augment()
    train: ClassifierTrain = ClassifierTrain()
    select: ClassifierSelect = ClassifierSelect()
