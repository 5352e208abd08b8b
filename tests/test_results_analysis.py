"""benchmarks/analysis on records made by hand: differences against scipy.stats, pairs counted, curves read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysis_scripts import script
from PIL import Image
from result_records import make_record
from scipy import stats

from slabench.records.record import CurvePoint
from slabench.records.store import ResultStore


@pytest.fixture
def results(tmp_path: Path) -> tuple[Path, dict[tuple[str, int], np.ndarray]]:
    """Three objectives, two seeds each: `sla` and `da` at 4M passes, the baseline at 1M."""
    rng = np.random.default_rng(3)
    hardness = rng.integers(20, 60, 60)
    arrays = {}
    for objective, gain in {"baseline": 0, "da": 2, "sla": 5}.items():
        for seed in (0, 1):
            arrays[objective, seed] = np.float32((hardness + gain + rng.integers(-3, 4, 60)) / 75)
    for (objective, seed), array in arrays.items():
        accuracies = {"single": array, "aggregated": np.minimum(array + np.float32(1 / 75), 1)}
        passes = 1_000_000 if objective == "baseline" else 4_000_000
        record = make_record(objective, seed, accuracies, images_seen=passes)
        ResultStore(tmp_path / "results").save(record, accuracies)
    return tmp_path / "results", arrays


def test_paired_differences_are_scipys(
    results: tuple[Path, dict[tuple[str, int], np.ndarray]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, arrays = results
    assert script("paired").main(["--results", str(root), "-o", str(root / "paired.csv")]) == 0
    frame = pd.read_csv(root / "paired.csv", dtype={"seed": str}, keep_default_na=True)
    assert len(frame) == 15 * 3, "six rows make 15 pairs, each with two seeds and their mean"
    pair = frame[
        (frame.a == "fewshot/sla")
        & (frame.b == "fewshot/baseline")
        & (frame.a_predictor == "single")
        & (frame.b_predictor == "single")
    ].set_index("seed")
    for seed in (0, 1):
        a, b = (arrays[name, seed].astype(float) for name in ("sla", "baseline"))
        test = stats.ttest_rel(a, b)
        row = pair.loc[str(seed)]
        assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval()), abs=1e-6)
        assert row["p_value"] == pytest.approx(test.pvalue, rel=1e-2)
    mean = {name: (arrays[name, 0].astype(float) + arrays[name, 1]) / 2 for name in ("sla", "baseline")}
    together = pair.loc["all"]
    assert together["value"] == pytest.approx(np.mean(mean["sla"] - mean["baseline"]), abs=1e-6)
    expected = stats.ttest_rel(mean["sla"], mean["baseline"]).confidence_interval()
    assert (together["low"], together["high"]) == pytest.approx(tuple(expected), abs=1e-6)
    per_seed = [np.mean(arrays["sla", seed].astype(float) - arrays["baseline", seed]) for seed in (0, 1)]
    assert together["seeds_std"] == pytest.approx(np.std(per_seed, ddof=1), abs=1e-6)
    assert together["seeds_ci95"] == pytest.approx(12.7062 * np.std(per_seed, ddof=1) / np.sqrt(2), rel=1e-3)
    assert f"{100 * together['value']:+.2f}" in capsys.readouterr().out


def test_the_questions_name_the_controls(results: tuple[Path, dict[tuple[str, int], np.ndarray]]) -> None:
    root, _ = results
    script("paired").main(["--results", str(root), "-o", str(root / "paired.csv")])
    frame = pd.read_csv(root / "paired.csv", dtype={"seed": str})
    frame = frame[frame.seed == "all"]
    asked = {
        (row.a.split("/")[1], row.a_predictor, row.b.split("/")[1], row.b_predictor): row.question
        for row in frame.itertuples()
    }
    assert asked["sla", "aggregated", "baseline", "single"] == "baseline single"
    assert asked["sla", "aggregated", "baseline", "aggregated"] == "baseline aggregated"
    assert asked["baseline", "aggregated", "baseline", "single"] == "baseline single, equal images seen"
    assert asked["sla", "aggregated", "da", "aggregated"] == "other objective, equal images seen"
    assert asked["da", "single", "baseline", "aggregated"] == "baseline aggregated"


def test_other_episodes_and_quick_runs_are_never_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ResultStore(tmp_path)
    accuracies = {"single": [0.5, 0.25]}
    store.save(make_record("baseline", accuracies=accuracies), accuracies)
    store.save(make_record("sla", accuracies=accuracies, episodes_digest="f" * 64), accuracies)
    store.save(make_record("da", accuracies=accuracies, limited=True), accuracies)
    store.save(make_record("sla", seed=1, accuracies=accuracies, name="other-seed"), accuracies)
    assert script("paired").main(["--results", str(tmp_path), "-o", str(tmp_path / "paired.csv")]) == 1
    assert "no two records" in capsys.readouterr().err
    assert not (tmp_path / "paired.csv").exists()


def test_stale_records_are_named_and_never_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, accuracies = ResultStore(tmp_path), {"single": np.float32([0.5, 0.6])}
    for objective in ("sla", "baseline"):
        store.save(make_record(objective, 0, accuracies, protocol_version=99), accuracies)
    assert script("paired").main(["--results", str(tmp_path)]) == 1
    assert "fewshot/sla is stale and left out: made by version 99" in " ".join(capsys.readouterr().err.split())


def test_curves(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for seed, value in ((0, 0.3), (1, 0.5)):
        val = {"single": value, "aggregated": value + 0.1}
        curve = [CurvePoint(step=step, images_seen=1000 * step, seconds=step, val=val) for step in (10, 20)]
        if seed == 1:  # a step that only one seed validated, and one without validation, make no point
            curve += [CurvePoint(step=30, images_seen=30_000, seconds=30, val={"single": 1.0})]
        curve += [CurvePoint(step=40, images_seen=40_000, seconds=40, loss=0.5)]
        store.save(make_record("sla", seed, curve=curve), {})
    store.save(make_record("quick", limited=True), {})
    assert script("curves").main(["--results", str(tmp_path)]) == 0
    frame = pd.read_csv(tmp_path / "curves-fc100-5shot.csv")
    assert set(frame["name"]) == {"fewshot/sla"}
    assert frame["step"].tolist() == [10, 20, 10, 20]
    single = frame[frame.predictor == "single"]
    assert single["mean"].tolist() == pytest.approx([0.4, 0.4])
    assert (single["low"].tolist(), single["high"].tolist()) == ([0.3, 0.3], [0.5, 0.5])
    assert single["images_seen"].tolist() == single["image_passes"].tolist() == [10_000, 20_000]
    picture = tmp_path / "curves-fc100-5shot.png"
    assert picture.stat().st_size < 150_000
    with Image.open(picture) as image:
        assert image.format == "PNG"


def test_curves_of_unequal_protocols_are_not_drawn_together(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    for digest in ("e" * 64, "f" * 64):
        store.save(make_record("sla", episodes_digest=digest), {})
    script("curves").main(["--results", str(tmp_path)])
    assert len(list(tmp_path.glob("curves-fc100-5shot-*.png"))) == 2


def test_curves_without_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script("curves").main(["--results", str(tmp_path)]) == 1
    assert "no finished record" in capsys.readouterr().err
