"""Own images from a folder to a leaderboard and a report: imported by one process, known to the next."""

from __future__ import annotations

import json

import pytest
from own_images import folders
from processes import finish, here, start

CLASSES = [f"kind-{number}" for number in range(9)]
SHORT = ("--steps", "4", "--precision", "float32", "--threads", "1", "--set", "select.points=1")


@pytest.mark.usefixtures("narrow_conv4")
def test_from_a_folder_to_a_leaderboard_and_a_report(tmp_path):
    folders(tmp_path / "photos", CLASSES, 8)
    code, text = finish(start(["data", "import-folder", "mine", "photos", "--size", "32"], tmp_path))
    assert code == 0, text
    assert "72 images found in photos: class folders" in text
    suggested = [line.split()[1:] for line in text.splitlines() if line.startswith("  slabench ")]
    assert [words[:2] for words in suggested] == [["show", "dataset"], ["run", "fewshot"], ["run", "supervised"]]
    for words in suggested:
        code, told = here(*words, *(["--dry-run"] if words[0] == "run" else []), folder=tmp_path)
        assert code == 0, told
    few = ("--ways", "3", "--shots", "1", "--queries", "2", "--episodes", "20")
    code, text = here(
        *("run", "fewshot", "--dataset", "mine", *few, *SHORT, "--sla"),
        *("--set", "train.queries=2", "--set", "select.episodes=5"),
        folder=tmp_path,
    )
    assert code == 0, text
    code, text = here("run", "imbalanced", "--dataset", "mine", "--ratio", "3", *SHORT, folder=tmp_path)
    assert code == 0, text

    records = [json.loads(file.read_text()) for file in (tmp_path / "results").rglob("*.json")]
    records = [record for record in records if "protocol" in record]
    protocols = {record["protocol"]: record for record in records}
    assert set(protocols) == {"fewshot/mine/3w1s2q", "imbalanced/mine/exp-r3/standard"}
    assert protocols["fewshot/mine/3w1s2q"]["data_source"]["kind"] == "own images"
    # Six of eight images of a class are trained on; the last class of the tail has a third of the first.
    counts = list(protocols["imbalanced/mine/exp-r3/standard"]["images_per_class"].values())
    assert (counts[0], counts[-1]) == (6, 2)
    assert not any("plugins" in record["environment"] for record in records)

    assert "fewshot/mine/3w1s2q" in here("leaderboard", "--all", folder=tmp_path)[1]
    assert here("report", "-o", "report.html", folder=tmp_path)[0] == 0
    assert "fewshot/mine/3w1s2q" in (tmp_path / "report.html").read_text(encoding="utf-8")

    # Other images under the same name: episodes of classes that have grown are made anew, and the trial is another.
    folders(tmp_path / "photos", CLASSES[:3], 2, first=8)
    assert here("data", "import-folder", "mine", "photos", "--size", "32", "--replace", folder=tmp_path)[0] == 0
    code, text = here(
        *("run", "fewshot", "--dataset", "mine", *few, *SHORT, "--sla"),
        *("--set", "train.queries=2", "--set", "select.episodes=5"),
        folder=tmp_path,
    )
    assert code == 0, text
    assert "1 of 1 trials are done" in text
    assert len([file for file in (tmp_path / "results").rglob("*.json") if "fewshot" in file.read_text()]) == 2
