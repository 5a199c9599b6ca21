"""Limits itself, and becomes the Python that runs a program that nobody has read.

Run by `puzzle.posttraining.code_tests`; imports nothing of ours. On Linux a filter of system calls
lets the program neither start processes or threads, nor write, make, rename or delete files, nor
open connections. Elsewhere processes are limited by number and files by size alone. It is no
boundary against a program made to break out: what can be read by this user can be read by it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import sys

# What the program cannot do, with the numbers of x86-64 and of ARM64; None where there is none.
FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    **{"fork": (57, None), "vfork": (58, None), "clone": (56, 220), "clone3": (435, 435)},
    **{"socket": (41, 198), "socketpair": (53, 199), "io_uring_setup": (425, 425)},
    **{"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "pidfd_signal": (424, 424)},
    **{"creat": (85, None), "mknod": (133, None), "mknodat": (259, 33), "openat2": (437, 437)},
    **{"mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "truncate": (76, 45)},
    **{"unlink": (87, None), "unlinkat": (263, 35), "memfd_create": (319, 279)},
    **{"rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276)},
    **{"link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36)},
    **{"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452)},
    **{"chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54)},
    **{"setxattr": (188, 5), "lsetxattr": (189, 6), "utimensat": (280, 88), "ptrace": (101, 117)},
    **{"mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51), "unshare": (272, 97)},
    **{"setns": (308, 268), "bpf": (321, 280), "shmget": (29, 194), "msgget": (68, 186)},
    **{"semget": (64, 190), "mq_open": (240, 180), "process_vm_writev": (311, 271)},
    **{"setrlimit": (160, 164), "reboot": (169, 142), "init_module": (175, 105)},
    **{"finit_module": (313, 273), "delete_module": (176, 106), "perf_event_open": (298, 241)},
}
# Forbidden where an argument has one of some bits: opening to write, and setting a limit.
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CONDITIONAL: dict[str, tuple[tuple[int | None, int | None], int, int]] = {
    "open": ((2, None), 1, _WRITING),
    "openat": ((257, 56), 2, _WRITING),
    "prlimit64": ((302, 261), 2, 0xFFFFFFFF),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_ALTERNATIVE_NUMBERS = 0x40000000  # the other interface of x86-64
UNLIMITED = 97


def filter_program(machine: str) -> bytes:
    """Returns the filter of system calls as the kernel reads it."""
    column, architecture = _MACHINES[machine]
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL)]
    steps += [(_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, _ALTERNATIVE_NUMBERS), (_RETURN, 0, 0, _REFUSE)]
    for numbers in FORBIDDEN.values():
        if (number := numbers[column]) is not None:
            steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    for numbers, argument, bits in CONDITIONAL.values():
        if (number := numbers[column]) is not None:
            steps += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, 16 + 8 * argument)]
            steps += [(_HAS_BITS, 0, 1, bits), (_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def apply_filter() -> bool:
    """Applies the filter to this process; returns whether the system has one."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return False
    code = filter_program(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = [ctypes.c_ulong(n) for n in (38, 1, 0, 0, 0)]  # no new privileges
    if libc.prctl(*numbers):
        return False
    pointer = ctypes.create_string_buffer(program, len(program))
    mode = [ctypes.c_ulong(22), ctypes.c_ulong(2)]  # a filter
    return not libc.prctl(*mode, ctypes.byref(pointer), ctypes.c_ulong(0), ctypes.c_ulong(0))


def limit_resources(seconds: int, memory: int) -> None:
    """Limits time, memory, files and processes of this process."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def can_fork() -> bool:
    """Whether this process can start another one in spite of its limits."""
    try:
        child = os.fork()
    except OSError:
        return False
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return True


def run_limited() -> None:
    """Runs the program that the last argument names."""
    seconds, memory, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    limit_resources(seconds, memory)
    apply_filter()
    if can_fork():
        sys.exit(UNLIMITED)
    os.execv(sys.executable, [sys.executable, "-I", "-B", "-S", program])


if __name__ == "__main__":
    run_limited()
