import pytest

from engine import storyboard
from engine.domain import Beat, Clip, Inputs, Project, Resolution, Storyline, Telling
from engine.errors import InputError
from engine.variants import FILM, SHOT, SVI_2


@pytest.fixture
def project():
    inputs = Inputs(image="anchor.png", image_sha256="0" * 64)
    empty = Project(
        preset="tiny", resolution=Resolution(64, 48), num_inference_steps=2, guidance_scale=1, inputs=inputs
    )
    return storyboard.append(empty, ["one", "two", "three"])


def prompts(project):
    return [clip.prompt for clip in project.clips]


def test_edits_do_what_they_say(project):
    first, second, third = (clip.id for clip in project.clips)
    assert prompts(storyboard.insert(project, "new", after=first)) == ["one", "new", "two", "three"]
    assert prompts(storyboard.insert(project, "new", after=None)) == ["new", "one", "two", "three"]
    assert prompts(storyboard.duplicate(project, second)) == ["one", "two", "two", "three"]
    assert prompts(storyboard.move(project, third, 0)) == ["three", "one", "two"]
    assert prompts(storyboard.delete(project, second)) == ["one", "three"]
    assert prompts(storyboard.set_prompt(project, second, " TWO ")) == ["one", "TWO", "three"]


def test_the_project_before_an_edit_is_untouched(project):
    storyboard.delete(project, project.clips[0].id)
    assert prompts(project) == ["one", "two", "three"]


def test_a_clip_that_is_gone_is_said_to_be_gone(project):
    with pytest.raises(InputError, match="not in the storyboard"):
        storyboard.delete(project, "z" * 26)


def test_regenerating_only_one_clip_pins_the_later_ones(project):
    shown = {clip.id: f"{index:064x}" for index, clip in enumerate(project.clips)}
    changed = storyboard.regenerate(project, project.clips[0].id, seed=7, shown=shown, scope="only_this")
    assert [clip.pinned_take for clip in changed.clips] == [
        None,
        shown[changed.clips[1].id],
        shown[changed.clips[2].id],
    ]
    assert changed.clips[0].seed == 7
    again = storyboard.regenerate(changed, project.clips[0].id, seed=8, shown=shown, scope="this_and_after")
    assert [clip.pinned_take for clip in again.clips] == [None] * 3


def test_a_redraft_keeps_the_identity_of_slots(project):
    redrafted = storyboard.accept_storyline(
        project, Storyline(beats=(Beat(prompt="one"), Beat(prompt="other")), source="template")
    )
    assert [clip.id for clip in redrafted.clips] == [clip.id for clip in project.clips[:2]]


def test_a_duplicate_says_all_that_the_clip_says_and_has_takes_of_its_own(project):
    story = Storyline(beats=(Beat(prompt="one", caption="eins"),), source="user")
    project = storyboard.accept_storyline(project, story, ["people"])
    clip = project.clips[0].model_copy(update={"draft": True, "seed": 7, "pinned_take": "0" * 64})
    _, again = storyboard.duplicate(storyboard.with_clips(project, [clip]), clip.id).clips
    assert (again.prompt, again.caption, again.negative_prompt, again.draft) == ("one", "eins", "people", True)
    assert (again.seed, again.pinned_take) == (None, None) and again.id != clip.id


@pytest.mark.parametrize(("prompt", "caption"), [("other", ""), ("one", "eins"), (None, "eins")])
def test_another_take_of_another_prompt_loses_the_caption_of_the_old_one(project, prompt, caption):
    story = Storyline(beats=(Beat(prompt="one", caption="eins"),), source="user")
    project = storyboard.accept_storyline(project, story)
    again = storyboard.regenerate(
        project, project.clips[0].id, seed=7, shown={}, scope="this_and_after", prompt=prompt
    ).clips[0]
    assert (again.prompt, again.caption, again.seed) == (prompt or "one", caption, 7)


# ---- more clips


@pytest.mark.parametrize(
    ("row", "have", "count", "beats", "after"),
    [
        (FILM, "", 3, 3, "123"),
        (FILM, "ab", 2, 2, "ab12"),
        (SVI_2, "", 5, 3, "11223"),
        (SVI_2, "aabb", 3, 2, "aabb112"),
        (SVI_2, "aab", 1, 0, "aabb"),
        (SVI_2, "aab", 4, 2, "aabb112"),
        (SVI_2, "aaxbb", 2, 1, "aaxbb11"),  # a clip was put in: the pairs after it are none the less whole
        (SHOT, "", 3, 1, "111"),
        (SHOT, "aa", 2, 0, "aaaa"),
    ],
)
def test_each_beat_has_as_many_clips_as_the_method_wants(project, row, have, count, beats, after):
    film = storyboard.append(storyboard.with_clips(project, []), have)
    assert storyboard.beats_needed(film, count, row) == beats
    coming = [Beat(prompt=str(number + 1), caption=f"{number}") for number in range(beats)]
    assert "".join(prompts(storyboard.continue_with(film, coming, count, row))) == after
    one_by_one = film
    for batch in [[], *([beat] for beat in coming)]:
        left = len(have) + count - len(one_by_one.clips)
        one_by_one = storyboard.continue_with(one_by_one, batch, left, row)
    assert "".join(prompts(one_by_one)) == after


def test_the_second_clip_of_a_prompt_says_all_that_the_first_does(project):
    clip = Clip(prompt="a", caption="eins", negative_prompt="rain", seed=7, draft=True)
    first, second = storyboard.continue_with(storyboard.with_clips(project, [clip]), [], 1, SVI_2).clips
    assert second == Clip(id=second.id, prompt="a", caption="eins", negative_prompt="rain") and second.id != first.id


def test_captions_keep_the_language_that_they_are_in(project):
    german = project.model_copy(update={"telling": Telling(language="de")})
    beats = [Beat(prompt="One. Two.", caption="Eins. Zwei."), Beat(prompt="b")]
    film = storyboard.continue_with(storyboard.with_clips(german, []), beats, 2, FILM)
    assert [clip.caption_language for clip in film.clips] == ["de", ""]
    assert [clip.caption_language for clip in storyboard.split(film, film.clips[0].id).clips] == ["de", "de", ""]
    other = Storyline(beats=(Beat(prompt="c", caption="trois"),), source="user")  # who knows in which language
    assert storyboard.accept_storyline(film, other).clips[0].caption_language == ""


def test_prompts_that_several_clips_have_are_told_once(project):
    film = storyboard.append(storyboard.with_clips(project, []), "aabba")
    assert storyboard.prompts_so_far(film) == ("a", "b", "a")


@pytest.mark.parametrize("count", [0, -1, 10**6, 1.5, True])
def test_impossible_counts_are_refused(count):
    from engine.domain import check_num_clips

    with pytest.raises(InputError, match="1 to 1,000"):
        check_num_clips(count)


def test_an_imported_storyline_brings_its_negative_prompts(project):
    project = storyboard.set_negative_prompt(project, project.clips[0].id, "people")
    story = Storyline(beats=(Beat(prompt="a"), Beat(prompt="b"), Beat(prompt="c"), Beat(prompt="d")), source="user")
    drafted = storyboard.accept_storyline(project, story)
    assert [clip.negative_prompt for clip in drafted.clips] == ["people", None, None, None]
    imported = storyboard.accept_storyline(project, story, (None, "rain", "", "snow"))
    assert [clip.negative_prompt for clip in imported.clips] == [None, "rain", "", "snow"]


# ---- merge and split


def with_clip(project, prompt, **of_it):
    return storyboard.with_clips(project, [Clip(prompt=prompt, **of_it), *project.clips])


def said(project):
    return [(clip.prompt, clip.caption) for clip in project.clips]


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ("A dog sleeps", "it wakes", "A dog sleeps. It wakes"),
        ("A dog sleeps.", "It wakes.", "A dog sleeps. It wakes."),
        ("A dog sleeps,", "it wakes", "A dog sleeps. It wakes"),
        ("“Wake up!”", "the dog hears", "“Wake up!” The dog hears"),
        ("犬が眠る", "犬が起きる。", "犬が眠る。犬が起きる。"),
        ("犬が眠る。", "犬が起きる。", "犬が眠る。犬が起きる。"),
    ],
)
def test_merged_clips_say_both_as_sentences(project, first, second, both):
    before = with_clip(with_clip(project, second), first, seed=7)
    after = storyboard.merge(before, before.clips[0].id)
    assert prompts(after) == [both, "one", "two", "three"]
    assert (after.clips[0].id, after.clips[0].seed) == (before.clips[0].id, 7)


def test_captions_are_merged_only_where_both_clips_have_one(project):
    before = with_clip(with_clip(project, "It wakes.", caption="Er erwacht."), "A dog sleeps.", caption="Ein Hund.")
    assert storyboard.merge(before, before.clips[0].id).clips[0].caption == "Ein Hund. Er erwacht."
    assert storyboard.merge(before, before.clips[1].id).clips[1].caption == ""


def test_the_last_clip_and_too_long_a_pair_are_not_merged(project):
    with pytest.raises(InputError, match="last clip"):
        storyboard.merge(project, project.clips[-1].id)
    long = with_clip(with_clip(project, "b" * 600), "a" * 600)
    with pytest.raises(InputError, match="Clips 1 and 2 together have 1,202 characters"):
        storyboard.merge(long, long.clips[0].id)
    captions = with_clip(with_clip(project, "b", caption="b" * 600), "a", caption="a" * 600)
    with pytest.raises(InputError, match="1,202"):
        storyboard.merge(captions, captions.clips[0].id)


def test_a_clip_is_split_at_the_sentence_nearest_the_middle_and_keeps_its_takes(project):
    before = with_clip(
        project, "A dog sleeps. It wakes! It runs off.", negative_prompt="cats", seed=7, pinned_take="0" * 64
    )
    after = storyboard.split(before, before.clips[0].id)
    first, second = after.clips[:2]
    assert prompts(after) == ["A dog sleeps.", "It wakes! It runs off.", "one", "two", "three"]
    assert (first.id, first.seed, first.pinned_take) == (before.clips[0].id, 7, None)
    assert second.id != first.id and second.seed is None
    assert first.negative_prompt == second.negative_prompt == "cats"


@pytest.mark.parametrize(
    ("at", "first", "second"),
    [
        (1, "The", "dog sleeps"),
        (3, "The", "dog sleeps"),
        (5, "The", "dog sleeps"),
        (6, "The dog", "sleeps"),
        (13, "The dog", "sleeps"),
    ],
)
def test_a_place_is_moved_to_the_nearest_end_of_a_word(project, at, first, second):
    before = with_clip(project, "The dog sleeps")
    assert prompts(storyboard.split(before, before.clips[0].id, at))[:2] == [first, second]


def test_a_caption_is_split_with_its_prompt_where_their_sentences_match(project):
    before = with_clip(project, "It sleeps. It wakes.", caption="犬が眠る。犬が起きる。")
    identifier = before.clips[0].id
    assert said(storyboard.split(before, identifier))[:2] == [
        ("It sleeps.", "犬が眠る。"),
        ("It wakes.", "犬が起きる。"),
    ]
    assert said(storyboard.split(before, identifier, 2))[:2] == [("It", ""), ("sleeps. It wakes.", "")]
    one = with_clip(project, "It sleeps. It wakes.", caption="Ein Hund, der schläft")
    assert said(storyboard.split(one, one.clips[0].id))[:2] == [("It sleeps.", ""), ("It wakes.", "")]


def test_merging_undoes_a_split(project):
    before = with_clip(project, "A dog sleeps. It wakes. It runs.", caption="Eins. Zwei. Drei.")
    identifier = before.clips[0].id
    assert said(storyboard.merge(storyboard.split(before, identifier), identifier)) == said(before)


@pytest.mark.parametrize("at", [-1, 0, 14, 10**9])
def test_a_place_outside_the_prompt_is_refused(project, at):
    before = with_clip(project, "The dog sleeps")
    with pytest.raises(InputError, match="Clip 1 cannot be split"):
        storyboard.split(before, before.clips[0].id, at)


def test_there_must_be_something_to_split(project):
    sentence = with_clip(project, "The dog sleeps at 3.5 metres.")
    with pytest.raises(InputError, match="one sentence"):
        storyboard.split(sentence, sentence.clips[0].id)
    with pytest.raises(InputError, match="one word"):
        storyboard.split(project, project.clips[0].id, 1)


def test_a_full_storyboard_is_not_split(project):
    full = storyboard.with_clips(project, [Clip(prompt="One. Two.") for _ in range(1000)])
    with pytest.raises(InputError, match="1 to 1,000"):
        storyboard.split(full, full.clips[3].id)
