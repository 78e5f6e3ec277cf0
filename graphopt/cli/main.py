"""Entry point: runs a verb and turns whatever goes wrong into a message and an exit code.

Exit codes: 0 success, 2 the request can't be met, 3 results differ from the reference, 4 code generation, 5 device,
70 a bug of graphopt, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from graphopt.cli import console
from graphopt.cli.app import app
from graphopt.cli.bundle import write_bundle
from graphopt.cli.interrupt import watching
from graphopt.errors import GraphOptError, InternalError, UserError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; by default the process's.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with watching() as interruption:
        try:
            result = typer.main.get_command(app)(args=words, prog_name="graphopt", standalone_mode=False)
            if interruption.asked:  # the framework may turn it into an exit code
                return _interrupted()
            return result if isinstance(result, int) else 0
        except (KeyboardInterrupt, typer.Abort):
            return _interrupted()
        except Exception as error:
            # TVM turns an interrupt into an error of its own.
            return _interrupted() if interruption.asked else _failed(error, words)


def _interrupted() -> int:
    console.err.print("interrupted")
    return INTERRUPTED


def _failed(error: Exception, words: Sequence[str]) -> int:
    as_json = "--json" in words
    if isinstance(error, typer.TyperException):
        return _usage(error, as_json)
    if isinstance(error, InternalError):
        return _internal(error, error, words, as_json)
    if isinstance(error, GraphOptError):
        return _fail(error, as_json)
    if isinstance(error, MemoryError):
        hint = "use smaller shapes (--shape) or a larger machine"
        return _fail(UserError("out of memory", code="out-of-memory", hint=hint), as_json)
    # A bug: nothing but GraphOptError is raised on purpose.
    return _internal(InternalError(f"{type(error).__name__}: {error}", code="crash"), error, words, as_json)


def _fail(error: GraphOptError, as_json: bool) -> int:
    if as_json:
        console.print_json({"error": error.to_dict()})
    console.print_error(error)
    return error.exit_code


def _usage(error: typer.TyperException, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "graphopt"
    if type(error).__name__ == "NoArgsIsHelpError":
        console.err.print(error.format_message(), markup=False)
        return 2
    text, hint = error.format_message(), f"`{command} --help` shows what it takes"
    close = getattr(error, "possibilities", None)  # of an unknown option
    if close:
        text, hint = str(getattr(error, "message", text)), f"did you mean {' or '.join(sorted(close))}?"
    return _fail(UserError(text, code="bad-usage", hint=hint), as_json)


def _internal(error: InternalError, cause: BaseException, words: Sequence[str], as_json: bool) -> int:
    folder = write_bundle(cause, words)
    if folder is not None:
        error.add_note_line(f"a report is in {folder}; it holds no model data")
    error.hint = error.hint or "this is a bug of graphopt: please report it with that folder"
    return _fail(error, as_json)


if __name__ == "__main__":
    sys.exit(main())
