"""The page on clusters shows what benchmarks/analysis/gpu_plan.py prints, and its arithmetic is right."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from analysis_scripts import script

PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"


def numbers(row: str) -> list[float]:
    """In the cells of a row after the first."""
    cells = [cell.strip() for cell in row.strip("|\n ").split("|")][1:]
    return [float(cell.split(" ")[0].replace(",", "")) for cell in cells]


@pytest.mark.slow
def test_the_page_shows_what_the_script_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_plan.py"])
    script("gpu_plan").main()
    printed, page = capsys.readouterr().out.splitlines(), PAGE.read_text(encoding="utf-8")
    rows = [line for line in printed if line.startswith("| resnet")]
    assert [row for row in rows if row not in page] == []
    (said,) = (line for line in printed if "GPU hours, the longest" in line)
    trials, _, hours, longest = (float(number) for number in re.findall(r"[\d.]+", said))

    seeds, minutes_to_start = 3, 2
    by_hand = 0.0
    for row in rows:
        _, seen, scored, operations, rate, found = numbers(row)
        assert rate == pytest.approx(
            min(10_000, 20e12 / (3 * operations * 1e9)), rel=0.03
        )  # cells have two digits or more
        assert found == pytest.approx((seen + scored / 3) * 1e9 / rate / 3600, rel=0.02)
        by_hand += seeds * found
    assert trials == seeds * sum(numbers(row)[0] for row in rows)
    assert hours == pytest.approx(by_hand + trials * minutes_to_start / 60, abs=1)

    for gpus in (1, 8, 64):
        (row,) = re.findall(rf"^\| {gpus} \| ([\d,]+)[^|]*\| (\d+) % \|$", page, re.MULTILINE)
        busy = hours / gpus / max(hours / gpus, longest)  # longest first, many are short: nothing else is lost
        assert float(row[0].replace(",", "")) == pytest.approx(max(hours / gpus, longest), abs=1)
        assert float(row[1]) == pytest.approx(100 * busy, abs=1)


def test_operations_are_those_of_the_convolutions() -> None:
    """ResNet-32: a first one of 3 channels, then 10 of 16, 32 and 64 channels on maps of half the side each."""
    of_stages = [10 * 16 * 16 * 32**2, (16 + 9 * 32) * 32 * 16**2, (32 + 9 * 64) * 64 * 8**2]
    assert script("gpu_plan").operations("resnet32", 32) == 2 * 9 * (3 * 16 * 32**2 + sum(of_stages))
