"""Numbered steps that bring an older project.json to the current schema.

Step n turns schema n into schema n+1, on plain JSON. A released step is never edited.
"""

from collections.abc import Callable, Mapping

from engine.domain import SCHEMA_VERSION
from engine.errors import ProjectCorrupt, ProjectTooNew

Step = Callable[[dict], dict]
STEPS: Mapping[int, Step] = {}


def migrate(data: object, *, steps: Mapping[int, Step] = STEPS, current: int = SCHEMA_VERSION) -> dict:
    """`data` at schema `current`; a newer or nonsensical schema raises and nothing is rewritten."""
    if not isinstance(data, dict) or not isinstance(data.get("schema_version"), int):
        raise ProjectCorrupt(
            "project.json does not describe a project.",
            "It was left as it is. project.previous.json holds the last good version, if there is one.",
        )
    version = data["schema_version"]
    if version > current:
        raise ProjectTooNew(
            f"This project was written by a later version of the studio (schema {version}, this one reads {current}).",
            "Nothing was changed. Update the studio to open it.",
        )
    while version < current:
        if version not in steps:
            raise ProjectCorrupt(
                f"There is no way from project schema {version} to {version + 1}.", "It was left as it is."
            )
        data = steps[version](dict(data)) | {"schema_version": version + 1}
        version += 1
    return data
