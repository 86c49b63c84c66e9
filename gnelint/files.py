"""Files are told apart by their bytes' hash, and written under a temporary name beside their place and renamed.

Nobody ever sees half of one.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_LONGEST = 100
"""Letters of a name that its temporary name repeats: file systems allow 255 in all."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` at the end; on any error what is there stays as it is.

    It gets the mode of what it replaces. A link is replaced, not followed.

    Raises:
        OSError: it cannot be written.
    """
    import tempfile  # slow to import, and most runs write nothing

    prefix = f".{path.name[:_LONGEST]}."
    _remove_remains(path.parent, prefix)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{prefix}{os.getpid()}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        Path(name).chmod(_mode(path))
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _remove_remains(directory: Path, prefix: str) -> None:
    """Remove what was left by processes that were killed while they wrote the same file."""
    for entry in directory.glob(f"{glob.escape(prefix)}*-*.tmp"):
        number = entry.name[len(prefix) :].partition("-")[0]
        if number.isdigit() and not _lives(int(number)):
            entry.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether a process of this number runs; never known to be over on Windows, where asking would end it."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Alone among the processes that change files of a directory by reading and writing them; not on Windows.

    Raises:
        OSError: there is no such directory.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _mode(path: Path) -> int:
    if path.exists():
        return path.stat().st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


MAX_TEXT = 1 << 26
"""Bytes of the longest text that is read whole: a configuration, a baseline, a report."""


def read_text(path: Path, most: int = MAX_TEXT) -> str:
    """A text file that may be a stranger's.

    Raises:
        OSError: it cannot be read, it is no file, or longer than `most` bytes.
        UnicodeDecodeError: it is no UTF-8.
    """
    return read_bytes(path, most).decode("utf-8")


def read_bytes(path: Path, most: int = MAX_TEXT) -> bytes:
    """The same as bytes.

    Raises:
        OSError: it cannot be read, it is no file, or longer than `most` bytes.
    """
    state = path.stat()
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory")
    if not stat.S_ISREG(state.st_mode) and path.parts[:3] != ("/", "dev", "fd"):
        raise OSError(errno.EINVAL, "is no regular file")
    with path.open("rb") as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise OSError(errno.EFBIG, f"is larger than {most} bytes")
    return found


def user_directory() -> Path | None:
    """Where this user's programs keep what can be made again, None for one without a home."""
    try:
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "gnelint" / "Cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "gnelint"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gnelint"
    except RuntimeError:  # no home
        return None


def is_own(path: Path) -> bool:
    """Whether nobody but this user can have written it; always on Windows, whose user directories are private.

    Raises:
        OSError: there is no such file.
    """
    state = path.lstat()
    if stat.S_ISLNK(state.st_mode):
        return False
    return sys.platform == "win32" or (state.st_uid == os.getuid() and not state.st_mode & 0o022)


def user_secret() -> bytes | None:
    """Random bytes that only this user knows, the same every time; None where they cannot be kept.

    What is signed with them was written by this user, wherever it lies.
    """
    directory = user_directory()
    if directory is None:
        return None
    path = directory / "secret"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), os.fdopen(_created(path), "wb") as file:
            file.write(os.urandom(_SECRET))
        found = path.read_bytes() if is_own(directory) and is_own(path) else b""
    except OSError:
        return None
    return found if len(found) == _SECRET else None


def _created(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


_SECRET = 32
_CHUNK = 1 << 20


def sha256(path: Path) -> str | None:
    """Hash of a file's bytes, None if it cannot be read, or is no file."""
    import hashlib  # slow to import: it opens OpenSSL

    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    try:
        if not path.is_file():
            return None
        with path.open("rb", buffering=0) as file:
            while size := file.readinto(buffer):
                digest.update(buffer[:size])
    except OSError:
        return None
    return digest.hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a text file, or leave what is there as it is.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as file:
        file.write(encoded(text))


def encoded(text: str) -> bytes:
    """A text as UTF-8. The name of a file may hold bytes that are none: they are escaped."""
    return text.encode("utf-8", "backslashreplace")
