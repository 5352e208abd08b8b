"""What the recipes of every suite share: strict parts, a digest, a name and seeds."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from slabench.core.errors import UsageError
from slabench.core.files import digest_json

AdapterName = Literal["none", "linear", "mlp", "last-block"]
OptimizerName = Literal["adam", "sgd"]
"""How each is built: `slabench.training.schedule.OPTIMIZERS`, which has torch."""

# Every number has two bounds. The upper ones are far beyond what anybody trains: they stop a slip of the keyboard before it
# asks for all memory, or for a run without an end.
_MOST, _MANY, _FLOAT32 = 10**9, 10**4, 3e38
Positive = Annotated[int, Field(ge=1, le=_MOST)]
Natural = Annotated[int, Field(ge=0, le=_MOST)]
Few = Annotated[int, Field(ge=1, le=_MANY)]
"""Of what takes time or memory by itself, such as inner steps."""
FewOrNone = Annotated[int, Field(ge=0, le=_MANY)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Between = Annotated[float, Field(gt=0, lt=1)]
AboveZero = Annotated[float, Field(gt=0, le=10**6)]
NotNegative = Annotated[float, Field(ge=0, le=10**6)]
LearningRate = Annotated[float, Field(gt=0, le=_FLOAT32)]


def checked_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """Seeds as plain integers; NumPy's integers and arrays of them are welcome.

    Raises:
        UsageError: something that is no whole number from 0 on: names it.
    """
    remedy = "give whole numbers from 0 on, such as seeds=[0, 1, 2]"
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise UsageError(f"seeds={seeds!r} is not a list of seeds", remedy)
    found = []
    for seed in seeds:
        try:
            # To Python True is an integer, and so it is to NumPy; fractions have no index, however whole they look.
            number = -1 if type(seed).__name__ in ("bool", "bool_") else operator.index(seed)
        except TypeError:
            number = -1
        if number < 0:
            raise UsageError(f"seed {seed!r} is not a whole number from 0 on", remedy)
        found.append(number)
    return tuple(found)


class Part(BaseModel):
    """A section of a recipe: unknown keys, NaN and changes after the fact are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


LATER: dict[str, JsonValue] = {"later": True}
"""Marks a setting that recipes did not have from the beginning: `Field(json_schema_extra=LATER)`."""


def _drop_later(part: BaseModel, values: dict[str, Any]) -> None:
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if field.json_schema_extra == LATER and value == field.get_default(call_default_factory=True):
            del values[name]
        elif isinstance(value, BaseModel):
            _drop_later(value, values[name])


class OnFeatures(Part):
    """What is learned on the features of a frozen embedder in place of images; without an embedder nothing of it is used.

    An adapter is x + f(x) with an f that is zero at first (`slabench.learners.adapter`), or the network's last block as it was
    (`slabench.learners.last_block`). `backbone` then says what stands in a
    backbone's place, so that tables show it where they show a backbone.
    """

    embedder: Annotated[str, Field(pattern=r"^([a-z0-9]+([-._][a-z0-9]+)*)?$", max_length=80)] = Field(
        default="", json_schema_extra=LATER, description="the name of a feature set: its features in place of images"
    )
    adapter: AdapterName = Field(
        default="none",
        json_schema_extra=LATER,
        description="of features: none, linear, mlp (one hidden layer), last-block",
    )
    hidden: Few = Field(default=256, json_schema_extra=LATER, description="units of the adapter mlp")

    @model_validator(mode="before")
    @classmethod
    def _embedder_for_backbone(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not isinstance(embedder := given.get("embedder", ""), str) or not embedder:
            return given
        adapter = given.get("adapter", "none")
        return {**given, "backbone": embedder if adapter == "none" else f"{embedder}+{adapter}"}


class BaseRecipe(Part):
    """A name, seeds, and a digest of all else."""

    name: str
    limited: bool = Field(default=False, description="a reduced budget for a quick look: never ranked")
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(checked_seeds)] = (0,)

    def resolved(self) -> dict[str, Any]:
        """All settings as plain JSON values, defaults filled in, without the seeds and the name.

        Two files that say the same under different names are the same experiment. A setting that came later (`LATER`) is left
        out at its default: keys of trials that were finished before it existed stay what they were.
        """
        values = self.model_dump(mode="json", exclude={"seeds", "name"})
        _drop_later(self, values)
        return values

    @property
    def digest(self) -> str:
        """sha256 (hex) of `resolved()`."""
        return digest_json(self.resolved())
