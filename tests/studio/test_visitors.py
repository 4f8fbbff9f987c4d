"""Two visitors at once: whatever one awaits, the other gets on with, and neither sees or changes the other's film."""

import asyncio
import json

import httpx
import pytest

from studio import actions as actions_module
from studio import routes
from studio.routes import PREFIX


class Switching:
    """An ASGI application that lets the other visitor go on at every receive and send."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        async def switching_receive():
            await asyncio.sleep(0)
            return await receive()

        async def switching_send(message) -> None:
            await asyncio.sleep(0)
            await send(message)

        await self.app(scope, switching_receive, switching_send)


async def inline(function, *args):
    """In the place of the thread pool, so that the order of everything is the same each time."""
    await asyncio.sleep(0)
    result = function(*args)
    await asyncio.sleep(0)
    return result


async def visit(client: httpx.AsyncClient, film, name: str, delay: int) -> list[dict]:
    """A short session that says `name` in everything it writes; every answer it got."""
    for _ in range(delay):
        await asyncio.sleep(0)
    headers = {"X-Studio-Token": film.token}
    answers = []

    async def act(action: str, **details) -> dict:
        body = {"action": action, "key": f"click-{len(answers)}", **details}
        answer = await client.post(f"{PREFIX}/p/{film.id}/act", headers=headers, json=body)
        assert answer.status_code == 200, answer.text
        answers.append(answer.json())
        state = await client.get(f"{PREFIX}/p/{film.id}/state", headers=headers)
        answers.append(state.json())
        return answers[-2]

    await act("set_settings", title=f"{name} title")
    first = await act("insert", prompt=f"{name} one")
    edited = await act("set_prompt", clip_id=first["clip_id"], prompt=f"{name} two")
    await act("undo", id=edited["undo_id"])
    await act("generate")
    await act("stop")
    return answers


@pytest.mark.parametrize("delay", range(0, 40, 3))
def test_two_visitors_interleaved_at_every_await_never_meet(quiet, new_film, monkeypatch, delay):
    monkeypatch.setattr(routes, "run_in_threadpool", inline)
    films = {"anna": new_film(quiet), "bert": new_film(quiet)}

    async def together() -> list[list[dict]]:
        transport = httpx.ASGITransport(app=Switching(films["anna"].client.app))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await asyncio.gather(
                visit(client, films["anna"], "anna", 0), visit(client, films["bert"], "bert", delay)
            )

    seen = asyncio.run(together())
    for answers, mine, other in zip(seen, ("anna", "bert"), ("bert", "anna"), strict=True):
        text = json.dumps(answers)
        assert other not in text and films[other].id not in text and films[other].token not in text
        last = answers[-1]
        assert last["project"]["title"] == f"{mine} title" and last["job"] is None
        assert [clip["prompt"] for clip in last["clips"]] == [f"{mine} one"]


def test_memory_is_kept_for_the_projects_somebody_looks_at(quiet, new_film, monkeypatch):
    monkeypatch.setattr(actions_module, "REMEMBERED_PROJECTS", 2)
    films = [new_film(quiet, clips=1) for _ in range(4)]
    films[0].do("generate")
    rev = films[1].do("insert", prompt="x")["rev"]
    for film in films[2:]:
        film.state()
    actions = quiet.actions
    assert films[1].id not in actions._recent and actions.history.last(films[1].id) is None
    assert films[1].id not in actions.library._snapshots and films[1].id not in actions.feed._rev
    assert films[0].id in actions._recent, "it has a job"
    assert films[1].state()["rev"] > rev and len(films[1].state()["clips"]) == 2
