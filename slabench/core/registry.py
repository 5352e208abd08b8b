"""One registry for everything a person can name: lazy targets, entry points, did-you-mean.

A target is a `"module:attribute"` string that is imported when it is first asked for, so that listing names costs no
torch import. Packages add their own through the entry-point group of the registry (`slabench.heads`, ...), single files
through `slabench.plugins.load_plugin`.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import entry_points
from typing import Any

from slabench.core import source_files
from slabench.core.errors import PluginError, SlabenchError, UsageError, unknown_name

BUILT_IN = "slabench"
IMPORTED = "an import"
"""Origin of what is data and no code: the data sets that a user imported."""
_KEBAB = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")


@dataclass(frozen=True)
class Entry:
    """One named thing: what it is in a line, where its code lies, and who registered it."""

    name: str
    target: str | Any
    summary: str
    origin: str = BUILT_IN
    file: str | None = None

    @property
    def built_in(self) -> bool:
        """Whether no code of others is behind it: it comes with slabench, or is imported data."""
        return self.origin in (BUILT_IN, IMPORTED)


_loading: list[tuple[str, str]] = []


@contextlib.contextmanager
def registering(origin: str, file: str) -> Iterator[None]:
    """What is registered within, but for slabench's own, comes from `origin`, whose code is `file`."""
    _loading.append((origin, file))
    try:
        yield
    finally:
        _loading.pop()


class Registry:
    """Names of one kind ("head", "backbone", ...) and the objects behind them.

    Args:
        kind: what one of them is called.
        group: entry-point group of packages that bring their own.
        module: registers the built-in ones when it is imported; must import nothing heavy.
        expects: "module:Class" of what a plug-in gives; empty where any callable will do.
        found: "module:function" of what lies in a folder and is looked for at every question: gives a list of entries, and what
            is wrong with others by name.

    Attributes:
        problems: what is wrong with plug-ins, by name: a collision, an invalid name. Asking for such a name raises it.
    """

    def __init__(self, kind: str, group: str, *, module: str = "", expects: str = "", found: str = "") -> None:
        self.kind = kind
        self.group = group
        self.problems: dict[str, SlabenchError] = {}
        self._module, self._expects, self._found = module, expects, found
        self._amiss: set[str] = set()
        self._entries: dict[str, Entry] = {}
        self._plugins_read = False

    def add(self, name: str, target: str | Any, summary: str, origin: str = "", file: str | None = None) -> None:
        """Register `target` (an object or "module:attribute") as `name`; a name that is taken is an error.

        Without `origin` it is the plug-in file that is being loaded, else the module that calls.
        """
        if not origin:
            caller = sys._getframe(1).f_globals
            module = str(caller.get("__name__", "?"))
            if module.partition(".")[0] == BUILT_IN:
                origin = BUILT_IN
            else:
                origin, file = _loading[-1] if _loading else (module, _remembered(caller))
        elif _loading and origin != BUILT_IN:
            file = file or _loading[-1][1]
        if origin != BUILT_IN:
            self._read_built_ins()
        if not _KEBAB.match(name):
            raise UsageError(
                f"{self.kind} name '{name}' is not kebab-case (it comes from {origin})",
                "use lower-case words joined by '-'",
            )
        taken = self._entries.get(name)
        # A cell of a notebook that is edited and run again means the new one; the digest tells the two apart.
        again = taken is not None and taken.origin == origin == "__main__" and not (taken.file or file)
        if taken is not None and not again:
            raise UsageError(
                f"{self.kind} '{name}' of {origin} is already registered by {taken.origin}",
                "choose another name: a registered name is never replaced",
            )
        self._entries[name] = Entry(name, target, summary, origin, file)

    def register(self, name: str, summary: str = "") -> Callable[[Any], Any]:
        """Decorator form of `add`, for plug-ins."""

        def decorate(target: Any) -> Any:
            doc = (target.__doc__ or "").strip().split("\n")[0]
            module = vars(sys.modules[target.__module__]) if target.__module__ in sys.modules else {}
            origin, file = _loading[-1] if _loading else (target.__module__, _remembered(module))
            self.add(name, target, summary or doc, origin=origin, file=file)
            return target

        return decorate

    def remove(self, file: str) -> None:
        """Take back all that was registered from `file`."""
        self._entries = {name: entry for name, entry in self._entries.items() if entry.file != file}

    def get(self, name: str) -> Any:
        """The object called `name`, imported now if need be.

        Raises:
            UsageError: there is no such name, or it is registered twice.
            PluginError: a plug-in cannot be imported, or gives something else than it should.
        """
        entry = self.entry(name)
        if entry.built_in:
            return _resolve(entry.target)
        remedy = "fix the plug-in or uninstall it; the other names work without it"
        try:
            target = _resolve(entry.target)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{self.kind} '{name}' of {entry.origin} cannot be loaded: {type(error).__name__}: {error}", remedy
            ) from error
        wanted = _resolve(self._expects) if self._expects else None
        if wanted is not None and not isinstance(target, wanted):
            found = target.__name__ if isinstance(target, type) else f"a {type(target).__name__}"
            what = f"a {wanted.__module__}.{wanted.__name__}"
            raise PluginError(f"{self.kind} '{name}' of {entry.origin} is {found}, and should be {what}", remedy)
        if wanted is None and not callable(target):
            raise PluginError(
                f"{self.kind} '{name}' of {entry.origin} is of type {type(target).__name__}, not a function", remedy
            )
        if wanted is not None and target.name != name:
            raise PluginError(f"{self.kind} '{name}' of {entry.origin} calls itself '{target.name}'", "use one name")
        return target

    def entry(self, name: str) -> Entry:
        """The entry called `name` without importing its code; an unknown name raises with a did-you-mean."""
        entries = self._all()
        if name in self.problems:
            raise self.problems[name]
        if name not in entries:
            raise unknown_name(self.kind, name, entries)
        return entries[name]

    def names(self) -> list[str]:
        """All names, built-in ones first, in the order of registration."""
        return list(self._all())

    def summaries(self) -> Mapping[str, str]:
        """A live view: name to summary."""
        return _View(self, lambda name: self.entry(name).summary, loads=False)

    def objects(self) -> Mapping[str, Any]:
        """A live view: name to object. Plug-ins that do not load are left out when it is iterated."""
        return _View(self, self.get, loads=True)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._all().values()))

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def _all(self) -> dict[str, Entry]:
        """What is registered, and what is found now. A name that is both is an error of that name, and in no list."""
        self._read_plugins()
        if not self._found:
            return self._entries
        found, amiss = _resolve(self._found)()
        for entry in found:
            if entry.name in self._entries:
                amiss[entry.name] = UsageError(
                    f"{self.kind} '{entry.name}' of {entry.origin} is also registered by {self._entries[entry.name].origin}",
                    f"remove the imported one, and import it under another name: {entry.file}",
                )
        for name in self._amiss - amiss.keys():
            self.problems.pop(name, None)
        self.problems.update(amiss)
        self._amiss = set(amiss)
        together = self._entries | {entry.name: entry for entry in found}
        return {name: entry for name, entry in together.items() if name not in amiss}

    def _read_built_ins(self) -> None:
        if self._module:
            importlib.import_module(self._module)

    def _read_plugins(self) -> None:
        self._read_built_ins()
        if self._plugins_read:
            return
        self._plugins_read = True
        for point in entry_points(group=self.group):
            origin = f"the package {point.dist.name} {point.dist.version}" if point.dist else point.value
            try:
                self.add(point.name, point.value.partition("[")[0].strip(), f"from {origin}", origin=origin)
            except UsageError as error:
                self.problems[point.name] = error


class _View(Mapping[str, Any]):
    def __init__(self, registry: Registry, value: Callable[[str], Any], loads: bool) -> None:
        self._registry, self._value, self._loads = registry, value, loads

    def __getitem__(self, name: str) -> Any:
        if name not in self._registry:
            raise KeyError(name)
        return self._value(name)

    def __contains__(self, name: object) -> bool:
        return name in self._registry

    def __iter__(self) -> Iterator[str]:
        for entry in self._registry:
            if self._loads and not entry.built_in:
                try:
                    self._value(entry.name)
                except SlabenchError:
                    continue
            yield entry.name

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _remembered(module: Mapping[str, Any]) -> str | None:
    """The file of a module with these globals, with what is in it now kept; None where it has none, as at a prompt."""
    file = module.get("__file__")
    if not source_files.is_file(file):
        return None
    source_files.remember(str(file), package=module.get("__package__") or "")
    return str(file)


def _resolve(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    found: Any = importlib.import_module(module)
    return reduce(getattr, attribute.split("."), found) if attribute else found


HEADS = Registry("head", "slabench.heads", expects="slabench.heads:Head")
BACKBONES = Registry("backbone", "slabench.backbones")

HEADS.add("protonet", "slabench.heads.metric:PROTONET", "squared distance to the class mean (Snell et al. 2017)")
HEADS.add(
    "metaoptnet-svm", "slabench.heads.metaoptnet:METAOPTNET_SVM", "Crammer-Singer SVM (MetaOptNet, Lee et al. 2019)"
)
HEADS.add("metaoptnet-rr", "slabench.heads.metaoptnet:METAOPTNET_RR", "ridge regression, lambda 50 (MetaOptNet, R2D2)")
HEADS.add(
    "r2d2",
    "slabench.heads.metaoptnet:R2D2",
    "ridge regression with learned lambda, alpha, beta (Bertinetto et al. 2019)",
)
_COSINE = "slabench.heads.metric"
HEADS.add("cosine", f"{_COSINE}:COSINE", "cosine to the class mean (Meta-Baseline, Chen et al. 2021)")
HEADS.add(
    "baseline-plus-plus",
    "slabench.heads.baseline_plus_plus:BASELINE_PLUS_PLUS",
    "Baseline++: a cosine layer with learned lengths, fitted to the supports (Chen et al. 2019)",
)
HEADS.add(
    "cosine-fitted",
    f"{_COSINE}:COSINE_FITTED",
    "a cosine layer fitted to the supports from the class means on, a relative of Baseline++",
)
HEADS.add(
    "simpleshot", f"{_COSINE}:SIMPLESHOT", "nearest centroid, centred and of length one (SimpleShot, Wang et al. 2019)"
)
HEADS.add("matchingnet", "slabench.heads.metric:MATCHING", "attention over the supports (Vinyals et al. 2016)")
HEADS.add(
    "relationnet", "slabench.heads.metric:RELATION", "a learned comparison with the class mean (Sung et al. 2018)"
)
HEADS.add(
    "logistic",
    "slabench.heads.logistic:LOGISTIC",
    "logistic regression on features of length one (RFS, Tian et al. 2020)",
)
HEADS.add(
    "laplacian-shot",
    "slabench.heads.laplacian_shot:LAPLACIAN_SHOT",
    "transductive: queries agree with their nearest neighbours (LaplacianShot, Ziko et al. 2020)",
)
HEADS.add(
    "bd-cspn",
    "slabench.heads.laplacian_shot:BD_CSPN",
    "transductive: prototypes rectified by the queries (BD-CSPN, Liu et al. 2020)",
)
HEADS.add(
    "tim",
    "slabench.heads.tim:TIM",
    "transductive: mutual information of queries and labels (TIM-ADM, Boudiaf et al. 2020)",
)
HEADS.add(
    "pt-map",
    "slabench.heads.pt_map:PT_MAP",
    "transductive: power transform, class means by optimal transport (PT-MAP, Hu et al. 2021)",
)
BACKBONES.add("conv4", "slabench.backbones.fewshot:conv4", "Conv4-64: four 3x3 blocks of 64 channels")
BACKBONES.add("resnet12", "slabench.backbones.fewshot:resnet12", "ResNet-12 of MetaOptNet, 64-160-320-640, DropBlock")
BACKBONES.add(
    "resnet12-slim", "slabench.backbones.fewshot:resnet12_slim", "the same ResNet-12 at half width, 32-64-128-256"
)
_CIFAR = "slabench.backbones.resnet"
BACKBONES.add("resnet20", f"{_CIFAR}:resnet20", "CIFAR ResNet-20, shortcut A (He et al. 2016)")
BACKBONES.add("resnet32", f"{_CIFAR}:resnet32", "CIFAR ResNet-32, the network of the published CIFAR-LT tables")
BACKBONES.add("resnet56", f"{_CIFAR}:resnet56", "CIFAR ResNet-56")
BACKBONES.add("resnet18-cifar", f"{_CIFAR}:resnet18_cifar", "ResNet-18 with a 3x3 stem, for 32 x 32 images")
BACKBONES.add("wrn-28-10", f"{_CIFAR}:wrn_28_10", "wide ResNet of depth 28 and factor 10 (Zagoruyko, Komodakis 2016)")
BACKBONES.add("resnet18", "slabench.backbones.resnet:resnet18", "torchvision's ResNet-18, from 64 pixels on")
BACKBONES.add("resnet50", "slabench.backbones.resnet:resnet50", "torchvision's ResNet-50, from 64 pixels on")
_L2L = "slabench.backbones.learn2learn"
BACKBONES.add("l2l-cnn4", f"{_L2L}:CNN4", "learn2learn's CNN4, 64 channels (needs learn2learn)")
BACKBONES.add("l2l-resnet12", f"{_L2L}:ResNet12", "learn2learn's ResNet12 (needs learn2learn)")
BACKBONES.add("l2l-wrn28", f"{_L2L}:WRN28", "learn2learn's WRN28, 28 layers of factor 10 (needs learn2learn)")

DATASETS = Registry(
    "dataset",
    "slabench.datasets",
    module="slabench.data.catalog",
    expects="slabench.data.catalog:DatasetInfo",
    found="slabench.data.own:found",
)
TRANSFORMS = Registry(
    "transformation set",
    "slabench.transforms",
    module="slabench.sla.transforms",
    expects="slabench.sla.transforms:TransformSet",
)
LOSSES = Registry("loss", "slabench.losses", module="slabench.losses")

REGISTRIES: dict[str, Registry] = {
    "datasets": DATASETS,
    "backbones": BACKBONES,
    "heads": HEADS,
    "losses": LOSSES,
    "transforms": TRANSFORMS,
}
"""By the plural that `slabench list` and the entry-point groups use."""
