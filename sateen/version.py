"""The version of Sateen, which builds are marked with."""

__version__ = "0.1.0"
