"""What the reference cannot read in the source: the `__init__` that attrs writes, and doctests, which become code."""

import importlib
import inspect
import re
from typing import Any

import attrs
import griffe

KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: griffe.ParameterKind.positional_only,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: griffe.ParameterKind.positional_or_keyword,
    inspect.Parameter.VAR_POSITIONAL: griffe.ParameterKind.var_positional,
    inspect.Parameter.KEYWORD_ONLY: griffe.ParameterKind.keyword_only,
    inspect.Parameter.VAR_KEYWORD: griffe.ParameterKind.var_keyword,
}


DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class Reading(griffe.Extension):
    """Give every attrs record the parameters that it is made with, and every doctest a fence."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Fence the doctests, which Markdown would take for quotations."""
        if obj.docstring is not None:
            obj.docstring.value = DOCTEST.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Add an `__init__` with the signature of the record."""
        if "__init__" in cls.members or not any("frozen" in str(each.value) for each in cls.decorators):
            return
        record = getattr(importlib.import_module(cls.module.path), cls.name, None)
        if not (isinstance(record, type) and attrs.has(record)):
            return
        parameters = [parameter(each) for each in inspect.signature(record).parameters.values()]
        this = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(this, *parameters)))


def parameter(given: inspect.Parameter) -> griffe.Parameter:
    """Return a parameter as the reference shows it."""
    hint = None if given.annotation is given.empty else inspect.formatannotation(given.annotation)
    default = None if given.default is given.empty else "..." if given.default is attrs.NOTHING else repr(given.default)
    return griffe.Parameter(given.name, annotation=hint, kind=KINDS[given.kind], default=default)
