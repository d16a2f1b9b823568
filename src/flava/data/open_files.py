"""How many files a process may keep open: each stream has a shard open."""

from contextlib import suppress

BESIDE = 128
"""Files that a process has open beside its shards: libraries, pipes, batches on their way."""
MOST = 10_240
"""What macOS allows a process, where it says that it allows any number."""


def allow_open_files() -> int | None:
    """Let this process, and those that it starts, keep as many files open as the system lets them.

    By default many systems stop at 1,024. Returns how many, or None where that is not told.
    """
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return None
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (most, MOST):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
            break
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if allowed == resource.RLIM_INFINITY else allowed


def problem(streams: int) -> str | None:
    """Why a process cannot read so many streams, if it cannot."""
    allowed = allow_open_files()
    if allowed is None or streams + BESIDE <= allowed:
        return None
    return (
        f"a process reads {streams} shards at once, and may open {allowed} files, of which others "
        f"take {BESIDE}: allow more (ulimit -n), or lower data.streams, or raise data.workers"
    )
