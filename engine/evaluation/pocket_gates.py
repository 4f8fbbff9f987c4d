"""The figures behind the pocket model's vocabulary: `python -m engine bench pocket --sheet FILE.png`."""

from pathlib import Path

from engine.config import Preset
from engine.errors import ConfigError
from engine.models.pocket import load_components
from engine.training.gates import report
from engine.training.pictures import HELD_OUT


def run(preset: Preset, *, sheet: Path | None = None) -> dict:
    """`report` for the model and the sampling settings of a pocket preset, as plain values."""
    if preset.family != "pocket":
        raise ConfigError(f"The preset “{preset.name}” is not a pocket model.", "Use the preset “pocket”.")
    width, height = preset.resolutions[0]
    components = load_components(preset.path(preset.model))
    measured = report(
        components,
        size=(height, width),
        num_inference_steps=preset.num_inference_steps,
        shift=preset.shift,
        sheet=sheet,
    )
    return measured.as_dict()


def table(measured: dict) -> str:
    """The values of `run` as a Markdown table, one row per action."""
    rows = [
        "| action | photographs: generated / nothing moves / linear map / codec | worst | toy scenes | gate |",
        "|---|---|---|---|---|",
    ]
    for name, photos in measured["photos"].items():
        toys = _cells(measured["toys"][name]) if measured["toys"] else "-"
        gate = "passes" if name in measured["passed"] else "fails"
        rows.append(f"| {name} | {_cells(photos)} | {photos['worst']:.1f} | {toys} | {gate} |")
    height, width = measured["size"]
    steps = measured["num_inference_steps"]
    rows.append(
        f"\nPSNR in dB of the last frame against the true one, mean over {len(HELD_OUT)} held-out photographs; "
        f"{width}×{height}, {steps} sampling steps. Codec alone on still photographs: {measured['codec']:.1f}."
    )
    return "\n".join(rows)


def _cells(figures: dict[str, float]) -> str:
    return " / ".join(f"{figures[name]:.1f}" for name in ("generated", "still", "linear", "ceiling"))
