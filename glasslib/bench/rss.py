"""How much memory a piece of work takes: the peak of this process while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def peak_growth_mb(work: Callable[[], Result], *, interval_s: float = 0.05) -> tuple[Result, float]:
    """Run `work` and watch this process's resident memory.

    Call it once on a small piece of work before, so that libraries and models have been loaded when the measuring
    begins.

    Args:
        work: called once.
        interval_s: seconds between two looks; a peak shorter than that may be missed.

    Returns:
        What `work` returned, and by how many megabytes (1e6 bytes) memory rose above its level at the start.
    """
    import psutil

    process, stop = psutil.Process(), threading.Event()
    start = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stop.wait(interval_s):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        result = work()
    finally:
        stop.set()
        watcher.join()
    return result, (max(peak, process.memory_info().rss) - start) / 1e6
