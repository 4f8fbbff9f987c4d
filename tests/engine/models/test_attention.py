import torch

from engine.models.attention import PlainDenoiser, ReusingDenoiser
from engine.models.untrained import WanSize, build


def denoisers(takes_picture: bool, length: int):
    modules = build(WanSize(), takes_picture=takes_picture)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randn(1, length, 32, generator=generator) for _ in range(2)]
    picture = torch.randn(1, 17, 4, generator=generator) if takes_picture else None
    return [kind(modules.transformer, prompts, picture) for kind in (PlainDenoiser, ReusingDenoiser)]


@torch.inference_mode()
def test_reusing_gives_every_bit_of_the_plain_forward():
    for takes_picture, length in ((True, 512), (False, 512), (False, 20)):
        plain, reusing = denoisers(takes_picture, length)
        for sigma in (1.0, 0.9375, 0.31):
            model_input = torch.randn(1, 36, 3, 4, 6)
            for branch in (0, 1):
                expected = plain(model_input, sigma, branch)
                assert torch.equal(reusing(model_input, sigma, branch), expected)
                assert expected.shape == (1, 16, 3, 4, 6)


@torch.inference_mode()
def test_text_is_projected_once_a_clip_and_patches_once_a_step():
    _, reusing = denoisers(True, 512)
    transformer = reusing.transformer
    calls = {"text": 0, "patch": 0, "key": 0}

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    transformer.blocks[0].attn2.to_k.register_forward_hook(count("key"))
    transformer.condition_embedder.text_embedder.register_forward_hook(count("text"))
    transformer.patch_embedding.register_forward_hook(count("patch"))
    for sigma in (1.0, 0.5):
        model_input = torch.randn(1, 36, 3, 4, 4)
        for branch in (0, 1):
            reusing(model_input, sigma, branch)
    assert calls == {"text": 0, "patch": 2, "key": 0}  # text and keys were projected when the denoiser was made


@torch.inference_mode()
def test_two_inputs_at_the_same_noise_level_are_told_apart():
    plain, reusing = denoisers(True, 512)
    for _ in range(2):
        model_input = torch.randn(1, 36, 3, 4, 4)
        assert torch.equal(reusing(model_input, 0.5, 0), plain(model_input, 0.5, 0))


@torch.inference_mode()
def test_reusing_follows_the_plain_forward_in_bfloat16():
    plain, reusing = denoisers(True, 512)
    transformer = plain.transformer.to(torch.bfloat16)
    prompts = [prompt.bfloat16() for prompt in plain.prompts]
    plain, reusing = (kind(transformer, prompts, plain.picture.bfloat16()) for kind in (PlainDenoiser, ReusingDenoiser))
    model_input = torch.randn(1, 36, 3, 4, 4).bfloat16()
    assert torch.equal(reusing(model_input, 0.7, 1), plain(model_input, 0.7, 1))
