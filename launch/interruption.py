"""Being told to stop: by SIGTERM, as before a preemption, or by SIGINT (Ctrl-C)."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

EXIT_CODE = 75
"""What the shell gets from an interrupted training: EX_TEMPFAIL of sysexits.h, "try again later"."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)

AGREE_EVERY = 8
"""Several hosts ask each other every so many steps whether one of them was told to stop (our choice)."""

Check = Callable[[int], None]
"""What a long evaluation calls after each batch, with how many there were: it raises `Interrupted` if told to stop."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """A training was told to stop; all its steps are saved, and the message says how to go on."""


class Interruption:
    """Inside `with`, the first signal is only noted, so that there is time to save; a second one ends the process.

    Python handles signals in its main thread only; in another thread, `with` changes nothing.

    Args:
        message: What `Interrupted` says.
    """

    def __init__(self, message: str) -> None:
        self._message, self._noted = message, False
        self._handlers_before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._handlers_before = {which: signal.signal(which, self._note) for which in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for which, handler in self._handlers_before.items():
            signal.signal(which, handler or signal.SIG_DFL)  # type: ignore[arg-type]

    def told_by(self, step: int) -> bool:
        """Whether to stop after this step; all hosts get the same answer, and must all ask after every step."""
        if jax.process_count() == 1:
            return self._noted
        return step % AGREE_EVERY == 0 and bool(multihost_utils.process_allgather(np.array(self._noted)).any())

    def check(self, step: int) -> None:
        """Raise `Interrupted` if `told_by` says so."""
        if self.told_by(step):
            raise Interrupted(self._message)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        for which in SIGNALS:
            signal.signal(which, signal.SIG_DFL)
