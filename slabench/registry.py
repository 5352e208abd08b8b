"""One registry for everything a person can name: lazy targets, entry points, did-you-mean.

A target is a `"module:attribute"` string that is imported when it is first asked for, so that listing names costs no
torch import. Packages add their own through the entry-point group of the registry (`slabench.heads`, ...).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from slabench.errors import UsageError, unknown_name

_KEBAB = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")


@dataclass(frozen=True)
class Entry:
    """One named thing: what it is in a line, and where its code lies."""

    name: str
    target: str | Any
    summary: str
    origin: str = "slabench"


class Registry:
    """Names of one kind ("head", "backbone", ...) and the objects behind them."""

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, Entry] = {}
        self._plugins_read = False

    def add(self, name: str, target: str | Any, summary: str, origin: str = "slabench") -> None:
        """Register `target` (an object or "module:attribute") as `name`; a name that is taken is an error."""
        if not _KEBAB.match(name):
            raise UsageError(f"{self.kind} name '{name}' is not kebab-case", "use lower-case words joined by '-'")
        if name in self._entries:
            raise UsageError(
                f"{self.kind} '{name}' of {origin} is already registered by {self._entries[name].origin}",
                "choose another name: built-in names are never replaced silently",
            )
        self._entries[name] = Entry(name, target, summary, origin)

    def register(self, name: str, summary: str = "") -> Callable[[Any], Any]:
        """Decorator form of `add`, for plug-ins."""

        def decorate(target: Any) -> Any:
            doc = (target.__doc__ or "").strip().split("\n")[0]
            self.add(name, target, summary or doc, origin=target.__module__)
            return target

        return decorate

    def get(self, name: str) -> Any:
        """The object called `name`, imported now if need be."""
        target = self.entry(name).target
        if isinstance(target, str):
            module, _, attribute = target.partition(":")
            return getattr(importlib.import_module(module), attribute)
        return target

    def entry(self, name: str) -> Entry:
        """The entry called `name` without importing its code; an unknown name raises with a did-you-mean."""
        self._read_plugins()
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, built-in ones first, in the order of registration."""
        self._read_plugins()
        return list(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        self._read_plugins()
        return iter(list(self._entries.values()))

    def __contains__(self, name: object) -> bool:
        self._read_plugins()
        return name in self._entries

    def _read_plugins(self) -> None:
        if self._plugins_read:
            return
        self._plugins_read = True
        for point in entry_points(group=self.group):
            origin = point.dist.name if point.dist else point.value
            self.add(point.name, point.value, f"from the package {origin}", origin=origin)


HEADS = Registry("head", "slabench.heads")
BACKBONES = Registry("backbone", "slabench.backbones")

HEADS.add("protonet", "slabench.heads.prototypes:PROTONET", "squared distance to the class mean (Snell et al. 2017)")
HEADS.add("metaoptnet-svm", "slabench.heads.svm:METAOPTNET_SVM", "Crammer-Singer SVM (MetaOptNet, Lee et al. 2019)")
HEADS.add("metaoptnet-rr", "slabench.heads.ridge:METAOPTNET_RR", "ridge regression, lambda 50 (MetaOptNet, R2D2)")
HEADS.add(
    "r2d2", "slabench.heads.ridge:R2D2", "ridge regression with learned lambda, alpha, beta (Bertinetto et al. 2019)"
)
_COSINE = "slabench.heads.cosine"
HEADS.add("cosine", f"{_COSINE}:COSINE", "cosine to the class mean (Meta-Baseline, Chen et al. 2021)")
HEADS.add(
    "baseline-plus-plus",
    f"{_COSINE}:BASELINE_PLUS_PLUS",
    "Baseline++: a cosine layer fitted to the supports (Chen et al. 2019)",
)
HEADS.add(
    "simpleshot", f"{_COSINE}:SIMPLESHOT", "nearest centroid, centred and of length one (SimpleShot, Wang et al. 2019)"
)
HEADS.add("matchingnet", "slabench.heads.matching:MATCHING", "attention over the supports (Vinyals et al. 2016)")
HEADS.add(
    "relationnet", "slabench.heads.relation:RELATION", "a learned comparison with the class mean (Sung et al. 2018)"
)
HEADS.add(
    "logistic",
    "slabench.heads.logistic:LOGISTIC",
    "logistic regression on features of length one (RFS, Tian et al. 2020)",
)
BACKBONES.add("conv4", "slabench.backbones.conv4:conv4", "Conv4-64: four 3x3 blocks of 64 channels")
BACKBONES.add("resnet12", "slabench.backbones.resnet12:resnet12", "ResNet-12 of MetaOptNet, 64-160-320-640, DropBlock")
BACKBONES.add(
    "resnet12-slim", "slabench.backbones.resnet12:resnet12_slim", "the same ResNet-12 at half width, 32-64-128-256"
)
_CIFAR = "slabench.backbones.cifar_resnet"
BACKBONES.add("resnet20", f"{_CIFAR}:resnet20", "CIFAR ResNet-20, shortcut A (He et al. 2016)")
BACKBONES.add("resnet32", f"{_CIFAR}:resnet32", "CIFAR ResNet-32, the network of the published CIFAR-LT tables")
BACKBONES.add("resnet56", f"{_CIFAR}:resnet56", "CIFAR ResNet-56")
BACKBONES.add("resnet18-cifar", f"{_CIFAR}:resnet18_cifar", "ResNet-18 with a 3x3 stem, for 32 x 32 images")
BACKBONES.add("wrn-28-10", f"{_CIFAR}:wrn_28_10", "wide ResNet of depth 28 and factor 10 (Zagoruyko, Komodakis 2016)")
BACKBONES.add("resnet18", "slabench.backbones.imagenet_resnet:resnet18", "torchvision's ResNet-18, from 64 pixels on")
BACKBONES.add("resnet50", "slabench.backbones.imagenet_resnet:resnet50", "torchvision's ResNet-50, from 64 pixels on")
