"""How trained networks are scored: RFS's copies of supports, float32 without TF32, and what records say of a head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_recipes import tiny_classifier, tiny_fewshot
from torch import Tensor, nn

import slabench
from slabench import runner
from slabench.core.errors import UsageError
from slabench.core.registry import HEADS
from slabench.core.seeding import torch_generator
from slabench.data import load
from slabench.episodes.sampler import Episodes
from slabench.evaluation import episodes as evaluation
from slabench.evaluation.episodes import embed_augmented, in_place_of_supports, score_episodes
from slabench.learners import EpisodicLearner
from slabench.records.environment import derived_key
from slabench.sla.transforms import transform_set
from slabench.suites import classifier, fewshot
from slabench.suites.fewshot import features as head_features
from slabench.suites.fewshot import head_scores, score_heads
from slabench.suites.fewshot.scoring import train_augment
from slabench.training.device import exact_float32

CPU = torch.device("cpu")

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
    recipe = tiny_fewshot(train__crop=True, train__jitter=0.4)
    entry = slabench.data.catalog.info("glyphs")
    images = torch.from_numpy(np.array(load("glyphs", "test").images[:70]))
    learner: Any = EpisodicLearner(Mean(), HEADS.get("protonet"))  # type: ignore[arg-type]
    augment, views, a = train_augment(recipe, entry), transform_set("rotation2"), 3
    features = evaluation.embed(learner, images, views, entry)
    copies = embed_augmented(learner, images, views, augment, a, seed=7)
    assert copies.shape == (70, a, 2, 3)
    assert not torch.allclose(copies[:, 0], copies[:, 1], atol=1e-3)
    # Two supports and two queries; the second class has one query.
    rows = torch.tensor([[[0, 1, 2, 3], [66, 67, 68, -1]]])
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
    changes = {"protocol__episodes": 6, "train__steps": 1, "train__crop": True, "select__points": 0}
    found = {}
    for count in (0, 5):
        recipe = tiny_fewshot(**changes, sla__transforms="rotation2", model__support_copies=count)
        task: Any = fewshot.build_task(recipe, 0, fewshot.prepare(recipe), CPU, None)
        found[count] = task.test()["single"][0].accuracy
    assert not torch.equal(found[0], found[5])
    adapted = tiny_fewshot(**changes, model__learner="anil", model__support_copies=5)
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
        (head_scores, ("score_watched", "looks_at_queries")),
        (classifier, ("embed",)),
    ):
        for name in names:
            watch(module, name)
    recipe = tiny_fewshot(protocol__episodes=5, train__steps=1, select__points=0)
    (done,) = runner.run(recipe, results=tmp_path)
    assert done.record is not None
    for _ in score_heads.score_heads(done.record.key[:12], ["simpleshot"], results=tmp_path).results:
        assert switches() == (True, True)  # whoever takes the results computes as before
    (classified,) = runner.run(tiny_classifier(train__steps=2, select__points=0), results=tmp_path)
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
    recipe = tiny_fewshot(
        protocol__episodes=3,
        train__steps=1,
        train__batch_size=4,
        select__points=0,
        sla__transforms="rotation2",
        model__learner="classifier",
        model__head="baseline-plus-plus",
        model__support_copies=2,
    )
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
