"""The pocket model: a real `WanTransformer3DModel` of a few million parameters, with its codec and text encoder.

The transformer predicts the clean latents (prediction "sample"); the velocity is (noisy − clean) / sigma. Before any
training it is set analytically to repeat latent frame 0 of its condition: the first layer's attention fetches, for
every token, the frame-0 token of the same place, and the last layer reads it out. Training only adds what a prompt
changes. Everything is stored in diffusers and transformers layout under one folder (assets/pocket).
"""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.environment import ensure_torchvision
from engine.errors import WeightsMissing
from engine.models.pocket_codec import COORDINATES, PocketCodec

ensure_torchvision()
from diffusers import WanTransformer3DModel  # noqa: E402
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel  # noqa: E402

PARTS = ("transformer", "codec", "text_encoder", "tokenizer")
MASK_CHANNELS = 4


@dataclass(frozen=True)
class PocketShape:
    """Sizes of the transformer and the text encoder."""

    num_heads: int = 6
    num_layers: int = 4
    ffn_dim: int = 640
    text_dim: int = 96
    text_tokens: int = 20

    head_dim = 32
    freq_dim = 64

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim


class PocketText:
    """Word tokenizer and a one-layer UMT5 encoder. Unknown words share one token; padding is zeroed, as in Wan."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel, num_tokens: int) -> None:
        self.tokenizer, self.encoder, self.num_tokens = tokenizer, encoder, num_tokens

    def __call__(self, prompts: list[str], max_sequence_length: int = 0) -> Tensor:
        """Embeddings (B, L, D) of the prompts, cut or padded to `num_tokens`, whatever length is asked for."""
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.num_tokens, return_tensors="pt"
        ).to(self.encoder.device)
        hidden = self.encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return hidden * tokens.attention_mask[..., None]


@dataclass
class PocketComponents:
    """The pieces of a pocket model on one device."""

    transformer: WanTransformer3DModel
    codec: PocketCodec
    encode_text: PocketText
    prediction: str = "sample"


def load_components(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> PocketComponents:
    """Read a pocket model from `folder`. The codec and the text encoder stay in float32: they are small."""
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise WeightsMissing(
            f"The pocket model in {folder} lacks {', '.join(missing)}.",
            "Restore assets/pocket, or train: python -m engine train assets/presets/train-pocket-base.yaml",
        )
    transformer = WanTransformer3DModel.from_pretrained(
        folder / "transformer", torch_dtype=dtype, local_files_only=True, use_safetensors=True
    )
    encoder = UMT5EncoderModel.from_pretrained(
        folder / "text_encoder", dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer", local_files_only=True)
    text = PocketText(tokenizer, encoder.to(device).eval(), tokenizer.model_max_length)
    codec = PocketCodec.load(folder / "codec").to(device)
    return PocketComponents(transformer.to(device).eval(), codec, text)


def save_components(components: PocketComponents, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write all parts, weights in `dtype`; the codec stays in float32 so that its bases stay orthonormal."""
    components.codec.save(folder / "codec")
    components.encode_text.tokenizer.save_pretrained(folder / "tokenizer")
    for name, model in (("transformer", components.transformer), ("text_encoder", components.encode_text.encoder)):
        copy.deepcopy(model).to(dtype).save_pretrained(folder / name)
    _drop_versions(folder)


def build_text(words: list[str], shape: PocketShape) -> PocketText:
    """A fresh tokenizer that knows `words` (lower case) and an untrained encoder."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<unk>", *sorted(set(words))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " "),
            normalizers.Strip(),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=shape.text_tokens,
    )
    config = UMT5Config(
        vocab_size=len(vocabulary),
        d_model=shape.text_dim,
        d_kv=24,
        d_ff=2 * shape.text_dim,
        num_layers=1,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return PocketText(tokenizer, UMT5EncoderModel(config), shape.text_tokens)


def build_transformer(codec: PocketCodec, shape: PocketShape) -> WanTransformer3DModel:
    """A transformer that repeats latent frame 0 of its condition for any noise and any prompt."""
    transformer = WanTransformer3DModel(**transformer_config(codec.latent_channels, shape))
    _Identity(transformer, codec).initialise()
    return transformer


def transformer_config(channels: int, shape: PocketShape) -> dict[str, object]:
    """Arguments of diffusers' class for latents of so many channels."""
    return {
        "patch_size": (1, 1, 1),
        "num_attention_heads": shape.num_heads,
        "attention_head_dim": shape.head_dim,
        "in_channels": 2 * channels + MASK_CHANNELS,
        "out_channels": channels,
        "text_dim": shape.text_dim,
        "freq_dim": shape.freq_dim,
        "ffn_dim": shape.ffn_dim,
        "num_layers": shape.num_layers,
        "rope_max_seq_len": 256,
    }


def hold_constant(transformer: WanTransformer3DModel, codec: PocketCodec) -> None:
    """Stop gradients to whatever multiplies the constant pair: it is ten times larger than any other input, so one
    optimizer step there would shake every output. Biases learn the same things."""
    width = transformer.proj_out.in_features
    pair = list(_Identity(transformer, codec).pair)

    def hold(parameter: nn.Parameter, *index: object) -> None:
        free = torch.ones_like(parameter)
        free[index] = 0.0
        parameter.register_hook(lambda gradient: gradient * free)

    for block in transformer.blocks:
        for layer in (block.attn1.to_q, block.attn1.to_k, block.attn1.to_v, block.attn2.to_q, block.ffn.net[0].proj):
            hold(layer.weight, slice(None), pair)
        hold(block.scale_shift_table, ..., pair)
        hold(block.norm2.weight, pair)
        hold(block.norm2.bias, pair)
    hold(transformer.proj_out.weight, slice(None), pair)
    hold(transformer.scale_shift_table, ..., pair)
    embedder = transformer.condition_embedder
    for layer, repeats in ((embedder.time_embedder.linear_2, 1), (embedder.time_proj, 6)):
        rows = [width * part + dimension for part in range(repeats) for dimension in pair]
        hold(layer.weight, rows)
        hold(layer.bias, rows)


class _Identity:
    """Writes the analytic starting point into a transformer.

    Residual stream: own condition | fetched frame 0 | first noisy channels | x y t | mask | constant pair | free. The
    constant pair (+CONSTANT, −CONSTANT) is so large that LayerNorm divides by nearly the same number everywhere and its
    mean, read from the pair, can be subtracted exactly. Random features go to the free part only.
    """

    CONSTANT = 40.0
    NOISY = 16  # channels of the noisy latents that the stream holds: the strongest
    PEAK = 30.0  # logit gap per rotary pair that holds attention to one place
    SELECT = 25.0  # logit gap between latent frame 0 and the others
    TILT = 2.0  # logit slope over y of the heads that average the upper and the lower part

    def __init__(self, transformer: WanTransformer3DModel, codec: PocketCodec) -> None:
        self.transformer = transformer
        self.num_heads = transformer.config.num_attention_heads
        self.head_dim = transformer.config.attention_head_dim
        self.width = self.num_heads * self.head_dim
        coded = codec.num_coded
        self.own = range(0, coded)
        self.fetched = range(coded, 2 * coded)
        self.noisy = range(2 * coded, 2 * coded + self.NOISY)
        self.places = range(self.noisy.stop, self.noisy.stop + COORDINATES)
        self.mask = self.places.stop
        self.pair = (self.mask + 1, self.mask + 2)
        self.free = range(self.mask + 3, self.width)
        self.channels = codec.latent_channels
        content = 2 * coded + self.NOISY + 20  # expected square norm of everything but the pair
        self.scale = math.sqrt((2 * self.CONSTANT**2 + content) / self.width)

    @torch.no_grad()
    def initialise(self) -> None:
        self._embed()
        for index, block in enumerate(self.transformer.blocks):
            self._quiet(block)
            if index == 0:
                self._fetch(block.attn1)
            self._average(block.attn1)
            self._normalise(block.attn1)
        self._read_out()

    def _embed(self) -> None:
        conv = self.transformer.patch_embedding
        conv.weight.zero_(), conv.bias.zero_()
        weight = conv.weight.flatten(1)
        condition = self.channels + MASK_CHANNELS
        for channel, row in enumerate(self.own):
            weight[row, condition + channel] = 1.0
        for channel, row in enumerate(self.noisy):
            weight[row, channel] = 0.5
        for channel, row in enumerate(self.places):
            weight[row, condition + len(self.own) + channel] = 2.0
        weight[self.mask, self.channels : condition] = 1.0
        conv.bias[list(self.pair)] = torch.tensor([self.CONSTANT, -self.CONSTANT])
        embedder = self.transformer.condition_embedder
        embedder.time_embedder.linear_2.weight.zero_(), embedder.time_embedder.linear_2.bias.zero_()
        embedder.time_proj.weight.zero_(), embedder.time_proj.bias.zero_()

    def _quiet(self, block: nn.Module) -> None:
        """Residual branches that write random features to the free part and nothing elsewhere."""
        block.scale_shift_table.zero_()
        block.scale_shift_table[:, (2, 5)] = 1.0
        own, text, ffn = block.attn1, block.attn2, block.ffn.net
        for layer, std in ((own.to_q, 0.3), (own.to_k, 0.3), (own.to_v, 0.3), (text.to_q, 0.3), (ffn[0].proj, 0.25)):
            nn.init.normal_(layer.weight, std=std)
            layer.weight[:, list(self.pair)] = 0.0
            layer.bias.zero_()
        for layer, std in ((own.to_out[0], 0.04), (text.to_out[0], 0.3), (ffn[2], 0.03)):
            layer.weight.zero_(), layer.bias.zero_()
            layer.weight[list(self.free)] = std * torch.randn(len(self.free), layer.weight.shape[1])

    def _fetch(self, attention: nn.Module) -> None:
        """The first two heads copy the condition of the frame-0 token of the same place."""
        heads = self._heads()
        amplitude = math.sqrt(self.PEAK * math.sqrt(self.head_dim))
        _, height, width = _rotary_pairs(self.head_dim)
        copied = list(zip(self.own, self.fetched, strict=True))
        half = -(-len(copied) // 2)
        for head, part in zip(heads[:2], (copied[:half], copied[half:]), strict=True):
            attention.to_q.weight[head], attention.to_k.weight[head], attention.to_v.weight[head] = 0.0, 0.0, 0.0
            for pair in (*height[:3], *width[:3]):
                attention.to_q.bias[head[pair]] = attention.to_k.bias[head[pair]] = amplitude
            self._select(attention, head)
            for lane, (source, target) in zip(head, part, strict=False):
                attention.to_v.weight[lane] = self._reads(source)
                attention.to_out[0].weight[:, lane] = 0.0
                attention.to_out[0].weight[target, lane] = 1.0

    def _average(self, attention: nn.Module) -> None:
        """Three heads average frame 0: everywhere, mostly the upper part, mostly the lower part."""
        amplitude = math.sqrt(self.TILT * math.sqrt(self.head_dim))
        _, height, _ = _rotary_pairs(self.head_dim)
        for head, tilt in zip(self._heads()[2:5], (0.0, -1.0, 1.0), strict=True):
            attention.to_q.weight[head], attention.to_k.weight[head] = 0.0, 0.0
            self._select(attention, head)
            attention.to_q.bias[head[height[-1]]] = amplitude
            attention.to_k.weight[head[height[-1]]] = tilt * amplitude / 2.0 * self._reads(self.places[1])

    def _select(self, attention: nn.Module, head: range) -> None:
        """Give latent frame 0 a logit that is `SELECT` higher, through the slowest rotary pairs of time."""
        slow = _rotary_pairs(self.head_dim)[0][-3:]
        amplitude = math.sqrt(self.SELECT * math.sqrt(self.head_dim) / (2 * len(slow)))
        for pair in slow:
            attention.to_q.bias[head[pair]] = amplitude
            attention.to_k.bias[head[pair]] = -amplitude
            attention.to_k.weight[head[pair]] += 2 * amplitude / MASK_CHANNELS * self._reads(self.mask)

    def _normalise(self, attention: nn.Module) -> None:
        """Let the norm over all heads pass the constant part of queries and keys unchanged."""
        for norm, layer in ((attention.norm_q, attention.to_q), (attention.norm_k, attention.to_k)):
            norm.weight.fill_(math.sqrt(layer.bias.square().mean().item() + 0.3))

    def _read_out(self) -> None:
        table, projection = self.transformer.scale_shift_table, self.transformer.proj_out
        table.zero_(), projection.weight.zero_(), projection.bias.zero_()
        for channel, source in enumerate([*self.fetched, *self.places]):
            projection.weight[channel] = self._reads(source) * (0.5 if source in self.places else 1.0)

    def _reads(self, source: int) -> Tensor:
        """Weights (width,) that recover one residual dimension from the output of LayerNorm."""
        weights = torch.zeros(self.width)
        weights[source] = self.scale
        weights[list(self.pair)] = -self.scale / 2
        return weights

    def _heads(self) -> list[range]:
        size = self.head_dim
        return [range(index * size, (index + 1) * size) for index in range(self.num_heads)]


def _rotary_pairs(head_dim: int) -> tuple[list[int], list[int], list[int]]:
    """First dimension of each rotary pair for time, height and width, fastest first (diffusers' WanRotaryPosEmbed)."""
    side = 2 * (head_dim // 6)
    time = head_dim - 2 * side
    return (
        list(range(0, time, 2)),
        list(range(time, time + side, 2)),
        list(range(time + side, head_dim, 2)),
    )


def _drop_versions(folder: Path) -> None:
    """Keep local paths out of the saved configurations."""
    for path in (folder / "transformer" / "config.json", folder / "text_encoder" / "config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")
