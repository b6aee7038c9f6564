"""The Kafka key and the headers of a message that several records are in: each record reads them, and each is read once.

Otherwise they would cost their bytes times the records, which is minutes for a megabyte. A message that is one record has them
as they came.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias, TypeVar, overload

from worker.errors import Reason, RecordError

Header: TypeAlias = tuple[str, bytes | None]

_T = TypeVar("_T")
_FEW: Final = 8  # headers, which are looked through faster than they are sorted by their names


class _Message(Protocol):
    @property
    def key(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[Header]: ...


class _Memory(dict[object, object]):
    """What was read, by what read it, and the errors of that."""

    def once(self, what: object, read: Callable[[], _T]) -> _T:
        """Return what `read` returns, or raise the `RecordError` that it raises; it is called the first time alone."""
        if what not in self:
            try:
                self[what] = read()
            except RecordError as error:
                self[what] = error
        found = self[what]
        if isinstance(found, RecordError):
            raise found.with_traceback(None)
        return found  # type: ignore[return-value]  # it is what `read` returned


class SharedKey(bytes):
    """A Kafka key that remembers what it was read as."""

    _memory: _Memory

    def once(self, read: Callable[..., _T], *others: object) -> _T:
        """Return what `read` makes of the key and of others that the message has, or raise the `RecordError` that it raises."""
        if "_memory" not in self.__dict__:
            self._memory = _Memory()
        return self._memory.once(read, lambda: read(bytes(self), *others))


class SharedHeaders(Sequence[Header]):
    """Headers that know the last one of each name, and remember what they were read as.

    `more` are further ones of a single record, which count before. `memory` is of the same headers without them.
    """

    def __init__(self, headers: Sequence[Header], more: Sequence[Header] = (), memory: _Memory | None = None) -> None:
        self._headers = headers
        self._more = more
        self._memory = _Memory() if memory is None else memory

    def __len__(self) -> int:
        return len(self._headers) + len(self._more)

    @overload
    def __getitem__(self, at: int) -> Header: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Header]: ...
    def __getitem__(self, at: int | slice) -> Header | Sequence[Header]:
        return [*self._headers, *self._more][at]

    def __iter__(self) -> Iterator[Header]:
        yield from self._headers
        yield from self._more

    def with_more(self, headers: Sequence[Header]) -> "SharedHeaders":
        """Return these headers with further ones behind them, which the others do not get."""
        return SharedHeaders(self._headers, (*self._more, *headers), self._memory)

    def text(self, name: str) -> str | None:
        """Return the last header of a name as text, None where there is none. Raises `RecordError`."""
        for own, value in reversed(self._more):
            if own == name:
                return _text(own, value)
        return self._memory.once(name, lambda: _text(name, self.once(dict).get(name)))

    def once(self, read: Callable[[Sequence[Header]], _T]) -> _T:
        """Return what `read` makes of the headers without further ones."""
        return self._memory.once(read, lambda: read(self._headers))


def around_of(message: _Message) -> tuple[bytes | None, Sequence[Header]]:
    """Return the Kafka key and the headers of a message for the records in it."""
    key = message.key
    return None if key is None else SharedKey(key), SharedHeaders(message.headers)


def by_name(headers: Sequence[Header]) -> Sequence[Header]:
    """Return headers for many looks at them."""
    return headers if len(headers) <= _FEW or type(headers) is SharedHeaders else SharedHeaders(headers)


def header_text(headers: Sequence[Header], name: str) -> str | None:
    """Return the last header of a name as text, None where there is none, or it is null. Raises `RecordError`."""
    if type(headers) is SharedHeaders:
        return headers.text(name)
    for own, value in reversed(headers):
        if own == name:
            return _text(own, value)
    return None


def _text(name: str, value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        raise RecordError(Reason.MALFORMED, f"the header {name} is not UTF-8: {error.reason}") from None
