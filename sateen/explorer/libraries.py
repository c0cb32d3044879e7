"""The libraries of the extra `explore`, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from sateen.errors import ConfigError


def library(name: str) -> Any:
    """The module of that name. Raises ConfigError that names the extra where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ConfigError(
            f"sateen explore needs {name.partition('.')[0]} ({e}); install it with: pip install 'sateen[explore]'"
        ) from None


def quiet_optuna() -> Any:
    """Optuna, which says nothing below a warning."""
    optuna = library("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
