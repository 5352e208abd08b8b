"""What four differences from official codes do to accuracy (docs/parity.md), where only a training can tell.

    python benchmarks/analysis/parity_trained.py dropblock [--seeds 0,1,2] [--steps 1200] [--shots 5]
    python benchmarks/analysis/parity_trained.py jitter [--seeds 0,1,2] [--steps 1200] [--shots 5]
    python benchmarks/analysis/parity_trained.py losses --embedder NAME [--seeds 0,1,2]

`dropblock` trains a slim ResNet-12 under ProtoNet on FC100 twice a seed. MetaOptNet trains for 60,000 steps; its rate is
full after a third of them (two forwards a step), ours after two thirds. The ramps here are the same parts of `--steps`.
`jitter` trains Conv4 on FC100's base classes with crops, flips and MetaOptNet's colour jitter, by Pillow or as here.
`losses` trains a layer on the features of a frozen embedder (`slabench embed`) on CIFAR-100-LT, ratio 100, with class-balanced
weights: minutes of one core for all seeds. Each line is theirs, ours, and the mean difference with its interval over seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from slabench import runner
from slabench.backbones import fewshot
from slabench.data import augment
from slabench.evaluation.intervals import t_interval
from slabench.recipes import AnyRecipe, load_recipe
from slabench.sla import objectives

Patch = Callable[[], Any]


def accuracies(recipe: AnyRecipe, seeds: Sequence[int], patch: Patch, folder: Path) -> np.ndarray[Any, Any]:
    """Accuracy of the single view in percent, a value a seed, of trainings within `patch()`. Their records are thrown away."""
    with patch():
        outcomes = runner.run(recipe, seeds=seeds, results=folder, threads=1)
    found = []
    for outcome in outcomes:
        assert outcome.record is not None
        (score,) = [score for score in outcome.record.scores if score.predictor == "single"]
        found.append(100 * score.value)
    return np.array(found)


def told(name: str, theirs: np.ndarray[Any, Any], ours: np.ndarray[Any, Any]) -> str:
    """One line of the output."""
    gap = t_interval(ours - theirs)
    seeds = f"± {gap.half_width:.2f} over {len(ours)} seeds" if len(ours) > 1 else "of one seed"
    return f"{name}: theirs {theirs.mean():.2f}, ours {ours.mean():.2f}, difference {gap.mean:+.2f} {seeds}"


def on_dropblock(seeds: Sequence[int], steps: int, shots: int, folder: Path) -> Iterator[str]:
    """The two ramps of the rate, a line for each further seed, so that a run that is stopped has said what it knows."""
    overrides = {"data.dataset": "fc100", "model.backbone": "resnet12-slim", "train.steps": steps, "train.shots": shots}
    (recipe,) = load_recipe("fewshot/standard", overrides | {"protocol.shots": shots})
    found: dict[str, list[float]] = {"theirs": [], "ours": []}
    for seed in seeds:
        for name, part in (("theirs", 3), ("ours", 1.5)):
            ramp = mock.patch.object(fewshot, "_RAMP_STEPS", round(steps / part))
            found[name] += accuracies(recipe, [seed], lambda ramp=ramp: ramp, folder / name).tolist()  # type: ignore[misc]
        yield told(
            f"DropBlock's rate full after {steps // 3} instead of {2 * steps // 3} of {steps} steps",
            np.array(found["theirs"]),
            np.array(found["ours"]),
        )


def pillow_jitter(images: Tensor, factors: Tensor, order: Sequence[int]) -> Tensor:
    """`slabench.data.augment.jitter` as the authors' codes do it: Pillow, each image in an order of its own, rounded each time.

    The orders are drawn from the factors' own bits, so that the global generators stay as they are.
    """
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    pixels, drawn = images.round().to(torch.uint8).numpy(), factors.T.numpy()
    for row, mine in enumerate(drawn):
        picture = Image.fromarray(pixels[row])
        for step in np.random.default_rng(mine.view(np.uint32)).permutation(3):
            picture = enhancers[step](picture).enhance(float(mine[step]))
        images[row] = torch.from_numpy(np.array(picture))
    return images


def on_jitter(seeds: Sequence[int], steps: int, shots: int, folder: Path) -> Iterator[str]:
    """Colour jitter by Pillow, and as here, a line for each further seed."""
    overrides = {"data.dataset": "fc100", "protocol.shots": shots, "train.steps": steps, "train.crop": True}
    (recipe,) = [
        found
        for found in load_recipe("fewshot/pretrained", overrides | {"train.jitter": 0.4})
        if found.name.endswith("/baseline")
    ]
    found: dict[str, list[float]] = {"theirs": [], "ours": []}
    for seed in seeds:
        for name, patch in (("theirs", mock.patch.object(augment, "jitter", pillow_jitter)), ("ours", nullcontext())):
            found[name] += accuracies(recipe, [seed], lambda patch=patch: patch, folder / name).tolist()  # type: ignore[misc]
        yield told(f"colour jitter, {steps} steps", np.array(found["theirs"]), np.array(found["ours"]))


@contextmanager
def weighted(mean: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Within: `mean(losses [B], weights [B])` in place of the weighted mean."""

    def in_place(losses: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        return losses.mean() if weights is None else mean(losses, weights[labels])

    with mock.patch.object(objectives, "weighted_mean", in_place):
        yield


def on_losses(seeds: Sequence[int], embedder: str, folder: Path) -> Iterator[str]:
    """Cui's normaliser, and LDAM-DRW's focal loss, both with weights by the effective number."""
    table = {"data.ratio": 100, "model.embedder": embedder, "balance.reweight": "effective", "train.lr": 0.1}

    def recipe(**changes: Any) -> AnyRecipe:
        overrides = table | {key.replace("__", "."): value for key, value in changes.items()}
        (found,) = [r for r in load_recipe("imbalanced/adapter", overrides) if r.name.endswith("/ce-baseline")]
        return found

    def ours() -> Any:
        return weighted(lambda losses, w: (w * losses).sum() / w.sum())

    def by_batch() -> Any:
        return weighted(lambda losses, w: (w * losses).mean())

    def focal() -> Any:
        return weighted(lambda losses, w: ((1 - torch.exp(-w * losses)) * w * losses).mean())

    plain = accuracies(recipe(), seeds, ours, folder / "plain")
    cui = accuracies(recipe(), seeds, by_batch, folder / "cui")
    yield told("Cui's normaliser", cui, plain)
    # Theirs is a fifth of ours (benchmarks/analysis/parity.py): what is left of the difference when the step is as long?
    yield told(
        "the same, ours at a fifth of the rate", cui, accuracies(recipe(train__lr=0.02), seeds, ours, folder / "slow")
    )
    here = accuracies(recipe(loss__name="focal", loss__gamma=1.0), seeds, ours, folder / "focal")
    yield told("weighted focal loss, gamma 1", accuracies(recipe(), seeds, focal, folder / "their-focal"), here)


def main() -> None:
    """Print what each difference amounts to."""
    parser = argparse.ArgumentParser(description="What differences from official codes do to accuracy.")
    parser.add_argument("what", choices=["dropblock", "jitter", "losses"])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--shots", type=int, default=5, help="of training and test")
    parser.add_argument("--embedder", default="efficientnet-lite0-128")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    with tempfile.TemporaryDirectory(prefix="slabench-parity-") as name:
        if options.what == "dropblock":
            lines = on_dropblock(seeds, options.steps, options.shots, Path(name))
        elif options.what == "jitter":
            lines = on_jitter(seeds, options.steps, options.shots, Path(name))
        else:
            lines = on_losses(seeds, options.embedder, Path(name))
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    main()
