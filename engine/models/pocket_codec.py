"""The pocket model's video codec: a causal patch transform, fitted in closed form, without training.

Frame 0 alone, then groups of four frames. Each 8×8 patch is written in an orthonormal basis: `spatial` coefficients of
the frame (of a group: of its mean over time, so that a still picture has the same coefficients everywhere) and `motion`
coefficients of what changes inside a group (zero for frame 0). Three more channels hold x, y and t, since rotary
attention knows only relative positions. The decoder adds what the neighbouring codes say about the part of a patch the
basis leaves out; that part is orthogonal to the basis, so encode(decode(latents)) gives the same latents back.

Shapes: pixels (B, 3, F, H, W) in [−1, 1], F = 4n + 1, H and W multiples of 8; latents (B, C, f, h, w), normalised.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 8
GROUP = 4
PATCH_DIM = 3 * STRIDE * STRIDE
COORDINATES = 3
T_SCALE = 3  # latent frames per unit of the t channel: seven of them span [−1, 1]


class PocketCodec(nn.Module):
    """Linear 8×8×4 patch codec with coordinate channels. All weights are buffers."""

    spatial_stride = STRIDE
    temporal_stride = GROUP

    def __init__(self, num_spatial: int, num_motion: int) -> None:
        super().__init__()
        self.num_spatial, self.num_motion = num_spatial, num_motion
        self.register_buffer("spatial_basis", torch.zeros(num_spatial, 3, STRIDE, STRIDE))
        self.register_buffer("motion_basis", torch.zeros(num_motion, GROUP, 3, STRIDE, STRIDE))
        self.register_buffer("overlap", torch.zeros(PATCH_DIM, num_spatial, 3, 3))
        self.register_buffer("mean", torch.zeros(self.num_coded))
        self.register_buffer("std", torch.ones(self.num_coded))

    @property
    def num_coded(self) -> int:
        """Channels that hold the picture; the last `COORDINATES` of `latent_channels` do not."""
        return self.num_spatial + self.num_motion

    @property
    def latent_channels(self) -> int:
        return self.num_coded + COORDINATES

    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def encode(self, pixels: Tensor) -> Tensor:
        """Normalised latents (B, C, f, h, w) of a video whose number of frames is 4n + 1."""
        check_pixels(pixels)
        first, rest = pixels[:, :, 0], pixels[:, :, 1:]
        coded = self._encode_first(first)[:, :, None]  # (B, C, 1, h, w)
        if rest.shape[2]:
            coded = torch.cat([coded, self._encode_groups(rest)], dim=2)
        normalised = (coded - _channels(self.mean)) / _channels(self.std)
        return torch.cat([normalised, coordinates(normalised)], dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, 4f − 3, H, W) of normalised latents, not clamped."""
        coded = latents[:, : self.num_coded] * _channels(self.std) + _channels(self.mean)
        batch, _, num_latent_frames, height, width = coded.shape
        spatial, motion = coded.split([self.num_spatial, self.num_motion], dim=1)
        frames = self._decode_spatial(_fold(spatial)).unflatten(0, (batch, num_latent_frames))  # (B, f, 3, H, W)
        changes = functional.conv_transpose2d(_fold(motion[:, :, 1:]), self.motion_basis.flatten(1, 2), stride=STRIDE)
        changes = changes.view(batch, num_latent_frames - 1, GROUP, 3, height * STRIDE, width * STRIDE)
        groups = (frames[:, 1:, None] + changes).flatten(1, 2)
        return torch.cat([frames[:, :1], groups], dim=1).transpose(1, 2)

    def as_condition(self, errors: Tensor) -> Tensor:
        """What of errors in latents (B, C, k, h, w) is left when frames are handed on as the next condition.

        Coordinates are written anew by the encoder, and a first frame has no motion coefficients.
        """
        kept = errors.clone()
        kept[:, self.num_coded :] = 0
        kept[:, self.num_spatial :, 0] = 0
        return kept

    def _encode_first(self, frame: Tensor) -> Tensor:
        spatial = functional.conv2d(frame, self.spatial_basis, stride=STRIDE)
        motion = spatial.new_zeros(spatial.shape[0], self.num_motion, *spatial.shape[2:])
        return torch.cat([spatial, motion], dim=1)

    def _encode_groups(self, frames: Tensor) -> Tensor:
        batch, num_groups = frames.shape[0], frames.shape[2] // GROUP
        groups = frames.transpose(1, 2).reshape(batch * num_groups, GROUP, 3, *frames.shape[3:])
        spatial = functional.conv2d(groups.mean(1), self.spatial_basis, stride=STRIDE)
        motion = functional.conv2d(groups.flatten(1, 2), self.motion_basis.flatten(1, 2), stride=STRIDE)
        return torch.cat([spatial, motion], dim=1).unflatten(0, (batch, num_groups)).transpose(1, 2)

    def _decode_spatial(self, spatial: Tensor) -> Tensor:
        inside = functional.conv_transpose2d(spatial, self.spatial_basis, stride=STRIDE)
        padded = functional.pad(spatial, (1, 1, 1, 1), mode="replicate")
        outside = functional.conv2d(padded, self.overlap)
        return inside + functional.pixel_shuffle(outside, STRIDE)

    def save(self, folder: Path) -> None:
        """Write config.json and codec.safetensors into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"num_spatial": self.num_spatial, "num_motion": self.num_motion}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / "codec.safetensors")

    @classmethod
    def load(cls, folder: Path) -> "PocketCodec":
        codec = cls(**json.loads((folder / "config.json").read_text()))
        codec.load_state_dict(load_file(folder / "codec.safetensors"))
        return codec.eval()


def check_pixels(pixels: Tensor) -> None:
    """Raise ValueError unless `pixels` is (B, 3, 4n + 1, 8h, 8w)."""
    _, channels, num_frames, height, width = pixels.shape
    if channels != 3 or num_frames % GROUP != 1 or height % STRIDE or width % STRIDE:
        raise ValueError(f"expected pixels (B, 3, 4n + 1, 8h, 8w), got {tuple(pixels.shape)}")


def coordinates(latents: Tensor) -> Tensor:
    """Constant channels x, y, t (B, 3, f, h, w): x and y in [−1, 1] over the picture, t from −1, 1/3 a latent frame."""
    batch, _, num_frames, height, width = latents.shape
    like = {"device": latents.device, "dtype": latents.dtype}
    t = torch.arange(num_frames, **like) / T_SCALE - 1
    y, x = (2 * (torch.arange(size, **like) + 0.5) / size - 1 for size in (height, width))
    t, y, x = torch.meshgrid(t, y, x, indexing="ij")
    return torch.stack([x, y, t]).expand(batch, -1, -1, -1, -1)


def fit(pictures: Tensor, changes: Tensor, *, num_spatial: int, num_motion: int, ridge: float = 1e-3) -> PocketCodec:
    """Fit every weight of the codec in closed form.

    pictures: (N, 3, H, W) in [−1, 1]; changes: (M, 3, 4, H, W), the frames of a group minus their mean over time.
    The bases are principal components (uncentred, so grey is the zero code); `overlap` is a ridge regression.
    """
    codec = PocketCodec(num_spatial, num_motion).double()
    patches = _patches(pictures.double())  # (N·h·w, 192)
    spatial = _principal(patches, num_spatial)
    codec.spatial_basis.copy_(spatial.view_as(codec.spatial_basis))
    groups = functional.unfold(changes.double().transpose(1, 2).flatten(1, 2), STRIDE, stride=STRIDE)
    motion = _principal(groups.transpose(1, 2).flatten(0, 1), num_motion)
    codec.motion_basis.copy_(motion.view_as(codec.motion_basis))

    codes = functional.conv2d(pictures.double(), codec.spatial_basis, stride=STRIDE)
    neighbours = functional.unfold(functional.pad(codes, (1, 1, 1, 1), mode="replicate"), 3)
    neighbours = neighbours.transpose(1, 2).flatten(0, 1)  # (N·h·w, S·9)
    left_out = patches - patches @ spatial.T @ spatial
    weights = _ridge(neighbours, left_out, ridge)
    weights = weights - weights @ spatial.T @ spatial  # exactly orthogonal to the basis
    codec.overlap.copy_(weights.T.view_as(codec.overlap))

    codec.mean[:num_spatial] = codes.mean((0, 2, 3))
    codec.std[:num_spatial] = codes.std((0, 2, 3))
    codec.std[num_spatial:] = (groups.transpose(1, 2).flatten(0, 1) @ motion.T).std(0)
    return codec.float().eval()


def _channels(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1, 1)


def _fold(latents: Tensor) -> Tensor:
    return latents.transpose(1, 2).flatten(0, 1)  # (B·f, C, h, w)


def _patches(pictures: Tensor) -> Tensor:
    return functional.unfold(pictures, STRIDE, stride=STRIDE).transpose(1, 2).flatten(0, 1)


def _principal(vectors: Tensor, count: int) -> Tensor:
    """The `count` strongest principal directions (count, D) of rows `vectors`, about zero."""
    _, directions = torch.linalg.eigh(vectors.T @ vectors)
    return directions.flip(1)[:, :count].T.contiguous()


def _ridge(inputs: Tensor, targets: Tensor, strength: float) -> Tensor:
    gram = inputs.T @ inputs
    damping = strength * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + damping, inputs.T @ targets)
