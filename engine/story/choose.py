"""Which drafter writes the storylines here, and why: what is configured, else what fits the machine, else templates.

Knows files and figures only; the model stack and the network are reached when a drafter is opened.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from engine.config import Config, Preset, models_dir
from engine.domain import Source
from engine.errors import ConfigError, WeightsMissing
from engine.story.address import allowed_address, checked_model, has_key
from engine.story.drafter import StorylineDrafter
from engine.story.template import TemplateDrafter
from engine.story.vocabulary import vocabulary_of
from engine.tiers import GIB, Machine, in_gb
from engine.weights.manifest import Entry, manifest

MODELS = {  # that are looked for in the models folder, the better one first
    "Qwen/Qwen2.5-VL-7B-Instruct": "Qwen2.5-VL 7B",
    "Qwen/Qwen2.5-VL-3B-Instruct": "Qwen2.5-VL 3B",
}
WORKING_BYTES = 2 * GIB  # beside the weights: keys and values of 8,000 tokens, a picture's pass; estimated
HUB_ID = re.compile(r"(?!\.)[\w.-]+/(?!\.)[\w.-]+")
MAX_INDEX_BYTES = 10 << 20
Precision = Literal["bfloat16", "float32", "4-bit"]


@dataclass(frozen=True)
class QwenModel:
    """A Qwen-VL model in a folder of this machine, and how it is loaded. Picklable."""

    folder: Path
    title: str
    precision: Precision
    device: Literal["auto", "cuda", "cpu"] = "auto"


@dataclass(frozen=True)
class Choice:
    """A drafter that can be used here. why: one sentence for the page; hint: what would make a better one possible.

    qwen: the model to load, for that source alone.
    """

    source: Source
    title: str
    why: str
    hint: str = ""
    qwen: QwenModel | None = None


UNBOUNDED = Machine("a machine with room for everything", "cuda", free_ram=2**60, free_vram=2**60, total_vram=2**60)
TEMPLATES = Choice("template", "Templates", "No language model is set up here; templates need none.")


def choose(config: Config, preset: Preset, machine: Machine | None) -> Choice:
    """The drafter for `preset` on `machine` (None: not looked at yet).

    Raises `ConfigError` or `WeightsMissing` when what is configured cannot be used, be it in use or not.
    """
    return offered(config, preset, machine)[0]


def offered(config: Config, preset: Preset, machine: Machine | None) -> tuple[Choice, ...]:
    """Every drafter that can be used here, the chosen one first, templates always among them. Raises as `choose`."""
    endpoint = configured_endpoint(config)
    qwen = configured_qwen(config, machine)
    configured = {
        "template": replace(TEMPLATES, why="The operator of this studio has chosen templates."),
        "endpoint": endpoint,
        "qwen": qwen,
        "auto": endpoint or qwen,
    }[config.drafter]
    found = configured or automatic(config, preset, machine)
    others = (endpoint, qwen or fitting_qwen(config, machine), TEMPLATES)
    return (found, *(choice for choice in others if choice and choice.source != found.source))


def depends_on_machine(config: Config, preset: Preset) -> bool:
    """Whether the choice can be another one once the machine has been looked at, which imports the model stack."""
    before, after = choose(config, preset, None), choose(config, preset, UNBOUNDED)
    return (before.source, before.qwen) != (after.source, after.qwen)


def open_drafter(choice: Choice, config: Config) -> StorylineDrafter:
    """The drafter itself: loads a model, or reaches nothing yet for an endpoint. Raises what its writer raises."""
    if choice.source == "endpoint":
        from engine.story.endpoint import EndpointWriter
        from engine.story.model_drafter import ModelDrafter

        key = config.endpoint_key
        writer = EndpointWriter(config.endpoint_url, config.endpoint_model, key, hosts=config.endpoint_hosts)
        return ModelDrafter("endpoint", writer)
    if choice.qwen is not None:
        from engine.story.model_drafter import ModelDrafter
        from engine.story.qwen import QwenWriter

        return ModelDrafter("qwen", QwenWriter(choice.qwen))
    return TemplateDrafter()


# ---- what the operator has set


def configured_endpoint(config: Config) -> Choice | None:
    """The endpoint of the settings, checked as it will be used; None without one."""
    if not config.endpoint_url:
        if config.drafter == "endpoint":
            raise ConfigError("The drafter “endpoint” has no address.", "Set SVI_ENDPOINT_URL, or --endpoint-url.")
        return None
    address = allowed_address(config.endpoint_url, hosts=config.endpoint_hosts, has_key=has_key(config.endpoint_key))
    model = checked_model(config.endpoint_model)
    where = "on this computer" if address.is_loopback else f"at {address.host}"
    return Choice("endpoint", model, f"{model} {where} writes the storyline: it gets the picture and your keywords.")


def configured_qwen(config: Config, machine: Machine | None) -> Choice | None:
    """The model of the settings, be it short of memory or not: who set it wants to be told when it does not fit."""
    if config.drafter_model:
        folder = drafter_folder(config.drafter_model)
    elif config.drafter == "qwen":
        here = models_here()
        if not here:
            raise missing(next(reversed(MODELS)))
        folder = next((path for path in here if fits(path, config, machine)), here[-1] if machine else here[0])
    else:
        return None
    model = loaded_on(folder, config, machine) or QwenModel(folder, title_of(folder), asked_precision(config))
    why = f"The operator of this studio has chosen {model.title}."
    if machine and not fits(folder, config, machine):
        return Choice("qwen", model.title, why, lack(folder, config, machine), model)
    return Choice("qwen", model.title, why, "", model)


def drafter_folder(text: str) -> Path:
    """The folder that a Hub id (in the models folder) or a path means. Raises `WeightsMissing`, `ConfigError`."""
    inside = models_dir() / text
    if HUB_ID.fullmatch(text) and (inside.is_dir() or not Path(text).is_dir()):
        if weights_bytes(inside) is None:
            raise missing(text)
        return inside
    try:
        folder = Path(text).expanduser()
    except RuntimeError as err:  # “~name” of a user that there is not
        raise ConfigError(f"There is no folder {text[:80]}.", "Write the drafter's folder from the root on.") from err
    if weights_bytes(folder) is None:
        raise ConfigError(
            f"There is no complete model in the folder {folder.name}.",
            "It needs config.json and all files of safetensors that it names; or name a model of the Hub.",
        )
    return folder


def missing(repo: str) -> WeightsMissing:
    entry = entry_of(repo)
    return WeightsMissing(
        f"{repo} is not in the models folder, or not all of it.",
        f"Fetch it: {command(entry)}" if entry else "The studio does not know it: put its files there yourself.",
    )


# ---- what fits


def automatic(config: Config, preset: Preset, machine: Machine | None) -> Choice:
    """Where nothing is configured: templates for a model that knows a few moves, else the best model that fits."""
    vocabulary = vocabulary_of(preset)
    if vocabulary and vocabulary.actions:
        count = len(vocabulary.actions)
        return replace(TEMPLATES, why=f"The embedded model knows {count} moves; templates use exactly those.")
    here = models_here()
    if machine is None and here:
        return replace(TEMPLATES, why="This machine has not been looked at yet; templates work at once.")
    if found := fitting_qwen(config, machine):
        return found
    if machine and here:
        why = f"{lack(here[-1], config, machine)} Templates need none of it."
        return replace(TEMPLATES, why=why, hint=download_hint(machine))
    return replace(TEMPLATES, hint=download_hint(machine))


def fitting_qwen(config: Config, machine: Machine | None) -> Choice | None:
    """The best model of the models folder that `machine` has room for."""
    for folder in models_here() if machine else ():
        if model := loaded_on(folder, config, machine):
            where = "on the GPU" if model.device == "cuda" else "on the CPU, which takes minutes"
            return Choice("qwen", model.title, f"{model.title} is in the models folder and fits {where}.", "", model)
    return None


def models_here() -> list[Path]:
    """Folders of the models that are known and complete, the better one first."""
    return [folder for repo in MODELS if weights_bytes(folder := models_dir() / repo) is not None]


def fits(folder: Path, config: Config, machine: Machine | None) -> bool:
    return loaded_on(folder, config, machine) is not None


def loaded_on(folder: Path, config: Config, machine: Machine | None) -> QwenModel | None:
    """How the model in `folder` would be loaded on `machine`, None when it has not the room."""
    size = weights_bytes(folder)
    if machine is None or size is None:
        return None
    way = next(ways(size, config, machine, quantised=is_quantised(folder)), None)
    return QwenModel(folder, title_of(folder), *way) if way else None


def ways(
    size: int, config: Config, machine: Machine, *, quantised: bool = False
) -> Iterator[tuple[Precision, Literal["cuda", "cpu"]]]:
    """Precisions and devices that `size` bytes of weights fit in, the best first: the GPU, else the CPU, which computes
    faster in float32 when there is room for twice the bytes. What is quantised already is loaded as it is."""
    asked = asked_precision(config)
    if machine.has_gpu and needed(size, asked, quantised=quantised) <= machine.free_vram:
        yield asked, "cuda"
    if asked == "4-bit" or quantised:
        return  # the kernels of both are the GPU's
    for precision in ("float32", "bfloat16"):
        wanted = config.drafter_precision in ("auto", precision)
        if wanted and needed(size, precision) <= machine.free_ram:
            yield precision, "cpu"


def needed(size: int, precision: Precision, *, quantised: bool = False) -> int:
    """Bytes that `size` bytes of files take with what the model works in. Half of bfloat16's is an upper bound for
    4 bits: linear layers take a quarter, embeddings stay."""
    times = 1.0 if quantised else {"bfloat16": 1.0, "float32": 2.0, "4-bit": 0.5}[precision]
    return int(size * times) + WORKING_BYTES


def asked_precision(config: Config) -> Precision:
    return "bfloat16" if config.drafter_precision == "auto" else config.drafter_precision


def lack(folder: Path, config: Config, machine: Machine) -> str:
    """What the model in `folder` needs and `machine` has not."""
    need = needed(weights_bytes(folder) or 0, asked_precision(config), quantised=is_quantised(folder))
    room = f"{in_gb(machine.free_ram)} GB of memory" + (
        f" and {in_gb(machine.free_vram)} GB of GPU memory" if machine.has_gpu else ""
    )
    return f"{title_of(folder)} needs about {in_gb(need)} GB; {room} are free."


def download_hint(machine: Machine | None) -> str:
    """The command that fetches the best model that would fit and is not here, when there is one."""
    for repo in MODELS if machine else ():
        entry = entry_of(repo)
        if entry and entry.about_bytes and weights_bytes(models_dir() / repo) is None:
            way = next(ways(entry.about_bytes, Config(), machine), None)
            if way and (way[1] == "cuda" or repo == next(reversed(MODELS))):  # 7B on a CPU tries anyone's patience
                return f"{MODELS[repo]} would fit here ({in_gb(entry.about_bytes)} GB to fetch): {command(entry)}"
    return ""


def command(entry: Entry) -> str:
    return f"python -m engine weights download {entry.id}"


def entry_of(repo: str) -> Entry | None:
    return next((entry for entry in manifest().entries if entry.repo == repo), None)


# ---- folders


def title_of(folder: Path) -> str:
    return MODELS.get(f"{folder.parent.name}/{folder.name}", folder.name)


def weights_bytes(folder: Path) -> int | None:
    """Bytes of a model's safetensors files; None unless config.json and every file that belongs to it are there."""
    if not (folder / "config.json").is_file():
        return None
    try:
        return sum((folder / name).stat().st_size for name in weight_files(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def weight_files(folder: Path) -> set[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return {"model.safetensors"}
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise ValueError
    return {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}


def is_quantised(folder: Path) -> bool:
    try:
        return "quantization_config" in json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, TypeError):
        return False
