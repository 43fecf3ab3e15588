"""The `avemo` command: finds the subcommand, runs it, and turns the user's errors into one line and exit code 1."""

import logging
import os
import sys


def main() -> None:
    """Entry point of the console script."""
    # Heavy imports wait until here: worker processes import this module again and must stay light.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from data_pipelines.errors import DataError
    from launch.commands import parse
    from launch.errors import LaunchError

    logging.basicConfig(level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("data_pipelines").setLevel(logging.INFO)
    try:
        command = parse(sys.argv[1:])
        command()
    except (DataError, LaunchError, OSError) as error:
        sys.exit(f"avemo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
