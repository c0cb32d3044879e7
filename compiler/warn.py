"""Warnings of a compilation: each said once, and kept for the manifest."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

__all__ = ["collected", "quiet"]


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """The warnings that are logged meanwhile, as they go to standard error; what is logged again is left out.

    A logger that was turned off logs meanwhile: libraries that configure logging, as Optuna's databases do with
    `logging.config.fileConfig`, turn off those of others.
    """
    logger = logging.getLogger("sateen")
    disabled, logger.disabled = logger.disabled, False
    found: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        message = record.getMessage()
        new = message not in found
        if new:
            found.append(message)
        return new

    logger.addFilter(keep)
    try:
        yield found
    finally:
        logger.removeFilter(keep)
        logger.disabled = disabled


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that this thread gives: of a sketch, or a trial, they mean nothing."""
    logger, thread = logging.getLogger("sateen"), threading.get_ident()

    def drop(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING or record.thread != thread

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
