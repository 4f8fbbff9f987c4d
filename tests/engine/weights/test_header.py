"""The safetensors header against whole, cut, forged and mutated files."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import ModelError, WeightsMismatch, WeightsMissing
from engine.weights.header import LORA_HEADER_BYTES, read_header

ASSETS = Path(__file__).parents[3] / "assets"
TABLE = {
    "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "BF16", "shape": [], "data_offsets": [12, 14]},
    "c": {"dtype": "F32", "shape": [0, 7], "data_offsets": [14, 14]},
    "d": {"dtype": "U8", "shape": [5], "data_offsets": [14, 19]},
}


def packed(table: object, data: bytes = bytes(19)) -> bytes:
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


def changed(name: str, **entry: object) -> dict:
    return TABLE | {name: TABLE.get(name, TABLE["a"]) | entry}


def refusal(tmp_path, content: bytes, **limits: int) -> str:
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsMismatch) as caught:
        read_header(file, **limits)
    assert str(tmp_path) not in str(caught.value)
    return caught.value.message


@pytest.mark.parametrize("file", sorted(ASSETS.rglob("*.safetensors")), ids=lambda p: p.stem)
def test_the_header_agrees_with_the_safetensors_library(file):
    from safetensors import safe_open

    header = read_header(file)
    with safe_open(file, framework="np") as other:
        assert set(header.tensors) == set(other.keys())
        assert header.metadata == (other.metadata() or {})
        for name, tensor in header.tensors.items():
            view = other.get_slice(name)
            assert (tensor.dtype, list(tensor.shape)) == (view.get_dtype(), view.get_shape())


def test_offsets_are_absolute_and_in_the_order_of_the_bytes(tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(packed(dict(reversed(TABLE.items())) | {"__metadata__": {"rank": "4"}}, bytes(range(19))))
    header = read_header(file)
    assert list(header.tensors) == ["a", "b", "c", "d"] and header.metadata == {"rank": "4"}
    assert header.file_bytes == file.stat().st_size
    last = header.tensors["d"]
    assert file.read_bytes()[last.begin : last.end] == bytes(range(14, 19))
    assert header.tensors["b"].shape == ()


def test_a_file_cut_at_any_tenth_byte_is_refused_with_the_bytes_that_miss(tmp_path):
    whole = packed(TABLE)
    for size in range(0, len(whole), 10):
        message = refusal(tmp_path, whole[:size])
        assert "missing" in message or "empty" in message, message
    assert "1 of " in refusal(tmp_path, whole[:-1])


REFUSED = {
    "overlaps": (changed("b", data_offsets=[11, 13]), "overlaps"),
    "shares": (changed("d", data_offsets=[0, 5]), "overlaps"),
    "hole": (changed("d", data_offsets=[15, 20]), "hole"),
    "late start": ({"a": TABLE["d"]}, "hole"),
    "dtype": (changed("a", dtype="Q7"), "unknown dtype 'Q7'"),
    "extent": (changed("a", shape=[2, 4]), "2×4 F16 but has 12 bytes"),
    "negative": (changed("a", shape=[-2, -3]), "impossible"),
    "float": (changed("a", shape=[2.0, 3]), "impossible"),
    "bool": (changed("a", shape=[True, 6]), "impossible"),
    "huge number": (changed("a", shape=[1 << 70, 0]), "impossible"),
    "backwards": (changed("a", data_offsets=[12, 0]), "impossible"),
    "rank": (changed("a", shape=[1] * 9), "impossible"),
    "one offset": (changed("a", data_offsets=[0]), "not a dtype"),
    "extra key": (changed("a", device="cuda"), "not a dtype"),
    "not an entry": (TABLE | {"a": 3}, "not a dtype"),
    "name": (TABLE | {"\x1b[2J": TABLE["a"]}, "a tensor is called '\\x1b[2J'"),
    "lone surrogate": (TABLE | {"\ud800": TABLE["a"]}, "a tensor is called"),
    "metadata": (TABLE | {"__metadata__": {"rank": 4}}, "metadata"),
    "metadata list": (TABLE | {"__metadata__": []}, "metadata"),
    "twice": (b'{"a":1,"a":1}', "names 'a' twice"),
    "no JSON": (b"{]", "not JSON"),
    "list": (b"[]", "not JSON"),
    "latin-1": (b'{"\xe9":1}', "not JSON"),
    "deep": (b'{"a":' + b"[" * 100_000, "not JSON"),
    "digits": (b'{"a":' + b"9" * 5_000 + b"}", "not JSON"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_forged_header_is_refused_and_says_why(tmp_path, case):
    table, why = REFUSED[case]
    assert why in refusal(tmp_path, packed(table))


def test_bytes_after_the_last_tensor_are_refused(tmp_path):
    assert "3 bytes follow" in refusal(tmp_path, packed(TABLE, bytes(22)))


def test_a_huge_header_is_refused_without_being_read(tmp_path):
    assert "1048577 bytes" in refusal(tmp_path, struct.pack("<Q", LORA_HEADER_BYTES + 1) + b"{" + bytes(100))
    assert "would be" in refusal(tmp_path, struct.pack("<Q", 2**64 - 1) + b"{" + bytes(100))
    assert "more than 3" in refusal(tmp_path, packed(TABLE), max_tensors=3)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer"),
        (b"\n <!DOCTYPE html><html><body>404", "web page"),
        (b'{"error": "Repository not found"}', "JSON text"),
        (b"PK\x03\x04" + bytes(60), "pickled PyTorch"),
        (b"\x80\x02}q\x00." + bytes(60), "a pickle"),
        (b"GGUF" + bytes(60), "GGUF"),
    ],
)
def test_another_kind_of_file_is_named(tmp_path, content, kind):
    assert kind in refusal(tmp_path, content)


def test_a_file_that_is_not_there_is_missing_and_a_folder_is_refused(tmp_path):
    with pytest.raises(WeightsMissing, match=r"no file gone\.safetensors"):
        read_header(tmp_path / "gone.safetensors")
    with pytest.raises(WeightsMismatch, match="could not be read"):
        read_header(tmp_path)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["F16", "__metadata__"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
mutations = st.one_of(
    st.tuples(st.just("byte"), st.integers(0, 2**20), st.integers(0, 255)),
    st.tuples(st.just("cut"), st.integers(0, 2**20), st.just(0)),
    st.tuples(st.just("insert"), st.integers(0, 2**20), st.binary(min_size=1, max_size=9)),
    st.tuples(st.sampled_from(["dtype", "shape", "data_offsets"]), st.sampled_from(sorted(TABLE)), values),
    st.tuples(st.just("entry"), st.sampled_from([*sorted(TABLE), "__metadata__"]), values),
)


def mutated(changes: list[tuple]) -> bytes:
    table = json.loads(json.dumps(TABLE))
    for kind, where, value in changes:
        if kind == "entry":
            table[where] = value
        elif isinstance(where, str) and isinstance(table[where], dict):
            table[where][kind] = value
    content = bytearray(packed(table))
    for kind, where, value in changes:
        at = where % (len(content) + 1) if isinstance(where, int) else 0
        if kind == "byte" and at < len(content):
            content[at] = value
        elif kind == "cut":
            del content[at:]
        elif kind == "insert":
            content[at:at] = value
    return bytes(content)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(mutations, min_size=1, max_size=4))
def test_a_mutated_file_is_read_or_refused_with_a_sentence_and_never_read_wrongly(tmp_path, changes):
    file = tmp_path / "w.safetensors"
    file.write_bytes(mutated(changes))
    try:
        header = read_header(file)
    except ModelError as err:
        assert err.message.startswith("w.safetensors ") and err.message.endswith(".")
        assert len(err.message) < 300 and err.message.encode("utf-8")
        return
    covered = sum(tensor.end - tensor.begin for tensor in header.tensors.values())
    length = struct.unpack("<Q", file.read_bytes()[:8])[0]
    assert 8 + length + covered == header.file_bytes == file.stat().st_size
