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

Kinds = dict[str, tuple[tuple[type, ...], "Kinds"]]
_DERIVED: Kinds = {"posthoc": ((dict,), {"method": ((str,), {})}), "score": ((dict,), {"trained": ((dict,), {})})}


def odd_setting(suite: str, recipe: Mapping[str, Any]) -> str | None:
    """The first setting of a kind that this suite's recipes do not have, in words; None where there is none.

    Nothing is known of the settings of an unknown suite, and of keys that recipes do not have (yet, or any more).
    """
    return _odd(_kinds_of(suite), recipe, "recipe")


def _odd(kinds: Kinds, section: Mapping[str, Any], place: str) -> str | None:
    for name, (own, inner) in kinds.items():
        if name not in section:
            continue
        value = section[name]
        if own and type(value) not in own:
            known = " or ".join(kind.__name__ for kind in own)
            return f"{place}.{name} is {str(value)[:60]!r} ({type(value).__name__}), not {known}"
        if inner and type(value) is dict and (odd := _odd(inner, value, f"{place}.{name}")):
            return odd
    return None


@cache
def _kinds_of(suite: str) -> Kinds:
    """The Python types that the JSON value of each setting may have, of a section those of its settings too."""
    return _walk(SUITES[suite]) | _DERIVED if suite in SUITES else {}


def _walk(model: type[BaseModel]) -> Kinds:
    found: Kinds = {}
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found[name] = ((dict,), _walk(annotation))
        else:
            found[name] = (tuple(dict.fromkeys(_kinds(annotation))), {})
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
