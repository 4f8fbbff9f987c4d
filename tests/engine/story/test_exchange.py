"""Storylines as files: every format, both ways, and what strangers put into them."""

import json
import random
from pathlib import Path

import pytest

from engine import film
from engine.domain import Beat, Storyline
from engine.errors import InputError
from engine.story import exchange
from engine.story.exchange import WrittenClip, WrittenStoryline, read, read_file, write, written

PROMPTS = ("night falls", "fog rolls in")


def file(tmp_path, text, name="prompts.txt"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "# a story\nnight falls\n\n  # more\nfog rolls in\n"),
        ("p.txt", '["night falls", "fog rolls in"]'),
        ("p.json", '{"clips": [{"prompt": "night falls"}, {"prompt": "fog  rolls in", "caption": ""}]}'),
        ("pasted", '{"idea": "", "clips": [{"prompt": "night falls"}, {"prompt": "fog rolls in"}]}'),
        ("p.txt", 'prompts = ["night falls", "fog rolls in"]'),
        ("p.txt", '# upstream\nprompts = [\n  "night "\n  \'falls\',\n  # why\n  """fog\nrolls in""",\n]\n'),
        ("p.py", 'prompts = ["night falls", "fog rolls in"]\r\n'),
        ("p.txt", "\ufeffnight falls\r\nfog rolls in"),
        ("p.md", "Here it is:\n\n1. night\n   falls\n\n2. fog rolls in\n"),
        ("p.md", "- night falls\n- fog rolls in"),
        ("pasted", "1. night falls\n2) fog rolls in"),
    ],
)
def test_all_forms_read_the_same(tmp_path, name, text):
    assert read_file(file(tmp_path, text, name)).prompts == PROMPTS
    assert read(text, name).prompts == PROMPTS


def test_a_text_file_keeps_its_numbers():
    assert read("1. night falls\n2. fog", "p.txt").prompts == ("1. night falls", "2. fog")


def test_captions_and_the_idea_of_a_markdown_list_are_read():
    story = read("# dog, street\n\n1. A dog wakes.\n   > Ein Hund\n   > erwacht.\n2. It runs.\n", "p.md")
    assert story.idea == "dog, street"
    assert [(clip.prompt, clip.caption) for clip in story.clips] == [
        ("A dog wakes.", "Ein Hund erwacht."),
        ("It runs.", ""),
    ]


def random_text(generator, longest=60):
    letters = "abc XYZ ,.;:!?\"'\\#[]{}()<>=-*_`1234äß日本語א🌙"
    return "".join(generator.choice(letters) for _ in range(generator.randint(1, longest)))


def random_story(generator) -> WrittenStoryline:
    def text():
        return f"{random_text(generator)}x"

    clips = [
        WrittenClip(
            prompt=text(),
            caption=text() if generator.random() < 0.5 else "",
            negative_prompt=generator.choice([None, "", text()]),
        )
        for _ in range(generator.randint(1, 12))
    ]
    return WrittenStoryline(idea=generator.choice(["", "a, b\nc"]), source="qwen", clips=tuple(clips))


@pytest.mark.parametrize("seed", range(40))
def test_what_a_format_can_hold_comes_back_exactly(seed):
    story = random_story(random.Random(seed))
    assert read(write(story, "json"), "story.json") == story
    assert read(write(story, "json"), "pasted") == story
    assert read(write(story, "upstream"), "story.py").prompts == story.prompts
    assert read(write(story, "upstream"), "prompt.txt").prompts == story.prompts
    markdown = read(write(story, "markdown"), "story.md")
    assert markdown.storyline.beats == story.storyline.beats and markdown.idea == " ".join(story.idea.split())
    try:
        assert read(write(story, "txt"), "story.txt").prompts == story.prompts
    except InputError:
        assert any(prompt[0] in "#[" for prompt in story.prompts)


def test_upstreams_own_reader_gets_the_same_prompts():
    story = random_story(random.Random(7))
    names: dict = {}
    exec(write(story, "upstream"), names)  # as upstream reads it; ours never does
    assert tuple(names["prompts"]) == story.prompts


@pytest.mark.parametrize("prompt", ["# a comment", "prompts = 3", '["a list"]'])
def test_a_prompt_that_a_text_file_cannot_hold_is_refused(prompt):
    story = Storyline(beats=(Beat(prompt=prompt),), source="user")
    with pytest.raises(InputError, match="Choose JSON"):
        write(story, "txt")
    assert read(write(story, "json"), "p.json").prompts == (prompt,)


def test_a_project_is_written_with_its_captions_and_negative_prompts(tmp_path, picture, preset):
    store = film.create(tmp_path / "film", picture, preset, prompts=["night falls"], idea="dog")
    clip = store.load().clips[0].model_copy(update={"caption": "Es wird Nacht.", "negative_prompt": "people"})
    project = store.load().model_copy(update={"clips": (clip,)})
    story = read(write(project, "json"), "film.json")
    assert story == written(project)
    assert (story.clips[0].caption, story.negative_prompts) == ("Es wird Nacht.", ("people",))
    assert (story.idea, story.source) == ("dog", "user")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", ""),
        ("p.txt", "# only\n"),
        ("p.txt", "[1, 2]"),
        ("p.txt", "[]"),
        ("p.txt", "[" * 5000 + "]"),
        ("p.json", "[" * 200_000 + "]" * 200_000),
        ("p.json", '{"clips":' * 50_000 + "1" + "}" * 50_000),
        ("p.json", '{"a": 1'),
        ("p.json", "3"),
        ("p.json", "1" * 10_000),
        ("p.json", "{}"),
        ("p.json", '{"clips": {}}'),
        ("p.json", '{"clips": []}'),
        ("p.json", '{"clips": ["night"]}'),
        ("p.json", '{"clips": [null]}'),
        ("p.json", '{"clips": [{"prompt": 3}]}'),
        ("p.json", '{"clips": [{"prompt": ["night"]}]}'),
        ("p.json", '{"clips": [{"prompt": "night", "seed": 3}]}'),
        ("p.json", '{"clips": [{"prompt": " \\u0000 "}]}'),
        ("p.json", '{"clips": [{"prompt": "night"}], "idea": 3}'),
        ("p.json", '{"clips": [{"prompt": "night"}], "source": "elsewhere"}'),
        ("p.json", json.dumps({"clips": [{"prompt": "night"}], "idea": "x" * 2001})),
        ("p.json", json.dumps({"clips": [{"prompt": "night", "caption": "x" * 1001}]})),
        ("p.json", json.dumps({"clips": [{"prompt": "night", "negative_prompt": "x" * 2001}]})),
        ("p.txt", "x" * 1001),
        ("p.txt", "night\n" * 10_000),
        ("p.txt", 'prompts = ["a"' + ', "a"' * 2000 + "]"),
        ("p.md", "- a\n" * 1001),
        ("p.txt", "x" * 8_000_001),
        ("p.txt", "prompts = __import__('os').getcwd()"),
        ("p.txt", "prompts = [open('x')]"),
        ("p.txt", "prompts = ['a']; open('x')"),
        ("p.txt", "prompts = ['a'] + ['b']"),
        ("p.txt", "prompts = ['a', ['b']]"),
        ("p.txt", "prompts = [f'{1}']"),
        ("p.txt", "prompts = [b'a']"),
        ("p.txt", "prompts = ['a',, 'b']"),
        ("p.txt", "prompts = ['a'"),
        ("p.txt", "prompts = ['a\n]"),
        ("p.txt", "prompts = {"),
        ("p.txt", "prompts = [" + "-" * 100_000 + "1]"),
        ("p.txt", "prompts = " + "[" * 100_000),
        ("p.py", "night falls"),
        ("p.md", "Once upon a time there was a dog."),
        ("p.md", "# A title\n\n> a quotation\n"),
        ("p.md", "1. night falls\n\nAnd then something else.\n"),
        ("p.md", "1.\n2. fog"),
    ],
)
def test_bad_files_are_refused_in_one_sentence_and_nothing_runs(name, text):
    with pytest.raises(InputError) as refused:
        read(text, name)
    assert len(str(refused.value)) < 300 and "\n" not in str(refused.value)


def test_what_is_wrong_is_named_with_its_clip():
    with pytest.raises(InputError, match=r"Clip 2 in p\.json.*“caption”"):
        read('{"clips": [{"prompt": "a"}, {"prompt": "b", "caption": 3}]}', "p.json")


def test_controls_and_direction_marks_do_not_get_in():
    clip = {"prompt": "a\u202eb\x1b[2Jc", "caption": "d\u2066e", "negative_prompt": "f\x00g\ud800"}
    story = read(json.dumps({"idea": "h\x07i", "clips": [clip]}), "p.json")
    assert (story.prompts, story.idea) == (("a b [2Jc",), "h i")
    assert (story.clips[0].caption, story.negative_prompts) == ("d e", ("f g ",))
    assert write(story, "json").encode("utf-8")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x80" * 10, "night".encode("utf-16"), b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_text_is_refused(tmp_path, content):
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(InputError, match="UTF-8"):
        read_file(tmp_path / "x.txt")


def test_a_large_or_missing_file_and_an_unknown_suffix_are_refused(tmp_path):
    with (tmp_path / "large.txt").open("wb") as stream:
        stream.truncate(exchange.MAX_STORYBOARD_BYTES + 1)
    for name, words in (("large.txt", "too large"), ("missing.txt", "no prompt file"), (".", "could not be read")):
        with pytest.raises(InputError, match=words):
            read_file(tmp_path / name)
    with pytest.raises(InputError, match="no known suffix"):
        exchange.format_for(Path("story.docx"))
