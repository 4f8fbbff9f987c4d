"""The header of a safetensors file, parsed and checked before anything loads the file (rules S17 and S18).

Follows https://huggingface.co/docs/safetensors: 8 bytes little-endian length, that many bytes of JSON, then the
tensors back to back. Refuses what the format refuses, and says which byte or key is wrong. Needs no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from engine.errors import WeightsMismatch, WeightsMissing

LORA_HEADER_BYTES = 1 << 20
BASE_HEADER_BYTES = 100 << 20  # the limit of the safetensors library itself
MAX_TENSORS = 100_000
MAX_RANK = 8
MAX_NAME = 512
METADATA = "__metadata__"
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
OTHER_KINDS = (
    (b"version https://git-lfs", "a git-lfs pointer, not the weights: the clone left the large files out"),
    (b"<", "a web page, not weights: the server answered with a page instead of the file"),
    (b"PK\x03\x04", "a pickled PyTorch checkpoint, not safetensors"),
    (b"\x80", "a pickle, not safetensors"),
    (b"GGUF", "a GGUF file, not safetensors"),
    (b"{", "a JSON text, not weights: the server may have answered with an error"),
)
AGAIN = "Delete it and download it again: python -m engine weights download."


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: its element type, shape, and where its bytes are in the file ([begin, end), absolute)."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds; `tensors` in the order of their bytes."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    file_bytes: int


class _DuplicateKey(ValueError): ...


def read_header(
    path: Path,
    *,
    max_header_bytes: int = LORA_HEADER_BYTES,
    max_tensors: int = MAX_TENSORS,
    name: str | None = None,
) -> Header:
    """The checked header of the safetensors file at `path`; the tensors themselves are not read.

    Raises `WeightsMissing` when there is no such file and `WeightsMismatch` when it is not a whole, well-formed
    safetensors file. The default limit suits LoRAs; pass `BASE_HEADER_BYTES` for a base model.
    Messages call the file `name` (default: the name it has).
    """
    file = name or path.name
    try:
        with path.open("rb") as stream:
            start = stream.read(40)
            length = int.from_bytes(start[:8], "little")
            stream.seek(8)
            text = stream.read(length) if length <= max_header_bytes else b""
            file_bytes = stream.seek(0, 2)
    except (FileNotFoundError, NotADirectoryError) as err:
        raise WeightsMissing(f"There is no file {file}.", "Check the path.") from err
    except OSError as err:
        raise WeightsMismatch(f"{file} could not be read ({err.strerror}).", "Check the path.") from err
    _check_start(file, start, length, file_bytes, max_header_bytes)
    table = _parsed(file, text)
    metadata = _metadata(file, table.pop(METADATA, {}))
    if len(table) > max_tensors:
        raise _broken(file, f"it names {len(table)} tensors, more than {max_tensors}")
    tensors = {name: _tensor(file, name, entry, 8 + length) for name, entry in table.items()}
    ordered = dict(sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)))
    _check_extent(file, ordered, 8 + length, file_bytes)
    return Header(ordered, metadata, file_bytes)


def _check_start(file: str, start: bytes, length: int, file_bytes: int, max_header_bytes: int) -> None:
    if file_bytes == 0:
        raise WeightsMismatch(f"{file} is empty.", AGAIN)
    if file_bytes > 8 and start[8:9] != b"{":
        for prefix, kind in OTHER_KINDS:
            if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(prefix):
                raise WeightsMismatch(f"{file} is {kind}.", AGAIN)
    if file_bytes < 8 or (length <= max_header_bytes and file_bytes < 8 + length):
        missing = 8 - file_bytes if file_bytes < 8 else 8 + length - file_bytes
        raise WeightsMismatch(f"{file} is cut off: at least {missing} bytes are missing.", AGAIN)
    if length > max_header_bytes:
        raise _broken(file, f"its header would be {length} bytes, more than {max_header_bytes}")
    if start[8:9] != b"{":
        raise _broken(file, "its header is not JSON")


def _parsed(file: str, text: bytes) -> dict[str, object]:
    try:
        table = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except _DuplicateKey as err:
        raise _broken(file, f"its header names {err} twice") from err
    except (ValueError, RecursionError) as err:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _broken(file, "its header is not JSON") from err
    return table


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table: dict[str, object] = {}
    for key, value in pairs:
        if key in table:
            raise _DuplicateKey(_shown(key))
        table[key] = value
    return table


def _metadata(file: str, entry: object) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise _broken(file, "its metadata is not a table of texts")
    return entry


def _tensor(file: str, name: str, entry: object, data_start: int) -> TensorInfo:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise _broken(file, f"a tensor is called {_shown(name)}")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **more} if not more:
            pass
        case _:
            raise _broken(file, f"the entry of {_shown(name)} is not a dtype, a shape and two offsets")
    if dtype not in BITS:
        raise _broken(file, f"{_shown(name)} has the unknown dtype {_shown(dtype)}")
    if len(shape) > MAX_RANK or not all(map(_is_count, [*shape, begin, end])) or begin > end:
        raise _broken(file, f"{_shown(name)} has an impossible shape or position")
    if prod(shape) * BITS[dtype] != (end - begin) * 8:
        size = "×".join(map(str, shape)) or "1"
        raise _broken(file, f"{_shown(name)} is {size} {dtype} but has {end - begin} bytes")
    return TensorInfo(dtype, tuple(shape), data_start + begin, data_start + end)


def _check_extent(file: str, tensors: Mapping[str, TensorInfo], data_start: int, file_bytes: int) -> None:
    """The tensors lie back to back from `data_start` to the end of the file."""
    at = data_start
    for name, tensor in tensors.items():
        if tensor.begin != at:
            what = "overlaps the tensor before it" if tensor.begin < at else "leaves a hole before it"
            raise _broken(file, f"{_shown(name)} {what}")
        at = tensor.end
    if file_bytes < at:
        raise WeightsMismatch(f"{file} is cut off: {at - file_bytes} of {at} bytes are missing.", AGAIN)
    if file_bytes > at:
        raise _broken(file, f"{file_bytes - at} bytes follow its last tensor")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _shown(text: str) -> str:
    """`text` from an untrusted file, safe to print and at most 80 characters."""
    return ascii(text if len(text) <= 80 else text[:77] + "…")


def _broken(file: str, reason: str) -> WeightsMismatch:
    return WeightsMismatch(f"{file} is not a valid safetensors file: {reason}.", AGAIN)
