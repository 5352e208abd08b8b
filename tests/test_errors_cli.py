"""Wrong uses of the command, as a user types them: what was wrong is said with its value, the remedy, the exit code."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from processes import here
from result_records import classifier_record, digest, make_record
from told import names

from slabench.core.errors import UsageError
from slabench.core.registry import HEADS
from slabench.plots import draw
from slabench.plots.source import NothingToDraw, Source
from slabench.recipes import load_recipe
from slabench.records import outputs as weight_files
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.report import build
from slabench.suites.fewshot.chosen_heads import heads_of_run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLABENCH_RESULTS", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def refused(*words: str, code: int = 2) -> tuple[str, str]:
    """What was wrong and the remedy, of a command that ends with `code` and leaves nothing behind."""
    before = sorted(path for path in Path.cwd().rglob("*") if path.is_file())
    found, output = here(*words)
    assert found == code, output
    assert "Traceback" not in output
    assert sorted(path for path in Path.cwd().rglob("*") if path.is_file()) == before
    message, *rest = output[output.index("error: ") :].splitlines()
    return message.removeprefix("error: "), "\n".join(rest).strip()


def save(record: RunRecord, **outputs: Any) -> RunRecord:
    ResultStore(Path("results")).save(record, {}, **outputs)
    return record


def write(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


SUITES = "fewshot, imbalanced, supervised"
# The words of a run, what the message must name, and the tokens of the remedy.
RUNS: list[tuple[str, list[str], str]] = [
    ("fewshot --sla --objective da", ["--objective da", "--sla"], "one of the two"),
    ("fewshot --no-sla --objective sla", ["--objective sla", "--no-sla"], "one of the two"),
    ("fewshot --preset quik", ["'quik'"], "'quick'"),
    ("imbalanced --preset quick --protocol ldam", ["--preset quick", "--protocol ldam"], "--epochs"),
    (
        "fewshot --dataset glyphs --shots 1 --set protocol.shots=5",
        ["--set protocol.shots=5", "1"],
        "one of the two",
    ),
    ("imbalanced --protocol ldm", ["imbalanced", "'ldm'"], "'ldam'"),
    ("fewshot --protocol sla", ["--protocol sla", "fewshot"], "--preset"),
    ("fewshot/controls --preset quick", ["--preset quick", "'fewshot/controls'"], f"leave --preset out|{SUITES}"),
    ("imbalanced/ldam --protocol ldam", ["--protocol ldam", "'imbalanced/ldam'"], f"leave --protocol out|{SUITES}"),
    ("imbalanced --counts mine.csv --ratio 10", ["--counts"], "leave --ratio out"),
    (
        "imbalanced --counts mine.csv --profile step --class-order label",
        ["--counts"],
        "leave --profile and --class-order out",
    ),
    ("supervised --counts mine.csv", ["--counts", "supervised"], "slabench run imbalanced --counts FILE.csv"),
    ("fewshot --seeds 0,0", ["--seeds 0,0", "distinct"], "--seeds 0,1,2"),
    ("fewshot --seeds=-1", ["--seeds -1", "negative"], "--seeds 0,1,2"),
    ("fewshot --resume always", ["--resume always"], "auto, never, force"),
]


@pytest.mark.parametrize(("words", "values", "remedy"), RUNS)
def test_run(words: str, values: list[str], remedy: str) -> None:
    names(refused("run", *words.split()), *values, remedy=tuple(remedy.split("|")))


def test_a_recipe_of_no_suite() -> None:
    recipe = write("mine.toml", 'suite = "fewshots"\n')
    names(refused("run", recipe), "suite 'fewshots'", remedy="'fewshot'")


@pytest.mark.usefixtures("glyphs")
@pytest.mark.skipif(importlib.util.find_spec("learn2learn") is None, reason="MAML needs learn2learn")
@pytest.mark.parametrize("flag", ["--support-profile", "--query-profile"])
def test_unequal_episodes_in_an_inner_loop(flag: str) -> None:
    said = refused("run", "fewshot", "--dataset", "glyphs", "--learner", "maml", flag, "linear:3")
    names(said, f"{flag} linear:3", "maml", remedy=("leave it out", "another learner"))


@pytest.mark.parametrize("value", ["often", "-1", "nan"])
@pytest.mark.usefixtures("glyphs")
def test_a_wrong_checkpoint_interval_is_said_before_anything_is_run(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLABENCH_CHECKPOINT_SECONDS", value)
    said = refused("run", "fewshot", "--dataset", "glyphs", "--preset", "quick", "--steps", "1")
    names(said, f"SLABENCH_CHECKPOINT_SECONDS={value}", remedy=("unset it", "0 or more"))


@pytest.mark.parametrize("number", ["0", "-5"])
def test_episodes_make(number: str) -> None:
    names(refused("episodes", "make", "glyphs", f"--episodes={number}"), f"--episodes {number}", remedy="1 or more")


HEAD = """
import slabench
from slabench.heads.metric import prototype_logits
slabench.HEADS.add("mine", slabench.Head("mine", prototype_logits, True), "own prototypes")
"""
BACKBONE = """
from slabench import BACKBONES
from slabench.core.errors import UsageError
def build(image_size):
    raise UsageError(f"mine takes 48 pixels, not {image_size}", "scale the images")
BACKBONES.add("mine", build, "images of 48 pixels alone")
"""


@pytest.mark.usefixtures("registries")
def test_check_of_a_kind_that_a_file_does_not_register() -> None:
    mine = write("mine.py", HEAD)
    names(refused("check", mine, "--kind", "losses"), "mine.py", "losses", remedy="leave --kind out")


@pytest.mark.usefixtures("registries")
def test_check_of_a_backbone_that_takes_no_size() -> None:
    code, output = here("check", write("mine.py", BACKBONE))
    assert code == 1
    names((output, output), "16, 32, 64, 84, 224", "48 pixels, not 224", remedy=())


@pytest.mark.usefixtures("registries")
def test_a_plugin_that_registers_no_function() -> None:
    code, output = here("check", write("mine.py", 'import slabench\nslabench.LOSSES.add("mine", 5, "a number")\n'))
    assert code == 1
    names((output, output), "loss 'mine'", "mine.py", "int", "function", remedy=("fix the plug-in", "uninstall it"))


class TestCompare:
    """Which runs and predictors are meant."""

    def test_what_is_left_out_or_too_much(self) -> None:
        save(make_record())
        names(refused("compare", "baseline"), "baseline", remedy=("second run", "--published"))
        for words, extra in (
            (("sla",), "B"),
            (("sla", "--predictor-a", "single"), "B, --predictor-a"),
            (("--format", "json"), "--format"),
        ):
            said = refused("compare", "baseline", *words, "--published")
            names(said, "--published", extra, remedy="slabench compare A --published")

    def test_a_name_of_several_recipes(self) -> None:
        save(make_record("sla"))
        found = [save(make_record(recipe_digest=digest(n), key=digest("key", n))) for n in (1, 2)]
        those = [f"fewshot/baseline {record.key[:12]}" for record in found]
        names(refused("compare", "baseline", "sla"), "'baseline'", "'sla'", *those, remedy="keys")

    def test_a_name_of_several_protocols(self) -> None:
        for shots in (1, 5):
            save(make_record(protocol=f"fewshot/fc100/5w{shots}s15q", key=digest("key", shots)))
        protocols = "fewshot/fc100/5w1s15q, fewshot/fc100/5w5s15q"
        names(refused("compare", "baseline", "--published"), "'baseline'", protocols, remedy=("--protocol", "key"))

    def test_no_predictor_in_common(self) -> None:
        save(make_record("baseline", 0, {"single": [0.5, 0.7]}))
        save(make_record("baseline", 0, {"aggregated": [0.5, 0.7]}, name="fewshot/looks"))
        said = refused("compare", "looks", "baseline")
        names(said, "aggregated", "single", remedy=("--predictor-a", "--predictor-b"))


def test_a_test_prior_of_a_run_that_is_no_classifier_s() -> None:
    record = save(make_record())
    said = refused("show", "run", record.key[:12], "--test-prior", "uniform")
    names(said, "--test-prior uniform", "fewshot/baseline", "classifier", remedy="leave it out")


def test_a_report_of_failed_trials() -> None:
    save(make_record(status="failed", scores=[], error="out of memory"))
    names(refused("report", code=1), "1 records", "results/runs", remedy="slabench list runs")
    with pytest.raises(NothingToDraw) as caught:
        build(Source.of([], None))
    names(caught.value, "no finished trial", remedy="slabench run fewshot/controls --dataset glyphs")


def test_the_weights_of_a_few_shot_run_are_no_damaged_outputs() -> None:
    """They lie where a classifier's logits do; a report passes over them without a word."""
    record = make_record(outputs_file="seed0.outputs.safetensors", outputs_sha256="0" * 64)
    store = ResultStore(Path("results"))
    (store.path(record).parent / "seed0.outputs.safetensors").parent.mkdir(parents=True)
    weight_files.save_weights(
        weight_files.ModelWeights({}, record.key), store.path(record).parent / "seed0.outputs.safetensors"
    )
    store.save(record, {"single": [0.5, 0.7]})
    source = Source.of(store.records(), store)
    assert "No reliability diagram" not in build(source)
    assert source.problems == []
    with pytest.raises(NothingToDraw):
        draw("reliability", source)
    assert source.problems == []


def test_a_plot_of_no_kind() -> None:
    names(refused("plot", "reliabilty", "-o", "a.png"), "plot 'reliabilty'", remedy="'reliability'")
    with pytest.raises(UsageError) as caught:
        draw("reliabilty", Source.of([], None))
    names(caught.value, "plot 'reliabilty'", remedy="'reliability'")


@pytest.mark.parametrize("numbers", ["0", "5,5", "1,-5"])
@pytest.mark.parametrize("flag", ["--ways", "--shots"])
def test_score_at_no_numbers(flag: str, numbers: str) -> None:
    names(refused("score", "abc", flag, numbers), f"{flag} {numbers}", "distinct", "at least 1", remedy=f"{flag} 5,10")


@pytest.mark.parametrize("number", ["0", "-3"])
@pytest.mark.parametrize("flag", ["--queries", "--episodes", "--threads"])
def test_score_at_a_number_below_1(flag: str, number: str) -> None:
    """0 is no "as the run has it", and torch's own refusal of threads is a traceback."""
    names(refused("score", "abc", f"{flag}={number}"), f"{flag} {number}", remedy=f"{flag} 1 or more")


class TestScore:
    """Runs that leave no weights, and weights that are none."""

    def test_a_classifier(self) -> None:
        record = save(classifier_record(per_class={"a": 0.5, "b": 0.7}, counts={"a": 9, "b": 3}))
        said = refused("score", record.key[:8])
        names(said, record.key[:12], "imbalanced/ce", "suite imbalanced", remedy="slabench posthoc")

    def test_a_run_without_weights(self) -> None:
        record = save(make_record(environment={"slabench": "0.1.0"}))
        said = refused("score", record.key[:8])
        names(said, record.key[:12], "fewshot/baseline", "done", "slabench 0.1.0", remedy="--resume force")

    def test_no_head(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not to be had with slabench's own heads, of which most need no training."""
        learned = [name for name in HEADS.names() if HEADS.get(name).module is not None]
        monkeypatch.setattr(HEADS, "names", lambda: learned)
        with pytest.raises(UsageError, match="no head to score"):
            heads_of_run(None, "protonet", "episodic")

    def weights(self, data: bytes | None = None, key: str | None = None) -> tuple[RunRecord, Path]:
        """A record whose weights file holds `data`, or an empty network of the trial `key`; digests agree."""
        recipe = load_recipe("fewshot/quick", {"data.dataset": "glyphs"})[0].model_dump(mode="json", exclude={"seeds"})
        record = make_record(recipe=recipe, dataset="glyphs")
        store = ResultStore(Path("results"))
        path = store.path(record).with_suffix(".outputs.safetensors")
        path.parent.mkdir(parents=True)
        if data is None:
            weight_files.save_weights(weight_files.ModelWeights({}, key or record.key), path)
        else:
            path.write_bytes(data)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        changed = make_record(recipe=recipe, dataset="glyphs", outputs_file=path.name, outputs_sha256=sha256)
        store.save(changed, {})
        return changed, path

    def test_a_file_that_is_no_weights(self) -> None:
        record, path = self.weights(b"no weights at all")
        names(
            refused("score", record.key[:8], code=1), path, "no weights", remedy=("--resume force", "restore the file")
        )

    def test_another_trial_s_weights(self) -> None:
        record, path = self.weights(key="f" * 64)
        said = refused("score", record.key[:8], code=1)
        names(said, path, "f" * 12, record.key[:12], remedy=("--resume force", "restore the file"))

    @pytest.mark.usefixtures("glyphs")
    def test_weights_that_lack_a_tensor(self) -> None:
        record, _ = self.weights()
        said = refused("score", record.key[:8], "--heads", "protonet", "--episodes", "5", code=1)
        names(said, "weights", "lack backbone", remedy="--resume force")


def test_a_leaderboard_into_a_folder() -> None:
    Path("board").mkdir()
    names(refused("leaderboard", "-o", "board"), "board", "folder", remedy="-o board/FILE")


def test_a_cutout_larger_than_the_images() -> None:
    said = refused("run", "imbalanced", "--dataset", "digits", "--cutout", "999")
    names(said, "--cutout 999", "32 x 32", remedy="at most 32")
