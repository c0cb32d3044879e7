"""Benchmarks use what a user of the library can: names that exist, and of its insides only those that a room shows."""

import ast
import importlib
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSIDE = ("sateen.compiler", "sateen.sim")
"""Rooms of which only the names in `__all__` are taken; hardware and formats are measured piece by piece."""
SHOWN = ("sateen.sim.model", "sateen.sim.verilator")
"""Modules that are themselves among those names, and are changed to measure what a change does."""
TRAINING = tuple(f"sateen.models.{name}" for name in ("cifar", "digits", "graph_net", "sparse"))
"""Modules that need the extra `train`."""


def taken(tree: ast.Module):
    """Line, module and name of what a script imports from Sateen, and of what it takes of imported modules."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sateen":
            for alias in node.names:
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield node.lineno, node.module, alias.name
        elif isinstance(node, ast.Import):
            modules |= {a.name: a.name for a in node.names if a.name == "sateen"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id, "")
            if is_module(module):
                yield node.lineno, module, node.attr


def is_module(name: str) -> bool:
    try:
        return bool(name) and importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, not a package
        return False


def fault(module: str, name: str) -> str:
    """What is wrong with taking it; empty if nothing is."""
    if name.startswith("_"):
        return "is not for others"
    if module in TRAINING or is_module(f"{module}.{name}"):
        return ""
    found = importlib.import_module(module)
    if not hasattr(found, name):
        return "is not there"
    if not module.startswith(INSIDE) or module in SHOWN:
        return ""
    return "" if name in getattr(found, "__all__", ()) else "is not among the names that a room shows"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_a_benchmark_takes_public_names(path):
    names = taken(ast.parse(path.read_text(encoding="utf-8")))
    wrong = [f"{path.name}:{line}: {m}.{n} {said}" for line, m, n in names if (said := fault(m, n))]
    assert not wrong, "\n".join(wrong)


PACKAGES = ("torch", "matplotlib", "brevitas", "nngen", "da4ml", "sklearn")
"""What benchmarks import that neither Sateen nor its tests need; scikit-learn is of both."""


def packages_of(extras: list[str]) -> set[str]:
    """Names of packages that extras of pyproject.toml install, those of extras within them included."""
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    found: set[str] = set()
    while extras:
        for requirement in stated[extras.pop()]:
            name, inner = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", requirement).groups()
            if name == "sateen":
                extras.extend(inner.split(","))
            else:
                found.add({"scikit-learn": "sklearn"}.get(name, name))
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.stem)
def test_a_benchmark_names_its_extras(path):
    text = path.read_text(encoding="utf-8")
    lines = re.findall(r"^# extras: (.*)$", text, re.M)
    installed = packages_of([*(e.strip() for line in lines for e in line.split(",")), "test"])
    roots = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert len(lines) <= 1 and roots & set(PACKAGES) <= installed
