"""The tokens of one pass shared among ranks, by diffusers' Ulysses attention.

Each rank holds its share of the tokens; in self-attention each has all tokens of its share of the heads.
"""

import warnings

import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks.context_parallel import apply_context_parallel, remove_context_parallel
from diffusers.models._modeling_parallel import ContextParallelConfig
from diffusers.models._modeling_parallel import ParallelConfig as Sharing
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch.distributed.device_mesh import DeviceMesh

from engine.errors import BackendUnavailable


def token_sharing(mesh: DeviceMesh) -> Sharing:
    """How the ranks of dimension "ulysses" of `mesh` share the tokens of a pass."""
    config = Sharing(ContextParallelConfig(ulysses_degree=mesh["ulysses"].size(), mesh=mesh))
    warnings.filterwarnings("ignore", message=".*all_gather_tensor.*deprecated", category=FutureWarning)  # diffusers'
    config.setup(mesh.get_rank(), mesh.size(), torch.device(mesh.device_type), mesh=mesh)
    return config


def share_tokens(transformer: WanTransformer3DModel, sharing: Sharing | None) -> None:
    """Let ranks share the tokens of every pass of `transformer` by Ulysses; None undoes it.

    What `enable_parallelism` does, which cannot be undone and divides by the number of accelerators, 0 on a CPU.
    """
    plan = {name: parts for name, parts in transformer._cp_plan.items() if name}  # "": timesteps of single tokens
    remove_context_parallel(transformer, plan)
    if sharing is not None:
        check_kernel(transformer)
        apply_context_parallel(transformer, sharing.context_parallel_config, plan)
    for block in transformer.blocks:
        block.attn1.processor._parallel_config = sharing


def check_kernel(transformer: WanTransformer3DModel) -> None:
    """Raise `BackendUnavailable` for an attention kernel that would look at this rank's tokens only."""
    kernel = transformer.blocks[0].attn1.processor._attention_backend
    if kernel is None:
        kernel, _ = _AttentionBackendRegistry.get_active_backend()
    if not _AttentionBackendRegistry._is_context_parallel_available(kernel):
        raise BackendUnavailable(
            f"The attention kernel “{kernel.value}” cannot share tokens among GPUs.", "Set `attention: native`."
        )
