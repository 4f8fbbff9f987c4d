"""What a film can be rendered with again, for the page: presets, and in words why one cannot be used here."""

from collections.abc import Sequence

from engine.errors import StudioError
from engine.tiers import Machine
from studio import machine
from studio.library import Library


def offers(library: Library, variant: str, names: Sequence[str], seen: Machine | None) -> list[dict[str, str]]:
    """One entry a preset: its name, title and what it is, what to know before, and what is missing ("": nothing).

    seen: the computer, None until the worker has looked at it.
    """
    return [offer(library, variant, name, seen) for name in names]


def offer(library: Library, variant: str, name: str, seen: Machine | None) -> dict[str, str]:
    try:
        preset = library.preset_called(name)
    except StudioError as err:
        return {"name": name, "title": name, "about": "", "note": "", "missing": str(err)}
    needs = machine.without_gpu(preset, seen) if seen and not preset.random_weights else None
    return {
        "name": name,
        "title": preset.title,
        "about": machine.about(preset),
        "note": f"{needs['title']}, and there is none here." if needs else "",
        "missing": machine.why_not(preset, variant),
    }
