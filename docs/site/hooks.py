"""What MkDocs asks while it builds the site: the page of commands, and links that leave the folder."""

import argparse
import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = "<!-- commands -->"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, commands())
    return without_outer_links(markdown, PurePosixPath(page.file.src_path).parent)


def commands() -> str:
    """Every command with its help, as the terminal shows it."""
    from sateen.cli.main import build_parser

    parser = build_parser()
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    parts = [_help(parser)]
    for name, sub in subparsers.choices.items():
        parts += [f"## sateen {name}", _help(sub)]
    return "\n\n".join(parts)


def _help(parser: argparse.ArgumentParser) -> str:
    text = parser.format_help()
    return f"```text\n{text.rstrip()}\n```"


def without_outer_links(markdown: str, folder: PurePosixPath) -> str:
    """Files outside docs/ are not on the site: their text stays, the link goes."""

    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        name = target.partition("#")[0]
        if name and not target.startswith(("http", "mailto")):
            place = (ROOT / "docs" / folder / name).resolve()
            if not place.is_relative_to(ROOT / "docs"):
                return text
        return match[0]

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)", link, markdown)
