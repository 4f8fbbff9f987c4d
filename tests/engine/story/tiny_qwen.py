"""A Qwen2.5-VL (or another generation) of 120,000 random weights, saved with the files that published ones have.

The classes, the processor, the byte-level tokenizer and the chat template's turns are the real ones; merges are learnt
here, so that random text is made of words and an answer takes few tokens.
"""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2Tokenizer,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
)

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# The turns of Qwen2.5-VL's chat_template.json, without its numbering of pictures.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LIKELIER = 5.0  # logits: prompts then have 50 to 600 characters; at 0 all have 600
TEXT = (
    "a golden dog walks slowly through the quiet street while morning light settles over everything and the camera "
    "follows then clouds gather above distant mountains gentle rain begins to fall on windows umbrellas passing by"
)


VISION = {
    Qwen2VLConfig: {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2},
    Qwen2_5_VLConfig: {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
        "initializer_range": 0.2,
    },
    Qwen3VLConfig: {
        "depth": 1,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 4,
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 64,
    },
}


def build(folder: Path, kind: type[PreTrainedConfig] = Qwen2_5_VLConfig, *, seed: int = 0) -> Path:
    """Save a model of the generation that `kind` configures, its processor and its tokenizer in `folder`."""
    tokenizer = tiny_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    config = kind(
        text_config={
            "vocab_size": len(tokenizer) + 8,  # the published models' is larger than their tokenizer's too
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "initializer_range": 0.2,  # at the usual 0.02 it says the same whatever it is asked
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
        },
        vision_config=VISION[kind],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,  # as in the 3B
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
    likelier(model, tokenizer.convert_tokens_to_ids(['"', "."]))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    pictures = Qwen2VLImageProcessor(patch_size=config.vision_config.patch_size, min_pixels=3136, max_pixels=12_845_056)
    pictures.save_pretrained(folder)
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    preprocessor["processor_class"] = kind.__name__.replace("Config", "Processor")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    return folder


@torch.no_grad()
def likelier(model: PreTrainedModel, ids: list[int]) -> None:
    """Raise the logits of the tokens with which a text ends, so that not every text runs to its bound."""
    embeddings = model.get_input_embeddings().weight  # (vocabulary, hidden), of the output too
    embeddings += 0.5  # a direction that all states of the model share …
    state = model.model(input_ids=torch.arange(len(embeddings))[None]).last_hidden_state.mean((0, 1))
    embeddings[ids] += LIKELIER * state / state.dot(state)  # … and these tokens answer to


def tiny_tokenizer() -> Qwen2Tokenizer:
    """Qwen's kind of tokenizer over all bytes. Most of its tokens are the words of TEXT and pairs of them."""
    words = TEXT.split()
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator([f" {first} {second}" for first in words for second in words], trainer)
    learnt = json.loads(learner.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
    )
