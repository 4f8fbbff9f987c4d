"""Which downloadable files a preset needs, read off every `models:…` path in it, and whether they are there."""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.config import MODELS_PREFIX, Preset, models_dir, preset_names
from engine.errors import WeightsMissing
from engine.weights.inventory import Wanted, bytes_missing, in_words, items, state_of
from engine.weights.lock import read_lock
from engine.weights.manifest import Manifest, manifest

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Needs:
    """What a preset needs: rows of the manifest, and places that the manifest does not know."""

    wanted: tuple[Wanted, ...]
    unknown: tuple[str, ...]


def needs_of(preset: Preset, *, variant: str | None = None, draft: bool = True, known: Manifest | None = None) -> Needs:
    """All that `preset` needs, or what one `variant` of it needs; `draft` counts the few-step LoRAs in.

    A component with a path of its own is not fetched with the model.
    """
    known = known or manifest()
    replaced = {name for name, path in preset.components.model_dump().items() if path}
    wanted: dict[str, Wanted] = {}
    unknown: list[str] = []
    for place, path in _model_paths(preset):
        if (place[0] == "variants" and variant and place[1] != variant) or (place[0] == "draft" and not draft):
            continue
        rows = [row for row in _rows_under(path, known) if _belongs(row, place, replaced)]
        wanted |= {row.entry.key(row.row.path): row for row in rows}
        if not rows:
            unknown.append(path)
    return Needs(tuple(wanted.values()), tuple(dict.fromkeys(unknown)))


def check_present(preset: Preset, variant: str, *, draft: bool = False) -> None:
    """Raise `WeightsMissing` unless `variant` has all it uses of the models folder, whole as far as sizes tell."""
    needs = needs_of(preset, variant=variant, draft=draft)
    if not needs.wanted and not needs.unknown:
        return
    models = models_dir()
    lock = read_lock(models)
    files = items(needs.wanted, models, lock)
    lacking = [item for item in files if state_of(item, models, lock) not in ("ready", "unverified")]
    absent = [path for path in needs.unknown if not (models / path).exists()]
    if absent:
        raise WeightsMissing(
            f"“{preset.name}” needs {absent[0]} in the models folder, and it is not there.",
            "The studio does not know where to fetch it from: put it there, or change the preset.",
        )
    if lacking:
        size, how_sure = bytes_missing(lacking)
        amount = f"{how_sure} {in_words(size)}".removeprefix("exactly ")
        name = preset.name if preset.name in preset_names() else "FILE.yaml"
        few = f"{lacking[0].key} is missing" + (f", and {len(lacking) - 1} more" if len(lacking) > 1 else "")
        what = "they have not been downloaded" if len(lacking) == len(files) else few
        raise WeightsMissing(
            f"The weights of “{preset.name}” are not all here: {what} ({amount}).",
            f"Get them: python -m engine weights download --preset {name}",
        )


def _model_paths(preset: Preset) -> Iterator[tuple[Place, str]]:
    """(place in the preset, path below the models folder) of every string that starts with `models:`."""
    for place, text in _strings(preset.model_dump()):
        if text.startswith(MODELS_PREFIX):
            yield place, text.removeprefix(MODELS_PREFIX).strip("/")


def _strings(value: object, place: Place = ()) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, (*place, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _strings(inner, (*place, index))


def _rows_under(path: str, known: Manifest) -> Iterator[Wanted]:
    """Rows of the manifest that are the file `path`, or lie below the folder `path`."""
    for entry in known.entries:
        for row in entry.files:
            key = entry.key(row.path)
            if key.startswith(f"{path}/") or (
                path.startswith(f"{entry.repo}/") and row.fits(path[len(entry.repo) + 1 :])
            ):
                yield Wanted(entry, row)


def _belongs(want: Wanted, place: Place, replaced: set[str]) -> bool:
    """Whether what stands at `place` uses this row: a component uses its own part, the model all but the replaced."""
    part = want.entry.part(want.row)
    if place[0] == "components":
        return part is None or part == place[1]
    return place[0] != "model" or part not in replaced
