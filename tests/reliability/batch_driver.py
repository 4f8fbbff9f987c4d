"""Runs `python -m engine batch` with the scripted backend: something to kill."""

import sys

from engine import backends, cli
from tests.fakes import ScriptedBackend

if __name__ == "__main__":
    step_s, *arguments = sys.argv[1:]
    backends.open_backend = lambda preset, **_: ScriptedBackend(step_s=float(step_s))
    sys.exit(cli.main(arguments))
