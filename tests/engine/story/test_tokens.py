import json

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import T5Tokenizer

from engine.config import load_preset
from engine.models.untrained import build_tokenizer
from engine.models.wan import clean, read_tokenizer
from engine.pocket import model
from engine.story.tokens import cleaned, token_counter, token_limit

PROMPTS = [
    "",
    "Night falls over the harbour.",
    "A small brown dog &amp; a cat  walk\tpast the “café” — in the rain…",
    "l&amp;#39;heure bleue ﬁnit",
    "夜が港に訪れる。 犬が歩く。",
    "Собака идёт по улице 🐕 </s> <pad>",
    "âœ” schÃ¶n",
    "dog " * 700,
]

EVERYTHING = "pan left, fog, winter, rain, snow, twinkling lights, tilt up, autumn, zoom in, " * 4


def umt5_like():
    """A tokenizer with the parts of UMT5's: normaliser, Metaspace, a piece for common words, a closing token."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("▁", -2.0), ("▁dog", -1.0), ("▁the", -1.0)]
    pieces += [(character, -4.0) for character in "abcdefghijklmnopqrstuvwxyz0123456789.,'-犬夜"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    backend.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return backend


def wan_preset(folder, *, extra=""):
    (folder / "wan.yaml").write_text(f"title: Wan\nfamily: wan\nmodel: weights\n{extra}")
    return load_preset(str(folder / "wan.yaml"))


def save(kind, folder):
    folder.mkdir(parents=True)
    if kind == "T5Tokenizer":
        vocabulary = json.loads(umt5_like().to_str())["model"]["vocab"]
        T5Tokenizer(vocab=[tuple(piece) for piece in vocabulary], extra_ids=0).save_pretrained(folder)
    elif kind == "plain":
        umt5_like().save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"})
        )
    else:
        build_tokenizer().save_pretrained(folder)


@pytest.mark.parametrize("kind", ["plain", "T5Tokenizer", "untrained"])
@pytest.mark.parametrize("place", ["tokenizer", "google/umt5-xxl"])
def test_it_counts_what_the_text_encoder_of_wan_gets(tmp_path, kind, place):
    save(kind, tmp_path / "weights" / place)
    preset = wan_preset(tmp_path)
    count, real = token_counter(preset), read_tokenizer(tmp_path / "weights" / place)
    for prompt in PROMPTS:
        assert count(prompt) == len(real(clean(prompt)).input_ids), prompt
    used = real([clean(PROMPTS[-1])], padding="max_length", max_length=512, truncation=True).attention_mask[0]
    assert count(PROMPTS[-1]) > sum(used) == token_limit(preset) == 512


def test_it_counts_what_the_text_encoder_of_the_pocket_gets(tmp_path):
    text = model.build_text(model.PocketShape())
    text.tokenizer.save_pretrained(tmp_path / "weights" / "tokenizer")
    (tmp_path / "pocket.yaml").write_text("title: Pocket\nfamily: pocket\nmodel: weights\n")
    preset = load_preset(str(tmp_path / "pocket.yaml"))
    count, room = token_counter(preset), token_limit(preset)
    assert room == model.PocketShape().text_tokens
    for prompt in [
        *PROMPTS,
        EVERYTHING,
    ]:
        used = (text([prompt])[0].abs().sum(-1) > 0).sum().item()
        assert min(count(prompt), room) == used, prompt
    assert count("The unicorn ponders, night falls a little.") == 2


def test_cleaning_is_that_of_the_text_encoder():
    assert [cleaned(prompt) for prompt in PROMPTS] == [clean(prompt) for prompt in PROMPTS]


def test_a_preset_may_name_its_own_tokenizer_and_length(tmp_path):
    save("plain", tmp_path / "elsewhere")
    preset = wan_preset(tmp_path, extra="components: {tokenizer: elsewhere}\nmax_sequence_length: 226\n")
    assert token_counter(preset)("the dog") == 3 and token_limit(preset) == 226


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"model": {"type": "Unigram"}}', "\x00" * 50])
def test_without_a_readable_file_there_is_no_counter(tmp_path, content):
    if content is not None:
        (tmp_path / "weights" / "tokenizer").mkdir(parents=True)
        (tmp_path / "weights" / "tokenizer" / "tokenizer.json").write_text(content)
    assert token_counter(wan_preset(tmp_path)) is None


def test_a_replaced_file_is_read_again(tmp_path):
    save("plain", tmp_path / "weights" / "tokenizer")
    preset, path = wan_preset(tmp_path), tmp_path / "weights" / "tokenizer" / "tokenizer.json"
    assert token_counter(preset)("the dog") == 3
    build_tokenizer().backend_tokenizer.save(str(path))
    assert token_counter(preset)("the dog") == len(build_tokenizer()("the dog").input_ids) > 3
