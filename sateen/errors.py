"""The one error family. A message gives what, where (node or port), value, limit and remedy."""


class SateenError(Exception):
    """Root of every error that a user can cause; the command line prints it in one line."""

    exit_code = 2


class FormatError(SateenError, ValueError):
    """An unknown number format or one that cannot represent what is asked of it."""


class ConfigError(SateenError, ValueError):
    """An accelerator configuration that is inconsistent or too small for the model."""


class ModelError(SateenError, ValueError):
    """An ONNX file that cannot be read or holds something that is not supported."""


class DataError(SateenError, ValueError):
    """Calibration or input data that is missing, misshapen or not finite."""


class BuildError(SateenError, RuntimeError):
    """A build folder or a tool that is missing or broken."""


class LimitError(BuildError):
    """What was asked for is right, but does not fit, or misses its clock."""

    exit_code = 1


def missing(library: str, extra: str) -> BuildError:
    """The error of a library that only an optional dependency of `extra` brings."""
    return BuildError(f"{library} is missing; install it with: pip install 'sateen[{extra}]'")


class LinkError(SateenError, RuntimeError):
    """A board that does not answer, refuses a command, or is not the one that is wanted."""
