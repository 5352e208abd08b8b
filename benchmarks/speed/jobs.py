"""Trials side by side: two processes of one thread each, beside one process of two threads that takes the trials in turn.

It decides what `--executor local` does on a CPU without `--jobs`. The processes live through all turns and train for some
seconds whenever they are told to, so that a busy machine slows both ways of sharing it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

from _measure import Row, main

TURNS, SECONDS = 5, 3.0
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "conv4 SLA step": ("fewshot/standard", {"data.dataset": "glyphs", "sla.objective": "sla"}),
    "resnet32 step": ("supervised/standard", {"data.dataset": "digits", "model.backbone": "resnet32"}),
}


def child(task_name: str, threads: int) -> None:
    """Train for `SECONDS` at every line of stdin, and print images a second."""
    import torch

    from slabench.recipes import load_recipe
    from slabench.suites import suite_of
    from slabench.training.device import choose_precision, keep_heap

    keep_heap()
    torch.set_num_threads(threads)
    name, overrides = TASKS[task_name]
    recipe, cpu = load_recipe(name, overrides)[0], torch.device("cpu")
    suite = suite_of(recipe)
    precision = choose_precision(recipe.train.precision, cpu)
    task = suite.build_task(recipe, 0, suite.prepare(recipe), cpu, precision)
    optimizer = torch.optim.SGD(task.module.parameters(), lr=1e-4)

    def train(seconds: float) -> float:
        start, images = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds:
            result = task.step(0)
            optimizer.zero_grad(set_to_none=True)
            result.loss.backward()
            optimizer.step()
            images += result.images
        return images / spent

    train(1.0)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(train(SECONDS), flush=True)


def _start(task: str, threads: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "child", task, str(threads)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _turn(processes: list[subprocess.Popen[str]]) -> float:
    """Images a second of all of them together."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.stdout.readline()) for process in processes if process.stdout is not None)


def measure() -> list[Row]:
    """A row for each kind of step."""
    rows = []
    for task in TASKS:
        side_by_side, in_turn = [_start(task, 1) for _ in range(2)], [_start(task, 2)]
        both = [(_turn(side_by_side), _turn(in_turn)) for _ in range(TURNS)]
        for process in side_by_side + in_turn:
            process.communicate()
        ours, theirs = (statistics.median(rates) for rates in zip(*both, strict=True))
        by_turn = [a / b for a, b in both]
        rows.append(
            Row("jobs", f"2 jobs of 1 thread ({task})", "1 job of 2 threads", "images/s", ours, theirs, ours / theirs,
                min(by_turn), max(by_turn), TURNS, "both ways take turns")
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        main(measure)
