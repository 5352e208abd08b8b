"""Names for the shell's completion. Called at every press of the tab key: nothing here loads torch.

What cannot be read gives no names rather than an error in the middle of a command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
        from slabench.registry import REGISTRIES

        return REGISTRIES[plural].names()

    return names


def _recipes() -> list[str]:
    from slabench import paths

    root = paths.benchmarks() / "recipes"
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml"))


def _suites() -> list[str]:
    return ["fewshot", "imbalanced", "supervised"]


def _objectives() -> list[str]:
    return ["baseline", "da", "mt", "rotated-classes", "sla", "sla+sd"]


def _kinds() -> list[str]:
    from slabench.cli.listing import LISTS

    return list(LISTS)


def _shown() -> list[str]:
    from slabench.cli.listing import SHOWS

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
