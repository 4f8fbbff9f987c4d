"""The video models with the same weights and less work on a CPU: convolutions over time as convolutions over frames.

A batch-1 float Conv3d with N·C·D·H ≤ 20,480 runs PyTorch's `slow_conv3d`, ten times slower than oneDNN. Laying the
temporal taps side by side in the channels of a Conv2d gives the same sums in another order (differences near 1e-6).
"""

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm
from torch import Tensor, nn
from torch.nn import functional


def conv3d_by_frames(
    video: Tensor, folded: Tensor, bias: Tensor | None, *, taps: int, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Tensor:
    """`conv3d` of video (B, C, T, H, W), padded in time already and by `padding` (height, width) here.

    folded: the weight as (out, taps · C, kh, kw).
    """
    batch, _, num_frames = video.shape[:3]
    step = stride[0]
    count = (num_frames - taps) // step + 1
    frames = video.transpose(1, 2)  # (B, T, C, H, W)
    if taps == 1 and step == 1:
        stacked = frames
    else:
        stacked = torch.cat([frames[:, i : i + (count - 1) * step + 1 : step] for i in range(taps)], dim=2)
    output = functional.conv2d(stacked.flatten(0, 1), folded, bias, stride[1:], padding)
    return output.unflatten(0, (batch, count)).transpose(1, 2)


class FramewiseConv3d(nn.Conv3d):
    """`nn.Conv3d` without temporal padding, computed frame by frame."""

    def forward(self, video: Tensor) -> Tensor:
        return conv3d_by_frames(
            video, self.folded, self.bias, taps=self.kernel_size[0], stride=self.stride, padding=self.padding[1:]
        )


class FramewiseCausalConv3d(WanCausalConv3d):
    """`WanCausalConv3d` computed frame by frame; frames remembered from the previous chunk come first."""

    def forward(self, video: Tensor, cache_x: Tensor | None = None) -> Tensor:
        before = self._padding[4]
        if cache_x is not None and before > 0:
            video = torch.cat([cache_x, video], dim=2)
            before -= cache_x.shape[2]
        if before:
            video = functional.pad(video, (0, 0, 0, 0, before, 0))
        padding = (self._padding[2], self._padding[0])
        return conv3d_by_frames(
            video, self.folded, self.bias, taps=self.kernel_size[0], stride=self.stride, padding=padding
        )


class SummingRMSNorm(WanRMS_norm):
    """`WanRMS_norm` over channels by a plain sum of squares: `linalg_vector_norm` along that dimension is 9 times
    slower, a quarter of a decode."""

    def forward(self, x: Tensor) -> Tensor:
        length = x.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        return x * (self.scale / length) * self.gamma + self.bias


def fold_for_cpu(model: nn.Module) -> None:
    """Let the 3-D convolutions and channel norms of a float32 `model` compute the fast way. Names and hooks stay.

    The weights are copied in their new order: call this when they are final. One tap over time, as the transformer's
    patches have, leaves the order as it is, and no copy: a LoRA may still change those.
    """
    for module in model.modules():
        if type(module) is WanRMS_norm and module.channel_first:
            module.__class__ = SummingRMSNorm
            continue
        if type(module) is WanCausalConv3d:
            module.__class__ = FramewiseCausalConv3d
        elif type(module) is nn.Conv3d and module.padding[0] == 0 and module.groups == 1:
            module.__class__ = FramewiseConv3d
        else:
            continue
        folded = module.weight.detach().transpose(1, 2).flatten(1, 2).contiguous()
        module.register_buffer("folded", folded, persistent=False)
