"""The fuzzer of benchmarks/ draws and checks the random networks of these tests; others are those of the compiler's."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[1] / "compiler"))
