"""Take over weights that are on this machine already: a Hugging Face cache, ComfyUI's folders, upstream's weights/.

Files are recognised by their place and name, and their safetensors header must agree. They are linked, not moved.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from engine.errors import DiskFull, InputError, ModelError, WeightsMismatch, disk_errors_explained
from engine.events import Event
from engine.project.files import fsync_file, fsync_folder
from engine.weights.checks import PICKLE_SUFFIXES, checked
from engine.weights.download import free_bytes
from engine.weights.header import BASE_HEADER_BYTES, Header, read_header
from engine.weights.inventory import Item, in_words
from engine.weights.lock import Lock, read_lock, remember, working_in
from engine.weights.manifest import Entry
from engine.weights.verify import local_line

How = Literal["any", "link", "copy"]
SUFFIXES = (".safetensors", ".json", ".model", ".onnx", *PICKLE_SUFFIXES)
PLAIN_NAMES = re.compile(r"(model|pytorch_model|diffusion_pytorch_model)\b.*|.*\.(json|model)")  # say nothing alone
MAX_FILES = 20_000
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class WeightsImported(Event):
    """`how`: hard link, symbolic link, copy, or “was there”."""

    entry: str
    file: str
    source: str
    how: str


@dataclass(frozen=True)
class WeightsSkipped(Event):
    source: str
    reason: str


def import_weights(
    path: Path,
    entries: Sequence[Entry],
    models: Path,
    *,
    how: How = "any",
    reserve_bytes: int = 0,
    chosen: bool = False,
) -> Iterator[Event]:
    """Link or copy the files at `path` that belong to `entries` into `models`, each one verified first.

    `chosen` says that the user named the entries: `path` is then read as (a file of) their repository.
    """
    files = found_files(path)
    with working_in(models, doing="importing weights"):
        for file in files:
            try:
                item = recognise(file, path, entries, chosen=chosen)
                yield _imported(file, item, models, how, reserve_bytes)
            except (ModelError, InputError) as err:
                yield WeightsSkipped(str(file), err.message)


def found_files(path: Path) -> list[Path]:
    """The file `path`, or all files below it that could be weights."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"There is nothing at {path.name}.", "Check the path.")
    files = []
    for file in sorted(path.rglob("*")):
        if file.suffix in SUFFIXES and file.is_file():
            files.append(file)
        if len(files) > MAX_FILES:
            raise InputError(f"{path.name} holds more than {MAX_FILES} files.", "Name a folder further down.")
    return files


def recognise(file: Path, root: Path, entries: Sequence[Entry], *, chosen: bool = False) -> Item:
    """The file of the manifest that `file` is, by its name and the folders it lies in; `InputError` when unclear."""
    matches = _matches_in_repository(file, root, entries) if chosen else _matches(file, entries)
    if len(matches) == 1:
        return matches[0]
    if matches:
        ids = " or ".join(sorted({match.entry.id for match in matches}))
        raise InputError(f"it could be a file of {ids}; say which: --as ID")
    raise InputError(_described(file))


def _matches(file: Path, entries: Sequence[Entry]) -> list[Item]:
    """Entries whose repository is named in the path and has this file; else those with this telling file name."""
    folders = file.absolute().parts
    named, by_name = [], []
    for entry in entries:
        owner, _, name = entry.repo.partition("/")
        at = [i for i, part in enumerate(folders[:-1]) if part in (name, f"models--{owner}--{name}")]
        if at:
            inner = folders[at[-1] + 1 :]
            inner = inner[2:] if inner[0] == "snapshots" and len(inner) > 2 else inner
            path = "/".join(inner)
            named += [Item(entry, path, row.size, row.sha256)] if (row := entry.row(path)) else []
        if not PLAIN_NAMES.fullmatch(file.name):
            by_name += _rows_called(file.name, entry)
    return named or by_name


def _matches_in_repository(file: Path, root: Path, entries: Sequence[Entry]) -> list[Item]:
    """Matches when the user said that `root` is a repository, or a file of it."""
    found = []
    for entry in entries:
        path = file.name if root == file else file.relative_to(root).as_posix()
        row = entry.row(path)
        if row:
            found.append(Item(entry, path, row.size, row.sha256))
        elif called := _rows_called(file.name, entry):
            found += called
        elif root == file and len(entry.files) == 1 and not entry.files[0].is_pattern:
            only = entry.files[0]
            found.append(Item(entry, only.path, only.size, only.sha256))
    return found


def _rows_called(name: str, entry: Entry) -> list[Item]:
    rows = [row for row in entry.files if not row.is_pattern and row.path.rpartition("/")[2] == name]
    return [Item(entry, row.path, row.size, row.sha256) for row in rows]


def _imported(file: Path, item: Item, models: Path, how: How, reserve_bytes: int) -> WeightsImported:
    lock = read_lock(models)
    line = lock.files.get(item.key)
    expected = item if item.sha256 or not line else replace(item, size=line.size, sha256=line.sha256)
    if expected.sha256 is None and file.suffix in PICKLE_SUFFIXES:
        raise WeightsMismatch("it is a pickle that nothing vouches for; download it instead")
    sha256 = checked(file, expected)
    _check_kind(file, item.entry)
    target = models / item.key
    if target.exists():
        if not target.samefile(file) and checked(target, replace(expected, sha256=None)) != sha256:
            raise WeightsMismatch(f"another file is at {item.key} already; it is left there")
        done = "was there"
    else:
        with disk_errors_explained(item.key, safe="Nothing was changed."):
            target.parent.mkdir(parents=True, exist_ok=True)
            done = _placed(file.resolve(), target, how, reserve_bytes)
    if line is None:
        remember(models, Lock(files={item.key: local_line(item, target, sha256, _commit_of(file))}))
    return WeightsImported(item.entry.id, item.key, str(file), done)


def _placed(source: Path, target: Path, how: How, reserve_bytes: int) -> str:
    """Make `target` out of `source`: a hard link where the disk allows, else a symbolic link, else a copy."""
    part = target.with_name(f"{target.name}.import.part")
    part.unlink(missing_ok=True)
    if how != "copy":
        for make, name in ((os.link, "hard link"), (os.symlink, "symbolic link")):
            with suppress(OSError, NotImplementedError):
                make(source, part)
                os.replace(part, target)
                fsync_folder(target.parent)
                return name
        if how == "link":
            raise InputError("it cannot be linked from here; use --copy")
    size, room = source.stat().st_size, free_bytes(target.parent)
    if room < size + reserve_bytes:
        raise DiskFull(f"No room to copy {source.name}: {in_words(size)}, {in_words(room)} free.", "Use --link.")
    try:
        shutil.copyfile(source, part)
        fsync_file(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    fsync_folder(target.parent)
    return "copy"


def _commit_of(file: Path) -> str | None:
    """The commit of a file in a Hugging Face cache: …/snapshots/<commit>/…"""
    parts = file.absolute().parts
    after = parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else ""
    return after if COMMIT.fullmatch(after) else None


def _check_kind(file: Path, entry: Entry) -> None:
    """Refuse a file whose tensors are not of the kind that the entry publishes."""
    if file.suffix != ".safetensors":
        return
    kind = kind_of(read_header(file, max_header_bytes=BASE_HEADER_BYTES))
    if entry.is_lora != (kind in ("a LoRA in upstream's names", "a LoRA in ComfyUI's names", "a LoRA")):
        raise WeightsMismatch(f"by its name it is {entry.title}, but it holds {kind}")
    other = {"lora-upstream": "a LoRA in ComfyUI's names", "lora-comfy": "a LoRA in upstream's names"}.get(entry.layout)
    if kind == other:
        raise WeightsMismatch(f"by its name it is {entry.title}, but it is {kind}")


def kind_of(header: Header) -> str:
    """What a safetensors file holds, in words, judged by the names of its tensors."""
    names = list(header.tensors)
    if any(".lora_" in name for name in names):
        if any(name.startswith(("diffusion_model.", "lora_unet_")) for name in names):
            return "a LoRA in ComfyUI's names"
        upstream = any(".default." in name or name.startswith("pipe.dit.") for name in names)
        return "a LoRA in upstream's names" if upstream else "a LoRA"
    if any(name.startswith("blocks.0.self_attn.") for name in names):
        return "a Wan transformer as first published"
    if any(name.startswith("blocks.0.attn1.") for name in names):
        return "a Wan transformer in diffusers' layout"
    return f"{len(names)} tensors of an unknown kind"


def _described(file: Path) -> str:
    """Why a file was not recognised."""
    if file.suffix != ".safetensors":
        return "no weights of the manifest have this name"
    header = read_header(file, max_header_bytes=BASE_HEADER_BYTES)
    return f"it is {kind_of(header)}, but its name is not one of the manifest's; say which it is: --as ID"
