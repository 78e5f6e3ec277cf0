"""What a user names on the command line as ``module:function``: code of theirs, imported where it is named."""

from __future__ import annotations

import importlib
import os
import re
import sys
from typing import Any

from graphopt.errors import UserError

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_name(text: str) -> bool:
    """Whether a text has the form ``module:function``."""
    return _FUNCTION.fullmatch(text) is not None


def named_object(text: str, what: str, code: str, hint: str) -> Any:
    """The object of a name. Modules are looked for in the current folder too, as ``python -m`` does.

    Args:
        text: ``module:function``, or ``module:object.attribute``.
        what: it is, in messages.
        code, hint: of the error.

    Raises:
        UserError: there is no such module or object.
    """
    module, _, name = text.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # of any class: it is the user's code that runs
        raise UserError(f"the {what} {text} can't be imported: {error}", code=code, hint=hint) from error
    return found
