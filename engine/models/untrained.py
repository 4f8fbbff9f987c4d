"""Every part of Wan image-to-video, the real classes with random weights at any size: for the speed bench and tests."""

import re
import string
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

EOS = "</s>"


@dataclass(frozen=True)
class WanSize:
    """Sizes of the parts; the defaults are the smallest that keep every layer of the 14B model in place."""

    num_heads: int = 2
    head_dim: int = 12
    num_layers: int = 2
    ffn_dim: int = 32
    text_dim: int = 32
    text_layers: int = 2
    vae_dim: int = 3
    vae_multipliers: tuple[int, ...] = (1, 1, 1, 1)
    image_dim: int = 4
    image_layers: int = 2
    image_side: int = 32
    image_patch: int = 8


@dataclass(frozen=True)
class WanModules:
    transformer: WanTransformer3DModel
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerFast
    image_encoder: CLIPVisionModel | None


def build(size: WanSize, *, seed: int = 0, takes_picture: bool = True) -> WanModules:
    """Modules that fit each other. Equal seeds give equal weights; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = size.num_heads * size.head_dim
        transformer = WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=size.num_heads,
            attention_head_dim=size.head_dim,
            in_channels=36,
            out_channels=16,
            text_dim=size.text_dim,
            freq_dim=256 if width >= 256 else 32,
            ffn_dim=size.ffn_dim,
            num_layers=size.num_layers,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=64,
            image_dim=size.image_dim if takes_picture else None,
            added_kv_proj_dim=width if takes_picture else None,  # left out, image attention has no weights at all
        )
        vae = AutoencoderKLWan(
            base_dim=size.vae_dim,
            z_dim=16,
            dim_mult=list(size.vae_multipliers),
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        )
        tokenizer = build_tokenizer()
        text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=max(len(tokenizer), 128),
                d_model=size.text_dim,
                d_kv=max(size.text_dim // 4, 8),
                d_ff=2 * size.text_dim,
                num_layers=size.text_layers,
                num_heads=4,
            )
        )
        image_encoder = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=size.image_dim,
                intermediate_size=4 * size.image_dim,
                num_hidden_layers=size.image_layers,
                num_attention_heads=2,
                image_size=size.image_side,
                patch_size=size.image_patch,
                projection_dim=size.image_dim,
                hidden_act="gelu",  # as in Wan's tower; the default is another
            )
        )
        make_sensitive(transformer, vae)
    parts = (transformer, vae, text_encoder, image_encoder)
    for module in parts:
        module.eval().requires_grad_(False)
    return WanModules(transformer, vae, text_encoder, tokenizer, image_encoder if takes_picture else None)


@torch.no_grad()
def make_sensitive(transformer: WanTransformer3DModel, vae: AutoencoderKLWan) -> None:
    """Let the output depend on every input: at their usual start the parts hardly react to padding or prompt, and norms
    of ones and zeros would hide one that is left out or mistaken for another."""
    for name, parameter in transformer.named_parameters():
        if "norm" in name:
            parameter += 0.2 * torch.randn_like(parameter)
        elif parameter.ndim == 5 or (parameter.ndim == 2 and re.search("attn|ffn|text_embedder", name)):
            parameter *= 2
    for name, parameter in vae.named_parameters():
        if parameter.ndim >= 4 and name.startswith(("encoder", "decoder")):
            parameter *= 2 if name.startswith("encoder") else 1.3
    vae.quant_conv.weight *= 4


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows every printable ASCII character and ends each prompt as UMT5's does."""
    characters = sorted(set(string.ascii_letters + string.digits + string.punctuation))
    vocabulary = [("<pad>", 0.0), (EOS, 0.0), ("<unk>", -20.0), ("▁", -2.0), *((c, -3.0) for c in characters)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token=EOS, unk_token="<unk>")
