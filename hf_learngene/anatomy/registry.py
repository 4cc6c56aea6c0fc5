"""Declarations for what probing cannot tell: `register_anatomy`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hf_learngene.errors import UnknownOptionError


Inputs = Callable[[Any], Mapping[str, Tensor]]
_ROLES = ("q", "k", "v", "qkv", "o", "ffn_in", "ffn_out", "")


@dataclass(frozen=True, eq=False)
class Declaration:
    """What a person declared of one family."""

    roles: Mapping[str, str] = field(default_factory=dict)
    axes: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    inputs: Inputs | None = None

    def role(self, name: str) -> str | None:
        return next((role for pattern, role in self.roles.items() if re.search(pattern, name)), None)

    def axes_of(self, name: str) -> tuple[str | None, ...] | None:
        return next((axes for pattern, axes in self.axes.items() if re.search(pattern, name)), None)

    def unmatched(self, names: Iterable[str]) -> list[str]:
        """Patterns that none of the names matches."""
        found = list(names)
        return [p for p in (*self.roles, *self.axes) if not any(re.search(p, name) for name in found)]


_NOTHING = Declaration()
_DECLARED: dict[str, Declaration] = {}


def register_anatomy(
    model_type: str,
    *,
    roles: Mapping[str, str] | None = None,
    axes: Mapping[str, tuple[str | None, ...]] | None = None,
    inputs: Inputs | None = None,
) -> None:
    r"""Declares what neither shapes, flow nor the shared name rules tell of a family.

    What is declared wins over what was found.

    Args:
        model_type (`str`): the config's `model_type`.
        roles (`Mapping[str, str]`, *optional*): regular expression over whole parameter names, `.weight` and `.bias` included ->
            `q`, `k`, `v`, `qkv`, `o`, `ffn_in`, `ffn_out` or `""` (none).
        axes (`Mapping[str, tuple]`, *optional*): regular expression over parameter names -> one axis name per dimension
            (`hidden`, `heads`, `ffn`, `vocab`, `positions`, `labels`, `fixed`, ...); None keeps what was found.
        inputs (`Callable`, *optional*): takes a model and returns one small input of it, tensors by name: what the recorded pass
            runs on, where the signature of the forward pass and the config do not say it.

    Raises:
        UnknownOptionError: a role that does not exist, or a pattern that is no regular expression.

    Example:
        >>> register_anatomy(
        ...     "my_vit", roles={r"attn\.first\.(weight|bias)$": "q"}, axes={r"gate\.weight$": ("fixed", "hidden")}
        ... )
    """
    for role in (roles or {}).values():
        if role not in _ROLES:
            raise UnknownOptionError(f"Role {role!r} does not exist; the roles are {', '.join(map(repr, _ROLES))}.")
    for pattern in [*(roles or {}), *(axes or {})]:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UnknownOptionError(f"{pattern!r} is no regular expression: {error}.") from error
    _DECLARED[model_type] = Declaration(dict(roles or {}), dict(axes or {}), inputs)


def declaration_of(model_type: str) -> Declaration:
    """What was declared of a family, or an empty declaration."""
    return _DECLARED.get(model_type, _NOTHING)
