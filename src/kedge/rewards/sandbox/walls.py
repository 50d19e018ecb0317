"""What an answer's process may not do: limits for all systems, namespaces where Linux lets it, else an audit hook.

The limits and the namespaces are the kernel's. The audit hook is the interpreter's own: it stops accidents and the
usual tricks, and not who sets out to get round it.
"""

import ctypes
import math
import os
import platform
import resource
import sys
from contextlib import suppress
from typing import Any

PROCESSES = 8
"""Processes and threads of one answer."""
OPEN_FILES = 64
FILE_SIZE = 16 * 2**20
"""Bytes of a file that it writes; its folder may hold four such, where there are namespaces."""

_NEW_USER, _NEW_MOUNT = 0x10000000, 0x00020000
_NEW_REST = 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000  # processes, network, shared memory, host name
_NO_SUID, _NO_DEV, _BIND, _RECURSIVE, _PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
_READ_ONLY, _AT_RECURSIVE, _MOUNT_SETATTR = 0x1, 0x8000, 442
_DEATH_SIGNAL, _DROP_CAPABILITY, _NO_NEW_PRIVILEGES, _SUBREAPER = 1, 24, 38, 36
_CAPABILITIES_3 = 0x20080522


def separate() -> bool:
    """Put this process's future children into namespaces of their own, where the kernel lets it."""
    if sys.platform != "linux":
        return False
    uid, gid = os.geteuid(), os.getegid()
    libc = _libc()
    if uid == 0 and libc.unshare(_NEW_MOUNT | _NEW_REST) == 0:
        return True
    if libc.unshare(_NEW_USER | _NEW_MOUNT | _NEW_REST) != 0:
        return False
    try:
        for file, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{file}", "w") as map_:
                map_.write(line)
    except OSError:
        return False
    return True


def furnish(folders: list[str]) -> bool:
    """In a mount namespace: a root of its own with these folders to read, and ``/tmp`` to write, where this now is."""
    root = os.getcwd()
    try:
        _mount(b"none", "/", None, _RECURSIVE | _PRIVATE)
        _mount(b"tmpfs", root, b"tmpfs", _NO_SUID | _NO_DEV, b"size=1m,mode=755")
        for inner in ("/tmp", "/proc"):
            os.makedirs(root + inner, exist_ok=True)
        # Before the folders, of which some may lie in it: an environment below /tmp.
        _mount(b"tmpfs", root + "/tmp", b"tmpfs", _NO_SUID | _NO_DEV, f"size={4 * FILE_SIZE},mode=1777".encode())
        for folder in folders:
            _show(folder, root)
        for device in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
            _show(device, root)
        with suppress(OSError):  # of a container that hides parts of its own
            _mount(b"proc", root + "/proc", b"proc", _NO_SUID | _NO_DEV)
        _read_only(root, 0)
        os.chroot(root)
        os.chdir("/tmp")
    except OSError:
        os.chdir(root)
        return False
    return True


def folders_of_python() -> list[str]:
    """What an interpreter reads: its own folders, and the system's libraries."""
    nix = ["/nix/store"] if sys.base_prefix.startswith("/nix/") else []
    system = ["/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache", "/etc/localtime", *nix]
    found: list[str] = []
    for path in [*system, sys.base_prefix, *(each for each in sys.path if os.path.isdir(each))]:
        if os.path.lexists(path) and not any(path == there or path.startswith(f"{there}/") for there in found):
            found.append(path)
    return found


def give_up_rights(number: int, *, to_nobody: bool) -> bool:
    """Have no capabilities, and where this is root be the user of this number, if ``to_nobody``. Whether the limit of
    processes binds, as it does for everybody but root."""
    libc = _libc() if sys.platform == "linux" else None
    if libc is not None:
        for capability in range(64):
            libc.prctl(_DROP_CAPABILITY, capability, 0, 0, 0)
    if os.getuid() == 0 and to_nobody:
        for user in (number, 65534):
            with suppress(OSError):
                os.setgroups([])
                os.setresgid(user, user, user) if hasattr(os, "setresgid") else os.setgid(user)
                os.setresuid(user, user, user) if hasattr(os, "setresuid") else os.setuid(user)
                break
    if libc is not None:
        header, none = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
        libc.capset(header, none)
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        libc.prctl(_DEATH_SIGNAL, 9, 0, 0, 0)
    return os.getuid() != 0


def limit(seconds: float, memory: int) -> None:
    """On the processor's time, memory (bytes), files and processes."""
    whole = math.ceil(seconds)
    for name, soft, hard in (
        ("CPU", whole, whole + 1),
        ("AS", memory, memory),
        ("FSIZE", FILE_SIZE, FILE_SIZE),
        ("NOFILE", OPEN_FILES, OPEN_FILES),
        ("CORE", 0, 0),
        ("NPROC", PROCESSES, PROCESSES),
    ):
        with suppress(ValueError, OSError, AttributeError):  # macOS knows no limit of memory
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))


def adopt_orphans() -> None:
    """Be the parent of what loses its own, so that it can be found and killed."""
    if sys.platform == "linux":
        _libc().prctl(_SUBREAPER, 1, 0, 0, 0)


def _show(path: str, root: str) -> None:
    there = root + path
    os.makedirs(os.path.dirname(there), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), there)
        return
    if os.path.isdir(path):
        os.makedirs(there, exist_ok=True)
    else:
        with open(there, "w"):
            pass
    _mount(path.encode(), there, None, _BIND | _RECURSIVE)
    if not path.startswith("/dev/"):
        _read_only(there, _AT_RECURSIVE)


def _mount(what: bytes, where: str, kind: bytes | None, flags: int, data: bytes | None = None) -> None:
    if _libc().mount(what, where.encode(), kind, ctypes.c_ulong(flags), data) != 0:
        raise OSError(ctypes.get_errno(), "mount", where)


def _read_only(where: str, flags: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    if platform.machine() == "alpha" or (
        _libc().syscall(_MOUNT_SETATTR, -100, where.encode(), flags, ctypes.byref(attributes), size) != 0
    ):
        raise OSError(ctypes.get_errno(), "mount_setattr", where)


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
