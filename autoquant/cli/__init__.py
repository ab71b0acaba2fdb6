"""The command line. Commands are thin; exit statuses are decided here alone."""

import inspect
import os
import sys

import typer
from typer.exceptions import Abort, TyperException

from autoquant.cli import browser, catalog, models, reports, searches, sensitivity
from autoquant.cli.output import STDERR
from autoquant.errors import InputError, NegativeAnswer, TrialError

__all__ = ["app", "main"]

_DONE, _NO, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130


def _keep_lines(text: str) -> str:
    """Help whose examples stay one a line: a paragraph after backspace is not wrapped."""
    return text.replace("\nExample", "\n\b\nExample")


app = typer.Typer(
    name="autoquant",
    help="Search for the quantized model that is fast, small and right on your machine.",
    epilog="Start here: autoquant search digits",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    searches.search,
    searches.resume,
    searches.studies,
    searches.trials,
    searches.front,
    searches.export,
    reports.report,
    sensitivity.sensitivity,
    models.quantize,
    models.verify,
    models.bench,
    catalog.tasks,
    catalog.spaces,
    browser.app,
):
    app.command(help=_keep_lines(inspect.getdoc(command) or ""))(command)


def main() -> None:
    """Run the command line; never shows a traceback for what a user did."""
    sys.exit(_run())


def _run() -> int:
    try:
        status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        # typer turns Ctrl-C into a returned status when it is not to exit by itself
        if status == _INTERRUPTED:
            raise KeyboardInterrupt
    except TyperException as error:
        return _complain(error.format_message(), _BAD_INPUT)
    except InputError as error:
        return _complain(str(error), _BAD_INPUT)
    except (NegativeAnswer, TrialError) as error:
        return _complain(str(error), _NO)
    except (KeyboardInterrupt, Abort):
        return _complain("interrupted; everything finished so far is kept", _INTERRUPTED)
    except OSError as error:
        return _complain(f"{error.filename or ''}: {error.strerror or error}", _BAD_INPUT)
    except Exception as error:  # a fault of ours: still one line, and how to see the rest
        if os.environ.get("AUTOQUANT_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}"
        return _complain(f"unexpected {what} (AUTOQUANT_DEBUG=1 shows where)", _NO)
    return _DONE


def _complain(message: str, status: int) -> int:
    STDERR.print(f"error: {' '.join(message.split())}", markup=False)
    return status
