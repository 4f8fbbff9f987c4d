"""The public API: six named endpoints for gradio_client and curl. Each returns at once; `/status` tells the progress.

For example: `client.predict(handle_file("harbour.png"), "an old harbour, storm", api_name="/create_project")`.
"""

import logging
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr

from engine.errors import InputError, ProjectNotFound, StudioError
from studio.routes import PREFIX
from studio.tokens import Grant

if TYPE_CHECKING:
    from studio import Studio

log = logging.getLogger(__name__)
API_OWNER = "api-without-owner"


def register(studio: "Studio") -> None:
    """Add the endpoints to the `gr.Blocks` that is being built."""
    for name, function in Endpoints(studio).public().items():
        gr.api(answered(function), api_name=name, api_visibility="public")


def answered(function: Callable[..., dict]) -> Callable[..., dict]:
    """`function` with its errors turned into what a client shows: a sentence, or the id of a bug in the log."""
    from functools import wraps

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> dict:
        try:
            return function(*args, **kwargs)
        except StudioError as err:
            raise gr.Error(str(err), print_exception=False) from err
        except Exception as err:
            error_id = secrets.token_hex(4)
            log.exception("error %s", error_id)
            raise gr.Error(f"Something went wrong in the studio (error {error_id}).", print_exception=False) from err

    return call


class Endpoints:
    """The same actions as the page's, addressed by project id and token."""

    def __init__(self, studio: "Studio") -> None:
        self.studio = studio
        self.actions = studio.actions

    def public(self) -> dict[str, Callable[..., dict]]:
        return {
            "create_project": self.create_project,
            "draft_storyline": self.draft_storyline,
            "generate": self.generate,
            "extend": self.extend,
            "status": self.status,
            "export": self.export,
        }

    def create_project(
        self, image: dict, keywords: str = "", variant: str = "film", title: str = "", owner: str = ""
    ) -> dict:
        """Make a project from an uploaded picture; returns project_id and the token that all other calls need."""
        path = image.get("path") if isinstance(image, dict) else None
        if not isinstance(path, str):
            raise InputError("There is no picture.", "Upload one, for example with handle_file.")
        name = image.get("orig_name")
        created = self.actions.create(
            owner or API_OWNER,
            path,
            keywords=keywords,
            variant=variant,
            title=title,
            original_name=name if isinstance(name, str) else "",
        )
        return {"project_id": created.project_id, "token": created.token}

    def draft_storyline(self, project_id: str, token: str, keywords: str = "", length: int = 6) -> dict:
        """Write a prompt for each of `length` clips; returns the prompts there are, and the phase.

        Where a language model writes, the phase is "drafting" and the prompts come one at a time: ask `/status`.
        """
        self._check(project_id, token)
        body = {"action": "draft", "length": length, **({"keywords": keywords} if keywords else {})}
        self.actions.act(project_id, body)
        return self._prompts(project_id) | {"phase": self.actions.status(project_id)["phase"]}

    def generate(self, project_id: str, token: str, prompts: list[str] = [], key: str = "") -> dict:  # noqa: B006 — shown in the API docs
        """Start making every clip that is not done (after appending one clip per prompt given); returns job_id.

        A call repeated with the same `key` (any text of yours) is answered again, not done again.
        """
        self._check(project_id, token)
        return self.actions.act(project_id, {"action": "generate", "prompts": prompts, "key": key})

    def extend(self, project_id: str, token: str, count: int = 1) -> dict:
        """Append `count` clips that continue the story and start making them; returns the prompts and job_id.

        Where a language model writes, both follow once the prompts are there: ask `/status`.
        """
        self._check(project_id, token)
        answer = self.actions.act(project_id, {"action": "extend", "count": count, "generate": True})
        return self._prompts(project_id) | {"job_id": answer.get("job_id", "")}

    def status(self, project_id: str, token: str) -> dict:
        """Phase, message, estimate, and the status of every clip."""
        grant = self._check(project_id, token, scopes=("view", "edit"))
        status = self.actions.status(project_id, view_only=grant.scope == "view")
        name = (status["export"] or {}).get("name")
        done = name and status["export"]["state"] == "done"
        return status | {
            "export": status["export"] and status["export"] | {"url": self._url(project_id, name) if done else None}
        }

    def export(self, project_id: str, token: str) -> dict:
        """Join the finished clips into one MP4; `/status` has its address once it is there."""
        self._check(project_id, token)
        return self.actions.act(project_id, {"action": "export"})

    def _check(self, project_id: str, token: str, scopes: tuple[str, ...] = ("edit",)) -> Grant:
        known = isinstance(token, str) and isinstance(project_id, str) and self.actions.exists(project_id)
        grant = self.studio.tokens.check(token, project_id) if known else None
        if grant is None or grant.scope not in scopes:
            raise ProjectNotFound("There is no such project, or the token does not open it.", "Check both.")
        return grant

    def _prompts(self, project_id: str) -> dict:
        return {"prompts": [clip.prompt for clip in self.actions.library.project(project_id).clips]}

    def _url(self, project_id: str, name: str) -> str:
        return f"{PREFIX}/p/{project_id}/export/{name}?token={self.studio.tokens.give(project_id, 'view')}"
