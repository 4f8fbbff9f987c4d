"""Fixtures shared by the tests of the drafters."""

import pytest


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory):
    """A tiny random Qwen2.5-VL in the layout of the published repositories. Not to be written to."""
    from tests.engine.story import tiny_qwen

    return tiny_qwen.build(tmp_path_factory.mktemp("models") / "Tiny-VL-Instruct")
