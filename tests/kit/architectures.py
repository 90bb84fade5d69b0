"""Tiny configs of all architectures that transformers has as causal language models."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

WIDTH, HEADS, LAYERS = 32, 4, 2
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "emb_dim", "embedding_size", "word_embed_proj_dim"), WIDTH),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size", "emb_dim"), WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "d_inner", "dff", "ffn_hidden_size"), 48),
    **dict.fromkeys(("ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), LAYERS
    ),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_head", "rotary_dim", "attention_head_dim"), WIDTH // HEADS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "mamba_ngroups"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 1024),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "n_mamba_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_state"), 8),
    **{"mamba_dt_rank": 4, "mamba_n_heads": 4, "mamba_headdim": 16, "attention_hidden_size": 2 * WIDTH},
    "sliding_window": 20,
}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
_ALTERNATING = ["linear_attention", "hybrid"]
_OWN: dict[str, dict[str, Any]] = {
    **{name: {"num_key_value_heads": 4} for name in ("axk1", "axk2", "deepseek_v3", "minicpm3", "nemotron")},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": _ROPE, "full_attention": _ROPE},
    },
    "deepseek_v2": {"num_key_value_heads": 4, "num_experts_per_tok": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 20},
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2},
    "reformer": {"is_decoder": True, "attn_layers": ["lsh", "local"], "axial_pos_embds": False},
    "roc_bert": {"pronunciation_vocab_size": 16, "shape_vocab_size": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": 2 * _ALTERNATING},
    "zamba2": {"layers_block_type": _ALTERNATING, "mamba_headdim": 32},
}
"""What an architecture needs besides."""


def names(with_q: bool) -> list[str]:
    """Of the causal language models that have a sequence classifier, or that have none."""
    q = AutoModelForSequenceClassification._model_mapping._model_mapping
    return [name for name in AutoModelForCausalLM._model_mapping._model_mapping if (name in q) == with_q]


def tiny_config(name: str, **ids: int) -> Any:
    """A config of two layers of width 32; `ids` are the tokenizer's."""
    known = AutoConfig.for_model(name).to_dict()
    sizes = {key: value for key, value in _SIZES.items() if known.get(key) is not None}
    sizes |= {"head_dim": WIDTH // HEADS} if "head_dim" in known else {}
    kinds = known.get("layer_types")
    if kinds:
        sizes["layer_types"] = (list(dict.fromkeys(kinds)) * LAYERS)[:LAYERS]
    return AutoConfig.for_model(name, **sizes | _OWN.get(name, {}) | ids)


VOCABULARY, WINDOW = 29, 7
IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}


def sharp(config: Any) -> Any:
    """A model whose attention is far from even, so that what it sees matters."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


def windowed(kind: str) -> Any:
    """A sharp model of VOCABULARY tokens with WINDOW, of Qwen2's in every other layer."""
    config = tiny_config(kind, **IDS)
    config.sliding_window = WINDOW
    if kind == "qwen2":
        config.layer_types = ["full_attention", "sliding_attention"]
    return sharp(config)


def token_ids(length: int, seed: int) -> list[int]:
    """A text of these models."""
    return torch.randint(2, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
