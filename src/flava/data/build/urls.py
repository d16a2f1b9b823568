"""Which URLs may be fetched: those of the public web."""

import ipaddress
from urllib.parse import urlsplit

from flava.data.errors import SampleError

LOCAL_NAMES = ("localhost", ".localhost", ".local", ".internal", ".lan", ".home.arpa")
"""Ends of host names that no public server has (RFC 6761, 6762, 8375; and common use)."""


def check_url(url: object) -> str:
    """The URL itself.

    Raises:
        SampleError: its scheme is not http or https, or its host is on no public network. Names
            are not resolved: who fetches must do that.
    """
    if not isinstance(url, str) or not url.strip():
        raise SampleError("URL is missing", type(url).__name__)
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname or ""
    except ValueError as error:
        raise SampleError("URL is malformed", f"{url[:200]} ({error})") from error
    if parts.scheme not in ("http", "https"):
        raise SampleError("URL is not http or https", url[:200])
    if not host:
        raise SampleError("URL is malformed", f"{url[:200]} (no host)")
    if host == "localhost" or host.endswith(LOCAL_NAMES) or not is_public(host):
        raise SampleError("URL is of a private address", url[:200])
    return url


def is_public(host: str) -> bool:
    """Whether a host given as an address is on the public network; names are taken to be."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        # 127.1, 0x7f000001 and 2130706433 are addresses too for the C library.
        last = host.rstrip(".").rpartition(".")[2].lower()
        return not (last.isdigit() or last.startswith("0x"))
