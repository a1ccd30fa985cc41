"""What the make targets run."""

import signal


def end_on_signals() -> None:
    """Make SIGTERM and a closed terminal end a command as Ctrl-C does: by KeyboardInterrupt, which it catches.

    For a command's `main` alone: the library installs no handlers.
    """

    def interrupt(*_) -> None:
        raise KeyboardInterrupt

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # SIGINT too: a background job of a shell starts with it ignored
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)


def printable(text: str) -> str:
    """Return text with what a terminal would obey or hide (control characters, U+202E) written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
