"""`slabench run imbalanced` and `supervised` as typed: what they print, refuse, survive and leave behind."""

from __future__ import annotations

import csv
import json
import signal
import time
from pathlib import Path

import pytest
from processes import finish, here, start

# Some seconds on the embedded digits.
TINY = ["--dataset", "digits", "--backbone", "conv4", "--steps", "6", "--precision", "float32", "--threads", "1"]
TINY += ["--set", "select.points=2", "--set", "train.batch_size=32"]


def slabench(folder: Path, *arguments: str) -> tuple[int, str]:
    return here(*arguments, folder=folder)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "imbalanced", "--ratio", "0.01"], "--ratio 100"),
        (["run", "imbalanced", "--loss", "ldm"], "did you mean 'ldam'"),
        (["run", "imbalanced", "--reweight", "effectiv"], "did you mean 'effective'"),
        (["run", "imbalanced", "--sampler", "balanced"], "did you mean 'class-balanced'"),
        (["run", "imbalanced", "--mix", "cutmixx"], "did you mean 'cutmix'"),
        (["run", "imbalanced", "--objective", "sla-sd"], "did you mean 'sla+sd'"),
        (["run", "imbalanced", "--profile", "exponential"], "data.profile = 'exponential'"),
        (["run", "imbalanced", "--policy", "augmix"], "augment.policy = 'augmix'"),
        (["run", "imbalanced", "--dataset", "cifar-fs"], "--dataset cifar100"),
        (["run", "imbalanced", "--protocol", "lda"], "did you mean 'ldam'"),
        (["run", "supervised", "--protocol", "ldam"], "did you mean 'sla'|known: sla"),
        (["run", "fewshot", "--protocol", "sla"], "--protocol sla has no effect in the suite fewshot"),
        (["run", "imbalanced", "--protocol", "ldam", "--preset", "quick"], "both choose the training"),
        (["run", "imbalanced/ldam", "--protocol", "ldam"], "is for a suite"),
        (["run", "imbalanced", "--shots", "5"], "--shots has no effect in the suite imbalanced"),
        (["run", "fewshot", "--ratio", "100"], "--ratio has no effect in the suite fewshot"),
        (["run", "imbalanced", "--head", "protonet"], "--head has no effect in the suite imbalanced"),
        (["run", "imbalanced", "--per-class", "10"], "--per-class works in the suite supervised only"),
        (["run", "supervised", "--profile", "exp"], "slabench run imbalanced"),
        (["run", "supervised", "--dataset", "digits", "--per-class", "500"], "use --per-class"),
        (["run", "imbalanced", "--dataset", "digits", "--ratio", "1e7"], "use a ratio of at most"),
        (["run", "imbalanced", "--counts", "c.csv", "--ratio", "10"], "leave --ratio out"),
        (["run", "imbalanced", "--counts", "c.csv", "--class-order", "reversed"], "leave --class-order out"),
        (["run", "supervised", "--counts", "c.csv"], "slabench run imbalanced --counts"),
        (["run", "imbalanced", "--set", "loss.gama=2"], "did you mean 'loss.gamma'"),
        (["run", "imbalanced", "--loss", "ldam", "--set", "model.layer=linear"], "margins are angles"),
        (["posthoc", "abc"], "abc"),
    ],
)
def test_bad_usage(arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = here(*arguments)
    assert code == 2, output
    assert any(part in output for part in expected.split("|")), output
    assert "Traceback" not in output
    assert not (tmp_path / "results").exists()


def test_missing_data_lists_the_ways_to_get_it(tmp_path: Path) -> None:
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    code, output = here("run", "imbalanced", "--ratio", "100", folder=tmp_path, **offline)
    assert code == 2, output
    assert "slabench data import cifar100 PATH" in output


@pytest.mark.usefixtures("narrow_conv4")
def test_from_run_to_leaderboard_and_posthoc(tmp_path: Path) -> None:
    code, output = slabench(tmp_path, "run", "imbalanced", *TINY, "--ratio", "10", "--objective", "sla+sd")
    assert code == 0, output
    assert "exp, ratio 10 (realised 10), 568 images" in output
    assert "classes: many 2, medium 6, few 2" in output
    for predictor in ("single", "aggregated", "distilled"):
        assert f"    {predictor:<10}  many " in output
    code, again = slabench(tmp_path, "run", "imbalanced", *TINY, "--ratio", "10", "--objective", "sla+sd")
    assert (code, again.count("(finished before)")) == (0, 1)
    code, output = slabench(tmp_path, "run", "imbalanced", *TINY, "--ratio", "10", "--loss", "balanced-softmax")
    assert code == 0, output

    code, output = slabench(tmp_path, "leaderboard", "-o", "board.csv")
    assert code == 0, output
    with open(tmp_path / "board.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["predictor"] for row in rows) == ["aggregated", "aggregated", "distilled", "single", "single"]
    assert {row["protocol"] for row in rows} == {"imbalanced/digits/exp-r10/standard"}
    assert {row["n_test"] for row in rows} == {"355"}
    assert all(row["many"] and row["few"] and row["oracle"] and row["best_val"] for row in rows)

    code, runs = slabench(tmp_path, "list", "runs", "--json")
    keys = [run["key"] for run in json.loads(runs)]
    code, output = slabench(tmp_path, "posthoc", keys[0][:8], "--methods", "temperature,logit-adjust", "--save")
    assert code == 0, output
    assert "2 records kept" in output
    code, output = slabench(tmp_path, "posthoc", keys[1][:8], "--methods", "logit-adjust")
    assert code == 2, output
    assert "train-time and post-hoc adjustment together" in output
    assert "Traceback" not in output
    (outputs,) = [p for p in (tmp_path / "results").rglob("*.outputs.safetensors") if keys[0][:12] in p.name]
    outputs.write_bytes(outputs.read_bytes()[:-100])
    code, output = slabench(tmp_path, "posthoc", keys[0][:8], "--methods", "temperature")
    assert (code, "Traceback" in output) == (1, False), output
    outputs.unlink()
    code, output = slabench(tmp_path, "posthoc", keys[0][:8], "--methods", "temperature")
    assert code != 0
    assert "Traceback" not in output


@pytest.mark.usefixtures("narrow_conv4")
def test_own_counts(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("class,count\n" + "".join(f"{c},{5 + 10 * c}\n" for c in range(10)))
    code, output = slabench(tmp_path, "run", "imbalanced", *TINY, "--counts", "mine.csv")
    assert code == 0, output
    assert "own counts (realised 19), 500 images" in output
    (path,) = (tmp_path / "results").rglob("*.json")
    record = json.loads(path.read_text())
    assert record["images_per_class"] == {str(c): 5 + 10 * c for c in range(10)}
    # A recipe's own data set is the one whose classes are meant.
    (tmp_path / "mine.toml").write_text('extends = "imbalanced/quick"\n[data]\ndataset = "digits"\n')
    code, output = slabench(tmp_path, "run", "mine.toml", *TINY[2:], "--counts", "mine.csv")
    assert code == 0, output
    assert "own counts (realised 19), 500 images" in output
    (tmp_path / "mine.csv").write_text("class,count\nzero,5\n")
    code, output = slabench(tmp_path, "run", "imbalanced", *TINY, "--counts", "mine.csv")
    assert code == 1
    assert "line 2: there is no class 'zero'" in output


@pytest.mark.usefixtures("narrow_conv4")
def test_supervised_with_few_images(tmp_path: Path) -> None:
    code, output = slabench(tmp_path, "run", "supervised", *TINY, "--per-class", "20", "--sla", "--select", "best-val")
    assert code == 0, output
    assert "200 training images" in output
    (path,) = (tmp_path / "results").rglob("*.json")
    record = json.loads(path.read_text())
    assert record["images_per_class"] == 20
    assert record["selection"]["rule"] == "best_val"
    assert record["scores"][0]["metrics"]["many"] is None
    assert "groups" not in record["training_set"]


@pytest.mark.usefixtures("narrow_conv4")
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = ["run", "imbalanced", *TINY, "--ratio", "10", "--sla", "--set", "train.steps=24"]
    command.remove("--steps")
    command.remove("6")
    whole = tmp_path / "whole"
    whole.mkdir()
    assert slabench(whole, *command)[0] == 0
    folder = tmp_path / "stopped"
    folder.mkdir()
    process = start(command, folder, COLUMNS="200", SLABENCH_CHECKPOINT_SECONDS="0")
    deadline = time.monotonic() + 120
    while not list(folder.rglob("*.safetensors")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130, output
    assert "the state is saved" in output
    code, output = slabench(folder, *command)
    assert code == 0, output
    assert "continuing at step" in output
    scores = []
    for place in (whole, folder):
        (path,) = (place / "results" / "runs").rglob("*.json")
        scores.append(json.loads(path.read_text())["scores"])
    assert scores[0] == scores[1]


@pytest.mark.usefixtures("narrow_conv4")
def test_two_at_once_share_the_work(tmp_path: Path) -> None:
    command = ["run", "imbalanced", *TINY, "--ratio", "10", "--seeds", "0,1"]
    both = [start(command, tmp_path, COLUMNS="200") for _ in range(2)]
    outputs = [finish(process) for process in both]
    assert all("Traceback" not in output for _, output in outputs)
    code, output = slabench(tmp_path, *command)
    assert code == 0
    assert output.count("(finished before)") == 2
