"""The transformer called many times for one clip, with everything that does not change between steps done once.

Text and picture embeddings, the keys and values of every cross-attention and the rotary tables depend on the prompt and
the shape only. Patch and time embeddings are shared by the branches of guidance. Equal to the plain forward to the bit.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformerBlock
from torch import Tensor

NUM_TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class KeysValues:
    """What one cross-attention looks at: (B, L, heads, head_dim) each; the picture's own pair, or None."""

    key: Tensor
    value: Tensor
    picture_key: Tensor | None = None
    picture_value: Tensor | None = None


def cross_attend(attention: WanAttention, hidden: Tensor, context: KeysValues) -> Tensor:
    """What `WanAttnProcessor` computes for attn2, its keys and values given."""
    query = attention.norm_q(attention.to_q(hidden)).unflatten(2, (attention.heads, -1))
    output = dispatch_attention_fn(query, context.key, context.value).flatten(2, 3)
    if context.picture_key is not None:
        output = output + dispatch_attention_fn(query, context.picture_key, context.picture_value).flatten(2, 3)
    return attention.to_out[0](output)


def self_attend(attention: WanAttention, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """What `WanAttnProcessor` computes for attn1. rotary: cosines and sines (1, N, 1, head_dim / 2)."""
    query = attention.norm_q(attention.to_q(hidden)).unflatten(2, (attention.heads, -1))
    key = attention.norm_k(attention.to_k(hidden)).unflatten(2, (attention.heads, -1))
    value = attention.to_v(hidden).unflatten(2, (attention.heads, -1))
    query, key = rotate(query, *rotary), rotate(key, *rotary)
    return attention.to_out[0](dispatch_attention_fn(query, key, value).flatten(2, 3))


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of neighbouring dimensions of (B, N, heads, head_dim) by its angle."""
    first, second = states.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2).type_as(states)


def project(attention: WanAttention, text: Tensor, picture: Tensor | None) -> KeysValues:
    """Keys and values of embedded text (B, L, width) and, where the attention has weights for it, picture tokens."""
    heads = (attention.heads, -1)
    key = attention.norm_k(attention.to_k(text)).unflatten(2, heads)
    value = attention.to_v(text).unflatten(2, heads)
    if picture is None or attention.add_k_proj is None:
        return KeysValues(key, value)
    picture_key = attention.norm_added_k(attention.add_k_proj(picture)).unflatten(2, heads)
    return KeysValues(key, value, picture_key, attention.add_v_proj(picture).unflatten(2, heads))


class PlainDenoiser:
    """Calls the transformer's own forward, which carries diffusers' offload, compile and parallel hooks.

    Used on GPUs: there the work saved by `ReusingDenoiser` is 0.2 % of a 14B step and its keys and values are 0.6 GB a
    branch. prompts: (1, L, D) per branch; picture: (1, tokens, D) or None.
    """

    def __init__(self, transformer: WanTransformer3DModel, prompts: list[Tensor], picture: Tensor | None) -> None:
        self.transformer, self.prompts, self.picture = transformer, prompts, picture

    def __call__(self, model_input: Tensor, sigma: float, branch: int) -> Tensor:
        return self._predict(model_input, sigma, self.prompts[branch], self.picture, f"branch {branch}")

    def together(self, model_input: Tensor, sigma: float, branches: Sequence[int]) -> tuple[Tensor, ...]:
        """The predictions of several branches from one pass over a batch: equal but for the rounding of larger sums."""
        batch = len(branches)
        prompts = torch.cat([self.prompts[branch] for branch in branches])
        picture = self.picture.expand(batch, -1, -1) if self.picture is not None else None
        latents = model_input.expand(batch, -1, -1, -1, -1)
        return self._predict(latents, sigma, prompts, picture, "all branches").split(1)

    def _predict(
        self, model_input: Tensor, sigma: float, prompts: Tensor, picture: Tensor | None, context: str
    ) -> Tensor:
        """context: what a cache between steps files this pass under."""
        timestep = torch.full((len(model_input),), NUM_TRAIN_TIMESTEPS * sigma, device=model_input.device)
        caching = self.transformer.cache_context(context) if self.transformer.is_cache_enabled else nullcontext()
        with caching:
            return self.transformer(
                hidden_states=model_input,
                timestep=timestep,
                encoder_hidden_states=prompts,
                encoder_hidden_states_image=picture,
                return_dict=False,
            )[0]


class ReusingDenoiser:
    """The same numbers as `PlainDenoiser` with less work. Lives for one clip: the weights must not change meanwhile.

    The picture's tokens must be absent where the transformer has no weights for them in cross-attention.
    """

    def __init__(self, transformer: WanTransformer3DModel, prompts: list[Tensor], picture: Tensor | None) -> None:
        self.transformer = transformer
        embedder = transformer.condition_embedder
        self.dtype = prompts[0].dtype
        tokens = embedder.image_embedder(picture) if picture is not None else None
        self.contexts = [
            [project(block.attn2, text, tokens) for block in transformer.blocks]
            for text in map(embedder.text_embedder, prompts)
        ]
        self.rotary: tuple[Tensor, Tensor] | None = None
        self.step: tuple[float, Tensor] | None = None
        self.embedded: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, model_input: Tensor, sigma: float, branch: int) -> Tensor:
        hidden, temb, modulation = self._embed(model_input, sigma)
        for block, context in zip(self.transformer.blocks, self.contexts[branch], strict=True):
            hidden = self._run(block, hidden, context, modulation)
        return self._read_out(hidden, temb, model_input.shape)

    def _embed(self, model_input: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Patch tokens, time embedding and its six modulations; kept while a step's branches ask for the same."""
        if self.step is None or self.step[0] != sigma or self.step[1] is not model_input:
            transformer, embedder = self.transformer, self.transformer.condition_embedder
            if self.rotary is None:
                cos, sin = transformer.rope(model_input)
                self.rotary = cos[..., 0::2].contiguous(), sin[..., 1::2].contiguous()
            hidden = transformer.patch_embedding(model_input).flatten(2).transpose(1, 2).contiguous()
            timestep = torch.tensor([NUM_TRAIN_TIMESTEPS * sigma], device=model_input.device, dtype=torch.float32)
            features = embedder.timesteps_proj(timestep).to(embedder.time_embedder.linear_1.weight.dtype)
            temb = embedder.time_embedder(features).to(self.dtype)
            modulation = embedder.time_proj(embedder.act_fn(temb)).unflatten(1, (6, -1))
            self.step, self.embedded = (sigma, model_input), (hidden, temb, modulation)
        return self.embedded

    def _run(self, block: WanTransformerBlock, hidden: Tensor, context: KeysValues, modulation: Tensor) -> Tensor:
        """`WanTransformerBlock.forward` with the attention of this module; the block itself is left as it is."""
        parts = (block.scale_shift_table + modulation.float()).chunk(6, dim=1)
        shift, scale, gate, feed_shift, feed_scale, feed_gate = parts
        normed = (block.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        attended = self_attend(block.attn1, normed, self.rotary)
        hidden = (hidden.float() + attended * gate).type_as(hidden)
        normed = block.norm2(hidden.float()).type_as(hidden)
        hidden = hidden + cross_attend(block.attn2, normed, context)
        normed = (block.norm3(hidden.float()) * (1 + feed_scale) + feed_shift).type_as(hidden)
        return (hidden.float() + block.ffn(normed).float() * feed_gate).type_as(hidden)

    def _read_out(self, hidden: Tensor, temb: Tensor, shape: torch.Size) -> Tensor:
        transformer = self.transformer
        shift, scale = (transformer.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        patches = transformer.proj_out((transformer.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden))
        p_t, p_h, p_w = transformer.config.patch_size
        frames, height, width = shape[2] // p_t, shape[3] // p_h, shape[4] // p_w
        output = patches.reshape(shape[0], frames, height, width, p_t, p_h, p_w, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return output.flatten(6, 7).flatten(4, 5).flatten(2, 3)
