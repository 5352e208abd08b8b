"""`slabench show KIND NAME` for what a registry or a table holds, and for recipes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_REGISTERED = {"backbone": "backbones", "head": "heads", "loss": "losses", "transform": "transforms"}


def show(console: Console, kind: str, name: str) -> None:
    """Print one thing that is neither a data set nor a run.

    Raises:
        UsageError: there is none of this name.
    """
    if kind == "recipe":
        _recipe(console, name)
    elif kind == "episodes":
        from slabench.cli import episodes

        episodes.show(name)
    elif kind == "subset":
        from slabench.cli import longtail

        longtail.show(name)
    elif kind in _REGISTERED:
        _table(console, _registered(_REGISTERED[kind], name))
    else:
        from slabench.cli.listing import SHOWS, names_of
        from slabench.errors import unknown_name

        known = names_of(SHOWS[kind])
        if name not in known:
            raise unknown_name(kind, name, known)
        _table(console, [(kind, name), ("what it is", known[name]), ("use", _use(kind, name))])


def _use(kind: str, name: str) -> str:
    return {
        "objective": f"--objective {name}",
        "reweighting": f"slabench run imbalanced --reweight {name}",
        "sampler": f"slabench run imbalanced --sampler {name}",
        "mixing": f"slabench run imbalanced --mix {name}",
        "learner": f"slabench run fewshot --learner {name}; the other suites have one learner",
        "plot": f"slabench plot {name} -o {name}.png",
        "plugin": f"slabench check {name}",
    }[kind]


def _registered(plural: str, name: str) -> list[tuple[str, str]]:
    from slabench.registry import REGISTRIES

    registry = REGISTRIES[plural]
    entry = registry.entry(name)
    target = registry.get(name)
    facts = [(registry.kind, name), ("what it is", entry.summary), ("from", entry.origin)]
    if isinstance(entry.target, str):
        facts.append(("code", entry.target))
    facts += {"backbones": _backbone, "heads": _head, "losses": _loss, "transforms": _transforms}[plural](name, target)
    return facts


def _head(name: str, head: Any) -> list[tuple[str, str]]:
    learns = getattr(head, "module", None)
    views = "view by view" if head.decomposes else "as one problem of N*M classes"
    return [
        ("in words", _doc(learns or head.logits)),
        ("parameters", "learned" if learns else "none"),
        ("views of SLA", f"scored {views}"),
        ("use", f"slabench run fewshot --head {name}"),
    ]


def _backbone(name: str, make: Any) -> list[tuple[str, str]]:
    from slabench.backbones import n_parameters
    from slabench.errors import UsageError
    from slabench.seeding import fork_for_init

    facts = [("in words", _doc(make))]
    for size in (32, 84, 224):
        try:
            with fork_for_init(0, "show"):
                made = make(size)
        except UsageError as error:
            facts.append((f"{size} pixels", error.message))
        else:
            facts.append((f"{size} pixels", f"{made.feature_dim:,} features, {n_parameters(made):,} parameters"))
    return [*facts, ("use", f"--backbone {name}")]


def _loss(name: str, function: Any) -> list[tuple[str, str]]:
    from slabench.classifier_recipe import LossPart

    fields = {
        key: field for key, field in LossPart.model_fields.items() if name in (field.description or "").split(":")[0]
    }
    parameters = [f"loss.{key} = {field.default} ({field.description})" for key, field in fields.items()]
    return [
        ("in words", _doc(function)),
        ("parameters", "; ".join(parameters) or "none"),
        ("use", f"slabench run imbalanced --loss {name}"),
    ]


def _transforms(name: str, transforms: Any) -> list[tuple[str, str]]:
    facts = [("M", str(transforms.M))]
    for j, (turns, order) in enumerate(transforms.views):
        turned = f"turned by {90 * turns} degrees, counter-clockwise" if turns else ""
        colours = "" if order == (0, 1, 2) else "channels " + "".join("RGB"[c] for c in order)
        facts.append((f"t_{j}", ", ".join(part for part in (turned, colours) if part) or "the image as it is"))
    for j, function in enumerate(getattr(transforms, "functions", ())):
        facts.append((f"t_{j}", _doc(function) or getattr(function, "__name__", "a function")))
    return [*facts, ("use", f"--transforms {name}")]


def _doc(target: Any) -> str:
    """The first paragraph of a docstring; of a function's or a class's own only."""
    if not callable(target) or not (inspect.isfunction(target) or inspect.isclass(target)):
        return ""
    return " ".join((inspect.getdoc(target) or "").split("\n\n")[0].split())


def _recipe(console: Console, name: str) -> None:
    import json

    from slabench.recipe import load_recipe

    for recipe in load_recipe(name):
        console.print(f"# {recipe.name}, digest {recipe.digest[:12]}, seeds {list(recipe.seeds)}", markup=False)
        for section, values in recipe.resolved().items():
            if isinstance(values, dict):
                console.print(f"\\[{section}]")
                for key, value in values.items():
                    # TOML has no null: a key that is left out is one.
                    line = f"{key} = {json.dumps(value)}" if value is not None else f"# {key}: not set"
                    console.print(line, markup=False, soft_wrap=True)
            else:
                console.print(f"{section} = {json.dumps(values)}", markup=False)
        console.print()


def _table(console: Console, facts: list[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in facts:
        if text:
            table.add_row(heading, text)
    console.print(table, highlight=False, markup=False)
