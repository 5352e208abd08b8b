"""The last block of a frozen network on cached maps: at first the network itself, then trained and drawn back to it."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_maps import VIEWS, Tail, classifier, embed_set, few_shot, own_network, ran
from tiny_recipes import StopsAtAPoint
from torch import nn

from slabench import runner
from slabench.core.errors import DataError, IntegrityError, UsageError
from slabench.data import load
from slabench.data.loading import load_images
from slabench.embedders import networks, open_features
from slabench.embedders.inputs import open_inputs
from slabench.embedders.store import BLOCK, MAPS, set_folder
from slabench.executors.resources import block_activations
from slabench.learners.adapter import adapted, build_adapter
from slabench.learners.last_block import LastBlock
from slabench.posthoc import methods
from slabench.recipes import load_recipe
from slabench.records.outputs import load_outputs
from slabench.records.store import ResultStore
from slabench.suites import suite_of
from slabench.suites.fewshot.score_heads import score_heads
from slabench.training import loop


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an entry for another library of networks is."""
    monkeypatch.setattr(networks, "_TAILS", {"own": lambda name: Tail()})


@pytest.fixture(scope="module")
def _made(made_once: Callable[[str, Callable[[Path], object]], Path], _drawn_glyphs: Path) -> Path:
    def make(folder: Path) -> None:
        shutil.copytree(_drawn_glyphs, folder, dirs_exist_ok=True)
        for dataset in ("glyphs", "digits"):
            embed_set(dataset, data_folder=folder)

    return made_once("own-maps", make)


@pytest.fixture
def sets(own: None, _own_data_folder: None, _made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with the sets `own` of glyphs and digits, shared by the tests that only read it."""
    monkeypatch.setenv("SLABENCH_DATA", str(_made))
    return _made


def task_of(recipe: Any) -> Any:
    suite = suite_of(recipe)
    return suite.build_task(recipe, 0, suite.prepare(recipe), torch.device("cpu"), None)


# What it is at first


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(("dtype", "within"), [("float32", 1e-5), ("float16", 4e-3)])
def test_untrained_it_gives_the_features_of_the_whole_network(glyphs: Path, dtype: str, within: float) -> None:
    embed_set("glyphs", dtype=dtype, splits=["test"])
    images = load("glyphs", "test").images[:30]
    inputs = open_inputs("own", "glyphs", "test", "last-block")
    block = build_adapter("last-block", 0, inputs.of.D, 0, inputs.maps)
    found = adapted(block, torch.from_numpy(inputs.values(np.arange(30))))
    net = own_network()
    with torch.no_grad():
        expected = net.module(VIEWS.apply(net.inputs(torch.from_numpy(np.array(images))))).unflatten(0, (30, 4))
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=within, atol=within)
    torch.testing.assert_close(
        torch.from_numpy(inputs.of.features(range(30))).float(), expected, rtol=within, atol=within
    )
    assert {name for name, _ in block.named_parameters()} == {
        f"tail.{name}.parametrizations.{kind}.original" for name in ("conv", "norm") for kind in ("weight", "bias")
    }
    assert all(not bool(change.any()) for change in block.parameters())


# What training makes of it


@pytest.mark.usefixtures("sets")
def test_weights_are_trained_and_statistics_stay() -> None:
    recipe = few_shot(sla__objective="sla", select__points=0)
    task = task_of(recipe)
    block: LastBlock = task.module.backbone
    pretrained = own_network().module.tail
    assert isinstance(pretrained, Tail)
    loop.fit(task, task.optimisation, recipe.select, "0" * 64)
    tail: Any = block.tail
    assert not tail.norm.training
    assert torch.equal(tail.norm.running_mean, pretrained.norm.running_mean)
    assert torch.equal(tail.norm.running_var, pretrained.norm.running_var)
    for name in ("conv", "norm"):
        trained, was = getattr(tail, name), getattr(pretrained, name)
        change = trained.parametrizations.weight.original.detach()
        assert bool(change.any())
        torch.testing.assert_close(trained.weight.detach(), was.weight.detach() + change)
    # Decay alone: v is halved and halved again, whatever w_0 is.
    optimizer = torch.optim.SGD(block.parameters(), lr=0.5, weight_decay=1.0)
    before = tail.conv.weight.detach() - pretrained.conv.weight.detach()
    for weight in block.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(
        tail.conv.weight.detach() - pretrained.conv.weight.detach(), before / 2, atol=1e-6, rtol=1e-3
    )


@pytest.mark.usefixtures("sets")
@pytest.mark.parametrize("learner", ["classifier", "episodic"])
def test_few_shot_trials(tmp_path: Path, learner: str) -> None:
    record = ran(few_shot(model__learner=learner, sla__objective="sla"), tmp_path)
    assert record.recipe["model"]["adapter"] == "last-block"
    assert record.recipe["model"]["backbone"] == "own+last-block"
    scoring = score_heads(record.key[:12], ["protonet", "logistic"], results=tmp_path, save=True)
    found = {one.head: one.record for one in scoring.results}
    assert [s.value for s in found["protonet"].scores] == [s.value for s in record.scores]


@pytest.mark.usefixtures("sets")
@pytest.mark.parametrize(
    ("suite", "changes"),
    [
        ("imbalanced", {"loss__name": "ldam", "balance__reweight": "drw", "sla__objective": "sla+sd"}),
        ("supervised", {"sla__objective": "mt"}),
        ("supervised", {"sla__objective": "da"}),
    ],
)
def test_classifiers(tmp_path: Path, suite: str, changes: dict[str, Any]) -> None:
    record = ran(classifier(suite, **changes), tmp_path)
    path = ResultStore(tmp_path).path(record).parent / str(record.outputs_file)
    outputs = load_outputs(path, str(record.outputs_sha256))
    made = methods.logits(outputs, "test")  # features through the trained block, from the maps
    assert outputs.test_logits.keys() == made.keys()
    assert all(torch.allclose(made[name], kept, atol=2e-3) for name, kept in outputs.test_logits.items())
    raw = torch.from_numpy(open_features("own", "digits", "image-test").features()).float()
    assert not torch.allclose(outputs.splits["test"].features.float(), raw, atol=1e-3)
    images = len(load_images("digits", None)[2])
    assert path.stat().st_size < images * 4 * int(np.prod((4, 5, 5))) * 2 / 4  # far below the maps


@pytest.mark.usefixtures("sets")
def test_an_interrupted_run_ends_with_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = classifier(sla__objective="sla")
    whole = ran(recipe, tmp_path / "whole")

    monkeypatch.setenv("SLABENCH_CHECKPOINT_SECONDS", "0")
    with pytest.raises(KeyboardInterrupt):
        runner.run(recipe, results=tmp_path / "parts", listener=StopsAtAPoint())  # type: ignore[arg-type]
    parts = ran(recipe, tmp_path / "parts")
    assert (parts.key, parts.outputs_sha256, parts.scores) == (whole.key, whole.outputs_sha256, whole.scores)


@pytest.mark.usefixtures("sets")
@pytest.mark.parametrize(("name", "dataset", "trials"), [("fewshot", "glyphs", 7), ("imbalanced", "digits", 10)])
def test_the_recipes_can_be_planned_and_keep_their_control(
    tmp_path: Path, name: str, dataset: str, trials: int
) -> None:
    recipes = load_recipe(f"{name}/last-block", {"data.dataset": dataset, "model.embedder": "own"})
    keys = {trial.key for one in recipes for trial in runner.plan(one, [0], tmp_path)}
    assert len(recipes) == len(keys) == trials
    assert {one.model.adapter for one in recipes if not one.name.endswith("/frozen")} == {"last-block"}
    assert [one.name for one in recipes if one.model.adapter == "none"] == ["fewshot/last-block/frozen"][
        : name == "fewshot"
    ]


@pytest.mark.usefixtures("sets")
def test_memory_that_a_trial_asks_for_counts_the_block() -> None:
    recipe = few_shot()
    # In float32: the convolution and the norm, 6 maps of 3 x 3 each, of one of 4 x 5 x 5.
    assert block_activations(suite_of(recipe).prepare(recipe)) == 4 * 2 * 6 * 3 * 3
    recipe = few_shot(model__adapter="linear")
    assert block_activations(suite_of(recipe).prepare(recipe)) == 0


@pytest.mark.usefixtures("sets")
def test_variants_of_one_command_read_what_they_need(tmp_path: Path) -> None:
    """Raw features and the last block, which share nothing of what is read."""
    short = {"data.dataset": "glyphs", "model.embedder": "own", "model.head": "protonet", "train.steps": 1}
    short |= {"protocol.episodes": 5, "protocol.queries": 3, "select.points": 1, "select.episodes": 2}
    frozen, *_, trained = load_recipe("fewshot/last-block", short)
    outcomes = list(runner.run([frozen, trained], [0], results=tmp_path))
    assert [one.error for one in outcomes] == [None, None]


# The set


@pytest.mark.usefixtures("own")
def test_other_adapters_take_the_features_of_a_set_with_maps_and_their_keys_stay(
    glyphs: Path, sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_set("glyphs", maps=False, data_folder=glyphs)
    recipe, keys = few_shot(model__adapter="mlp"), []
    suite = suite_of(recipe)
    for folder in (glyphs, sets):
        monkeypatch.setenv("SLABENCH_DATA", str(folder))
        keys.append(suite.trial_key(recipe, 0, suite.prepare(recipe)))
    assert keys[0] == keys[1]
    recipe = few_shot()
    assert suite.trial_key(recipe, 0, suite.prepare(recipe)) not in keys


@pytest.mark.usefixtures("own")
def test_a_set_without_maps_is_refused_and_asked_for_maps_too(glyphs: Path) -> None:
    embed_set("glyphs", maps=False)
    recipe = few_shot()
    with pytest.raises(UsageError, match="'own' of glyphs has no maps") as error:
        suite_of(recipe).prepare(recipe)
    assert "--maps" in str(error.value.remedy)
    assert "--adapter linear" in str(error.value.remedy)
    with pytest.raises(UsageError, match="are there without maps"):
        embed_set("glyphs")
    embed_set("glyphs", name="other", splits=[])
    with pytest.raises(UsageError, match="are there with maps before tail"):
        embed_set("glyphs", name="other", maps=False)


@pytest.mark.usefixtures("own")
def test_what_was_interrupted_goes_on_and_is_what_it_would_have_been(glyphs: Path) -> None:
    embed_set("glyphs", name="whole", splits=["val"])
    seen = 0

    def stop(n: int) -> None:
        nonlocal seen
        seen += n
        if seen > 400:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_set("glyphs", name="parts", splits=["val"], done=stop)
    embed_set("glyphs", name="parts", splits=["val"])
    for file in (MAPS, BLOCK):
        assert (set_folder("whole", "glyphs") / file).read_bytes() == (
            set_folder("parts", "glyphs") / file
        ).read_bytes()


@pytest.mark.usefixtures("own")
def test_what_would_fill_the_disk_is_refused(glyphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    # 4 views, 6 features and maps of 4 x 5 x 5 in float16
    need = len(load("glyphs", "test")) * 4 * (6 + 100) * 2
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10 * need, 0, need - 1))
    with pytest.raises(DataError, match=r"features of [\d,]+ images take"):
        embed_set("glyphs", splits=["test"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10 * need, 0, need))
    embed_set("glyphs", splits=["test"])


@pytest.mark.usefixtures("own")
def test_damage_is_told(glyphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed_set("glyphs", splits=["test"])
    path, kept = set_folder("own", "glyphs"), set_folder("kept", "glyphs")
    shutil.copytree(path, kept)

    def opened() -> None:
        inputs = open_inputs("own", "glyphs", "test", "last-block")
        build_adapter("last-block", 0, inputs.of.D, 0, inputs.maps)

    def damaged(file: str, change: Callable[[bytes], bytes]) -> None:
        (path / "new").write_bytes(change((kept / file).read_bytes()))
        (path / "new").replace(path / file)  # another file under its name, as a copy from elsewhere is

    def flipped(data: bytes) -> bytes:
        row = int(open_features("own", "glyphs", "test").rows[0])
        place = len(data) - np.load(kept / MAPS, mmap_mode="r")[row:].nbytes
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]

    opened()
    for file, change, told in (
        (MAPS, lambda data: data[:-1000], "not a whole array"),
        (MAPS, flipped, "rows of group"),
        (BLOCK, lambda data: data[:-1] + bytes([data[-1] ^ 1]), "the manifest says"),
        (BLOCK, lambda data: data[:100], "the manifest says"),
    ):
        damaged(file, change)
        with pytest.raises(IntegrityError, match=told):
            opened()
        damaged(file, lambda data: data)
    (path / BLOCK).unlink()
    with pytest.raises(IntegrityError, match=r"block\.safetensors"):
        opened()
    damaged(BLOCK, lambda data: data)
    monkeypatch.setattr(networks, "_TAILS", {"own": lambda name: nn.Linear(2, 3)})
    with pytest.raises(DataError, match="does not fit the last block of own:net"):
        opened()
    monkeypatch.setattr(networks, "_TAILS", {"timm": lambda name: None})
    with pytest.raises(UsageError, match="the last block of own:net cannot be made here"):
        opened()
