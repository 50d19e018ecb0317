"""Where the kernel gives no namespaces: an audit hook (PEP 578) that refuses network, processes and writing outside.

It holds within the interpreter: against accidents, and code that does not set out to get round it.
"""

import os
import sys
from typing import Any

REFUSED = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill", "pty.",
    "ctypes.", "sqlite3.", "urllib.", "ftplib.", "smtplib.", "http.", "signal.pthread_kill", "os.startfile",
)  # fmt: skip
CHANGES = (
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate",
    "os.utime", "os.setxattr", "os.removexattr", "shutil.",
)  # fmt: skip
MODULES = frozenset({"ctypes", "_ctypes", "_posixsubprocess"})
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def hook_up(folder: str, real: Any = os.path.realpath) -> None:
    """From now on, in this process and for good. Writing is allowed within ``folder``."""
    inside = real(folder) + os.sep
    refused, changes, writing, modules = REFUSED, CHANGES, _WRITING, MODULES  # its own: the module's may be changed

    def within(path: Any) -> bool:
        path = os.fsdecode(path) if isinstance(path, bytes) else path
        return isinstance(path, int) or path == os.devnull or real(path).startswith(inside)

    def look(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(refused):
            raise PermissionError(f"{event}: answers may not")
        if event == "import" and args[0] in modules:
            raise PermissionError(f"import {args[0]}: answers may not")
        paths: tuple[Any, ...] = ()
        if event == "open" and isinstance(args[2], int) and args[2] & writing:
            paths = args[:1]
        elif event.startswith(changes):
            paths = tuple(path for path in args[:2] if isinstance(path, str | bytes))
        if not all(map(within, paths)):
            raise PermissionError(f"{event} {paths[0]!r}: answers write in their own folder only")

    sys.addaudithook(look)
