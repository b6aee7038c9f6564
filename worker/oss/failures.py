"""What it means when a request gets no answer."""

import re
from collections.abc import Iterator
from typing import Final

from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ReadTimeoutError

from worker.errors import BlockReason, RetryReason, SinkError, TargetError, Transient
from worker.oss.exchange import Phase

_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d{3})")


def error_of_connection(error: BaseException, where: str, phase: Phase) -> SinkError:
    """Return how a request to `where` that got no answer failed, and whether it may have been applied."""
    causes = list(_causes(error))
    for cause in causes:
        if (found := _TUNNEL.match(str(cause))) is not None:
            return _error_of_tunnel(int(found.group(1)), where)
    # urllib3 derives its error for a refused connection, or a name that does not resolve, from the one for a time-out.
    timed_out = any(
        isinstance(cause, (TimeoutError, ConnectTimeoutError, ReadTimeoutError))
        and not isinstance(cause, NewConnectionError)
        for cause in causes
    )
    innermost = causes[-1]
    return Transient(
        f"{where}, {phase.value}: {type(innermost).__name__}: {innermost}",
        kind=RetryReason.TIMEOUT if timed_out else RetryReason.NETWORK,
        unknown_outcome=phase is not Phase.CONNECTING,
        while_sending=timed_out and phase is Phase.SENDING,
    )


def _error_of_tunnel(status: int, where: str) -> SinkError:
    """Judge a proxy's answer to CONNECT. What it denies, it denies until a person changes it.

    No status is given: nobody has seen the records.
    """
    if status == 407:
        message = "the proxy refuses the login (407): check the name and password in oss.proxy_url"
        return TargetError(f"{where}: {message}", block=BlockReason.TARGET)
    if 300 <= status <= 499 and status not in (408, 429):
        message = f"the proxy (oss.proxy_url) does not connect to the service, it answers {status}"
        return TargetError(f"{where}: {message}", block=BlockReason.TARGET)
    return Transient(f"{where}, connecting: the proxy (oss.proxy_url) answers {status}", kind=RetryReason.NETWORK)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Walk an exception's causes, outermost first; requests and urllib3 wrap them as arguments and attributes."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop(0)
        if not isinstance(current, BaseException) or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue += [*current.args, getattr(current, "reason", None), current.__cause__]
        if not current.__suppress_context__:
            queue.append(current.__context__)
