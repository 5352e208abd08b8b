"""What people read of the leaderboard in a terminal: the order of protocols, the summary, names in the room that there is."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doc_pages import ROOT, text
from processes import here
from result_records import digest, make_recipe, make_record
from rich.console import Console
from scipy import stats

from slabench.cli.summary import show_summary
from slabench.comparison.controls import Control
from slabench.comparison.summary import summary
from slabench.ranking.entries import entries
from slabench.ranking.formats.terminal import elided, table
from slabench.ranking.order import asked_first
from slabench.ranking.rows import rows
from slabench.records.store import ResultStore

LONG = [
    f"fewshot/pretrained/{objective}{passes}+{head}"
    for objective in ("baseline", "sla")
    for passes in ("", "-equal-passes")
    for head in ("baseline-plus-plus", "logistic", "simpleshot", "metaoptnet-rr", "metaoptnet-svm")
]


def test_protocols_stand_in_the_order_in_which_people_ask() -> None:
    few = ["5w1s15q", "5w5s15q", "5w20s15q", "10w1s15q", "10w10s15q", "20w5s15q", "5w5s15q-exp9"]
    asked = [
        *(f"fewshot/fc100/{name}" for name in few[:2]),
        *(f"fewshot/cifar-fs/{name}" for name in few[:2]),
        "imbalanced/cifar100/exp-r100/standard",
        "supervised/cifar100/full/short",
        *(f"fewshot/fc100/{name}" for name in ("5w5s15q-exp9", "5w20s15q", "10w1s15q", "10w10s15q", "20w5s15q")),
        "imbalanced/cifar100/exp-r10/standard",
        "imbalanced/cifar100/step-r100/standard",
        "supervised/cifar100/25-a-class/map",
        "supervised/cifar100/250-a-class/map",
        "another/odd",
    ]
    assert asked_first(sorted(asked)) == asked
    assert asked_first(["fewshot/a/5w1s15q", *["fewshot/b/5w1s15q"] * 2])[0] == "fewshot/b/5w1s15q", "most rows first"


def trial(root: Path, name: str, objective: str, means: dict[str, float], images: int = 1_000_000, **more: Any) -> None:
    """A record of 200 episodes whose accuracies lie around `means`, saved with them."""
    noise = np.random.default_rng(len(name)).normal(0, 0.02, 200)
    arrays = {predictor: mean + noise - noise.mean() for predictor, mean in means.items()}
    recipe = make_recipe(name=name, sla__objective=objective)
    changes = {"recipe": recipe, "recipe_digest": digest(recipe), "key": digest(name, more), "images_seen": images}
    ResultStore(root).save(make_record(objective, accuracies=arrays, name=name, **changes, **more), arrays)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    root = tmp_path / "results"
    trial(root, "fewshot/controls/baseline", "baseline", {"single": 0.50, "aggregated": 0.53})
    trial(root, "fewshot/controls/baseline-long", "baseline", {"single": 0.51, "aggregated": 0.55}, images=4_000_000)
    trial(root, "fewshot/controls/sla", "sla", {"single": 0.52, "aggregated": 0.57}, images=4_000_000)
    trial(root, "fewshot/other/da", "da", {"single": 0.60})
    trial(root, "fewshot/controls/sla", "sla", {"aggregated": 0.3}, protocol="fewshot/fc100/10w5s15q")
    trial(
        root, "fewshot/controls/sla", "sla", {"aggregated": 0.9}, protocol="fewshot/fc100/5w1s15q", protocol_version=9
    )
    return root


def read(root: Path) -> Any:
    store = ResultStore(root)
    return entries(store.records(), store.episodes), store


def test_the_summary_holds_sla_against_the_strongest_of_its_controls(results: Path) -> None:
    first, second = summary(*read(results))
    assert (first.protocol, first.rows, first.best.records[0].name) == ("fewshot/fc100/5w5s15q", 7, "fewshot/other/da")
    assert first.sla is not None
    assert (first.sla.records[0].name, first.sla.predictor) == ("fewshot/controls/sla", "aggregated")
    assert {control: round(entry.mean, 2) for control, entry in first.controls.items()} == {
        Control.BASELINE: 0.50,
        Control.AGGREGATED: 0.53,
        Control.EQUAL_IMAGES_SEEN: 0.55,
    }
    assert first.least is not None
    store = ResultStore(results)
    by_name = {record.name: store.episodes(record) for record in store.records() if record.protocol == first.protocol}
    difference = (
        by_name["fewshot/controls/sla"]["aggregated"].astype(float)
        - by_name["fewshot/controls/baseline-long"]["aggregated"]
    )
    assert first.least.value == pytest.approx(difference.mean())
    half = stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference)
    assert first.least.half_width == pytest.approx(half, rel=1e-6)
    assert (second.protocol, second.controls, second.least) == ("fewshot/fc100/10w5s15q", {}, None)


def test_several_protocols_are_a_line_each_and_a_filter_shows_rows(results: Path) -> None:
    folder = results.parent
    shown = here("leaderboard", folder=folder, COLUMNS="80")[1]
    assert "SLA" in shown
    assert [line.split()[0] for line in shown.splitlines() if line.startswith(" fc100/")] == [
        "fc100/5w5s15q",
        "fc100/10w5s15q",
    ]
    assert "9 rows of 2 protocols; 1 stale" in shown
    assert "controls/baseline-long" not in shown
    for command in re.findall(r"^  slabench (.+)$", shown, re.MULTILINE):
        code, printed = here(*command.split(), folder=folder, COLUMNS="80")
        assert (code, "fewshot/fc100/5w5s15q, version 1" in printed) == (0, True), command
    every = here("leaderboard", "--all", folder=folder, COLUMNS="80")[1]
    assert len(re.findall(r"^ ?(?:\d|-|stale) ", every, re.MULTILINE)) == 9
    order = [every.index(title) for title in ("5w5s15q, version 1", "10w5s15q, version 1", "5w1s15q, version 9")]
    assert order == sorted(order), "standard settings first, stale tables last"


def test_top_keeps_the_best_of_each_protocol_with_their_ranks_in_every_format(results: Path) -> None:
    folder = results.parent
    every = here("leaderboard", "--format", "csv", folder=folder)[1].splitlines()
    top = here("leaderboard", "--format", "csv", "--top", "1", folder=folder)[1].splitlines()
    assert len(every) == 1 + 9
    assert len(top) == 1 + 3
    assert set(top) <= set(every)
    assert any("fewshot/other/da" in line for line in top)
    code, printed = here("leaderboard", "--top", "3", "--all", folder=folder)
    assert code == 2
    assert "contradict each other" in printed


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_row_is_one_line_with_its_name_elided_and_its_numbers_whole(tmp_path: Path, width: int) -> None:
    records = [
        make_record("baseline", 0, {"single": [0.1 + place / 100] * 3}, name=name, recipe=make_recipe(name=name))
        for place, name in enumerate(LONG)
    ]
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(table(rows(records, None), width))
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    shown = [line for line in lines if re.match(r" ?\d+ p", line)]
    assert len(shown) == len(LONG)
    names = [line.split()[1] for line in shown]
    assert len(set(names)) == len(LONG), "no two recipes look alike"
    for name, line in zip(reversed(LONG), shown, strict=True):
        head, _, tail = line.split()[1].partition("...")
        assert name.removeprefix("fewshot/").startswith(head)
        assert name.endswith(tail)
        assert f" {10 + LONG.index(name):.2f} " in line
    assert width == 120 or ("..." in "".join(names)) == (width == 80)
    assert "".join(lines).replace("±", "").isascii()


def test_the_summary_s_numbers_are_whole_at_any_width(results: Path) -> None:
    for width in (60, 80, 120, 200):
        output = io.StringIO()
        show_summary(Console(file=output, width=width, color_system=None), summary(*read(results)))
        (line,) = [line for line in output.getvalue().splitlines() if "5w5s15q" in line and "10w" not in line]
        assert re.findall(r"\d+\.\d\d", line)[:6] == ["60.00", "50.00", "53.00", "55.00", "57.00", "2.00"]
        assert max(map(len, output.getvalue().splitlines())) <= width


def test_the_page_shows_what_is_printed() -> None:
    (shown,) = re.findall(r"```text\n(.*?)```", text(ROOT / "docs" / "leaderboard.md"), re.DOTALL)
    printed = [line.rstrip() for line in here("leaderboard", "--shipped", COLUMNS="80")[1].splitlines()]
    lines = [line for line in shown.splitlines() if line != "..."]
    assert len(lines) > 10
    assert [line for line in printed if line in lines] == lines


def test_names_are_cut_where_they_differ() -> None:
    assert elided(["short"], 5) == ["short"]
    assert elided(["abcdefghijkl"], 9) == ["abc...jkl"]
    assert elided(["xx-one-yyyyyyyyyyyyyy", "xx-two-yyyyyyyyyyyyyy"], 13) != ["xx..." + "y" * 8] * 2
    assert all(len(name) <= 13 for name in elided(LONG, 13))


def test_the_row_that_stands_for_joint_labels_is_not_chosen_by_its_accuracy(tmp_path: Path) -> None:
    """Nor is a head that was scored afterwards, or a recipe with fewer seeds, taken for being better."""
    for name, seeds, accuracy in (("a", (0,), 0.9), ("b", (0, 1), 0.5)):
        for seed in seeds:
            values = {"single": accuracy, "aggregated": accuracy}
            trial(tmp_path, f"fewshot/{name}/sla", "sla", values, seed=seed)
    trial(tmp_path, "fewshot/b/baseline", "baseline", {"single": 0.4, "aggregated": 0.4})
    (line,) = summary(*read(tmp_path))
    assert line.sla is not None
    assert (line.sla.records[0].name, len(line.sla.records)) == ("fewshot/b/sla", 2)
    assert line.best.records[0].name == "fewshot/a/sla"
