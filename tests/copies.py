"""Processes that begin with everything imported: copies of one that has done nothing else, made by `fork`.

Importing torch takes seconds each time, and most tests of processes are not about the start. A copy has what a process of its
own has (signals, an exit code, open files, locks); it lacks only the start of the interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from narrow import CONV4_CHANNELS

# One process is copied for all test processes of a run: it listens before it imports, and ends with the last of them.
# Each request makes two processes: the copy that runs the command, and above it one that waits for it and tells how it ended.
_KEEPER = """
import json, os, select, signal, socket, sys, time
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    listener.bind(chr(0) + sys.argv[1])
except OSError:
    sys.exit()  # another test process was first
listener.listen()
import scipy.special, torch, torch._dynamo  # torch imports the last, seconds of it, with the first optimiser that is made
import sklearn.datasets  # has the digits
import slabench.backbones.fewshot, slabench.cli.run, slabench.comparison, slabench.heads, slabench.progress, slabench.runner
import slabench.suites.classifier, slabench.suites.fewshot
from slabench.cli.app import main
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
links = []
while True:
    ready = select.select([listener, *links], [], [], None if links else 60)[0]
    if not ready:
        sys.exit()
    if listener in ready:
        links.append(listener.accept()[0])
        continue
    message, files, _, _ = socket.recv_fds(ready[0], 1 << 20, 2)
    if not message:
        links.remove(ready[0])
        ready[0].close()
        if not links:
            sys.exit()
        continue
    if os.fork():
        for file in files:
            os.close(file)
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for connection in (listener, *links):
        connection.close()
    output, told = files
    copy = os.fork()
    if copy:
        os.close(output)
        os.write(told, b"%d " % copy)
        os.write(told, b"%d " % os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]))
        os._exit(0)
    break
os.close(told)
os.dup2(output, 1)
os.dup2(output, 2)
os.close(output)
asked = json.loads(message)
os.environ.clear()
os.environ.update(asked["environment"])
os.chdir(asked["folder"])
sys.argv = ["slabench", *asked["arguments"]]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background lets it be ignored
if channels := os.environ.get("CONV4_CHANNELS"):
    class Slow(slabench.backbones.fewshot.Conv4):
        def forward(self, images):
            if self.training:
                time.sleep(0.05)  # as long as a step of the usual network, so that there is time to interrupt it
            return super().forward(images)
    slabench.backbones.fewshot.conv4 = lambda image_size: Slow(image_size, int(channels))
main()
""".replace("CONV4_CHANNELS", CONV4_CHANNELS)


@cache
def _keeper() -> socket.socket:
    """The line to the process that is copied; it ends with this one."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    name = f"slabench-copies-{run}"  # of no file: it is gone with the process that listens
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    started = None
    while True:
        try:
            line.connect(f"\0{name}")
            return line
        except ConnectionRefusedError:
            if started is None:
                started = subprocess.Popen([sys.executable, "-c", _KEEPER, name], stdin=subprocess.DEVNULL)
            assert not started.poll(), "the process to be copied could not start"
            time.sleep(0.01)


class Copy:
    """A running `slabench ARGUMENTS`, with the part of `subprocess.Popen` that tests need.

    Args:
        arguments: of the command.
        folder: where it runs.
        environment: all of its variables.
    """

    def __init__(self, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
        asked = {"arguments": arguments, "folder": str(folder), "environment": environment}
        self._output, output = os.pipe()
        self._told, told = os.pipe()
        socket.send_fds(_keeper(), [json.dumps(asked).encode()], [output, told])
        os.close(output)
        os.close(told)
        self.returncode: int | None = None
        self.pid = int(self._word(time.monotonic() + 300) or 0)

    def _word(self, end: float) -> str | None:
        """What the waiting process tells next; None if it is silent until `end`."""
        word = b""
        while not word.endswith(b" "):
            if not select.select([self._told], [], [], max(0.0, end - time.monotonic()))[0]:
                return None
            read = os.read(self._told, 1)
            assert read, "the process that is copied has ended"
            word += read
        return word.decode()

    def poll(self) -> int | None:
        """Its exit code, minus the signal that ended it; None while it runs."""
        if self.returncode is None and (word := self._word(0.0)) is not None:
            self.returncode = int(word)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, None]:
        """All that it printed, when it has ended."""
        end = time.monotonic() + timeout
        output = b"".join(self._pieces(end)).decode()
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("slabench", timeout, output)
            time.sleep(0.005)
        os.close(self._told)
        return output, None

    def _pieces(self, end: float) -> Iterator[bytes]:
        with open(self._output, "rb", buffering=0) as pipe:
            while select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
                piece = pipe.read(1 << 16)
                if not piece:
                    return
                yield piece
