"""Dependencies point one way (docs/architecture.md), and every library that is imported is declared."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"sateen": "sateen", "hw": "sateen.hw", "sim": "sateen.sim", "compiler": "sateen.compiler"} | {
    "models": "sateen.models",
    "fpga": "sateen.fpga",
}
NOUNS = {
    "formats",
    "ir",
    "machine",
    "errors",
    "files",
    "arrays",
    "build_folder",
    "manifest",
    "processors",
    "version",
}
ALLOWED = {
    "nouns": {"nouns"},
    "hw": {"nouns", "hw"},
    "sim": {"nouns", "hw", "sim"},
    "compiler": {"nouns", "hw", "sim", "compiler"},
    "fpga": {"nouns", "hw", "fpga"},
    "models": {"nouns", "models"},
    "top": {"nouns", "hw", "sim", "compiler", "fpga", "top"},  # command line and Python interface
}
EXTRA = {
    "models": ("train",),
    "compiler": ("test",),
    "fpga": ("benchmark", "cost", "link", "gowin"),
    "sim": ("link",),
    "top": ("images", "host"),
}
"""Packages that may import libraries of an optional dependency, inside functions."""
EXPLORER = "sateen.explorer."
"""Modules that may import libraries of the extra `explore`."""
TORCH = "sateen.compiler.ptq.torch_"
"""Modules that need the extra `learn`, imported inside functions; beside models/ they alone import torch."""


def layer(module: str) -> str:
    parts = module.split(".")
    if len(parts) > 1 and parts[1] in ALLOWED:
        return parts[1]
    return "nouns" if len(parts) > 1 and parts[1] in NOUNS else "top"


def sources():
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *(p for p in parts if p != "__init__")))
            yield pytest.param(path, name, id=name)


def imports(path: Path, name: str, *, lazy: bool = True, names: bool = False):
    """Absolute names of what a module imports, and the line; not what only type checkers see.

    `lazy`: also inside functions. `names`: of what is imported from a package, modules stand for themselves.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(n)
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        or (not lazy and isinstance(node, ast.FunctionDef))
        for n in ast.walk(node)
    }
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join((*above, base)).rstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                apart = (names or base == "sateen") and is_module(inner)  # from sateen import formats
                yield inner if apart else base, node.lineno


def is_module(name: str) -> bool:
    folder, *rest = name.removeprefix("sateen.").split(".")
    path = (ROOT if folder in PACKAGES else ROOT / "sateen").joinpath(folder, *rest)
    return library(name) == "sateen" and (path.is_dir() or path.with_suffix(".py").is_file())


def library(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize(("path", "name"), list(sources()))
def test_a_module_imports_only_from_its_layer_and_below(path, name):
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name} imports {module}"
        for module, line in imports(path, name)
        if library(module) == "sateen" and layer(module) not in ALLOWED[layer(name)]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("import sateen", ["sateen"]),
        ("from sateen import run", ["sateen"]),
        ("from .. import load", ["sateen"]),
        ("def f():\n    import sateen.api", ["sateen.api"]),
        ("from sateen import api, formats", ["sateen.api"]),
        ("from ..compiler import pipeline", ["sateen.compiler"]),
        ("from sateen import formats, ir", []),
        ("import sateen.formats.base", []),
    ],
)
def test_what_is_above_is_caught_from_below(text, caught, tmp_path):
    (tmp_path / "block.py").write_text(text)
    found = [module for module, _ in imports(tmp_path / "block.py", "sateen.hw.block")]
    assert [m for m in found if layer(m) not in ALLOWED["hw"]] == caught


def test_no_module_needs_itself():
    """What is imported as a module is loaded, rather than when a function is called, makes no circle."""
    modules = {name: path for path, name in (source.values for source in sources())}
    needs = {
        name: {m for m, _ in imports(path, name, lazy=False, names=True) if m in modules} - {name}
        for name, path in modules.items()
    }
    while True:  # those that need none of the others, or that none of them needs, are in no circle
        needed = set().union(*needs.values())
        circle = {name: others & needs.keys() for name, others in needs.items() if name in needed}
        circle = {name: others for name, others in circle.items() if others}
        if circle == needs:
            break
        needs = circle
    assert not needs, "\n".join(f"{name} imports {sorted(others)}" for name, others in needs.items())


def test_every_folder_is_linked_into_the_package():
    """src/ is what is installed: sateen/, with links to the other folders (pyproject.toml)."""
    package = ROOT / "src/sateen"
    links = {path.name for path in package.iterdir() if path.is_symlink()}
    assert package.resolve() == ROOT / "sateen"
    assert links == PACKAGES.keys() - {"sateen"}
    assert all((package / name).resolve() == ROOT / name for name in links)
    bare = {p.parent for folder in PACKAGES for p in (ROOT / folder).rglob("*.py")}
    assert not [folder for folder in bare if not (folder / "__init__.py").is_file()]


def distributions(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", r)[0].lower().replace("-", "_") for r in requirements}


@pytest.mark.parametrize(("path", "name"), list(sources()))
def test_every_library_is_declared_and_few_import_torch(path, name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = distributions(project["dependencies"])
    if name.startswith(EXPLORER):
        declared |= distributions(project["optional-dependencies"]["explore"])
    elif name.startswith(TORCH):
        declared |= distributions(project["optional-dependencies"]["learn"])
    elif layer(name) in EXTRA:
        for extra in EXTRA[layer(name)]:
            declared |= distributions(project["optional-dependencies"][extra])
    declared = {
        {"scikit_learn": "sklearn", "protobuf": "google", "pillow": "PIL", "pyserial": "serial"}.get(d, d)
        for d in declared
    } | {"sateen"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name} imports {module}"
        for module, line in imports(path, name)
        if library(module) not in declared and library(module) not in sys.stdlib_module_names
    ]
    assert not wrong, "\n".join(wrong)
    if layer(name) != "models" and not name.startswith(TORCH):
        assert "torch" not in {library(module) for module, _ in imports(path, name)}
