"""learn2learn's backbones behind our contract, the adapter between our episodes and its Taskset, and what happens without it."""

from __future__ import annotations

import importlib.util
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from slabench import runner
from slabench.core.errors import UsageError
from slabench.core.registry import BACKBONES
from slabench.core.seeding import fork_for_init, torch_generator
from slabench.data.imageset import ImageSet
from slabench.episodes.learn2learn import EpisodeTasks, episodes_from_taskset, meta_dataset, require_learn2learn
from slabench.episodes.sampler import Episodes, EpisodeSampler
from slabench.recipes import load_recipe

needs_learn2learn = pytest.mark.skipif(
    importlib.util.find_spec("learn2learn") is None,
    reason="learn2learn could not be installed here: scripts/install_learn2learn.sh",
)


def built(name: str, size: int, **settings: Any) -> Any:
    with fork_for_init(0, name):
        net = BACKBONES.get(name)(size, **settings)
        for module in net.modules():  # as after some training: folding must not rest on fresh statistics
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return net


@needs_learn2learn
@pytest.mark.parametrize(
    ("name", "size", "dim"),
    [("l2l-cnn4", 32, 256), ("l2l-cnn4", 84, 1600), ("l2l-resnet12", 32, 2560), ("l2l-resnet12", 84, 640)],
)
def test_features_are_those_of_learn2learn_s_own_module(name: str, size: int, dim: int) -> None:
    from learn2learn.vision.models import CNN4Backbone, ResNet12Backbone

    net = built(name, size).eval()
    theirs = CNN4Backbone() if name == "l2l-cnn4" else ResNet12Backbone(avg_pool=size == 84, dropblock_size=2)
    theirs.load_state_dict(net.net.state_dict())
    images = torch.randn(2, 3, size, size, generator=torch_generator(0, "images"))
    with torch.no_grad():
        expected = theirs.eval()(images)
        assert expected.shape == (2, dim)
        assert net.feature_dim == dim
        assert torch.equal(net(images), expected)
        channels_last = images.to(memory_format=torch.channels_last)
        torch.testing.assert_close(net(channels_last), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
        folded = net.folded()
        torch.testing.assert_close(folded(channels_last), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())  # the original is left as it is


@needs_learn2learn
def test_wrn28_averages_the_map_as_learn2learn_does_at_84_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    from learn2learn.vision.models import wrn28

    # The published width 10 would cost seconds; the code that is compared is the same at width 1.
    monkeypatch.setattr("learn2learn.vision.models.WRN28Backbone", lambda: wrn28.WideResNet(28, 1, dropout_rate=0.0))
    net = built("l2l-wrn28", 84).eval()
    images = torch.randn(1, 3, 84, 84, generator=torch_generator(0, "images"))
    with torch.no_grad():
        torch.testing.assert_close(net(images), net.net(images), rtol=1e-4, atol=1e-5)
        assert net(images[..., :32, :32]).shape == (1, 64)  # learn2learn's own fails on such images


@needs_learn2learn
def test_dropout_draws_from_the_given_generator_and_moves_no_global_state() -> None:
    net = built("l2l-resnet12", 32).train()
    net.set_step(40_000)
    images = torch.randn(2, 3, 32, 32, generator=torch_generator(0, "images"))

    def run(seed: int) -> torch.Tensor:
        net.set_noise(torch_generator(seed, "noise"))
        return net(images).detach()

    state = torch.random.get_rng_state()
    first, again, other = run(0), run(0), run(1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@needs_learn2learn
def test_dropblock_s_rate_follows_the_training_step() -> None:
    """learn2learn counts forward passes; a resumed run must not begin at the first rate again."""
    net = built("l2l-resnet12", 32)
    images = torch.randn(1, 3, 32, 32, generator=torch_generator(0, "images"))
    for block in net._blocks():
        block.DropBlock = _Gamma()
    net.train().set_noise(torch_generator(0, "noise"))
    gammas = []
    for step in (20_000, 7, 20_000):
        net.set_step(step)
        net(images)
        gammas.append(net._blocks()[2].DropBlock.gamma)
    assert gammas[0] == gammas[2]
    # keep = 1 - 0.1 * step/40000, block 2 on a map of 4: gamma = (1 - keep)/4 * 16/9 (Ghiasi et al., eq. 1).
    assert gammas[0] == pytest.approx(0.05 / 4 * 16 / 9)
    assert gammas[1] == pytest.approx(0.1 * 7 / 40_000 / 4 * 16 / 9)


class _Gamma(nn.Module):
    gamma = 0.0

    def forward(self, x: torch.Tensor, gamma: float) -> torch.Tensor:
        self.gamma = gamma
        return x


def pictures(classes: int = 6, each: int = 7) -> ImageSet:
    """Images that are all different; their classes lie in no order."""
    dice = np.random.default_rng(0)
    labels = dice.permutation(np.repeat(np.arange(classes), each)).astype(np.int64)
    n = len(labels)
    return ImageSet(
        name="toy/test",
        images=dice.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8),
        labels=labels,
        class_names=tuple(f"c{i}" for i in range(classes)),
        digest="0" * 64,
        split_digest="",
        parts=np.zeros(n, np.uint8),
        source_positions=np.arange(n, dtype=np.int32),
    )


def drawn(images: ImageSet, n: int = 5) -> Episodes:
    return EpisodeSampler(images.class_rows(), 4, 2, 3, np.random.default_rng(1)).sample(n)


def sets(episodes: Episodes) -> list[dict[int, tuple[list[int], list[int]]]]:
    """Per episode and class, the rows that are supports and the rows that are queries."""
    return [
        {
            int(c): (sorted(s.tolist()), sorted(q.tolist()))
            for c, s, q in zip(episodes.classes[e], episodes.support[e], episodes.query[e], strict=True)
        }
        for e in range(len(episodes))
    ]


@needs_learn2learn
def test_our_episodes_as_learn2learn_s_tasks() -> None:
    from learn2learn.data import partition_task

    images = pictures()
    episodes = drawn(images)
    tasks = EpisodeTasks(images, episodes)
    assert len(tasks) == len(list(tasks)) == 5
    for e, (data, labels) in enumerate(tasks):
        (support, support_labels), (query, query_labels) = partition_task(data, labels, shots=2)
        for found, own, rows in (
            (support, support_labels, episodes.support[e]),
            (query, query_labels, episodes.query[e]),
        ):
            expected = images.images[rows.numpy().reshape(-1)].transpose(0, 3, 1, 2) / np.float32(255)
            np.testing.assert_array_equal(found.numpy(), expected)
            assert own.tolist() == [way for way in range(4) for _ in range(rows.shape[1])]
    assert torch.equal(tasks[1:3][0][0], tasks[1][0])
    assert torch.equal(tasks[-1][0], tasks[4][0])
    with pytest.raises(IndexError):
        tasks[5]
    random.seed(0)
    data, _ = tasks.sample()
    assert any(torch.equal(data, task) for task, _ in tasks)


def test_episodes_of_another_image_set_are_refused() -> None:
    images = pictures()
    with pytest.raises(UsageError, match=r"row 100, and toy/test has 42 images"):
        EpisodeTasks(images, Episodes(torch.full((1, 2, 3), 100), torch.zeros(1, 2), 1))


@needs_learn2learn
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_learn2learn_s_tasks_as_our_episodes(fused: bool, kept: bool) -> None:
    """Both routes give identical supports and queries: our indices, and the tensors that learn2learn's own Taskset returns."""
    from learn2learn.data import Taskset, partition_task
    from learn2learn.data.transforms import ConsecutiveLabels, FusedNWaysKShots, KShots, LoadData, NWays, RemapLabels

    images = pictures()
    dataset = meta_dataset(images)
    draw = [FusedNWaysKShots(dataset, n=4, k=5)] if fused else [NWays(dataset, n=4), KShots(dataset, k=5)]
    transforms = [*draw, LoadData(dataset), RemapLabels(dataset), ConsecutiveLabels(dataset)]
    taskset = Taskset(dataset, transforms, num_tasks=6 if kept else -1)
    state = random.getstate()
    episodes = episodes_from_taskset(taskset, 6, shots=2, seed=3)
    assert random.getstate() == state
    assert (images.labels[episodes.rows.numpy()] == episodes.classes.numpy()[:, :, None]).all()
    assert len(set(episodes.rows[0].flatten().tolist())) == 20
    if not kept:
        assert sets(episodes_from_taskset(taskset, 6, shots=2, seed=3)) == sets(episodes)
        assert sets(episodes_from_taskset(taskset, 6, shots=2, seed=4)) != sets(episodes)
        return
    row_of = {images.images[row].tobytes(): row for row in range(len(images))}

    def rows(data: torch.Tensor) -> list[int]:
        pixels = (data * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [row_of[picture.tobytes()] for picture in pixels]

    for tasks, e in ((source, e) for source in (taskset, EpisodeTasks(images, episodes)) for e in range(6)):
        data, labels = tasks[e]
        (support, support_labels), (query, query_labels) = partition_task(data, labels, shots=2)
        found: dict[int, tuple[list[int], list[int]]] = {}
        for way in range(4):
            own = rows(support[support_labels == way]), rows(query[query_labels == way])
            found[int(images.labels[own[0][0]])] = (sorted(own[0]), sorted(own[1]))
        assert found == sets(episodes)[e]


@needs_learn2learn
def test_meta_dataset_loads_no_image_to_find_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures()
    loaded: list[int] = []
    monkeypatch.setattr("slabench.episodes.learn2learn.LabelledImages.__getitem__", lambda _, row: loaded.append(row))
    dataset = meta_dataset(images)
    assert not loaded
    assert dict(dataset.indices_to_labels) == dict(enumerate(images.labels.tolist()))
    assert {k: sorted(v) for k, v in dataset.labels_to_indices.items()} == {
        c: np.flatnonzero(images.labels == c).tolist() for c in range(6)
    }


@needs_learn2learn
def test_tasks_that_are_no_episodes_are_refused() -> None:
    from learn2learn.data import Taskset
    from learn2learn.data.transforms import FusedNWaysKShots, NWays

    dataset = meta_dataset(pictures())
    few = Taskset(dataset, [FusedNWaysKShots(dataset, n=3, k=2)], num_tasks=2)
    with pytest.raises(UsageError, match=r"task 0 has \[2, 2, 2\] samples of its classes.*more than 2"):
        episodes_from_taskset(few, 1, shots=2, seed=0)
    with pytest.raises(UsageError, match="3 episodes were asked for, and the Taskset keeps 2"):
        episodes_from_taskset(few, 3, shots=1, seed=0)
    whole = Taskset(dataset, [NWays(dataset, n=3)], num_tasks=1)  # every image of a class: 7 each
    assert episodes_from_taskset(whole, 1, shots=2, seed=0).queries == 5


@pytest.fixture
def without_learn2learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "learn2learn", None)


@pytest.mark.usefixtures("without_learn2learn")
def test_without_learn2learn_the_error_says_what_to_type() -> None:
    with pytest.raises(UsageError) as caught:
        require_learn2learn()
    assert "pip install" in caught.value.remedy
    assert "learn2learn==0.2.0" in caught.value.remedy
    assert "scripts/install_learn2learn.sh" in caught.value.remedy
    for name in ("l2l-cnn4", "l2l-resnet12", "l2l-wrn28"):
        with pytest.raises(UsageError, match="needs learn2learn"):
            BACKBONES.get(name)(32)
    recipe = load_recipe("fewshot/standard", {"model.learner": "maml", "data.dataset": "glyphs"})
    with pytest.raises(UsageError, match="needs learn2learn"):
        runner.plan(recipe)  # before any data is touched


@pytest.mark.usefixtures("without_learn2learn")
def test_without_learn2learn_the_command_ends_with_2() -> None:
    from slabench.cli.app import app

    result = CliRunner().invoke(app, ["run", "fewshot/maml", "--dataset", "glyphs"])
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_code == 2
