import pytest

from engine import storyboard
from engine.domain import Beat, Inputs, Project, Resolution, Storyline
from engine.errors import InputError


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


@pytest.mark.parametrize("count", [0, -1, 10**6, 1.5, True])
def test_impossible_counts_are_refused(count):
    from engine.domain import check_num_clips

    with pytest.raises(InputError, match="1 to 1,000"):
        check_num_clips(count)
