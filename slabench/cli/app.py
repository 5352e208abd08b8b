"""The `slabench` command. Nothing of a command is imported here: `slabench --help` loads neither torch nor our own rooms."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from slabench.cli.commands import Group
from slabench.cli.streams import lasting
from slabench.core.errors import SlabenchError, UsageError
from slabench.core.torchrun import launched
from slabench.core.versions import __version__

app = typer.Typer(
    name="slabench",
    cls=Group,
    help="Benchmarks for Self-supervised Label Augmentation: few-shot and long-tailed image classification, honestly measured.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"slabench {__version__}")
        raise typer.Exit


def _data_dir(value: Path | None) -> None:
    if value is not None:
        os.environ["SLABENCH_DATA"] = str(value)


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", callback=_data_dir, help="Folder of prepared data (or set SLABENCH_DATA)."),
    ] = None,
    plugins: Annotated[
        list[Path] | None,
        typer.Option(
            "--plugin", help="A Python file that registers own methods; may be repeated.", envvar="SLABENCH_PLUGINS"
        ),
    ] = None,
) -> None:
    launch, verb = launched(), context.invoked_subcommand
    if launch is not None and verb != "run":
        raise UsageError(
            f"torchrun started {launch.size} processes of `slabench {verb}`, and only `run` shares its work",
            "start it without torchrun",
        )
    if plugins:
        from slabench.cli import check  # imports the registries, which no help needs

        check.load(plugins, context.invoked_subcommand)


@lasting()
def main() -> None:
    """Entry point: errors of slabench are printed without a traceback, with their exit code."""
    follows = False
    try:
        launch = launched()
        if follows := launch is not None and launch.follows:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - the first process speaks for all
        app()
    except SlabenchError as error:
        if follows:
            sys.exit(error.exit_code)
        typer.secho(f"error: {error.message}", fg="red", err=True)
        if error.remedy:
            typer.echo(f"       {error.remedy}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        if not follows:
            typer.echo("interrupted", err=True)
        sys.exit(130)
    except OSError as error:
        # A place that cannot be written to, or a full disk; any other is a mistake of ours, and its traceback is wanted.
        where = error.filename2 or error.filename
        if where is None and error.errno != errno.ENOSPC:
            raise
        typer.secho(f"error: {f'{where}: ' if where is not None else ''}{error.strerror}", fg="red", err=True)
        typer.echo("       name another place, or see that this one can be read and written to", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
