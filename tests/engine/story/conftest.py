"""Fixtures shared by the tests of the drafters."""

import pytest


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory):
    """A tiny random Qwen2.5-VL in the layout of the published repositories. Not to be written to."""
    from tests.engine.story import tiny_qwen

    return tiny_qwen.build(tmp_path_factory.mktemp("models") / "Tiny-VL-Instruct")


@pytest.fixture(scope="module")
def writer(qwen_folder):
    """The tiny model, loaded once for the tests of a module."""
    from engine.story.choose import QwenModel
    from engine.story.qwen import QwenWriter

    writer = QwenWriter(QwenModel(qwen_folder, "Tiny", "float32"))
    yield writer
    writer.close()


@pytest.fixture
def passes(writer):
    """A list that grows by one with every forward pass of the model."""
    seen = []
    hook = writer.model.register_forward_pre_hook(lambda *_: seen.append(1))
    yield seen
    hook.remove()
