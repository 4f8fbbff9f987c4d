"""Whether a file on disk is what it should be: size, a well-formed header, and the hash of every byte."""

import hashlib
import json
from pathlib import Path

from engine.errors import WeightsMismatch, WeightsMissing
from engine.weights.header import BASE_HEADER_BYTES, LORA_HEADER_BYTES, read_header
from engine.weights.inventory import Item, in_words

BLOCK_BYTES = 8 << 20
MAX_JSON_BYTES = 100 << 20
PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")  # they may run code when loaded: only by their hash (rule S17)


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checked(path: Path, item: Item, *, blob_id: str | None = None) -> str:
    """The sha256 of the file at `path`, which must be `item`: of its size, readable, and with its hash.

    `blob_id` is git's hash, which the Hub gives for small files instead. Raises `WeightsMismatch`.
    """
    try:
        size = path.stat().st_size
        if item.size is not None and size != item.size:
            raise WeightsMismatch(
                f"{item.key} has {size} bytes and should have {item.size}"
                f" ({in_words(abs(item.size - size))} too {'few' if size < item.size else 'many'})."
            )
        check_readable(path, item)
        sha256 = sha256_of(path)
        if item.sha256 is not None and sha256 != item.sha256:
            raise WeightsMismatch(
                f"{item.key} is not the file it should be: its sha256 is {sha256[:12]}…, expected {item.sha256[:12]}…"
            )
        if item.sha256 is None and blob_id is not None and _git_hash(path, size) != blob_id:
            raise WeightsMismatch(f"{item.key} is not the file it should be: its git hash is not {blob_id[:12]}….")
    except FileNotFoundError as err:
        raise WeightsMissing(f"{item.key} is not in the models folder.") from err
    except OSError as err:
        raise WeightsMismatch(f"{item.key} could not be read ({err.strerror}).") from err
    return sha256


def check_readable(path: Path, item: Item) -> None:
    """Refuse a file that is not of the kind its name promises; pickles are judged by their hash alone."""
    suffix = Path(item.path).suffix
    if suffix == ".safetensors":
        limit = LORA_HEADER_BYTES if item.entry.is_lora else BASE_HEADER_BYTES
        read_header(path, max_header_bytes=limit, name=item.key)
    elif suffix == ".json":
        try:
            if path.stat().st_size > MAX_JSON_BYTES:
                raise WeightsMismatch(f"{item.key} is too large for a JSON file.")
            json.loads(path.read_bytes())
        except (ValueError, RecursionError) as err:
            raise WeightsMismatch(f"{item.key} is not JSON.") from err


def _git_hash(path: Path, size: int) -> str:
    hasher = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()
