"""The command line: `pipeline COMMAND`.

Owns what all commands share: the workspace, one-line errors, exit codes. Each command is a
file in `pipeline.commands`, imported only when it is asked for, so that ``--help`` is instant.
"""

from __future__ import annotations

import errno
import importlib
import signal
import sys
from pathlib import Path
from typing import Any, cast

import click

from pipeline import __version__
from pipeline.console import printable, speaking
from pipeline.errors import PipelineError
from pipeline.params import did_you_mean

#: In the order in which data flows.
COMMANDS = (
    "init",
    "prepare",
    "extract",
    "train",
    "train-network",
    "finetune",
    "evaluate",
    "scores",
    "sweep",
    "audit",
    "report",
    "show",
    "predict",
    "export",
    "store",
    "summary",
    "doctor",
)

_REMEDIES = {
    errno.ENOSPC: "Free some space and run the same command again; what is finished is kept.",
    errno.EDQUOT: "Free some space and run the same command again; what is finished is kept.",
    errno.EACCES: "Check the permissions of this path.",
    errno.EPERM: "Check the permissions of this path.",
    errno.EROFS: "The file system is read-only: choose another folder with `pipeline --root DIR …`.",
}


class Commands(click.Group):
    """A group whose commands are imported when they are used, and whose errors are one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the flow."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pipeline.commands.{cmd_name.replace('-', '_')}")
        return cast("click.Command", module.command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant, or name the nearest one."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            hint = self._subcommand(ctx, args[0]) or did_you_mean(args[0], COMMANDS)
            ctx.fail(f"No such command {args[0]!r}.{hint or ' `pipeline --help` lists them.'}")
        return super().resolve_command(ctx, args)

    def _subcommand(self, ctx: click.Context, word: str) -> str:
        for name in COMMANDS:
            group = self.get_command(ctx, name)
            if isinstance(group, click.Group) and word in group.commands:
                return f" Did you mean '{name} {word}'?"
        return ""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what a user can mend becomes one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader has seen enough, as in `pipeline … | head`: click ends quietly, with 1
        except (PipelineError, OSError) as error:
            if ctx.params["debug"]:
                raise
            click.echo(f"pipeline: {_one_line(error)}", err=True)
            raise click.exceptions.Exit(1) from None
        except KeyboardInterrupt:
            click.echo("pipeline: stopped; what was finished is kept, run the same command again", err=True)
            raise click.exceptions.Exit(130) from None


def _one_line(error: PipelineError | OSError) -> str:
    if isinstance(error, PipelineError):
        return printable(str(error))
    where = f"{error.filename}: " if error.filename else ""
    return printable(f"{where}{error.strerror or error}. {_REMEDIES.get(error.errno or 0, '')}").rstrip()


def _report_unexpected(kind: type[BaseException], error: BaseException, _: object) -> None:
    """Say in one line what nobody foresaw, and how to see more of it."""
    click.echo(
        f"pipeline: unexpected {kind.__name__}: {printable(str(error))}. "
        f"`pipeline --debug …` shows the whole traceback, for a bug report.",
        err=True,
    )


@click.group(
    "pipeline",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command has its own --help with an example.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIR",
    help="The workspace: the folder that holds params.yaml. Default: the current folder.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show results and errors only.")
@click.option(
    "--plain",
    is_flag=True,
    help="Show progress as plain lines, also on a terminal. So does the environment variable NO_COLOR.",
)
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
@click.version_option(__version__, prog_name="pipeline")
@click.pass_context
def cli(ctx: click.Context, root: Path, quiet: bool, plain: bool, debug: bool) -> None:
    """Image classification from cached features.

    Push every image once through a frozen VGG16, then train classifiers on what is stored, in
    seconds each:

    \b
      pipeline init my-project --source my-photos   one folder a class
      cd my-project
      dvc repro                                     prepare, extract, train, evaluate
      pipeline scores                               the classifiers, compared
      pipeline sweep --save-best best               the best of hundreds, found
      pipeline predict logreg some-image.jpg
    """  # noqa: D301 (click reads the \\b as a backspace: keep these lines as they are)
    ctx.obj = root
    ctx.with_resource(speaking(quiet=quiet, plain=plain))
    if debug:
        sys.excepthook = sys.__excepthook__


def main() -> None:
    """Run the command line; SIGTERM stops as cleanly as Ctrl-C."""

    def stop(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    sys.excepthook = _report_unexpected
    cli(prog_name="pipeline")
