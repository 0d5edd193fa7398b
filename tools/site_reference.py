"""Extension of griffe for the Python API on the documentation site: doctests as code, and defaults as values."""

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)
"""Lines from `>>>` to the next empty line."""


class ReadableReference(griffe.Extension):  # type: ignore[misc]  # griffe is only in the environment of the site
    """Puts the doctests of docstrings into code blocks, and replaces defaults such as IOU_THRESHOLD by their values."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object after its file has been read."""
        if obj.docstring:
            obj.docstring.value = _DOCTEST.sub(lambda match: f"```pycon\n{match[0]}\n```", obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Change the defaults of functions and dataclasses after all files have been read."""
        todo: list[griffe.Object] = [pkg]
        while todo:
            parent = todo.pop()
            constants = {**pkg["options"].attributes, **parent.module.attributes}
            for member in parent.members.values():
                if member.is_alias:  # an import
                    continue
                todo.append(member)
                if member.is_function:
                    for parameter in member.parameters:
                        parameter.default = _value(parameter.default, constants)
                elif member.is_attribute and parent.is_class:
                    member.value = _value(member.value, constants)


def _value(default: Any, constants: dict[str, griffe.Attribute]) -> Any:
    """Return the value of a constant, if the default is the name of one, else the default."""
    constant = constants.get(str(default))
    return constant.value if constant and str(default).isupper() else default
