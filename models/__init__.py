"""See docs/ and the module docstrings."""
