"""What a protocol claims to have from its authors' code, against formulas written out by hand (docs/parity.md)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import slabench
from slabench import runner
from slabench.backbones.resnet import resnet32
from slabench.core.errors import UsageError
from slabench.core.registry import HEADS
from slabench.core.seeding import torch_generator
from slabench.data import load
from slabench.episodes.sampler import Episodes
from slabench.evaluation import episodes as evaluation
from slabench.evaluation.episodes import embed_augmented, in_place_of_supports, score_episodes
from slabench.learners import EpisodicLearner, build_classifier
from slabench.losses.loss import build_loss, smoothing_as_torch
from slabench.recipes import load_recipe, parse_recipe
from slabench.recipes.classifier import ClassifierRecipe
from slabench.recipes.fewshot import Recipe
from slabench.records.environment import derived_key
from slabench.sla.transforms import transform_set
from slabench.suites import classifier, fewshot
from slabench.suites.fewshot import features as head_features
from slabench.suites.fewshot import score_heads
from slabench.suites.fewshot.scoring import train_augment
from slabench.training.device import exact_float32
from slabench.training.schedule import build_optimizer

CPU = torch.device("cpu")

# ---------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize(("n", "own"), [(5, 0.9), (20, 0.9), (64, 0.9)])
def test_metaoptnets_smoothing_is_spread_over_the_other_classes(n: int, own: float) -> None:
    """Their target: one_hot * (1 - eps) + (1 - one_hot) * eps / (n - 1); torch's would keep 1 - eps + eps/n."""
    logits = torch.randn(9, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(9) % n
    one_hot = functional.one_hot(labels, n).double()
    target = one_hot * own + (1 - one_hot) * (1 - own) / (n - 1)
    theirs = -(target * logits.log_softmax(1)).sum(1)
    smoothing = smoothing_as_torch(1 - own, "others", n)
    got = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(got, theirs)
    loss = replace(build_loss("ce", [3] * n, smoothing=1 - own), smoothing_over="others")
    torch.testing.assert_close(loss(logits, labels).double(), theirs, rtol=1e-5, atol=1e-5)
    assert smoothing_as_torch(0.1, "all", n) == 0.1


def test_too_much_smoothing_is_refused() -> None:
    with pytest.raises(UsageError, match="leaves the true class less"):
        smoothing_as_torch(0.9, "others", 5)
    recipe = load_recipe(
        "fewshot/standard", {"train.label_smoothing": 0.9, "train.smoothing_over": "others", "data.dataset": "glyphs"}
    )[0]
    with pytest.raises(UsageError, match=r"label_smoothing = 0\.9 over the others of 5 ways"):
        fewshot.check(recipe)  # type: ignore[arg-type]


@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize("learner", ["episodic", "classifier"])
def test_a_training_step_smooths_as_the_recipe_says(learner: str) -> None:
    """The loss of one step, with SLA's 5 * 4 or 64 * 4 joint classes, from the logits of the step itself."""
    (recipe,) = load_recipe(
        "fewshot/standard",
        {
            "data.dataset": "glyphs",
            "model.learner": learner,
            "sla.objective": "sla",
            "train.label_smoothing": 0.1,
            "train.smoothing_over": "others",
            "train.batch_size": 4,
            "train.queries": 1,
            "protocol.shots": 1,
        },
    )
    assert isinstance(recipe, Recipe)
    task: Any = fewshot.build_task(recipe, 0, fewshot.prepare(recipe), CPU, None)
    seen: list[Tensor] = []
    name = "logits" if learner == "episodic" else "outputs"
    whole = getattr(task.module, name)

    def spy(*args: Any) -> Any:
        found = whole(*args)
        seen.append(found[0] if learner == "episodic" else found["joint"])
        return found

    setattr(task.module, name, spy)
    got = task.step(0).loss.item()
    z = seen[0].detach().double()
    if learner == "episodic":
        labels = torch.arange(20)
    else:
        labels = (task.labels[task._rows(0)][:, None] * 4 + torch.arange(4)).flatten()
    log_p = z.log_softmax(1)
    own = log_p.gather(1, labels[:, None]).squeeze(1)
    theirs = -(0.9 * own + 0.1 / (z.shape[1] - 1) * (log_p.sum(1) - own)).mean()
    assert got == pytest.approx(theirs.item(), rel=1e-5)


def test_probabilities_of_the_wrapper_have_ldams_scale() -> None:
    """Cosines of 1 and 0 under s = 30 are all but certain; without it softmax gives 0.58 against 0.21."""
    sla = slabench.SLA("rotation2", 3, loss="ldam", counts=[9, 3, 1])
    cosines = torch.zeros(2, 6)
    cosines[0, 0], cosines[1, 1] = 1.0, 1.0  # class 0 under both turns
    certain = 1 / (1 + 2 * math.exp(-30))
    for found in (sla.aggregate(cosines), sla.single_of_views(cosines), sla.single(cosines[:1])):
        assert found[0, 0].item() == pytest.approx(certain)
    plain = slabench.SLA("rotation2", 3)
    assert plain.aggregate(cosines)[0, 0].item() == pytest.approx(math.e / (math.e + 2))


# ---------------------------------------------------------------------------------------------- first weights and colours


def made(layer_init: Any, conv_init: Any, width: int) -> Any:
    return build_classifier(partial(resnet32), 32, {"joint": width}, False, 0, layer_init, conv_init)


def test_the_first_loss_of_slas_linear_layer_is_near_the_log_of_the_classes() -> None:
    """Over 400 joint classes: log 400 = 5.99, theirs some tenths above it, He's more than two."""
    images = torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(128) * 3
    first = {}
    for init, conv in (("torch", "fan-out"), ("he-zero", "backbone")):
        model = made(init, conv, 400).train()
        with torch.no_grad():
            first[init] = float(functional.cross_entropy(model.outputs(model.embed(images))["joint"], labels))
    assert math.log(400) < first["torch"] < math.log(400) + 0.7
    assert first["he-zero"] > math.log(400) + 1.5


def test_linear_layers_are_initialised_as_asked() -> None:
    """Features of 64: torch's bound is 1/8 for weights and biases, He's standard deviation sqrt(2/64)."""
    layers = {init: made(init, "backbone", 4000).layers["joint"] for init in ("he-zero", "he", "torch")}
    for init, layer in layers.items():
        weight = layer.weight.detach()
        if init == "torch":
            assert 0.124 < float(weight.abs().max()) <= 0.125
        else:
            assert float(weight.std()) == pytest.approx(math.sqrt(2 / 64), rel=0.01)
        biases = float(layer.bias.detach().abs().max())
        assert biases == 0 if init == "he-zero" else 0.124 < biases <= 0.125


def test_convolutions_are_initialised_by_fan_out_where_asked() -> None:
    """Variance 2 / (9 outputs): where a stage doubles the channels, half of that by fan-in."""
    deviations = {}
    for conv in ("backbone", "fan-out"):
        wide = [m for m in made("torch", conv, 4).modules() if isinstance(m, nn.Conv2d) and m.out_channels == 64]
        doubling = next(m for m in wide if m.in_channels == 32)
        deviations[conv] = float(doubling.weight.detach().std())
    assert deviations["fan-out"] == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    assert deviations["backbone"] == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.02)


def tiny(**changes: Any) -> ClassifierRecipe:
    table = {
        "name": "tiny",
        "suite": "imbalanced",
        "data": {"dataset": "digits", "profile": "exp", "ratio": 10, "val_images": 5},
        "model": {"backbone": "resnet20"},
        "train": {"steps": 2, "batch_size": 16, "precision": "float32"},
        "select": {"points": 1},
    }
    recipe = parse_recipe({**table, **{key: {**table.get(key, {}), **value} for key, value in changes.items()}})  # type: ignore[dict-item]
    assert isinstance(recipe, ClassifierRecipe)
    return recipe


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("half", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("ldam", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    ],
)
def test_colours_are_normalised_as_asked_in_training_and_in_the_test(
    name: str, mean: tuple[float, ...], std: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(data={"normalise": name}, augment={"crop": False, "flip": False})
    task = classifier.build_task(recipe, 0, classifier.prepare(recipe), CPU, None)
    seen: list[Tensor] = []
    embed = task.module.embed
    monkeypatch.setattr(task.module, "embed", lambda images: seen.append(images) or embed(images))
    task.step(0)
    images = task.images[torch.from_numpy(task._rows(0))].double() / 255
    expected = ((images - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    torch.testing.assert_close(seen[0].double(), expected, rtol=1e-4, atol=1e-5)
    # In the test the folded copy of the backbone sees the same: its features are those of the same numbers.
    task.module.eval()
    some = task.images[:4]
    inputs = ((some.double() / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        torch.testing.assert_close(task._features(some, None)[:, 0], embed(inputs), rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------------------------------------- selection


@pytest.mark.parametrize(("by", "objective", "first"), [
    ("distilled", "sla+sd", "distilled"),
    ("single", "sla+sd", "single"),
    ("distilled", "sla", "single"),
])  # fmt: skip
def test_the_student_decides_where_the_recipe_says_so(by: str, objective: str, first: str) -> None:
    """`fit` selects by the first accuracy of a validation, and the record shows that one."""
    recipe = tiny(select={"rule": "best_val", "by": by, "points": 1}, sla={"objective": objective})
    task = classifier.build_task(recipe, 0, classifier.prepare(recipe), CPU, None)
    found = task.validate()
    assert next(iter(found)) == first
    with torch.no_grad():
        z = task._logits(task._features(torch.from_numpy(task.prepared.train.images[task.prepared.validation]), None))
    truth = task.prepared.train.labels[task.prepared.validation]
    right = z[first].argmax(1).numpy() == truth
    assert found[first] == pytest.approx(np.mean([right[truth == c].mean() for c in np.unique(truth)]))


# ---------------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("suite", ["imbalanced", "supervised"])
def test_slas_protocol_is_its_authors(suite: str) -> None:
    (recipe,) = load_recipe(f"{suite}/sla")
    assert isinstance(recipe, ClassifierRecipe)
    t, m = recipe.train, recipe.model
    assert (t.steps, t.batch_size, t.batches) == (80_000, 128, "independent")
    assert (t.lr, t.momentum, t.nesterov, t.weight_decay) == (0.1, 0.9, False, 1e-4)
    assert (t.schedule, t.milestones, t.factors) == ("step", (0.5, 0.75), (0.1, 0.01))
    assert (m.backbone, m.layer_init, m.conv_init, recipe.data.normalise) == ("resnet32", "torch", "fan-out", "half")
    assert (recipe.select.rule, recipe.select.by, recipe.select.points) == ("best_val", "distilled", 80)


def test_ldams_protocol_is_its_authors() -> None:
    (recipe,) = load_recipe("imbalanced/ldam")
    assert isinstance(recipe, ClassifierRecipe)
    t, m = recipe.train, recipe.model
    assert (t.epochs, t.batch_size, t.batches, t.warmup_epochs) == (200, 128, "epochs", 5)
    assert (t.lr, t.momentum, t.nesterov, t.weight_decay) == (0.1, 0.9, False, 2e-4)
    assert (t.milestones, t.factors) == ((0.8, 0.9), (0.01, 0.0001))
    assert (m.backbone, m.layer_init, m.conv_init, recipe.data.normalise) == ("resnet32", "he", "backbone", "ldam")


def test_rfs_is_trained_without_nesterov_and_tested_with_five_copies() -> None:
    for recipe in load_recipe("fewshot/rfs"):
        assert isinstance(recipe, Recipe)
        t = recipe.train
        assert (t.lr, t.momentum, t.nesterov, t.weight_decay, t.batch_size) == (0.05, 0.9, False, 5e-4, 64)
        assert (t.milestones, t.factors, t.crop, t.flip, t.jitter) == ((0.6, 0.8), (0.1, 0.01), True, True, 0.4)
        assert (recipe.model.support_copies, recipe.model.head, recipe.model.backbone) == (5, "logistic", "resnet12")
        assert build_optimizer(t, nn.Linear(1, 1)).param_groups[0]["nesterov"] is False
    (standard,) = load_recipe("fewshot/paper")
    assert build_optimizer(standard.train, nn.Linear(1, 1)).param_groups[0]["nesterov"] is True
    # Without momentum the two are one; torch refuses the flag then.
    (plain,) = load_recipe("fewshot/paper", {"train.momentum": 0.0})
    assert build_optimizer(plain.train, nn.Linear(1, 1)).param_groups[0]["nesterov"] is False


# ---------------------------------------------------------------------------------------------- RFS's supports


class Mean(nn.Module):
    """A backbone whose feature is the mean colour of the upper half: it sees where a crop was."""

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def folded(self) -> Mean:
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.one * images[:, :, :16].mean((2, 3))


@pytest.mark.usefixtures("glyphs")
def test_augmented_copies_stand_for_the_supports() -> None:
    """Prototypes over A copies of each support, by hand, image by image; queries are the images themselves."""
    (recipe,) = load_recipe("fewshot/standard", {"data.dataset": "glyphs", "train.crop": True, "train.jitter": 0.4})
    assert isinstance(recipe, Recipe)
    entry = slabench.data.catalog.info("glyphs")
    images = torch.from_numpy(np.array(load("glyphs", "test").images[:70]))
    learner: Any = EpisodicLearner(Mean(), HEADS.get("protonet"))  # type: ignore[arg-type]
    augment, views, a = train_augment(recipe, entry), transform_set("rotation2"), 3
    features = evaluation.embed(learner, images, views, entry)
    copies = embed_augmented(learner, images, views, augment, a, seed=7)
    assert copies.shape == (70, a, 2, 3)
    assert not torch.allclose(copies[:, 0], copies[:, 1], atol=1e-3)
    rows = torch.tensor(
        [[[0, 1, 2, 3], [66, 67, 68, -1]]]
    )  # two supports and two queries; the second class has one query
    episodes = Episodes(rows, torch.tensor([[0, 1]]), 2)
    together, made = in_place_of_supports(features, episodes, copies)
    (support, labels), (query, _) = made.flat(query=False), made.flat(query=True)
    assert labels.tolist() == [[0] * 2 * a + [1] * 2 * a]
    torch.testing.assert_close(together[query[0]], features[[2, 3, 68]])
    # The second block of 64 images draws by itself: image 66 is the third of it.
    for row in (0, 66):
        start = row - row % 64
        for copy in range(a):
            drawn = augment(images[start : start + 64], torch_generator(7, "support-copies", start, copy))[row - start]
            expected = torch.stack([drawn[:, :16].mean((1, 2)), drawn.flip(1, 2)[:, :16].mean((1, 2))])
            torch.testing.assert_close(copies[row, copy], expected)
    means = torch.stack([together[support[0, :6], 0].mean(0), together[support[0, 6:], 0].mean(0)])
    nearest = torch.cdist(features[[2, 3, 68], 0], means).argmin(1)
    right = float(nearest.eq(torch.tensor([0, 0, 1])).float().mean())
    got = score_episodes(learner, together, made, "single", 2)
    assert float(got.accuracy[0]) == pytest.approx(right)


@pytest.mark.usefixtures("glyphs")
def test_a_run_with_support_copies_scores_them_and_its_supports_are_not_the_plain_ones() -> None:
    changes = {
        "data.dataset": "glyphs",
        "protocol.shots": 1,
        "protocol.queries": 3,
        "protocol.episodes": 6,
        "train.steps": 1,
        "train.crop": True,
        "select.points": 0,
        "sla.transforms": "rotation2",
    }
    found = {}
    for count in (0, 5):
        (recipe,) = load_recipe("fewshot/standard", changes | {"model.support_copies": count})
        assert isinstance(recipe, Recipe)
        task: Any = fewshot.build_task(recipe, 0, fewshot.prepare(recipe), CPU, None)
        found[count] = task.test()["single"][0].accuracy
        assert task.scored_images == (1 + count) * len(task.prepared.test)
    assert not torch.equal(found[0], found[5])
    (adapted,) = load_recipe("fewshot/standard", changes | {"model.learner": "anil", "model.support_copies": 5})
    with pytest.raises(UsageError, match="support_copies = 5 has no effect"):
        fewshot.rules.check_adapted(adapted)  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------- float32


@pytest.fixture
def fast_multiplications() -> Iterator[None]:
    """As a user may have set them: TF32 wherever torch has it."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    yield
    torch.backends.cudnn.allow_tf32 = before[0]
    torch.set_float32_matmul_precision(before[1])


def made_up_features(learner: Any, images: Tensor, transforms: Any, *_: Any, **__: Any) -> Tensor:
    """In place of `embed`, where the features themselves do not matter."""
    return torch.rand(len(images), transforms.M, learner.backbone.feature_dim)


def switches() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.usefixtures("fast_multiplications")
def test_tf32_is_off_within_and_as_it_was_after() -> None:
    with exact_float32():
        assert switches() == (False, False)
    assert switches() == (True, True)
    with pytest.raises(KeyError), exact_float32():
        raise KeyError
    assert switches() == (True, True)


@pytest.mark.usefixtures("fast_multiplications", "glyphs")
def test_trials_and_heads_are_scored_without_tf32(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """What the switches are whenever a scoring embeds or scores, in `run` and in `slabench score`."""
    seen: dict[str, set[tuple[bool, bool]]] = {}

    def watch(module: Any, name: str) -> None:
        whole = getattr(module, name)

        def spied(*args: Any, **given: Any) -> Any:
            seen.setdefault(f"{module.__name__} {name}", set()).add(switches())
            if name != "embed":
                return whole(*args, **given)
            return made_up_features(*args)

        monkeypatch.setattr(module, name, spied)

    for module, names in (
        (fewshot.scoring, ("embed", "score_episodes")),
        (head_features, ("embed",)),
        (score_heads, ("score_watched", "looks_at_queries")),
        (classifier, ("embed",)),
    ):
        for name in names:
            watch(module, name)
    few = {
        "data.dataset": "glyphs",
        "protocol.shots": 1,
        "protocol.queries": 2,
        "protocol.episodes": 5,
        "train.steps": 1,
        "train.queries": 1,
        "select.points": 0,
    }
    (recipe,) = load_recipe("fewshot/standard", few)
    (done,) = runner.run(recipe, results=tmp_path)
    assert done.record is not None
    for _ in score_heads.score_heads(done.record.key[:12], ["simpleshot"], results=tmp_path).results:
        assert switches() == (True, True)  # whoever takes the results computes as before
    (classified,) = runner.run(tiny(select={"points": 0}), results=tmp_path)
    assert classified.state == "ran"
    assert len(seen) == 6
    assert set().union(*seen.values()) == {(False, False)}
    assert switches() == (True, True)


# ---------------------------------------------------------------------------------------------- what records say


@pytest.mark.usefixtures("glyphs")
def test_scored_heads_say_their_own_revision_and_take_the_supports_themselves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a run of Baseline++ with copies: another head has neither, and its key is not that of the first revision."""
    few = {
        "data.dataset": "glyphs",
        "protocol.shots": 1,
        "protocol.queries": 2,
        "protocol.episodes": 3,
        "train.steps": 1,
        "train.batch_size": 4,
        "select.points": 0,
        "sla.transforms": "rotation2",
        "model.learner": "classifier",
        "model.head": "baseline-plus-plus",
        "model.support_copies": 2,
    }
    (recipe,) = load_recipe("fewshot/standard", few)
    (done,) = runner.run(recipe, results=tmp_path)
    trial = done.record
    assert trial is not None
    assert (trial.recipe["model"]["head_revision"], trial.recipe["model"]["support_copies"]) == (2, 2)
    monkeypatch.setattr(head_features, "embed", made_up_features)
    heads = ["protonet", "baseline-plus-plus"]
    found = list(
        score_heads.score_heads(trial.key[:12], heads, predictors=["single"], results=tmp_path, save=True).results
    )
    models = {made.head: made.record.recipe["model"] for made in found}
    assert models["protonet"].keys() & {"head_revision", "support_copies"} == set()
    assert models["baseline-plus-plus"]["head_revision"] == 2
    assert "support_copies" not in models["baseline-plus-plus"]
    for made in found:
        first = derived_key(trial.key, "score", {"head": made.head, "protocol": made.record.protocol_digest})
        assert (made.record.key == first) == (made.head == "protonet")


# ---------------------------------------------------------------------------------------------- the page


def test_the_page_of_parity_names_tests_that_there_are() -> None:
    tests = Path(__file__).parent
    named = re.findall(r"`(test_\w+)::(test_\w+)`", (tests.parent / "docs" / "parity.md").read_text(encoding="utf-8"))
    assert len(named) > 25
    for file, name in named:
        assert f"def {name}(" in (tests / f"{file}.py").read_text(encoding="utf-8"), f"{file}::{name}"
