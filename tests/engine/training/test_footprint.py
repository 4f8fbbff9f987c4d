"""The formulas against what models really hold, allocate and count."""

import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from engine.errors import InputError
from engine.models.lora import MODULES_PER_BLOCK, without_weights
from engine.models.published import WAN_I2V_14B
from engine.models.untrained import WanSize, build
from engine.training.footprint import (
    LatentShape,
    activation_bytes,
    forward_flops,
    measure,
    state_items,
    step_flops,
    wan_encoders,
)

LATENTS = LatentShape.of(832, 480, 81)
CONTEXT = {"text_tokens": 512, "picture_tokens": 257}


class Allocations(TorchDispatchMode):
    """Bytes of all tensors made while it is on and not freed yet: `current`, and their `peak`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.current = self.peak = 0
        self.known = weakref.WeakSet(tensor.untyped_storage() for tensor in (*module.parameters(), *module.buffers()))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self.known:
                self.known.add(tensor.untyped_storage())
                self.current += tensor.untyped_storage().nbytes()
                self.peak = max(self.peak, self.current)
                weakref.finalize(tensor.untyped_storage(), self._free, tensor.untyped_storage().nbytes())
        return result

    def _free(self, num_bytes: int) -> None:
        self.current -= num_bytes


def adapted(config, rank: int) -> nn.Module:
    """The transformer of `config` without weights, with the LoRA that training adds."""
    from peft import LoraConfig

    transformer = without_weights(config).requires_grad_(False)
    with torch.device("meta"):
        transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(MODULES_PER_BLOCK)))
    return transformer.train()


def fill(transformer: nn.Module, dtype_of) -> None:
    """Give every parameter and buffer numbers (of no value), real or fake; only the LoRA needs gradients."""
    for path, module in transformer.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            full = f"{path}.{name}"
            made = torch.empty(parameter.shape, dtype=dtype_of(full))
            setattr(module, name, nn.Parameter(made, requires_grad="lora_" in full))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype), persistent=False)


def test_a_14b_lora_is_800_tensors_on_400_layers():
    size = measure(WAN_I2V_14B, 128)
    assert size.lora_modules == 400
    assert size.lora_parameters == size.trainable == 613_416_960  # as the published files have
    assert 2 * size.parameters == pytest.approx(33e9, rel=0.01)  # "the bf16 DiT alone is about 33 GB"
    assert 2 * size.block_parameters == pytest.approx(808e6, rel=0.001)  # a block is 808 MB
    assert size.blocks == 40


def test_counts_are_those_of_a_model_with_the_adapter():
    config = build(WanSize()).transformer.config
    counted = [parameter for parameter in adapted(config, 4).parameters() if parameter.requires_grad]
    size = measure(config, 4)
    assert size.lora_parameters == sum(parameter.numel() for parameter in counted)
    assert 2 * size.lora_modules == len(counted)
    assert measure(config, None).trainable == sum(
        parameter.numel() for parameter in without_weights(config).parameters()
    )


def test_weights_take_what_diffusers_loads_in_bfloat16(tmp_path):
    transformer = build(WanSize()).transformer
    transformer.save_pretrained(tmp_path)
    loaded = type(transformer).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    expected = sum(parameter.numel() * parameter.element_size() for parameter in loaded.parameters())
    size = measure(transformer.config, 4)
    assert size.weight_bytes("bfloat16") == expected
    assert size.weight_bytes("float32") == 4 * size.parameters


def test_480p_has_32760_tokens():
    assert LatentShape(16, 21, 60, 104) == LATENTS
    assert measure(WAN_I2V_14B, 128).num_tokens(LATENTS) == 21 * 30 * 52 == 32_760


@pytest.mark.parametrize("clip", [(832, 480, 80), (830, 480, 81), (832, 488, 81)])
def test_a_clip_without_latents_is_refused(clip):
    with pytest.raises(InputError, match=r"has no latents\. It needs 4n \+ 1 frames"):
        LatentShape.of(*clip)


def test_plain_training_holds_value_gradient_and_two_moments_of_every_trained_parameter():
    size = measure(WAN_I2V_14B, 128)
    one = {item.name: item.num_bytes for item in state_items(size, "plain", 1, "bfloat16")}
    assert one["trained values, float32"] == one["gradients, float32"] == 4 * 613_416_960
    assert one["AdamW moments, float32"] == 8 * 613_416_960
    eight = state_items(size, "plain", 8, "bfloat16")
    assert sum(item.num_bytes for item in eight) - sum(one.values()) == 4 * 613_416_960  # DDP's buckets


def test_plain_state_is_what_adamw_and_ddp_free_training_hold():
    """Counted on a real optimizer after a step."""
    config = build(WanSize()).transformer.config
    transformer = adapted(config, 4)
    fill(transformer, lambda name: torch.float32)
    trained = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    items = {item.name: item.num_bytes for item in state_items(measure(config, 4), "plain", 1, "float32")}
    assert items["AdamW moments, float32"] == sum(moment.numel() * moment.element_size() for moment in moments)
    assert items["gradients, float32"] == sum(parameter.grad.numel() * 4 for parameter in trained)


@pytest.mark.parametrize("strategy", ["zero2", "fsdp"])
def test_what_is_spread_shrinks_with_the_ranks(strategy):
    size = measure(WAN_I2V_14B, 128)
    totals = [sum(item.num_bytes for item in state_items(size, strategy, ranks, "bfloat16")) for ranks in (1, 2, 8, 64)]
    assert totals == sorted(totals, reverse=True)
    spread = 18 * size.lora_parameters if strategy == "zero2" else 16 * size.lora_parameters
    spread += size.weight_bytes("bfloat16") if strategy == "fsdp" else 0
    assert totals[0] - totals[2] == pytest.approx(spread * 7 / 8, abs=8)


@pytest.mark.parametrize("strategy", ["plain", "zero2"])
@pytest.mark.parametrize(
    ("checkpointing", "tolerance"),
    [
        ("blocks", 0.02),
        pytest.param("none", 0.05, marks=pytest.mark.slow),  # its peak is in the forward pass, with less beside it
    ],
)
def test_the_formula_of_activations_is_what_a_14b_step_allocates(strategy, checkpointing, tolerance):
    """Forward and backward of diffusers' own code at full size, two blocks, with tensors that have no storage.

    plain: autocast, LoRA in float32. zero2: everything in bfloat16, as DeepSpeed leaves it.
    """
    config = WAN_I2V_14B | {"num_layers": 2}
    transformer = adapted(config, 128)
    kept = set(transformer._keep_in_fp32_modules)

    def dtype_of(name: str) -> torch.dtype:
        precise = strategy == "plain" and ("lora_" in name or kept & set(name.split(".")))
        return torch.float32 if precise else torch.bfloat16

    if checkpointing == "blocks":
        transformer.enable_gradient_checkpointing()
    with FakeTensorMode():
        fill(transformer, dtype_of)
        inputs = {
            "hidden_states": torch.empty(1, 36, *LATENTS.as_tuple[1:], dtype=torch.bfloat16),
            "encoder_hidden_states": torch.empty(1, 512, 4096, dtype=torch.bfloat16),
            "encoder_hidden_states_image": torch.empty(1, 257, 1280, dtype=torch.bfloat16),
            "timestep": torch.empty(1),
        }
        with Allocations(transformer) as allocations:
            with torch.autocast("cpu", torch.bfloat16) if strategy == "plain" else nullcontext():
                loss = transformer(**inputs, return_dict=False)[0].float().square().mean()
            loss.backward()
    options = {"batch_size": 1, **CONTEXT, "strategy": strategy, "dtype": "bfloat16", "checkpointing": checkpointing}
    planned, on_host = activation_bytes(measure(config, 128), LATENTS, **options)
    assert planned == pytest.approx(allocations.peak, rel=tolerance)
    assert on_host == 0


@pytest.mark.parametrize("rank", [8, None])
@pytest.mark.parametrize("checkpointing", ["blocks", "none"])
def test_the_formula_of_activations_holds_for_a_small_float32_model(rank, checkpointing):
    """The pocket's sizes: no picture encoder, and also with every weight trained."""
    config = {
        "patch_size": (1, 1, 1),
        "num_attention_heads": 6,
        "attention_head_dim": 32,
        "in_channels": 100,
        "out_channels": 48,
        "text_dim": 96,
        "freq_dim": 64,
        "ffn_dim": 640,
        "num_layers": 2,
        "rope_max_seq_len": 256,
    }
    latents, batch_size = LatentShape(48, 7, 12, 18), 2
    transformer = adapted(config, rank) if rank else without_weights(config).train()
    if checkpointing == "blocks":
        transformer.enable_gradient_checkpointing()
    with FakeTensorMode():
        fill(transformer, lambda name: torch.float32)
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_(rank is None or "lora_" in name)
        embeds = torch.empty(batch_size, 20, 96)
        inputs = torch.empty(batch_size, 100, *latents.as_tuple[1:]), torch.empty(batch_size), embeds
        with Allocations(transformer) as allocations:
            transformer(*inputs, return_dict=False)[0].square().mean().backward()
    size = measure(config, rank)
    options = {"text_tokens": 20, "picture_tokens": 0, "strategy": "plain", "dtype": "float32"}
    planned, _ = activation_bytes(size, latents, batch_size=batch_size, checkpointing=checkpointing, **options)
    gradients = 4 * size.trainable  # allocated as the backward pass goes on, and counted by `state_items`
    assert planned / 1.1 < allocations.peak < 1.1 * planned + gradients


def test_checkpoints_on_the_host_are_the_inputs_of_all_blocks():
    size = measure(WAN_I2V_14B, 128)
    options = {"batch_size": 1, **CONTEXT, "strategy": "plain", "dtype": "bfloat16"}
    on_device, none = activation_bytes(size, LATENTS, checkpointing="blocks", **options)
    less, on_host = activation_bytes(size, LATENTS, checkpointing="blocks on host", **options)
    assert none == 0
    assert on_host == 40 * 32_760 * 5120 * 2  # bfloat16
    assert on_device - less == on_host * 38 // 40  # two stay: the one in use and the one on its way
    doubled, _ = activation_bytes(size, LATENTS, checkpointing="blocks", **options | {"batch_size": 2})
    assert doubled == 2 * on_device


def test_a_14b_forward_pass_is_1686_tflop():
    """performance.md: 1,686 TFLOP a pass, 53 % of it attention."""
    size = measure(WAN_I2V_14B, 128)
    assert forward_flops(size, LATENTS, **CONTEXT) == pytest.approx(1686e12, rel=1e-3)
    attention = 40 * 4 * 32_760 * (32_760 + 769) * 5120
    assert attention / forward_flops(size, LATENTS, **CONTEXT) == pytest.approx(0.53, abs=0.005)


@pytest.mark.parametrize("checkpointing", ["none", "blocks"])
def test_the_operations_of_a_step_are_those_that_torch_counts(checkpointing):
    """Two models that differ by one block; attention as plain products, which do not compute the scores again."""
    latents, rank, counted, planned = LatentShape(16, 3, 16, 16), 8, [], []
    for blocks in (2, 3):
        config = build(WanSize()).transformer.config | {"num_layers": blocks, "ffn_dim": 96}
        transformer = adapted(config, rank)
        fill(transformer, lambda name: torch.float32)
        if checkpointing == "blocks":
            transformer.enable_gradient_checkpointing()
        inputs = {
            "hidden_states": torch.zeros(1, 36, *latents.as_tuple[1:]),
            "encoder_hidden_states": torch.zeros(1, 512, 32),
            "encoder_hidden_states_image": torch.zeros(1, 17, 4),
            "timestep": torch.zeros(1),
        }
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            transformer(**inputs, return_dict=False)[0].square().mean().backward()
        counted.append(counter.get_total_flops())
        options = {"batch_size": 1, "text_tokens": 512, "picture_tokens": 17, "checkpointing": checkpointing}
        planned.append(step_flops(measure(config, rank), latents, **options))
    tokens, width = 3 * 8 * 8, 24
    scores_again = 2 * tokens * (tokens + 512 + 17) * width  # half of attention's two products
    assert counted[1] - counted[0] == pytest.approx(planned[1] - planned[0] - scores_again, rel=0.02)


def test_training_every_weight_counts_their_gradients():
    config = WAN_I2V_14B
    options = {"batch_size": 1, **CONTEXT, "checkpointing": "none"}
    frozen = step_flops(measure(config, 1), LATENTS, **options)
    whole = step_flops(measure(config, None), LATENTS, **options)
    linear = 40 * (12 * 32_760 * 5120**2 + 4 * 32_760 * 5120 * 13_824)
    assert whole - frozen == pytest.approx(linear, rel=0.02)


def test_wans_encoders_are_counted_from_their_configurations():
    """umt5-xxl, CLIP ViT-H/14 and the VAE; 5.6 GiB of activations when it encodes 81 frames at 832×480."""
    items = {item.name: item.num_bytes for item in wan_encoders(832, 480)}
    assert items["text encoder, bfloat16"] == 2 * 5_680_910_336
    assert items["image encoder, float32"] == 4 * 630_766_080
    assert items["VAE, float32"] == 4 * 126_892_531
    assert items["VAE activations, float32"] == pytest.approx(5.6 * 2**30, rel=0.01)
    assert "image encoder, float32" not in {item.name for item in wan_encoders(832, 480, image=None)}


@pytest.mark.slow
def test_encoding_allocates_what_the_plan_says_by_pixel():
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        vae = AutoencoderKLWan().requires_grad_(False)
    with FakeTensorMode(), torch.no_grad():
        fill(vae, lambda name: torch.float32)
        pixels = torch.empty(1, 3, 81, 480, 832)
        with Allocations(vae) as allocations:
            vae.encode(pixels).latent_dist.mode()
    planned = wan_encoders(832, 480, text={"num_layers": 1}, image=None)[-1].num_bytes
    assert planned == pytest.approx(allocations.peak, rel=0.01)
