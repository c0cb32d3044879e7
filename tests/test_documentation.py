"""The pages of docs/ are about the code that is there: links, paths, commands, and the index of decisions."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(
    r"(?<![\w/.-])(?:sateen|hw|sim|compiler|fpga|models|tests|benchmarks|docs|adr)/[\w/-]+\.(?:py|md|cpp|v|j2|json)\b"
)
"""As the text speaks of them, from the root; decisions also as adr/….md."""


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    missing = []
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            missing.append(target)
    assert not missing, missing


@pytest.mark.parametrize(
    "folder", ["docs", "sateen", "hw", "sim", "compiler", "fpga", "models", "benchmarks", "tests"]
)
def test_files_that_are_named_exist(folder):
    texts = [p for suffix in ("md", "py") for p in sorted((ROOT / folder).rglob(f"*.{suffix}"))]
    missing = [
        f"{text.relative_to(ROOT)}: {name}"
        for text in ([ROOT / "README.md"] if folder == "docs" else []) + texts
        for name in sorted(set(NAMED.findall(text.read_text(encoding="utf-8"))))
        if not any((base / name).is_file() for base in (ROOT, ROOT / "docs"))
    ]
    assert not missing, "\n".join(missing)


def test_every_decision_is_in_the_index():
    folder = ROOT / "docs/adr"
    found = []
    for page in sorted(folder.glob("[0-9]*.md")):
        heading = re.fullmatch(r"# (\d+)\. (.+)", page.read_text(encoding="utf-8").partition("\n")[0])
        assert heading and int(heading[1]) == int(page.name[:4]), (
            f"{page.name}: begins with '# NUMBER. TITLE'"
        )
        found.append((heading[1], heading[2], page.name))
    index = (folder / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d+) \| \[(.+)\]\((\S+\.md)\) \|$", index, re.MULTILINE)
    assert listed == found
