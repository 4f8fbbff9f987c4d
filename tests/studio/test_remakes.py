"""A film is rendered again by another model, from the page; and films of another size are shown, not gone on with."""

import shutil

import pytest

from engine import film as engine_film
from engine.config import load_preset
from engine.domain import new_id
from engine.media import video
from engine.project.store import Store
from studio.library import owner_of
from tests.conftest import OLD_PROJECT, PRESET
from tests.fakes import ScriptedBackend
from tests.studio.conftest import Film, client_of, finish

MINE = "owner-number-one"


@pytest.fixture
def large(quiet):
    """Another preset that this studio runs, of another size and rate, its weights here."""
    folder = quiet.data.parent
    text = PRESET.replace("[[64, 48], [48, 64], [64, 64]]", "[[160, 112]]").replace("fps: 8", "fps: 16")
    (folder / "large.yaml").write_text(text.replace("Tiny", "Large"))
    preset = load_preset(str(folder / "large.yaml"))
    quiet.actions.library.trained = lambda name: folder / "large.yaml" if name == "large" else None
    quiet.actions.library.default = preset
    return preset


def offers(film) -> dict[str, dict[str, str]]:
    return {offer["name"]: offer for offer in film.get("remakes").json()["presets"]}


def render(studio, film, preset) -> None:
    store = Store(studio.data / "films" / film.id)
    for _ in engine_film.render(store, ScriptedBackend(), preset, reserve_bytes=0):
        pass


def remade(quiet, film, preset: str, owner: str = MINE) -> Film:
    answer = film.act("remake", owner=owner, preset=preset)
    assert answer.status_code == 200, answer.text
    return Film(quiet, film.client, answer.json()["project_id"], answer.json()["token"])


def test_other_models_are_offered_and_what_they_lack_is_said_in_words(quiet, new_film, tmp_path, monkeypatch):
    monkeypatch.setenv("SVI_MODELS_DIR", str(tmp_path / "models"))
    found = offers(new_film(quiet, clips=1))
    assert next(iter(found)) == "tiny" and found["tiny"]["missing"] == ""
    full = found["svi-1"]
    assert full["title"].startswith("SVI 1.0")
    assert "not all here" in full["missing"] and "weights download --preset svi-1" in full["missing"]


def test_a_model_that_does_not_make_the_variant_says_so(quiet, new_film):
    film = new_film(quiet, clips=1)
    film.do("set_settings", variant="shot")
    assert "no variant “shot”" in offers(film)["svi-2"]["missing"]


def test_a_public_studio_offers_only_what_it_runs(quiet, new_film):
    film = new_film(quiet, clips=1)
    quiet.actions.config = quiet.config.model_copy(update={"public": True})
    assert list(offers(film)) == ["tiny"]
    assert "no preset “svi-1”" in film.act("remake", owner=MINE, preset="svi-1").json()["message"]


@pytest.mark.parametrize("name", ["svi-1", "nothing", "../../tiny", 5])
def test_a_model_that_cannot_be_used_makes_no_copy(quiet, new_film, tmp_path, monkeypatch, name):
    monkeypatch.setenv("SVI_MODELS_DIR", str(tmp_path / "models"))
    film = new_film(quiet, clips=1, owner=MINE)
    answer = film.act("remake", owner=MINE, preset=name)
    assert answer.status_code == 400 and answer.json()["message"]
    assert quiet.actions.library.count(owner_of(MINE)) == 1


def test_a_view_link_makes_no_remake(quiet, new_film):
    film = new_film(quiet, clips=1)
    viewer = Film(quiet, film.client, film.id, film.act("share").json()["token"])
    assert viewer.act("remake", owner=MINE, preset="tiny").status_code == 403


def test_a_remake_is_a_film_of_its_own_and_knows_the_first_one(quiet, new_film, large):
    film = new_film(quiet, clips=2, owner=MINE)
    finish(film)
    copy = remade(quiet, film, "large")
    seen = copy.state()
    assert [clip["prompt"] for clip in seen["clips"]] == ["prompt 1", "prompt 2"]
    assert [clip["id"] for clip in seen["clips"]] == [clip["id"] for clip in film.state()["clips"]]
    assert (seen["phase"], seen["project"]["preset_title"], seen["project"]["fps"]) == ("ready", "Large", 16)
    assert (seen["origin"]["id"], seen["origin"]["model"]) == (film.id, "Tiny")
    first = Film(quiet, film.client, film.id, seen["origin"]["token"]).state()
    assert first["view_only"] and len(first["film"]["segments"]) == 2
    assert film.client.get(first["film"]["segments"][1]["url"]).status_code == 200, "as the page asks: no header"
    assert film.state()["origin"] is None
    render(quiet, copy, large)
    assert copy.state()["phase"] == "finished" and copy.state()["film"]["duration_s"] == 13 / 16


def test_the_first_film_is_shown_to_its_owner_only_and_while_it_is_there(quiet, new_film):
    film = new_film(quiet, clips=1, owner=MINE)
    other = remade(quiet, film, "tiny", owner="owner-number-two")
    own = remade(quiet, film, "tiny")
    assert other.state()["origin"] is None and own.state()["origin"]["id"] == film.id
    viewer = Film(quiet, own.client, own.id, own.act("share").json()["token"])
    assert viewer.state()["origin"] is None
    film.act("delete_project")
    assert own.state()["origin"] is None


# Films that an earlier model made


@pytest.fixture
def old(quiet) -> Film:
    return opened(quiet)


def opened(studio, owner: str = MINE) -> Film:
    """The old project in the studio, whose preset `pocket` makes other clips by now."""
    project_id = studio.actions.library.copy(owner_of(owner), OLD_PROJECT)
    return Film(studio, client_of(studio), project_id, studio.tokens.give(project_id, "edit"))


def test_a_film_of_another_size_is_shown_as_its_takes_are(old):
    seen = old.state()
    assert (seen["phase"], seen["film"]["complete"]) == ("finished", True)
    assert (seen["project"]["width"], seen["project"]["height"]) == (288, 192)
    assert (seen["project"]["fps"], seen["project"]["num_frames"]) == (12, 25)
    assert [(clip["start_s"], clip["end_s"]) for clip in seen["clips"]] == [(0, 2.083), (2.083, 3.75)]
    assert [(one["start_frame"], one["frames"]) for one in seen["film"]["segments"]] == [(0, 25), (25, 20)]
    assert seen["film"]["duration_s"] == seen["film"]["planned_s"] == 3.75


def test_it_is_said_to_be_an_earlier_models_and_nothing_is_to_be_made_again(old):
    seen = old.state()
    assert [(clip["status"], clip["badge"]) for clip in seen["clips"]] == [("done", "made by an earlier model")] * 2
    assert not any(segment["stale"] for segment in seen["film"]["segments"])
    assert seen["message"].startswith("2 clips, 4 s. This film was made at 288×192") and seen["outgrown"]
    assert seen["primary"] == {
        "label": "Make a copy at the new size", "action": "remake", "enabled": True, "reason": ""
    }  # fmt: skip


@pytest.mark.parametrize(
    ("action", "details"),
    [
        ("extend", {}),
        ("extend", {"count": 5}),
        ("extend", {"count": "forever"}),
        ("regenerate", {}),
        ("generate", {"prompts": ["rain"]}),
        ("retry", {}),
    ],
    ids=str,
)
def test_nothing_is_made_for_it_and_a_copy_is_offered(old, action, details):
    before = old.state()
    if action == "regenerate":
        details = {"clip_id": before["clips"][0]["id"]}
    answer = old.act(action, **details)
    assert answer.status_code == 400 and "288×192" in answer.json()["message"]
    assert "copy at the new size" in answer.json()["hint"]
    after = old.state()
    assert after["job"] is None and after["clips"] == before["clips"] and after["undo"] is None


def test_the_copy_that_is_offered_has_the_new_size_and_the_storyline(quiet, old):
    copy = remade(quiet, old, "pocket").state()
    now = load_preset("pocket").resolution_for(288, 192)
    assert (copy["project"]["width"], copy["project"]["height"]) == (now.width, now.height)
    assert [clip["prompt"] for clip in copy["clips"]] == [clip["prompt"] for clip in old.state()["clips"]]
    assert copy["outgrown"] == "" and {clip["status"] for clip in copy["clips"]} == {"draft"}


def test_an_edited_prompt_is_marked_and_only_the_copy_can_be_made(old):
    seen = old.do("set_prompt", clip_id=old.state()["clips"][0]["id"], prompt="Snow falls")
    assert [clip["badge"] for clip in seen["clips"]] == ["made from an older prompt", "made from an older clip 1"]
    assert seen["phase"] == "ready" and seen["primary"]["action"] == "remake" and "288×192" in seen["message"]


def test_it_is_exported_at_its_own_size_and_rate(open_studio):
    film = opened(open_studio("fast"))
    film.do("export")
    seen = film.until(lambda state: (state["export"] or {}).get("state") == "done")
    assert (seen["export"]["frames"], seen["export"]["clips"]) == (45, 2)
    made = video.probe(film.studio.data / "films" / film.id / "exports" / seen["export"]["name"])
    assert (made.width, made.fps, made.num_frames) == (288, 12, 45)


def test_it_plays_though_its_model_is_not_here(quiet, old, tmp_path):
    (tmp_path / "pocket.yaml").write_text(PRESET.replace("model: weights", "model: nowhere"))
    quiet.actions.library.trained = lambda name: tmp_path / "pocket.yaml" if name == "pocket" else None
    seen = old.state()
    assert seen["phase"] == "finished" and len(seen["film"]["segments"]) == 2
    assert quiet.actions.remakes(old.id)[0]["missing"].startswith("The weights folder nowhere/ is missing")


def test_an_example_of_an_earlier_studio_opens(quiet):
    shutil.copytree(OLD_PROJECT, quiet.data.parent / "examples" / "old")
    made = quiet.actions.open_example(new_id(), "old")
    assert quiet.actions.state(made.project_id)["phase"] == "finished"
