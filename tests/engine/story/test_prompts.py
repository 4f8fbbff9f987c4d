import pytest

from engine.errors import InputError
from engine.story.prompts import read_prompts


def write(tmp_path, text):
    path = tmp_path / "prompts.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "# a story\nnight falls\n\n  # more\nfog rolls in\n",
        '["night falls", "fog rolls in"]',
        'prompts = ["night falls", "fog rolls in"]',
        '# upstream\nprompts = [\n  "night falls",\n  # why\n  "fog rolls in",\n]\n',
        "\ufeffnight falls\nfog rolls in",
    ],
)
def test_all_three_forms_read_the_same(tmp_path, text):
    assert read_prompts(write(tmp_path, text)) == ["night falls", "fog rolls in"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only\n",
        "[1, 2]",
        '{"a": 1',
        "[" * 5000,
        "prompts = __import__('os').getcwd()",
        "prompts = [open('x')]",
        "[]",
    ],
)
def test_bad_files_are_refused_and_nothing_runs(tmp_path, text):
    with pytest.raises(InputError):
        read_prompts(write(tmp_path, text if text != '{"a": 1' else "prompts = {"))


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xff\xfe\x00\x80" * 10)
    with pytest.raises(InputError, match="UTF-8"):
        read_prompts(path)
