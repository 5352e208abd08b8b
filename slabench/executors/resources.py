"""What a trial needs of a machine: what the user said, else what its plan implies."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import torch

from slabench.core.errors import UsageError, unknown_name
from slabench.core.registry import BACKBONES
from slabench.data.catalog import DatasetInfo, info
from slabench.embedders.maps import Maps
from slabench.executors.jobs import Resources
from slabench.learners import backbone_settings
from slabench.recipes import AnyRecipe
from slabench.recipes.images import images_per_step
from slabench.runner.trials import Trial
from slabench.training.device import choose_device

TIME_MARGIN = 2.0
"""Minutes are twice the estimate: a machine starts slowly, and a job that is stopped at its limit has to queue again."""

TIMES = (10, 20, 30, 60, 120, 240, 480, 960, 1440, 2880)
"""Minutes are rounded up to these, at least ten, so that trials of one kind ask alike; more than two days to whole days."""

_PROCESS_MB = 1500
"""Of Python, torch, its kernels and the heap that they keep, before there is an image."""

_PER_ACTIVATION = 3.0
"""Bytes in use, at the peak of a step, for each of the layers' outputs: these, their gradients, what operators need meanwhile."""

_CUDA_PROCESS_MB = 4000
"""Of the machine, for a process that trains on a GPU: CUDA's libraries and pinned memory."""

_SCORED_AT_ONCE = 512
"""Images that are embedded at once when a trial is scored: a step of fewer needs no less memory."""

KEYS = ("cores", "memory", "gpus", "minutes", "partition", "account", "qos", "constraint", "address")


@dataclass(frozen=True)
class Request:
    """What `--resource` and `--partition` say; None where nothing is said.

    Attributes:
        cores: of each job.
        memory_mb: of each job.
        gpus: of each job.
        minutes: of each job.
        partition: of SLURM.
        account: of SLURM.
        qos: of SLURM.
        constraint: of SLURM: features that a node must have.
        address: of a Ray cluster; None: `RAY_ADDRESS`, or one of this machine for as long as the command runs.
    """

    cores: int | None = None
    memory_mb: int | None = None
    gpus: int | None = None
    minutes: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    address: str | None = None

    @classmethod
    def parse(cls, texts: Sequence[str] = (), partition: str | None = None) -> Request:
        """`["gpus=1", "memory=8G"]`, as typed after `--resource`.

        Raises:
            UsageError: an unknown key, a value that is none, or one key twice.
        """
        found: dict[str, Any] = {} if partition is None else {"partition": partition}
        for text in texts:
            key, equals, value = text.partition("=")
            if not equals or not value:
                raise UsageError(f"--resource {text} is not KEY=VALUE", "write for example --resource gpus=1")
            if key not in KEYS:
                raise unknown_name("resource", key, KEYS)
            name = "memory_mb" if key == "memory" else key
            if name in found and found[name] != value:
                raise UsageError(f"{key} is said twice: {found[name]} and {value}", "say it once")
            if key == "memory":
                found[name] = _megabytes(value)
            elif key in ("cores", "gpus", "minutes"):
                found[name] = _number(key, value, 0 if key == "gpus" else 1)
            else:
                found[name] = value
        return cls(**found)

    def only_for(self, executor: str, names: Sequence[str]) -> None:
        """Refuse what this executor would pass over.

        Raises:
            UsageError: something was said that is not among `names`.
        """
        for name in ("partition", "account", "qos", "constraint", "address", "minutes"):
            if getattr(self, name) is not None and name not in names:
                flag = "--partition" if name == "partition" else f"--resource {name}={getattr(self, name)}"
                meant = "ray" if name == "address" else "slurm"
                raise UsageError(
                    f"{flag} has no effect with --executor {executor}", f"leave it out, or --executor {meant}"
                )


def resources_of(
    trial: Trial, request: Request, seconds: Callable[[Trial], float] | None, cuda: bool, cores: int = 1
) -> Resources:
    """What a trial needs.

    Args:
        trial: to run.
        request: what the user said, which is taken at its word.
        seconds: of a trial on this machine, measured; None: nothing is known of time.
        cuda: whether it is to run on a GPU.
        cores: on a CPU, where nothing was said.
    """
    minutes = request.minutes
    if minutes is None:
        minutes = 0 if seconds is None else rounded(seconds(trial) / 60 * TIME_MARGIN)
    return asked(request, Resources(cores, memory_mb(trial, cuda), int(cuda), minutes))


def resources_of_all(
    trials: Sequence[Trial], request: Request, executor: str, device: str, seconds: Callable[[Trial], float]
) -> dict[str, Resources]:
    """What each of these trials needs, by key.

    Args:
        trials: to run.
        request: what the user said.
        executor: its name: SLURM asks for time, and gives it; a GPU that it is to give is named by `device` or the request.
        device: as in `slabench.run`.
        seconds: of a trial, measured when it is asked for.
    """
    if executor == "local":
        cuda = choose_device(device).type == "cuda"
    else:
        cuda = device.startswith("cuda") or bool(request.gpus)
    timed = seconds if executor == "slurm" else None
    return {trial.key: resources_of(trial, request, timed, cuda) for trial in trials}


def asked(request: Request, needed: Resources) -> Resources:
    """Resources with what the user said in place of what was found."""
    said = {name: getattr(request, name) for name in ("cores", "memory_mb", "gpus", "minutes")}
    return replace(needed, **{name: value for name, value in said.items() if value is not None})


def rounded(minutes: float) -> int:
    """Up to the next of `TIMES`."""
    for time in TIMES:
        if minutes <= time:
            return time
    return 1440 * math.ceil(minutes / 1440)


def memory_mb(trial: Trial, cuda: bool) -> int:
    """MiB of the machine's memory at the peak of a trial, generously; checked against the shipped records by a test."""
    entry, prepared = info(trial.recipe.data.dataset), trial.prepared
    image = entry.image_size**2 * 3
    on_features = bool(trial.recipe.model.embedder)
    stored = sum(found.images.nbytes if on_features else len(found) * image for found in _image_sets(prepared))
    if cuda:  # the images go through the machine's memory, the step does not
        return _CUDA_PROCESS_MB + (2 * stored >> 20)
    at_once = max(images_per_step(trial.recipe, prepared.n_train), _SCORED_AT_ONCE)
    each = block_activations(prepared) if on_features else activations(trial.recipe, entry)
    step = at_once * each * _PER_ACTIVATION
    return _PROCESS_MB + (int(step + 2 * stored) >> 20)


def activations(recipe: AnyRecipe, entry: DatasetInfo) -> int:
    """Bytes of all layers' outputs for one image, in float32."""
    settings = tuple(sorted(backbone_settings(recipe.model, entry).items()))  # type: ignore[arg-type]
    return _activations(BACKBONES.get(recipe.model.backbone), entry.image_size, settings)


def block_activations(prepared: Any) -> int:
    """Bytes of the last block's outputs for one image; 0 of other adapters, whose layers are as nothing beside the features."""
    maps = prepared.features.maps if prepared.features is not None else None
    return 0 if maps is None else _of_block(maps)


@lru_cache(maxsize=4)  # a table's trials share their maps, and the block is a network to be made
def _of_block(maps: Maps) -> int:
    return _outputs(maps.tail(), torch.zeros(1, *maps.facts.shape))


@cache  # by the maker of the network, not by its name: another network may stand under that name later
def _activations(make: Callable[..., torch.nn.Module], image_size: int, settings: tuple[tuple[str, int], ...]) -> int:
    with torch.random.fork_rng(devices=[]):
        network = make(image_size, **dict(settings)).eval()
    return _outputs(network, torch.zeros(1, 3, image_size, image_size))


def _outputs(network: torch.nn.Module, sample: torch.Tensor) -> int:
    """Bytes of what all layers of a network in eval mode give for a sample."""
    total = 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        total += output.numel() * output.element_size() if isinstance(output, torch.Tensor) else 0

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(sample)
    return total


def _image_sets(prepared: Any) -> list[Any]:
    """The sets of images that a trial holds in memory."""
    sets = [getattr(prepared, name, None) for name in ("train", "val", "test")]
    return [found for found in sets if found is not None]


def _number(key: str, value: str, least: int) -> int:
    if not value.isdecimal() or int(value) < least:
        raise UsageError(f"--resource {key}={value} is not a whole number of at least {least}", f"write {key}=1")
    return int(value)


def _megabytes(value: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MG])(?:i?B)?", value, re.IGNORECASE)
    if found is None or (size := int(float(found[1]) * (1024 if found[2] in "gG" else 1))) < 1:
        raise UsageError(
            f"--resource memory={value} is no amount of memory", "write for example memory=8G or memory=500M"
        )
    return size
