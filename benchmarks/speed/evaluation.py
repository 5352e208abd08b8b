"""Scoring 1,000 frozen episodes with ProtoNet on Conv4, beside the evaluation loops of easyfsl and learn2learn.

All three score the same network on the same episodes, and must come to the same accuracy. The peers get their images as
normalised float tensors in memory, so that loading and decoding are not counted against them.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from _measure import Row, against, compare, main, peer, rates_of, test_images
from sampling import QUERIES, SHOTS, WAYS, _Pixels, easyfsl_sampler
from torch import nn
from torch.utils.data import DataLoader

from slabench.core.seeding import numpy_generator
from slabench.data.augment import normalise
from slabench.data.catalog import DatasetInfo, info
from slabench.episodes.sampler import Episodes, balanced_episodes
from slabench.evaluation.episodes import embed_episodes, score_episodes
from slabench.learners import EpisodicLearner, build_learner
from slabench.recipes.fewshot import Model
from slabench.sla.transforms import IDENTITY, transform_set
from slabench.training.device import keep_heap

EPISODES, PEER_EPISODES = 1000, 100


def measure(backbone: str = "conv4") -> list[Row]:
    """Episodes a second; ours counts the embedding of the 12,000 test images into the 1,000 episodes."""
    entry = info("fc100")
    name, pixels, labels = test_images()
    images = torch.from_numpy(pixels)
    learner = build_learner(Model(backbone=backbone), entry, 0)
    learner = learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    class_rows = [(labels == c).nonzero()[0] for c in range(int(labels.max()) + 1)]
    episodes = balanced_episodes(class_rows, WAYS, SHOTS, QUERIES, EPISODES, numpy_generator(0, "speed"))
    floats = normalise(images, entry.mean, entry.std).contiguous()
    # The peers' network is the same one as they would have it, in torch's own memory order.
    theirs = copy.deepcopy(learner.backbone).to(memory_format=torch.contiguous_format)
    peers = episodes[:PEER_EPISODES]

    def ours(m: str | None, part: Episodes = episodes) -> float:
        transforms = transform_set(m) if m else IDENTITY
        features, rows = embed_episodes(learner, images, part, transforms, entry)
        return float(score_episodes(learner, features, rows, "aggregated" if m else "single", 20).accuracy.mean())

    references = []
    if peer("easyfsl"):
        loop = _Easyfsl(theirs, floats, labels.tolist(), peers)
        references.append(("easyfsl evaluate", loop, PEER_EPISODES))
    if peer("learn2learn"):
        references.append(("learn2learn loop", _Learn2learn(theirs, floats, peers), PEER_EPISODES))
    expected = ours(None, peers)
    for what, function, _ in references:
        got = function()
        # Their distance is not squared, or not divided: the same argmax but for rounding of near ties.
        if abs(got - expected) > 2e-3:
            sys.exit(f"{what} scores {got:.4f} on the same episodes, slabench {expected:.4f}: not the same evaluation")
    # Once as the peers' users run them, on glibc's default heap; then everything on the kept one, turn by turn.
    alone = {what: rates_of(function, units, 3) for what, function, units in references}
    keep_heap()
    note = f"{backbone}, {name}, 5-way 5-shot, float32"
    rows = compare("evaluation", ("slabench single", lambda: ours(None), EPISODES), references, "episodes/s", 3, note)
    mine = rates_of(lambda: ours(None), EPISODES, 3)
    rows += [against(row, mine, f"{row.reference}, default heap", alone[row.reference]) for row in rows]
    if not rows:
        return []
    frozen = _frozen(learner, images, episodes, entry)
    rows.append(against(rows[0], rates_of(frozen, EPISODES, 3), references[0][0], alone[references[0][0]]))
    rows[-1] = replace(rows[-1], ours="slabench single, features embedded before")
    return rows + compare(
        "evaluation", ("slabench aggregated over 4 turns", lambda: ours("rotation"), EPISODES), references[:1],
        "episodes/s", 3, note + "; the peer scores plain images only",
    )  # fmt: skip


def _frozen(
    learner: EpisodicLearner, images: torch.Tensor, episodes: Episodes, entry: DatasetInfo
) -> Callable[[], object]:
    """The scoring alone."""
    features, rows = embed_episodes(learner, images, episodes, IDENTITY, entry)
    return lambda: score_episodes(learner, features, rows, "single", 20)


class _Easyfsl:
    """`easyfsl.utils.evaluate` with PrototypicalNetworks, on given episodes instead of drawn ones."""

    def __init__(self, backbone: nn.Module, images: torch.Tensor, labels: list[int], episodes: Episodes) -> None:
        from easyfsl.methods import PrototypicalNetworks

        dataset = _Pixels(images, labels)
        collate = easyfsl_sampler(dataset, 1).episodic_collate_fn  # type: ignore[attr-defined]
        self.loader = DataLoader(dataset, batch_sampler=_Given(episodes), collate_fn=collate)
        self.model = PrototypicalNetworks(backbone)

    def __call__(self) -> float:
        from easyfsl.utils import evaluate

        return float(evaluate(self.model, self.loader, device="cpu", use_tqdm=False))


class _Given:
    def __init__(self, episodes: Episodes) -> None:
        self.lists = [rows.flatten().tolist() for rows in episodes.rows]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.lists)

    def __len__(self) -> int:
        return len(self.lists)


class _Learn2learn:
    """The test loop of learn2learn's ProtoNet examples with its PrototypicalClassifier; in eval mode, unlike some of them."""

    def __init__(self, backbone: nn.Module, images: torch.Tensor, episodes: Episodes) -> None:
        self.model, self.images, self.episodes = backbone, images, episodes

    def __call__(self) -> float:
        from learn2learn.nn import PrototypicalClassifier

        self.model.eval()
        total = 0.0
        labels = torch.arange(WAYS)
        with torch.no_grad():
            for rows in self.episodes.rows:
                features = self.model(self.images[rows.flatten()]).view(WAYS, SHOTS + QUERIES, -1)
                support, query = features[:, :SHOTS].flatten(0, 1), features[:, SHOTS:].flatten(0, 1)
                classifier = PrototypicalClassifier(support, labels.repeat_interleave(SHOTS))
                right = classifier(query).argmax(1) == labels.repeat_interleave(QUERIES)
                total += float(right.float().mean())
        return total / len(self.episodes)


if __name__ == "__main__":
    start = time.perf_counter()
    main(measure)
    print(f"{time.perf_counter() - start:.0f} s")
