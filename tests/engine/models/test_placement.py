import pytest
import torch

from engine.models.attention import PlainDenoiser
from engine.models.lora import Lora, LoraModule, LoraSlot
from engine.models.placement import GIB, choose, stream_blocks
from engine.models.untrained import WanSize, build

WAN_14B = (int(30.6 * GIB), int(10.6 * GIB), int(3 * GIB))  # transformer and text encoder in bf16, VAE and CLIP in fp32


@pytest.mark.parametrize(
    ("free", "tier"),
    [
        (139, "resident"),
        (80, "resident"),
        (47, "text on host"),
        (24, "streamed"),
        (16, "streamed"),
        (12, "streamed"),
        (8, "streamed and tiled"),
    ],
)
def test_the_14b_model_finds_a_place_on_every_card(free, tier):
    assert choose(free * GIB, *WAN_14B) == tier


@torch.inference_mode()
def test_streamed_blocks_give_the_same_numbers_and_take_a_lora():
    """On the CPU the copies go nowhere, but hooks, hand-over and fusing are those of a GPU."""
    resident, streamed = (build(WanSize()).transformer for _ in range(2))
    stream_blocks(streamed, torch.device("cpu"))
    prompts, picture = [torch.randn(1, 512, 32)], torch.randn(1, 17, 4)
    model_input = torch.randn(1, 36, 3, 4, 4)
    outputs = []
    change = LoraModule(torch.ones(1, 24), torch.ones(24, 1), 1.0)
    for _ in range(2):
        for transformer in (resident, streamed):
            outputs.append(PlainDenoiser(transformer, prompts, picture)(model_input, 0.5, 0))
            LoraSlot(transformer).fuse([(Lora("all ones", {"blocks.1.attn1.to_v": change}, {}), 0.5)])
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[2], outputs[3])
    assert not torch.equal(outputs[0], outputs[2])
