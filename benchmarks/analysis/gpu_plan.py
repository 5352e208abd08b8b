"""The whole SLA paper on some GPUs, planned: `python benchmarks/analysis/gpu_plan.py [--tflops 20] [--gpus 1,8,64] [--seeds 3]`.

Images seen and scored are counted by the plans of the five tables under the preset `paper`, controls included; operations of an
image are counted in each network; what a GPU does a second is an assumption, which the command line states. Trials are given to
GPUs longest first. docs/cluster.md shows the output.
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from slabench.core.registry import BACKBONES
from slabench.data.catalog import info
from slabench.recipes import AnyRecipe
from slabench.reproduction.planning import plan_table
from slabench.runner.workload import workload

TABLES = ("full-supervision", "da-mt", "composed", "few-shot", "imbalanced")
BACKWARD = 2.0
"""A backward pass costs about two forward ones."""
START_SECONDS = 120.0
"""Of a trial: queue, imports, data."""


@dataclass(frozen=True)
class Kind:
    """All trials on one network and image size: `recipes` of them a seed, and their counts."""

    network: str
    size: int
    recipes: int
    trained: int
    scored: int
    operations: float


def recipes() -> Iterator[AnyRecipe]:
    """Each recipe of the five tables once, those of the controls with them."""
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as empty:  # no record counts as done, and no data is opened
        for name in TABLES:
            plan = plan_table(f"sla2020/{name}", "paper", results=Path(empty), data_folder=Path(empty))
            for digest, recipe in plan.recipes.items():
                if digest not in seen:
                    seen.add(digest)
                    yield recipe


@cache
def operations(network: str, size: int) -> float:
    """Multiplications and additions of one image's forward pass, in convolutions and linear layers."""
    module, total = BACKBONES.get(network)(size).eval(), 0.0

    def count(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += 2.0 * output.numel() * layer.weight.numel() / layer.weight.shape[0]

    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module(torch.zeros(1, 3, size, size))
    return total


@dataclass(frozen=True)
class Gpu:
    """What is assumed of one: operations a second, and images a second at most, however small the network is."""

    rate: float
    most: float

    def images_per_second(self, each: float) -> float:
        """In training, of a network with `each` operations an image."""
        return min(self.most, self.rate / (1 + BACKWARD) / each)

    def seconds(self, each: float, trained: int, scored: int) -> float:
        """Of training and scoring; a forward pass is a third of a training step."""
        return (trained + scored / (1 + BACKWARD)) / self.images_per_second(each)


def seconds(recipe: AnyRecipe, gpu: Gpu) -> float:
    """Of one trial."""
    work, each = workload(recipe), operations(recipe.model.backbone, info(recipe.data.dataset).image_size)
    return START_SECONDS + gpu.seconds(each, work.images, work.scored)


def kinds(every: Sequence[AnyRecipe]) -> list[Kind]:
    """The counts by network and image size, of one seed."""
    found: dict[tuple[str, int], list[AnyRecipe]] = defaultdict(list)
    for recipe in every:
        found[recipe.model.backbone, info(recipe.data.dataset).image_size].append(recipe)
    rows = []
    for (network, size), own in sorted(found.items()):
        work = [workload(recipe) for recipe in own]
        trained, scored = sum(one.images for one in work), sum(one.scored for one in work)
        rows.append(Kind(network, size, len(own), trained, scored, operations(network, size)))
    return rows


def makespan(times: Sequence[float], gpus: int) -> float:
    """Seconds until the last trial ends, longest first, each on the GPU that is free first."""
    free = [0.0] * gpus
    for time in sorted(times, reverse=True):
        heapq.heapreplace(free, free[0] + time)
    return max(free)


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description="The whole paper on some GPUs.")
    parser.add_argument(
        "--tflops", type=float, default=20.0, help="10^12 operations a second that a GPU sustains: assumed"
    )
    parser.add_argument("--most", type=float, default=10_000, help="images a second at most in training: assumed")
    parser.add_argument("--gpus", default="1,8,64")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    gpu, every = Gpu(options.tflops * 1e12, options.most), list(recipes())
    headings = (
        "network, side",
        "trials a seed",
        "images seen",
        "images scored",
        "GFLOP an image",
        "images/s",
        "GPU hours",
    )
    print(f"| {' | '.join(headings)} |\n{'|---' * len(headings)}|")
    for kind in kinds(every):
        hours = gpu.seconds(kind.operations, kind.trained, kind.scored) / 3600
        print(
            f"| {kind.network}, {kind.size} | {kind.recipes} | {kind.trained / 1e9:.2f} x 10^9 | {kind.scored / 1e9:.3f} x 10^9 |"
            f" {kind.operations / 1e9:.2f} | {gpu.images_per_second(kind.operations):,.0f} | {hours:.1f} |"
        )
    times = [seconds(recipe, gpu) for recipe in every] * options.seeds
    longest = max(times) / 3600
    print(
        f"\n{len(times)} trials of {options.seeds} seeds, {sum(times) / 3600:.0f} GPU hours, the longest {longest:.1f} h\n"
    )
    print("| GPUs | hours | of them busy |\n|---|---|---|")
    for gpus in (int(word) for word in options.gpus.split(",")):
        total = makespan(times, gpus)
        print(f"| {gpus} | {total / 3600:.1f} | {100 * sum(times) / total / gpus:.0f} % |")


if __name__ == "__main__":
    main()
