import os
import stat

import pytest

from engine import faults
from engine.domain import new_id
from engine.errors import ConfigError
from studio.tokens import Tokens


@pytest.fixture
def tokens():
    return Tokens(b"k" * 32)


def test_a_token_opens_its_own_project_only(tokens):
    mine, other = new_id(), new_id()
    token = tokens.give(mine, "edit")
    assert tokens.check(token, mine).scope == "edit"
    assert tokens.check(token, other) is None


def test_a_view_token_cannot_be_turned_into_an_edit_token(tokens):
    project = new_id()
    token = tokens.give(project, "view")
    assert tokens.check("e" + token[1:], project) is None


def test_a_longer_expiry_needs_a_new_token(tokens):
    project = new_id()
    scope, expiry, mac = tokens.give(project, "view").split(".")
    assert tokens.check(f"{scope}.{int(expiry) + 1}.{mac}", project) is None


def test_an_expired_token_is_refused(tokens):
    project = new_id()
    assert tokens.check(tokens.give(project, "edit", expiry=1), project) is None


@pytest.mark.parametrize("text", [None, "", ".", "..", "e.1", "e.x.y", "é.1.é", "e.1.é", "v." + "9" * 99 + ".a", "\0"])
def test_nonsense_is_no_token(tokens, text):
    assert tokens.check(text, new_id()) is None


def test_the_key_is_kept_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "secret.key"
    project = new_id()
    token = Tokens.open(path).give(project, "view")
    assert Tokens.open(path).check(token, project)
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("point", ["key.temp", "key.fsync", "key.rename"])
def test_a_first_start_on_a_full_disk_leaves_no_key_that_stops_the_next(tmp_path, point):
    path, project = tmp_path / "secret.key", new_id()
    with faults.injected(f"{point}:enospc"), pytest.raises(OSError):
        Tokens.open(path)
    assert not list(tmp_path.iterdir())
    path.touch()  # as an earlier version left it
    token = Tokens.open(path).give(project, "edit")
    assert Tokens.open(path).check(token, project)


def test_a_cut_key_file_is_named(tmp_path):
    (tmp_path / "secret.key").write_bytes(b"short")
    with pytest.raises(ConfigError, match=r"secret\.key"):
        Tokens.open(tmp_path / "secret.key")


def test_an_id_that_ends_in_a_line_break_is_no_project(tokens):
    project = new_id()
    assert tokens.check(tokens.give(project + "\n", "edit"), project + "\n") is None
