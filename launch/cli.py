"""The `avemo` command: finds the subcommand, runs it, and turns the user's errors into one line and an exit code."""

import logging
import os
import sys
import warnings


def main() -> None:
    """Entry point of the console script.

    Exit codes: 1 for the user's errors, 75 for a training that was told to stop and can be resumed, 130 for Ctrl-C
    elsewhere.
    """
    # Heavy imports wait until here: worker processes import this module again and must stay light.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from launch.compilation_cache import keep_compiled_programs

    keep_compiled_programs()
    from data_pipelines.errors import DataError
    from launch.commands import parse
    from launch.errors import LaunchError
    from launch.interruption import EXIT_CODE, Interrupted

    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("data_pipelines").setLevel(logging.INFO)
    for name in ("absl", "asyncio"):  # Orbax logs tracebacks of errors that it raises as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # Orbax's, where a disk is full
    try:
        command = parse(sys.argv[1:])
        command()
    except (DataError, LaunchError, OSError) as error:
        sys.exit(f"avemo: {error}")
    except Interrupted as stop:
        print(f"avemo: {stop}", file=sys.stderr)
        sys.exit(EXIT_CODE)
    except KeyboardInterrupt:
        sys.exit(130)
