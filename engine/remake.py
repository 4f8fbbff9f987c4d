"""The same film for another model: its storyline, seeds and picture in a new project, and none of its takes.

So a laptop sketches and a GPU finishes. The project that it comes from is not touched.
"""

from pathlib import Path

from engine import film
from engine.config import Preset
from engine.domain import Clip, Project, Resolution, new_id
from engine.media import image
from engine.project.store import Store


def remake(store: Store, preset: Preset, folder: Path, *, hd: bool = False) -> Store:
    """A copy of the project in `store`, in `folder`, to be made with `preset`: in its nearest size to the picture, with
    its own steps, guidance, LoRA strength and negative prompt. hd: in the nearest of its large sizes.

    Clips keep their ids, prompts, captions, seeds and negative prompts of their own; a chosen take is let go. Raises
    `ConfigError` when the preset does not make this variant, `InputError` when `folder` holds a project.
    """
    project = store.load()
    film.refuse_existing(folder)
    height, width = image.load(store.anchor_file(project)).shape[:2]
    copy = remade(project, preset, preset.resolution_for(width, height, hd=hd))
    return Store.create(folder, copy, store.anchor_file(project))


def remade(project: Project, preset: Preset, resolution: Resolution) -> Project:
    """What the copy says: the creator's words and seeds, and the preset's settings."""
    preset.variant(project.variant)
    has_drafts = preset.draft is not None
    changes = {
        "id": new_id(),
        "preset": preset.name,
        "resolution": resolution,
        "num_inference_steps": preset.num_inference_steps,
        "guidance_scale": preset.guidance_scale,
        "negative_prompt": preset.negative_prompt,
        "lora_strength": preset.variants[project.variant].lora_strength,
        "draft": project.draft and has_drafts,
        "clips": tuple(remade_clip(clip, has_drafts=has_drafts) for clip in project.clips),
        "remake_of": project.id,
        "rev": 0,
    }
    return project.model_copy(update=changes)


def remade_clip(clip: Clip, *, has_drafts: bool) -> Clip:
    return clip.model_copy(update={"pinned_take": None, "draft": clip.draft if has_drafts else None})
