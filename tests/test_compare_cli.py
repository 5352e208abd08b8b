"""`slabench compare` on records made by hand and on the published ones: what it prints, and how it refuses."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from result_records import classifier_record, make_record
from scipy import stats
from typer.testing import CliRunner, Result

import slabench
from slabench.cli.app import app
from slabench.core import paths
from slabench.core.errors import DataError, IntegrityError, UsageError
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore

PUBLISHED = str(paths.shipped_results())
FC100 = ("--protocol", "fc100/5w5s", "--results", PUBLISHED)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLABENCH_RESULTS", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["compare", *arguments])


def refused(*arguments: str) -> UsageError:
    result = run(*arguments)
    assert isinstance(result.exception, UsageError), (result.output, result.exception)
    return result.exception


def accuracies(gain: float, seed: int, predictors: tuple[str, ...] = ("single", "aggregated")) -> dict[str, Any]:
    rng = np.random.default_rng(11)
    hardness = rng.integers(20, 50, 80)
    noise = np.random.default_rng(100 + seed + round(gain)).integers(-3, 4, 80)
    return {p: np.float32((hardness + gain + noise + 2 * i) / 75) for i, p in enumerate(predictors)}


def save(objective: str, gain: float = 0, seed: int = 0, **changes: Any) -> RunRecord:
    arrays = changes.pop("arrays", None) or accuracies(gain, seed)
    record = make_record(objective, seed, arrays, **changes)
    ResultStore(Path("results")).save(record, arrays)
    return record


def frame(*arguments: str) -> pd.DataFrame:
    result = run(*arguments, "--format", "csv")
    assert result.exit_code == 0, (result.output, result.exception)
    return pd.read_csv(io.StringIO(result.stdout), dtype={"seeds": str})


def test_the_published_fc100_rows() -> None:
    result = run("controls/sla", "controls/baseline", *FC100)
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.stdout.splitlines()) <= 80
    said = " ".join(result.stdout.split())
    # The figures of docs/results.md, which were made by benchmarks/analysis/paired.py.
    assert "On the same 2,000 FC100 5-way 5-shot episodes sla (aggregated, 3 seeds) is 2.51 ± 0.21 points above" in said
    assert "0.46 ± 0.18 (± 0.64 over seeds too) below the baseline with as many views (4)" in said
    assert "2.41 ± 0.26 below the baseline with as many images seen and 4 views (1 seed)" in said
    assert "So the gain does not stand against all of its controls." in said
    assert "sla saw 4.0 times as many images in training as baseline." in said


def test_the_csv_is_scipys_on_the_side_files() -> None:
    found = frame("controls/sla", "controls/baseline", *FC100)
    row = found[
        (found.a_predictor == "aggregated") & (found.b_predictor == "single") & (found.question == "asked")
    ].iloc[0]
    arrays: dict[str, list[np.ndarray]] = {"sla": [], "baseline": []}
    for record in ResultStore(Path(PUBLISHED)).records():
        name = record.name.removeprefix("fewshot/controls/")
        if record.protocol == "fewshot/fc100/5w5s15q" and name in arrays:
            predictor = "aggregated" if name == "sla" else "single"
            arrays[name].append(ResultStore(Path(PUBLISHED)).episodes(record)[predictor].astype(float))
    a, b = (np.array(arrays[name]) for name in ("sla", "baseline"))
    test = stats.ttest_rel(a.mean(0), b.mean(0)).confidence_interval()
    assert row["difference"] == pytest.approx(np.mean(a - b), abs=1e-6)
    assert row["ci_units"] == pytest.approx((test.high - test.low) / 2, abs=1e-6)
    assert row["std_seeds"] == pytest.approx((a - b).mean(1).std(ddof=1), abs=1e-6)
    # One pass over the 12,000 images is 120 episodes.
    wide = stats.t.ppf(0.975, 119) * (a - b).mean(0).std(ddof=1) / np.sqrt(120)
    assert row["ci_without_reuse"] == pytest.approx(wide, rel=0.02)
    assert row["ci_units"] < row["ci_without_reuse"] < row["ci_classes"]
    assert row["ci_both"] >= max(row["ci_seeds"], row["ci_units"])
    assert list(found.question).count("asked") == 3
    assert list(found.passes_a) == list(found.images_seen_a)
    assert set(found.question) == {"asked", "equal views", "equal images seen, equal views", "equal images seen"}


def test_the_published_long_tail(tmp_path: Path) -> None:
    # These two records alone: more rows and seeds are added to the published ones as they are made.
    folder = Path("runs/imbalanced/imbalanced-cifar100-exp-r100-standard")
    for name in ("ce-sla", "ce-baseline"):
        own = folder / f"imbalanced-controls-{name}"
        (tmp_path / own).mkdir(parents=True)
        for file in (Path(PUBLISHED) / own).glob("seed0-*"):
            if "outputs" not in file.name:
                shutil.copy(file, tmp_path / own)
    results = str(tmp_path)
    result = run("ce-sla", "ce-baseline", "--results", results)
    said = " ".join(result.stdout.split())
    assert "ce-sla (aggregated, 1 seed) is 1.72 ± 0.79 points above ce-baseline (single, 1 seed)" in said
    assert "only A right 903, only B right 731 of 10,000" in said
    assert "One seed: how far another training would change this is not known." in said
    assert "No baseline with as many images seen is in the folder" in said
    found = frame("ce-sla", "ce-baseline", "--results", results).iloc[0]
    assert found["p_mcnemar_exact"] == pytest.approx(stats.binomtest(903, 903 + 731).pvalue, rel=0.01)
    assert np.isnan(found["p_wilcoxon"])
    assert np.isnan(found["ci_without_reuse"])


def test_json_from_the_command_and_from_python() -> None:
    save("sla", 5, 0), save("sla", 5, 1), save("baseline", 0, 0), save("baseline", 0, 1)
    result = run("fewshot/sla", "fewshot/baseline", "--format", "json")
    found = json.loads(result.stdout)
    made = slabench.compare("sla", "baseline")
    assert found["conclusion"] == made.conclusion
    for name, old in (("images_seen", "passes"), ("views", "looks")):
        assert found["pairs"][0]["a"][name] == found["pairs"][0]["a"][old] == getattr(made.pairs[0].a, name)
    pair = made.pairs[0]
    assert (pair.a.predictor, pair.b.predictor) == ("aggregated", "single")
    assert found["pairs"][0]["over_both"]["half_width"] == pytest.approx(pair.over_both.half_width)
    assert set(found["pairs"][0]["by_seed"]) == {"0", "1"}
    assert found["pairs"][0]["without_reuse"] is None
    assert "not on this machine" in result.stderr, "the records' episode file does not exist"


def test_without_an_episode_file_only_the_first_view_is_given() -> None:
    save("sla", 5), save("da", 2)
    result = run("sla", "da")
    assert result.exit_code == 0, result.output
    assert "left out" in result.stderr
    assert "none used twice" not in result.stdout


def test_an_episode_file_of_other_bytes_is_not_used() -> None:
    save("sla", 5, episodes="fc100/test-5w5s15q-2000"), save("da", 2, episodes="fc100/test-5w5s15q-2000")
    result = run("sla", "da")
    assert "is another file than the one these runs were scored on" in result.stderr
    assert "none used twice" not in result.stdout


def test_predictors_may_be_chosen() -> None:
    save("sla", 5), save("baseline")
    found = frame("sla", "baseline", "--predictor-a", "single", "--predictor-b", "single")
    asked = found[found.question == "asked"]
    assert list(zip(asked.a_predictor, asked.b_predictor, strict=True)) == [("single", "single")]
    assert list(frame("sla", "baseline", "--predictor-a", "single").b_predictor[:2]) == ["single", "aggregated"]
    error = refused("sla", "baseline", "--predictor-b", "agregated")
    assert "agregated" in error.message
    assert "aggregated" in error.remedy


def test_unequal_seeds_are_compared_on_the_common_ones() -> None:
    for seed in (0, 1, 2):
        save("sla", 5, seed)
    save("baseline", 0, 1)
    found = frame("sla", "baseline").iloc[0]
    assert found["seeds"] == "1"
    assert found["mean_a"] == pytest.approx(accuracies(5, 1)["aggregated"].mean(), abs=1e-6)
    save("da", 1, 7), save("da", 1, 8)
    result = run("sla", "da")
    assert "no seed in common: one has 0, 1, 2, the other 7, 8" in str(result.exception)


def test_two_seeds_of_one_recipe_by_their_keys() -> None:
    a, b = save("baseline", 0, 0), save("baseline", 1, 1)
    result = run(a.key[:10], b.key[:10])
    assert result.exit_code == 0, result.exception
    assert "two single trainings" in result.stderr


def test_controls_at_equal_images_seen_are_found_by_their_cost() -> None:
    save("sla", 5, images_seen=4_000_000), save("baseline")
    save("baseline", 9, name="fewshot/longer", images_seen=4_000_000)
    found = frame("sla", "baseline")
    controls = found[found.question != "asked"].set_index(["b", "b_predictor"])
    assert set(controls.index) == {("baseline", "aggregated"), ("longer", "aggregated"), ("longer", "single")}
    expected = (accuracies(5, 0)["aggregated"] - accuracies(9, 0)["aggregated"].astype(float)).mean()
    assert controls.loc[("longer", "aggregated"), "difference"] == pytest.approx(expected, abs=1e-6)
    # The other way round the asked difference turns its sign, and the controls are the method's still.
    turned = frame("baseline", "sla")
    assert turned.difference[0] == pytest.approx(-found.difference[0])
    assert list(turned[turned.question != "asked"].difference) == list(found[found.question != "asked"].difference)


def test_quick_runs_are_compared_with_a_warning() -> None:
    save("sla", 5, limited=True), save("baseline", limited=True)
    result = run("sla", "baseline")
    assert result.exit_code == 0, result.exception
    assert result.stderr.count("reduced budget (quick)") == 2


def test_stale_runs_are_compared_with_a_warning_and_have_no_controls() -> None:
    save("sla", 5, protocol_version=99), save("baseline", protocol_version=99)
    result = run("sla", "baseline")
    assert result.exit_code == 0, result.exception
    assert result.stderr.count("is stale, made by version 99 of the protocol") == 2
    assert set(frame("sla", "baseline").question) == {"asked"}


def test_a_name_means_the_present_run_where_there_is_one() -> None:
    save("sla", 5, protocol_version=99, key="9" * 64), save("baseline", protocol_version=99, key="8" * 64)
    present = save("sla", 5), save("baseline")
    found = json.loads(run("sla", "baseline", "--format", "json").stdout)
    assert found["protocol_version"] == 1
    assert [found["pairs"][0][side]["keys"] for side in "ab"] == [[record.key[:12]] for record in present]
    assert run("9" * 8, "8" * 8).exit_code == 0, "by their keys the stale ones can still be had"


def test_no_such_run() -> None:
    assert "holds no records" in refused("sla", "baseline", "--results", "nowhere").message
    save("sla"), save("baseline")
    error = refused("slaa", "baseline")
    assert "no run in results is called 'slaa' or has a key that begins with it" in error.message
    assert "did you mean 'sla'?" in error.remedy
    assert error.exit_code == 2


def test_an_ambiguous_prefix_and_an_ambiguous_name() -> None:
    keys = [save("baseline", name=f"fewshot/x{i}", key=f"ab{i}" + "0" * 61).key for i in range(2)]
    error = refused("ab", "x0")
    assert all(key[:12] in error.message for key in keys)
    save("sla"), save("sla", protocol="fewshot/fc100/5w1s15q"), save("baseline")
    save("baseline", protocol="fewshot/fc100/5w1s15q")
    error = refused("sla", "baseline")
    assert "2 protocols: fewshot/fc100/5w1s15q, fewshot/fc100/5w5s15q" in error.message
    assert "--protocol" in error.remedy
    assert run("sla", "baseline", "--protocol", "5w1s").exit_code == 0
    assert "fc200" in refused("sla", "baseline", "--protocol", "fc200").message


def test_the_same_run_twice() -> None:
    key = save("sla").key
    assert "the same run" in refused(key[:9], key[:8]).message
    assert "the same run" in refused("sla", key[:8], "--predictor-a", "single").message
    both = frame("sla", "sla", "--predictor-a", "aggregated", "--predictor-b", "single")
    assert both.difference[0] == pytest.approx(2 / 75, abs=1e-6)


@pytest.mark.parametrize(
    ("field", "words"),
    [("episodes_digest", "episodes digest"), ("dataset_digest", "data digest"), ("split_digest", "split digest")],
)
def test_unequal_digests_are_refused_with_both_values(field: str, words: str) -> None:
    save("sla"), save("baseline", **{field: "f" * 64})
    message = refused("sla", "baseline").message
    assert f"{words} {'edc'[('episodes_digest', 'dataset_digest', 'split_digest').index(field)] * 12} of sla" in message
    assert f"{'f' * 12} of baseline" in message
    assert "protocol digest" not in message


def test_other_protocols_and_versions_are_refused() -> None:
    a, b, c = save("sla"), save("da", protocol="fewshot/fc100/5w1s15q"), save("baseline", protocol_version=2)
    assert "protocol fewshot/fc100/5w5s15q of" in refused(a.key[:12], b.key[:12]).message
    assert "protocol version 1 of" in refused(a.key[:12], c.key[:12]).message


def test_transductive_against_inductive_is_refused() -> None:
    save("sla", transductive=True), save("baseline")
    message = refused("sla", "baseline").message
    assert "sla is transductive and baseline is inductive" in message


def test_a_missing_and_a_damaged_side_file() -> None:
    record = save("sla")
    save("baseline")
    side = next(Path("results").rglob(f"seed0-{record.key[:12]}.*.npz"))
    good = side.read_bytes()
    side.write_bytes(good[:-4] + b"oops")
    assert isinstance(run("sla", "baseline").exception, IntegrityError)
    side.unlink()
    error = run("sla", "baseline").exception
    assert isinstance(error, IntegrityError)
    assert side.name in error.message
    assert "--resume force" in error.remedy


def test_a_record_without_side_file() -> None:
    record = make_record("sla")
    ResultStore(Path("results")).save(record, {})
    save("baseline", arrays={"single": [0.5, 0.6]})
    error = run("sla", "baseline").exception
    assert isinstance(error, DataError)
    assert "has no side file with the single accuracy of each test episode" in error.message


def test_a_run_that_is_not_finished() -> None:
    save("baseline")
    failed = make_record("sla", status="failed", error="out of memory")
    ResultStore(Path("results")).save(failed, {})
    assert "no run of 'sla' is finished: failed" in refused("sla", "baseline").message


def test_an_unknown_format() -> None:
    assert "unknown format 'xml'" in refused("a", "b", "--format", "xml").message


def test_without_own_records_the_shipped_ones_are_taken() -> None:
    result = run("controls/ce-sla", "controls/ce-baseline")
    assert result.exit_code == 0, result.exception
    assert "shipped with this version" in result.stderr


def test_images_of_a_classifier_by_hand() -> None:
    right = {"a": [1, 1, 1, 0, 1, 0], "b": [1, 0, 0, 0, 1, 1]}
    for name, array in right.items():
        record = classifier_record(per_class={"x": 0.5, "y": 0.5}, counts={"x": 9, "y": 9}, name=f"imbalanced/{name}")
        ResultStore(Path("results")).save(record, {"single": np.float32(array)})
    row = frame("a", "b").iloc[0]
    assert (row["only_a"], row["only_b"], row["unit"], row["n_units"]) == (2, 1, "images", 6)
    assert row["p_mcnemar_exact"] == 1
    assert row["difference"] == pytest.approx(1 / 6, abs=1e-6)
