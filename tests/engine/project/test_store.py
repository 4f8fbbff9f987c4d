import json
import os
import subprocess
import sys

import pytest

from engine import faults, film, storyboard
from engine.domain import (
    MAX_CLIPS,
    MAX_NEGATIVE_PROMPT_CHARACTERS,
    MAX_PROMPT_CHARACTERS,
    MAX_SEED,
    SCHEMA_VERSION,
    Clip,
)
from engine.errors import DiskFull, InputError, ProjectCorrupt, ProjectLocked, ProjectNotFound, ProjectTooNew
from engine.project.migrations import migrate
from engine.project.store import Store
from tests.fakes import ScriptedBackend


def test_a_folder_without_a_project_is_named(tmp_path):
    with pytest.raises(ProjectNotFound, match="nothing/"):
        Store.open(tmp_path / "nothing")


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"null", b'{"schema_version": 1}', b"\xff\x00" * 50, b"[" * 100_000]
)
def test_a_damaged_project_is_left_in_place_and_the_last_good_version_restores(store, damage):
    store.edit(lambda p: storyboard.append(p, ["one more"]))
    store.project_file.write_bytes(damage)
    with pytest.raises(ProjectCorrupt, match=r"project\.previous\.json"):
        Store.open(store.folder)
    assert store.project_file.read_bytes() == damage
    assert len(store.restore_previous().clips) == 3
    assert len(Store.open(store.folder).load().clips) == 3


def test_a_newer_schema_is_refused_and_not_rewritten(store):
    data = json.loads(store.project_file.read_text()) | {"schema_version": SCHEMA_VERSION + 1}
    store.project_file.write_text(json.dumps(data))
    before = store.project_file.read_bytes()
    with pytest.raises(ProjectTooNew, match="later version"):
        Store.open(store.folder)
    assert store.project_file.read_bytes() == before


def test_migrations_run_in_order_and_a_gap_is_named():
    steps = {1: lambda d: d | {"a": 1}, 2: lambda d: d | {"b": d["a"] + 1}}
    assert migrate({"schema_version": 1}, steps=steps, current=3) == {"schema_version": 3, "a": 1, "b": 2}
    with pytest.raises(ProjectCorrupt, match="1 to 2"):
        migrate({"schema_version": 1}, steps={}, current=2)


def test_an_edit_raises_the_revision_and_no_edit_does_not(store):
    rev = store.load().rev
    assert store.edit(lambda p: storyboard.append(p, ["x"])).rev == rev + 1
    assert store.edit(lambda p: p).rev == rev + 1


def test_a_render_lock_held_by_another_process_is_named_and_freed_by_its_death(store):
    code = (
        "import sys,time,pathlib\nfrom engine.project.store import Store\n"
        f"s=Store(pathlib.Path({str(store.folder)!r}))\n"
        "with s.lock('render'):\n  print('held', flush=True)\n  time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ProjectLocked, match=f"process {other.pid}"), store.lock("render"):
            pass
    finally:
        other.kill()
        other.wait()
    with store.lock("render"):
        pass


def test_opening_removes_leftovers_unless_someone_renders(store, preset):
    leftover = store.takes_folder / ".tmp-abc"
    leftover.mkdir()
    events = film.render(store, ScriptedBackend(), preset, reserve_bytes=0)
    next(events)
    leftover.mkdir()
    Store.open(store.folder)
    assert leftover.exists()
    events.close()
    Store.open(store.folder)
    assert not leftover.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the faults below cover it")
def test_a_read_only_project_is_readable(store):
    store.folder.chmod(0o555)
    try:
        assert Store.open(store.folder).load().clips
    finally:
        store.folder.chmod(0o755)


@pytest.mark.parametrize("action", ["enospc", "eio", "eacces"])
def test_any_failed_write_of_an_edit_leaves_the_project_loadable(store, action):
    n = 0
    while True:
        n += 1
        before = store.load()
        with faults.injected(f"project*:{action}:{n}") as fault:
            try:
                store.edit(lambda p: storyboard.append(p, ["x"]))
            except DiskFull as err:
                assert "safe" in err.hint
        after = store.load()
        assert len(after.clips) in (len(before.clips), len(before.clips) + 1)
        if not fault.fired:
            break
    assert n > 5


@pytest.mark.parametrize(
    ("letter", "control"),
    [("𠮷", "\x07"), ("字", "字")],
    ids=["as many bytes as there can be", "Chinese"],
)
def test_a_project_at_every_limit_can_be_read_again(store, letter, control):
    clip = Clip(
        prompt=letter * MAX_PROMPT_CHARACTERS,
        caption=letter * MAX_PROMPT_CHARACTERS,
        negative_prompt=control * MAX_NEGATIVE_PROMPT_CHARACTERS,
        seed=MAX_SEED,
        draft=False,
        pinned_take="f" * 64,
    )
    clips = [clip.model_copy(update={"id": f"{index:026}"}) for index in range(MAX_CLIPS)]
    store.edit(lambda p: storyboard.with_clips(p, clips).model_copy(update={"idea": control * 2000}))
    assert store.project_file.stat().st_size > 11_000_000
    assert store.load().clips == tuple(clips)


def test_a_project_that_could_not_be_read_again_is_not_written(store):
    before = store.project_file.read_bytes()
    inputs = store.load().inputs.model_copy(update={"original_name": "x" * storyboard.MAX_STORYBOARD_BYTES})
    with pytest.raises(InputError, match=r"up to 20\.6 are allowed\. It was left as it was"):
        store.edit(lambda p: p.model_copy(update={"inputs": inputs}))
    assert store.project_file.read_bytes() == before and not store.previous_file.exists()


def test_history_is_kept_in_events(store, preset):
    list(film.render(store, ScriptedBackend(), preset, reserve_bytes=0))
    lines = [json.loads(line) for line in (store.folder / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["clip_started", "take_committed"] * 3
