"""Methods by name."""

from __future__ import annotations

import re
from typing import Any

from hf_learngene.errors import UnknownOptionError, nearest
from hf_learngene.methods.base import Method


METHODS: dict[str, type[Method]] = {}
AUTO = "auto"


def register_method(method: type[Method]) -> type[Method]:
    """Makes a method known by its `name`; usable as a class decorator.

    Args:
        method (`type[Method]`): a frozen dataclass below `Method` with a `name` of its own.

    Raises:
        UnknownOptionError: the name is not lower_snake_case, or taken by another class.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", method.name) or method.name == AUTO:
        raise UnknownOptionError(
            f"A method's name is lower_snake_case and not {AUTO!r}; {method.__name__} has {method.name!r}."
        )
    if METHODS.get(method.name, method) is not method:
        raise UnknownOptionError(f"The name {method.name!r} is taken by {METHODS[method.name].__name__}.")
    METHODS[method.name] = method
    return method


def registered_methods() -> list[str]:
    """Names of all methods, `auto` first.

    Example:
        >>> registered_methods()[:2]
        ['auto', 'bert2bert']
    """
    return [AUTO, *sorted(METHODS)]


def make_method(method: str | Method, options: dict[str, Any]) -> Method | None:
    """The method object for a name and its options; None for `auto`.

    Raises:
        UnknownOptionError: no such method, or an option that the method does not have.
    """
    if isinstance(method, Method):
        if options:
            raise UnknownOptionError(
                f"Options {sorted(options)} were given beside a {type(method).__name__} object; put them into the object."
            )
        return method
    if not isinstance(method, str) or method not in [*METHODS, AUTO]:
        given: object = method
        is_class = isinstance(given, type) and issubclass(given, Method)
        hint = (
            f" Did you mean {getattr(given, '__name__', '')}()?"
            if is_class
            else nearest(str(method), registered_methods())
        )
        raise UnknownOptionError(
            f"Method {method!r} does not exist; there are {', '.join(registered_methods())}.{hint}"
        )
    if method == AUTO:
        return None
    known = METHODS[method].option_names()
    for option in options:
        if option not in known:
            raise UnknownOptionError(
                f"Method {method!r} has no option {option!r}; it has {', '.join(known) or 'none'}.{nearest(option, known)}"
            )
    return METHODS[method](**options)


def options_of(method: str | Method) -> list[str]:
    """Names of a method's options; none for `auto` and for what `make_method` will refuse."""
    if isinstance(method, Method):
        return method.option_names()
    known = METHODS.get(method) if isinstance(method, str) else None
    return known.option_names() if known is not None else []


def method_name(method: object) -> str:
    """The name of a method given by its name or its config object."""
    return method.name if isinstance(method, Method) else str(method)


def option_owners(option: str) -> list[str]:
    """Names of the methods that have an option of this name."""
    return [name for name, method in METHODS.items() if option in method.option_names()]
