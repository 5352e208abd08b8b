"""Tensors beside a record, sealed by the sha256 in it: a classifier's outputs, or a few-shot run's weights.

One safetensors file whose header holds facts as JSON. Nothing in it is pickled, and its digest is checked before a byte of it
is used. What a classifier leaves is for methods that need no training of the backbone; the weights are what `slabench score`
embeds images with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slabench.core.errors import DataError, IntegrityError, SlabenchError
from slabench.core.files import SHORT, sha256_file, write_bytes
from slabench.plugins import bound, recorded
from slabench.records.derived import DerivedSplit, Source, SourceFacts, compact
from slabench.records.record import RunRecord

REMEDY = "run the trial again with --resume force, or restore the file from its source"


def seal(tensors: Mapping[str, Tensor], facts: Mapping[str, Any], path: Path) -> str:
    """Write both atomically and return the sha256 (hex) of the file; equal content gives equal bytes."""
    from safetensors.torch import save

    # One entry of metadata: safetensors writes several in any order.
    header = {"slabench": json.dumps(facts, sort_keys=True, allow_nan=False)}
    data = save(dict(tensors), metadata=header)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def unseal(path: Path, sha256: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts and tensors of a file that `seal` wrote; `what` it should hold is for the errors.

    Raises:
        IntegrityError: the file has another digest.
        DataError: it is missing, or `seal` did not write it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        found = sha256_file(path)
    except OSError as error:
        raise DataError(f"{what} {path} cannot be read: {error.strerror}", REMEDY) from error
    if found != sha256:
        raise IntegrityError(f"{path} has the sha256 {found}, and its record says {sha256}", REMEDY)
    try:
        with safe_open(path, framework="pt") as file:
            facts = dict(json.loads((file.metadata() or {})["slabench"]))
            return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path} holds no {what}: {error}", REMEDY) from error


def plain(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous CPU tensor of its own: safetensors stores no aliases and no strides."""
    return tensor.detach().to("cpu", dtype or tensor.dtype).contiguous().clone()


OUTPUTS_SCHEMA = "slabench.outputs/1"

DERIVED_SCHEMA = "slabench.outputs/2"
"""Of outputs whose features are in a frozen set, and not in the file."""


SPLITS = ("train", "val", "test")


_FACTS = ("key", "objective", "m", "scale", "cosine", "train_shift", "counts", "class_names")


_PARTS = ("layers", "splits", "test_logits")


_WEIGHTS = "adapter."


Layer = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class FeatureSplit:
    """Images of one split, embedded in eval mode and without augmentation.

    Attributes:
        features: float `[n, M, D]`, of each image under each of the M transformations; kept as `compact` makes them.
        labels: int64 `[n]`.
    """

    features: Tensor
    labels: Tensor


Split = FeatureSplit | DerivedSplit


@dataclass(frozen=True, eq=False)
class ModelOutputs:
    """A trained classifier without its backbone.

    Attributes:
        objective: a name of `slabench.sla.objectives.CLASSIFIER_OBJECTIVES`.
        m: M, the number of transformations.
        scale: probabilities are softmax of scale * logits; 1 but for cosine layers.
        cosine: the class layers are cosine layers, whose logits are bare cosines.
        train_shift: class priors were added to the logits in training (balanced softmax, logit-adjusted loss).
        counts: training images by class.
        class_names: by label.
        layers: by name `joint`, `classes`, `student` or `transforms`: weight float `[width, D]` and bias `[width]` or None.
        splits: `test`, and `train` and `val` where they were kept. The images of `val` are training images that the
            trained model has not seen. Those of a trial on a frozen feature set are all `DerivedSplit`s of one source.
        test_logits: by predictor, float `[n, C]`, not scaled, as the model itself gave them.
        key: the trial's; the store sets it when it keeps them beside a record.

    Raises:
        SlabenchError: parts that do not fit each other; names the part and the shapes.
    """

    objective: str
    m: int
    scale: float
    cosine: bool
    train_shift: bool
    counts: tuple[int, ...]
    class_names: tuple[str, ...]
    layers: Mapping[str, Layer]
    splits: Mapping[str, Split]
    test_logits: Mapping[str, Tensor]
    key: str = ""

    def __post_init__(self) -> None:
        for name, kind in (("key", str), ("objective", str), ("m", int), ("cosine", bool), ("train_shift", bool)):
            if type(getattr(self, name)) is not kind:
                raise SlabenchError(f"{name} is {str(getattr(self, name))[:60]!r}, not {kind.__name__}")
        if type(self.scale) not in (int, float) or not 0 < self.scale < float("inf") or self.m < 1:
            raise SlabenchError(f"the scale {str(self.scale)[:60]!r} or the {self.m} transformations are not above 0")
        if "test" not in self.splits or not self.layers or len(self.counts) < 2:
            raise SlabenchError(
                f"outputs have layers {list(self.layers)}, splits {list(self.splits)} and {len(self.counts)} classes",
                "they need a layer, the split test and at least 2 classes",
            )
        if len(self.class_names) != self.n_classes:
            raise SlabenchError(f"{len(self.class_names)} class names were given for {self.n_classes} classes")
        for name, (weight, bias) in self.layers.items():
            width = {"joint": self.n_classes * self.m, "transforms": self.m}.get(name, self.n_classes)
            _expect(f"weight of layer '{name}'", weight, (width, self.dim))
            if bias is not None:
                _expect(f"bias of layer '{name}'", bias, (width,))
        for name, split in self.splits.items():
            if name not in SPLITS:
                raise SlabenchError(f"split '{name}' is unknown", f"outputs have the splits {', '.join(SPLITS)}")
            if isinstance(split, FeatureSplit):
                _expect(f"features of split '{name}'", split.features, (len(split.labels), self.m, self.dim))
            else:
                _expect(f"rows of split '{name}'", split.rows, (len(split.labels),))
            labels = split.labels
            if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= self.n_classes:
                raise SlabenchError(f"labels of split '{name}' are not in 0 .. {self.n_classes - 1}, or there are none")
        sources = {id(getattr(split, "source", None)) for split in self.splits.values()}
        if len(sources) > 1:
            raise SlabenchError(
                "the splits of one model have features of several sources", "derive all of them or none"
            )
        for name, logits in self.test_logits.items():
            _expect(f"test logits of '{name}'", logits, (len(self.splits["test"].labels), self.n_classes))

    @property
    def n_classes(self) -> int:
        """C, the number of classes."""
        return len(self.counts)

    @property
    def dim(self) -> int:
        """D, the length of a feature."""
        return int(next(iter(self.layers.values()))[0].shape[-1])

    @property
    def source(self) -> Source | None:
        """The frozen feature set that the features are derived from; None where they are here themselves."""
        test = self.splits["test"]
        return test.source if isinstance(test, DerivedSplit) else None


def save_outputs(outputs: ModelOutputs, path: Path) -> str:
    """Write `outputs` atomically and return the sha256 (hex) of the file. Features become `compact`, the rest float32.

    Of features that are derived from a frozen set the file has rows, and the weights of the adapter.

    Raises:
        SlabenchError: a tensor is not finite.
    """
    tensors: dict[str, Tensor] = {}
    for name, (weight, bias) in outputs.layers.items():
        tensors[f"layers.{name}.weight"] = plain(weight, torch.float32)
        if bias is not None:
            tensors[f"layers.{name}.bias"] = plain(bias, torch.float32)
    for name, split in outputs.splits.items():
        if isinstance(split, FeatureSplit):
            tensors[f"splits.{name}.features"] = plain(compact(split.features))
        else:
            tensors[f"splits.{name}.rows"] = plain(split.rows, torch.int32)
        tensors[f"splits.{name}.labels"] = plain(split.labels, torch.int64)
    for name, logits in outputs.test_logits.items():
        tensors[f"test_logits.{name}"] = plain(logits, torch.float32)
    source = outputs.source
    for name, weight in (source.weights if source else {}).items():
        tensors[f"{_WEIGHTS}{name}"] = plain(weight)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise SlabenchError(
                f"{name} has values that are not finite in {tensor.dtype}", "has the training diverged?"
            )
    # safetensors sorts tensors by name, while layers and predictors have an order of their own.
    order = {part: list(getattr(outputs, part)) for part in _PARTS}
    facts = {"schema": OUTPUTS_SCHEMA, **{name: getattr(outputs, name) for name in _FACTS}, **order}
    if source is not None:
        of = {name: split.split for name, split in outputs.splits.items() if isinstance(split, DerivedSplit)}
        facts |= {"schema": DERIVED_SCHEMA, "source": source.facts.plain(), "of": of}
    return seal(tensors, facts, path)


def load_outputs(path: Path, sha256: str) -> ModelOutputs:
    """Read what `save` wrote.

    Args:
        path: the file.
        sha256: what `save` returned.

    Raises:
        IntegrityError: the file has another digest.
        DataError: the file is missing, or holds no outputs of this version.
    """
    what = "outputs of a classifier"
    facts, tensors = unseal(path, sha256, what)
    try:
        schema = facts.pop("schema")
        if schema not in (OUTPUTS_SCHEMA, DERIVED_SCHEMA):
            raise ValueError(f"its schema is neither {OUTPUTS_SCHEMA} nor {DERIVED_SCHEMA}")
        return _unpack(facts, tensors, derived=schema == DERIVED_SCHEMA)
    except (LookupError, TypeError, ArithmeticError, ValueError, AttributeError, RuntimeError, SlabenchError) as error:
        raise DataError(f"{path} holds no {what}: {error}", REMEDY) from error


def _unpack(facts: dict[str, Any], tensors: dict[str, Tensor], derived: bool) -> ModelOutputs:
    layers, names, predictors = (facts.pop(part) for part in _PARTS)
    labels = {name: tensors[f"splits.{name}.labels"] for name in names}
    splits: dict[str, Split]
    if derived:
        weights = {name.removeprefix(_WEIGHTS): own for name, own in tensors.items() if name.startswith(_WEIGHTS)}
        source, of = Source(SourceFacts.model_validate(facts.pop("source")), weights), dict(facts.pop("of"))
        splits = {
            name: DerivedSplit(labels[name], tensors[f"splits.{name}.rows"].long(), str(of[name]), source)
            for name in names
        }
    else:
        splits = {name: FeatureSplit(tensors[f"splits.{name}.features"], labels[name]) for name in names}
    return ModelOutputs(
        counts=tuple(int(n) for n in facts.pop("counts")),
        class_names=tuple(str(name) for name in facts.pop("class_names")),
        layers={name: (tensors[f"layers.{name}.weight"], tensors.get(f"layers.{name}.bias")) for name in layers},
        splits=splits,
        test_logits={name: tensors[f"test_logits.{name}"] for name in predictors},
        **facts,
    )


def _expect(what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise SlabenchError(f"{what}: the shape is {list(tensor.shape)}, not {list(shape)}")


WEIGHTS_SCHEMA = "slabench.weights/1"


@dataclass(frozen=True, eq=False)
class ModelWeights:
    """Weights and buffers by their names in the trained module.

    Attributes:
        tensors: its `state_dict`.
        key: the trial's; the store sets it when it keeps them beside a record.
    """

    tensors: Mapping[str, Tensor]
    key: str = ""


def save_weights(weights: ModelWeights, path: Path) -> str:
    """Write `weights` atomically and return the sha256 (hex) of the file."""
    tensors = {name: plain(tensor) for name, tensor in weights.tensors.items()}
    return seal(tensors, {"schema": WEIGHTS_SCHEMA, "key": weights.key}, path)


def load_weights(path: Path, sha256: str) -> ModelWeights:
    """Read what `save` wrote.

    Raises:
        IntegrityError: the file has another digest.
        DataError: the file is missing, or holds no weights.
    """
    facts, tensors = unseal(path, sha256, "weights")
    if set(facts) != {"schema", "key"} or facts["schema"] != WEIGHTS_SCHEMA:
        raise DataError(f"{path} holds no weights of this version", REMEDY)
    return ModelWeights(tensors, str(facts["key"]))


def check_owner(outputs: ModelOutputs | ModelWeights, record: RunRecord, path: Path) -> None:
    """Refuse outputs of another trial than the record's.

    Those of runs with plug-ins were once kept under the key without the plug-ins' code: the record's key is made of both.

    Raises:
        DataError: they are another trial's.
    """
    if record.key not in (outputs.key, bound(outputs.key, recorded(record.environment))):
        raise DataError(f"{path} belongs to trial {outputs.key[:SHORT]}, not {record.key[:SHORT]}", REMEDY)
