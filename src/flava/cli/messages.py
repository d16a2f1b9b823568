"""How commands end: a message and an exit status, and never a traceback for what is expected."""

import sys
from collections.abc import Callable

from flava.training.loop import Interrupted
from flava.training.processes import own_rank


def reporting(act: Callable[[], object]) -> int:
    """Do it; the exit status is 0, or 1 after an error, or 130 after Ctrl-C."""
    try:
        act()
    except (Interrupted, KeyboardInterrupt) as stop:
        if own_rank() == 0:
            print(f"flava: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"flava: {error}", file=sys.stderr)
        return 1
    return 0
