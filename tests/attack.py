"""All kills and all damaged files, by one command, with a table of what came of them.

    python tests/attack.py                                    all: hours on two cores
    python tests/attack.py --moments 20 --inputs 1000         a sample
    python tests/attack.py --only import --only pickle        some of them

Exit code 1 if there was a fault: a promise of docs/trust.md that does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fuzzing
import killing
import torch
from hostile_readers import readers
from kill_scenarios import scenarios

from slabench.data.loading import ensure


def main() -> int:
    """Parse, attack, print. Each attack is a process of its own, so that a crash of a library is a fault like any other."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    faults = 0
    with tempfile.TemporaryDirectory(prefix="slabench-attack-") as name:
        root = Path(name)
        if options.glyphs:
            shutil.copytree(options.glyphs, root / "glyphs")
        ensure("glyphs", root / "glyphs")
        works: dict[str, Callable[[], Counter[str]]] = {}
        for what, scenario in scenarios(root / "glyphs", root / "trained").items():
            place = root / what.replace(" ", "-")
            works[f"kill {what}"] = partial(_kill, scenario, place, options)
        for what, reader in readers(root / "readers").items():
            works[f"read {what}"] = partial(fuzzing.attack, reader, options.inputs, options.seed, _told)
        for what, work in works.items():
            if options.only and not any(word in what for word in options.only):
                continue
            begin = time.monotonic()
            found = _alone(work)
            faults += sum(count for outcome, count in found.items() if "FAULT" in outcome)
            outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(found.items()))
            print(f"{what}: {outcomes} ({time.monotonic() - begin:.0f} s)", flush=True)
    return int(faults > 0)


def _kill(scenario: killing.Scenario, place: Path, options: argparse.Namespace) -> Counter[str]:
    place.mkdir()
    return killing.attack(scenario, place, options.moments, options.events, options.seed, _told)


def _alone(work: Callable[[], Counter[str]]) -> Counter[str]:
    inward, outward = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(outward, json.dumps(work()).encode())
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(outward)
    with os.fdopen(inward, "rb") as pipe:
        written = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Counter(json.loads(written)) if written else Counter({f"FAULT the process ended with {code}": 1})


def _told(line: str) -> None:
    print(f"    {line[:1000]}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=200, help="random moments a command is killed at")
    parser.add_argument("--events", type=int, help="changes of the file system it is killed at; default: every one")
    parser.add_argument("--inputs", type=int, default=100_000, help="damaged files a reader is given")
    parser.add_argument("--seed", type=int, default=0, help="of both")
    parser.add_argument("--glyphs", type=Path, help="a data folder that has the glyphs; default: they are drawn")
    parser.add_argument("--only", action="append", help="a word in the name of what is attacked; may be repeated")
    return parser


if __name__ == "__main__":
    sys.exit(main())
