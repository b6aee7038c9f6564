"""Small files that other programs write, and what is no such file."""

import os
import socket
from pathlib import Path

import pytest

from tests.support.descriptors import open_descriptors
from worker.settings import files

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX has these files")


def test_a_file_of_the_size_allowed_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    assert files.read(path, 1000) == b"x" * 1000


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_directory(path: Path) -> None:
    path.mkdir()


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def make_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda _: None, "No such file or directory"),
        (make_fifo, "it is not a regular file"),
        (make_device, "it is not a regular file"),
        (make_directory, "Is a directory"),
        (make_large, "it is larger than 1000 bytes"),
        (make_loop, "Too many levels of symbolic links"),
    ],
    ids=["missing", "FIFO", "device", "directory", "large", "loop"],
)
def test_what_cannot_be_read_is_refused_at_once(tmp_path: Path, make: object, why: str) -> None:
    path = tmp_path / "file"
    make(path)  # type: ignore[operator]  # one of the functions above
    with pytest.raises(OSError, match=why) as raised:
        files.read(path, 1000)
    assert files.why(raised.value) == why


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("socket")
        assert files.problem("socket", 1000)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    look = os.fstat

    def grow(descriptor: int) -> os.stat_result:
        found = look(descriptor)
        path.write_bytes(b"x" * 2000)
        return found

    monkeypatch.setattr(os, "fstat", grow)
    with pytest.raises(OSError, match="larger than 1000"):
        files.read(path, 1000)


def test_reading_leaves_no_descriptor_open(tmp_path: Path) -> None:
    assert files.problem(str(tmp_path), 10) == "Is a directory"
    assert str(tmp_path) not in {target for _, target in open_descriptors()}
