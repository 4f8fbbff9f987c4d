"""What a plan may say, and what it comes to."""

import re

import pytest

from engine.batch.plan import read_plan
from engine.config import ASSETS, Config
from engine.drafting import difference
from engine.errors import ConfigError, InputError, StudioError

BENCH = """\
defaults: {preset: pocket, seed: 7, tone: drama}
films:
  - {picture: a.png, seconds: 50}
  - {picture: b.png, seconds: 50, task: consistent, keywords: "dog, street"}
  - {name: third, picture: a.png, clips: 3, variant: shot, seed: 8, pace: slow, drafter: template}
"""


def tasks(tmp_path, text, **flags):
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    return read_plan(tmp_path / "plan.yaml", Config(), **flags)


def test_films_have_the_defaults_but_for_what_they_say(tmp_path):
    first, second, third = tasks(tmp_path, BENCH)
    assert [task.name for task in (first, second, third)] == ["a", "b", "third"]
    assert [(task.variant, task.task, task.seed) for task in (first, second, third)] == [
        ("film", "creative", 7),
        ("shot", "consistent", 7),
        ("shot", "creative", 8),
    ]
    assert (third.clips, third.telling.tone, third.telling.pace) == (3, "drama", "slow")
    assert first.picture == tmp_path / "a.png" and second.keywords == "dog, street"


@pytest.mark.parametrize("path", sorted((ASSETS / "bench").glob("plan-*.yaml")), ids=lambda path: path.stem)
def test_the_plans_that_ship_are_the_benchmarks_at_full_size(path):
    films = read_plan(path, Config(), preset="svi-1", random_weights=True)
    assert {film.task for film in films} == {path.stem.removeprefix("plan-")}
    assert {film.clips for film in films} == {10, 50}
    assert all(film.picture.is_file() for film in films)
    assert read_plan(path, Config())


@pytest.mark.parametrize(
    ("task", "seconds", "clips", "length_s"),
    [("creative", 50, 10, 47.8125), ("creative", 250, 50, 237.8125), ("consistent", 50, 10, 50.0625)],
)
def test_the_benchmarks_lengths_are_the_papers_clips(tmp_path, preset, task, seconds, clips, length_s):
    """81 frames at 16 fps; a Film hands over five frames and is shorter by them, a Shot one."""
    (tmp_path / "wan.yaml").write_text("title: T\nfamily: wan\nmodel: weights\n")
    text = f"films: [{{preset: wan.yaml, picture: a.png, task: {task}, seconds: {seconds}}}]"
    (film,) = tasks(tmp_path, text)
    assert film.clips == clips
    assert film.timeline.seconds(film.timeline.total(clips)) == length_s
    assert film.num_prompts == (clips if task == "creative" else 1)


def test_a_method_with_two_clips_a_prompt_is_drafted_half_as_many(tmp_path):
    (tmp_path / "two.yaml").write_text("title: T\nfamily: wan\nmodel: w\nvariants: {film: {method: svi-2.0}}\n")
    (film,) = tasks(tmp_path, "films: [{preset: two.yaml, picture: a.png, clips: 7}]")
    assert film.num_prompts == 4


def test_the_plan_in_the_readme_is_valid(tmp_path, picture, preset):
    (tmp_path / "photos").mkdir()
    picture.rename(tmp_path / "photos" / "hill.png")
    readme = (ASSETS.parent / "README.md").read_text(encoding="utf-8")
    text = re.search(r"```yml\n(.*?)```", readme, re.S).group(1)
    films = tasks(tmp_path, text, preset=str(tmp_path / "tiny.yaml"))
    assert [film.name for film in films] == ["photo", "hill", "mine", "lighthouse"]


def test_a_films_own_length_and_a_flag_take_precedence(tmp_path, preset):
    text = "defaults: {seconds: 50}\nfilms: [{picture: a.png, clips: 3}]"
    (film,) = tasks(tmp_path, text, preset=str(tmp_path / "tiny.yaml"))
    assert (film.clips, film.preset.name) == (3, "tiny")


@pytest.mark.parametrize(
    ("entry", "task", "clips"),
    [
        ("prompts: p.txt", "creative", 15),
        ("prompts: p.txt, seconds: 25", "creative", 5),
        ("prompts: p.txt, clips: 3", "creative", 3),
        ("prompts: one.txt", "consistent", 10),  # one prompt says nothing of the length
    ],
)
def test_a_file_of_prompts_is_a_length_unless_the_same_entry_says_another(tmp_path, preset, entry, task, clips):
    (tmp_path / "wan.yaml").write_text("title: T\nfamily: wan\nmodel: weights\n")
    (tmp_path / "p.txt").write_text("\n".join(f"prompt {number}" for number in range(15)))
    (tmp_path / "one.txt").write_text("night\n")
    text = f"defaults: {{preset: wan.yaml, seconds: 50, task: {task}}}\nfilms: [{{picture: a.png, {entry}}}]"
    (film,) = tasks(tmp_path, text)
    assert film.num_clips(film.storyline()) == clips


def test_films_are_called_by_all_of_their_keywords_and_numbered(tmp_path):
    keywords = ("St. Moritz", "cats/dogs", "cats, dogs", "Cats dogs!", "日本", "日", "x" * 70, "x" * 80)
    text = "films: [{name: cats-dogs-3, picture: a.png, clips: 1}"
    text += "".join(f', {{keywords: "{words}", clips: 1}}' for words in keywords) + "]"
    names = [task.name for task in tasks(tmp_path, text)][1:]
    assert names[:4] == ["st-moritz", "cats-dogs", "cats-dogs-2", "cats-dogs-4"]
    assert all(name.startswith("film-") for name in names[4:6]) and names[4] != names[5]
    assert names[6:] == ["x" * 60, f"{'x' * 55}-2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("films: []", "films"),
        ("films: 3", "films"),
        ("{}", "films"),
        ("films: [{picture: a.png, clips: 3, colour: red}]", "Unknown key “films.0.colour”"),
        ("defaults: {step: 3}\nfilms: [{picture: a.png, clips: 3}]", "Did you mean “steps”"),
        ("films: [{picture: a.png}]", "Film 1 in plan.yaml has no length"),
        ("films: [{clips: 3}]", "Film 1 in plan.yaml has no picture"),
        ("films: [{picture: a.png, clips: 3, seconds: 50}]", "either seconds or clips"),
        ("films: [{picture: a.png, pictures: b, clips: 3}]", "either picture or pictures"),
        ("films: [{pictures: b, name: x, clips: 3}]", "leave name out"),
        ("films: [{picture: a.png, clips: 0}]", "clips"),
        ("films: [{picture: a.png, seconds: -1}]", "seconds"),
        ("films: [{picture: a.png, seconds: .inf}]", "seconds"),
        ("films: [{picture: a.png, seconds: .nan}]", "seconds"),
        ("films: [{picture: a.png, seconds: 9999}]", "number of clips"),
        ("films: [{picture: a.png, clips: 3, name: ../x}]", "name"),
        ("films: [{picture: a.png, clips: 3, language: xx}]", "language"),
        ('films: [{picture: "a\\0.png", clips: 3}]', "“films.0.picture” in plan.yaml is wrong: a path has letters"),
        ('films: [{picture: a.png, prompts: "p\\0.txt"}]', "“films.0.prompts” in plan.yaml is wrong: a path has"),
        ('films: [{pictures: "\\uD800", clips: 3}]', "“films.0.pictures” in plan.yaml is wrong: a path has letters"),
        ('films: [{picture: a.png, preset: "\\0.yaml", clips: 3}]', "preset” in plan.yaml is wrong: a path has"),
        ("films: [{picture: a.png, clips: 3, variant: dance}]", "variant"),
        ("films: [{picture: a.png, clips: 3, draft: true}]", "no draft quality"),
        ("films: [{picture: a.png, clips: 3, preset: nothing}]", "no preset “nothing”"),
        ("films: [{picture: a.png, clips: 3}, {picture: b/A.jpg, clips: 3}]", "More than one film would be called a"),
        ("films: [{pictures: nowhere, clips: 3}]", "nowhere"),
        ("films: [{picture: a.png, clips: 3, keywords: " + "k" * 501 + "}]", "keywords"),
    ],
)
def test_a_wrong_plan_is_refused_and_what_is_wrong_is_named(tmp_path, text, words):
    with pytest.raises((ConfigError, InputError)) as refused:
        tasks(tmp_path, text)
    assert words in str(refused.value)


def test_a_consistent_film_has_one_prompt(tmp_path, picture):
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    (film,) = tasks(tmp_path, "films: [{picture: picture.png, task: consistent, clips: 3, prompts: two.txt}]")
    with pytest.raises(StudioError, match="holds 2 prompts; a consistent film has one"):
        film.storyline()


def test_a_record_changes_with_all_that_makes_another_film(tmp_path, picture, preset):
    def record(**changes):
        said = {"picture": "picture.png", "clips": 3, "preset": "tiny.yaml"} | changes
        (film,) = tasks(tmp_path, "films: [{" + ", ".join(f"{key}: {value}" for key, value in said.items()) + "}]")
        return film.record(film.storyline())

    (tmp_path / "p.txt").write_text("one\n")
    before = record()
    changes = {
        "clips": 4, "seed": 1, "steps": 3, "task": "consistent", "variant": "shot", "keywords": "dog", "pace": "slow",
        "drafter": "template", "prompts": "p.txt", "preset": "pocket",
    }  # fmt: skip
    for key, value in changes.items():
        assert record(**{key: value}) != before, key
    assert difference(before, record(clips=4)) == "“clips” was 3 and is 4"
    other = tmp_path / "other"
    other.mkdir()
    (other / "picture.png").write_bytes(picture.read_bytes())
    assert record(picture="other/picture.png") == before, "the same picture elsewhere is the same film"
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert difference(before, record()) == "“picture” is another"
