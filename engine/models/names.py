"""What the parts of a Wan transformer are called: by upstream (Wan-AI's checkpoints, ComfyUI, GGUF) and by diffusers.

The tables follow svi.md §2.3 and diffusers' scripts/convert_wan_to_diffusers.py. Each entry is a module or a lone
parameter; a tensor's name is that of its module and `.weight` or `.bias`. `norm2` and `norm3` are swapped: upstream
numbers the norms as they were written, diffusers as they are applied.
"""

BLOCK_NAMES = {  # below blocks.N
    **{f"self_attn.{letter}": f"attn1.to_{letter}" for letter in "qkv"},
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    **{f"cross_attn.{letter}": f"attn2.to_{letter}" for letter in "qkv"},
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
OUTER_NAMES = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
PICTURE_PARTS = ("add_k_proj", "add_v_proj", "norm_added_k", "image_embedder")  # absent where CLIP is not used (2.2)
_TO_UPSTREAM = ({ours: theirs for theirs, ours in BLOCK_NAMES.items()}, {v: k for k, v in OUTER_NAMES.items()})
_OWN = ({ours: ours for ours in BLOCK_NAMES.values()}, {ours: ours for ours in OUTER_NAMES.values()})
_UNDERSCORED = tuple(
    {name.replace(".", "_"): ours for theirs, ours in table.items() for name in (theirs, ours)}
    for table in (BLOCK_NAMES, OUTER_NAMES)
)


def diffusers_name(name: str) -> str | None:
    """What diffusers calls the module or tensor that upstream calls `name`; None for what is no part of the model."""
    return _looked_up(name, (BLOCK_NAMES, OUTER_NAMES))


def upstream_name(name: str) -> str:
    """What upstream calls the module or tensor that diffusers calls `name`: the inverse of `diffusers_name`."""
    found = _looked_up(name, _TO_UPSTREAM)
    if found is None:
        raise KeyError(name)
    return found


def module_name(name: str) -> str | None:
    """diffusers' name of a module in either spelling; kohya's too, with underscores for dots (`blocks_0_ffn_0`)."""
    return diffusers_name(name) or _looked_up(name, _OWN) or _underscored(name)


def _looked_up(name: str, tables: tuple[dict[str, str], dict[str, str]]) -> str | None:
    """`name` by the table of blocks or the outer one; the last part (`weight`, `bias`) may follow the entry."""
    start, table = "", tables[1]
    if name.startswith("blocks."):
        _, index, name = (*name.split(".", 2), "")[:3]
        if not _is_index(index):
            return None
        start, table = f"blocks.{index}.", tables[0]
    if name in table:
        return start + table[name]
    stem, _, last = name.rpartition(".")
    return f"{start}{table[stem]}.{last}" if stem in table and last in ("weight", "bias") else None


def _underscored(name: str) -> str | None:
    blocks, outer = _UNDERSCORED
    if not name.startswith("blocks_"):
        return outer.get(name)
    _, index, layer = (*name.split("_", 2), "")[:3]
    return f"blocks.{index}.{blocks[layer]}" if _is_index(index) and layer in blocks else None


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal() and str(int(text)) == text
