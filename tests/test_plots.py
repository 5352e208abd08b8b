"""Figures from records made by hand: what is drawn is what the records hold, by way of other formulas than the figures' own."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from colours import SIGHT, contrast, distance
from matplotlib.colors import to_hex
from model_outputs import make_outputs
from result_records import classifier_record, make_record
from scipy import stats

from slabench.comparison.controls import gains
from slabench.core.errors import UsageError
from slabench.plots import KINDS, draw, file_type, picture
from slabench.plots.calibration import reliability
from slabench.plots.source import NothingToDraw, Source, short_names
from slabench.plots.style import DARK, OBJECTIVES, OTHERS, PAPER, darkened, render, wrap
from slabench.records.record import CurvePoint, RunRecord
from slabench.records.store import ResultStore

Arrays = dict[tuple[str, int, str], np.ndarray]


def fill(root: Path, objectives: dict[str, int], seeds: tuple[int, ...] = (0, 1), **changes: Any) -> Arrays:
    """Records of 40 episodes a seed and predictor; each objective with its image passes."""
    rng = np.random.default_rng(len(objectives))
    hardness, arrays = rng.integers(20, 60, 40), {}
    for place, (name, passes) in enumerate(objectives.items()):
        for seed in seeds:
            own = {}
            for look, predictor in enumerate(("single", "aggregated")):
                right = hardness + 2 * place + 3 * look + rng.integers(-3, 4, 40)
                own[predictor] = arrays[name, seed, predictor] = np.float32(right / 75)
            objective = name.split("-equal")[0]
            record = make_record(objective, seed, own, name=f"fewshot/controls/{name}", images_seen=passes, **changes)
            ResultStore(root).save(record, own)
    return arrays


def source(root: Path) -> Source:
    store = ResultStore(root)
    return Source.of(store.records(), store)


@pytest.fixture
def controls(tmp_path: Path) -> tuple[Path, Arrays]:
    """A baseline, one at equal passes (with a schedule of its own), DA and SLA; two seeds each."""
    arrays = fill(tmp_path, {"baseline": 1_000_000, "da": 4_000_000, "sla": 4_000_000})
    rng = np.random.default_rng(9)
    own = {p: np.float32(rng.integers(30, 60, 40) / 75) for p in ("single", "aggregated")}
    record = make_record("baseline", 0, own, name="fewshot/controls/baseline-equal", images_seen=4_010_000)
    recipe = {**record.recipe, "train": {"steps": 400}}
    record = record.model_copy(update={"recipe": recipe, "recipe_digest": "e" * 64, "key": "e" * 64})
    ResultStore(tmp_path).save(record, own)
    return tmp_path, arrays | {("baseline-equal", 0, p): a for p, a in own.items()}


def labels(axes: Any) -> list[str]:
    return [label.get_text().replace("\n", "") for label in axes.get_yticklabels()]


def test_bars_are_the_means_with_their_intervals_and_seeds(controls: tuple[Path, Arrays]) -> None:
    root, arrays = controls
    (axes,) = draw("bars", source(root)).figure.axes
    expected = {}
    for name in ("sla", "da", "baseline"):
        for predictor in ("single", "aggregated"):
            episodes = np.mean([arrays[name, seed, predictor].astype(float) for seed in (0, 1)], axis=0)
            low, high = stats.t.interval(0.95, 39, episodes.mean(), stats.sem(episodes))
            expected[name, predictor] = 100 * np.array([episodes.mean(), low, high])
    widths = [bar.get_width() for bar in axes.patches]
    assert len(widths) == 8
    for mean, _, _ in expected.values():
        assert min(abs(mean - width) for width in widths) < 1e-4
    whiskers = np.array([path.vertices[:, 0] for c in axes.collections for path in c.get_paths()])
    for _, low, high in expected.values():
        assert np.abs(whiskers - [low, high]).sum(1).min() < 1e-4
    dots = np.concatenate([line.get_xdata() for line in axes.lines if line.get_marker() == "o"])
    singles = [
        100 * arrays[name, seed, p].mean() for name in ("sla", "da", "baseline") for seed in (0, 1) for p in ("single",)
    ]
    assert all(np.abs(dots - value).min() < 1e-4 for value in singles)
    assert "n = 40 episodes" in axes.get_xlabel()
    colours = {to_hex(bar.get_edgecolor()) for bar in axes.patches}
    assert colours == {OBJECTIVES[name] for name in ("baseline", "da", "sla")}


def test_gains_are_scipys_paired_differences(controls: tuple[Path, Arrays]) -> None:
    root, arrays = controls
    (group,) = source(root).groups()
    found = {(group.name(g.entry), g.entry.predictor, g.question): g for g in gains(group.entries, ResultStore(root))}
    assert len(found) == 2 * 2 * 3, "SLA and DA, two predictors, three controls"

    def mean(name: str, predictor: str, seeds: tuple[int, ...]) -> np.ndarray:
        return np.mean([arrays[name, seed, predictor].astype(float) for seed in seeds], axis=0)

    better = max(("single", "aggregated"), key=lambda p: arrays["baseline-equal", 0, p].mean())
    cases = {
        "baseline": ("baseline", "single", (0, 1)),
        "aggregated": ("baseline", "aggregated", (0, 1)),
        "equal images seen": ("baseline-equal", better, (0,)),
    }
    for question, (control, predictor, seeds) in cases.items():
        gain = found["sla", "aggregated", question]
        test = stats.ttest_rel(mean("sla", "aggregated", seeds), mean(control, predictor, seeds))
        low, high = test.confidence_interval()
        assert (gain.value, gain.half_width) == pytest.approx(((low + high) / 2, (high - low) / 2), abs=1e-9)
        assert gain.seeds == seeds
        assert gain.verdict == int(low > 0) - int(high < 0)
    (axes,) = draw("gains", source(root)).figure.axes
    drawn = [x for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata()]
    assert sorted(drawn) == pytest.approx(sorted(100 * g.value for g in found.values()))


def test_gains_without_episodes_have_no_interval(tmp_path: Path) -> None:
    fill(tmp_path, {"baseline": 1_000_000, "sla": 4_000_000}, seeds=(0,))
    for side in tmp_path.rglob("*.npz"):
        side.write_bytes(b"damaged")
    made = Source.of(ResultStore(tmp_path).records(), ResultStore(tmp_path))
    assert len(made.problems) == 2, "each damaged file is named once"
    (group,) = made.groups()
    found = gains(group.entries, made.store)
    assert {gain.half_width for gain in found} == {None}
    assert {gain.verdict for gain in found} == {0}
    draw("gains", made)


def curve(*values: float, start: int = 1) -> list[CurvePoint]:
    return [
        CurvePoint(
            step=10 * i,
            images_seen=1000 * i,
            seconds=i,
            loss=3 / i,
            train_accuracy=v / 2,
            val={"single": v, "aggregated": v},
        )
        for i, v in enumerate(values, start)
    ]


def test_images_seen_are_the_curves(tmp_path: Path) -> None:
    for seed, values in ((0, (0.2, 0.4)), (1, (0.4, 0.5, 0.9))):
        ResultStore(tmp_path).save(make_record("sla", seed, curve=curve(*values)), {})
    single, aggregated = draw("passes", source(tmp_path)).figure.axes
    for axes in (single, aggregated):
        (line,) = axes.lines
        assert line.get_xdata() == pytest.approx([0.001, 0.002])
        assert line.get_ydata() == pytest.approx([30, 45]), "the step of one seed alone makes no point"
        assert to_hex(line.get_color()) == OBJECTIVES["sla"]
        band = axes.collections[0].get_paths()[0].vertices
        assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((20, 50))
        assert axes.get_xscale() == "log"


def test_training_curves_are_the_records(tmp_path: Path) -> None:
    ResultStore(tmp_path).save(make_record("sla", curve=curve(0.2, 0.4)), {})
    loss, accuracy = draw("training", source(tmp_path)).figure.axes
    assert loss.lines[0].get_xdata() == pytest.approx([50, 100])
    assert loss.lines[0].get_ydata() == pytest.approx([3, 1.5])
    assert [list(line.get_ydata()) for line in accuracy.lines] == [pytest.approx([10, 20]), pytest.approx([20, 40])]


def test_class_sizes_are_the_metrics(tmp_path: Path) -> None:
    record = classifier_record(per_class={"ant": 0.75, "bee": 0.25}, counts={"ant": 500, "bee": 5}, few=0.25)
    ResultStore(tmp_path).save(record, {})
    (axes,) = draw("groups", source(tmp_path)).figure.axes
    drawn = {line.get_marker(): line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1}
    assert drawn == {"o": pytest.approx(50), "D": pytest.approx(50), "v": pytest.approx(25)}
    assert labels(axes) == ["ce"]


def test_few_classes_are_named_and_many_ranked_by_their_images(tmp_path: Path) -> None:
    few = {"worst": 0.1, "best": 0.9, "middle": 0.5}
    ResultStore(tmp_path / "few").save(classifier_record(per_class=few, counts=dict.fromkeys(few, 9)), {})
    (axes,) = draw("per-class", source(tmp_path / "few")).figure.axes
    assert labels(axes) == ["best", "middle", "worst"]
    assert axes.lines[-1].get_xdata() == pytest.approx([90, 50, 10])
    names = [f"c{i:02d}" for i in range(40)]
    counts = {name: 10 + (i * 7) % 40 for i, name in enumerate(names)}
    recall = {name: counts[name] / 100 for name in names}
    ResultStore(tmp_path / "many").save(classifier_record(per_class=recall, counts=counts), {})
    (axes,) = draw("per-class", source(tmp_path / "many")).figure.axes
    dots, line = axes.lines
    assert dots.get_ydata() == pytest.approx(sorted(counts.values(), reverse=True))
    assert line.get_ydata()[20] == pytest.approx(np.mean(sorted(counts.values(), reverse=True)[15:26]))


def brute_force(logits: np.ndarray, truth: np.ndarray, scale: float) -> tuple[float, list[float]]:
    """ECE and the accuracy of the bins, image by image."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, label in zip(logits, truth, strict=True):
        p = np.exp(scale * row) / np.exp(scale * row).sum()
        place = next(i for i in range(15) if p.max() <= (i + 1) / 15)
        bins[place].append((float(p.max()), bool(p.argmax() == label)))
    accuracy = [float(np.mean([right for _, right in own])) if own else 0.0 for own in bins]
    gaps = [
        len(own) / len(truth) * abs(np.mean([c for c, _ in own]) - a)
        for own, a in zip(bins, accuracy, strict=True)
        if own
    ]
    return float(sum(gaps)), accuracy


def test_reliability_is_that_of_every_image_by_hand(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    logits, truth = rng.normal(size=(200, 4)), rng.integers(0, 4, 200)
    ece, accuracy = brute_force(logits, truth, 2.5)
    own = reliability(logits, truth, 2.5)
    assert own.ece == pytest.approx(ece, abs=1e-12)
    assert np.nan_to_num(own.accuracy) == pytest.approx(accuracy)
    assert own.share.sum() == pytest.approx(1)
    outputs = make_outputs(scale=2.5)
    record = classifier_record(per_class={"ant": 0.5, "bee": 0.5}, counts={"ant": 5, "bee": 5})
    ResultStore(tmp_path).save(record, {}, outputs)
    (axes,) = draw("reliability", source(tmp_path)).figure.axes
    single = outputs.test_logits["single"].double().numpy()
    ece, accuracy = brute_force(single, outputs.splits["test"].labels.numpy(), 2.5)
    assert [bar.get_height() for bar in axes.patches[:15]] == pytest.approx([100 * a for a in accuracy])
    assert f"ECE {100 * ece:.1f} %" in [text.get_text() for text in axes.texts]


def test_outputs_that_are_damaged_or_elsewhere(tmp_path: Path) -> None:
    record = classifier_record(per_class={"ant": 0.5, "bee": 0.5}, counts={"ant": 5, "bee": 5})
    ResultStore(tmp_path).save(record, {}, make_outputs())
    (file,) = tmp_path.rglob("*.outputs.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    made = source(tmp_path)
    with pytest.raises(NothingToDraw, match="not here, or damaged"):
        draw("reliability", made)
    assert len(made.problems) == 1
    assert file.name in made.problems[0]
    file.unlink()
    made = source(tmp_path)
    with pytest.raises(NothingToDraw, match="the machine of the run"):
        draw("reliability", made)
    assert made.problems == [], "git ignores these files: that one is not here is no fault"


def with_protocol(record: RunRecord, ways: int, shots: int) -> RunRecord:
    recipe = {**record.recipe, "protocol": {"ways": ways, "shots": shots, "queries": 15}}
    key = f"{ways:032d}{shots:032d}"
    changes = {
        "recipe": recipe,
        "key": key,
        "recipe_digest": key[::-1],
        "protocol": f"fewshot/fc100/{ways}w{shots}s15q",
    }
    return record.model_copy(update={**changes, "protocol_digest": key})


def test_shots_and_ways(tmp_path: Path) -> None:
    values = {(5, 1): 0.3, (5, 5): 0.5, (5, 10): 0.6, (20, 5): 0.2}
    for (ways, shots), value in values.items():
        ResultStore(tmp_path).save(with_protocol(make_record(accuracies={"single": [value, value]}), ways, shots), {})
    over_shots, over_ways = draw("shots-ways", source(tmp_path)).figure.axes
    assert over_shots.lines[0].get_xdata() == pytest.approx([1, 5, 10])
    assert over_shots.lines[0].get_ydata() == pytest.approx([30, 50, 60])
    assert over_ways.lines[0].get_xdata() == pytest.approx([5, 20])
    assert over_ways.lines[0].get_ydata() == pytest.approx([50, 20])
    assert (over_shots.get_title(loc="left"), over_ways.get_title(loc="left")) == (
        "fc100, 5-way: single",
        "fc100, 5-shot: single",
    )


def test_a_line_of_a_scored_head_is_of_one_training(tmp_path: Path) -> None:
    """The head of a run of five shots and that of a run of one share a name: no line takes the better of their points."""
    for trained, shots, value in ((5, 1, 0.3), (5, 5, 0.5), (1, 1, 0.4)):
        record = with_protocol(make_record(name="run+cosine", accuracies={"single": [value, value]}), 5, shots)
        recipe = {**record.recipe, "score": {"trained": {"shots": trained}}}
        ends = {"key": f"{trained}{record.key[1:]}", "recipe_digest": f"{trained}{record.recipe_digest[1:]}"}
        ResultStore(tmp_path).save(record.model_copy(update={"recipe": recipe, **ends}), {})
    (axes,) = draw("shots-ways", source(tmp_path)).figure.axes
    assert len(axes.containers) == 1
    assert axes.lines[0].get_ydata() == pytest.approx([30, 50])


def test_many_lines_are_named_beside_the_panel_in_the_order_of_their_ends(tmp_path: Path) -> None:
    """As many as `slabench score` makes of a few runs: names at their ends would fill the page and leave the panel no room."""
    for place, shots in itertools.product(range(30), (1, 5)):
        value = 0.3 + 0.1 * (shots == 5) + 0.01 * place
        record = make_record(name=f"fewshot/long-name-of-a-run+head-{place:02d}", accuracies={"single": [value] * 2})
        record = with_protocol(record, 5, shots)
        ends = {"key": f"{place:02d}{record.key[2:]}", "recipe_digest": f"{place:02d}{record.recipe_digest[2:]}"}
        ResultStore(tmp_path).save(record.model_copy(update=ends), {})
    figure = draw("shots-ways", source(tmp_path)).figure
    (axes,) = figure.axes
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == [f"long-name-of-a-run+head-{place:02d}" for place in reversed(range(30))]
    assert not axes.texts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        render(figure, "png")
    panel, legend = axes.get_window_extent(), axes.get_legend().get_window_extent()
    assert legend.x0 >= panel.x1
    assert panel.width > figure.bbox.width / 3
    assert legend.y0 >= 0
    assert legend.y1 <= figure.bbox.height
    assert legend.x1 <= figure.bbox.width


def test_transformation_sets_beside_the_baseline(tmp_path: Path) -> None:
    for name, objective, value in (("rotation", "sla", 0.5), ("color-perm", "sla", 0.4), ("own-set", "sla", 0.3)):
        record = make_record(objective, accuracies={"single": [value, value]})
        recipe = {**record.recipe, "sla": {"objective": objective, "transforms": name}}
        digest = f"{len(name):064d}"[::-1]
        ResultStore(tmp_path).save(
            record.model_copy(update={"recipe": recipe, "recipe_digest": digest, "key": digest}), {}
        )
    ResultStore(tmp_path).save(make_record(accuracies={"single": [0.2, 0.2]}), {})
    (axes,) = draw("transforms", source(tmp_path)).figure.axes
    heights = dict(zip(labels(axes), [bar.get_width() for bar in axes.patches], strict=True))
    assert heights == {
        "baseline, rotation (M = 4)": pytest.approx(20),
        "sla, color-perm (M = 6)": pytest.approx(40),
        "sla, own-set": pytest.approx(30),
        "sla, rotation (M = 4)": pytest.approx(50),
    }


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"bars", "passes", "training"}))
def test_a_kind_without_records_says_what_to_run(kind: str, tmp_path: Path) -> None:
    ResultStore(tmp_path).save(make_record(), {})
    with pytest.raises(NothingToDraw) as caught:
        draw(kind, source(tmp_path))
    assert caught.value.remedy.startswith("slabench ")


@pytest.mark.parametrize("kind", ["bars", "passes", "training"])
def test_nothing_at_all(kind: str) -> None:
    with pytest.raises(NothingToDraw, match="no finished trial"):
        draw(kind, Source.of([]))


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_equal_records_give_equal_bytes(suffix: str, tmp_path: Path) -> None:
    fill(tmp_path, {"baseline": 1_000_000, "sla": 4_000_000})
    store = ResultStore(tmp_path)
    one, two = (
        picture(draw("bars", Source.of(records, store)), suffix) for records in (store.records(), store.records()[::-1])
    )
    assert one == two
    assert {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix] == one[:5].rstrip(b"\r-")


def test_no_global_state_of_matplotlib_is_touched(tmp_path: Path) -> None:
    fill(tmp_path, {"baseline": 1_000_000, "sla": 4_000_000})
    with matplotlib.rc_context({"font.size": 31.0, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        mine = render(draw("bars", source(tmp_path)).figure, "svg")
        assert dict(matplotlib.rcParams) == before
    assert mine == render(draw("bars", source(tmp_path)).figure, "svg"), "a reader's own settings change no figure"


def test_the_dark_theme_is_that_of_the_report() -> None:
    sheet = (files("slabench.report") / "page.css").read_text("utf-8")
    dark = sheet.partition("(prefers-color-scheme:dark)")[2].partition("}")[0]
    assert all(f":{colour}" in dark for colour in DARK.values())
    assert darkened(" ".join(DARK).encode()).decode() == " ".join(DARK.values())


def test_colours_are_told_apart_by_most_eyes_on_both_grounds() -> None:
    for colour in (*OBJECTIVES.values(), *OTHERS):
        assert min(contrast(colour, PAPER), contrast(colour, DARK[PAPER])) > 3
    for sight, (a, b) in itertools.product(SIGHT, itertools.combinations(OBJECTIVES.values(), 2)):
        assert distance(a, b, sight) > 12, (a, b, sight)


def test_names_are_short_and_unique() -> None:
    records = [make_record(name=f"a/b/{name}") for name in ("one", "two", "three", "three")]
    records[3] = records[3].model_copy(update={"recipe_digest": "f" * 64, "key": "f" * 64})
    records.append(make_record("sla", name="a/b/two"))
    names = short_names(Source.of(records).entries)
    twins = {"two baseline", "two sla", f"three {records[2].recipe_digest[:6]}", "three ffffff"}
    assert set(names.values()) == {"one"} | twins
    assert names[records[4].recipe_digest] == "two sla"
    heads = [make_record(name="a/one+cosine"), make_record(name="a/one+cosine")]
    for shots, (place, head) in zip((1, 5), enumerate(heads), strict=True):
        recipe = {**head.recipe, "train": {**head.recipe.get("train", {}), "shots": shots}}
        heads[place] = head.model_copy(update={"recipe": recipe, "recipe_digest": str(shots) * 64})
    names = short_names(Source.of(heads).entries)
    assert names == {"1" * 64: "one+cosine train.shots=1", "5" * 64: "one+cosine train.shots=5"}
    assert wrap("baseline-equal-passes", 16) == "baseline-equal-\npasses"


def test_the_end_of_a_name_says_the_type() -> None:
    assert file_type(Path("a.PNG")) == "png"
    for name in ("a.svgz", "a"):
        with pytest.raises(UsageError, match="png, svg, pdf"):
            file_type(Path(name))


def test_an_unknown_objective_gets_a_colour_of_its_own() -> None:
    records = [make_record(name) for name in ("baseline", "own-a", "own-b")]
    (group,) = Source.of(records).groups()
    assert len(set(group.colours().values())) == 3
    assert replace(group, title="other").names == group.names
