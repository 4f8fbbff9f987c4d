"""Pictures to train and to measure on: photographs that ship inside installed packages, and procedural scenes.

Photographs are found at run time, none is copied. Whole ones are held out for the gates.
"""

import logging
import random
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from engine.pocket import scenes

log = logging.getLogger(__name__)

PHOTOS = (
    ("gradio", "media_assets/images/cheetah1.jpg"),
    ("gradio", "media_assets/images/cheetah.jpg"),
    ("gradio", "media_assets/images/groot.jpeg"),
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/camera.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/retina.jpg"),
    ("skimage", "data/grass.png"),
    ("skimage", "data/gravel.png"),
    ("skimage", "data/brick.png"),
    ("sklearn", "datasets/images/flower.jpg"),
)
HELD_OUT = (
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("gradio", "media_assets/images/lion.jpg"),
    ("gradio", "media_assets/images/tower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
)
SCENE_SIZE = (144, 192)
MIN_CROP = 0.35  # of the picture's smaller side


def find_photos(names: tuple[tuple[str, str], ...]) -> list[Path]:
    """Paths of the photographs that are installed here; `names` are (package, path inside it)."""
    found = []
    for package, inside in names:
        spec = find_spec(package)
        path = Path(spec.origin).parent / inside if spec and spec.origin else None
        if path and path.is_file():
            found.append(path)
        else:
            log.warning("no photograph %s in package %s", inside, package)
    return found


def load_photo(path: Path) -> Tensor:
    """(3, H, W) in [−1, 1]."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def resize(pictures: Tensor, height: int, width: int) -> Tensor:
    resized = functional.interpolate(pictures, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return resized.clamp(-1, 1)


def toy_scenes(count: int, height: int, width: int, seed: int) -> Tensor:
    """(count, 3, height, width) procedural pictures in [−1, 1]."""
    rng = np.random.default_rng(seed)
    pictures = np.stack([scenes.scene(rng, height, width) for _ in range(count)])
    return torch.from_numpy(pictures).float().permute(0, 3, 1, 2) * 2 - 1


class PictureSource:
    """Endless random pictures: crops of photographs (`photo_share` of them) and of scenes, with colour changes."""

    def __init__(self, *, num_scenes: int, photo_share: float, seed: int, names: tuple[tuple[str, str], ...] = PHOTOS):
        self.photos = [_shrunk(load_photo(path)) for path in find_photos(names)] if photo_share else []
        self.scenes = toy_scenes(num_scenes, *SCENE_SIZE, seed)
        self.photo_share = photo_share if self.photos else 0.0

    def draw(self, height: int, width: int, rng: random.Random) -> Tensor:
        """One picture (3, height, width) in [−1, 1]."""
        if rng.random() < self.photo_share:
            picture = rng.choice(self.photos)
        else:
            picture = self.scenes[rng.randrange(len(self.scenes))]
        return recolour(_random_crop(picture, height, width, rng), rng)


def recolour(picture: Tensor, rng: random.Random) -> Tensor:
    """Random mirror, saturation, contrast, brightness, colour cast and, seldom, swapped colour channels."""
    if rng.random() < 0.5:
        picture = picture.flip(-1)
    if rng.random() < 0.15:
        picture = picture[torch.tensor(rng.sample(range(3), 3))]
    if rng.random() < 0.7:
        grey = picture.mean(0, keepdim=True)
        picture = grey + rng.uniform(0.2, 1.5) * (picture - grey)
        cast = torch.tensor([rng.gauss(0, 0.08) for _ in range(3)]).view(3, 1, 1)
        picture = picture * rng.uniform(0.6, 1.2) + rng.gauss(0, 0.15) + cast
    return picture.clamp(-1, 1)


def _shrunk(photo: Tensor, side: int = 320) -> Tensor:
    scale = side / min(photo.shape[1:])
    if scale >= 1:
        return photo
    return resize(photo[None], round(photo.shape[1] * scale), round(photo.shape[2] * scale))[0]


def _random_crop(picture: Tensor, height: int, width: int, rng: random.Random) -> Tensor:
    fits = min(picture.shape[1] / height, picture.shape[2] / width)
    scale = fits * rng.uniform(MIN_CROP, 1.0)
    scale = min(max(scale, 0.8), fits) if fits > 0.8 else fits
    crop_height, crop_width = max(1, int(height * scale)), max(1, int(width * scale))
    top, left = rng.randint(0, picture.shape[1] - crop_height), rng.randint(0, picture.shape[2] - crop_width)
    return resize(picture[None, :, top : top + crop_height, left : left + crop_width], height, width)[0]
