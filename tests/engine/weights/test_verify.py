"""Every byte is read, what was seen once is remembered, and pickles need a pin."""

import hashlib

import pytest

from engine.errors import WeightsMismatch, WeightsMissing
from engine.weights import pinned
from engine.weights.lock import LOCK_NAME, Lock, LockedFile, read_lock, remember
from engine.weights.manifest import Manifest, manifest
from engine.weights.pinned import check_pinned
from engine.weights.verify import entries_here, verify
from tests.engine.weights.conftest import REPO, make_entry


def put(models, path, data):
    file = models / REPO / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def results(entry, models) -> dict[str, str]:
    return {event.file.removeprefix(f"{REPO}/"): event.result for event in verify([entry], models)}


def test_a_file_is_remembered_when_first_seen_and_found_out_when_it_changes(models, lora, tensors):
    file = put(models, "lora.safetensors", tensors({"a.lora_A.weight": (8, 8)}))
    assert results(lora, models) == {"lora.safetensors": "first seen"}
    assert read_lock(models).files[f"{REPO}/lora.safetensors"].source == "local"
    assert results(lora, models) == {"lora.safetensors": "ok"}
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    [event] = verify([lora], models)
    assert event.is_wrong and event.result == "damaged" and "sha256" in event.reason


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        ("a.safetensors", b"", "empty"),
        ("a.json", b'{"dim": ', "not JSON"),
        ("a.json", b"[" * 100_000, "not JSON"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_damaged_and_not_remembered(models, path, data, words):
    put(models, path, data)
    [event] = verify([make_entry("e", [path])], models)
    assert event.result == "damaged" and words in event.reason
    assert read_lock(models).files == {}


def test_missing_and_partial_files_are_missing(models):
    put(models, "a.onnx.0123456789ab.part", b"x")
    [a, b] = verify([make_entry("e", ["a.onnx", "b.onnx"])], models)
    assert (a.result, a.reason, b.result) == ("missing", "only a part is here", "missing")


def test_a_pickle_without_a_pin_is_never_remembered(models):
    put(models, "a.pth", b"pickle")
    assert results(make_entry("e", ["a.pth"]), models) == {"a.pth": "unpinned"}
    assert read_lock(models).files == {}
    pin = hashlib.sha256(b"pickle").hexdigest()
    assert results(make_entry("e", [{"path": "a.pth", "sha256": pin}]), models) == {"a.pth": "first seen"}


def test_all_means_the_entries_of_which_something_is_here(models, lora):
    other = make_entry("other", ["b.onnx"])
    put(models, "b.onnx.0123456789ab.part", b"x")
    assert entries_here([lora, other], models, Lock()) == [other]


def test_a_pickle_is_loaded_only_with_a_known_hash(models, tmp_path, monkeypatch):
    """The check before every torch.load: by the manifest's pin, else by what the Hub vouched for at the download."""
    name, data = "Wan2.1_VAE.pth", b"not the real one"
    file = tmp_path / name
    with pytest.raises(WeightsMissing, match="no file"):
        check_pinned(file)
    file.write_bytes(data)
    with pytest.raises(WeightsMismatch, match="not the one that is known"):
        check_pinned(file)
    own = make_entry("vae", [{"path": f"sub/{name}", "sha256": hashlib.sha256(data).hexdigest()}])
    monkeypatch.setattr(pinned, "manifest", lambda: Manifest(entries=(own,)))
    check_pinned(file)


@pytest.mark.parametrize(("source", "loads"), [("hub", True), ("local", False)])
def test_the_lock_file_vouches_for_a_pickle_only_when_the_hub_did(models, tmp_path, source, loads):
    file = tmp_path / "new.pth"
    file.write_bytes(b"data")
    with pytest.raises(WeightsMismatch, match="nothing vouches for"):
        check_pinned(file)
    sha256 = hashlib.sha256(b"data").hexdigest()
    line = LockedFile(repo=REPO, path="x/new.pth", size=4, sha256=sha256, verified="2026-11-21", source=source)
    models.mkdir()
    remember(models, Lock(files={f"{REPO}/x/new.pth": line}))
    if loads:
        check_pinned(file)
    else:
        with pytest.raises(WeightsMismatch, match="nothing vouches for"):
            check_pinned(file)


def test_the_published_pickles_are_pinned():
    names = {"Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"}
    names.add("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    assert all(len(pinned.pinned_hashes(name)) == 1 for name in names)
    assert {row.path for entry in manifest().entries for row in entry.files if row.path.endswith(".pth")} == names


def test_the_lock_file_survives_a_round_trip_and_says_its_version(models):
    models.mkdir()
    line = LockedFile(repo=REPO, path="a", size=4, sha256="0" * 64, verified="2026-11-21", source="hub")
    remember(models, Lock(files={"b": line}))
    remember(models, Lock(files={"a": line}))
    assert set(read_lock(models).files) == {"a", "b"}
    assert '"version": 1' in (models / LOCK_NAME).read_text()
    (models / LOCK_NAME).write_text('{"version": 2}')
    with pytest.raises(WeightsMismatch, match="cannot be read"):
        read_lock(models)
