"""What the models folder holds, told from names, sizes and the lock file alone."""

import json

import pytest

from engine.weights.inventory import bytes_known, in_words, items, rows_of, state_of, state_of_all
from engine.weights.lock import Lock, LockedFile, Snapshot
from tests.engine.weights.conftest import REPO, make_entry


def put(models, path, data=b"12345"):
    file = models / REPO / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def line(size=5):
    return LockedFile(repo=REPO, path="a", size=size, sha256="0" * 64, verified="2026-11-21", source="hub")


def states(entry, models, lock=None):
    lock = lock or Lock()
    return {item.path: state_of(item, models, lock) for item in items(rows_of([entry]), models, lock)}


def test_a_file_is_ready_only_with_a_line_in_the_lock_file_and_its_size(models):
    entry = make_entry("e", ["a.onnx"])
    assert states(entry, models) == {"a.onnx": "missing"}
    put(models, "a.onnx")
    assert states(entry, models) == {"a.onnx": "unverified"}
    assert states(entry, models, Lock(files={f"{REPO}/a.onnx": line()})) == {"a.onnx": "ready"}
    assert states(entry, models, Lock(files={f"{REPO}/a.onnx": line(6)})) == {"a.onnx": "damaged"}
    assert states(make_entry("e", [{"path": "a.onnx", "size": 4}]), models) == {"a.onnx": "damaged"}


def test_an_unfinished_download_is_partial(models):
    put(models, "a.onnx.0123456789ab.part")
    assert states(make_entry("e", ["a.onnx"]), models) == {"a.onnx": "partial"}
    assert states(make_entry("e", ["a"]), models) == {"a": "partial"}
    assert states(make_entry("e", ["b.onnx"]), models) == {"b.onnx": "missing"}


def test_an_unknown_pattern_stands_for_itself_until_an_index_or_a_snapshot_names_the_files(models):
    entry = make_entry("e", ["t/*.safetensors"])
    assert states(entry, models) == {"t/*.safetensors": "missing"}
    put(models, "t/m-1.safetensors")
    assert states(entry, models) == {"t/m-1.safetensors": "unverified"}
    index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "../../m-3.safetensors"}}
    put(models, "t/m.safetensors.index.json", json.dumps(index).encode())
    assert states(entry, models) == {"t/m-1.safetensors": "unverified", "t/m-2.safetensors": "missing"}
    lock = Lock(snapshots={"e": Snapshot(commit="c", files=("t/m-1.safetensors", "t/m-9.safetensors"))})
    assert states(entry, models, lock) == {"t/m-1.safetensors": "unverified", "t/m-9.safetensors": "missing"}


@pytest.mark.parametrize("index", [b"{", b"[]", b'{"weight_map": [1]}', b'{"weight_map": {"a": 3}}', b"\xff"])
def test_a_damaged_index_is_passed_over(models, index):
    put(models, "t/m.safetensors.index.json", index)
    assert states(make_entry("e", ["t/*.safetensors"]), models) == {"t/*.safetensors": "missing"}


@pytest.mark.parametrize(
    ("several", "word"),
    [
        (["ready", "ready"], "ready"),
        (["ready", "unverified"], "unverified"),
        (["ready", "missing"], "partial"),
        (["partial", "missing"], "partial"),
        (["missing", "missing"], "missing"),
        (["ready", "damaged", "missing"], "damaged"),
    ],
)
def test_the_worst_file_speaks_for_the_entry(several, word):
    assert state_of_all(several) == word


def test_the_size_of_an_entry_is_exact_only_when_every_file_has_one(models):
    entry = make_entry("e", [{"path": "a.onnx", "size": 4}, "b.onnx"])
    assert bytes_known(entry, items(rows_of([entry]), models, Lock())) == (None, False)
    lock = Lock(files={f"{REPO}/b.onnx": line(5)})
    assert bytes_known(entry, items(rows_of([entry]), models, lock)) == (9, True)


def test_bytes_in_words():
    assert [in_words(n) for n in (0, 999, 1_000, 65_540_000, 90_104_322_037)] == [
        "0 bytes", "999 bytes", "1.0 kB", "65.5 MB", "90.1 GB",
    ]  # fmt: skip
