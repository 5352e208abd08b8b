"""Images that do not fit into memory stay in their file: what is drawn from them is the same, and no copy of all is made."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_recipes import tiny_classifier, tiny_fewshot

from slabench import suites
from slabench.core.memory import free_memory_mb
from slabench.core.seeding import numpy_generator
from slabench.data import mapped
from slabench.data.catalog import info
from slabench.data.imageset import ImageSet
from slabench.data.mapped import MappedRows
from slabench.data.mapped_tensor import MappedTensor
from slabench.episodes.sampler import EpisodeSampler, gather
from slabench.evaluation.episodes import embed, embed_episodes
from slabench.learners import build_learner
from slabench.recipes.classifier import ClassifierRecipe
from slabench.recipes.fewshot import Model, Recipe
from slabench.runner import run
from slabench.sla.transforms import IDENTITY
from slabench.suites import on_device

CPU = torch.device("cpu")
N, SIDE, CLASSES = 21_000, 32, 10  # 64 MB


def anonymous_mb() -> float:
    """What is this process's own, and not the page cache of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """A memory map of 64 MB, each image with its own number in its first bytes."""
    path = tmp_path_factory.mktemp("mapped") / "images.npy"
    stored = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(N, SIDE, SIDE, 3))
    stored.reshape(N, -1)[:, :4] = np.arange(N, dtype="<u4").view(np.uint8).reshape(N, 4)
    stored.flush()
    labels = np.arange(N) // (N // CLASSES)
    names = tuple(f"class{label}" for label in range(CLASSES))
    parts = (np.arange(N) % 3 == 0).astype(np.uint8)  # mixed within the classes, as in a store
    images = np.lib.format.open_memmap(path, mode="r")
    return ImageSet("mapped", images, labels, names, "d" * 64, "", parts, np.full(N, -1, np.int32))


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "free_memory_mb", lambda: 20)


def numbers(images: torch.Tensor) -> list[int]:
    return images.reshape(len(images), -1)[:, :4].numpy().copy().view("<u4")[:, 0].tolist()


@pytest.mark.usefixtures("no_room")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's memory")
def test_a_split_is_sampled_gathered_and_embedded_without_a_copy_of_it(whole: ImageSet) -> None:
    learner = build_learner(Model(backbone="conv4"), info("fc100"), 0)
    embed(learner, torch.zeros(256, SIDE, SIDE, 3, dtype=torch.uint8), IDENTITY, info("fc100"))  # its own buffers
    before = anonymous_mb()
    train = whole.select_part(0)
    some = train.select_classes([f"class{label}" for label in (7, 2, 9, 4, 0, 1)], "some")
    assert isinstance(some.images, MappedRows)
    images = on_device(some.images, CPU)
    sampler = EpisodeSampler(some.class_rows(), 5, 5, 15, numpy_generator(0, "test"))
    episodes = sampler.sample(2)
    picked = gather(images, episodes.rows.reshape(-1))
    features, rows = embed_episodes(learner, images, episodes, IDENTITY, info("fc100"))
    step = images.index_select(0, torch.arange(len(images))[::99])
    grown = anonymous_mb() - before
    assert (features.shape[1:], len(rows), len(step)) == ((1, learner.backbone.feature_dim), 2, -(-len(some) // 99))
    expected = [n for label in (7, 2, 9, 4, 0, 1) for n in range(N) if n % 3 and n // (N // CLASSES) == label]
    assert numbers(picked) == [expected[row] for row in episodes.rows.reshape(-1).tolist()]
    assert grown < 16, "a copy of the split would be 26 MB, and of the training images 43"


WAYS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gathered": lambda images: gather(images, torch.tensor([[3, 1], [0, 3]])),
    "selected": lambda images: images.index_select(0, torch.tensor([5, 5, 2])),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_read_from_the_file_is_what_memory_holds(
    whole: ImageSet, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    rows = np.array([900, 3, 20_000, 7, 1, 4])
    held = on_device(whole.images, CPU, rows)
    assert type(held) is torch.Tensor
    monkeypatch.setattr(mapped, "free_memory_mb", lambda: 0)
    kept = on_device(whole.images[:1000], CPU, np.array([900, 3, 2, 7, 1, 4]))
    assert type(kept) is torch.Tensor, "what is no megabyte is copied, whatever is free"
    monkeypatch.setattr(mapped, "too_large", lambda nbytes: True)
    left = on_device(whole.images, CPU, rows)
    assert isinstance(left, MappedTensor)
    assert left.shape == held.shape
    assert torch.equal(WAYS[way](left), WAYS[way](held))
    assert torch.equal(left[1:3].read(), held[1:3])


@pytest.mark.usefixtures("no_room")
def test_features_are_those_of_images_in_memory(whole: ImageSet) -> None:
    learner = build_learner(Model(backbone="conv4"), info("fc100"), 0)
    left, rows = on_device(whole.images, CPU), torch.arange(0, N, 2000)
    assert isinstance(left, MappedTensor)
    held = torch.from_numpy(np.array(whole.images[rows.numpy()]))
    found = embed(learner, left[rows], IDENTITY, info("fc100"))  # type: ignore[arg-type]
    assert torch.equal(found, embed(learner, held, IDENTITY, info("fc100")))


def test_a_limit_of_the_shell_is_known() -> None:
    free = free_memory_mb()
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(
        next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize")).split()[
            1
        ]
    )
    try:
        resource.setrlimit(resource.RLIMIT_AS, ((used << 10) + (300 << 20), before[1]))
        limited = free_memory_mb()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert limited is not None
    assert 200 <= limited <= 300
    assert free is None or free > 0


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_conv4", "narrow_resnets")
@pytest.mark.parametrize("recipe", [tiny_fewshot(), tiny_classifier()], ids=["episodes", "a classifier"])
def test_a_trial_gives_the_same_record(
    recipe: Recipe | ClassifierRecipe, tmp_path: Path, glyphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (held,) = run([recipe], [0], results=tmp_path / "held")
    left: list[int] = []
    monkeypatch.setattr(mapped, "too_large", lambda nbytes: not left.append(nbytes))
    monkeypatch.setattr(suites, "too_large", lambda nbytes: True)
    (kept,) = run([recipe], [0], results=tmp_path / "kept")
    assert left, "images were left in their file"
    assert kept.record.scores == held.record.scores
    assert kept.record.outputs_sha256 == held.record.outputs_sha256
