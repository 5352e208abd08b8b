"""Settings at the door: bounds of every number, rules that cannot apply, messages that name the right setting, dry runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import here
from result_records import make_record
from tiny_recipes import tiny_classifier, tiny_fewshot

from slabench import runner
from slabench.core import paths
from slabench.core.errors import UsageError
from slabench.core.registry import DATASETS
from slabench.core.seeding import numpy_generator
from slabench.data.longtail import profile_counts
from slabench.data.plugin_dataset import dataset
from slabench.episodes.sampler import balanced_episodes
from slabench.recipes import load_recipe
from slabench.recipes.classifier import ClassifierRecipe
from slabench.recipes.fewshot import Recipe
from slabench.records.store import ResultStore

# ------------------------------------------------------------------------------------------------------------ bounds


def numbers_of(schema: dict[str, Any], part: dict[str, Any], key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number of a JSON schema by its dotted key; the items of a list count as one."""
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    for option in part.get("anyOf", ()):
        yield from numbers_of(schema, option, key)
    if part.get("type") in ("integer", "number"):
        yield key, part
    if "items" in part:
        yield from numbers_of(schema, part["items"], key)
    for name, inner in part.get("properties", {}).items():
        yield from numbers_of(schema, inner, f"{key}.{name}".lstrip("."))


NUMBERS = [
    (suite, key, part)
    for suite, kind in (("fewshot", Recipe), ("imbalanced", ClassifierRecipe))
    for key, part in numbers_of(kind.model_json_schema(), kind.model_json_schema())
]


def test_there_are_as_many_numbers_as_a_recipe_shows() -> None:
    assert {"protocol.episodes", "select.points", "train.lr", "maml.steps", "seeds"} <= {key for _, key, _ in NUMBERS}
    assert {"data.ratio", "data.counts", "train.milestones", "loss.tau"} <= {key for _, key, _ in NUMBERS}
    assert len(NUMBERS) > 50


@pytest.mark.parametrize(("suite", "key", "part"), NUMBERS)
def test_every_number_has_two_bounds(suite: str, key: str, part: dict[str, Any]) -> None:
    low = part.get("minimum", part.get("exclusiveMinimum", -math.inf))
    high = part.get("maximum", part.get("exclusiveMaximum", math.inf))
    assert -math.inf < low < high < math.inf
    whole = part["type"] == "integer"
    wrong: list[Any] = [low - 1, high * 10, 10**30 if whole else 1e300]
    for value in wrong:
        many = key in ("seeds", "data.counts", "train.milestones", "train.factors")
        changes = {"data.dataset": "glyphs", key: [value] if many else value}
        with pytest.raises(UsageError) as caught:
            load_recipe(f"{suite}/standard", changes)
        assert key in str(caught.value)
        assert caught.value.remedy


@pytest.mark.parametrize(
    "settings", ["protocol.episodes=1e12", "select.points=1e12", "train.steps=1e12", "train.episodes_per_step=1e9"]
)
def test_sizes_beyond_reason_are_refused_at_once(settings: str, tmp_path: Path) -> None:
    code, output = here("run", "fewshot", "--dataset", "glyphs", "--set", settings, "--dry-run", folder=tmp_path)
    assert code == 2
    assert settings.partition("=")[0] in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ways", "n", "message"),
    [
        (5, 10**7, "at most 536,870; 2,000 are usual"),
        (100, 10**6, "at most 26,843; 2,000 are usual"),
        (10**9, 10**6, "1000000000 ways were asked for"),
    ],
)
def test_episodes_that_no_memory_holds_are_refused_before_they_are_drawn(ways: int, n: int, message: str) -> None:
    pools = [np.arange(100 * c, 100 * (c + 1)) for c in range(200)]
    with pytest.raises(UsageError) as caught:
        balanced_episodes(pools, ways, 50, 50, n, numpy_generator(0, "x"))
    assert message in str(caught.value)


# ------------------------------------------------------------------------------------- rules and sizes that cannot apply


def own(name: str, n_classes: int, each: int, split: dict[str, list[str]] | None = None) -> None:
    def make() -> tuple[Any, Any, Any]:
        labels = np.repeat(np.arange(n_classes), each)
        images = np.random.default_rng(0).integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8)
        return images, labels, np.arange(len(labels)) % 4 == 3 if split is None else np.zeros(len(labels), bool)

    classes = [f"c{i}" for i in range(n_classes)]
    DATASETS.add(name, dataset(name, make, classes, 16, "x", class_split=split), "x")


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__ratio": 1}, "the subset keeps every training image"),
        ({"suite": "supervised", "data__profile": "full", "data__val_fraction": 0.001}, "val_fraction leaves none out"),
    ],
)
def test_a_selection_without_validation_images_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    own("even", 4, 40)
    recipe = tiny_classifier(data__dataset="even", select__rule="best_val", **changes)
    with pytest.raises(UsageError, match=message):
        runner.run(recipe, [0], results=tmp_path / "results")
    assert not (tmp_path / "results").exists()
    runner.plan(recipe.model_copy(update={"select": recipe.select.model_copy(update={"rule": "last"})}))


@pytest.mark.parametrize("profile", ["exp", "step"])
def test_a_ratio_as_large_as_the_class_leaves_one_image(profile: str) -> None:
    for largest in range(2, 1200):  # 49, 98, 103, ...: times its inverse a little below 1 in floats
        assert min(profile_counts(largest, 2, largest, profile)) == 1
    with pytest.raises(UsageError, match="use a ratio of at most 49"):
        profile_counts(49, 2, 49.1, profile)


@pytest.mark.slow
@pytest.mark.usefixtures("glyphs")
def test_training_episodes_that_are_too_large_name_the_training_setting(tmp_path: Path) -> None:
    recipe = tiny_fewshot(protocol__shots=95, protocol__queries=1, train__queries=6, select__points=0)
    with pytest.raises(UsageError) as caught:
        runner.run(recipe, [0], results=tmp_path / "results")
    assert "95 shots + 6 queries of training episodes need 101" in caught.value.message
    assert "train.queries" in caught.value.remedy
    assert not (tmp_path / "results").exists()
    runner.plan(tiny_fewshot(protocol__shots=95, protocol__queries=1, train__queries=5, select__points=0))


@pytest.mark.slow
@pytest.mark.usefixtures("registries")
def test_more_ways_than_validation_classes_only_matter_where_something_is_validated(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(10)]
    own("few", 10, 20, {"train": names[:4], "val": names[4:6], "test": names[6:]})
    changes = {"data__dataset": "few", "protocol__ways": 4, "train__steps": 1}
    with pytest.raises(UsageError) as caught:
        runner.plan(tiny_fewshot(**changes))
    assert "4 ways were asked for, and the validation split has 2 classes" in caught.value.message
    assert "select.points=0" in caught.value.remedy
    (outcome,) = runner.run(tiny_fewshot(**changes, select__points=0), [0], results=tmp_path)
    assert outcome.state == "ran", outcome.error


# ------------------------------------------------------------------------------------------------ what a person reads


def content(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.usefixtures("glyphs")
@pytest.mark.parametrize(
    "command",
    [
        ("fewshot", "--episodes", "7", "--queries", "3", "--set", "select.points=0"),
        (
            "imbalanced",
            "--ratio",
            "7",
            "--backbone",
            "resnet20",
            "--set",
            "train.batch_size=4",
            "--set",
            "select.points=0",
        ),
    ],
)
def test_a_dry_run_freezes_nothing(command: tuple[str, ...], tmp_path: Path) -> None:
    before = content(paths.data())
    folder = tmp_path / "here"
    folder.mkdir()
    code, output = here("run", *command, "--dataset", "glyphs", "--dry-run", folder=folder)
    assert code == 0, output
    assert content(paths.data()) == before
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["b.xlsx", "b.pdf", "b.png", "b.cvs", "b.json"])
@pytest.mark.parametrize("form", [(), ("--format", "csv")])
def test_a_leaderboard_is_not_written_as_what_it_is_not(name: str, form: tuple[str, ...], tmp_path: Path) -> None:
    ResultStore(tmp_path / "results").save(make_record(), {})
    code, output = here("leaderboard", *form, "-o", name, folder=tmp_path)
    assert code == 2
    assert f"a leaderboard cannot be written as '{name}'" in output
    assert ".csv, .md, .tex, .html" in output
    assert not (tmp_path / name).exists()
    assert here("leaderboard", "-o", "b.csv", folder=tmp_path)[0] == 0


def test_runs_that_differ_in_the_head_alone_are_told_apart(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    for number, (head, steps) in enumerate((("protonet", 100), ("logistic", 100), ("logistic", 101))):
        record = make_record()
        recipe = {**record.recipe, "model": {"backbone": "conv4", "head": head}, "train": {"steps": steps}}
        changes = {"recipe": recipe, "recipe_digest": str(number) * 64, "key": str(number + 3) * 64}
        store.save(record.model_copy(update=changes), {})
    code, listed = here("list", "runs", folder=tmp_path)
    assert code == 0
    assert listed.count("model.head = protonet, train.steps = 100") == 1
    assert listed.count("model.head = logistic, train.steps = 101") == 1
    code, board = here("leaderboard", folder=tmp_path)
    assert code == 0
    assert board.count("head protonet") == 1
    # These two differ in what no column shows: the digest tells.
    assert board.count("head logistic, recipe 111111") == 1
    assert board.count("head logistic, recipe 222222") == 1


def test_runs_of_different_names_need_no_more_words(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    for objective in ("baseline", "sla"):
        store.save(make_record(objective), {})
    assert "objective" not in here("list", "runs", folder=tmp_path)[1]
    assert "transformation rotation" not in here("leaderboard", folder=tmp_path)[1]


def test_one_episode_has_no_interval_and_no_nan(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "results")
    for objective, value in (("baseline", 0.5), ("sla", 0.6)):
        record = make_record(objective, accuracies={"single": [value], "aggregated": [value]})
        store.save(record, {name: np.array([value], np.float32) for name in ("single", "aggregated")})
    for command in (("compare", "sla", "baseline"), ("leaderboard",), ("list", "runs")):
        code, output = here(*command, folder=tmp_path)
        assert code == 0, output
        assert "nan" not in output.replace("finance", "")
