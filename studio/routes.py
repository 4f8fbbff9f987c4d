"""The studio's own HTTP routes under /gradio_api/studio: state, actions and media of one project each.

Every route below /p/ needs a capability token of that project (header X-Studio-Token or ?token=); without one there is
no such project. Media is named by ids and digests, never by paths. Knows nothing about what an action does.
"""

import json
import logging
import re
import secrets
from collections.abc import Callable
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from engine.config import ROOT
from engine.errors import ProjectCorrupt, ProjectNotFound, StudioError
from studio.actions import Actions
from studio.lab import drift_curves, limits
from studio.limits import MAX_JSON_BYTES
from studio.pictures import Pictures, described
from studio.tokens import Grant, Tokens

log = logging.getLogger(__name__)
PREFIX = "/gradio_api/studio"
MAX_FETCHES = 6  # searches and thumbnails under way at once
DIGEST = re.compile(r"[0-9a-f]{64}")
IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}
NO_STORE = {"Cache-Control": "no-store"}
NOT_FOUND = {"message": "There is no such page here.", "hint": "Check the link, or open the project again.", "id": ""}

Answer = Callable[[Request, Grant], Response]


def build(actions: Actions, tokens: Tokens) -> Starlette:
    """The ASGI application to mount at `PREFIX`."""
    routes = Routes(actions, tokens)
    per_project: list[tuple[str, str, Answer]] = [
        ("GET", "/p/{id}/state", routes.state),
        ("POST", "/p/{id}/act", routes.act),
        ("GET", "/p/{id}/init/{digest}", routes.init),
        ("GET", "/p/{id}/segment/{digest}/{start}", routes.segment),
        ("GET", "/p/{id}/poster/{digest}", routes.poster),
        ("GET", "/p/{id}/preview/{number}", routes.preview),
        ("GET", "/p/{id}/anchor", routes.anchor),
        ("GET", "/p/{id}/export/{name}", routes.export),
        ("GET", "/p/{id}/storyline/{kind}", routes.storyline),
        ("GET", "/p/{id}/remakes", routes.remakes),
    ]
    pictures = actions.pictures and routes.for_pictures(actions.pictures)
    per_run: list[tuple[str, str, Answer]] = [
        ("GET", "/lab/{id}/state", routes.run_state),
        ("POST", "/lab/{id}/act", routes.run_act),
        ("GET", "/lab/{id}/poster/{name}", routes.run_poster),
        ("GET", "/lab/{id}/sheet/{step}", routes.run_sheet),
    ]
    return Starlette(
        routes=[
            Route("/health", routes.health, methods=["GET"]),
            Route("/machine", routes.machine, methods=["GET"]),
            Route("/readme", routes.readme, methods=["GET"]),
            Route("/examples", routes.examples, methods=["GET"]),
            Route("/examples/{name}/poster", routes.example_poster, methods=["GET"]),
            Route("/lab/drift", routes.drift, methods=["GET"]),
            Route("/lab/runs", routes.runs, methods=["POST"]),
            Route("/lab/new", routes.new_run, methods=["POST"]),
            *(pictures or ()),
            *(Route(path, routes.guarded(answer), methods=[method]) for method, path, answer in per_project),
            *(Route(path, routes.guarded(answer, of_a_run=True), methods=[m]) for m, path, answer in per_run),
        ],
        exception_handlers={404: not_found, 405: not_found},
    )


def not_found(request: Request, err: Exception) -> Response:
    return JSONResponse(NOT_FOUND, 404)


def refused(err: StudioError) -> Response:
    """An error meant for the user's eyes, as JSON."""
    if isinstance(err, ProjectNotFound):
        return JSONResponse(NOT_FOUND, 404)
    return answer_with(400, err.message, err.hint)


def unexpected(err: Exception) -> Response:
    """A bug: its traceback goes to the log, its id to the page."""
    error_id = secrets.token_hex(4)
    log.error("error %s", error_id, exc_info=err)
    return answer_with(500, "Something went wrong in the studio.", "Your project is safe. Try again.", error_id)


def answer_with(status: int, message: str, hint: str, error_id: str = "", *, action: str = "") -> Response:
    """A refusal in words; `action`: what would help, if anything."""
    offered = {"action": action} if action else {}
    return JSONResponse({"message": message, "hint": hint, "id": error_id, **offered}, status)


class Routes:
    """Handlers, one per route. Those below /p/ run in a thread with a checked grant."""

    def __init__(self, actions: Actions, tokens: Tokens) -> None:
        self.actions = actions
        self.tokens = tokens

    def guarded(self, answer: Answer, *, of_a_run: bool = False) -> Callable[[Request], Any]:
        """`answer` behind the token check; absent, wrong and other projects' tokens all look like no project."""

        async def endpoint(request: Request) -> Response:
            project_id = request.path_params["id"]
            token = request.headers.get("x-studio-token") or request.query_params.get("token")
            grant = self.tokens.check(token, project_id)
            exists = self.actions.lab.exists if of_a_run else self.actions.exists
            if grant is None or not exists(project_id):
                return JSONResponse(NOT_FOUND, 404)
            rev = self.actions.lab.rev if of_a_run else self.actions.rev
            if answer in (self.state, self.run_state) and unchanged(request, rev(project_id)):
                return Response(status_code=204, headers=NO_STORE)
            if request.method == "POST":
                request.state.body = await request.body()
            return await run_in_threadpool(self._answered, answer, request, grant)

        return endpoint

    def _answered(self, answer: Answer, request: Request, grant: Grant) -> Response:
        try:
            return answer(request, grant)
        except StudioError as err:
            return refused(err)
        except Exception as err:  # the one place where a bug becomes an answer
            return unexpected(err)

    async def health(self, request: Request) -> Response:
        return JSONResponse(self.actions.health(), headers=NO_STORE)

    async def machine(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.actions.machine), headers=NO_STORE)

    async def readme(self, request: Request) -> Response:
        return FileResponse(ROOT / "README.md", media_type="text/plain; charset=utf-8")

    async def examples(self, request: Request) -> Response:
        prefix = f"{base(request)}/examples"
        found = [
            {"name": example.name, "title": example.title, "poster_url": f"{prefix}/{example.name}/poster"}
            for example in self.actions.examples()
        ]
        return JSONResponse(found, headers=NO_STORE)

    async def example_poster(self, request: Request) -> Response:
        for example in self.actions.examples():
            if example.name == request.path_params["name"] and example.poster:
                return FileResponse(example.poster)
        return JSONResponse(NOT_FOUND, 404)

    def state(self, request: Request, grant: Grant) -> Response:
        project_id = request.path_params["id"]
        view_token = self.tokens.give(project_id, "view", expiry=grant.expiry)
        try:
            state = self.actions.state(
                project_id,
                view_only=grant.scope == "view",
                media_base=f"{base(request)}/p/{project_id}",
                token=view_token,
            )
        except ProjectCorrupt as err:
            offered = grant.scope == "edit" and self.actions.can_restore(project_id)
            return answer_with(400, err.message, err.hint, action="restore_previous" if offered else "")
        return Response(json.dumps(state), media_type="application/json", headers=NO_STORE)

    def act(self, request: Request, grant: Grant) -> Response:
        command = command_of(request)
        if isinstance(command, Response):
            return command
        project_id = request.path_params["id"]
        if grant.scope == "view" and command.get("action") != "copy":
            return answer_with(403, "This link is for viewing.", "Make a copy to change it.")
        client = request.client.host if request.client else ""
        return JSONResponse({"ok": True, **self.actions.act(project_id, command, client=client)}, headers=NO_STORE)

    def init(self, request: Request, grant: Grant) -> Response:
        data = self.actions.init_segment(request.path_params["id"], digest(request))
        return Response(data, media_type="video/mp4", headers=IMMUTABLE)

    def segment(self, request: Request, grant: Grant) -> Response:
        start = request.path_params["start"]
        if not re.fullmatch(r"\d{1,9}", start, re.ASCII):
            raise ProjectNotFound("no such frame")
        data = self.actions.media_segment(request.path_params["id"], digest(request), int(start))
        return Response(data, media_type="video/mp4", headers=IMMUTABLE)

    def poster(self, request: Request, grant: Grant) -> Response:
        path = self.actions.poster_file(request.path_params["id"], digest(request))
        return FileResponse(path, media_type="image/jpeg", headers=IMMUTABLE)

    def preview(self, request: Request, grant: Grant) -> Response:
        number = request.path_params["number"]
        data = None
        if re.fullmatch(r"\d{1,12}", number, re.ASCII):
            data = self.actions.feed.preview(request.path_params["id"], int(number))
        if data is None:
            raise ProjectNotFound("no such preview")
        return Response(data, media_type="image/webp", headers=NO_STORE)

    def anchor(self, request: Request, grant: Grant) -> Response:
        path = self.actions.anchor_file(request.path_params["id"])
        return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    def export(self, request: Request, grant: Grant) -> Response:
        path = self.actions.export_file(request.path_params["id"], request.path_params["name"])
        return FileResponse(path, media_type="video/mp4", filename=path.name, headers=NO_STORE)

    def storyline(self, request: Request, grant: Grant) -> Response:
        kind = request.path_params["kind"]
        text = self.actions.storylines.exported(request.path_params["id"], kind)
        headers = NO_STORE | {"Content-Disposition": f'attachment; filename="storyline.{kind}"'}
        return Response(text, media_type="text/plain; charset=utf-8", headers=headers)

    def remakes(self, request: Request, grant: Grant) -> Response:
        return JSONResponse({"presets": self.actions.remakes(request.path_params["id"])}, headers=NO_STORE)

    # Training runs

    async def runs(self, request: Request) -> Response:
        """The runs of the owner whose secret the body holds, and what films can be made with."""

        def answer(request: Request, owner: str) -> Response:
            lab = self.actions.lab
            found = {"runs": lab.runs(owner), "models": lab.models(owner), "limits": limits(lab.base)}
            return JSONResponse(found, headers=NO_STORE)

        return await self._for_owner(request, answer)

    async def new_run(self, request: Request) -> Response:
        def answer(request: Request, owner: str) -> Response:
            run_id, token = self.actions.lab.create(owner)
            return JSONResponse({"id": run_id, "token": token}, headers=NO_STORE)

        return await self._for_owner(request, answer)

    # Keyword pictures

    def for_pictures(self, pictures: Pictures) -> list[Route]:
        """The two routes of a studio that looks for pictures. They wait for others' servers, few at a time."""
        few = CapacityLimiter(MAX_FETCHES)

        async def find(request: Request) -> Response:
            def answer(request: Request, owner: str) -> Response:
                found = pictures.find(owner, command_of(request).get("keywords", ""))
                return JSONResponse({"pictures": [described(one, base(request)) for one in found]}, headers=NO_STORE)

            return await self._for_owner(request, answer, few)

        def thumbnail(request: Request, owner: str) -> Response:
            data = pictures.thumbnail(request.path_params["id"])
            return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

        async def small(request: Request) -> Response:
            return await to_thread.run_sync(self._answered, thumbnail, request, "", limiter=few)

        return [Route("/pictures", find, methods=["POST"]), Route("/pictures/{id}", small, methods=["GET"])]

    async def _for_owner(
        self, request: Request, answer: Callable[[Request, str], Response], limiter: CapacityLimiter | None = None
    ) -> Response:
        request.state.body = await request.body()
        command = command_of(request)
        if isinstance(command, Response):
            return command
        owner = command.get("owner")
        if not isinstance(owner, str) or not 8 <= len(owner) <= 200:
            return answer_with(400, "The browser did not say who is asking.", "Reload the page.")
        return await to_thread.run_sync(self._answered, answer, request, owner, limiter=limiter)

    async def drift(self, request: Request) -> Response:
        return JSONResponse({"curves": drift_curves()}, headers=NO_STORE)

    def run_state(self, request: Request, grant: Grant) -> Response:
        run_id = request.path_params["id"]
        state = self.actions.lab.state(
            run_id,
            media_base=f"{base(request)}/lab/{run_id}",
            token=self.tokens.give(run_id, "view", expiry=grant.expiry),
        )
        return JSONResponse(state, headers=NO_STORE)

    def run_act(self, request: Request, grant: Grant) -> Response:
        command = command_of(request)
        if isinstance(command, Response):
            return command
        if grant.scope == "view":
            return answer_with(403, "This link is for viewing.", "Open your own run.")
        return JSONResponse({"ok": True, **self.actions.lab.act(request.path_params["id"], command)}, headers=NO_STORE)

    def run_poster(self, request: Request, grant: Grant) -> Response:
        path = self.actions.lab.poster_file(request.path_params["id"], request.path_params["name"])
        return FileResponse(path, media_type="image/jpeg", headers=IMMUTABLE)

    def run_sheet(self, request: Request, grant: Grant) -> Response:
        path = self.actions.lab.sheet_file(request.path_params["id"], request.path_params["step"])
        return FileResponse(path, media_type="image/png", headers=NO_STORE)


def unchanged(request: Request, rev: int) -> bool:
    since = request.query_params.get("since", "")
    return since.isascii() and since.isdigit() and int(since) == rev


def command_of(request: Request) -> dict[str, Any] | Response:
    """The JSON object in the body, which was read before, or the refusal."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return answer_with(415, "Actions are JSON.", "Send application/json.")
    body = request.state.body
    if len(body) > MAX_JSON_BYTES:
        return answer_with(413, "This request is too large.", "Send less.")
    try:
        command = json.loads(body)
    except (ValueError, RecursionError):
        command = None
    return command if isinstance(command, dict) else answer_with(400, "Actions are JSON objects.", "Reload the page.")


def base(request: Request) -> str:
    """Where this application is mounted, as the page sees it."""
    return request.scope.get("root_path", "").rstrip("/") or PREFIX


def digest(request: Request) -> str:
    text = request.path_params["digest"]
    if not DIGEST.fullmatch(text):
        raise ProjectNotFound("no such take")
    return text
