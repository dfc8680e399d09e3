"""Write `docs/commands/`: a page for each command, made of what the command says of itself.

Run it after every change of a command: ``python docs/make_commands.py``. The pages hold nothing else, so
nobody edits them, and a test finds those that are out of date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from pipeline.cli import cli
from pipeline.files import write_atomically

FOLDER = Path(__file__).parent / "commands"

_MADE = "<!-- Made by `python docs/make_commands.py` from the help of the command: change that instead. -->"


def pages() -> dict[str, str]:
    """Return what each file of the folder is to hold, by its name."""
    context = click.Context(cli, info_name="pipeline", **cli.context_settings)
    made = {"README.md": _index(context)}
    for name, command in _commands(context):
        made[f"{name}.md"] = _page(command, _context(context, name, command))
    return made


def _index(context: click.Context) -> str:
    rows = [
        f"| [{name}]({name}.md) | {_prose(command.get_short_help_str(1000))} |"
        for name, command in _commands(context)
    ]
    parts = [
        "# Commands",
        _MADE,
        "In the order of the flow. The same text is shown by `pipeline COMMAND --help`.",
        "\n".join(["| command | |", "|---|---|", *rows]),
        "Options of `pipeline` itself, which stand before the command, as in "
        "`pipeline --root pets train logreg`:",
        *_options(context),
    ]
    return "\n\n".join(parts) + "\n"


def _page(command: click.Command, context: click.Context) -> str:
    parts = [f"# {context.command_path}", _MADE, *_described(command, context)]
    for name, verb in _commands(context):
        inner = _context(context, name, verb)
        parts += [f"## {inner.command_path}", *_described(verb, inner)]
    parts.append("[All commands](README.md)")
    return "\n\n".join(parts) + "\n"


def _described(command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield what a command does, how it is called, and an example."""
    for paragraph in (command.help or "").strip().split("\n\n"):
        yield _prose(paragraph)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"```text\n{usage}\n```"
    yield from _options(context)
    example = (command.epilog or "").removeprefix("Example:").strip()
    if example:
        yield f"Example:\n\n```console\n$ {example}\n```"


def _options(context: click.Context) -> Iterator[str]:
    """Yield a table of options, but for ``--help``, which every command has."""
    command, rows = context.command, []
    for option in command.get_params(context):
        if not isinstance(option, click.Option) or option is command.get_help_option(context):
            continue
        record = option.get_help_record(context)
        if record is not None:  # a hidden option has none
            names, text = record
            rows.append(f"| `{_cell(names)}` | {_cell(_prose(text))} |")
    if rows:
        yield "\n".join(["| option | |", "|---|---|", *rows])


def _commands(context: click.Context) -> Iterator[tuple[str, click.Command]]:
    group = context.command
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if command is not None:
                yield name, command


def _context(parent: click.Context, name: str, command: click.Command) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def _prose(text: str) -> str:
    """Spell text so that Markdown shows it as it is: on one line, since a line may begin like a list."""
    return re.sub(r"([*<])", r"\\\1", " ".join(text.split()))


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def write_pages() -> None:
    """Bring the folder up to date; pages of commands that are gone are removed."""
    made = pages()
    for path in set(FOLDER.glob("*.md")) - {FOLDER / name for name in made}:
        path.unlink()
    for name, text in made.items():
        write_atomically(FOLDER / name, text)


if __name__ == "__main__":
    write_pages()
