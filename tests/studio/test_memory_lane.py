"""Drafting and generating in one lane, with the real classes at tiny size: never both models in memory (S: one model).

The worker's own loop runs here, in this process, so that what is alive can be counted at every event it sends.
"""

import gc
from pathlib import Path

import pytest
from PIL import Image

from engine import faults, film, storyboard
from engine.events import BeatDrafted, ClipStep, DrafterLoading, JobDone, JobFailed, ModelReady
from engine.story.choose import Choice, QwenModel
from engine.story.drafter import Brief
from studio.worker import Child, Draft, Happened, Options, Render


class Counting:
    """The worker's pipe: keeps what is sent, and how many models of each kind were alive at that moment."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.alive: list[tuple[int, int]] = []
        self._kept = models()  # what other tests hold: kept, so that no new model gets the id of one of them
        self._others = {id(thing) for kind in self._kept for thing in kind}

    def send(self, answer: object) -> None:
        assert isinstance(answer, Happened), answer
        self.events.append(answer.event)
        self.alive.append(self.now())

    def now(self) -> tuple[int, int]:
        """Film transformers and language models that something holds."""
        films, languages = (sum(id(thing) not in self._others for thing in kind) for kind in models())
        return films, languages

    def count(self, kind: type) -> int:
        return sum(isinstance(event, kind) for event in self.events)


def models() -> tuple[list[object], list[object]]:
    from diffusers import WanTransformer3DModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    gc.collect()
    things = gc.get_objects()
    films = [thing for thing in things if type(thing) is WanTransformer3DModel]
    return films, [thing for thing in things if type(thing) is Qwen2_5_VLForConditionalGeneration]


@pytest.fixture
def lane(tmp_path):
    """A worker without its process, a film of one clip, and a draft for a language model."""
    from tests.engine.models.tiny import write_tiny_wan
    from tests.engine.story import tiny_qwen

    preset = write_tiny_wan(tmp_path)
    picture = tmp_path / "picture.png"
    Image.effect_mandelbrot((64, 64), (-2, -1.5, 1, 1.5), 30).convert("RGB").save(picture)
    store = film.create(tmp_path / "film", picture, preset, prompts=["a hill"])
    model = QwenModel(tiny_qwen.build(tmp_path / "qwen"), "tiny Qwen", "float32")
    pipe = Counting()
    child = Child(pipe, Options())

    def render(job_id: str) -> None:
        child._guarded(job_id, lambda: child._render(Render(job_id, store.folder, preset, 0)))

    def draft(job_id: str, count: int) -> None:
        brief = Brief(Path(picture), count, keywords="dog, street")
        choice = Choice("qwen", "tiny Qwen", "It is set up.", qwen=model)
        child._guarded(job_id, lambda: child._draft(Draft(job_id, brief, choice)))

    yield pipe, render, draft, store
    child._drop_backend()
    child._drop_drafter()


def test_a_film_model_and_a_language_model_are_never_both_in_memory(lane):
    pipe, render, draft, store = lane
    assert pipe.now() == (0, 0)
    render("a")
    draft("b", 1)
    draft("c", 1)
    store.edit(lambda project: storyboard.append(project, ["a hill by night"]))
    render("d")
    assert pipe.count(JobDone) == 4 and pipe.count(BeatDrafted) == 2 and pipe.count(ClipStep) == 4
    assert max(films for films, _ in pipe.alive) == 1 and max(languages for _, languages in pipe.alive) == 1
    assert max(films + languages for films, languages in pipe.alive) == 1
    assert (
        pipe.count(DrafterLoading) == 1 and pipe.count(ModelReady) == 2
    )  # loaded once for two drafts, anew for a film
    for event, (films, languages) in zip(pipe.events, pipe.alive, strict=True):
        if isinstance(event, DrafterLoading):
            assert (films, languages) == (0, 0), "the film model must be gone before the language model is loaded"


def test_out_of_memory_while_drafting_costs_the_draft_alone(lane):
    pipe, render, draft, _ = lane
    with faults.injected("draft.token:oom:5"):
        draft("a", 1)
    failed = pipe.events[-1]
    assert isinstance(failed, JobFailed) and failed.kind == "OutOfMemory" and "memory" in failed.message
    assert pipe.now() == (0, 0)
    render("b")
    assert isinstance(pipe.events[-1], JobDone) and pipe.alive[-1] == (1, 0)
