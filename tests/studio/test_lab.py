"""The Lab without a page: what is taken in, what is refused, and what a run is after a pause, a kill and a restart."""

import json
import shutil
import time
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from engine.config import load_preset
from engine.errors import InputError, ProjectNotFound
from engine.media.footage import import_video
from studio.lab import Journal, Lab, drift_curves, fold_name, read_captions, recipe
from studio.library import owner_of
from studio.queue import Job
from studio.routes import PREFIX
from studio.view import Outcome
from studio.worker import Planned
from tests.studio.conftest import OWNER, client_of

STRANGER = "owner-of-somebody-else"


def make_video(
    path: Path, *, frames: int = 28, size: tuple[int, int] = (64, 48), seed: int = 0, speed: float = 1.0
) -> Path:
    """A camera that moves over a gradient, 12 frames a second."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            way = speed * index
            planes = [(3 * x + 4 * way + 40 * seed) % 256, (4 * y + 2 * way) % 256, np.full(x.shape, 60 + 40 * seed)]
            frame = av.VideoFrame.from_ndarray(np.stack(planes, -1).astype(np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def footage(tmp_path_factory) -> Path:
    return make_video(tmp_path_factory.mktemp("footage") / "Night at the pier.mp4")


@pytest.fixture
def lab(quiet) -> Lab:
    return quiet.actions.lab


def added(lab: Lab, run_id: str, source: Path, name: str | None = None) -> str:
    """The stored name of a video that was uploaded and added."""
    folder = lab.uploads / "fedcba"
    folder.mkdir(exist_ok=True)
    upload = shutil.copy(source, folder / source.name)
    return lab.act(run_id, {"action": "add", "upload": str(upload), "name": name or source.name})["video"]


@pytest.fixture
def ready(lab, footage) -> str:
    """A run with one video and its caption."""
    run_id, _ = lab.create(OWNER)
    video = added(lab, run_id, footage)
    lab.act(run_id, {"action": "caption", "video": video, "caption": "Night falls over the pier"})
    return run_id


def log_of(lab: Lab, run_id: str, steps: int, *, best: int = 0) -> None:
    """What the trainer would have written."""
    out = lab.folder / run_id / "out"
    out.mkdir(exist_ok=True)
    records = [
        {"kind": "step", "step": step, "of": 300, "loss": 1 / step, "bank_fill": step / 1000, "clips_per_s": 2.0}
        for step in range(1, steps + 1)
    ]
    if best:
        records.append({"kind": "best", "step": best})
        (out / "lora.safetensors").write_bytes(b"weights of step %d" % best)
    with (out / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def job_of(run_id: str, kind: str = "train") -> Job:
    return Job(id=run_id, kind=kind, project_id=run_id, owner=owner_of(OWNER))


# Videos


def test_a_video_is_made_anew_under_a_name_of_the_studios_own(lab, footage):
    run_id, _ = lab.create(OWNER)
    name = added(lab, run_id, footage, "../../etc/<b>passwd</b>.mp4")
    folder = lab.folder / run_id
    assert sorted(p.name for p in (folder / "videos").iterdir()) == [f"{name}.mp4"]
    assert (folder / "posters" / f"{name}.jpg").stat().st_size > 200
    [video] = lab.state(run_id)["videos"]
    assert (video["width"], video["height"], video["num_frames"]) == (64, 48, 28)
    assert video["original"] == "../../etc/<b>passwd</b>.mp4"  # text only
    assert (folder / "videos" / f"{name}.mp4").read_bytes() != footage.read_bytes()
    assert not [path for path in lab.uploads.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not a video"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "not a video"),
        (b"", "empty"),
        (bytes(range(256)) * 40, "not a video"),
    ],
)
def test_a_file_that_is_no_video_is_refused_in_words(lab, tmp_path, content, sentence):
    run_id, _ = lab.create(OWNER)
    fake = tmp_path / "clip.mp4"
    fake.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        added(lab, run_id, fake)
    assert lab.state(run_id)["videos"] == []
    assert not list((lab.folder / run_id / "videos").iterdir())


def test_a_video_cut_off_is_refused(tmp_path, footage):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(footage.read_bytes()[:-900])
    with pytest.raises(InputError):
        import_video(cut, tmp_path / "stored.mp4", tmp_path / "stored.jpg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.mp4"]


def test_a_video_of_a_few_frames_or_of_a_giant_is_refused(tmp_path):
    for options, sentence in [({"frames": 5}, "5 frames"), ({"size": (2000, 64), "frames": 9}, "2000×64")]:
        video = make_video(tmp_path / "odd.mp4", **options)
        with pytest.raises(InputError, match=sentence):
            import_video(video, tmp_path / "stored.mp4", tmp_path / "stored.jpg")


def test_only_uploads_are_read(lab, footage, tmp_path):
    run_id, _ = lab.create(OWNER)
    for path in (str(footage), "/etc/passwd", str(lab.uploads / ".." / "secret.key"), "", None, 7, "a\0b"):
        with pytest.raises(InputError, match=r"(?i)upload"):
            lab.act(run_id, {"action": "add", "upload": path, "name": "x.mp4"})


# Captions


def test_a_captions_file_finds_the_videos_by_their_own_names(lab, footage):
    run_id, _ = lab.create(OWNER)
    first, second = added(lab, run_id, footage, "Pier.MP4"), added(lab, run_id, footage, "lake.mp4")
    text = 'file_name,caption\nclips/pier.mp4,"Night falls, slowly"\nother.mp4,Fog\n'
    answer = lab.act(run_id, {"action": "captions", "name": "captions.csv", "text": text})
    assert (answer["matched"], answer["unmatched"]) == (1, 1)
    captions = {video["name"]: video["caption"] for video in lab.state(run_id)["videos"]}
    assert captions == {first: "Night falls, slowly", second: ""}
    assert lab.state(run_id)["missing"] == "Write a caption for every video: 1 video has none."


def test_captions_are_read_from_json_lines_and_folded_to_one_line():
    text = '{"file_name": "a.mp4", "text": "one\\n\\ttwo"}\nnot json\n'
    assert read_captions(text, "metadata.jsonl") == {"a.mp4": "one two"}
    assert fold_name("Ordner\\CAFE\u0301.mp4") == "caf\u00e9.mp4"


@pytest.mark.parametrize("text", ["", "name;caption\n", 7, "x" * 600_000])
def test_a_captions_file_without_captions_is_refused(text):
    with pytest.raises(InputError):
        read_captions(text, "captions.csv")


# Settings and the recipe


@pytest.mark.parametrize("steps", [0, 3, 20_001, "100", 1.5, True, None])
def test_steps_are_checked(lab, ready, steps):
    with pytest.raises(InputError, match="whole number"):
        lab.act(ready, {"action": "set", "steps": steps})


@pytest.mark.parametrize("body", [{}, {"action": "explode"}, {"action": ["start"]}, {"action": "set", "variant": "x"}])
def test_an_action_that_makes_no_sense_is_refused(lab, ready, body):
    with pytest.raises(InputError):
        lab.act(ready, body)


def test_the_recipe_holds_what_was_chosen_and_the_trainer_accepts_it(lab, ready):
    from engine.training.recipe import read_recipe

    lab.act(ready, {"action": "set", "variant": "shot", "steps": 40})
    config = read_recipe(lab._recipe(job_of(ready)))
    assert (config.variant, config.num_steps, config.evaluate_every) == ("shot", 40, 10)
    assert config.videos.folder.parent == lab.folder / ready and config.output.is_relative_to(lab.folder / ready)
    captions = (lab.folder / ready / "videos" / "captions.csv").read_text().splitlines()
    assert captions == ["file_name,caption", "video-0001.mp4,Night falls over the pier"]


def test_upright_videos_train_upright_and_a_large_model_uses_the_shipped_recipe(lab, ready, tmp_path):
    run = lab._load(ready)
    tall = run.model_copy(update={"videos": (run.videos[0].model_copy(update={"width": 400, "height": 720}),)})
    pocket = load_preset("pocket")
    assert recipe(run, tmp_path, pocket, "pocket")["videos"]["size"] == [240, 416]
    assert recipe(tall, tmp_path, pocket, "pocket")["videos"]["size"] == [416, 240]
    wan = load_preset("assets/presets/models/wan21-i2v-480p.yaml")
    large = recipe(run, tmp_path, wan, "assets/presets/models/wan21-i2v-480p.yaml")
    assert large["lora"]["rank"] == 128 and large["recycling"]["bank"]["fit"] and large["videos"]["size"] == [480, 832]
    path = tmp_path / "large.yaml"
    path.write_text(yaml.safe_dump(large))
    from engine.training.recipe import read_recipe

    assert read_recipe(path).num_steps == run.steps


# States


def test_a_run_is_a_draft_until_it_starts_and_says_what_is_missing(lab, footage):
    run_id, _ = lab.create(OWNER)
    state = lab.state(run_id)
    assert (state["status"], state["primary"]["enabled"]) == ("draft", False)
    assert "video" in state["primary"]["reason"]
    with pytest.raises(InputError, match="video"):
        lab.act(run_id, {"action": "start"})
    added(lab, run_id, footage)
    with pytest.raises(InputError, match="caption"):
        lab.act(run_id, {"action": "start"})


def test_starting_waits_in_the_lane_of_films_and_pausing_leaves_it(lab, ready):
    lab.act(ready, {"action": "start"})
    assert lab.queue.job_of(ready, "train") and lab.state(ready)["status"] == "queued"
    with pytest.raises(InputError, match="Pause"):
        lab.act(ready, {"action": "remove", "video": "video-0001"})
    lab.act(ready, {"action": "pause"})
    assert lab.queue.job_of(ready, "train") is None


def test_a_check_that_still_waits_gives_way_to_the_start(lab, ready):
    lab.act(ready, {"action": "check"})
    assert lab.state(ready)["plan"]["checking"]
    lab.act(ready, {"action": "start"})
    assert lab.queue.job_of(ready, "plan") is None and lab.queue.place(lab.queue.job_of(ready, "train")) == 0


def test_a_film_behind_a_training_run_says_so(quiet, lab, ready, new_film):
    lab.act(ready, {"action": "start"})
    film = new_film(quiet, clips=1)
    state = film.do("generate")
    assert state["phase"] == "queued"
    assert "training run is before yours" in state["message"] and "Lab" in state["message"]


def test_what_was_fixed_at_the_start_stays_fixed(lab, ready):
    lab._recipe(job_of(ready))
    lab._ended(job_of(ready), Outcome("paused"))
    assert lab.state(ready)["status"] == "paused"
    caption = {"action": "caption", "video": "video-0001", "caption": "x"}
    for body in ({"action": "set", "variant": "shot"}, {"action": "remove", "video": "video-0001"}, caption):
        with pytest.raises(InputError, match="started"):
            lab.act(ready, body)


@pytest.mark.parametrize(
    ("outcome", "status", "word"),
    [
        (None, "done", "Done"),
        (Outcome("paused", "Paused."), "paused", "Resume"),
        (Outcome("interrupted"), "paused", "interrupted"),
        (Outcome("failed", "The loss is not a number at step 7.", "Lower the learning rate."), "failed", ""),
    ],
)
def test_how_a_job_ended_is_what_the_run_says(lab, ready, outcome, status, word):
    lab._recipe(job_of(ready))
    log_of(lab, ready, 7)
    lab._ended(job_of(ready), outcome)
    state = lab.state(ready)
    assert state["status"] == status and word in state["message"]
    if status == "failed":
        assert state["error"] == {"message": outcome.message, "hint": outcome.hint, "id": ""}
        assert state["primary"]["label"] == "Resume"


def test_a_restart_finds_a_started_run_paused(open_studio, footage, template):
    first = open_studio(start=False)
    run_id, token = first.actions.lab.create(OWNER)
    video = added(first.actions.lab, run_id, footage)
    first.actions.lab.act(run_id, {"action": "caption", "video": video, "caption": "Fog rolls in"})
    first.actions.lab.act(run_id, {"action": "start"})
    first.actions.lab._recipe(first.queue.job_of(run_id, "train"))  # as the lane does when it begins
    log_of(first.actions.lab, run_id, 12)
    first.close()
    second = open_studio(start=False)
    state = second.actions.lab.state(run_id)
    assert second.queue.job_of(run_id, "train") is None
    assert (state["status"], state["step"], state["primary"]["label"]) == ("paused", 12, "Resume")
    assert second.tokens.check(token, run_id)
    assert [run["id"] for run in second.actions.lab.runs(OWNER)] == [run_id]


def test_the_check_belongs_to_what_it_checked(lab, ready):
    assert lab.state(ready)["plan"]["wanted"]
    lab._planned(job_of(ready, "plan"), Planned((("Memory", (("weights", 9),), 8),), ("It does not fit.",), ()))
    state = lab.state(ready)
    assert state["plan"]["groups"] == (("Memory", (("weights", 9),), 8),) and not state["plan"]["wanted"]
    assert state["primary"]["reason"] == "It does not fit." and not state["primary"]["enabled"]
    lab.act(ready, {"action": "set", "steps": 50})
    assert lab.state(ready)["plan"] | {"checking": False} == {
        "wanted": True, "checking": False, "groups": (), "problems": (), "notes": (),
    }  # fmt: skip


# The journal


def test_a_torn_line_and_a_repeated_step_do_not_spoil_the_curve(tmp_path):
    path = tmp_path / "log.jsonl"
    steps = [{"kind": "step", "step": step, "loss": float(step), "clips_per_s": 4.0} for step in (1, 2, 3, 2, 3)]
    path.write_text("".join(json.dumps(record) + "\n" for record in steps) + '{"kind": "st')
    journal = Journal(path).read()
    assert (journal.step, journal.step_s()) == (3, 0.25)
    with path.open("a") as file:
        file.write("\n" + json.dumps({"kind": "step", "step": 4, "loss": 0.5, "clips_per_s": 4.0}) + "\n")
    assert journal.read().curve() == {"steps": [1, 2, 3, 4], "loss": [1, 2, 3, 0.5], "fill": [None] * 4}


def test_all_that_was_said_of_the_videos_is_kept_once(tmp_path):
    path = tmp_path / "log.jsonl"
    first = {"skipped": [{"name": "a.mp4", "reason": "is too short"}], "noted": []}
    last = {"skipped": [], "noted": [{"name": "b.mp4", "reason": "is followed only in part"}]}
    records = [{"kind": "latents", "done": 0, "of": 1} | told for told in (first, last, first)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert list(Journal(path).read().notes) == ["a.mp4 is too short", "b.mp4 is followed only in part"]


def test_a_killed_run_that_goes_back_to_its_checkpoint_shows_where_it_is(tmp_path):
    path = tmp_path / "log.jsonl"
    records = [{"kind": "step", "step": step, "loss": step / 10, "clips_per_s": 4.0} for step in (1, 2, 3, 4, 2)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert Journal(path).read().step == 2


def test_a_long_run_is_drawn_with_few_points(lab, ready):
    log_of(lab, ready, 5000)
    curve = lab.state(ready)["curve"]
    assert len(curve["steps"]) == len(curve["loss"]) == len(curve["fill"]) <= 240
    assert curve["steps"][-1] == 5000


# The LoRA in films


@pytest.fixture
def trained(lab, ready) -> str:
    lab._recipe(job_of(ready))
    log_of(lab, ready, 300, best=300)
    lab._ended(job_of(ready), None)
    return ready


def test_a_film_made_with_a_lora_of_the_lab_names_it_and_survives_a_restart(open_studio, lab, trained, quiet, picture):
    model = lab.act(trained, {"action": "use"})["model"]
    assert model == {"name": f"lab-{trained}-300", "title": "Untitled LoRA (step 300)", "variant": "film"}
    assert lab.models(OWNER) == [model] and lab.models(STRANGER) == []
    upload = lab.uploads / "picture.png"
    shutil.copy(picture, upload)
    with pytest.raises(InputError, match="preset"):
        quiet.actions.create(STRANGER, upload, preset=model["name"])
    made = quiet.actions.create(OWNER, upload, preset=model["name"], variant="film")
    with pytest.raises(InputError, match="A film was made with this LoRA"):
        lab.act(trained, {"action": "delete"})
    quiet.close()
    again = open_studio(start=False).actions
    project = again.library.project(made.project_id)
    assert project.preset == model["name"]
    lora = again.library.preset(project).lora("film")
    assert lora.read_bytes() == b"weights of step 300"
    assert again.library.snapshot(made.project_id).blocked == ""
    assert again.library.preset(project).lora("shot") == again.library.default.lora("shot")


def test_training_on_does_not_change_the_lora_of_a_film(lab, trained):
    first = lab.act(trained, {"action": "use"})["model"]["name"]
    lab.act(trained, {"action": "set", "steps": 400})
    assert lab.state(trained)["status"] == "paused"
    log_of(lab, trained, 400, best=400)
    second = lab.act(trained, {"action": "use"})["model"]["name"]
    kept = load_preset(str(lab.preset_file(first))).lora("film").read_bytes()
    assert first != second and kept == b"weights of step 300"


def test_a_lora_that_does_not_exist_yet_cannot_be_used(lab, ready):
    with pytest.raises(InputError, match="no LoRA yet"):
        lab.act(ready, {"action": "use"})
    assert lab.state(ready)["model"] == {"ready": False, "step": 0, "reason": "The first LoRA is written at step 75."}


def test_deleting_a_run_removes_it_at_once(lab, trained):
    lab.act(trained, {"action": "delete"})
    assert not lab.exists(trained) and lab.runs(OWNER) == []
    with pytest.raises(ProjectNotFound):
        lab.state(trained)


# Who may


def test_a_run_is_its_owners_and_other_tokens_open_nothing(quiet, lab, ready):
    client, other = client_of(quiet), lab.create(STRANGER)[1]
    path = f"{PREFIX}/lab/{ready}"
    mine = {"X-Studio-Token": lab.tokens.give(ready, "edit")}
    state = client.get(f"{path}/state", headers=mine)
    assert state.status_code == 200 and "Night falls" in state.text
    assert client.get(f"{path}/state", params={"since": state.json()["rev"]}, headers=mine).status_code == 204
    assert client.get(state.json()["videos"][0]["poster_url"]).headers["content-type"] == "image/jpeg"
    for headers in ({}, {"X-Studio-Token": other}):
        for answer in (client.get(f"{path}/state", headers=headers), client.get(f"{path}/sheet/1", headers=headers)):
            assert answer.status_code == 404
        assert client.post(f"{path}/act", headers=headers, json={"action": "delete"}).status_code == 404
    view = {"X-Studio-Token": lab.tokens.give(ready, "view")}
    assert client.post(f"{path}/act", headers=view, json={"action": "delete"}).status_code == 403
    listed = client.post(f"{PREFIX}/lab/runs", json={"owner": OWNER}).json()
    assert [run["id"] for run in listed["runs"]] == [ready]
    assert len(client.post(f"{PREFIX}/lab/runs", json={"owner": "another-stranger"}).json()["runs"]) == 0
    assert client.post(f"{PREFIX}/lab/runs", json={"owner": 7}).status_code == 400


def test_paths_do_not_reach_beyond_the_run(quiet, lab, ready):
    client, token = client_of(quiet), lab.tokens.give(ready, "edit")
    for path in ("poster/..%2F..%2Fsecret.key", "poster/run.json", "sheet/-1", "sheet/1e3", "sheet/..%2F1"):
        answer = client.get(f"{PREFIX}/lab/{ready}/{path}", params={"token": token})
        assert answer.status_code == 404, path


def test_the_number_of_runs_is_limited(lab):
    for _ in range(8):
        lab.create(OWNER)
    with pytest.raises(InputError, match="limit"):
        lab.create(OWNER)


def test_unmeasured_drift_is_said_and_measured_drift_is_handed_on(quiet, tmp_path):
    assert drift_curves(tmp_path / "drift.json") is None
    arms = {"film": {"variant": "film", "role": "base", "psnr": {"mean": [30.0], "low": [29.0], "high": [31.0]}}}
    (tmp_path / "drift.json").write_text(json.dumps({"clips": 1, "metrics": {"psnr": "dB"}, "arms": arms}))
    assert drift_curves(tmp_path / "drift.json")["arms"] == arms
    assert "curves" in client_of(quiet).get(f"{PREFIX}/lab/drift").json()


# The real trainer


@pytest.mark.slow
def test_the_worker_checks_trains_pauses_and_goes_on(tmp_path):
    import studio as studio_package
    from engine.config import Config

    studio = studio_package.open_studio(Config(data_dir=tmp_path / "data", reserve_bytes=0))
    lab = studio.actions.lab
    footage = make_video(tmp_path / "pier.mp4", frames=70, speed=0.2)  # more than the five seconds of a clip

    def until(wanted, timeout_s: float = 240) -> dict:
        deadline = time.monotonic() + timeout_s
        while not wanted(state := lab.state(run_id)):
            assert state["status"] != "failed", state["error"]
            assert time.monotonic() < deadline, state["message"]
            time.sleep(0.05)
        return state

    try:
        studio.start()
        run_id, _ = lab.create(OWNER)
        lab.act(run_id, {"action": "caption", "video": added(lab, run_id, footage), "caption": "Night falls"})
        lab.act(run_id, {"action": "set", "steps": 9})
        lab.act(run_id, {"action": "check"})
        plan = until(lambda state: not state["plan"]["checking"])["plan"]
        assert sum(num_bytes for _, num_bytes in plan["groups"][0][1]) > 10_000_000 and not plan["problems"]
        lab.act(run_id, {"action": "start"})
        until(lambda state: state["step"] >= 2)
        lab.act(run_id, {"action": "pause"})
        paused = until(lambda state: state["status"] in ("paused", "done"))
        assert paused["step"] >= 2
        assert paused["status"] == "paused", "paused too late for the test to resume anything"
        lab.act(run_id, {"action": "resume"})
        until(lambda state: state["step"] > paused["step"])
        lab.queue._worker.process.kill()
        killed = until(lambda state: state["status"] != "training")
        assert killed["status"] == "paused" and "interrupted at step" in killed["message"]
        lab.act(run_id, {"action": "resume"})
        done = until(lambda state: state["status"] == "done")
        assert done["step"] == 9 and done["curve"]["steps"] == [*range(1, 10)]
        assert done["samples"] and lab.sheet_file(run_id, "9").stat().st_size > 1000
        assert lab.act(run_id, {"action": "use"})["model"]["variant"] == "film"
    finally:
        studio.close()
