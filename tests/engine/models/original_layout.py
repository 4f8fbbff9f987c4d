"""Tiny models written as Wan-AI lays its checkpoints out. The names are spelled out here once more, the other way
round, so that a mistake in the tables of the code is seen."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.models.untrained import WanModules, WanSize

SIZE = WanSize(image_dim=160, image_layers=2)  # two heads of 80, as wide as in ViT-H/14
TRANSFORMER = (  # diffusers' names as patterns -> upstream's, in svi.md's order; the swap of norm2 and norm3 included
    (r"blocks\.(\d+)\.attn1\.to_([qkv])\.(\w+)", r"blocks.\1.self_attn.\2.\3"),
    (r"blocks\.(\d+)\.attn1\.to_out\.0\.(\w+)", r"blocks.\1.self_attn.o.\2"),
    (r"blocks\.(\d+)\.attn2\.to_([qkv])\.(\w+)", r"blocks.\1.cross_attn.\2.\3"),
    (r"blocks\.(\d+)\.attn2\.to_out\.0\.(\w+)", r"blocks.\1.cross_attn.o.\2"),
    (r"blocks\.(\d+)\.attn2\.add_([kv])_proj\.(\w+)", r"blocks.\1.cross_attn.\2_img.\3"),
    (r"blocks\.(\d+)\.attn2\.norm_added_k\.(\w+)", r"blocks.\1.cross_attn.norm_k_img.\2"),
    (r"blocks\.(\d+)\.attn1\.norm_([qk])\.(\w+)", r"blocks.\1.self_attn.norm_\2.\3"),
    (r"blocks\.(\d+)\.attn2\.norm_([qk])\.(\w+)", r"blocks.\1.cross_attn.norm_\2.\3"),
    (r"blocks\.(\d+)\.norm2\.(\w+)", r"blocks.\1.norm3.\2"),
    (r"blocks\.(\d+)\.ffn\.net\.0\.proj\.(\w+)", r"blocks.\1.ffn.0.\2"),
    (r"blocks\.(\d+)\.ffn\.net\.2\.(\w+)", r"blocks.\1.ffn.2.\2"),
    (r"blocks\.(\d+)\.scale_shift_table", r"blocks.\1.modulation"),
    (r"condition_embedder\.text_embedder\.linear_1\.(\w+)", r"text_embedding.0.\1"),
    (r"condition_embedder\.text_embedder\.linear_2\.(\w+)", r"text_embedding.2.\1"),
    (r"condition_embedder\.time_embedder\.linear_1\.(\w+)", r"time_embedding.0.\1"),
    (r"condition_embedder\.time_embedder\.linear_2\.(\w+)", r"time_embedding.2.\1"),
    (r"condition_embedder\.time_proj\.(\w+)", r"time_projection.1.\1"),
    (r"condition_embedder\.image_embedder\.norm1\.(\w+)", r"img_emb.proj.0.\1"),
    (r"condition_embedder\.image_embedder\.ff\.net\.0\.proj\.(\w+)", r"img_emb.proj.1.\1"),
    (r"condition_embedder\.image_embedder\.ff\.net\.2\.(\w+)", r"img_emb.proj.3.\1"),
    (r"condition_embedder\.image_embedder\.norm2\.(\w+)", r"img_emb.proj.4.\1"),
    (r"patch_embedding\.(\w+)", r"patch_embedding.\1"),
    (r"proj_out\.(\w+)", r"head.head.\1"),
    (r"scale_shift_table", r"head.modulation"),
)
T5 = (
    (r"shared\.weight", r"token_embedding.weight"),
    (r"encoder\.final_layer_norm\.weight", r"norm.weight"),
    (r"encoder\.block\.(\d+)\.layer\.0\.layer_norm\.weight", r"blocks.\1.norm1.weight"),
    (r"encoder\.block\.(\d+)\.layer\.1\.layer_norm\.weight", r"blocks.\1.norm2.weight"),
    (r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.weight", r"blocks.\1.attn.\2.weight"),
    (
        r"encoder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.weight",
        r"blocks.\1.pos_embedding.embedding.weight",
    ),
    (r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_0\.weight", r"blocks.\1.ffn.gate.0.weight"),
    (r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wi_1\.weight", r"blocks.\1.ffn.fc1.weight"),
    (r"encoder\.block\.(\d+)\.layer\.1\.DenseReluDense\.wo\.weight", r"blocks.\1.ffn.fc2.weight"),
)
CLIP = (
    (r"embeddings\.class_embedding", r"cls_embedding"),
    (r"embeddings\.position_embedding\.weight", r"pos_embedding"),
    (r"embeddings\.patch_embedding\.weight", r"patch_embedding.weight"),
    (r"pre_layrnorm\.(\w+)", r"pre_norm.\1"),
    (r"post_layernorm\.(\w+)", r"post_norm.\1"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(\w+)", r"transformer.\1.norm\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"transformer.\1.attn.proj.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.(\w+)", r"transformer.\1.mlp.0.\2"),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.(\w+)", r"transformer.\1.mlp.2.\2"),
)
VAE_LAYERS = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
VAE_LAYERS["conv_shortcut"] = "shortcut"
VAE = (
    (r"quant_conv\.(\w+)", r"conv1.\1"),
    (r"post_quant_conv\.(\w+)", r"conv2.\1"),
    (r"(encoder|decoder)\.conv_in\.(\w+)", r"\1.conv1.\2"),
    (r"(encoder|decoder)\.norm_out\.(\w+)", r"\1.head.0.\2"),
    (r"(encoder|decoder)\.conv_out\.(\w+)", r"\1.head.2.\2"),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)", r"\1.middle.1.\2"),
)


def respelled(name: str, patterns: tuple[tuple[str, str], ...]) -> str:
    fitting = [re.sub(pattern, to, name) for pattern, to in patterns if re.fullmatch(pattern, name)]
    assert len(fitting) == 1, f"{name}: {fitting}"
    return fitting[0]


def transformer_tensors(transformer: nn.Module) -> dict[str, Tensor]:
    return {respelled(name, TRANSFORMER): tensor for name, tensor in transformer.state_dict().items()}


def transformer_config(transformer: nn.Module) -> dict[str, object]:
    """config.json as Wan-AI writes it: no width of the text or of the pictures, no size of the patches."""
    config = transformer.config
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": config.num_attention_heads * config.attention_head_dim,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "in_dim": config.in_channels,
        "model_type": "i2v",
        "num_heads": config.num_attention_heads,
        "num_layers": config.num_layers,
        "out_dim": config.out_channels,
        "text_len": 512,
    }


def text_tensors(encoder: nn.Module) -> dict[str, Tensor]:
    return {respelled(name, T5): tensor for name, tensor in encoder.named_parameters()}


def vae_tensors(vae: nn.Module) -> dict[str, Tensor]:
    per_level = vae.config.num_res_blocks + 2  # of the decoder: one residual block more, and the upsampler
    tensors = {}
    for name, tensor in vae.state_dict().items():
        stack, _, rest = name.partition("_blocks." if "_blocks." in name else "_block.resnets.")
        parts = rest.split(".")
        match stack, parts:
            case "encoder.down", [index, layer, *kind]:
                key = ["encoder.downsamples", index, VAE_LAYERS.get(layer, layer), *kind]
            case "decoder.up", [level, "resnets", index, layer, *kind]:
                key = ["decoder.upsamples", str(int(level) * per_level + int(index)), VAE_LAYERS[layer], *kind]
            case "decoder.up", [level, "upsamplers", _, *layer]:
                key = ["decoder.upsamples", str(int(level) * per_level + per_level - 1), *layer]
            case (("encoder.mid" | "decoder.mid"), [index, layer, *kind]):
                key = [stack.replace("mid", "middle"), str(2 * int(index)), VAE_LAYERS[layer], *kind]
            case _:
                key = [respelled(name, VAE)]
        tensors[".".join(key)] = tensor
    return tensors


def image_tensors(encoder: nn.Module, *, prefix: str = "visual.") -> dict[str, Tensor]:
    """The vision tower with q, k and v in one, the head that CLIP drops and a text tower that nobody needs."""
    state = encoder.state_dict()
    tensors = {respelled(name, CLIP): tensor for name, tensor in state.items() if not re.search("[qkv]_proj", name)}
    for index in range(encoder.config.num_hidden_layers):
        for kind in ("weight", "bias"):
            parts = [state[f"encoder.layers.{index}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            tensors[f"transformer.{index}.attn.to_qkv.{kind}"] = torch.cat(parts)
    width = encoder.config.hidden_size
    tensors["cls_embedding"] = tensors["cls_embedding"].view(1, 1, width)
    tensors["pos_embedding"] = tensors["pos_embedding"][None]
    tensors["head"] = torch.ones(width, 8)
    text = {"textual.token_embedding.weight": torch.ones(9, 8), "log_scale": torch.tensor(2.0)} if prefix else {}
    return {prefix + key: tensor for key, tensor in tensors.items()} | text


def write_shards(folder: Path, transformer: nn.Module, *, count: int = 2) -> None:
    """config.json, `count` shards and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(transformer_config(transformer)))
    tensors = transformer_tensors(transformer)
    keys = sorted(tensors)
    where = {}
    for number in range(count):
        name = f"diffusion_pytorch_model-{number + 1:05d}-of-{count:05d}.safetensors"
        part = {key: tensors[key].contiguous() for key in keys[number::count]}
        save_file(part, folder / name)
        where |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def write_pickled(path: Path, tensors: Mapping[str, Tensor]) -> None:
    torch.save({key: tensor.clone() for key, tensor in tensors.items()}, path)


def write_original(folder: Path, modules: WanModules, *, low_noise: nn.Module | None = None) -> Path:
    """The model as Wan-AI/Wan2.1-I2V-14B-480P lays it out; with a second transformer, as Wan-AI/Wan2.2-I2V-A14B."""
    write_shards(folder / "high_noise_model" if low_noise else folder, modules.transformer)
    if low_noise is not None:
        write_shards(folder / "low_noise_model", low_noise)
    write_pickled(folder / "Wan2.1_VAE.pth", vae_tensors(modules.vae))
    write_pickled(folder / "models_t5_umt5-xxl-enc-bf16.pth", text_tensors(modules.text_encoder))
    if modules.image_encoder is not None:
        name = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
        write_pickled(folder / name, image_tensors(modules.image_encoder))
    modules.tokenizer.save_pretrained(folder / "google" / "umt5-xxl")
    return folder
