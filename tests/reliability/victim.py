"""Processes to kill, forked from one that has imported the engine: what is killed is work, not imports."""

import contextlib
import multiprocessing
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from engine import faults

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.reliability.driver", "tests.reliability.batch_driver"])
ENDS_S = 300  # without a word for so long, it hangs
Report = Callable[[str], None]


def run(work: Callable[..., None], *args, fault: str = "", after_s: float | None = None) -> tuple[list[str], bool]:
    """Call `work(report, *args)` in a process of its own, killed `after_s` seconds into it or by `fault`.

    Returns what it had reported, and whether it was killed.
    """
    reports, theirs = _context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile("r") as errors:
        process = _context.Process(target=_begin, args=(theirs, errors.name, dict(os.environ), fault, work, args))
        process.start()
        theirs.close()
        begun = reports.poll(ENDS_S) and next(_received(reports), "")
        assert begun == "begun", errors.read()
        if after_s is not None:
            process.join(after_s)
            process.kill()
        reported = list(_received(reports))  # to its end, which is the process's
        process.join(ENDS_S)
        if process.exitcode is None:
            process.kill()
        assert process.exitcode in (0, -9), errors.read()
        return reported, process.exitcode == -9


def _received(reports: Connection) -> Iterator[str]:
    with contextlib.suppress(EOFError, OSError):  # killed in the middle of a report
        while reports.poll(ENDS_S):
            yield reports.recv()


def _begin(
    reports: Connection, errors: str, environment: dict, fault: str, work: Callable[..., None], args: tuple
) -> None:
    for stream, path in ((1, os.devnull), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    os.environ.update(environment)  # the test's, which may have changed since the first process
    reports.send("begun")
    with faults.injected(fault) if fault else contextlib.nullcontext():
        work(reports.send, *args)


class Patience:
    """Draws when to kill: later and later while nothing is finished, so that a slow machine gets there too."""

    def __init__(self, seed: int, longest_s: float) -> None:
        self._generator, self._first_s = random.Random(seed), longest_s
        self._longest_s, self._finished = longest_s, 0

    def after_s(self, finished: int) -> float:
        """Seconds until the next kill, when so much is `finished`."""
        self._longest_s = self._longest_s * 1.2 if finished == self._finished else self._first_s
        self._finished = finished
        return self._generator.uniform(0.0, self._longest_s)
