"""Downloads against a Hub that cuts, lies, refuses, stalls and changes its mind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine import faults
from engine.errors import DiskFull, ProjectLocked, WeightsMismatch, WeightsMissing
from engine.weights.download import WeightsInterrupted, WeightsPlanned, WeightsProgress, WeightsReady, download
from engine.weights.hub import Hub
from engine.weights.inventory import rows_of
from engine.weights.lock import LOCK_NAME, read_lock, working_in
from tests.engine.weights.conftest import REPO, make_entry
from tests.engine.weights.loopback_hub import COMMIT

ROOT = Path(__file__).parents[3]
SHARD = "transformer/model-00001-of-00002.safetensors"


def fetch(hub, models, *entries, **changes):
    """Run a whole download without waiting between tries; returns its events."""
    options = {"reserve_bytes": 0, "pause": lambda _: None} | changes
    client = options.pop("client", None) or Hub(hub.address)
    return list(download(rows_of(entries), client, models, **options))


def refused(hub, models, *entries, error=WeightsMissing, **changes) -> str:
    with pytest.raises(error) as caught:
        fetch(hub, models, *entries, **changes)
    return str(caught.value)


def on_disk(models) -> dict[str, bytes]:
    """What the folder of the repository holds."""
    root = models / REPO
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def wanted_of(hub, entry) -> dict[str, bytes]:
    return {path: data for path, data in hub.files[REPO].items() if entry.row(path)}


def test_a_download_brings_exactly_the_files_of_the_entry(hub, models, model):
    events = fetch(hub, models, model)
    assert on_disk(models) == wanted_of(hub, model) and len(on_disk(models)) == 4
    assert isinstance(events[0], WeightsPlanned)
    assert events[0].bytes == sum(map(len, wanted_of(hub, model).values()))
    assert [e.fetched for e in events if isinstance(e, WeightsReady)] == [True] * 4
    assert {e.file for e in events if isinstance(e, WeightsProgress) and e.done == e.of} == {
        f"{REPO}/{path}" for path in wanted_of(hub, model)
    }


def test_the_lock_file_records_commit_size_and_hash_of_each_file(hub, models, model):
    fetch(hub, models, model)
    lock = read_lock(models)
    line = lock.files[f"{REPO}/{SHARD}"]
    data = hub.files[REPO][SHARD]
    assert (line.commit, line.size, line.sha256) == (COMMIT, len(data), hashlib.sha256(data).hexdigest())
    assert line.source == "hub" and line.verified.startswith("20")
    assert lock.snapshots["model"].commit == COMMIT
    assert set(lock.snapshots["model"].files) == set(wanted_of(hub, model))


def test_nothing_is_asked_when_all_is_here(hub, models, model):
    fetch(hub, models, model)
    hub.asked.clear()
    events = fetch(hub, models, model)
    assert hub.asked == [] and events == [WeightsPlanned(0, 0, events[0].free)]


@pytest.mark.parametrize("cuts", [[50_000], [1, 70_000, 9_000], [0, 0, 0, 60_000], [9_000] * 8], ids=str)
def test_a_cut_connection_is_resumed_and_no_byte_comes_twice(hub, models, model, cuts):
    hub.cuts = [10_000_000] * 2 + cuts  # the two small files come first
    events = fetch(hub, models, model)
    assert on_disk(models) == wanted_of(hub, model)
    assert hub.sent(SHARD) == len(hub.files[REPO][SHARD])
    starts = [request.start for request in hub.served if request.path == SHARD]
    assert starts == [sum(cuts[:i]) for i in range(len(cuts) + 1)]
    assert sum(isinstance(event, WeightsInterrupted) for event in events) == len(cuts)


def test_a_stopped_download_goes_on_in_the_next_run(hub, models, model):
    hub.cuts = [10_000_000] * 2 + [40_000]
    events = download(rows_of([model]), Hub(hub.address), models, reserve_bytes=0, pause=lambda _: None)
    assert any(isinstance(event, WeightsInterrupted) for event in events)
    events.close()  # as Ctrl-C does
    part = next((models / REPO / "transformer").glob("*.part"))
    assert part.stat().st_size == 40_000
    planned = fetch(hub, models, model)[0]
    assert planned.bytes == 2 * len(hub.files[REPO][SHARD]) - 40_000
    assert hub.sent(SHARD) == len(hub.files[REPO][SHARD]) and on_disk(models) == wanted_of(hub, model)


@pytest.mark.parametrize("kind", ["ignores_ranges", "refuses_ranges"])
def test_a_server_without_ranges_begins_again_and_the_file_is_right(hub, models, model, kind):
    setattr(hub, kind, True)
    hub.cuts = [10_000_000] * 2 + [40_000]
    events = fetch(hub, models, model)
    assert on_disk(models) == wanted_of(hub, model)
    reasons = [event.reason for event in events if isinstance(event, WeightsInterrupted)]
    assert len(reasons) == 2 and reasons[1] == "the server begins again"


def test_bytes_are_asked_for_as_they_are_so_that_ranges_fit(hub, models, model):
    fetch(hub, models, model)
    assert {request.encoding for request in hub.served} == {"identity"}


def test_a_file_that_is_longer_than_listed_is_refused(hub, models, lora):
    hub.surplus = bytes(50_000_000)
    message = refused(hub, models, lora, error=WeightsMismatch)
    assert "too many" in message and on_disk(models) == {}
    assert all(request.sent < 25_000_000 for request in hub.served)  # what the sockets hold, not all of it


def test_wrong_bytes_are_fetched_again_once(hub, models, lora):
    hub.wrong = [True]
    fetch(hub, models, lora)
    assert on_disk(models) == wanted_of(hub, lora)
    assert hub.sent("lora.safetensors") == 2 * len(hub.files[REPO]["lora.safetensors"])


def test_a_part_gone_bad_on_disk_is_fetched_again(hub, models, lora):
    whole = hub.files[REPO]["lora.safetensors"]
    part = models / REPO / f"lora.safetensors.{hashlib.sha256(whole).hexdigest()[:12]}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1_000))
    fetch(hub, models, lora)
    assert on_disk(models) == wanted_of(hub, lora)


def test_bytes_that_stay_wrong_are_refused_and_nothing_of_them_is_kept(hub, models, lora):
    hub.wrong = [True, True]
    message = refused(hub, models, lora, error=WeightsMismatch)
    assert f"{REPO}/lora.safetensors" in message and "twice" in message
    assert on_disk(models) == {} and read_lock(models).files == {}


def test_a_file_that_is_broken_on_the_hub_itself_is_refused(hub, models, lora):
    hub.files[REPO]["lora.safetensors"] = b"<html>" + bytes(5_000)
    message = refused(hub, models, lora, error=WeightsMismatch)
    assert "a web page" in message and on_disk(models) == {}


def test_small_files_are_compared_with_gits_hash(hub, models, model):
    hub.listed["config.json"] = "0" * 40
    message = refused(hub, models, model, error=WeightsMismatch)
    assert "config.json is not the file it should be: its git hash" in message and on_disk(models) == {}


def test_a_gated_repository_names_the_page_of_its_licence(hub, models, model):
    hub.status, hub.headers = 403, {"X-Error-Code": "GatedRepo"}
    message = refused(hub, models, model)
    assert f"{hub.address}/{REPO}" in message and "licence" in message and "HF_TOKEN" in message
    assert not hub.served


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, "no repository owner/tiny, or it is private"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "HF_TOKEN is a token of yours"),
        (403, {}, "does not give owner/tiny to you"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no repository owner/tiny"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no longer has the commit"),
        (418, {}, "answered 418"),
        (503, {}, "could not be reached (HTTP 503)"),
    ],
)
def test_a_refusal_of_the_hub_is_one_sentence(hub, models, model, status, headers, words):
    hub.status, hub.headers = status, headers
    message = refused(hub, models, model)
    assert words in message and message.count("\n") == 0


def test_a_file_that_is_listed_but_not_given_is_named(hub, models, model):
    hub.gone = {"config.json"}
    assert "no file config.json in owner/tiny" in refused(hub, models, model)


def test_a_file_that_the_repository_lacks_is_named_with_the_note_of_the_manifest(hub, models):
    entry = make_entry("odd", [{"path": "odd.safetensors", "note": "name not checked"}])
    message = refused(hub, models, entry)
    assert "no file odd.safetensors at commit cccccccccccc" in message and "name not checked" in message


def test_a_page_instead_of_a_listing_is_refused(hub, models, model, monkeypatch):
    monkeypatch.setattr(type(hub), "listing", lambda self, repo: ["<html>"])
    assert "does not answer like a Hub" in refused(hub, models, model)


def test_a_busy_hub_is_asked_again_and_given_up_after_five_tries(hub, models, lora):
    hub.statuses = [503, 429, 500, 502]
    fetch(hub, models, lora)
    assert on_disk(models) == wanted_of(hub, lora)
    (models / REPO / "lora.safetensors").unlink()
    hub.statuses = [503] * 20
    pauses = []
    message = refused(hub, models, lora, pause=pauses.append)
    assert "stopped at 0 bytes of" in message and "goes on from there" in message
    assert len(hub.statuses) == 15 and pauses == sorted(pauses) and len(pauses) == 4


def test_without_a_connection_one_sentence_is_said(hub, models, model):
    client = Hub("http://127.0.0.1:9")
    assert "could not be reached (ConnectError)" in refused(hub, models, model, client=client)


def test_offline_mode_is_said_and_nothing_is_asked(hub, models, model, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refused(hub, models, model)
    assert "HF_HUB_OFFLINE" in message and hub.asked == []


def test_a_stalled_connection_is_given_up_and_resumed(hub, models, lora):
    hub.stalls = [True]
    events = fetch(hub, models, lora, client=Hub(hub.address, timeout_s=0.2))
    interrupted = [event for event in events if isinstance(event, WeightsInterrupted)]
    assert [event.reason for event in interrupted] == ["ReadTimeout"]
    assert on_disk(models) == wanted_of(hub, lora)
    assert hub.sent("lora.safetensors") == len(hub.files[REPO]["lora.safetensors"])


def test_too_little_room_is_said_before_anything_is_fetched(hub, models, model):
    short = {"reserve_bytes": 500_000_000, "free": lambda _: 100_000_000}
    message = refused(hub, models, model, error=DiskFull, **short)
    size = sum(map(len, wanted_of(hub, model).values()))
    assert f"{size / 1000:.1f} kB are to be fetched, 100.0 MB are free and 500.0 MB stay in reserve" in message
    assert "Free 400.2 MB" in message
    refused(hub, models, model, error=DiskFull, free=lambda _: size - 1)
    assert not hub.served and on_disk(models) == {}


def test_a_disk_that_fills_up_keeps_what_came_and_goes_on_later(hub, models, lora, tensors):
    hub.files[REPO]["lora.safetensors"] = tensors({"a.lora_A.weight": (1_000, 200)})  # many chunks of at most 64 KiB
    with faults.injected("weights.chunk:enospc:2"):
        message = refused(hub, models, lora, error=DiskFull)
    assert "No room" in message and "is kept" in message
    [part] = on_disk(models)
    assert part.endswith(".part")
    kept = (models / REPO / part).stat().st_size
    hub.served.clear()
    fetch(hub, models, lora)
    assert hub.served[0].start == kept > 0 and on_disk(models) == wanted_of(hub, lora)


@pytest.mark.parametrize("point", ["weights.lock.temp", "weights.lock.rename", "weights.rename"])
def test_a_failing_disk_at_any_other_write_loses_nothing(hub, models, lora, point):
    for n in (1, 2, 3):
        with faults.injected(f"{point}:eio:{n}") as fault:
            try:
                fetch(hub, models, lora)
            except DiskFull:
                pass
            assert fault.fired or n > fault.hits.total()
    fetch(hub, models, lora)
    assert on_disk(models) == wanted_of(hub, lora)
    assert hub.sent("lora.safetensors") == len(hub.files[REPO]["lora.safetensors"])
    assert f"{REPO}/lora.safetensors" in read_lock(models).files


def test_the_token_goes_to_the_hub_and_to_nobody_else(hub, models, model, monkeypatch, capfd, caplog):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    caplog.set_level("DEBUG")
    fetch(hub, models, model)
    assert ("hub", "Bearer hf_secret") in hub.tokens and ("cdn", None) in hub.tokens
    assert {token for origin, token in hub.tokens if origin == "cdn"} == {None}
    assert "hf_secret" not in (models / LOCK_NAME).read_text() + caplog.text + "".join(capfd.readouterr())


def test_a_token_stored_on_the_machine_is_not_used(hub, models, lora, monkeypatch, tmp_path):
    from huggingface_hub import constants, get_token

    (tmp_path / "token").write_text("hf_stored")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    assert get_token() == "hf_stored"
    fetch(hub, models, lora)
    assert {token for _, token in hub.tokens} == {None}


def test_main_means_the_commit_of_the_first_download(hub, models, model):
    hub.cuts = [10_000_000] * 2 + [0] * 9
    refused(hub, models, model)
    hub.cuts.clear()
    hub.asked.clear()
    fetch(hub, models, model)
    assert f"/revision/{COMMIT}" in hub.asked[0]


def test_a_file_that_changed_since_the_first_download_is_refused_by_name(hub, models, lora, tensors):
    fetch(hub, models, lora)
    (models / REPO / "lora.safetensors").unlink()
    hub.files[REPO]["lora.safetensors"] = tensors({"other.lora_A.weight": (16, 400)})
    hub.served.clear()
    message = refused(hub, models, lora, error=WeightsMismatch)
    assert f"{REPO}/lora.safetensors" in message and "first download" in message and not hub.served


def test_a_file_that_is_not_the_pinned_one_is_refused_before_it_is_fetched(hub, models):
    pinned = make_entry("pth", [{"path": "vae.pth", "sha256": "0" * 64}])
    assert "manifest knows" in refused(hub, models, pinned, error=WeightsMismatch)
    short = make_entry("pth", [{"path": "vae.pth", "size": 4_999}])
    assert "manifest says 4999" in refused(hub, models, short, error=WeightsMismatch)
    assert not hub.served


def test_a_hub_that_lies_about_its_hash_does_not_get_past_the_pin(hub, models):
    data = hub.files[REPO]["vae.pth"]
    pin = hashlib.sha256(data).hexdigest()
    pinned = make_entry("pth", [{"path": "vae.pth", "sha256": pin}])
    hub.files[REPO]["vae.pth"] = data[::-1]
    hub.listed["vae.pth"] = pin
    assert "not the file it should be" in refused(hub, models, pinned, error=WeightsMismatch)
    assert on_disk(models) == {}


def test_a_file_put_in_place_is_accepted_when_it_is_the_hubs(hub, models, lora):
    file = models / REPO / "lora.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(hub.files[REPO]["lora.safetensors"])
    events = fetch(hub, models, lora)
    assert not hub.served and [e.fetched for e in events if isinstance(e, WeightsReady)] == [False]
    assert read_lock(models).files[f"{REPO}/lora.safetensors"].source == "hub"


def test_a_file_put_in_place_that_is_another_is_refused_and_left_alone(hub, models, lora, tensors):
    file = models / REPO / "lora.safetensors"
    file.parent.mkdir(parents=True)
    mine = tensors({"my.lora_A.weight": (16, 400)})
    file.write_bytes(mine)
    assert "left in place" in refused(hub, models, lora, error=WeightsMismatch)
    assert file.read_bytes() == mine and not hub.served


def test_a_file_cut_short_after_its_download_is_fetched_again(hub, models, lora):
    fetch(hub, models, lora)
    file = models / REPO / "lora.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    fetch(hub, models, lora)
    assert on_disk(models) == wanted_of(hub, lora)


def test_a_part_of_another_version_is_never_continued(hub, models, lora):
    old = models / REPO / f"lora.safetensors.{'0' * 12}.part"
    old.parent.mkdir(parents=True)
    old.write_bytes(hub.files[REPO]["lora.safetensors"][:1_000])
    fetch(hub, models, lora)
    assert [request.start for request in hub.served] == [0] and not old.exists()


def test_two_downloads_do_not_write_into_one_folder(hub, models, model):
    with working_in(models, doing="fetching weights"):
        assert "is fetching weights" in refused(hub, models, model, error=ProjectLocked)


def test_a_damaged_lock_file_is_refused_and_left_in_place(hub, models, model):
    models.mkdir()
    (models / LOCK_NAME).write_text('{"version": 1, "files": {"a": 3}}')
    assert "verify --all" in refused(hub, models, model, error=WeightsMismatch)
    assert '"a": 3' in (models / LOCK_NAME).read_text()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_kill_9_leaves_nothing_loadable_and_the_next_run_resumes(hub, models, tensors):
    """In the middle of the bytes, then right before the rename."""
    repo, path = "vita-video-gen/svi-model", "version-1.0/svi-shot.safetensors"
    whole = tensors({"pipe.dit.blocks.0.self_attn.q.lora_A.default.weight": (100, 5_000)})
    hub.files[repo] = {path: whole}
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "SVI_MODELS_DIR": str(models)}
    folder = models / repo / "version-1.0"

    def run(fault: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "engine", "weights", "download", "svi-shot", "--json"]
        options = {"cwd": ROOT, "env": environment | {"FAULT": fault, "SVI_RESERVE_BYTES": "0"}, "timeout": 60}
        return subprocess.run(command, capture_output=True, text=True, **options)

    assert run("weights.rename:kill").returncode == -signal.SIGKILL
    [part] = folder.iterdir()
    assert part.suffix == ".part" and part.stat().st_size == len(whole)
    part.write_bytes(whole[: 700 * 1024])
    assert run("weights.chunk:kill:2").returncode == -signal.SIGKILL
    [part] = folder.iterdir()
    kept = part.stat().st_size
    assert part.suffix == ".part" and 700 * 1024 <= kept < len(whole)
    hub.served.clear()
    done = run("")
    assert done.returncode == 0, done.stderr
    assert [request.start for request in hub.served] == [kept] and hub.sent(path) == len(whole) - kept
    assert [file.name for file in folder.iterdir()] == ["svi-shot.safetensors"]
    assert (folder / "svi-shot.safetensors").read_bytes() == whole
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "weights_ready"
