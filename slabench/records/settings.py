"""Whether the recipe in a record holds the kinds of values that recipes hold.

A record keeps its recipe as plain JSON: an old one may lack keys, a plug-in's may have names that are not here, and one made by
post-processing has sections of its own. But a number where every reader expects a name is damage, and is told when it is read.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from slabench.recipes import SUITES

_DERIVED: dict[str, tuple[type, ...]] = {"posthoc.method": (str,), "score.trained": (dict,)}


def odd_setting(suite: str, recipe: Mapping[str, Any]) -> str | None:
    """The first setting of a kind that this suite's recipes do not have, in words; None where there is none.

    Nothing is known of the settings of an unknown suite, and of keys that recipes do not have (yet, or any more).
    """
    for key, kinds in _kinds_of(suite).items():
        value: Any = recipe
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            if kinds and type(value) not in kinds:
                known = " or ".join(kind.__name__ for kind in kinds)
                return f"recipe.{key} is {str(value)[:60]!r} ({type(value).__name__}), not {known}"
    return None


@cache
def _kinds_of(suite: str) -> dict[str, tuple[type, ...]]:
    """The Python types that the JSON value of each dotted key may have, sections before their keys."""
    if suite not in SUITES:
        return {}
    found = dict(_walk(SUITES[suite], ""))
    sections = {key.partition(".")[0]: (dict,) for key in _DERIVED}
    return found | sections | _DERIVED


def _walk(model: type[BaseModel], prefix: str) -> list[tuple[str, tuple[type, ...]]]:
    found = []
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found += [(f"{prefix}{name}", (dict,)), *_walk(annotation, f"{prefix}{name}.")]
        else:
            found.append((f"{prefix}{name}", tuple(dict.fromkeys(_kinds(annotation)))))
    return found


def _kinds(annotation: Any) -> list[type]:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kinds(parts[0])
    if origin is Literal:
        return [type(part) for part in parts]
    if origin in (Union, types.UnionType):
        return [kind for part in parts for kind in _kinds(part)]
    if origin in (tuple, list):
        return [list]
    kind = origin or annotation
    return [float, int] if kind is float else [kind] if isinstance(kind, type) else []
