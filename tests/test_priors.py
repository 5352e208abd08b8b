"""Test priors: from the recalls, against a test set that was really re-sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from processes import here
from result_records import classifier_record

from slabench.core.errors import DataError, UsageError
from slabench.evaluation.metrics import accuracy_under_prior, read_prior
from slabench.records.store import ResultStore

NAMES = ["a", "b", "c", "d"]
COUNTS = [5, 50, 1, 20]  # b, d, a, c from the most frequent on


def test_forward_and_backward_follow_the_training_counts() -> None:
    forward, backward = (read_prior(f"{kind}:8", NAMES, COUNTS) for kind in ("forward", "backward"))
    assert forward.tolist() == pytest.approx([8 ** (-2 / 3), 1, 1 / 8, 8 ** (-1 / 3)])
    assert backward.tolist() == pytest.approx([8 ** (-1 / 3), 1 / 8, 1, 8 ** (-2 / 3)])
    assert read_prior("forward:1", NAMES, COUNTS).tolist() == [1] * 4
    assert read_prior("uniform", NAMES, None).tolist() == [1] * 4


def test_a_weighted_sum_of_recalls_is_the_accuracy_on_a_resampled_test() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 500)
    right = generator.random(2000) < np.array([0.9, 0.5, 0.2, 0.7])[labels]
    recall = [float(right[labels == c].mean()) for c in range(4)]
    prior = read_prior("forward:10", NAMES, COUNTS)
    kept = np.concatenate([np.tile(np.flatnonzero(labels == c), 1 + round(1000 * prior[c])) for c in range(4)])
    shares = np.bincount(labels[kept]) / len(kept)
    assert right[kept].mean() == pytest.approx(accuracy_under_prior(recall, shares), abs=1e-9)


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("class,share\nb,0.5\na,0\nc,1.5\nd,2\n")
    assert read_prior(str(path), NAMES, None).tolist() == [0, 0.5, 1.5, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("class,share\na,1\n", "has no line for 'b'"),
        ("class,share\na,1\nbb,1\n", "line 3: there is no class 'bb'"),
        ("class,share\na,much\n", "share 'much' is not a number"),
        ("name,share\na,1\n", "needs the columns class,share"),
        (None, "cannot be read"),
    ],
)
def test_bad_csv(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_prior(str(path), NAMES, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forwards:5", "uniform, forward:50"),
        ("forward:x", "not a ratio"),
        ("backward:0.5", "not a ratio"),
        ("forward", "not a ratio"),
    ],
)
def test_unknown_priors(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_prior(text, NAMES, COUNTS)
    with pytest.raises(UsageError, match="have the same size"):
        read_prior("forward:5", NAMES, None)


def test_show_run(tmp_path: Path) -> None:
    record = classifier_record(
        per_class={"a": 0.9, "b": 0.5, "c": 0.2, "d": 0.7}, counts=dict(zip(NAMES, COUNTS, strict=True))
    )
    ResultStore(tmp_path).save(record, {"single": np.array([1, 0, 1, 0], np.float32)})
    arguments = ["show", "run", record.key[:8], "--results", str(tmp_path)]
    code, output = here(*arguments, "--test-prior", "forward:8")
    assert code == 0, output
    shares = np.array([8 ** (-2 / 3), 1, 1 / 8, 8 ** (-1 / 3)])
    expected = 100 * (shares * [0.9, 0.5, 0.2, 0.7]).sum() / shares.sum()
    assert f"single under the test prior forward:8: {expected:.2f} %" in output
    (few,) = [line.split() for line in output.splitlines() if line.startswith("few")]
    assert few == ["few", "n/a"]
    code, output = here(*arguments, "--test-prior", "sideways")
    assert code == 2
    assert "forward:50" in output
