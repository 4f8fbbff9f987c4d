"""What must stay as it is when code is moved: `python -m tests.goldens FILE` records it, or says what differs from it.

Hashes are compared between two states of the code on one machine with as many threads; `engine/test_goldens.py` keeps
for good what does not depend on the machine.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from engine import film
from engine.backends import open_backend
from engine.backends.base import ClipResult
from engine.config import Preset, load_preset, preset_names
from engine.domain import Clip, Inputs, Project, Resolution
from engine.evaluation import drift
from engine.media import image
from engine.project.store import Store
from tests.engine.evaluation import test_drift
from tests.engine.models.tiny import POCKET, write_untrained_pocket
from tests.engine.published import films
from tests.engine.training import test_ranks, test_trainer

PROMPTS = ("The camera pans left slowly", "Night falls while the camera zooms in", "The water ripples")
SIZES = ((192, 128), (288, 192))


class Kept:
    """Passes everything on to a backend and keeps the frames."""

    def __init__(self, backend) -> None:
        self.backend, self.info, self.frames = backend, backend.info, []

    def generate(self, request):
        for item in self.backend.generate(request):
            if isinstance(item, ClipResult):
                self.frames.append(item.frames)
            yield item


def pocket_film(folder: Path, preset: Preset, variant: str) -> tuple[Store, list[np.ndarray]]:
    """A film of three clips of a drawn picture, and each clip's frames."""
    picture = films.write_picture(folder / "picture.png")
    store = film.create(folder / "film", picture, preset, prompts=PROMPTS, seed=3, variant=variant)
    kept = Kept(open_backend(preset, threads=1))
    list(film.render(store, kept, preset, reserve_bytes=0))
    return store, kept.frames


def digests() -> dict[str, list[str]]:
    """Digests of three clips by every shipped preset and variant, its weights called "weights"."""
    found = {}
    for name in preset_names():
        preset = load_preset(name)
        for variant in preset.variants:
            project = Project(
                id="g" * 26, variant=variant, preset=name, resolution=Resolution(*preset.resolutions[0]), seed=3,
                num_inference_steps=preset.num_inference_steps, guidance_scale=preset.guidance_scale,
                negative_prompt=preset.negative_prompt, inputs=Inputs(image="anchor.png", image_sha256="0" * 64),
                clips=tuple(Clip(id=f"{number}" * 26, prompt=prompt) for number, prompt in enumerate(PROMPTS)),
            )  # fmt: skip
            chain: list[str] = []
            for index in range(len(PROMPTS)):
                chain.append(film.digest_of(project, preset, index, chain[-1] if chain else None, "weights"))
            found[f"{name} {variant}"] = chain
    return found


def untrained_films(folder: Path) -> dict[str, np.ndarray]:
    """Middle and last frame (2, H, W, 3) of each clip of four films by an untrained model, composed and not."""
    found = {}
    for handover in ("frames", "composed"):
        for variant in ("film", "shot"):
            place = folder / handover / variant
            place.mkdir(parents=True)
            text = POCKET.replace("[[32, 32]]", "[[64, 48]]") + f"handover: {handover}\n"
            preset = write_untrained_pocket(place, preset=text)
            _, frames = pocket_film(place, preset, variant)
            found |= {f"{handover} {variant} {number}": clip[[4, -1]] for number, clip in enumerate(frames)}
    return found


def hash_of(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


def pocket_hashes(folder: Path) -> dict[str, str]:
    found = {}
    for name in ("pocket", "pocket-frames"):
        for variant in ("film", "shot"):
            for size in SIZES:
                place = folder / name / variant / f"{size}"
                place.mkdir(parents=True)
                preset = load_preset(name).model_copy(update={"num_frames": 25, "resolutions": (size,)})
                store, frames = pocket_film(place, preset, variant)
                digests = [clip.digest for clip in film.plan(store, preset).clips]
                tails = [image.load(path) for digest in digests for path in tail(store, digest)]
                found[f"{name} {variant} {size[0]}×{size[1]}"] = (
                    f"{hash_of(*frames)} {hash_of(*tails)} {' '.join(digests)}"
                )
    return found


def tail(store: Store, digest: str) -> list[Path]:
    return sorted((store.take_folder(digest) / "tail").glob("*.png"))


def wan_hashes(folder: Path) -> dict[str, str]:
    found = {}
    for method in films.METHODS:
        checkpoint = films.write_checkpoint(folder / method, method)
        made = films.generate(checkpoint, folder / method / "made")
        tails = [image.load(path) for request in made.requests for path in tail(made.store, request.digest)]
        found[method] = f"{hash_of(*made.frames)} {hash_of(*tails)} {' '.join(r.digest for r in made.requests)}"
    return found


def training_hashes(folder: Path) -> dict[str, str]:
    preset = write_untrained_pocket(folder / "model")
    recipe = test_trainer.LORA | {
        "variant": "film", "output": str(folder / "run"), "log_every": 1,
        "lora": {"preset": str(preset.folder / "pocket.yaml"), "rank": 2},
        "phases": [{"steps": 12, "learning_rate": [1e-3, 1e-4], "buckets": [test_trainer.BATCH]}],
    }  # fmt: skip
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    losses = [event["loss"] for event in test_trainer.trainer.train(file) if event["kind"] == "step"]
    return {"losses": repr(losses), "LoRA": hash_of(*tensors(folder / "run" / "lora.safetensors"))}


def tensors(file: Path) -> Iterable[np.ndarray]:
    return (tensor.float().numpy() for _, tensor in sorted(load_file(file).items()))


def drift_hashes(folder: Path) -> dict[str, str]:
    class Folders:
        def mktemp(self, name: str) -> Path:
            (folder / name).mkdir()
            return folder / name

    preset = test_drift.preset.__wrapped__(Folders())
    list(drift.measure(preset, test_drift.SETTINGS, folder / "drift"))
    return {"films.jsonl": hashlib.sha256((folder / "drift" / "films.jsonl").read_bytes()).hexdigest()[:16]}


def two_process_hashes(folder: Path) -> dict[str, str]:
    preset = write_untrained_pocket(folder / "model")
    test_ranks.train_together(folder, preset)
    return {"LoRA": hash_of(*tensors(folder / "run" / "lora.safetensors"))}


PARTS: dict[str, Callable[[Path], dict]] = {
    "digests": lambda folder: digests(),
    "untrained": lambda folder: {name: hash_of(frames) for name, frames in untrained_films(folder).items()},
    "pocket": pocket_hashes,
    "wan": wan_hashes,
    "training": training_hashes,
    "drift": drift_hashes,
    "two processes": two_process_hashes,
}


def main(file: Path) -> int:
    torch.set_num_threads(1)
    found: dict[str, dict] = {}
    for name, part in PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = part(Path(folder))
        print(name, "done", flush=True)
    if not file.exists():
        file.write_text(json.dumps(found, indent=1))
        return 0
    before = json.loads(file.read_text())
    differing = [f"{n}: {k}" for n in PARTS for k in found[n].keys() | before[n] if found[n].get(k) != before[n].get(k)]
    print("\n".join(sorted(differing)) or "all as recorded")
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
