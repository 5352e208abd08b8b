"""What the differences from official codes that stay on purpose amount to (docs/parity.md): minutes on one core.

    slabench run fewshot --dataset fc100 --shots 1 --learner classifier --head logistic --preset quick --steps 1200
    python benchmarks/analysis/parity.py KEY [--results results] [--episodes 300]

KEY is the run, whose weights embed the test images. Each line is theirs, ours, and the difference on the same test episodes;
losses and colours are compared as numbers. Everything of theirs is written out here from the published descriptions.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional

from slabench.data import load
from slabench.data.augment import BatchAugment, jitter
from slabench.data.catalog import info
from slabench.data.longtail import profile_counts
from slabench.episodes.files import load_episodes
from slabench.evaluation.episodes import embed, embed_augmented, in_place_of_supports
from slabench.evaluation.intervals import t_interval
from slabench.heads.baseline_plus_plus import baseline_plus_plus_logits
from slabench.heads.logistic import logistic_logits
from slabench.heads.metaoptnet import ridge_logits, svm_logits
from slabench.heads.metric import cosine_fitted_logits
from slabench.learners import build_backbone
from slabench.losses.loss import class_weights
from slabench.recipes import parse_recipe
from slabench.recipes.fewshot import Recipe
from slabench.records.store import ResultStore
from slabench.sla.transforms import transform_set
from slabench.suites.fewshot.score_heads import open_weights

WAYS = 5


class Embedder:
    """The backbone of a run."""

    def __init__(self, results: Path, key: str) -> None:
        store = ResultStore(results)
        record = store.match(key)
        recipe = parse_recipe({**record.recipe, "seeds": [record.seed]})
        assert isinstance(recipe, Recipe)
        self.info = info(recipe.data.dataset)
        self.backbone = build_backbone(recipe.model, self.info, record.seed)
        weights = open_weights(record, store).tensors
        own = {name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")}
        self.backbone.load_state_dict(own)
        self.test = load(recipe.data.dataset, "test")


def qp_iterations(support: Tensor, labels: Tensor, query: Tensor, iterations: int, C: float = 0.1) -> Tensor:
    """MetaOptNet's dual after a few steps of a primal-dual interior-point method with Mehrotra's correction (OptNet).

    min 1/2 a'(K x I + 1) a - y'a with a <= C y and rows of a summing to zero, in float64; the best iterate by its residual.
    """
    x = support.double()
    episodes, samples, _ = x.shape
    y = functional.one_hot(labels, WAYS).double().flatten(1)  # [E, S*N]
    n, eye = samples * WAYS, torch.eye(samples * WAYS, dtype=torch.float64)
    ways = torch.eye(WAYS, dtype=torch.float64)
    q = torch.stack([torch.kron(k, ways) for k in x @ x.mT]) + eye
    a = torch.kron(torch.eye(samples, dtype=torch.float64), torch.ones(1, WAYS, dtype=torch.float64))

    def kkt(d: Tensor, rx: Tensor, rs: Tensor, rz: Tensor, ry: Tensor) -> tuple[Tensor, ...]:
        """Solve for minus the residuals; s and z are eliminated."""
        top = torch.cat([q + torch.diag_embed(d), a.mT.expand(episodes, -1, -1)], 2)
        low = torch.cat([a, torch.zeros(samples, samples, dtype=torch.float64)], 1).expand(episodes, -1, -1)
        right = torch.cat([-rx + rs - d * rz, -ry], 1)
        found = torch.linalg.solve(torch.cat([top, low], 1), right)
        dx, dy = found[:, :n], found[:, n:]
        ds = -rz - dx
        return dx, ds, -rs - d * ds, dy

    none, zero = torch.zeros_like(y), torch.zeros(episodes, samples, dtype=torch.float64)
    alpha, s, z, t = kkt(torch.ones_like(y), -y, none, -C * y, zero)
    s, z = (v - (v.amin(1, keepdim=True) - 1).clamp_max(0) * (v.amin(1, keepdim=True) < 0) for v in (s, z))

    def length(v: Tensor, dv: Tensor) -> Tensor:
        return torch.where(dv < 0, -v / dv, math.inf).amin(1, keepdim=True)

    best, least = alpha, torch.full((episodes, 1), math.inf, dtype=torch.float64)
    for _ in range(iterations):
        rx = t @ a + z + (q @ alpha.unsqueeze(-1)).squeeze(-1) - y
        rz, ry = alpha + s - C * y, alpha @ a.mT
        mu = (s * z).sum(1, keepdim=True) / n
        residual = rz.norm(dim=1, keepdim=True) + ry.norm(dim=1, keepdim=True) + rx.norm(dim=1, keepdim=True) + n * mu
        better = residual < least
        best, least = torch.where(better, alpha, best), torch.where(better, residual, least)
        d = z / s
        affine = kkt(d, rx, z, rz, ry)
        step = torch.minimum(length(z, affine[2]), length(s, affine[1])).clamp_max(1)
        ahead = ((s + step * affine[1]) * (z + step * affine[2])).sum(1, keepdim=True)
        sigma = (ahead / (s * z).sum(1, keepdim=True)) ** 3
        correct = kkt(d, none, (-mu * sigma + affine[1] * affine[2]) / s, none, zero)
        moves = [p + c for p, c in zip(affine, correct, strict=True)]
        step = (0.999 * torch.minimum(length(z, moves[2]), length(s, moves[1]))).clamp_max(1)
        alpha, s, z, t = (v + step * move for v, move in zip((alpha, s, z, t), moves, strict=True))
    return query.double() @ (best.view(episodes, samples, WAYS).mT @ x).mT


def on_episodes(e: Embedder, count: int) -> Iterator[str]:
    """Heads, at one shot and at five."""
    images = torch.from_numpy(np.array(e.test.images))
    views = transform_set("rotation2")
    features = embed(e, images, views, e.info)[:, :1]
    augment = BatchAugment(crop_padding=4, flip=True, jitter=0.4, mean=e.info.mean, std=e.info.std)
    copies = embed_augmented(e, images, views, augment, 5, seed=0)[:, :, :1]
    for shots in (1, 5):
        episodes = load_episodes(e.test, e.info.name, "test", WAYS, shots, 15, 2000).episodes[:count]
        (rows, labels), (asked, truth) = episodes.flat(query=False), episodes.flat(query=True)
        s, q = features[rows, 0], features[asked, 0]
        five, five_episodes = in_place_of_supports(features, episodes, copies)
        five_rows, five_labels = five_episodes.flat(query=False)
        pairs: list[tuple[str, Tensor, Tensor]] = [
            ("MetaOptNet-SVM, 3 iterations", qp_iterations(s, labels, q, 3), svm_logits(s, labels, q, WAYS)),
            ("the same, 15 iterations", qp_iterations(s, labels, q, 15), svm_logits(s, labels, q, WAYS)),
            ("R2D2, lambda 1", ridge_logits(s, labels, q, WAYS, 1.0), ridge_logits(s, labels, q, WAYS)),
            (
                "Baseline++ (ours: cosine-fitted)",
                baseline_plus_plus_logits(s, labels, q, WAYS),
                cosine_fitted_logits(s, labels, q, WAYS),
            ),
            (
                "RFS, five copies of a support (ours: none)",
                logistic_logits(five[five_rows, 0], five_labels, q, WAYS),
                logistic_logits(s, labels, q, WAYS),
            ),
            (
                "features in float32 (ours: float16)",
                logistic_logits(s, labels, q, WAYS),
                logistic_logits(s.half().float(), labels, q.half().float(), WAYS),
            ),
        ]
        for name, theirs, ours in pairs:
            a, b = (z.argmax(-1) for z in (theirs, ours))
            right = [x.eq(truth).float().mean(1).numpy() for x in (a, b)]
            gap = t_interval(right[1] - right[0])
            yield (
                f"{shots} shot, {name}: theirs {100 * right[0].mean():.2f}, ours {100 * right[1].mean():.2f}, "
                f"difference {100 * gap.mean:+.2f} ± {100 * gap.half_width:.2f}, {100 * a.ne(b).double().mean():.2f} % of answers"
            )


def on_losses() -> Iterator[str]:
    """Class weights of CIFAR-100-LT, ratio 100, beta 0.9999, in batches as the classes are frequent."""
    counts = profile_counts(500, 100, 100, "exp")
    weights = class_weights("effective", counts).double()
    generator = torch.Generator().manual_seed(0)
    share = torch.tensor(counts).double() / sum(counts)
    labels = torch.multinomial(share, 128 * 500, True, generator=generator).view(500, 128)
    factor = weights[labels].mean(1)
    yield f"Cui's normaliser: a batch's loss is {factor.mean():.3f} of ours, {factor.std() / factor.mean():.1%} more or less"
    cosines, ratios = [], []
    for own in labels[:50]:
        z = torch.randn(128, 100, generator=generator, dtype=torch.float64).requires_grad_()
        ce = functional.cross_entropy(z, own, reduction="none")
        w = weights[own]
        theirs = ((1 - torch.exp(-w * ce)) * w * ce).mean()
        ours = (w * (1 - torch.exp(-ce)) * ce).sum() / w.sum()
        a, b = (torch.autograd.grad(loss, z, retain_graph=True)[0].flatten() for loss in (theirs, ours))
        cosines.append(float(functional.cosine_similarity(a, b, dim=0)))
        ratios.append(float(a.norm() / b.norm()))
    length = np.mean(ratios)
    yield f"weighted focal loss, gamma 1: cosine of the gradients {np.mean(cosines):.4f}, theirs {length:.3f} times as long"


def on_colours(images: Any) -> Iterator[str]:
    """The same factors in the same order by Pillow, which rounds to whole levels after each, and by ours."""
    draw = np.random.default_rng(0)
    factors = torch.from_numpy(draw.uniform(0.6, 1.4, (3, len(images)))).float()
    ours = jitter(torch.from_numpy(np.array(images)).float(), factors, [0, 1, 2])
    theirs = []
    for i, pixels in enumerate(images):
        image = Image.fromarray(pixels)
        for kind, factor in zip(
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors[:, i], strict=True
        ):
            image = kind(image).enhance(float(factor))
        theirs.append(np.asarray(image))
    off = np.abs(np.stack(theirs) - ours.numpy())
    yield f"jitter: {off.mean():.2f} of 255 levels apart on average, {np.quantile(off, 0.99):.1f} at the 99th percentile"


def main() -> None:
    """Print what each difference amounts to."""
    parser = argparse.ArgumentParser(description="What differences from official codes amount to.")
    parser.add_argument("key", help="of a few-shot run that left weights")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--episodes", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    embedder = Embedder(options.results, options.key)
    for line in on_losses():
        print(line, flush=True)
    for line in on_colours(embedder.test.images[:300]):
        print(line, flush=True)
    for line in on_episodes(embedder, options.episodes):
        print(line, flush=True)


if __name__ == "__main__":
    main()
