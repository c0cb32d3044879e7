"""What of a model is supported: the list behind `sateen check`, made before anything is built."""

from __future__ import annotations

from sateen.compiler.importer import Finding, check_model

__all__ = ["Finding", "check_model"]
