"""The configurations of the published models, as in their config.json: what a machine without the files must know."""

from engine.variants import Base

Config = dict[str, object]

WAN_I2V_14B: Config = {  # transformer/config.json of Wan-AI/Wan2.1-I2V-14B-480P-Diffusers
    "patch_size": (1, 2, 2),
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 36,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13824,
    "num_layers": 40,
    "cross_attn_norm": True,
    "image_dim": 1280,
    "added_kv_proj_dim": 5120,
}
WAN22_I2V_A14B: Config = WAN_I2V_14B | {"image_dim": None, "added_kv_proj_dim": None}  # each of its two experts
UMT5_XXL: Config = {  # `umt5_xxl` of Wan's modules/t5.py
    "vocab_size": 256_384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10_240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
CLIP_VIT_H: Config = {  # vision tower of Wan's open-clip xlm-roberta ViT-H/14
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
WAN_VAE: Config = {  # vae/config.json of both, which are diffusers' defaults; the normalisation of latents among them
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
}
EXPERTS: dict[Base, tuple[Config, ...]] = {"wan2.1": (WAN_I2V_14B,), "wan2.2": (WAN22_I2V_A14B, WAN22_I2V_A14B)}
