"""Processes that must not outlive the one that started them."""

import ctypes
import os
import signal
import sys
from multiprocessing import parent_process

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl (linux/prctl.h)."""


def end_with_parent() -> None:
    """Let the kernel kill this process as soon as the one that started it is gone.

    Only Linux knows how; elsewhere nothing happens. It must be killed and not asked: it may be
    waiting for what never comes, and what it holds open (sockets, pipes) keeps others waiting.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it was gone before
        os.kill(os.getpid(), signal.SIGKILL)
