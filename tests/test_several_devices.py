"""Several processes train and score one trial as one process does: weights, records, errors, kills, signals.

What they are held against is the same command in one process. The tolerances are of float32: sums are added up in another order.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed
from processes import here
from teams import finish_team, start_team
from tiny_recipes import tiny_fewshot
from torch import nn

from slabench.backbones import Share, draw
from slabench.backbones.fewshot import resnet12_slim
from slabench.backbones.synchronised import SynchronisedBatchNorm, synchronise
from slabench.core import team
from slabench.core.errors import UsageError
from slabench.core.team import Team
from slabench.core.torchrun import Launch, launched
from slabench.data.augment import BatchAugment
from slabench.recipes import AnyRecipe, load_recipe
from slabench.records.store import ResultStore
from slabench.suites import dividing, fewshot, suite_of
from slabench.training.crew import own_device

FEWSHOT = """
suite = "fewshot"
data.dataset = "glyphs"
protocol = {shots = 1, queries = 3, episodes = 20}
train = {queries = 2, steps = 3, precision = "float32", jitter = 0.4, optimizer = "sgd", lr = 0.02}
select = {points = 1, episodes = 6}
[[variants]]
name = "sla"
sla.objective = "sla"
[[variants]]
name = "svm"
model.head = "metaoptnet-svm"
train.label_smoothing = 0.1
[[variants]]
name = "pairs"
sla.objective = "rotated-classes"
[[variants]]
name = "dropblock"
train.steps = 1
model.backbone = "resnet12-slim"
[[variants]]
name = "pretrained"
model.learner = "classifier"
train = {batch_size = 16}
sla.objective = "sla"
"""
CLASSIFIER = """
suite = "imbalanced"
data = {dataset = "digits", profile = "exp", ratio = 10, val_images = 5}
model.backbone = "conv4"
train = {steps = 3, batch_size = 31, precision = "float32", lr = 0.01}
select.points = 1
[[variants]]
name = "sd"
model.backbone = "resnet20"
train.steps = 2
sla = {objective = "sla+sd", reduction = "sum"}
[[variants]]
name = "ldam"
loss.name = "ldam"
balance.reweight = "effective"
[[variants]]
name = "mixed"
sla.objective = "mt"
mix.name = "cutmix"
balance.reweight = "inverse"
[[variants]]
name = "da"
sla.objective = "da"
augment = {cutout = 3, policy = "randaugment"}
"""
LONG = [
    *("run", "fewshot", "--dataset", "glyphs", "--shots", "1", "--queries", "5", "--episodes", "20", "--steps", "40"),
    *("--precision", "float32", "--threads", "1", "--set", "train.queries=2", "--seeds", "0"),
    *("--set", "select.points=4", "--set", "select.episodes=5"),
]


Step = tuple[float, dict[str, torch.Tensor]]
"""The loss of a step; gradients, and statistics of batch norms, by name."""


def first_step(recipe: AnyRecipe) -> Step:
    """The first step, with a backbone in float64: a last digit of float32 decides on which side of a ReLU a feature is."""
    suite = suite_of(recipe)
    task = suite.build_task(recipe, 0, suite.prepare(recipe), torch.device("cpu"), None)
    task.module.double()
    # Noise for images: their flat areas are ties to max-pools.
    noise = torch.randint(0, 256, task.images.shape, generator=torch.Generator().manual_seed(1))
    task.images = noise.to(torch.uint8)
    backbone: Any = task.module.backbone
    task.module.embed = lambda images: backbone(images.double())  # type: ignore[union-attr, assignment]
    dividing.divide(task)
    task.module.train()
    result = task.step(0)
    result.loss.backward()
    gradients = {name: weight.grad for name, weight in task.module.named_parameters() if weight.grad is not None}
    team.average(list(gradients.values()))
    return result.loss.item(), gradients | {f"buffer {name}": value for name, value in task.module.named_buffers()}


def in_a_team(rank: int, size: int, folder: Path, recipes: list[AnyRecipe]) -> None:
    store = distributed.FileStore(str(folder / "store"), size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    found = [first_step(recipe) for recipe in recipes]
    if rank == size - 1:
        torch.save(found, folder / "steps.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("glyphs", "narrow_conv4", "narrow_resnets")
class TestAsOneProcess:
    def test_the_gradient_is_that_of_the_whole_batch(self, tmp_path: Path) -> None:
        """Every objective, heads with and without a solver, weights of classes, mixed images, masks; shares of unequal size."""
        recipes: list[AnyRecipe] = []
        for number, text in enumerate((FEWSHOT, CLASSIFIER)):
            (tmp_path / f"{number}.toml").write_text(text, encoding="utf-8")
            recipes += load_recipe(str(tmp_path / f"{number}.toml"))
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=in_a_team, args=(rank, 2, tmp_path, recipes)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
            assert process.exitcode == 0
        several: list[Step] = torch.load(tmp_path / "steps.pt", weights_only=True)
        for recipe, (loss, found) in zip(recipes, several, strict=True):
            alone, expected = first_step(recipe)
            assert loss == pytest.approx(alone, rel=1e-10), recipe.name
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                error = float((found[name] - value).abs().max() / value.abs().max().clamp_min(1e-6))
                assert error < 1e-10, (recipe.name, name)

    @pytest.mark.parametrize("suite", [FEWSHOT, CLASSIFIER])
    def test_the_record_is_that_of_one(self, suite: str, tmp_path: Path) -> None:
        folders = [tmp_path / "one", tmp_path / "several"]
        for folder in folders:
            folder.mkdir()
        recipe = tmp_path / "several.toml"
        recipe.write_text(suite.split("[[variants]]")[0] + "sla.objective = 'sla'\n", encoding="utf-8")
        words = ["run", str(recipe), "--seeds", "0", "--threads", "1"]
        crew = start_team(2, words, folders[1])
        code, output = here(*words, folder=folders[0])
        assert code == 0, output
        (code, output), follower = finish_team(crew)
        assert code == 0, output
        assert follower == (0, "")
        ((alone,), (record,)) = (ResultStore(folder / "results").records() for folder in folders)
        assert record.key == alone.key
        assert record.environment["processes"] == {"count": 2, "backend": "gloo", "batch_norm": "synchronised"}
        assert "processes" not in alone.environment
        assert record.cost is not None
        assert alone.cost is not None
        assert record.cost.images_seen == alone.cost.images_seen
        for own, other in zip(record.scores, alone.scores, strict=True):
            assert own.n == other.n
            assert own.value == pytest.approx(other.value, abs=0.02)
        for at, at_alone in zip(record.curve, alone.curve, strict=True):
            assert at.loss == pytest.approx(at_alone.loss, rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("glyphs")
class TestWhatEndsIt:
    def test_killed_interrupted_and_finished_by_one(self, tmp_path: Path) -> None:
        """Two processes of which one is killed, two that are interrupted, one that finishes: each goes on where the last was."""
        rarely = {"SLABENCH_CHECKPOINT_SECONDS": "3600"}  # after validations alone, and when it ends
        words = [*LONG, "--set", "train.lr=0.0001"]
        crew = start_team(2, words, tmp_path, **rarely)
        assert (validated := step_after(tmp_path, 0)) >= 10
        time.sleep(0.2)
        crew[1].kill()
        begin = time.monotonic()
        (code, output), (killed, _) = finish_team(crew)
        assert time.monotonic() - begin < 20
        assert (code, killed) == (130, -signal.SIGKILL), output
        assert "another process of this trial is gone" in output
        assert "the state is saved" in output
        at_kill = step_after(tmp_path, 0)
        assert validated <= at_kill < 40
        assert not list((tmp_path / "results").rglob("seed0-*.json"))

        crew = start_team(2, words, tmp_path, **rarely)
        assert step_after(tmp_path, at_kill) > at_kill
        for process in crew:
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)  # torchrun passes on what the terminal has sent already
        ended = finish_team(crew)
        assert [code for code, _ in ended] == [130, 130], ended
        assert "the state is saved" in ended[0][1]
        by_two = step_after(tmp_path, at_kill)
        assert at_kill < by_two < 40

        code, output = here(*words, folder=tmp_path)
        assert code == 0, output
        assert f"continuing at step {by_two}" in output
        (record,) = ResultStore(tmp_path / "results").records()
        assert record.environment["processes"] == {"count": 1, "steps": {"2": by_two, "1": 40 - by_two}}
        assert list((tmp_path / "results" / "checkpoints").iterdir()) == []
        (tmp_path / "undisturbed").mkdir()
        code, output = here(*words, folder=tmp_path / "undisturbed")
        assert code == 0, output
        (alone,) = ResultStore(tmp_path / "undisturbed" / "results").records()
        assert record.key == alone.key
        for own, other in zip(record.curve, alone.curve, strict=True):
            assert (own.step, own.images_seen) == (other.step, other.images_seen)
            assert own.loss == pytest.approx(other.loss, rel=1e-3)

    @pytest.mark.usefixtures("registries")
    def test_an_error_in_one_process_fails_its_trial_alone(self, tmp_path: Path) -> None:
        """Rank 1 fails in the midst of a training step of seed 0, rank 0 while it scores seed 1; seed 2 is run to its end."""
        plugin = tmp_path / "own.py"
        plugin.write_text(PLUGIN, encoding="utf-8")
        words = ["--plugin", str(plugin), *LONG, "--head", "fails-twice", "--steps", "8"]
        words[words.index("--seeds") + 1] = "0,1,2"
        (code, output), follower = finish_team(start_team(2, words, tmp_path))
        assert code == 1, output
        assert follower == (0, "")
        done = {record.seed: record for record in ResultStore(tmp_path / "results").records()}
        assert {seed: record.status for seed, record in done.items()} == {0: "failed", 1: "failed", 2: "done"}
        for seed, rank in ((0, 1), (1, 0)):
            problem = f"rank {rank} of 2 processes: OutOfMemoryError: only here (own.py, line 17)"
            assert done[seed].error == problem
            assert problem in output
        (tmp_path / "alone").mkdir()
        words[words.index("--seeds") + 1] = "2"
        code, output = here(*words, folder=tmp_path / "alone")
        assert code == 0, output
        (alone,) = ResultStore(tmp_path / "alone" / "results").records()
        assert alone.key == done[2].key
        assert [point.loss for point in done[2].curve] == pytest.approx([point.loss for point in alone.curve], rel=1e-3)


# A head that fails in rank 1 in the second step, and later in rank 0 where nothing is trained.
PLUGIN = """
import os
import slabench
import torch

from slabench.heads.metric import prototype_logits

steps = 0

def logits(support, labels, query, n):
    global steps
    steps += torch.is_grad_enabled()
    where = os.environ.get("RANK")
    if (where == "1" and steps == 2) or (where == "0" and os.path.exists("failed-1") and not torch.is_grad_enabled()):
        if not os.path.exists(f"failed-{where}"):
            open(f"failed-{where}", "w").close()
            raise torch.OutOfMemoryError("only here")
    return prototype_logits(support, labels, query, n)

slabench.HEADS.add("fails-twice", slabench.Head("fails-twice", logits, True), "fails twice")
"""


def step_after(folder: Path, step: int, seconds: float = 60) -> int:
    """The step of the checkpoint, once it is later than `step`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for path in (folder / "results" / "checkpoints").glob("*.safetensors"):
            head = path.read_bytes()
            size = int.from_bytes(head[:8], "little")
            state: dict[str, Any] = json.loads(json.loads(head[8 : 8 + size])["__metadata__"]["slabench"])
            if state["progress"]["step"] > step:
                return int(state["progress"]["step"])
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint later than step {step}")


class TestShares:
    def test_masks_of_a_share_are_those_of_the_whole_batch(self) -> None:
        network = resnet12_slim(32).train()
        network.set_step(40_000)
        maps = [torch.ones(7, block.norms[0].num_features, 8, 8) for block in network.blocks]  # type: ignore[union-attr, index]

        def masks(first: int, rows: int, share: Share | None) -> list[torch.Tensor]:
            network.set_noise(torch.Generator().manual_seed(3))
            network.set_share(share)
            return [block._mask(x[first : first + rows]) for block, x in zip(network.blocks, maps, strict=True)]  # type: ignore[operator]

        whole = masks(0, 7, None)
        parts = [masks(first, rows, Share(first, 7)) for first, rows in ((0, 4), (4, 3))]
        for mask, *own in zip(whole, *parts, strict=True):
            assert 0 < float((mask == 0).float().mean()) < 1
            assert torch.equal(mask, torch.cat(own))
        drawn = [draw((rows, 2), torch.Generator().manual_seed(1), Share(first, 5)) for first, rows in ((0, 3), (3, 2))]
        assert torch.equal(torch.cat(drawn), torch.rand(5, 2, generator=torch.Generator().manual_seed(1)))

    @pytest.mark.parametrize(
        "settings",
        [
            {"crop_padding": 4, "flip": True, "jitter": 0.4},
            {"crop_padding": 4, "flip": True, "jitter": 0, "cutout": 6},
            {"crop_padding": 4, "flip": True, "jitter": 0, "cutout": 6, "policy": "randaugment"},
            {"crop_padding": 0, "flip": True, "jitter": 0.4, "resized_crop": 8},
        ],
    )
    def test_an_image_is_augmented_alike_in_a_share(self, settings: dict[str, Any]) -> None:
        augment = BatchAugment(**settings, mean=(120, 120, 120), std=(60, 60, 60))
        images = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        whole = augment(images, torch.Generator().manual_seed(1))
        parts = [augment(images, torch.Generator().manual_seed(1), rows) for rows in (slice(0, 3), slice(3, 5))]
        assert torch.equal(whole, torch.cat(parts))
        assert len(augment(images, torch.Generator().manual_seed(1), slice(5, 5))) == 0

    def test_batch_norms_keep_their_weights_and_names(self) -> None:
        network = resnet12_slim(32)
        before = {name: value.data_ptr() for name, value in network.state_dict().items()}
        synchronise(network, torch.device("cpu"))
        assert {name: value.data_ptr() for name, value in network.state_dict().items()} == before
        norms = [part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        assert len(norms) == 16
        assert all(isinstance(norm, SynchronisedBatchNorm) for norm in norms)


UNDER = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


class TestUnderTorchrun:
    def test_what_it_tells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert launched() is None
        for name, value in UNDER.items():
            monkeypatch.setenv(name, value)
        assert launched() == Launch(0, 2, 0)
        monkeypatch.setenv("WORLD_SIZE", "1")
        assert launched() is None
        for wrong in ("2", "-1", "first"):
            monkeypatch.setenv("RANK", wrong)
            with pytest.raises(UsageError, match=r"RANK|numbers"):
                launched()

    def test_only_run_shares_work_and_no_executor_beside_it(self, tmp_path: Path) -> None:
        code, output = here("list", "heads", folder=tmp_path, **UNDER)
        assert code == 2
        assert "only `run` shares its work" in output
        words = ("run", "fewshot", "--dataset", "glyphs", "--jobs", "2")
        code, output = here(*words, folder=tmp_path, **UNDER)
        assert code == 2
        assert "an executor starts its own" in output
        code, output = here(*words, folder=tmp_path, **(UNDER | {"RANK": "1"}))
        assert (code, output) == (2, "")  # the first process has said it

    @pytest.mark.parametrize(
        ("name", "count", "problem"), [("cuda:1", 2, "is one device"), ("cuda", 1, "torch sees 1")]
    )
    def test_each_process_has_a_device_of_its_own(
        self, name: str, count: int, problem: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        with pytest.raises(UsageError, match=problem):
            own_device(name, Launch(1, 2, 1))
        assert own_device("cpu", Launch(1, 2, 1)) == "cpu"
        assert own_device("cuda", Launch(0, 2, 0)) == "cuda:0"

    @pytest.mark.usefixtures("glyphs")
    def test_what_cannot_be_divided_is_refused_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dividing, "current", lambda: Team(0, 2))
        adapted = fewshot.build_task(*tiny_parts(model__learner="maml"))
        with pytest.raises(dividing.UndividedError, match="learner maml"):
            dividing.divide(adapted)
        task = fewshot.build_task(*tiny_parts())
        monkeypatch.setattr(type(task.module.backbone), "set_noise", lambda self, generator: None)  # type: ignore[union-attr]
        with pytest.raises(dividing.UndividedError, match="backbone conv4 draws masks"):
            dividing.divide(task)


def tiny_parts(**changes: object) -> tuple[Any, ...]:
    """The arguments of `build_task`."""
    recipe = tiny_fewshot(**changes)
    return recipe, 0, fewshot.prepare(recipe), torch.device("cpu"), None
