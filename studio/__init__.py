"""The studio: everything behind the page. `open_studio` assembles it without gradio, `build` adds the page.

The layers, top to bottom: ui (alone in importing gradio) → routes, actions → queue, library, feed, view → engine.
The model lives in the worker process; nothing here imports torch.
"""

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import ASSETS, Config, Preset, load_preset
from engine.errors import disk_errors_explained
from engine.project.locks import locked

if TYPE_CHECKING:
    import gradio as gr

    from studio.actions import Actions
    from studio.queue import JobQueue
    from studio.tokens import Tokens

UPLOAD_AGE_S = 86400
RANDOM_TIMINGS = "timings-random.json"  # a model without its weights may be smaller, and quicker, than the real one
BACKEND_VARIABLE = "SVI_BACKEND"  # "module:function" in the place of the preset's own backend, for tests


@dataclass
class Studio:
    """One running studio on one data folder. `close()` stops the worker, keeps the queue and frees the folder."""

    config: Config
    preset: Preset
    data: Path
    actions: "Actions"
    queue: "JobQueue"
    tokens: "Tokens"
    routes: Any  # ASGI application to mount at studio.routes.PREFIX
    middleware: Any  # (class, keyword arguments)
    _exit: contextlib.ExitStack = field(repr=False, default_factory=contextlib.ExitStack)

    @property
    def uploads(self) -> Path:
        return self.data / "uploads"

    def start(self) -> None:
        self.queue.start()

    def close(self) -> None:
        self._exit.close()


@dataclass
class StudioApp:
    """A studio with its page. `launch()` serves it and returns at once."""

    studio: Studio
    blocks: "gr.Blocks"
    launch_kwargs: dict[str, Any]

    def launch(self, **extra: Any) -> tuple[Any, str, str]:
        without_proxy(self.studio.config.host)  # Gradio asks its own address whether it is up
        return self.blocks.launch(**(self.launch_kwargs | {"prevent_thread_lock": True} | extra))

    def close(self) -> None:
        self.studio.close()
        self.blocks.close(verbose=False)


def without_proxy(host: str) -> None:
    """Keep requests to this computer from a proxy that the environment names."""
    from studio.limits import LOOPBACK

    names = ("NO_PROXY", "no_proxy")
    kept = [part.strip() for name in names for part in os.environ.get(name, "").split(",") if part.strip()]
    if "*" not in kept:  # which counts only where it stands alone
        os.environ |= dict.fromkeys(names, ",".join(dict.fromkeys([*kept, *LOOPBACK, host])))


def open_studio(config: Config, *, backend: str = "", examples: Path | None = None) -> Studio:
    """The studio on `config.data_dir`, not yet started. Raises `ProjectLocked` when another one has the folder."""
    from studio.actions import Actions
    from studio.feed import Paces
    from studio.lab import Lab
    from studio.library import Library
    from studio.limits import Guard, Rates
    from studio.pictures import open_pictures
    from studio.queue import JobQueue
    from studio.routes import build as build_routes
    from studio.tokens import Tokens
    from studio.worker import Options

    data = config.data_dir.resolve()
    preset = load_preset(config.preset, random_weights=config.random_weights)
    with contextlib.ExitStack() as stack:
        with disk_errors_explained("the data folder"):
            (data / "uploads").mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(data / "studio.lock", doing="running a studio on it"))
        sweep_uploads(data / "uploads")
        with disk_errors_explained("the key of the links"):
            tokens = Tokens.open(data / "secret.key")
        library = Library(data / "films", preset, examples or ASSETS / "examples")
        options = Options(backend=backend or os.environ.get(BACKEND_VARIABLE, ""))
        paces = Paces(data / (RANDOM_TIMINGS if preset.random_weights else "timings.json"))
        queue = JobQueue(
            data / "jobs.json", library, paces=paces, options=options, reserve_bytes=config.reserve_bytes, warm=preset
        )
        stack.callback(queue.close)
        rates = Rates()
        actions = Actions(config, library, queue, queue.feed, tokens, rates, data / "uploads")
        stack.callback(actions.drafting.close)
        actions.lab = Lab(data / "lab", config, preset, queue, tokens, rates, data / "uploads")
        actions.pictures = open_pictures(config, rates)
        actions.lab.films_with, library.trained = library.count_with_preset, actions.lab.preset_file
        routes = build_routes(actions, tokens)
        guard = Guard, {"rates": rates, "public": config.public}
        return Studio(config, preset, data, actions, queue, tokens, routes, guard, stack.pop_all())


def sweep_uploads(folder: Path) -> None:
    """Delete uploads of earlier runs that no project was made from."""
    for path in sorted(folder.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
            elif path.stat().st_mtime < time.time() - UPLOAD_AGE_S:
                path.unlink()


def build(config: Config, *, backend: str = "", examples: Path | None = None) -> StudioApp:
    """The studio with its page, started: the worker loads the model in the background. Imports gradio."""
    studio = open_studio(config, backend=backend, examples=examples)
    try:
        os.environ["GRADIO_TEMP_DIR"] = str(studio.uploads)
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        studio.start()
        from starlette.middleware import Middleware
        from starlette.routing import Mount

        from studio.routes import PREFIX
        from studio.ui import api, layout

        blocks, page = layout.build(studio, api=api.register)
        blocks.queue(max_size=64, default_concurrency_limit=8)
        blocks.delete_cache = (3600, UPLOAD_AGE_S)
        guard, options = studio.middleware
        launch_kwargs = {
            "server_name": config.host,
            "server_port": config.port,
            "ssr_mode": False,
            "share": False,
            "enable_monitoring": False,
            "mcp_server": False,
            "run_history": False,
            "footer_links": ["api", "settings"],
            "max_file_size": "200mb",
            "blocked_paths": [
                str(studio.data / name)
                for name in ("films", "lab", "secret.key", "jobs.json", "timings.json", RANDOM_TIMINGS, "studio.lock")
            ]
            + [str(ASSETS)],
            "strict_cors": True,
            "show_error": False,
            "quiet": True,
            "_frontend": False,  # no second look at the own address, which gives up after three seconds
            "app_kwargs": {
                "routes": [Mount(PREFIX, studio.routes)],
                "middleware": [Middleware(guard, **options)],
            },
        }
        return StudioApp(studio, blocks, launch_kwargs | page)
    except BaseException:
        studio.close()
        raise
