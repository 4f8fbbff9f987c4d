"""Tiny checkpoints of the published family on disk, films made of them on the command line, and what was recorded."""

import gc
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from engine import backends, cli
from engine.backends.base import ClipResult, Notice, StepDone
from engine.backends.local import LocalBackend
from engine.config import Preset
from engine.domain import ClipRequest
from engine.project.store import Store
from tests.engine.models.tiny import write_tiny_wan, write_tiny_wan22
from tests.engine.published.upstream import LORA_NAMES, LoraFiles, Settings, Upstream
from tests.engine.published.upstream import METHODS as PUBLISHED

SIZE = (48, 32)  # not square: CLIP's square and swapped sides show
RANK = 2
NEGATIVE = "blurred, static"
PROMPTS = ("A cat walks\n through &amp; out", "Night falls over the “hill”", "Rain")
PRESET = """\
title: Tiny {method}
family: wan
base: {base}
model: model
variants:
  {variant}: {{method: {method}, {loras}}}
num_frames: {num_frames}
fps: 8
resolutions: [[48, 32]]
num_inference_steps: {num_inference_steps}
guidance_scale: {guidance_scale}
negative_prompt: {negative}
shift: 5.0
device: cpu
dtype: float32
uint8: floor
"""
DRAFT = """\
draft:
  num_inference_steps: {num_inference_steps}
  guidance_scale: {guidance_scale}
  shift: {shift}
  loras:
    - {{lora: distilled-high.safetensors, strength: 0.5{low}}}
"""
LOW_DISTILLED = ", low_noise_lora: distilled-low.safetensors, low_noise_strength: 0.75"
DISTILLED_STRENGTH = {"high": 0.5, "low": 0.75}
WRONG_SCHEDULER = {"_class_name": "UniPCMultistepScheduler", "flow_shift": 3.0, "use_flow_sigmas": True}
FILE_NAMES = {  # as upstream publishes them; the high-noise expert's first
    "svi-shot": ["svi-shot.safetensors"],
    "svi-film": ["svi-film-opt-10212025.safetensors"],
    "svi-tom": ["svi-tom.safetensors"],
    "svi-2.0": ["SVI_Wan2.1-I2V-14B_lora_v2.0.safetensors"],
    "svi-2.0-wan2.2": [f"SVI_Wan2.2-I2V-A14B_{level}_noise_lora_v2.0.safetensors" for level in ("high", "low")],
    "svi-2.0-pro": [f"SVI_Wan2.2-I2V-A14B_{level}_noise_lora_v2.0_pro.safetensors" for level in ("high", "low")],
}
METHODS = tuple(FILE_NAMES)


@dataclass
class Seen:
    """What the modules were given for one clip. steps: (expert, timestep, noisy latents and y) of each; squares: what
    CLIP looked at; tokens: ids (1, L) of the texts that were new."""

    steps: list[tuple[str, float, Tensor]] = field(default_factory=list)
    squares: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)

    @property
    def experts(self) -> list[str]:
        return [expert for expert, _, _ in self.steps]

    @property
    def timesteps(self) -> list[float]:
        return [timestep for _, timestep, _ in self.steps]

    @property
    def noise(self) -> Tensor:
        return self.steps[0][2][:, :16]

    @property
    def y(self) -> Tensor:
        """(1, 20, f, h, w), which must be the same in every step."""
        first, *others = (model_input[:, 16:] for _, _, model_input in self.steps)
        assert all(torch.equal(first, other) for other in others)
        return first


class Recorder:
    """Passes everything on to a backend and remembers what went through, and what its modules were given."""

    def __init__(self, backend: LocalBackend) -> None:
        self.backend, self.info = backend, backend.info
        self.requests: list[ClipRequest] = []
        self.results: list[ClipResult] = []
        self.seen: list[Seen] = []
        components = backend.components
        self._watch("high", components.transformer)
        if components.low_noise_transformer is not None:
            self._watch("low", components.low_noise_transformer)
        components.encode_text.encoder.register_forward_pre_hook(
            lambda module, given: self.seen[-1].tokens.append(given[0].clone())
        )
        if components.encode_image is not None:
            components.encode_image.encoder.register_forward_pre_hook(
                lambda module, given: self.seen[-1].squares.append(given[0].clone())
            )

    def _watch(self, expert: str, transformer: WanTransformer3DModel) -> None:
        inputs: list[Tensor] = []
        transformer.patch_embedding.register_forward_pre_hook(lambda module, given: inputs.append(given[0].clone()))
        transformer.condition_embedder.timesteps_proj.register_forward_pre_hook(
            lambda module, given: self.seen[-1].steps.append((expert, given[0].item(), inputs.pop()))
        )

    def generate(self, request: ClipRequest) -> Iterator[StepDone | Notice | ClipResult]:
        self.requests.append(request)
        self.seen.append(Seen())
        for item in self.backend.generate(request):
            if isinstance(item, ClipResult):
                self.results.append(item)
            yield item

    def interrupt(self) -> None:
        self.backend.interrupt()

    def close(self) -> None:
        self.backend.close()


@dataclass(frozen=True)
class Checkpoint:
    """Weights, the preset that names them, and how the yardstick reads the same."""

    folder: Path
    preset: Preset
    method: str
    settings: Settings
    shift: float
    loras: LoraFiles

    def yardstick(self, changes: Mapping[str, object] | None = None) -> Upstream:
        """The slow reference on these weights. changes: attributes and methods that replace its own."""
        kind = type("Yardstick", (Upstream,), {"shift": self.shift} | dict(changes or {}))
        return kind(self.folder / "model", self.method, self.settings, self.loras)


@dataclass(frozen=True)
class Made:
    """A film from the command line. results: each clip as it was generated, the overlap included."""

    store: Store
    picture: Path
    exported: Path
    prompts: tuple[str, ...]
    requests: list[ClipRequest]
    results: list[ClipResult]
    seen: list[Seen]

    @property
    def frames(self) -> list[np.ndarray]:
        """uint8 (F, H, W, 3) of each clip."""
        return [result.frames for result in self.results]


def write_checkpoint(
    folder: Path,
    method: str,
    *,
    num_frames: int = 13,
    steps: int | None = None,
    guidance: float = 5.0,
    draft_shift: float | None = None,
) -> Checkpoint:
    """Tiny weights and LoRAs for `method` and the preset that names them; a film's sampling, or that of drafts.

    steps: by default as few as show the boundary between two experts. The scheduler and the boundary that the
    checkpoint names are those of diffusers' converter, which are not SVI's.
    """
    names = FILE_NAMES[method]
    levels = ("high", "low")[: len(names)]
    steps = steps or (3 if len(names) == 1 else 5)
    sampling = {"num_inference_steps": steps, "guidance_scale": guidance}
    text = PRESET.format(
        method=method,
        base="wan2.1" if len(names) == 1 else "wan2.2",
        variant="shot" if method == "svi-shot" else "film",
        loras=", ".join(f"{key}: {name}" for key, name in zip(("lora", "low_noise_lora"), names, strict=False)),
        num_frames=num_frames,
        negative=NEGATIVE,
        **({"num_inference_steps": 50, "guidance_scale": 5.0} if draft_shift else sampling),
    )
    if draft_shift:
        text += DRAFT.format(shift=draft_shift, low="" if len(names) == 1 else LOW_DISTILLED, **sampling)
    preset = (write_tiny_wan if len(names) == 1 else write_tiny_wan22)(folder, preset=text)
    (folder / "model" / "scheduler").mkdir()
    (folder / "model" / "scheduler" / "scheduler_config.json").write_text(json.dumps(WRONG_SCHEDULER))
    index = {"_class_name": "WanImageToVideoPipeline", "boundary_ratio": 0.9}
    (folder / "model" / "model_index.json").write_text(json.dumps(index))
    config = json.loads((folder / "model" / "transformer" / "config.json").read_text())
    loras: dict[str, list[tuple[Path, float]]] = {}
    for seed, (level, name) in enumerate(zip(levels, names, strict=True)):
        write_lora(folder / name, config, seed=seed, prefix="" if "2.0" in method else "pipe.dit.")
        write_lora(folder / f"distilled-{level}.safetensors", config, seed=10 + seed, prefix="")
        loras[level] = [(folder / name, 1.0)]
        if draft_shift:
            loras[level].append((folder / f"distilled-{level}.safetensors", DISTILLED_STRENGTH[level]))
    settings = Settings(SIZE, num_frames, steps, guidance, NEGATIVE)
    return Checkpoint(folder, preset, method, settings, draft_shift or 5.0, loras)


def write_transformer(folder: Path, *, channels: int) -> None:
    """A tiny transformer that takes noisy latents of `channels` and nothing else, as those of other bases do."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "text_dim": 32, "num_layers": 2}
    transformer = WanTransformer3DModel(in_channels=channels, out_channels=channels, freq_dim=32, **sizes)
    transformer.save_pretrained(folder)


def write_lora(path: Path, config: dict, *, seed: int, prefix: str) -> None:
    """Random factors for the ten layers of every block, in the spelling of upstream's files."""
    width, ffn = config["num_attention_heads"] * config["attention_head_dim"], config["ffn_dim"]
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for block in range(config["num_layers"]):
        for layer in LORA_NAMES:
            ins, outs = {"ffn.0": (width, ffn), "ffn.2": (ffn, width)}.get(layer, (width, width))
            name = f"{prefix}blocks.{block}.{layer}"
            tensors[f"{name}.lora_A.default.weight"] = 0.3 * torch.randn(RANK, ins, generator=generator)
            tensors[f"{name}.lora_B.default.weight"] = 0.3 * torch.randn(outs, RANK, generator=generator)
    save_file(tensors, path)


def write_picture(path: Path) -> Path:
    """101×67 pixels with soft colours, sharp edges and grain: a little wider than the film, so that it is squashed."""
    y, x = np.mgrid[0:67, 0:101] / 67
    colours = np.stack([200 - 90 * y, 90 + 60 * x, 60 + 120 * y * x], axis=-1)
    colours[np.sin(9 * x) + y > 1] = (30, 60, 90)
    grain = np.random.default_rng(3).normal(0, 12, colours.shape)
    Image.fromarray((colours + grain).clip(0, 255).astype(np.uint8)).save(path)
    return path


def generate(checkpoint: Checkpoint, folder: Path, *flags: str, num_clips: int = 2) -> Made:
    """Run `generate` in this process, as a person would type it; in a folder that holds a film, continue that."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, prompts, film = folder / "picture.png", folder / "prompts.json", folder / "film.mp4"
    write_picture(picture)
    prompts.write_text(json.dumps(PROMPTS[:num_clips]))
    words = ["generate", "--preset", checkpoint.folder / "tiny.yaml", "--image", picture, "--prompts", prompts]
    words += ["--variant", *checkpoint.preset.variants, "--project", folder / "film", "--out", film, "--json"]
    words += ["--clips", num_clips, *flags]
    recorders: list[Recorder] = []
    opened = backends.open_backend

    def recorded(preset: Preset) -> Recorder:
        recorders.append(Recorder(opened(preset)))
        return recorders[-1]

    gc.freeze()  # closing a backend collects garbage: 0.4 s among all that a test session has imported
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
        patch.setattr(backends, "open_backend", recorded)
        patch.setenv("SVI_RESERVE_BYTES", "0")
        code = cli.main([str(word) for word in words])
    gc.unfreeze()
    assert code == 0
    (recorder,) = recorders
    return Made(
        Store.open(folder / "film"),
        picture,
        film,
        tuple(PROMPTS[index // PUBLISHED[checkpoint.method].each_prompt] for index in range(num_clips)),
        recorder.requests,
        recorder.results,
        recorder.seen,
    )
