"""Wrong uses of the command, as a user types them: what was wrong is said with its value, the remedy, the exit code."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from processes import here
from result_records import classifier_record, digest, make_record

from slabench.core.errors import UsageError
from slabench.core.registry import HEADS
from slabench.plots import draw
from slabench.plots.source import NothingToDraw, Source
from slabench.recipes import load_recipe
from slabench.records import outputs as weight_files
from slabench.records.record import RunRecord
from slabench.records.store import ResultStore
from slabench.report import build
from slabench.suites.fewshot.score_heads import _heads


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


RUNS = [
    ("fewshot --sla --objective da", "--objective da and --sla contradict each other", "give one of the two"),
    ("fewshot --no-sla --objective sla", "--objective sla and --no-sla contradict each other", "give one of the two"),
    ("fewshot --preset quik", "unknown preset 'quik'", "did you mean 'quick'?"),
    (
        "imbalanced --preset quick --protocol ldam",
        "--preset quick and --protocol ldam both choose the training",
        "give one; --epochs shortens either",
    ),
    (
        "fewshot --dataset glyphs --shots 1 --set protocol.shots=5",
        "--set protocol.shots=5 contradicts a flag that says 1",
        "give one of the two",
    ),
    ("imbalanced --protocol ldm", "unknown protocol of imbalanced 'ldm'", "did you mean 'ldam'?"),
    (
        "fewshot --protocol sla",
        "--protocol sla has no effect in the suite fewshot",
        "choose its training with --preset",
    ),
    (
        "fewshot/controls --preset quick",
        "--preset quick is for a suite, and 'fewshot/controls' is a recipe",
        "leave --preset out, or name a suite: fewshot, imbalanced, supervised",
    ),
    (
        "imbalanced/ldam --protocol ldam",
        "--protocol ldam is for a suite, and 'imbalanced/ldam' is a recipe",
        "leave --protocol out, or name a suite: fewshot, imbalanced, supervised",
    ),
    (
        "imbalanced --counts mine.csv --ratio 10",
        "--counts says how many images each class keeps",
        "leave --ratio out",
    ),
    (
        "imbalanced --counts mine.csv --profile step --class-order label",
        "--counts says how many images each class keeps",
        "leave --profile and --class-order out",
    ),
    (
        "supervised --counts mine.csv",
        "--counts has no effect in the suite supervised",
        "slabench run imbalanced --counts FILE.csv",
    ),
    ("fewshot --seeds 0,0", "--seeds 0,0: seeds must be distinct and not negative", "write for example --seeds 0,1,2"),
    ("fewshot --seeds=-1", "--seeds -1: seeds must be distinct and not negative", "write for example --seeds 0,1,2"),
    ("fewshot --resume always", "--resume always is unknown", "known: auto, never, force"),
]


@pytest.mark.parametrize(("words", "message", "remedy"), RUNS)
def test_run(words: str, message: str, remedy: str) -> None:
    assert refused("run", *words.split()) == (message, remedy)


def test_a_recipe_of_no_suite() -> None:
    recipe = write("mine.toml", 'suite = "fewshots"\n')
    assert refused("run", recipe) == ("unknown suite 'fewshots'", "did you mean 'fewshot'?")


@pytest.mark.usefixtures("glyphs")
@pytest.mark.skipif(importlib.util.find_spec("learn2learn") is None, reason="MAML needs learn2learn")
@pytest.mark.parametrize("flag", ["--support-profile", "--query-profile"])
def test_unequal_episodes_in_an_inner_loop(flag: str) -> None:
    message, remedy = refused("run", "fewshot", "--dataset", "glyphs", "--learner", "maml", flag, "linear:3")
    assert message == f"{flag} linear:3 with maml: the inner loop does not support unequal episodes"
    assert remedy == "leave it out, or choose another learner"


@pytest.mark.parametrize("value", ["often", "-1", "nan"])
@pytest.mark.usefixtures("glyphs")
def test_a_wrong_checkpoint_interval_is_said_before_anything_is_run(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLABENCH_CHECKPOINT_SECONDS", value)
    message, remedy = refused("run", "fewshot", "--dataset", "glyphs", "--preset", "quick", "--steps", "1")
    assert message == f"SLABENCH_CHECKPOINT_SECONDS={value} is not a number of seconds"
    assert remedy == "unset it, or give 0 or more"


@pytest.mark.parametrize("number", ["0", "-5"])
def test_episodes_make(number: str) -> None:
    words = ("episodes", "make", "glyphs", f"--episodes={number}")
    assert refused(*words) == (f"--episodes {number} is not positive", "give 1 or more")


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
    message, remedy = refused("check", mine, "--kind", "losses")
    assert message == "mine.py registers nothing of the kind losses"
    assert remedy == "leave --kind out"


@pytest.mark.usefixtures("registries")
def test_check_of_a_backbone_that_takes_no_size() -> None:
    code, output = here("check", write("mine.py", BACKBONE))
    assert code == 1
    assert "it takes images of none of the sizes (16, 32, 64, 84, 224): mine takes 48 pixels, not 224" in output


@pytest.mark.usefixtures("registries")
def test_a_plugin_that_registers_no_function() -> None:
    code, output = here("check", write("mine.py", 'import slabench\nslabench.LOSSES.add("mine", 5, "a number")\n'))
    assert code == 1
    assert "loss 'mine' of mine.py is of type int, not a function" in output
    assert "remedy: fix the plug-in or uninstall it; the other names work without it" in output


class TestCompare:
    """Which runs and predictors are meant."""

    def test_what_is_left_out_or_too_much(self) -> None:
        save(make_record())
        assert refused("compare", "baseline") == (
            "nothing to compare baseline with",
            "name a second run, or give --published for the numbers of papers",
        )
        for words, extra in (
            (("sla",), "B"),
            (("sla", "--predictor-a", "single"), "B, --predictor-a"),
            (("--format", "json"), "--format"),
        ):
            message, remedy = refused("compare", "baseline", *words, "--published")
            assert message == f"--published compares one recipe with papers: {extra} has no effect with it"
            assert remedy == "slabench compare A --published"

    def test_a_name_of_several_recipes(self) -> None:
        save(make_record("sla"))
        found = [save(make_record(recipe_digest=digest(n), key=digest("key", n))) for n in (1, 2)]
        message, remedy = refused("compare", "baseline", "sla")
        assert message.startswith("'baseline' and 'sla' fit several recipes: ")
        for record in found:
            assert f"fewshot/baseline {record.key[:12]}" in message
        assert remedy == "name runs by their keys"

    def test_a_name_of_several_protocols(self) -> None:
        for shots in (1, 5):
            save(make_record(protocol=f"fewshot/fc100/5w{shots}s15q", key=digest("key", shots)))
        message, remedy = refused("compare", "baseline", "--published")
        assert message == "'baseline' was run on 2 protocols: fewshot/fc100/5w1s15q, fewshot/fc100/5w5s15q"
        assert remedy == "give --protocol, or a key"

    def test_no_predictor_in_common(self) -> None:
        save(make_record("baseline", 0, {"single": [0.5, 0.7]}))
        save(make_record("baseline", 0, {"aggregated": [0.5, 0.7]}, name="fewshot/looks"))
        message, remedy = refused("compare", "looks", "baseline")
        assert message == "A has the predictors aggregated and B single: none in common"
        assert remedy == "choose with --predictor-a and --predictor-b"


def test_a_test_prior_of_a_run_that_is_no_classifier_s() -> None:
    record = save(make_record())
    message, remedy = refused("show", "run", record.key[:12], "--test-prior", "uniform")
    assert message == "--test-prior uniform: fewshot/baseline is not a classifier's run"
    assert remedy == "leave it out"


def test_a_report_of_failed_trials() -> None:
    save(make_record(status="failed", scores=[], error="out of memory"))
    assert refused("report", code=1) == (
        "none of the 1 records in results/runs is of a finished trial",
        "see: slabench list runs",
    )
    with pytest.raises(NothingToDraw) as caught:
        build(Source.of([], None))
    assert caught.value.message == "there is no finished trial to report"
    assert caught.value.remedy == "slabench run fewshot/controls --dataset glyphs"


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
    expected = ("unknown kind of plot 'reliabilty'", "did you mean 'reliability'?")
    assert refused("plot", "reliabilty", "-o", "a.png") == expected
    with pytest.raises(UsageError) as caught:
        draw("reliabilty", Source.of([], None))
    assert (caught.value.message, caught.value.remedy) == expected


@pytest.mark.parametrize("numbers", ["0", "5,5", "1,-5"])
@pytest.mark.parametrize("flag", ["--ways", "--shots"])
def test_score_at_no_numbers(flag: str, numbers: str) -> None:
    message, remedy = refused("score", "abc", flag, numbers)
    assert message == f"{flag} {numbers}: {flag[2:]} must be distinct and at least 1"
    assert remedy == f"write for example {flag} 5,10"


@pytest.mark.parametrize("number", ["0", "-3"])
@pytest.mark.parametrize("flag", ["--queries", "--episodes", "--threads"])
def test_score_at_a_number_below_1(flag: str, number: str) -> None:
    """0 is no "as the run has it", and torch's own refusal of threads is a traceback."""
    assert refused("score", "abc", f"{flag}={number}") == (f"{flag} {number} is not positive", f"give {flag} 1 or more")


class TestScore:
    """Runs that leave no weights, and weights that are none."""

    def test_a_classifier(self) -> None:
        record = save(classifier_record(per_class={"a": 0.5, "b": 0.7}, counts={"a": 9, "b": 3}))
        message, remedy = refused("score", record.key[:8])
        assert message == f"run {record.key[:12]} (imbalanced/ce) is of the suite imbalanced"
        assert remedy == "heads are scored on few-shot runs; see: slabench posthoc"

    def test_a_run_without_weights(self) -> None:
        record = save(make_record(environment={"slabench": "0.1.0"}))
        message, remedy = refused("score", record.key[:8])
        label = f"run {record.key[:12]} (fewshot/baseline)"
        assert message == f"{label} left no weights: its status is done, made by slabench 0.1.0"
        assert remedy == "run it again with --resume force"

    def test_no_head(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not to be had with slabench's own heads, of which most need no training."""
        learned = [name for name in HEADS.names() if HEADS.get(name).module is not None]
        monkeypatch.setattr(HEADS, "names", lambda: learned)
        with pytest.raises(UsageError, match="no head to score"):
            _heads(None, "protonet", "episodic")

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
        message, remedy = refused("score", record.key[:8], code=1)
        assert message.startswith(f"{path} holds no weights: ")
        assert remedy == "run the trial again with --resume force, or restore the file from its source"

    def test_another_trial_s_weights(self) -> None:
        record, path = self.weights(key="f" * 64)
        message, remedy = refused("score", record.key[:8], code=1)
        assert message == f"{path} belongs to trial {'f' * 12}, not {record.key[:12]}"
        assert remedy == "run the trial again with --resume force, or restore the file from its source"

    @pytest.mark.usefixtures("glyphs")
    def test_weights_that_lack_a_tensor(self) -> None:
        record, _ = self.weights()
        message, remedy = refused("score", record.key[:8], "--heads", "protonet", "--episodes", "5", code=1)
        assert message.startswith("the weights of the run lack backbone.")
        assert remedy == "run the trial again with --resume force"


def test_a_leaderboard_into_a_folder() -> None:
    Path("board").mkdir()
    message, remedy = refused("leaderboard", "-o", "board")
    assert message == "board is a folder"
    assert remedy == "name a file in it: -o board/FILE"


def test_a_cutout_larger_than_the_images() -> None:
    message, remedy = refused("run", "imbalanced", "--dataset", "digits", "--cutout", "999")
    assert message == "--cutout 999 on images of 32 x 32 pixels"
    assert remedy.startswith("give at most 32")
