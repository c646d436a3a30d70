"""Optional libraries, imported when a function needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def need(module: str, extra: str) -> Any:
    """Import ``module``. Raises `ImportError` that names the extra that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        kind = ModuleNotFoundError if isinstance(error, ModuleNotFoundError) else ImportError
        message = f"this needs {module}, which cannot be imported ({error}): pip install 'mlp-xp[{extra}]'"
        raise kind(message, name=module.partition(".")[0]) from error
