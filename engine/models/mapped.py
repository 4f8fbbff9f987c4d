"""The tensors of a folder of safetensors files, left in the files until they are used.

A tensor is a view of its file, mapped privately: reading takes the page cache, not the program's memory, and writing
into it never reaches the file. Every call of `mapped_tensors` maps anew, so two callers do not see each other's writes.
"""

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from engine.errors import WeightsMismatch, WeightsMissing
from engine.models.names import diffusers_name
from engine.weights.header import BASE_HEADER_BYTES, read_header

INDEX = "*.safetensors.index.json"


class MappedWeights:
    """The tensors of a transformer's folder by the names of its parameters, whichever layout the files have.

    It is what `LoraSlot` takes its base weights from: 14B then needs no second copy in memory. Do not write into them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tensors = {diffusers_name(key) or key: tensor for key, tensor in mapped_tensors(folder).items()}

    def __call__(self, name: str) -> Tensor:
        if name not in self._tensors:
            raise WeightsMismatch(
                f"The base weights in {self.folder.name} have no {name}.", "Give the folder that the model came from."
            )
        return self._tensors[name]


def mapped_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the safetensors files in `folder` by its name there. A file that is absent or broken is named."""
    return {key: tensor for path in weight_files(folder) for key, tensor in mapped_file(path).items()}


def mapped_file(path: Path) -> dict[str, Tensor]:
    """Every tensor of one safetensors file."""
    header = read_header(path, max_header_bytes=BASE_HEADER_BYTES)
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in header.tensors}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one model: those that its index lists, or the only one. All of them exist."""
    indexes = sorted(folder.glob(INDEX)) if folder.is_dir() else []
    if not indexes:
        found = sorted(folder.glob("*.safetensors"))
        if len(found) != 1:
            how_many = f"{len(found)} safetensors files and no index" if found else "no safetensors file"
            raise WeightsMissing(f"The folder {folder.name} holds {how_many}.", "Download the model again.")
        return found
    names = _names_in(indexes[0])
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise WeightsMissing(
            f"{missing[0]} is missing from {folder.name} ({len(missing)} of {len(names)} files are).",
            "The download is not finished: start it again.",
        )
    return [folder / name for name in names]


def _names_in(index: Path) -> list[str]:
    """The files that an index lists, each beside it."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as err:
        raise WeightsMissing(f"The index {index.name} is damaged.", "Download the model again.") from err
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise WeightsMismatch(f"The index {index.name} lists “{name}”, which is no file beside it.")
    return names
