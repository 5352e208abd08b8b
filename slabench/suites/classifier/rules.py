"""Which recipes of a classifier make sense, which are doubtful, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slabench.core.errors import UsageError, unknown_name
from slabench.core.registry import BACKBONES
from slabench.data.catalog import DATASETS, info
from slabench.data.loading import datasets, input_size
from slabench.data.longtail import class_order, profile_counts
from slabench.data.mixing import MIXINGS
from slabench.losses import LOSSES, REWEIGHTINGS, needs_cosine, uses_counts
from slabench.losses.resampling import RESAMPLINGS
from slabench.sla.objectives import classifier_objective
from slabench.sla.transforms import transform_set
from slabench.suites.on_features import refuse_idle

if TYPE_CHECKING:
    from slabench.recipes.classifier import ClassifierRecipe

REWEIGHTS = {
    **REWEIGHTINGS,
    "drw": "effective number, from 4/5 of the training on (deferred re-weighting, Cao et al. 2019)",
}


def uses_cosine(recipe: ClassifierRecipe) -> bool:
    """Whether the output layers are cosine layers: as asked, or as the loss needs."""
    if recipe.model.layer == "auto":
        return needs_cosine(recipe.loss.name)
    return recipe.model.layer == "cosine"


def check(recipe: ClassifierRecipe) -> None:
    """Refuse what no data could serve: unknown names, and combinations that make no sense. Loads nothing.

    Raises:
        UsageError: names the setting, the reason and the remedy.
    """
    if recipe.data.dataset not in datasets():
        if recipe.data.dataset in DATASETS:
            entry = info(recipe.data.dataset)
            raise UsageError(
                f"'{entry.name}' is a few-shot split of {entry.store}",
                f"to classify all of its classes: --dataset {entry.store}",
            )
        raise unknown_name("dataset", recipe.data.dataset, datasets())
    _check_network(recipe)
    classifier_objective(recipe.sla.objective)
    transform_set(recipe.sla.transforms)
    for kind, name, known in (
        ("loss", recipe.loss.name, LOSSES),
        ("re-weighting", recipe.balance.reweight, REWEIGHTS),
        ("sampler", recipe.balance.sampler, RESAMPLINGS),
        ("mixing", recipe.mix.name, MIXINGS),
    ):
        if name not in known:
            raise unknown_name(kind, name, known)
    size = input_size(info(recipe.data.dataset))
    if recipe.augment.cutout > size:
        raise UsageError(
            f"--cutout {recipe.augment.cutout} on images of {size} x {size} pixels",
            f"give at most {size}; 16 is usual for 32",
        )
    _check_data(recipe)
    if needs_cosine(recipe.loss.name) and recipe.model.layer == "linear":
        raise UsageError(
            f"model.layer = linear with loss {recipe.loss.name}: its margins are angles between features and classes",
            "leave model.layer out, or use another --loss",
        )
    _check_training(recipe)


def _check_network(recipe: ClassifierRecipe) -> None:
    """Refuse a backbone that nobody knows; on features, what is done to images."""
    a = recipe.augment
    idle = {"crop": False, "flip": False, "cutout": 0, "policy": "none", "jitter": 0}
    settings = {f"augment.{name}": (getattr(a, name), off) for name, off in idle.items()}
    settings |= {
        "mix.name": (recipe.mix.name, "none"),
        "data.normalise": (recipe.data.normalise, "catalog"),
        "model.conv_init": (recipe.model.conv_init, "backbone"),
    }
    refuse_idle(recipe, settings)
    if not recipe.model.embedder:
        BACKBONES.entry(recipe.model.backbone)


def _check_data(recipe: ClassifierRecipe) -> None:
    d = recipe.data
    if recipe.suite == "supervised" and d.profile != "full":
        raise UsageError(
            f"data.profile = {d.profile} in the suite supervised",
            "for a long tail: slabench run imbalanced --ratio 100",
        )
    if recipe.suite == "imbalanced" and d.profile == "full":
        raise UsageError(
            "data.profile = full in the suite imbalanced", "use exp, step or counts, or: slabench run supervised"
        )
    if (d.profile == "counts") != (d.counts is not None):
        raise UsageError(
            f"data.profile = {d.profile} {'without' if d.counts is None else 'with'} data.counts",
            "own counts come as --counts FILE.csv (columns class,count)",
        )
    if d.per_class is not None and d.profile != "full":
        raise UsageError(
            "--per-class works in the suite supervised only",
            "for a long tail give the counts themselves: --counts FILE.csv",
        )
    if d.profile in ("exp", "step"):
        profile_counts(10**9, 2, d.ratio, d.profile)  # the ratio itself: what a data set makes of it comes later
        class_order(d.class_order, 2)


def _check_training(recipe: ClassifierRecipe) -> None:
    t = recipe.train
    if t.steps is None and t.epochs is None:
        raise UsageError("neither train.steps nor train.epochs is set", "give --epochs or --steps")
    if t.schedule == "step" and (len(t.milestones) != len(t.factors) or not t.milestones):
        raise UsageError(
            f"train.milestones has {len(t.milestones)} values and train.factors {len(t.factors)}",
            "the step schedule needs equally many of both, at least one",
        )
    if recipe.select.rule == "best_val" and recipe.select.points == 0:
        raise UsageError("select.rule = best_val needs validations", "set select.points to 1 or more")
    if recipe.select.rule == "best_val" and _no_validation(recipe):
        raise UsageError(
            "select.rule = best_val without validation images",
            "raise data.val_fraction or data.val_images, or use last",
        )


def _no_validation(recipe: ClassifierRecipe) -> bool:
    d = recipe.data
    return (d.val_fraction if d.profile == "full" else d.val_images) == 0


def warnings(recipe: ClassifierRecipe) -> list[str]:
    """What is legal and doubtful about a recipe, with the reason."""
    found = []
    balance, loss = recipe.balance, recipe.loss
    shifted = uses_counts(loss.name) == "shift"
    rebalanced = [
        name
        for name, on in (
            (f"loss {loss.name}", shifted),
            (f"re-weighting {balance.reweight}", balance.reweight != "none"),
            (f"sampler {balance.sampler}", balance.sampler != "none"),
        )
        if on
    ]
    if len(rebalanced) > 1:
        found.append(f"{' and '.join(rebalanced)} all make up for the same counts: rare classes are favoured twice")
    views = transform_set(recipe.sla.transforms).views
    turns, colours = len({turn for turn, _ in views}) > 1, len({order for _, order in views}) > 1
    labelled = recipe.sla.objective in ("mt", "sla", "sla+sd")
    if labelled and colours and recipe.augment.jitter:
        found.append("colour jitter under labels that tell the order of the colours: it blurs what is to be told apart")
    if labelled and recipe.augment.policy != "none" and (turns or colours):
        found.append(
            f"{recipe.augment.policy} turns and recolours images by itself, under labels that tell how they were "
            "transformed: it blurs what is to be told apart"
        )
    if recipe.train.steps is not None and recipe.train.warmup_epochs and recipe.train.batches == "independent":
        found.append("warm-up counts epochs of the training set, and independent batches have none")
    return found
