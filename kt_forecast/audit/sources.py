"""Runs a Python file that is not part of a package, with what lies beside it in reach."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from kt_forecast.audit.contract import ContractError


def module_of(path: Path, name: str) -> ModuleType:
    """Return what a file defines.

    Args:
        path: of the file.
        name: to import it under.

    Raises:
        ContractError: it is no Python file.
    """
    spec = importlib.util.spec_from_file_location(f"audited_{name}", path)
    if spec is None or spec.loader is None:
        raise ContractError(f"{path}: accepted is a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    found: Any = sys.path
    sys.path = [str(path.parent.resolve()), *found]
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path = found
    return module
