"""Capability tokens: who holds one may view or edit one project, until it expires. There are no accounts.

A token is `<v|e>.<expiry>.<HMAC-SHA256 of project, scope and expiry>`. The key never leaves the data folder.
"""

import base64
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.domain import ID_PATTERN
from engine.errors import ConfigError
from engine.project.files import write_atomically

Scope = Literal["view", "edit"]
EDIT_S = 365 * 86400
VIEW_S = 30 * 86400
KEY_BYTES = 32
_LETTER: dict[Scope, str] = {"view": "v", "edit": "e"}
_SCOPE: dict[str, Scope] = {"v": "view", "e": "edit"}


@dataclass(frozen=True)
class Grant:
    """What a valid token allows. `expiry` in Unix seconds."""

    scope: Scope
    expiry: int


class Tokens:
    """Makes and checks tokens with one secret key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, path: Path) -> "Tokens":
        """The tokens of the key file `path`, which is made (mode 0600) when there is none, or nothing in it."""
        key = path.read_bytes() if path.exists() else b""
        if not key:  # an empty one signed nothing
            key = secrets.token_bytes(KEY_BYTES)
            write_atomically(path, key, point="key", mode=0o600)
        if len(key) != KEY_BYTES:
            raise ConfigError(f"The key file {path.name} is damaged.", "Delete it; links made before stop working.")
        return cls(key)

    def give(self, project_id: str, scope: Scope, *, expiry: int | None = None) -> str:
        expiry = expiry or int(time.time()) + (EDIT_S if scope == "edit" else VIEW_S)
        return f"{_LETTER[scope]}.{expiry}.{self._mac(project_id, scope, expiry)}"

    def check(self, token: str | None, project_id: str) -> Grant | None:
        """The grant of `token` on `project_id`, or None when it is absent, forged, expired or another project's."""
        letter, _, rest = (token or "").partition(".")
        expiry_text, _, mac = rest.partition(".")
        scope = _SCOPE.get(letter)
        if scope is None or not ID_PATTERN.fullmatch(project_id) or not _is_number(expiry_text) or not mac.isascii():
            return None
        expiry = int(expiry_text)
        genuine = hmac.compare_digest(mac, self._mac(project_id, scope, expiry))
        return Grant(scope, expiry) if genuine and expiry > time.time() else None

    def _mac(self, project_id: str, scope: Scope, expiry: int) -> str:
        digest = hmac.new(self._key, f"token:{project_id}:{scope}:{expiry}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12
