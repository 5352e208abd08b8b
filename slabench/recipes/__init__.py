"""Recipes: everything that decides a trial's result, typed, with a digest.

A recipe is a TOML file (`benchmarks/recipes/`), or one with flags laid over it. Unknown keys fail with a did-you-mean; a
trial's key is a digest of the whole resolved recipe, so that no setting can change behind a finished record.
"""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from slabench.core import paths, suites
from slabench.core.errors import DataError, UsageError, did_you_mean, unknown_name
from slabench.core.files import read_toml
from slabench.recipes.classifier import ClassifierRecipe
from slabench.recipes.fewshot import ADAPTED, Recipe

AnyRecipe = Recipe | ClassifierRecipe


SUITES: dict[str, type[AnyRecipe]] = {
    name: Recipe if suite.module == "fewshot" else ClassifierRecipe for name, suite in suites.SUITES.items()
}
"""The type of recipe of each suite."""

_MOST_VARIANTS = 1000  # the longest published recipe has fewer than 50
_LONGEST_CHAIN = 16


def recipe_names() -> list[str]:
    """Names of the published recipes, such as `fewshot/standard`."""
    root = paths.benchmarks() / "recipes"
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml"))


def load_recipe(
    name: str, overrides: Mapping[str, Any] | None = None, typed: Mapping[str, str] | None = None
) -> list[AnyRecipe]:
    """The recipes of a published name or a TOML file: one, or one for each of its `[[variants]]`.

    Args:
        name: `fewshot/standard`, or a path that ends in `.toml`.
        overrides: dotted keys laid over the file, `{"train.lr": 0.05}`; None values are ignored.
        typed: what the person typed for a key, such as `--ratio`, for errors.

    Raises:
        UsageError: no such recipe, an unknown key or a value of the wrong type, naming the key.
    """
    table = _read(name)
    variants = table.pop("variants", [{}])
    if not isinstance(variants, list) or not all(isinstance(variant, dict) for variant in variants):
        raise UsageError(f"recipe {name}: 'variants' is not an array of tables", "write [[variants]] sections")
    if len(variants) > _MOST_VARIANTS:
        raise UsageError(
            f"recipe {name} has {len(variants):,} variants; a recipe has at most {_MOST_VARIANTS:,}",
            "cut it into several files",
        )
    recipes = []
    for variant in variants:
        merged = _merge(table, {key: value for key, value in variant.items() if key != "name"})
        if "name" in variant:
            merged["name"] = f"{_text(merged, 'name', name)}/{_text(variant, 'name', name)}"
        for key, value in (overrides or {}).items():
            if value is not None:
                _assign(merged, key, value, (typed or {}).get(key, key))
        _refuse_idle(merged, overrides or {}, typed or {})
        recipes.append(parse_recipe(merged, name))
    return recipes


def parse_recipe(table: Mapping[str, Any], origin: str = "recipe") -> AnyRecipe:
    """A recipe from a plain table; what is wrong with it is a usage error that names the key."""
    try:
        return _recipe_type(table).model_validate(table)
    except ValidationError as error:
        raise UsageError(*_explain(error, origin, _recipe_type(table))) from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """`train.lr=0.05` as key and value; the value is TOML, or text where it is not."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text} is not key=value", "write for example --set train.lr=0.01")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):  # besides other text, a number without end, brackets without end
        return key.strip(), value.strip()


def known_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a recipe, such as `train.lr`."""
    for key, field in model.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield from known_keys(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _read(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    path = Path(name)
    published = path.suffix != ".toml"
    if published:
        if name not in recipe_names():
            raise unknown_name("suite or recipe", name, [*SUITES, *recipe_names()])
        path = paths.benchmarks() / "recipes" / f"{name}.toml"
    elif not path.is_file():
        raise UsageError(f"there is no recipe file {path}", f"published ones: {', '.join(recipe_names())}")
    try:
        table = read_toml(path)
    except DataError as error:  # nothing has been run yet
        raise UsageError(error.message, error.remedy) from error
    table.setdefault("name", name if published else path.stem)
    if "extends" not in table:
        return table
    base = _text(table, "extends", name)
    del table["extends"]
    if base in seen:
        raise UsageError(
            f"recipe {name} extends itself through {' -> '.join(seen)}", "remove `extends` from one of them"
        )
    if len(seen) >= _LONGEST_CHAIN:
        raise UsageError(
            f"recipe {seen[0]} extends {len(seen)} others, one through the next",
            f"a chain has at most {_LONGEST_CHAIN}: let it extend the last of them",
        )
    return _merge({k: v for k, v in _read(base, (*seen, name)).items() if k != "name"}, table)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _text(table: Mapping[str, Any], key: str, name: str) -> str:
    """The text at `key`; anything else there is an error of the recipe `name`."""
    value = table.get(key, name)
    if not isinstance(value, str):
        raise UsageError(f"recipe {name}: {key} = {reprlib.repr(value)} is not text", f'write {key} = "NAME"')
    return value


def _recipe_type(table: Mapping[str, Any]) -> type[AnyRecipe]:
    suite = table.get("suite", "fewshot")
    if not isinstance(suite, str):
        raise UsageError(f"recipe: suite = {reprlib.repr(suite)} is not a name", f"known: {', '.join(SUITES)}")
    if suite not in SUITES:
        raise unknown_name("suite", suite, SUITES)
    return SUITES[suite]


def _assign(table: dict[str, Any], key: str, value: Any, typed: str) -> None:
    known = set(known_keys(_recipe_type(table)))
    if key not in known:
        others = [name for name, kind in SUITES.items() if key in set(known_keys(kind))]
        if others:
            raise UsageError(
                f"{typed} has no effect in the suite {table.get('suite', 'fewshot')}",
                f"it belongs to: {', '.join(others)}",
            )
        raise unknown_name("recipe key", key, known)
    *parents, leaf = key.split(".")
    for parent in parents:
        section = table.get(parent, {})
        if not isinstance(section, Mapping):
            raise UsageError(
                f"recipe: {parent} = {reprlib.repr(section)} is not a section", f"write [{parent}], or leave it out"
            )
        table[parent] = dict(section)
        table = table[parent]
    table[leaf] = value
    if key == "train.epochs":
        table.pop("steps", None)  # the recipe's steps would take the place of the epochs that were asked for


def _refuse_idle(table: Mapping[str, Any], overrides: Mapping[str, Any], typed: Mapping[str, str]) -> None:
    """What a person asks for must not be dropped silently: a head of a learner without one, or an inner loop of one without."""
    model = table.get("model")
    learner = model.get("learner", "episodic") if isinstance(model, Mapping) else "episodic"
    for key, value in overrides.items():
        flag = typed.get(key, key)
        if value is not None and key == "model.head" and learner in ADAPTED and value != learner:
            raise UsageError(
                f"{flag} {value} has no effect with the learner {learner}: it adapts a linear layer to each episode",
                f"leave {flag} out, or choose another learner",
            )
        if value is not None and key == "model.backbone" and isinstance(model, Mapping) and model.get("embedder"):
            raise UsageError(
                f"{flag} {value} has no effect on features: the embedder {model['embedder']} has made them",
                f"leave {flag} out, or choose another --embedder",
            )
        if value is not None and key.startswith("maml.") and learner not in ADAPTED:
            raise UsageError(
                f"{flag} has no effect with the learner {learner}: it has no inner loop",
                "leave it out, or set model.learner to maml or anil",
            )


def _explain(error: ValidationError, origin: str, kind: type[BaseModel]) -> tuple[str, str]:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{origin}: unknown key '{key}'", did_you_mean(key, known_keys(kind))
    if first["type"] == "missing":
        return f"{origin}: the key '{key}' is missing", f"set it in the recipe or with --set {key}=..."
    return (
        f"{origin}: {key} = {reprlib.repr(first['input'])}: {first['msg'].lower()}",
        f"fix it, or use --set {key}=...",
    )
