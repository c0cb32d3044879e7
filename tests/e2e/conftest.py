"""The fuzzer of benchmarks/ draws and checks the random networks of these tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
