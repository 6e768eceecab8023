"""Standard output, standard error and progress, whatever they are connected to: terminals, files, pipes, nothing."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

from sise.errors import SuiteError

LOG_INTERVAL = 30.0
"""Seconds between two lines of progress where nobody watches: a log file needs few."""


class _Descriptor(io.FileIO):
    """Standard output or error. When its reader leaves (``| head``), work goes on and words go nowhere.

    Attributes:
        unread: Whether the reader has left.
    """

    unread = False

    def __init__(self, number: int, title: str) -> None:
        super().__init__(number, "w", closefd=False)
        self.title = title

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.unread = error.errno == errno.EPIPE
            _connect_to_nothing(self.fileno())  # else every later write, down to the one at exit, fails again
            if self.unread or self.fileno() == 2:  # of standard error, nobody can be told
                return len(data)
            raise OSError(error.errno, error.strerror, self.title) from None


def prepare_streams() -> None:
    """Makes standard output and standard error safe to print to; called at the start of every command.

    Characters that their encoding lacks are escaped. Closed streams (``2>&-``, daemons, ``pythonw``) swallow what is
    printed. A reader that leaves stops nothing; a full disk raises an ``OSError`` that names the stream.
    """
    _occupy_descriptors()
    sys.stdout = _prepared(sys.stdout, sys.__stdout__, 1, "standard output")
    sys.stderr = _prepared(sys.stderr, sys.__stderr__, 2, "standard error")


def stdout_unread() -> bool:
    """Whether the reader of standard output has left, so that a command without end should end."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return isinstance(raw, _Descriptor) and raw.unread


def _prepared(stream: TextIO | None, original: TextIO | None, number: int, title: str) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if stream is not original:  # somebody else's, who catches what is printed, or ours of an earlier call
        return stream
    stream.flush()
    raw = io.BufferedWriter(_Descriptor(number, title))
    lines = number == 2 or bool(stream.line_buffering)
    return io.TextIOWrapper(raw, encoding=stream.encoding, errors="backslashreplace", line_buffering=lines)


def _occupy_descriptors() -> None:
    """Opens closed descriptors 0 to 2, so that no file of records becomes one and gets what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            _connect_to_nothing(number)


def _connect_to_nothing(number: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != number:
        os.dup2(nothing, number)
        os.close(nothing)


NOT_FOUND = "Error locating target"


def message(error: BaseException) -> str:
    """What a user needs to know of an error: the suite's own message, where Hydra wrapped it; of a file, which."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}; give a place that can be read and written."
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, SuiteError):
        cause = cause.__cause__
    if cause is None and str(error).startswith(NOT_FOUND):  # Hydra keeps the reason behind it
        reason = error.__cause__
        while reason is not None and reason.__cause__ is not None:
            reason = reason.__cause__
        return f"{str(error).split(',')[0]}: {type(reason).__name__}: {reason}" if reason else str(error)
    return str(cause or error)


class Progress(tqdm):
    """A progress bar on a terminal; elsewhere a line of its own every :data:`LOG_INTERVAL` seconds, and a last one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._watched = sys.stderr.isatty()
        self._next = 0.0
        super().__init__(*args, mininterval=0.1 if self._watched else LOG_INTERVAL, **options)

    def refresh(self, *args: Any, **options: Any) -> None:
        """Shows where things are; in a log file not before its time, whatever calls it."""
        if self._watched or time.monotonic() >= self._next:
            self._next = time.monotonic() + LOG_INTERVAL
            super().refresh(*args, **options)

    def clear(self, *args: Any, **options: Any) -> None:
        """Makes room for other words on a terminal; lines of a log file stay."""
        if self._watched:
            super().clear(*args, **options)

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """How one state is printed."""
        if file.isatty():
            return tqdm.status_printer(file)

        def print_line(text: str) -> None:
            if text:
                file.write(f"{text}\n")
                file.flush()

        return print_line
