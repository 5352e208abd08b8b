"""What keeping glibc from returning the heap earns: SLA steps with and without `keep_heap`.

The setting holds for a whole process, so this one alternates child processes; each times its own steps after some that do
not count.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from _measure import Row, main

TURNS, WARM, STEPS = 5, 10, 30


def child(precision: str) -> float:
    """Image passes a second of slabench's SLA step on the embedded data."""
    import torch

    from slabench.recipes import load_recipe
    from slabench.suites import fewshot
    from slabench.training.device import choose_precision, keep_heap

    keep_heap()
    (recipe,) = load_recipe("fewshot/standard", {"data.dataset": "glyphs", "sla.objective": "sla"})
    cpu = torch.device("cpu")
    task = fewshot.EpisodicTask(recipe, 0, fewshot.prepare(recipe), cpu, choose_precision(precision, cpu))
    optimizer = torch.optim.Adam(task.module.parameters(), lr=1e-3, foreach=True)
    start = 0.0
    for step in range(WARM + STEPS):
        if step == WARM:
            start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        task.step(step).loss.backward()
        optimizer.step()
    return STEPS * task.images_per_step / (time.perf_counter() - start)


def measure() -> list[Row]:
    """Both precisions that a CPU may train in."""
    rows = []
    for precision in ("auto", "float32"):
        rates: dict[str, list[float]] = {"1": [], "0": []}
        for _ in range(TURNS):
            for keep, values in rates.items():
                run = subprocess.run(
                    [sys.executable, __file__, "child", precision],
                    env=os.environ | {"SLABENCH_KEEP_HEAP": keep},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                values.append(float(run.stdout))
        by_turn = [a / b for a, b in zip(rates["1"], rates["0"], strict=True)]
        kept, returned = statistics.median(rates["1"]), statistics.median(rates["0"])
        rows.append(
            Row("allocation", f"heap kept ({precision})", "glibc's default", "images/s", kept, returned, kept / returned,
                min(by_turn), max(by_turn), TURNS, "conv4 SLA step, one process a turn")
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(child(sys.argv[2]))
    else:
        main(measure)
