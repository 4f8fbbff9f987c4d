import pytest

from tests.engine.story.pictures.loopback import Web


@pytest.fixture
def web():
    """The web on loopback; nothing answers until a test says so."""
    web = Web()
    yield web
    web.close()
