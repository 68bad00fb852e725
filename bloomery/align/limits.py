"""A time limit for code that runs in this process: the alarm clock of the operating system, which interrupts Python.

It also ends a regular expression that backtracks for ever, for `re` looks for signals as it works; what it cannot end
is one long call into C that does not, such as a power of huge integers.  Signals reach the main thread only, where
training asks its rewards: in another thread there is no limit.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN = 0.5                     # seconds after which code that swallowed the interruption is interrupted again


class TookTooLong(Exception):
    """The time was over before the work was done."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """`TookTooLong` out of a body that is not done in time; an outer limit goes on afterwards."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: object) -> None:
        raise TookTooLong(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, before)
