"""A Ray cluster: a running one, or one that this process starts for itself."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from yizhi.errors import InputError, NotRun

# Ray reports its use to its makers, warns of what later versions will do, and writes its own log to standard error,
# unless told not to.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


@contextmanager
def connect(address: str | None, processors: int | None) -> Iterator[None]:
    """A cluster for the block: the one at `address`, the one that this process already uses, or a new one.

    address: as `ray.init` takes it. None: $RAY_ADDRESS, else a new cluster on this machine.
    processors: of a new cluster; None for all. Raises InputError if no cluster can be used.
    """
    if not find_spec("ray"):
        raise NotRun("the Ray engine", "needs Ray: pip install 'yizhi[ray]'")
    if address and address not in ("auto", "local"):
        _reach(address)
    import ray

    if address is None and ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    own: dict[str, Any] = {"num_cpus": processors, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except Exception as error:  # noqa: BLE001 - where it cannot be started, Ray raises Exception itself
        where = "this machine" if address == "local" else address
        raise InputError("the Ray engine", f"no cluster could be used on {where}: {first_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise InputError if nothing listens. Ray itself needs minutes to notice."""
    if address.startswith("ray://"):
        reason = "a Ray client is outside the cluster, and the nodes cannot read its files"
        raise InputError(f"`address` {address}", f"{reason}; run this on a node, for instance by `ray job submit`")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError("`address`", f"expected auto or HOST:PORT; found {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=20).close()
    except OSError as error:
        raise InputError(f"`address` {address}", f"nothing answers there: {error.strerror or error}") from None


def first_line(error: BaseException) -> str:
    """The first line of an error, or its class. Ray's messages continue with stacks of other processes."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
