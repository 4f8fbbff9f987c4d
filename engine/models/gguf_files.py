"""A transformer as one GGUF file under upstream's names: small enough for 8 to 12 GB on the card and 16 GB beside it.

Added to quantised weights a LoRA would mostly be rounded away. It is fused first, the result is quantised, and the file
says which LoRAs it holds. Only the linear layers of the blocks are quantised, 98 % of a 14B model; the rest stays in
float32. Needs the package gguf, which is imported when it is used.
"""

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from diffusers import GGUFQuantizationConfig, WanTransformer3DModel
from torch import Tensor, nn

from engine.errors import BackendUnavailable, InputError, WeightsMismatch, WeightsMissing, disk_errors_explained
from engine.models.lora import without_weights
from engine.models.names import diffusers_name, upstream_name

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter

Quantisation = Literal["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"]

ARCHITECTURE = "wan"
LORA_KEY = "svi.lora"
CONFIG_KEY = "svi.transformer_config"
BLOCK = 32  # numbers that share a scale, in every one of these formats
HEAD_DIM = 128  # of every published Wan; a file that is not ours does not tell


@dataclass(frozen=True)
class FusedLora:
    """A LoRA that the weights of a file already hold."""

    name: str
    strength: float


def write_gguf(
    transformer: WanTransformer3DModel, path: Path, *, quantisation: Quantisation, loras: Sequence[FusedLora] = ()
) -> None:
    """Write `transformer` to `path`, whole or not at all, one tensor at a time. loras: what is fused into it."""
    _require_package()
    import gguf

    if path.suffix != ".gguf" or quantisation not in get_args(Quantisation):
        raise InputError(
            f"A transformer cannot be written to {path.name} as {quantisation}.",
            f"The name must end in .gguf, and the format be one of {', '.join(get_args(Quantisation))}.",
        )
    tensors = {upstream_name(name): parameter for name, parameter in transformer.named_parameters()}
    _check_exact(tensors)
    unfinished = path.with_name(path.name + ".part")
    with disk_errors_explained(f"the file {path.name}", safe="The model it is made from is untouched."):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            writer = gguf.GGUFWriter(unfinished, ARCHITECTURE)
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
            writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quantisation}"])
            writer.add_string(LORA_KEY, json.dumps([asdict(lora) for lora in loras]))
            writer.add_string(CONFIG_KEY, json.dumps(_config_of(transformer)))
            _write_tensors(writer, tensors, gguf.GGMLQuantizationType[quantisation])
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def read_fused(path: Path) -> tuple[FusedLora, ...]:
    """The LoRAs that a GGUF file holds; none when it does not say, as in files of other origin."""
    text = _text(_opened(path), LORA_KEY)
    try:
        return tuple(FusedLora(str(entry["name"]), float(entry["strength"])) for entry in json.loads(text or "[]"))
    except (ValueError, TypeError, KeyError) as err:
        raise WeightsMismatch(f"{path.name} does not tell which LoRAs it holds.", "Write it again.") from err


def load_gguf(path: Path, *, dtype: torch.dtype) -> WanTransformer3DModel:
    """The transformer in a GGUF file; its quantised weights are unpacked to `dtype` where they are used."""
    reader = _opened(path)
    shapes = {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in reader.tensors}
    config = json.loads(_text(reader, CONFIG_KEY) or "null") or _config_from(shapes, path.name)
    _check_tensors(shapes, config, path.name)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps({"_class_name": "WanTransformer3DModel"} | config))
        transformer = WanTransformer3DModel.from_single_file(
            str(path),
            config=folder,
            quantization_config=GGUFQuantizationConfig(compute_dtype=dtype),
            torch_dtype=dtype,
            local_files_only=True,
        )
    return transformer.eval().requires_grad_(False)


def _write_tensors(writer: "GGUFWriter", tensors: Mapping[str, Tensor], quantisation: "GGMLQuantizationType") -> None:
    """Announce every tensor, then write one after another, so that no second model lies in memory."""
    from gguf import GGMLQuantizationType, quant_shape_to_byte_shape, quants

    plain = GGMLQuantizationType.F32
    kinds = {name: quantisation if is_quantised(name, tensor) else plain for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        shape, number = tuple(tensor.shape), np.dtype(np.float32)
        if kinds[name] != plain:
            shape, number = quant_shape_to_byte_shape(shape, quantisation), np.dtype(np.uint8)
        writer.add_tensor_info(name, shape, number, math.prod(shape) * number.itemsize, kinds[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        for name, tensor in tensors.items():
            values = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
            writer.write_tensor_data(quants.quantize(values, kinds[name]))
    finally:
        writer.close()


def is_quantised(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of upstream's name is the weight of a block's linear layer that blocks of 32 numbers fill."""
    return name.startswith("blocks.") and tensor.ndim == 2 and tensor.shape[1] % BLOCK == 0


def _check_exact(tensors: Mapping[str, Tensor]) -> None:
    """Raise for weights that were rounded to 8 bits or less: rounded once more they would be worse than either."""
    for name, tensor in tensors.items():
        if type(tensor) is not nn.Parameter or not tensor.is_floating_point() or tensor.element_size() == 1:
            raise WeightsMismatch(f"The weight {name} is quantised already.", "Load the model unquantised, then write.")


def _opened(path: Path) -> "GGUFReader":
    if not path.is_file():
        raise WeightsMissing(f"There is no file {path.name}.", "Check the path.")
    _require_package()
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (ValueError, IndexError, OSError, KeyError, OverflowError, MemoryError) as err:
        raise WeightsMismatch(f"{path.name} is not a whole GGUF file.", "Download it again.") from err


def _text(reader: "GGUFReader", key: str) -> str:
    field = reader.get_field(key)
    return str(field.contents()) if field is not None else ""


def _config_of(transformer: WanTransformer3DModel) -> dict[str, object]:
    """The configuration without diffusers' own notes."""
    return {key: value for key, value in transformer.config.items() if not key.startswith("_")}


def _config_from(shapes: Mapping[str, tuple[int, ...]], shown: str) -> dict[str, object]:
    """The configuration of a file that does not hold it, from the shapes; heads are 128 wide, as in every Wan."""
    try:
        width, in_channels, *patch = shapes["patch_embedding.weight"]
        picture = shapes.get("img_emb.proj.1.weight")
        return {
            "patch_size": patch,
            "num_attention_heads": width // HEAD_DIM,
            "attention_head_dim": HEAD_DIM,
            "in_channels": in_channels,
            "out_channels": shapes["head.head.weight"][0] // math.prod(patch),
            "text_dim": shapes["text_embedding.0.weight"][1],
            "freq_dim": shapes["time_embedding.0.weight"][1],
            "ffn_dim": shapes["blocks.0.ffn.0.weight"][0],
            "num_layers": 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")),
            "image_dim": picture[1] if picture else None,
            "added_kv_proj_dim": width if picture else None,
        }
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as err:
        raise WeightsMismatch(f"{shown} is not a Wan transformer under upstream's names.", "Use another file.") from err


def _check_tensors(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, object], shown: str) -> None:
    """Raise unless the file holds exactly the transformer's tensors: diffusers would draw missing ones at random."""
    expected = {name: tuple(parameter.shape) for name, parameter in without_weights(config).named_parameters()}
    found = {diffusers_name(name) or name: shape for name, shape in shapes.items()}
    for what, names in (
        ("has no", [name for name in expected if name not in found]),
        ("has an unknown", [name for name in found if name not in expected]),
        ("has another shape of", [name for name in expected if found.get(name) != expected[name]]),
    ):
        if names:
            raise WeightsMismatch(
                f"{shown} {what} {names[0]} ({len(names)} such tensors).", "It is another model, or an unfinished file."
            )


def _require_package() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as err:
        raise BackendUnavailable("GGUF files need the package gguf.", "Install it: pip install gguf==0.19.0") from err
