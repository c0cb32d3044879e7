"""`sateen completion`: what a shell needs to complete commands, options, and the names that options take."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

from sateen.cli.io import emit


def completion(args: argparse.Namespace) -> int:
    from sateen.cli.main import build_parser

    emit({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](_commands(build_parser())))
    return 0


Options = dict[str, tuple[str, tuple[str, ...] | None]]
"""Option to its help, and the words that may follow: none, or any file where it is None."""


def _commands(parser: argparse.ArgumentParser) -> dict[str, tuple[str, Options]]:
    """Command to its help and its options."""
    (sub,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    helps = {a.dest: a.help or "" for a in sub._choices_actions}
    return {name: (helps[name], dict(_options(p))) for name, p in sub.choices.items()}


def _options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, tuple[str, tuple[str, ...] | None]]]:
    for action in parser._actions:
        for option in action.option_strings or ("",):
            words = () if action.nargs == 0 else _words(action)
            yield option, ((action.help or "").partition(";")[0], words)


def _words(action: argparse.Action) -> tuple[str, ...] | None:
    from sateen.fpga.boards.catalog import BOARDS
    from sateen.fpga.boards.devices import FAMILIES
    from sateen.machine.presets import PRESETS

    if action.choices is not None:
        return tuple(map(str, action.choices))
    known: dict[str, Iterable[str]] = {
        "preset": PRESETS,
        "name": PRESETS,
        "board": BOARDS,
        "device": FAMILIES,
    }
    if action.dest in known:
        return tuple(known[action.dest])
    if action.dest in ("weights", "activations"):
        from sateen.formats import all_formats

        return tuple(f.name for f in all_formats())
    return None


def _bash(commands: dict[str, tuple[str, Options]]) -> str:
    cases, values = [], []
    for name, (_, options) in commands.items():
        flags = " ".join(o for o in options if o)
        cases.append(
            f"    {name}) flags='{flags}' words='{' '.join(options.get('', ('', None))[1] or ())}' ;;"
        )
        values += [
            f"    {name}:{option}) COMPREPLY=($(compgen -W '{' '.join(w)}' -- \"$word\")); return ;;"
            for option, (_, w) in options.items()
            if w and option
        ]
    newline = "\n"
    return f"""# source <(sateen completion bash)
_sateen() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} name=${{COMP_WORDS[1]}} flags= words=
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W '{" ".join(commands)} --help --version' -- "$word"))
    return
  fi
  case $name:$before in
{newline.join(values)}
  esac
  case $name in
{newline.join(cases)}
  esac
  case $word in
    -*) COMPREPLY=($(compgen -W "$flags" -- "$word")) ;;
    *) COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _sateen sateen"""


def _zsh(commands: dict[str, tuple[str, Options]]) -> str:
    """The same, through zsh's own reading of bash's completions."""
    first = "# source <(sateen completion zsh)\nautoload -U +X bashcompinit && bashcompinit\n"
    return first + _bash(commands).partition("\n")[2]


def _fish(commands: dict[str, tuple[str, Options]]) -> str:
    lines = ["# sateen completion fish > ~/.config/fish/completions/sateen.fish"]
    for name, (text, options) in commands.items():
        lines.append(f"complete -c sateen -n __fish_use_subcommand -f -a {name} -d {_quoted(text)}")
        for option, (about, words) in options.items():
            kind = "-l" if option.startswith("--") else "-s"
            flag = f" {kind} {option.lstrip('-')} -d {_quoted(about)}" if option else ""
            given = "" if words == () and option else " -r" * bool(option)
            listed = f" -f -a {_quoted(' '.join(words))}" if words else ""
            if flag or listed:
                where = f"'__fish_seen_subcommand_from {name}'"
                lines.append(f"complete -c sateen -n {where}{flag}{given}{listed}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + " ".join(text.split()).replace("\\", "\\\\").replace("'", "\\'") + "'"
