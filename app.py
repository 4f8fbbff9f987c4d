"""Start the studio: `python app.py`, then open the address it prints."""

import argparse
import errno
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import get_args

from engine.config import Config, Drafter
from engine.errors import ConfigError, StudioError
from studio.limits import LOOPBACK

FIRST_PORT = 7860


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Stable Video Infinity Studio: one picture, a film that keeps going.")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1, this computer only)")
    parser.add_argument("--port", type=int, help=f"port to listen on (default {FIRST_PORT}, or the next free one)")
    parser.add_argument("--data-dir", type=Path, help="folder for projects (default ./projects)")
    parser.add_argument("--preset", help="name of a preset in assets/presets, or a YAML file (default pocket)")
    parser.add_argument("--public", action="store_true", default=None, help="allow --host to be reachable by others")
    parser.add_argument(
        "--random-weights",
        action="store_true",
        default=None,
        help="run a Wan preset without its files; results are marked",
    )
    story = parser.add_argument_group(
        "storylines", "A key for an endpoint is read from SVI_ENDPOINT_KEY only: flags can be seen by others."
    )
    story.add_argument("--drafter", choices=get_args(Drafter), help="who writes storylines (default auto: what fits)")
    story.add_argument("--drafter-model", metavar="ID|DIR", help="a Qwen-VL: its id on the Hub, or a folder")
    story.add_argument("--endpoint-url", metavar="URL", help="of an OpenAI-compatible server, ending in /v1")
    story.add_argument("--endpoint-model", metavar="NAME", help="what that server calls its model")
    return parser.parse_args(argv)


def configuration(flags: argparse.Namespace) -> Config:
    """The settings, with a Space's address when it runs in one. Refuses to be reachable by accident."""
    values = vars(flags)
    if os.environ.get("SPACE_ID"):  # Spaces puts its own proxy in front
        values |= {"host": values["host"] or "0.0.0.0", "public": True, "port": values["port"] or FIRST_PORT}
    config = Config.load(**values)
    if config.host not in LOOPBACK and not config.public:
        raise ConfigError(
            f"--host {config.host} would let others on your network use this studio over plain HTTP.",
            "Add --public if that is what you want.",
        )
    return config.model_copy(update={"port": free_port(config.host, config.port)})


def free_port(host: str, wanted: int | None) -> int:
    """`wanted`, or the first free port from 7860 on."""
    for port in [wanted] if wanted else range(FIRST_PORT, FIRST_PORT + 100):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                return port
            except socket.gaierror as err:
                raise ConfigError(f"There is no address called {host}.", "Check --host.") from err
            except OSError as err:
                if err.errno == errno.EADDRNOTAVAIL:
                    raise ConfigError(f"This computer has no address {host}.", "Check --host.") from err
                if err.errno in (errno.EACCES, errno.EPERM):
                    raise ConfigError(f"Port {port} needs special rights.", "Choose one above 1023.") from err
    raise ConfigError(f"Port {wanted or FIRST_PORT} is in use on {host}.", "Choose another one with --port.")


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)  # it would log addresses, and those hold tokens
    stopped = threading.Event()
    for name in ("SIGTERM", "SIGINT"):
        signal.signal(getattr(signal, name), lambda *_: stopped.set())
    try:
        config = configuration(arguments(argv))
        from studio import build

        app = build(config)
    except StudioError as err:
        print(err, file=sys.stderr)
        return 2
    try:
        try:
            app.launch()
        except OSError as err:  # somebody took the port since it was looked at
            print(f"The studio could not listen on {config.host}:{config.port}: {err}", file=sys.stderr)
            return 2
        if config.public:
            print("Anyone who can reach this address can use the studio. Put HTTPS in front of it.", flush=True)
        print(f"Studio: http://{config.host}:{config.port}  (projects in {app.studio.data})", flush=True)
        while not stopped.wait(0.5):
            pass
        print("Stopping: finished clips are kept.", flush=True)
    finally:
        app.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
