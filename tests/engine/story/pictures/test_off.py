"""Switched off, nothing of it is there; and nowhere else does the program reach for the network on its own."""

import ast
import subprocess
import sys
from pathlib import Path

from engine.config import ROOT

NETWORK = {
    "httpx", "httpx2", "httpcore", "httpcore2", "requests", "aiohttp", "urllib3", "safehttpx", "gradio_client",
    "pycurl", "socket", "socketserver", "http.client", "http.server", "urllib.request", "ftplib", "smtplib", "poplib",
    "imaplib", "telnetlib", "xmlrpc", "websockets", "websocket", "huggingface_hub", "wget", "fsspec",
}  # fmt: skip
# Who may, and what for. Everything else gets its bytes from files, from the page, or through one of these.
MAY = {
    "engine/story/pictures/fetch.py": "the fetcher: named hosts, public addresses",
    "engine/story/endpoint.py": "the operator's endpoint, at the operator's address",
    "engine/weights/hub.py": "weights from the Hub, at the operator's command",
    "engine/project/locks.py": "the name of this machine",
    "app.py": "whether a port is free",
}


def modules() -> list[Path]:
    return [path for top in ("engine", "studio") for path in sorted((ROOT / top).rglob("*.py"))] + [ROOT / "app.py"]


def reaches(path: Path) -> set[str]:
    """What of `NETWORK` a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {known for name in names for known in NETWORK if name == known or name.startswith(f"{known}.")}
    return found


def test_no_other_module_reaches_the_network():
    names = {path.relative_to(ROOT).as_posix(): reaches(path) for path in modules()}
    assert len(names) > 100
    assert {name for name, found in names.items() if found} == set(MAY), "compare with MAY, and say what for"
    assert names["engine/story/pictures/fetch.py"] == {"httpcore", "socket"}


OFF = """
import socket, sys
from engine.config import Config

def refuse(*args, **kwargs):
    raise AssertionError("a connection was opened")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from engine.story.pictures.sources import sources_of
from studio import open_studio, pictures
from pathlib import Path

config = Config(data_dir=Path(sys.argv[1]))
assert sources_of(config) == () and pictures.setup(config) == {"enabled": False, "sources": []}
studio = open_studio(config)
paths = [route.path for route in studio.routes.routes]
assert "/health" in paths and not [path for path in paths if "pictures" in path], paths
assert studio.actions.pictures is None
loaded = [name for name in ("httpcore", "engine.story.pictures.fetch", "engine.story.pictures.openverse",
                            "engine.story.pictures.commons", "engine.story.pictures.folder") if name in sys.modules]
print(loaded)
studio.close()
"""


def test_switched_off_there_is_no_route_no_fetcher_and_no_connection(tmp_path):
    command = [sys.executable, "-c", OFF, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
