"""Name rules shared by all families: what neither shapes nor the flow of a forward pass can tell."""

from __future__ import annotations

import re


# The last part of a module's name (or of a bare parameter's) -> its part in attention. Anchored: `key` is a key
# projection, `keys_to_ignore` is not.
_ROLES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("qkv", re.compile(r"^(wqkv|qkv|qkv_proj|query_key_value|in_proj|in_proj_weight|in_proj_bias|c_attn)$", re.I)),
    (
        "q",
        re.compile(
            r"^(q|query|queries|(w2e|e2w|e2e)_query|q_proj|q_lin|query_proj|query_global|pos_q_proj|pos_query_proj|q_bias|w_q)$",
            re.I,
        ),
    ),
    ("k", re.compile(r"^(k|key|keys|k_proj|k_lin|key_proj|key_global|pos_proj|pos_key_proj|k_bias|w_k)$", re.I)),
    ("v", re.compile(r"^(v|value|values|v_proj|v_lin|value_proj|value_global|v_bias|w_v)$", re.I)),
)


def role_of(parameter: str) -> str:
    """`q`, `k`, `v`, `qkv` or '' from a parameter's name.

    Example:
        >>> role_of("bert.encoder.layer.0.attention.self.query.weight"), role_of("deberta.x.self.q_bias")
        ('q', 'q')
    """
    parts = parameter.split(".")
    last = parts[-2] if parts[-1] in ("weight", "bias") and len(parts) > 1 else parts[-1]
    return next((role for role, pattern in _ROLES if pattern.match(last)), "")


def fused_inside_heads(parameter: str, has_row_biases: bool) -> bool:
    """Whether q, k, v of a fused projection alternate head by head.

    DeBERTa is known by what comes with it: a fused `in_proj` whose biases are two separate vectors.
    """
    return has_row_biases and role_of(parameter) == "qkv"


def length_of(parameter: str) -> str:
    """Name of the tensor whose length a parameter gives under torch's weight normalisation, or ''.

    Example:
        >>> length_of("conv.parametrizations.weight.original0"), length_of("conv.weight_g"), length_of("conv.weight")
        ('conv.parametrizations.weight.original1', 'conv.weight_v', '')
    """
    held = ".parametrizations.weight.original"
    for length, direction in ((f"{held}0", f"{held}1"), (".weight_g", ".weight_v")):
        if parameter.endswith(length):
            return parameter.removesuffix(length) + direction
    return ""
