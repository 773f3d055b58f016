"""What is said of a variable whose value cannot be: what it should be, and what it means unset. Never the value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo


def complaints(error: ValidationError, fields: Mapping[str, FieldInfo]) -> list[str]:
    """Return a sentence for each variable that pydantic refuses."""
    names = [str(each["loc"][0]).upper().removeprefix("QBO_") for each in error.errors()]
    return [_complaint(name, fields[name.lower()]) for name in dict.fromkeys(names)]


def _complaint(name: str, field: FieldInfo) -> str:
    means = "" if field.default is None else f", which means {field.default}"
    return f"{name} is not {_kind(field)}: write one, or unset it{means}."


def _kind(field: FieldInfo) -> str:
    """Return what a variable's value is: what its description says, or what its type and bounds do."""
    if field.description is not None:
        return field.description
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    number = "a whole number" if field.annotation is int else "a number"
    return " ".join([number, *_bounds(field)])


def _bounds(field: FieldInfo) -> list[str]:
    words = {"ge": "from {:,g}", "gt": "above {:,g} and up", "le": "to {:,.0f}"}
    bounds = [(name, getattr(bound, name, None)) for bound in field.metadata for name in words]
    return [words[name].format(value) for name, value in bounds if value is not None]
