import copy

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm
from torch import nn

from engine.models.folding import fold_for_cpu
from engine.models.untrained import WanSize, build


def folded(module: nn.Module) -> nn.Module:
    other = copy.deepcopy(module)
    fold_for_cpu(other)
    return other


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 1, 1), (1, 1, 0), ((3, 1, 1), 1, (1, 0, 0)), ((3, 1, 1), (2, 1, 1), 0), ((2, 3, 3), (1, 2, 2), (0, 1, 1))],
)
@pytest.mark.parametrize("cached", [0, 1, 2])
@torch.inference_mode()
def test_a_causal_convolution_gives_the_same_sums(kernel, stride, padding, cached):
    torch.manual_seed(0)
    conv = WanCausalConv3d(5, 7, kernel, stride, padding)
    video = torch.randn(2, 5, 5, 6, 8)
    cache = torch.randn(2, 5, cached, 6, 8) if cached else None
    torch.testing.assert_close(folded(conv)(video, cache), conv(video, cache), rtol=0, atol=5e-6)


@torch.inference_mode()
def test_a_patch_embedding_gives_the_same_sums():
    torch.manual_seed(0)
    conv = nn.Conv3d(36, 24, (1, 2, 2), (1, 2, 2))
    video = torch.randn(1, 36, 3, 8, 6)
    torch.testing.assert_close(folded(conv)(video), conv(video), rtol=0, atol=5e-6)


@torch.inference_mode()
def test_the_vae_stays_the_same_over_many_chunks():
    vae = build(WanSize(vae_multipliers=(1, 2, 2, 2), vae_dim=4)).vae
    pixels = torch.rand(1, 3, 17, 16, 16) * 2 - 1
    latents = vae.encode(pixels).latent_dist.mode()
    other = folded(vae)
    torch.testing.assert_close(other.encode(pixels).latent_dist.mode(), latents, rtol=0, atol=7e-6)
    torch.testing.assert_close(other.decode(latents).sample, vae.decode(latents).sample, rtol=0, atol=7e-6)


@pytest.mark.parametrize("images", [True, False])
@torch.inference_mode()
def test_a_channel_norm_gives_the_same_numbers(images):
    torch.manual_seed(0)
    norm = WanRMS_norm(5, images=images)
    norm.gamma.data += torch.randn_like(norm.gamma)
    video = torch.randn(2, 5, 6, 8) if images else torch.randn(2, 5, 3, 6, 8)
    video[:, :, 0] = 0
    torch.testing.assert_close(folded(norm)(video), norm(video), rtol=0, atol=5e-6)


def test_folding_keeps_the_names_of_weights():
    vae = build(WanSize()).vae
    assert folded(vae).state_dict().keys() == vae.state_dict().keys()
