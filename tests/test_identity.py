"""Runs with plug-ins: never mistaken for those of other code, scored and post-processed like any other, and what is made of
them dies with them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import here

import slabench
from slabench import plugins, runner
from slabench.core import paths, registry
from slabench.core.errors import DataError
from slabench.data import load
from slabench.plugins import bound, load_plugin
from slabench.posthoc.scoring import posthoc
from slabench.ranking.rows import leaderboard
from slabench.recipes import load_recipe
from slabench.records.outputs import load_weights, save_weights
from slabench.records.record import RunRecord
from slabench.records.staleness import outdated, stale
from slabench.records.store import ResultStore
from slabench.suites import suite_of
from slabench.suites.fewshot import episodic, scoring
from slabench.suites.fewshot.score_heads import score_heads

pytestmark = pytest.mark.usefixtures("registries", "narrow_conv4")
TINY = {
    "data.dataset": "own-data",
    "protocol.ways": 3,
    "protocol.shots": 1,
    "protocol.queries": 3,
    "protocol.episodes": 20,
    "train.episodes_per_step": 1,
    "train.queries": 2,
    "train.steps": 1,
    "train.precision": "float32",
    "select.points": 0,
}


@pytest.fixture(autouse=True)
def _few_base_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "BASE_IMAGES", 3)


def forget() -> None:
    """As if in a new process."""
    for kind in registry.REGISTRIES.values():
        kind._entries = {name: entry for name, entry in kind._entries.items() if entry.built_in}
    plugins._loaded.clear()


DATA = """
import numpy as np, slabench
{more}
def make():
    {log}
    labels = np.repeat(np.arange(9), {each})
    images = np.random.default_rng(0).integers(0, 60, (len(labels), 32, 32, 3)) + {bright}
    return images.astype(np.uint8), labels, np.zeros(len(labels), bool)
names = [str(label) for label in range(9)]
split = {{"train": names[:3], "val": names[3:6], "test": names[6:]}}
slabench.DATASETS.add("own-data", slabench.dataset("own-data", make, names, 32, "own", class_split=split), "own")
"""


def data(folder: Path, each: int = 8, bright: int = 0, log: str = "pass", more: str = "") -> None:
    forget()
    (folder / "data.py").write_text(DATA.format(each=each, bright=bright, log=log, more=more), encoding="utf-8")
    load_plugin(folder / "data.py")


def run(results: Path, suite: str = "fewshot", resume: str = "auto", **changes: Any) -> runner.Outcome:
    values = TINY if suite == "fewshot" else {"data.dataset": "own-data", "train.steps": 1, "select.points": 0}
    recipes = load_recipe(
        f"{suite}/standard", values | {key.replace("__", "."): value for key, value in changes.items()}
    )
    (outcome,) = runner.run(recipes, [0], results=results, resume=resume)
    assert outcome.error is None, outcome.error
    return outcome


def prompt(text: str) -> None:
    """Run a program as if it had been typed."""
    exec(compile(text, "<stdin>", "exec"), {"__name__": "__main__"})


HEAD = """
import slabench
from slabench.heads.metric import prototype_logits
SIGN = {sign}
{more}
def logits(support, labels, query, n):
    return SIGN * prototype_logits(support, labels, query, n)
slabench.HEADS.add("typed", slabench.Head("typed", logits, decomposes=True), "own")
"""


def test_a_typed_head_that_was_edited_is_another_trial(tmp_path: Path) -> None:
    states, values = [], []
    for sign in (1, 1, -1):
        data(tmp_path)
        prompt(HEAD.format(sign=sign, more=""))
        outcome = run(tmp_path, model__head="typed")
        assert outcome.record is not None
        states.append(outcome.state)
        values.append(outcome.record.scores[0].value)
    assert states == ["ran", "skipped", "ran"]
    assert values[0] == values[1]
    assert values[2] != values[0]


def test_a_head_whose_code_cannot_be_known_runs_each_time_and_has_no_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data(tmp_path)
    prompt(HEAD.format(sign=1, more="SIGNS = (x for x in [1])").replace("return SIGN *", "SIGNS and SIGN\n    return"))
    reason = "'SIGNS', which 'logits' uses, is a builtins.generator, which cannot be read"
    why = f"the code of the head 'typed' cannot be told from another: {reason}"
    words = [f"--set={key}={value}" for key, value in TINY.items() if key != "data.dataset"]
    for _ in range(2):
        code, output = here("run", "fewshot", "--dataset", "own-data", "--head", "typed", "--threads", "1", *words)
        assert code == 0, output
        assert f"warning: {why}" in output
        assert "finished before" not in output
    (record,) = ResultStore(Path("results")).records()
    assert record.warnings[-1].startswith(why)
    assert record.environment["plugins"][1]["unknown"] == reason
    rows = leaderboard(Path("results"))
    assert [row.rank for row in rows] == [None, None]
    assert all(why in (row.stale_why or "") for row in rows)
    code, output = here("leaderboard")
    assert why in " ".join(output.split())


ALL = """
import slabench, torch
from torch.nn.functional import cross_entropy
from slabench.backbones.fewshot import conv4
from slabench.heads.metric import prototype_logits
def ce(logits, labels, counts):
    return cross_entropy(logits, labels, reduction="none")
slabench.HEADS.add("own-head", slabench.Head("own-head", prototype_logits, decomposes=True), "own")
slabench.BACKBONES.add("own-net", lambda size: conv4(size), "own")
slabench.TRANSFORMS.add("own-views", slabench.function_set("own-views", [lambda x: x, lambda x: x.flip(-1)]), "own")
slabench.LOSSES.add("own-loss", ce, "own")
"""


@pytest.fixture
def own(registries: None, tmp_path: Path) -> Path:
    """A loaded plug-in file with one of each kind that a trial can use."""
    data(tmp_path)
    path = tmp_path / "own.py"
    path.write_text(ALL, encoding="utf-8")
    load_plugin(path)
    return path


def test_a_run_with_plug_ins_can_be_scored(own: Path, tmp_path: Path) -> None:
    changes = {"model__head": "own-head", "model__backbone": "own-net", "sla__transforms": "own-views"}
    record = run(tmp_path, **changes).record
    assert record is not None
    assert [plugin["kind"] for plugin in record.environment["plugins"]] == [
        "dataset",
        "backbone",
        "head",
        "transformation set",
    ]
    (mine, *_) = score_heads(record.key[:8], ["own-head", "cosine"], results=tmp_path, save=True).results
    assert [s.value for s in mine.record.scores] == [s.value for s in record.scores]

    # Other code of the network is no longer what these weights are of.
    data(tmp_path)
    own.write_text(ALL.replace("flip(-1)", "flip(-2)"), encoding="utf-8")
    load_plugin(own)
    with pytest.raises(DataError, match=r"the backbone 'own-net' has other code than in run"):
        score_heads(record.key[:8], ["cosine"], results=tmp_path)


@pytest.mark.usefixtures("own")
def test_a_run_with_a_loss_of_one_s_own_can_be_post_processed(tmp_path: Path) -> None:
    record = run(tmp_path, "supervised", loss__name="own-loss").record
    assert record is not None
    found = posthoc(record.key[:8], ["temperature"], results=tmp_path, save=True)
    plain = {row.predictor: row.scores.top1 for row in found.rows if row.method == "none"}
    assert plain == {score.predictor: score.value for score in record.scores}
    assert found.records[0].derived is not None
    assert found.records[0].derived["weights"] == record.outputs_sha256


@pytest.mark.usefixtures("own")
def test_weights_that_were_kept_under_the_key_without_the_code_are_still_read(tmp_path: Path) -> None:
    """As runs with plug-ins left them before."""
    record = run(tmp_path, model__head="own-head").record
    assert record is not None
    store = ResultStore(tmp_path)
    path = store.path(record).parent / str(record.outputs_file)
    weights = load_weights(path, str(record.outputs_sha256))
    assert weights.key == record.key
    (trial,) = runner.plan(load_recipe("fewshot/standard", TINY | {"model.head": "own-head"}), [0], tmp_path)
    suite: Any = suite_of(trial.recipe)
    unbound = suite.trial_key(trial.recipe, 0, trial.prepared, [])
    assert bound(unbound, record.environment["plugins"]) == record.key != unbound
    for key, fits in ((unbound, True), ("f" * 64, False)):
        sha256 = save_weights(replace(weights, key=key), path)
        kept = record.model_copy(update={"outputs_sha256": sha256})
        store.path(record).write_text(json.dumps(kept.model_dump(mode="json", by_alias=True)), encoding="utf-8")
        if fits:
            assert score_heads(record.key[:8], ["cosine"], results=tmp_path).count == 1
        else:
            with pytest.raises(DataError, match=f"belongs to trial {'f' * 12}, not {record.key[:12]}"):
                score_heads(record.key[:8], ["cosine"], results=tmp_path)


def ranks(results: Path) -> dict[tuple[str, str], bool]:
    return {(row.name, row.predictor): row.rank is not None for row in leaderboard(results)}


def test_scores_are_of_the_weights_that_the_trial_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights under the same key, as another version of torch would give them: scores of the old ones are no longer
    ranked, and the next scoring makes them anew.
    """

    def scored(record: RunRecord) -> tuple[float, bool]:
        (found,) = score_heads(record.key[:8], ["cosine"], results=tmp_path, save=True).results
        assert found.record.derived is not None
        assert found.record.derived["weights"] == record.outputs_sha256
        return found.record.scores[0].value, found.seconds == 0

    data(tmp_path)
    first = run(tmp_path).record
    assert first is not None
    before, _ = scored(first)
    assert scored(first) == (before, True)
    real = episodic.build_learner
    with monkeypatch.context() as other_weights:
        other_weights.setattr(
            episodic, "build_learner", lambda model, info, seed, *more: real(model, info, seed + 1, *more)
        )
        second = run(tmp_path, resume="force").record
    assert second is not None
    assert second.key == first.key
    assert second.outputs_sha256 != first.outputs_sha256
    assert not ranks(tmp_path)["fewshot/standard+cosine", "single"]
    assert ranks(tmp_path)["fewshot/standard", "single"]
    after, kept = scored(second)
    assert not kept
    (fresh,) = score_heads(second.key[:8], ["cosine"], results=tmp_path).results
    assert after == fresh.record.scores[0].value != before
    assert ranks(tmp_path)["fewshot/standard+cosine", "single"]
    assert len(list((tmp_path / "checkpoints").glob("*.features"))) == 1  # those of the old weights are gone


def test_a_store_is_made_anew_when_the_code_that_made_it_changes(tmp_path: Path) -> None:
    made = tmp_path / "made"
    log = f"open({str(made)!r}, 'a').write('x')"
    data(tmp_path, log=log)
    dark = load("own-data", "train")
    assert load("own-data", "test").digest == dark.digest
    assert made.read_text() == "x"  # once for both
    data(tmp_path, bright=90, log=log)
    light = load("own-data", "train")
    assert made.read_text() == "xx"
    assert int(np.asarray(light.images).min()) >= 90 > int(np.asarray(dark.images).min())
    assert light.digest != dark.digest
    code, output = here("data", "get", "own-data")
    assert code == 0
    assert "already prepared" in output
    data(tmp_path, bright=91, log=log)
    code, output = here("data", "get", "own-data")
    assert "made by other code: it is made again" in output
    assert int(np.asarray(load("own-data", "train").images).min()) >= 91


@pytest.mark.parametrize("manifest", ["[]", "5", '{"source": 5}'])
def test_a_store_whose_manifest_names_no_code_is_made_anew(tmp_path: Path, manifest: str) -> None:
    data(tmp_path)
    digest = load("own-data", "train").digest
    (paths.data() / "own-data" / "manifest.json").write_text(manifest)
    assert load("own-data", "train").digest == digest


def test_a_store_of_unknown_code_serves_the_process_that_made_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slabench.data import loading

    made = tmp_path / "made"
    data(
        tmp_path,
        log=f"open({str(made)!r}, 'a').write('x')",
        more="import importlib\nload = lambda n: importlib.import_module(n)",
    )
    load("own-data", "train")
    load("own-data", "test")
    assert made.read_text() == "x"
    monkeypatch.setattr(loading, "_made", set())
    load("own-data", "train")
    assert made.read_text() == "xx"


def test_episodes_of_a_data_set_that_has_grown_are_drawn_anew(tmp_path: Path) -> None:
    sizes = []
    for each in (8, 9):
        data(tmp_path, each=each)
        images = load("own-data", "test")
        file = slabench.load_episodes(images, "own-data", "test", 2, 1, 2, 5)
        sizes.append(file.manifest.class_sizes)
    assert sizes == [[8] * 3, [9] * 3]


def test_committed_derived_records_are_of_their_trials() -> None:
    records, _ = ResultStore(paths.shipped_results()).scan()
    trials = {record.key: record for record in records}
    derived = [record for record in records if record.derived is not None]
    assert len(derived) > 10
    for record in derived:
        assert record.derived is not None
        assert outdated(record, trials[record.derived["of"]]) is None
        trained_again = {"started": "2999-01-01T00:00:00+00:00", "outputs_sha256": "0" * 64}
        again = trials[record.derived["of"]].model_copy(update=trained_again)
        assert outdated(record, again) is not None


def test_a_record_of_known_code_is_not_stale_for_its_plug_ins() -> None:
    from result_records import make_record

    plugin = {"kind": "head", "name": "own", "origin": "own.py", "sha256": "0" * 64}
    assert stale(make_record(environment={"plugins": [plugin]})) is None
    for odd in (5, ["x"], [{}], None, {"unknown": 1}):
        assert stale(make_record(environment={"plugins": odd})) is None
    assert "it runs code" in (stale(make_record(environment={"plugins": [plugin | {"unknown": "it runs code"}]})) or "")
