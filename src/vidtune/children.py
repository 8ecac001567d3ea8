"""The processes that this one has started."""

import multiprocessing
import signal
import threading


def kill_children() -> None:
    """End worker processes, which may hang where no signal but SIGKILL reaches them; Python would wait for them."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    # torch raises an error wherever this process is when a worker of its dies
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if in_main_thread else None
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)
