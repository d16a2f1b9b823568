"""How commands end: a message and an exit status, and never a traceback for what is expected."""

import os
import sys
from collections.abc import Callable


def reporting(act: Callable[[], object]) -> int:
    """Do it; the exit status is 0, or 1 after an error, or 130 after Ctrl-C."""
    try:
        act()
    except KeyboardInterrupt as stop:
        return stopped(stop)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"flava: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        from flava.training.launch import Interrupted  # needs torch, which not all commands do

        if not isinstance(error, Interrupted):
            raise
        return stopped(error)
    return 0


def stopped(stop: BaseException) -> int:
    """The exit status after Ctrl-C; of several ranks the first says so."""
    if os.environ.get("RANK", "0") == "0":  # as torchrun and Slurm's file tell it
        print(f"flava: {str(stop) or 'stopped'}", file=sys.stderr)
    return 130
