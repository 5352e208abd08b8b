"""What can be listed and shown, and names for the shell's completion.

Completion is called at every press of the tab key: nothing here loads torch. What cannot be read gives no names rather than
an error in the middle of a command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from slabench.core import paths
from slabench.core.files import SHORT
from slabench.core.registry import REGISTRIES
from slabench.core.suites import SUITES
from slabench.plots import KINDS

LISTS = {
    "datasets": "what is learned on, and whether it is here",
    "recipes": "published recipes: slabench run NAME",
    "backbones": "images to features",
    "learners": "what is trained: backbone and what sits on it",
    "heads": "few-shot classifiers on features",
    "objectives": "baseline, SLA and its rivals",
    "transforms": "the sets of transformations of SLA",
    "losses": "losses of a classifier",
    "reweightings": "class weights",
    "samplers": "re-sampling of classes",
    "mixings": "mixing of images in pairs",
    "episodes": "frozen test and validation episodes",
    "subsets": "frozen long-tail subsets",
    "plugins": "what is not slabench's own",
    "plots": "figures that slabench plot draws",
    "runs": "records in results/",
}


SHOWS = {
    "dataset": "datasets",
    "recipe": "recipes",
    "run": "runs",
    "backbone": "backbones",
    "learner": "learners",
    "head": "heads",
    "objective": "objectives",
    "transform": "transforms",
    "loss": "losses",
    "reweighting": "reweightings",
    "sampler": "samplers",
    "mixing": "mixings",
    "episodes": "episodes",
    "subset": "subsets",
    "plot": "plots",
    "plugin": "plugins",
}
"""What `show` takes, and the list that it is in."""


LEARNERS = {
    "episodic": "a backbone, a head and one learned scale, trained on episodes (suite fewshot)",
    "classifier": "a backbone and a layer for each output of the objective (suites imbalanced and supervised); in the suite "
    "fewshot pre-trained on the training classes, a head comes to it in the test",
    "maml": "a backbone and a linear layer, both adapted to each episode (suite fewshot; needs learn2learn)",
    "anil": "the same with only the layer adapted (suite fewshot; needs learn2learn)",
}


def names_of(plural: str) -> dict[str, str]:
    """Name to summary of what `slabench list` lists, but for datasets and runs."""
    return dict(_entries(plural))


def _entries(kind: str) -> Iterable[tuple[str, str]]:
    if kind in ("backbones", "heads", "losses", "transforms"):
        for entry in REGISTRIES[kind]:
            told = entry.built_in or entry.origin in entry.summary
            yield entry.name, entry.summary if told else f"{entry.summary} ({entry.origin})"
    elif kind == "learners":
        yield from LEARNERS.items()
    elif kind == "plugins":
        from slabench.plugins import installed

        for what, name, origin in installed():
            yield name, f"{what} of {origin}"
    elif kind == "objectives":
        from slabench.sla.objectives import CLASSIFIER_OBJECTIVES, OBJECTIVES

        for name in dict.fromkeys([*OBJECTIVES, *CLASSIFIER_OBJECTIVES]):
            in_episodes, in_classes = OBJECTIVES.get(name), CLASSIFIER_OBJECTIVES.get(name)
            where = "" if in_episodes and in_classes else " (fewshot)" if in_episodes else " (imbalanced, supervised)"
            chosen = in_episodes or in_classes
            assert chosen is not None
            yield name, chosen.summary + where
    elif kind == "plots":
        for name, plot in KINDS.items():
            yield name, plot.summary
    elif kind in ("reweightings", "samplers", "mixings"):
        yield from _rules(kind).items()
    elif kind == "recipes":
        from slabench.recipes import load_recipe, recipe_names
        from slabench.recipes.fewshot import Recipe

        for name in recipe_names():
            recipes = load_recipe(name)
            first = recipes[0]
            if isinstance(first, Recipe):
                what = f"{first.model.head} on {first.model.backbone}, {first.train.steps:,} steps"
            else:
                t = first.train
                length = f"{t.steps:,} steps" if t.steps else f"{t.epochs} epochs"
                what = f"{first.loss.name} on {first.model.backbone}, {length}"
            yield name, what + (f", {len(recipes)} variants" if len(recipes) > 1 else "")
    elif kind == "subsets":
        from slabench.data.longtail_files import list_files as list_subsets
        from slabench.data.longtail_files import read_manifest as read_subset

        for path in list_subsets():
            subset = read_subset(path)
            yield f"{subset.dataset}/{path.stem}", f"{subset.images:,} images, sha256 {subset.sha256[:SHORT]}"
    else:
        from slabench.episodes.files import list_files, read_manifest

        for path in list_files():
            m = read_manifest(path)
            yield f"{m.dataset}/{path.stem}", f"{m.episodes:,} episodes, sha256 {m.sha256[:SHORT]}"


def _rules(kind: str) -> dict[str, str]:
    from slabench.data.mixing import MIXINGS
    from slabench.losses.resampling import RESAMPLINGS
    from slabench.suites.classifier.rules import REWEIGHTS

    return {"reweightings": REWEIGHTS, "samplers": RESAMPLINGS, "mixings": MIXINGS}[kind]


Completer = Callable[[str], list[str]]


def _of(names: Callable[[], Iterable[str]]) -> Completer:
    def complete(incomplete: str) -> list[str]:
        try:
            return [name for name in names() if name.startswith(incomplete)]
        except Exception:
            return []

    return complete


def _registry(plural: str) -> Callable[[], list[str]]:
    def names() -> list[str]:
        return REGISTRIES[plural].names()

    return names


def _recipes() -> list[str]:
    root = paths.benchmarks() / "recipes"
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml"))


def _suites() -> list[str]:
    return list(SUITES)


def _objectives() -> list[str]:
    return ["baseline", "da", "mt", "rotated-classes", "sla", "sla+sd"]


def _kinds() -> list[str]:

    return list(LISTS)


def _shown() -> list[str]:

    return list(SHOWS)


def _all() -> list[str]:
    return [
        name for plural in ("heads", "backbones", "losses", "transforms", "datasets") for name in _registry(plural)()
    ]


datasets = _of(_registry("datasets"))


backbones = _of(_registry("backbones"))


heads = _of(_registry("heads"))


losses = _of(_registry("losses"))


transforms = _of(_registry("transforms"))


recipes = _of(_recipes)


suites_and_recipes = _of(lambda: [*_suites(), *_recipes()])


objectives = _of(_objectives)


kinds = _of(_kinds)


shown = _of(_shown)


anything = _of(_all)


def shown_name(ctx: object, incomplete: str) -> list[str]:
    """Names of the kind that stands before, for `slabench show KIND NAME`."""
    kind = str(getattr(ctx, "params", {}).get("kind") or "")
    named = {
        "dataset": datasets,
        "backbone": backbones,
        "head": heads,
        "loss": losses,
        "transform": transforms,
        "recipe": recipes,
        "objective": objectives,
    }
    return named.get(kind, _of(list))(incomplete)
