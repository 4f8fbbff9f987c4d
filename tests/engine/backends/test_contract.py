"""Every backend against one suite."""

import dataclasses

import pytest

from engine.config import load_preset
from tests.engine.backends.contract import BackendContract
from tests.fakes import ScriptedBackend


@pytest.fixture
def make_request(clip_request):
    return clip_request


def opened(preset):
    from engine.backends.local import LocalBackend

    backend = LocalBackend.open(preset, threads=1)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def local_wan(tiny_preset):
    yield from opened(tiny_preset)


@pytest.fixture(scope="module")
def local_pocket(untrained_pocket):
    yield from opened(untrained_pocket)


@pytest.fixture(scope="module")
def shipped_pocket():
    preset = load_preset("pocket")
    if not (preset.path(preset.model) / "transformer").is_dir():
        pytest.skip("assets/pocket has no weights yet")
    yield from opened(preset)


class TestScriptedBackend(BackendContract):
    @pytest.fixture
    def backend(self):
        return ScriptedBackend()


class TestLocalBackendWithWan(BackendContract):
    @pytest.fixture
    def backend(self, local_wan):
        return local_wan


class TestLocalBackendWithPocket(BackendContract):
    @pytest.fixture
    def backend(self, local_pocket):
        return local_pocket


class TestTheShippedPocketModel(BackendContract):
    """Few small frames: the weights are what is on trial."""

    @pytest.fixture
    def backend(self, shipped_pocket):
        return shipped_pocket

    @pytest.fixture
    def make_request(self, clip_request):
        def make(**changes):
            return dataclasses.replace(clip_request(**changes), guidance_scale=1.0)

        return make
