import json
import time

import pytest

from engine import storyboard
from engine.domain import MAX_PROMPT_CHARACTERS
from engine.errors import InputError, ProjectError, StudioError
from studio.limits import MAX_PER_HOUR, MAX_PROJECTS
from studio.routes import PREFIX
from tests.studio.conftest import OWNER, upload

PROMPTS = [
    "${alert(1)}",
    "<img src=x onerror=alert(1)>",
    "\u05e9\u05dc\u05d5\u05dd \u2066\u202eabc\u2069",
    "👩‍🚀🌋 émoji",
    "`${constructor.constructor('x')()}`",
    "{{#each value}}{{this}}{{/each}}",
]


def test_the_upload_is_gone_once_its_picture_is_in_the_project(quiet, picture):
    path = upload(quiet, picture)
    created = quiet.actions.create(OWNER, path, keywords="a hill")
    assert not path.exists() and not path.parent.exists()
    assert quiet.actions.anchor_file(created.project_id).is_file()


def test_a_refused_project_leaves_no_folder_and_keeps_the_upload(quiet, picture):
    path = upload(quiet, picture)
    with pytest.raises(InputError, match="keywords"):
        quiet.actions.create(OWNER, path, keywords="x" * 3000)
    assert list((quiet.data / "films").iterdir()) == []
    assert quiet.actions.create(OWNER, path).project_id and not path.exists()
    path = upload(quiet, picture)
    path.write_bytes(b"GIF89a")
    with pytest.raises(InputError, match="GIF"):
        quiet.actions.create(OWNER, path)


@pytest.mark.expects_errors
def test_a_bug_while_making_a_project_is_an_id_in_a_sentence(quiet, picture, monkeypatch):
    monkeypatch.setattr(quiet.actions.library, "create", lambda owner, make: 1 / 0)
    path = upload(quiet, picture)
    with pytest.raises(StudioError, match=r"making the project \(error [0-9a-f]{8}\)") as caught:
        quiet.actions.create(OWNER, path)
    assert "division" not in str(caught.value) and path.exists()


def test_half_a_character_is_cleaned_from_a_file_name_and_refused_elsewhere(quiet, picture):
    path = upload(quiet, picture)
    for field in ("title", "keywords", "variant", "quality", "negative_prompt"):
        with pytest.raises(InputError, match="broken character"):
            quiet.actions.create(OWNER, path, **{field: "a\ud83d"})
    created = quiet.actions.create(OWNER, path, original_name="a\ud83d.png")
    assert quiet.actions.library.project(created.project_id).inputs.original_name == "a?.png"


def test_deleting_a_project_makes_room_for_another(quiet, new_film):
    film = new_film(quiet, clips=1, owner=OWNER)
    film.do("generate")
    assert "Stop it first" in film.act("delete_project").json()["hint"]
    film.do("stop")
    film.do("set_settings", title="Gone")
    assert film.act("delete_project").json()["deleted"]
    assert film.get("state").status_code == 404 and film.act("delete_project").status_code == 404
    assert quiet.actions.library.count(quiet.actions._owner_with_room(OWNER)) == 0
    assert quiet.queue.outcome(film.id) is None and film.id not in (quiet.data / "jobs.json").read_text()
    deadline = time.monotonic() + 5
    while list((quiet.data / "films").iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_copy_that_does_not_fit_is_refused_first(quiet, new_film):
    film = new_film(quiet, clips=1)
    quiet.actions.config = quiet.actions.config.model_copy(update={"reserve_bytes": 10**18})
    assert "No room for a copy" in film.act("copy", owner="the-visitor").json()["message"]
    assert len(list((quiet.data / "films").iterdir())) == 1


def test_only_uploads_can_become_pictures(quiet, picture):
    with pytest.raises(InputError, match="not there"):
        quiet.actions.create(OWNER, picture)
    with pytest.raises(InputError, match="not there"):
        quiet.actions.create(OWNER, quiet.uploads / ".." / "secret.key")
    assert picture.exists()


def test_a_drafted_storyline_has_the_length_asked_for_and_can_be_undone(quiet, new_film):
    film = new_film(quiet)
    state = film.do("draft", keywords="a hill, fog", length=5)
    assert len(state["clips"]) == 5 and state["project"]["idea"] == "a hill, fog"
    assert state["undo"]["label"] == "Draft storyline"
    assert film.do("undo")["clips"] == []
    assert film.act("undo").status_code == 400


def test_redrafting_keeps_the_clips_before(quiet, new_film):
    film = new_film(quiet, clips=4)
    before = [clip["prompt"] for clip in film.state()["clips"]]
    after = film.do("redraft_from", clip_id=film.state()["clips"][2]["id"])
    prompts = [clip["prompt"] for clip in after["clips"]]
    assert prompts[:2] == before[:2] and prompts[2] != before[2] and len(prompts) == 4


@pytest.mark.parametrize("prompt", PROMPTS)
def test_hostile_prompts_stay_text(quiet, new_film, prompt):
    film = new_film(quiet, clips=1)
    clip = film.state()["clips"][0]
    raw = film.act("set_prompt", clip_id=clip["id"], prompt=prompt)
    assert raw.status_code == 200
    answer = film.get("state")
    shown = answer.json()["clips"][0]["prompt"]
    assert shown == " ".join(prompt.translate(dict.fromkeys([0x2066, 0x202E, 0x2069], " ")).split())
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_prompt_of_10_000_characters_is_refused_and_nothing_changes(quiet, new_film):
    film = new_film(quiet, clips=1)
    before = film.state()
    answer = film.act("set_prompt", clip_id=before["clips"][0]["id"], prompt="x" * 10_000)
    assert answer.status_code == 400 and f"{MAX_PROMPT_CHARACTERS:,}" in answer.json()["message"]
    assert film.state()["clips"] == before["clips"]


@pytest.mark.parametrize(
    ("action", "details"),
    [
        ("set_prompt", {"clip_id": 5, "prompt": "x"}),
        ("set_prompt", {"clip_id": "0" * 26, "prompt": "x"}),
        ("set_prompt", {"prompt": "x"}),
        ("insert", {"prompt": "half \ud83d a character"}),
        ("insert", {"prompt": {"text": "x"}}),
        ("set_seed", {"seed": -1}),
        ("set_seed", {"seed": 1.5}),
        ("set_seed", {"seed": True}),
        ("move", {"to": 99}),
        ("move", {"to": "first"}),
        ("pin", {"digest": "f" * 64}),
        ("pin", {"digest": ["x"]}),
        ("regenerate", {"scope": "everything"}),
        ("draft", {"length": 0}),
        ("draft", {"length": 1e9}),
        ("draft", {"keywords": ["x"], "length": 2}),
        ("draft", {"keywords": "x" * 3000, "length": 2}),
        ("extend", {"count": "always"}),
        ("set_settings", {"variant": "opera"}),
        ("set_settings", {"title": "x" * 201}),
        ("set_settings", {"title": {"a": 1}}),
        ("set_settings", {"num_inference_steps": 10_000}),
        ("set_settings", {"quality": "insane"}),
        ("insert", {"after": "nobody", "prompt": "x"}),
        ("generate", {"after_restart": "maybe"}),
        ("nonsense", {}),
        (None, {}),
        (["draft"], {}),
    ],
)
def test_wrong_arguments_are_refused_in_words(quiet, new_film, action, details):
    film = new_film(quiet, clips=1)
    before = film.state()
    details.setdefault("clip_id", before["clips"][0]["id"]) if action != "set_prompt" else None
    answer = film.client.post(
        f"{PREFIX}/p/{film.id}/act",
        headers={"X-Studio-Token": film.token, "Content-Type": "application/json"},
        content=json.dumps({"action": action, **details}),
    )
    assert answer.status_code == 400
    assert len(answer.json()["message"]) > 10
    assert film.state()["clips"] == before["clips"]


def test_a_repeated_key_acts_once(quiet, new_film):
    film = new_film(quiet)
    first = film.act("insert", prompt="only once", key="click-1").json()
    again = film.act("insert", prompt="only once", key="click-1").json()
    assert first == again
    assert len(film.state()["clips"]) == 1


def test_every_edit_raises_the_revision_and_an_unchanged_state_is_204(quiet, new_film):
    film = new_film(quiet, clips=1)
    rev = film.state()["rev"]
    assert film.get("state", since=rev).status_code == 204
    film.do("set_settings", title="Storm")
    assert film.get("state", since=rev).json()["project"]["title"] == "Storm"


def test_an_edit_from_the_command_line_is_seen(quiet, new_film):
    film = new_film(quiet, clips=2)
    rev = film.state()["rev"]
    from engine.project.store import Store

    Store(quiet.data / "films" / film.id).edit(lambda project: project.model_copy(update={"clips": project.clips[:1]}))
    assert len(film.get("state", since=rev).json()["clips"]) == 1


def test_move_duplicate_and_delete_keep_what_was_written(quiet, new_film):
    film = new_film(quiet, clips=3)
    ids = [clip["id"] for clip in film.state()["clips"]]
    moved = film.do("move", clip_id=ids[0], to=2)
    assert [clip["prompt"] for clip in moved["clips"]] == ["prompt 2", "prompt 3", "prompt 1"]
    doubled = film.do("duplicate", clip_id=ids[1])
    assert [clip["prompt"] for clip in doubled["clips"]] == ["prompt 2", "prompt 2", "prompt 3", "prompt 1"]
    assert len(film.do("delete", clip_id=ids[2])["clips"]) == 3
    restored = [film.do("undo") for _ in range(3)][-1]
    assert [clip["id"] for clip in restored["clips"]] == ids


def test_undo_takes_back_its_own_edit_and_nothing_else(quiet, new_film):
    film = new_film(quiet, clips=2)
    first, second = (clip["id"] for clip in film.state()["clips"])
    film.do("set_prompt", clip_id=first, prompt="changed")
    film.do("set_settings", title="Renamed")
    store = quiet.actions.library.store(film.id)
    store.edit(lambda project: storyboard.append(project, ["grown by itself"]))
    store.edit(lambda project: storyboard.set_seed(project, first, 7))
    state = film.do("undo")
    assert [clip["prompt"] for clip in state["clips"]] == ["prompt 1", "prompt 2", "grown by itself"]
    assert state["project"]["title"] == "Renamed" and state["clips"][0]["seed"] == 7
    film.do("delete", clip_id=second)
    store.edit(lambda project: storyboard.append(project, ["grown again"]))
    prompts = [clip["prompt"] for clip in film.do("undo")["clips"]]
    assert prompts == ["prompt 1", "prompt 2", "grown by itself", "grown again"]


def test_an_undo_that_names_its_edit_undoes_no_other(quiet, new_film):
    film = new_film(quiet, clips=1)
    clip_id = film.state()["clips"][0]["id"]
    first = film.act("set_prompt", clip_id=clip_id, prompt="one").json()["undo_id"]
    second = film.act("set_prompt", clip_id=clip_id, prompt="two").json()["undo_id"]
    assert film.state()["undo"] == {"label": "Edit prompt", "id": second}
    assert "Something else" in film.act("undo", id=first).json()["message"]
    assert film.do("undo", id=second)["clips"][0]["prompt"] == "one"
    assert "already" in film.act("undo", id=second).json()["message"]
    assert "undo_id" not in film.act("set_settings", title="Not worth one").json()


def test_settings_and_storylines_are_not_taken_back_while_the_film_is_made(quiet, new_film):
    film = new_film(quiet, clips=1)
    film.do("set_settings", num_inference_steps=7)
    film.do("generate")
    assert "being made" in film.act("undo").json()["message"]
    film.do("insert", prompt="may be taken back")
    assert len(film.do("undo")["clips"]) == 1


def test_settings_are_kept_and_a_title_is_not_worth_an_undo(quiet, new_film):
    film = new_film(quiet)
    state = film.do(
        "set_settings", title="  Storm\nover the hill ", idea="storm", variant="shot", num_inference_steps=7, seed=5
    )
    project = state["project"]
    assert (project["title"], project["idea"], project["variant"]) == ("Storm over the hill", "storm", "shot")
    assert (project["num_inference_steps"], project["seed"], project["quality"]) == (7, 5, "custom")
    film.do("undo")
    assert film.do("set_settings", title="Calm")["undo"] is None


def test_shot_repeats_one_prompt(quiet, new_film):
    film = new_film(quiet)
    film.do("set_settings", variant="shot")
    prompts = {clip["prompt"] for clip in film.do("draft", length=3)["clips"]}
    assert len(prompts) == 1


def test_extend_by_several_shows_the_prompts_first_and_by_one_starts_at_once(quiet, new_film):
    film = new_film(quiet, clips=1)
    state = film.do("extend", count=5)
    assert len(state["clips"]) == 6 and state["phase"] == "ready"
    state = film.do("extend", count=1)
    assert len(state["clips"]) == 7 and state["phase"] == "queued"


def test_prompts_given_to_generate_are_one_edit_or_none(quiet, new_film):
    film = new_film(quiet, clips=1)
    assert film.act("generate", prompts=["fine", "x" * 2000]).status_code == 400
    assert film.act("generate", prompts="text").status_code == 400
    assert len(film.state()["clips"]) == 1
    first = film.act("generate", prompts=["a", "b"], key="k").json()
    assert film.act("generate", prompts=["a", "b"], key="k").json() == first
    assert [clip["prompt"] for clip in film.state()["clips"]] == ["prompt 1", "a", "b"]
    assert len(film.do("undo", id=first["undo_id"])["clips"]) == 1


def test_generating_nothing_is_refused(quiet, new_film):
    film = new_film(quiet)
    assert "Draft a storyline" in film.act("generate").json()["hint"]


def test_a_full_disk_is_said_before_a_job_is_queued(quiet, new_film):
    film = new_film(quiet, clips=1)
    quiet.actions.config = quiet.actions.config.model_copy(update={"reserve_bytes": 10**18})
    answer = film.act("generate")
    assert answer.status_code == 400 and "No room" in answer.json()["message"]
    assert film.state()["phase"] == "ready"


def test_an_owner_has_at_most_one_running_and_three_waiting_jobs(quiet, new_film):
    films = [new_film(quiet, clips=1, owner=OWNER) for _ in range(5)]
    answers = [film.act("generate").status_code for film in films]
    assert answers == [200, 200, 200, 200, 400]
    other = new_film(quiet, clips=1, owner="somebody-else")
    assert other.act("generate").status_code == 200
    assert other.state()["job"]["place"] == 4


def test_an_owner_has_at_most_twenty_projects(quiet, picture):
    for number in range(MAX_PROJECTS):
        quiet.actions.library._owners[f"{number:026d}"] = quiet.actions._owner_with_room("another-owner")
    with pytest.raises(InputError, match="20 films"):
        quiet.actions.create("another-owner", upload(quiet, picture))


def test_drafts_an_hour_are_limited(quiet, new_film):
    film = new_film(quiet)
    owner = quiet.actions.library.owner(film.id)
    for _ in range(MAX_PER_HOUR["draft"]):
        quiet.actions.rates.count("draft", owner)
    answer = film.act("draft", length=2)
    assert answer.status_code == 400 and "last hour" in answer.json()["message"]


def test_a_view_link_shows_and_copies_but_changes_nothing(quiet, new_film):
    film = new_film(quiet, clips=2)
    shared = film.act("share").json()
    assert shared["url"] == f"/?project={film.id}&token={shared['token']}"
    film.token = shared["token"]
    assert film.state()["view_only"]
    assert film.act("delete", clip_id=film.state()["clips"][0]["id"]).status_code == 403
    copied = film.act("copy", owner="the-visitor").json()
    assert copied["project_id"] != film.id
    film.id, film.token = copied["project_id"], copied["token"]
    assert len(film.state()["clips"]) == 2 and not film.state()["view_only"]
    assert film.state()["project"]["title"].endswith("(copy)")


def test_a_copy_does_not_tell_whose_it_was(quiet, new_film):
    film = new_film(quiet, clips=1)
    film.do("set_settings", title="One")
    copied = quiet.actions.copy("the-visitor", film.id)
    folder = quiet.data / "films" / copied.project_id
    assert (
        not (folder / "project.previous.json").exists() or film.id not in (folder / "project.previous.json").read_text()
    )
    assert json.loads((folder / "studio.json").read_text())["owner"] == quiet.actions.library.owner(copied.project_id)
    assert quiet.actions.library.owner(copied.project_id) != quiet.actions.library.owner(film.id)


def test_an_example_opens_as_an_own_project(quiet, store):
    store.folder.rename(quiet.data.parent / "examples-made")
    (quiet.data.parent / "examples").mkdir()
    (quiet.data.parent / "examples-made").rename(quiet.data.parent / "examples" / "hill")
    assert [example.name for example in quiet.actions.examples()] == ["hill"]
    first, second = (quiet.actions.open_example(OWNER, "hill") for _ in range(2))
    assert first.project_id != second.project_id
    assert len(quiet.actions.state(first.project_id)["clips"]) == 3
    with pytest.raises(InputError, match="no such example"):
        quiet.actions.open_example(OWNER, "../hill")


def test_a_damaged_project_says_so_and_the_others_answer(quiet, new_film):
    film, other = new_film(quiet), new_film(quiet)
    (quiet.data / "films" / film.id / "project.json").write_text("{")
    answer = film.get("state")
    assert answer.status_code == 400 and "damaged" in answer.json()["message"]
    assert other.state()["phase"] == "draft"


def test_owner_secrets_are_not_written_to_the_disk(quiet, picture):
    quiet.actions.create("a-very-secret-owner", upload(quiet, picture))
    files = [file for file in quiet.data.rglob("*") if file.is_file()]
    assert files and not any(b"a-very-secret-owner" in file.read_bytes() for file in files)


def test_no_project_is_half_made_when_the_disk_is_full(quiet, picture):
    from engine import faults

    with faults.injected("owner.temp:enospc"), pytest.raises(ProjectError, match="No room"):
        quiet.actions.create(OWNER, upload(quiet, picture))
    assert list((quiet.data / "films").iterdir()) == []


@pytest.mark.parametrize("name", ["../secret.key", "anchor.png\n", "Anchor.png", ".png", "/etc/passwd", "a/b.png"])
def test_a_picture_named_by_a_path_is_a_damaged_project(quiet, new_film, name):
    film = new_film(quiet)
    file = quiet.data / "films" / film.id / "project.json"
    data = json.loads(file.read_text())
    data["inputs"]["image"] = name
    file.write_text(json.dumps(data))
    assert "damaged" in film.get("state").json()["message"] and film.get("anchor").status_code == 400
