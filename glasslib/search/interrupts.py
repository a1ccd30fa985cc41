"""How a run stops on Ctrl-C: whole steps, then one exception that carries what was found."""

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C or JupyterLab's stop button; `result` holds what it had found.

    Being a KeyboardInterrupt it ends "Run All" too. A notebook shows it as one line.

    result: a Result; of `run_many` a list of them.
    """

    def __init__(self, message: str, result) -> None:
        super().__init__(message)
        self.result = result

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback; the exception is kept there as sys.last_value."""
        return [f"{self} (error is sys.last_value)" if "error.result" in str(self) else str(self)]


def message(
    n_done: int, n_generations: int, *, found: bool, checkpoint: Path | None = None, resume: bool = False
) -> str:
    """Say where a run stopped, where the best is, and how to go on."""
    if not found and checkpoint is not None and checkpoint.is_file():
        return f"stopped before {checkpoint} was read; it is as it was: run the cell again to go on"
    if not found:
        return f"stopped before the first of {n_generations} generations was scored; nothing was found yet"
    stopped = f"stopped after generation {n_done} of {n_generations}; the best so far is in error.result"
    if checkpoint is None:
        return f"{stopped}; no checkpoint was kept, so only the same search object can go on"
    return f"{stopped}, or {'' if resume else 'pass resume=True and '}run the cell again to go on"


class WholeSteps:
    """Runs steps that must not be left half done; a context manager.

    Python raises KeyboardInterrupt between any two instructions, but only in the main thread. So there the steps run in
    a helper thread: an interrupt ends the wait for one at once, and leaving the context waits until it is done. No
    signal handler is installed.
    """

    def __init__(self) -> None:
        self._steps: SimpleQueue = SimpleQueue()
        self._is_running = False  # the helper thread

    def __enter__(self) -> "WholeSteps":
        if threading.current_thread() is threading.main_thread():
            self._is_running = True
            threading.Thread(target=self._work, name="glasslib-search", daemon=True).start()
        return self

    def __call__(self, step: Callable, *args):
        """What `step(*args)` returns or raises."""
        if not self._is_running:
            return step(*args)
        outcome: SimpleQueue = SimpleQueue()
        self._steps.put((partial(step, *args), outcome))
        value, error = outcome.get()
        if error is not None:
            raise error
        return value

    def _work(self) -> None:
        while (job := self._steps.get()) is not None:
            step, outcome = job
            try:
                outcome.put((step(), None))
            except BaseException as error:
                outcome.put((None, error))
        self._is_running = False

    def __exit__(self, *_) -> None:
        pressed = False
        while self._is_running:  # Thread.join would forget a thread when it is interrupted (bpo-45274)
            try:
                self._steps.put(None)
                time.sleep(0.0005)
            except KeyboardInterrupt:  # pressed again: the step is finished all the same
                pressed = True
        if pressed:
            raise KeyboardInterrupt
