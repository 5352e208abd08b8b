"""Recipes: what a file may say, what flags do to it, and the digest of the result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slabench.core.errors import UsageError
from slabench.recipes import known_keys, load_recipe, parse_assignment, parse_recipe, recipe_names
from slabench.records.environment import derived_key
from slabench.suites import suite_of


@pytest.mark.parametrize("name", recipe_names())
def test_published_recipes_are_valid(name: str) -> None:
    if "maml" in name:
        pytest.importorskip("learn2learn", reason="learn2learn could not be installed here")
    for recipe in load_recipe(name):
        suite_of(recipe).check(recipe)
        assert suite_of(recipe).warnings(recipe) == []
        assert recipe.name.startswith(name)
        assert recipe.suite == name.partition("/")[0]


def test_presets_are_what_they_say() -> None:
    assert {"fewshot/quick", "fewshot/standard", "fewshot/paper", "fewshot/controls"} <= set(recipe_names())
    (quick,) = load_recipe("fewshot/quick")
    (standard,) = load_recipe("fewshot/standard")
    (paper,) = load_recipe("fewshot/paper")
    assert (quick.limited, standard.limited, paper.limited) == (True, False, False)
    # 60 epochs of 8,000 episodes of ResNet-12, SGD with Nesterov momentum 0.9 and decay 5e-4.
    assert paper.train.steps * paper.train.episodes_per_step == 60 * 8000
    assert (paper.model.backbone, paper.train.optimizer, paper.train.momentum) == ("resnet12", "sgd", 0.9)
    assert paper.train.weight_decay == 5e-4


def test_controls_pass_as_many_images_as_sla() -> None:
    recipes = {recipe.name.split("/")[-1]: recipe for recipe in load_recipe("fewshot/controls")}
    passes = {
        name: recipe.train.steps * (4 if recipe.sla.objective in ("sla", "da") else 1)
        for name, recipe in recipes.items()
    }
    assert passes["da"] == passes["sla"] == passes["baseline-equal-passes"] == 4 * passes["baseline"]
    assert len({recipe.train.queries for recipe in recipes.values()}) == 1


def test_controls_of_the_long_tail_pass_as_many_images_as_sla() -> None:
    recipes = {recipe.name.split("/")[-1]: recipe for recipe in load_recipe("imbalanced/controls")}
    passes = {
        name: (recipe.train.epochs or 0) * (1 if recipe.sla.objective == "baseline" else 4)
        for name, recipe in recipes.items()
    }
    for loss in ("ce", "ldam-drw", "balanced-softmax"):
        rows = {passes[f"{loss}-{kind}"] for kind in ("sla", "sla+sd", "baseline-equal-passes")}
        assert rows == {4 * passes[f"{loss}-baseline"]}
    assert passes["ce-da"] == passes["ce-mt"] == passes["ce-sla"]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_extending_overrides_key_by_key(tmp_path: Path) -> None:
    name = write(tmp_path / "mine.toml", 'extends = "fewshot/standard"\n[train]\nlr = 0.5\n')
    (mine,) = load_recipe(name)
    (standard,) = load_recipe("fewshot/standard")
    assert mine.name == "mine"
    assert mine.train == standard.train.model_copy(update={"lr": 0.5})
    assert mine.protocol == standard.protocol


def test_variants_lie_over_the_file_and_flags_over_both(tmp_path: Path) -> None:
    name = write(
        tmp_path / "v.toml",
        'extends = "fewshot/standard"\n[train]\nsteps = 5\n[[variants]]\nname = "a"\n[[variants]]\nname = "b"\n'
        "train = { steps = 7 }\n",
    )
    assert [(r.name, r.train.steps) for r in load_recipe(name)] == [("v/a", 5), ("v/b", 7)]
    assert [r.train.steps for r in load_recipe(name, {"train.steps": 9, "train.lr": None})] == [9, 9]


def test_the_digest_is_of_what_decides_and_of_nothing_else(tmp_path: Path) -> None:
    (standard,) = load_recipe("fewshot/standard")
    text = 'extends = "fewshot/standard"\nseeds = [3, 4]\n[train]\noptimizer = "adam"\n'
    (same,) = load_recipe(write(tmp_path / "same.toml", text))
    assert same.digest == standard.digest
    values = {
        "train.lr": 0.002,
        "protocol.shots": 1,
        "model.backbone": "resnet12",
        "limited": True,
        "sla.objective": "da",
    }
    others = {load_recipe("fewshot/standard", {key: value})[0].digest for key, value in values.items()}
    assert len(others | {standard.digest}) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nlearning_rate = 1", r"unknown key 'train\.learning_rate'"),
        ("[train]\nstep = 1", r"did you mean 'train\.steps'"),
        ("[trian]\nsteps = 1", r"unknown key 'trian'"),
        ("[train]\nsteps = -1", r"train\.steps = -1.*greater than or equal to 0"),
        ('[train]\nsteps = "many"', r"train\.steps = 'many'"),
        ('[train]\noptimizer = "lion"', r"train\.optimizer = 'lion'.*'adam' or 'sgd'"),
        ("[train]\nlr = nan", r"train\.lr = nan"),
        ("[train]\nlr = -1", r"train\.lr"),
        ("[protocol]\nways = 1.5", r"protocol\.ways = 1\.5"),
        ("variants = 3", "not an array of tables"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, tmp_path: Path) -> None:
    name = write(tmp_path / "bad.toml", f"extends = 'fewshot/standard'\n{text}\n" if "variants" not in text else text)
    with pytest.raises(UsageError, match=message):
        load_recipe(name)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'data' is missing"):
        load_recipe(write(tmp_path / "empty.toml", ""))


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"bad\.toml is not TOML.*line 1"):
        load_recipe(write(tmp_path / "bad.toml", "steps = = 3"))
    with pytest.raises(UsageError, match=r"there is no recipe file .*none\.toml"):
        load_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="did you mean 'fewshot/standard'"):
        load_recipe("fewshot/standart")


def test_a_circle_is_named(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    write(first, f"extends = '{second}'")
    write(second, f"extends = '{first}'")
    with pytest.raises(UsageError, match="extends itself"):
        load_recipe(str(first))


def test_unknown_override_keys_suggest() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'train\.lr'"):
        load_recipe("fewshot/standard", {"train.lrr": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.lr=0.01", ("train.lr", 0.01)),
        ("train.crop=false", ("train.crop", False)),
        ("train.milestones=[0.5, 0.8]", ("train.milestones", [0.5, 0.8])),
        ("model.backbone=resnet12", ("model.backbone", "resnet12")),
        ('model.backbone="resnet12"', ("model.backbone", "resnet12")),
    ],
)
def test_assignments(text: str, expected: tuple[str, object]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["train.lr", "=3", ""])
def test_assignments_without_a_key_or_a_value(text: str) -> None:
    with pytest.raises(UsageError, match="is not key=value"):
        parse_assignment(text)


def test_known_keys_are_leaves() -> None:
    keys = set(known_keys())
    assert {"train.lr", "data.dataset", "select.rule", "limited", "seeds"} <= keys
    assert not {"train", "data"} & keys


def test_keys_of_finished_trials_stay_what_they_are() -> None:
    """The digest of every committed few-shot record can be made again: settings added since change nothing."""
    files = (Path(__file__).parents[1] / "results" / "runs" / "fewshot").rglob("*.json")
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    trials = {record["key"]: record for record in records if record.get("derived") is None}
    scored = [record for record in records if record.get("derived")]
    assert trials
    assert scored
    for record in trials.values():
        # Of heads on frozen features no recipe was run: test_verify makes their digests again.
        if record["recipe"]["model"].get("learner") == "frozen":
            continue
        assert parse_recipe(record["recipe"]).digest == record["recipe_digest"], record["key"]
    for record in scored:
        given = {"head": record["derived"]["head"], "protocol": record["protocol_digest"]}
        given |= {key: value for key, value in record["recipe"]["model"].items() if key == "head_revision"}
        of = trials[record["derived"]["of"]]
        assert derived_key(of["recipe_digest"], "score", given) == record["recipe_digest"], record["key"]
        assert derived_key(of["key"], "score", given) == record["key"], record["key"]


def test_digests_of_finished_classifiers_stay_what_they_are() -> None:
    runs = Path(__file__).parents[1] / "results" / "runs"
    files = [file for suite in ("imbalanced", "supervised") for file in (runs / suite).rglob("*.json")]
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    trials = [record for record in records if record.get("derived") is None]
    assert trials
    for record in trials:
        assert parse_recipe(record["recipe"]).digest == record["recipe_digest"], record["key"]


@pytest.mark.parametrize("learner", ["maml", "anil"])
def test_learners_that_adapt_have_no_head(learner: str) -> None:
    (recipe,) = load_recipe("fewshot/standard", {"model.learner": learner})
    assert recipe.model.head == learner
    assert parse_recipe(recipe.model_dump(mode="json")).digest == recipe.digest
    with pytest.raises(UsageError, match="--head ridge has no effect with the learner"):
        load_recipe("fewshot/standard", {"model.learner": learner, "model.head": "ridge"}, {"model.head": "--head"})
    with pytest.raises(UsageError, match="has no head"):
        parse_recipe(
            {"name": "x", "data": {"dataset": "fc100"}, "model": {"learner": learner, "head": "metaoptnet-rr"}}
        )
    other = load_recipe("fewshot/standard", {"model.learner": learner, "maml.lr": 0.5})[0]
    assert other.digest != recipe.digest
    with pytest.raises(UsageError, match="has no effect with the learner episodic"):
        load_recipe("fewshot/standard", {"maml.lr": 0.5})
