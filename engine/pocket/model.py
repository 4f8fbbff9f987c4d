"""The pocket model: a real `WanTransformer3DModel` of a few million parameters, with its text encoder.

The transformer predicts the clean latents (prediction "sample"); the velocity is (noisy − clean) / sigma. Latents are
fields of motion and light (`layout`), so it has no weights for pixels at all. Everything is stored in diffusers and
transformers layout under one folder (assets/pocket).
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.environment import ensure_torchvision
from engine.errors import WeightsMismatch, WeightsMissing
from engine.pocket import asked
from engine.pocket.codec import FieldCodec
from engine.pocket.layout import CHANNELS
from engine.pocket.reading import wish_of

ensure_torchvision()
from diffusers import WanTransformer3DModel  # noqa: E402
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel  # noqa: E402

PARTS = ("transformer", "text_encoder", "tokenizer")
MASK_CHANNELS = 4
SPECIAL = ("<pad>", "</s>", "<unk>")


@dataclass(frozen=True)
class PocketShape:
    """Sizes of the transformer and the text encoder."""

    num_heads: int = 6
    num_layers: int = 4
    ffn_dim: int = 640
    text_dim: int = 96
    text_layers: int = 2
    text_tokens: int = 16

    head_dim = 32
    freq_dim = 64

    @property
    def width(self) -> int:
        return self.num_heads * self.head_dim


class PocketText:
    """What a prompt asks for (see `asked`) through a small UMT5 encoder. Padding is zeroed, as in Wan."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, encoder: UMT5EncoderModel, num_tokens: int) -> None:
        self.tokenizer, self.encoder, self.num_tokens = tokenizer, encoder, num_tokens

    def __call__(self, prompts: list[str], max_sequence_length: int = 0) -> Tensor:
        """Embeddings (B, L, D) of the prompts, cut or padded to `num_tokens`, whatever length is asked for."""
        heard = [" ".join(wish_of(prompt).tokens) for prompt in prompts]
        tokens = self.tokenizer(
            heard, padding="max_length", truncation=True, max_length=self.num_tokens, return_tensors="pt"
        ).to(self.encoder.device)
        hidden = self.encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return hidden * tokens.attention_mask[..., None]


@dataclass
class PocketComponents:
    """The pieces of a pocket model on one device."""

    transformer: WanTransformer3DModel
    codec: FieldCodec
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
    _check_fits(transformer, tokenizer)
    text = PocketText(tokenizer, encoder.to(device).eval(), tokenizer.model_max_length)
    return PocketComponents(transformer.to(device).eval(), FieldCodec(), text)


def _check_fits(transformer: WanTransformer3DModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise unless the weights have the layout and the words of this version."""
    channels = transformer.config.in_channels == 2 * CHANNELS + MASK_CHANNELS
    if not channels or len(tokenizer) != len(SPECIAL) + len(asked.TOKENS):
        raise WeightsMismatch(
            "The pocket model's weights were made for another version of the studio.",
            "Restore assets/pocket, or train: python -m engine train assets/presets/train-pocket-base.yaml",
        )


def save_components(components: PocketComponents, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write all parts, weights in `dtype`."""
    components.encode_text.tokenizer.save_pretrained(folder / "tokenizer")
    for name, model in (("transformer", components.transformer), ("text_encoder", components.encode_text.encoder)):
        copy.deepcopy(model).to(dtype).save_pretrained(folder / name)
    _drop_versions(folder)


def build_text(shape: PocketShape) -> PocketText:
    """A fresh tokenizer of what can be asked for and an untrained encoder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokens = [*SPECIAL, *asked.TOKENS]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
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
        num_layers=shape.text_layers,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=32,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    return PocketText(tokenizer, UMT5EncoderModel(config), shape.text_tokens)


def build_transformer(shape: PocketShape) -> WanTransformer3DModel:
    """A transformer that says "nothing changes" whatever it is asked: its last layer is zero."""
    transformer = WanTransformer3DModel(**transformer_config(shape))
    with torch.no_grad():
        for block in transformer.blocks:
            block.scale_shift_table[:, (2, 5)] = 1.0  # gates of attention and feed-forward: open from the start
        nn.init.zeros_(transformer.proj_out.weight), nn.init.zeros_(transformer.proj_out.bias)
    return transformer


def transformer_config(shape: PocketShape) -> dict[str, object]:
    """Arguments of diffusers' class."""
    return {
        "patch_size": (1, 1, 1),
        "num_attention_heads": shape.num_heads,
        "attention_head_dim": shape.head_dim,
        "in_channels": 2 * CHANNELS + MASK_CHANNELS,
        "out_channels": CHANNELS,
        "text_dim": shape.text_dim,
        "freq_dim": shape.freq_dim,
        "ffn_dim": shape.ffn_dim,
        "num_layers": shape.num_layers,
        "rope_max_seq_len": 256,
    }


def _drop_versions(folder: Path) -> None:
    """Keep local paths out of the saved configurations."""
    for path in (folder / "transformer" / "config.json", folder / "text_encoder" / "config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")
