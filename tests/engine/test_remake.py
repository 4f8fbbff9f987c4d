"""A film is copied for another model, and one that its model has outgrown plays, exports, and is never mixed."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from engine import film, storyboard
from engine.batch import plan as batch_plan
from engine.batch import summary
from engine.config import Config, load_preset
from engine.domain import Beat, Clip, Credit, Telling
from engine.errors import ConfigError, InputError
from engine.media import video
from engine.project.store import Store
from engine.remake import remake
from tests.conftest import OLD_PROJECT, PRESET
from tests.fakes import ScriptedBackend


def render(store, preset):
    return list(film.render(store, ScriptedBackend(), preset, reserve_bytes=0))


@pytest.fixture
def full(tmp_path, preset):
    """A preset of another size, with settings of its own, that makes drafts."""
    text = PRESET.replace("num_frames: 9", "num_frames: 13").replace("fps: 8", "fps: 16")
    text = text.replace(
        "[[64, 48], [48, 64], [64, 64]]", "[[160, 96], [96, 160], [128, 128]]\nhd_resolutions: [[320, 192]]"
    )
    text = text.replace("num_inference_steps: 2", "num_inference_steps: 5").replace("scale: 1.0", "scale: 4.0")
    text += "negative_prompt: blurred\nvariants: {film: {lora_strength: 0.8}, shot: {}}\n"
    text += "draft: {loras: [{lora: fast.safetensors}]}\n"
    (tmp_path / "full.yaml").write_text(text)
    return load_preset(str(tmp_path / "full.yaml"))


@pytest.fixture
def sketch(tmp_path, picture, preset):
    """A finished film of two clips with everything that a creator can say about it."""
    credit = Credit(title="A hill", licence="CC BY 4.0", source="Openverse")
    store = film.create(tmp_path / "sketch", picture, preset, title="Weather", idea="hill", seed=7, credit=credit)
    beats = [
        Beat(prompt="night falls", caption="es wird Nacht"),
        Beat(prompt="fog rolls in", caption="Nebel zieht auf"),
    ]
    store.edit(lambda p: storyboard.append_beats(p, beats))
    second = store.load().clips[1].id
    telling = {"telling": Telling(tone="drama", language="de"), "storyline_source": "template"}
    store.edit(lambda p: storyboard.set_negative_prompt(storyboard.set_seed(p, second, 99), second, "no people"))
    store.edit(lambda p: p.model_copy(update=telling))
    render(store, preset)
    take = film.plan(store, preset).clips[1].take.digest
    store.edit(lambda p: storyboard.pin(p, second, take))
    return store


def test_a_remake_says_the_same_and_is_made_by_the_other_model(sketch, full, tmp_path):
    before = sketch.load()
    copy = remake(sketch, full, tmp_path / "final").load()
    same = {"title", "idea", "variant", "seed", "storyline_source", "telling", "inputs", "schema_version"}
    assert {name: getattr(copy, name) for name in same} == {name: getattr(before, name) for name in same}
    assert list(copy.clips) == [clip.model_copy(update={"pinned_take": None}) for clip in before.clips]
    assert [copy.seed_of(index) for index in range(2)] == [before.seed_of(index) for index in range(2)] == [7, 99]
    assert (copy.preset, str(copy.resolution)) == ("full", "160×96"), "the shape nearest to a picture of 96×72"
    assert (copy.num_inference_steps, copy.guidance_scale, copy.negative_prompt) == (5, 4.0, "blurred")
    assert (copy.lora_strength, copy.remake_of, copy.rev) == (0.8, before.id, 0)
    assert copy.id != before.id


def test_the_original_is_not_touched(sketch, full, tmp_path):
    files = {path: path.read_bytes() for path in sketch.folder.rglob("*") if path.is_file()}
    remake(sketch, full, tmp_path / "final")
    assert {path: path.read_bytes() for path in sketch.folder.rglob("*") if path.is_file()} == files


def test_a_remake_is_rendered_whole_with_the_same_number_of_clips(sketch, full, tmp_path):
    (tmp_path / "fast.safetensors").write_bytes(b"stand-in")
    copy = remake(sketch, full, tmp_path / "final")
    assert (
        copy.takes() == {}
        and copy.anchor_file(copy.load()).read_bytes() == sketch.anchor_file(sketch.load()).read_bytes()
    )
    render(copy, full)
    exported = film.export(copy, full, tmp_path / "final.mp4")
    assert (exported.clips, exported.frames, exported.fps) == (2, 13 + 8, 16)
    seeds = [
        [clip.take.seed for clip in film.plan(*pair).clips] for pair in ((copy, full), (sketch, preset_of(sketch)))
    ]
    assert seeds[0] == seeds[1] == [7, 99]


def preset_of(store: Store):
    return load_preset(str(store.folder.parent / "tiny.yaml"))


def test_large_sizes_are_asked_for(sketch, full, tmp_path):
    assert str(remake(sketch, full, tmp_path / "large", hd=True).load().resolution) == "320×192"


@pytest.mark.parametrize("has_drafts", [True, False])
def test_drafts_stay_drafts_only_where_the_model_has_them(sketch, full, tmp_path, has_drafts):
    first = sketch.load().clips[0].id
    sketch.edit(lambda p: p.model_copy(update={"draft": True}))
    sketch.edit(lambda p: storyboard.replace_clip(p, first, draft=False))
    copy = remake(sketch, full if has_drafts else full.model_copy(update={"draft": None}), tmp_path / "final").load()
    assert [copy.is_draft(index) for index in range(2)] == [False, has_drafts]


def test_a_model_without_the_variant_refuses_in_a_sentence_and_leaves_nothing(tmp_path, picture, preset, full):
    shot = film.create(tmp_path / "shot", picture, preset, prompts=["rain"], variant="shot")
    only_film = full.model_copy(update={"variants": {"film": full.variants["film"]}})
    with pytest.raises(ConfigError, match="“full” has no variant “shot”"):
        remake(shot, only_film, tmp_path / "final")
    assert not (tmp_path / "final" / "project.json").exists()


def test_a_folder_that_holds_a_film_is_refused(sketch, full):
    with pytest.raises(InputError, match="already holds a project"):
        remake(sketch, full, sketch.folder)


def test_a_project_saved_before_remakes_opens_and_is_nobodys_copy(sketch):
    data = json.loads(sketch.project_file.read_text())
    del data["remake_of"]
    sketch.project_file.write_text(json.dumps(data))
    assert sketch.load().remake_of is None


# Films that an earlier model made


@pytest.fixture
def old(tmp_path) -> Store:
    """Two clips of 25 frames, 288×192 at 12 fps, as an earlier version of the studio left them."""
    shutil.copytree(OLD_PROJECT, tmp_path / "old")
    return Store.open(tmp_path / "old")


@pytest.fixture
def pocket(tmp_path):
    """What the film's preset makes by now; its weights are not here, and need not be."""
    return earlier(tmp_path, num_frames=81, fps=16, resolutions="[[832, 480], [480, 832], [624, 624]]")


def earlier(folder: Path, **changes):
    values = {"num_frames": 25, "fps": 12, "resolutions": "[[288, 192], [192, 288], [240, 240]]"} | changes
    lines = "".join(f"{key}: {value}\n" for key, value in values.items())
    (folder / "pocket.yaml").write_text(f"title: Pocket\nfamily: pocket\nmodel: nowhere\ndtype: float32\n{lines}")
    return load_preset(str(folder / "pocket.yaml"))


def test_an_outgrown_film_is_done_as_it_is(old, pocket):
    planned = film.plan(old, pocket)
    assert [clip.status for clip in planned.clips] == ["done", "done"] and planned.next is None
    assert planned.outgrown.count(".") == 1 and "288×192, 25 frames a clip, 12 fps" in planned.outgrown
    assert "Pocket makes 832×480, 81 frames, 16 fps" in planned.outgrown


def test_an_outgrown_film_is_exported_from_its_takes(old, pocket, tmp_path):
    exported = film.export(old, pocket, tmp_path / "film.mp4")
    assert (exported.frames, exported.fps, exported.num_frames, exported.clips) == (45, 12, 25, 2)
    made = video.probe(tmp_path / "film.mp4")
    assert (made.num_frames, made.fps, made.width, made.height) == (45, 12, 288, 192)


def test_an_edit_in_an_outgrown_film_is_seen_and_the_film_still_plays(old, pocket):
    first = old.load().clips[0]
    old.edit(lambda p: storyboard.set_prompt(p, first.id, "Snow falls"))
    planned = film.plan(old, pocket)
    assert [clip.status for clip in planned.clips] == ["stale", "stale"] and len(planned.film) == 2
    old.edit(lambda p: storyboard.set_prompt(p, first.id, first.prompt))
    assert film.plan(old, pocket).next is None


@pytest.mark.parametrize(
    "changes",
    [{"num_frames": 81}, {"fps": 16}, {"resolutions": "[[832, 480]]"}],
    ids=["length", "rate", "size"],
)
def test_nothing_is_made_for_an_outgrown_film_whatever_has_changed(old, tmp_path, changes):
    now, backend = earlier(tmp_path, **changes), ScriptedBackend()
    old.edit(lambda p: storyboard.append(p, ["Night falls"]))
    takes = set(old.takes())
    with pytest.raises(InputError, match="one film never mixes them") as refused:
        list(film.render(old, backend, now, reserve_bytes=0))
    assert f"engine remake --project {old.folder} --preset pocket --out" in refused.value.hint
    assert backend.generated == [] and set(old.takes()) == takes


def test_a_film_that_still_fits_is_not_outgrown(old, tmp_path):
    assert film.outgrown(old.load(), old.takes().values(), earlier(tmp_path)) == ""


def test_a_film_begun_at_a_size_that_is_no_more_is_outgrown_before_its_first_take(store, preset):
    now = preset.model_copy(update={"resolutions": ((128, 96),)})
    assert film.outgrown(store.load(), (), now) == "This film was begun at 64×48, and Tiny makes 128×96."
    with pytest.raises(InputError):
        render(store, now)


def test_takes_of_another_shape_are_never_shown_beside_the_newest(old, pocket):
    first, second = (clip.take for clip in film.plan(old, pocket).clips)
    file = old.take_folder(second.digest) / "take.json"
    file.write_text(second.model_copy(update={"width": 832, "height": 480}).model_dump_json())
    planned = film.plan(Store(old.folder), pocket)
    assert [clip.take and clip.take.digest for clip in planned.clips] == [None, second.digest]
    assert first.digest in old.takes(), "it is kept all the same"


def test_a_batch_counts_an_outgrown_film_by_its_takes(old, pocket, tmp_path):
    Image.new("RGB", (96, 64), "teal").save(tmp_path / "lake.png")
    (tmp_path / "plan.yaml").write_text(f"films:\n  - {{picture: {tmp_path / 'lake.png'}, clips: 2}}\n")
    [task] = batch_plan.read_plan(tmp_path / "plan.yaml", Config(preset=str(tmp_path / "pocket.yaml")))
    row = summary.row_of(task, film.plan(old, pocket))
    assert (row.state, row.frames, row.seconds) == ("finished", 45, 3.75)


def test_a_copy_at_the_new_size_can_be_made_again(old, pocket, tmp_path):
    copy = remake(old, pocket, tmp_path / "new")
    project = copy.load()
    assert (str(project.resolution), project.preset) == ("832×480", "pocket")
    assert film.outgrown(project, copy.takes().values(), pocket) == ""
    assert [type(clip) for clip in project.clips] == [Clip, Clip]
    assert [clip.prompt for clip in project.clips] == [clip.prompt for clip in old.load().clips]
