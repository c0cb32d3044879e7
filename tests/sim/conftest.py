"""The hand-built networks are shared with the compiler's tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "compiler"))
