"""Weights that are on the machine already, recognised by place, name and header, and linked."""

import os

import pytest

from engine.errors import DiskFull, InputError
from engine.weights import local_files
from engine.weights.local_files import WeightsImported, WeightsSkipped, import_weights
from engine.weights.lock import read_lock
from engine.weights.manifest import manifest
from tests.engine.weights.conftest import REPO, make_entry

ENTRIES = manifest().entries
UPSTREAM = {"pipe.dit.blocks.0.self_attn.q.lora_A.default.weight": (4, 8)}
COMFY = {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": (4, 8)}
COMMIT = "0123456789abcdef" * 2 + "01234567"


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def take(path, models, entries=ENTRIES, **options):
    events = list(import_weights(path, entries, models, **options))
    done = {event.file: event for event in events if isinstance(event, WeightsImported)}
    left = {os.path.basename(event.source): event.reason for event in events if isinstance(event, WeightsSkipped)}
    return done, left


def test_a_folder_of_comfyui_is_linked_and_what_is_unknown_is_said(tmp_path, models, tensors):
    folder = tmp_path / "loras"
    shot = put(folder / "wan" / "svi-shot_lora_rank_128_fp16.safetensors", tensors(COMFY))
    put(folder / "mine.safetensors", tensors(COMFY))
    put(folder / "checkpoint.safetensors", tensors({"blocks.0.self_attn.q.weight": (4, 4)}))
    put(folder / "broken.safetensors", tensors(COMFY)[:-1])
    done, left = take(folder, models)
    key = "Kijai/WanVideo_comfy/LoRAs/Stable-Video-Infinity/svi-shot_lora_rank_128_fp16.safetensors"
    assert list(done) == [key] and done[key].how == "hard link"
    assert (models / key).samefile(shot)
    line = read_lock(models).files[key]
    assert (line.source, line.commit, line.size) == ("local", None, shot.stat().st_size)
    assert "a LoRA in ComfyUI's names" in left["mine.safetensors"] and "--as ID" in left["mine.safetensors"]
    assert "Wan transformer as first published" in left["checkpoint.safetensors"]
    assert "cut off" in left["broken.safetensors"]


def test_upstreams_weights_folder_is_recognised_by_the_names_of_its_folders(tmp_path, models, tensors):
    weights = tmp_path / "weights"
    put(weights / "Stable-Video-Infinity/version-1.0/svi-shot.safetensors", tensors(UPSTREAM))
    put(weights / "Wan2.1-I2V-14B-480P/config.json", b"{}")
    put(weights / "Wan2.1-I2V-14B-480P/diffusion_pytorch_model-00001-of-00007.safetensors", tensors({"head": (2, 2)}))
    put(weights / "Wan2.1-I2V-14B-480P/google/umt5-xxl/spiece.model", b"x")
    put(weights / "other/config.json", b"{}")
    done, left = take(weights, models)
    assert set(done) == {
        "vita-video-gen/svi-model/version-1.0/svi-shot.safetensors",
        "Wan-AI/Wan2.1-I2V-14B-480P/config.json",
        "Wan-AI/Wan2.1-I2V-14B-480P/diffusion_pytorch_model-00001-of-00007.safetensors",
        "Wan-AI/Wan2.1-I2V-14B-480P/google/umt5-xxl/spiece.model",
    }
    assert set(left) == {"config.json"}


def test_a_hugging_face_cache_brings_its_commit_and_the_bytes_behind_its_links(tmp_path, models, tensors):
    cache = tmp_path / "models--Wan-AI--Wan2.2-I2V-A14B-Diffusers"
    blob = put(cache / "blobs" / "abc", tensors({"blocks.0.attn1.to_q.weight": (4, 4)}))
    link = cache / "snapshots" / COMMIT / "transformer_2" / "diffusion_pytorch_model-00001-of-00012.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    done, left = take(cache, models)
    [(key, event)] = done.items()
    assert key == f"Wan-AI/Wan2.2-I2V-A14B-Diffusers/transformer_2/{link.name}" and event.entry == "wan2.2-i2v-a14b"
    assert (models / key).samefile(blob) and not (models / key).is_symlink()
    assert read_lock(models).files[key].commit == COMMIT and left == {}


def test_a_pinned_file_must_have_its_hash(tmp_path, models):
    file = put(tmp_path / "Wan2.1-I2V-14B-480P" / "Wan2.1_VAE.pth", b"another")
    done, left = take(file, models)
    assert done == {} and "should have 507609880" in left["Wan2.1_VAE.pth"]


def test_a_pickle_without_a_pin_is_left_out(tmp_path, models):
    entry = make_entry("e", ["a.pth"])
    _, left = take(put(tmp_path / "a.pth", b"x"), models, [entry])
    assert "nothing vouches for" in left["a.pth"] and not (models / REPO / "a.pth").exists()


def test_a_file_of_two_entries_is_taken_for_neither_until_it_is_named(tmp_path, models):
    entries = [make_entry(id_, ["voice.onnx"], repo=f"owner/{id_}") for id_ in ("one", "two")]
    file = put(tmp_path / "voice.onnx", b"onnx")
    done, left = take(file, models, entries)
    assert done == {} and "one or two" in left["voice.onnx"]
    done, _ = take(file, models, entries[1:], chosen=True)
    assert list(done) == ["owner/two/voice.onnx"]


def test_a_renamed_file_is_taken_when_the_user_says_what_it_is(tmp_path, models, lora, tensors):
    file = put(tmp_path / "my favourite.safetensors", tensors(UPSTREAM))
    assert take(file, models, [lora])[0] == {}
    done, _ = take(file, models, [lora], chosen=True)
    assert list(done) == [f"{REPO}/lora.safetensors"]


def test_a_whole_repository_is_taken_by_the_places_in_it(tmp_path, models, model, tensors):
    root = tmp_path / "anything"
    put(root / "config.json", b"{}")
    put(root / "transformer" / "a.safetensors", tensors({"a": (2,)}))
    put(root / "b.json", b"{}")
    done, left = take(root, models, [model], chosen=True)
    assert set(done) == {f"{REPO}/config.json", f"{REPO}/transformer/a.safetensors"} and set(left) == {"b.json"}


@pytest.mark.parametrize(
    ("name", "tensors_of", "words"),
    [
        ("svi-shot.safetensors", COMFY, "it is a LoRA in ComfyUI's names"),
        ("svi-shot.safetensors", {"blocks.0.self_attn.q.weight": (4, 4)}, "holds a Wan transformer"),
        ("svi-shot_lora_rank_128_fp16.safetensors", UPSTREAM, "it is a LoRA in upstream's names"),
        ("multitalk.safetensors", UPSTREAM, "holds a LoRA"),
    ],
)
def test_a_name_that_its_tensors_belie_is_refused(tmp_path, models, tensors, name, tensors_of, words):
    done, left = take(put(tmp_path / name, tensors(tensors_of)), models)
    assert done == {} and words in left[name]


def test_importing_twice_changes_nothing_and_another_file_is_left_in_place(tmp_path, models, lora, tensors):
    file = put(tmp_path / "a" / "lora.safetensors", tensors(UPSTREAM))
    take(file, models, [lora])
    lock = read_lock(models)
    done, _ = take(file, models, [lora])
    assert done[f"{REPO}/lora.safetensors"].how == "was there" and read_lock(models) == lock
    other = put(tmp_path / "b" / "lora.safetensors", tensors(UPSTREAM, seed=1))
    done, left = take(other, models, [lora])
    assert done == {} and "not the file it should be" in left["lora.safetensors"]
    assert (models / REPO / "lora.safetensors").samefile(file)


def test_a_file_at_the_same_place_that_nobody_verified_is_left_there(tmp_path, models, lora, tensors):
    mine = put(models / REPO / "lora.safetensors", tensors(UPSTREAM, seed=1))
    before = mine.read_bytes()
    done, left = take(put(tmp_path / "lora.safetensors", tensors(UPSTREAM)), models, [lora])
    assert done == {} and "another file is at" in left["lora.safetensors"] and mine.read_bytes() == before


@pytest.mark.parametrize(
    ("how", "broken", "made"),
    [
        ("any", (), "hard link"),
        ("any", ("link",), "symbolic link"),
        ("any", ("link", "symlink"), "copy"),
        ("copy", (), "copy"),
        ("link", ("link",), "symbolic link"),
        ("link", ("link", "symlink"), None),
    ],
)
def test_a_hard_link_is_preferred_to_a_symbolic_one_and_that_to_a_copy(
    tmp_path, models, lora, tensors, monkeypatch, how, broken, made
):
    def fail(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    file = put(tmp_path / "lora.safetensors", tensors(UPSTREAM))
    for name in broken:
        monkeypatch.setattr(os, name, fail)
    done, left = take(file, models, [lora], how=how)
    if made is None:
        assert done == {} and "--copy" in left["lora.safetensors"]
        return
    target = models / REPO / "lora.safetensors"
    assert done[f"{REPO}/lora.safetensors"].how == made
    assert (made == "symbolic link") == target.is_symlink() and (made != "copy") == target.samefile(file)
    assert target.read_bytes() == file.read_bytes() and [p.name for p in target.parent.iterdir()] == [target.name]


def test_a_copy_that_does_not_fit_is_not_begun(tmp_path, models, lora, tensors, monkeypatch):
    file = put(tmp_path / "lora.safetensors", tensors(UPSTREAM))
    monkeypatch.setattr(local_files, "free_bytes", lambda _: 1_000)
    with pytest.raises(DiskFull, match="No room to copy"):
        take(file, models, [lora], how="copy", reserve_bytes=1_000)
    assert not (models / REPO / "lora.safetensors").exists()


def test_a_place_with_nothing_is_an_input_error(tmp_path, models):
    with pytest.raises(InputError, match="nothing at gone"):
        take(tmp_path / "gone", models)
