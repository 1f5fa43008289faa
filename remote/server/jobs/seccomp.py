"""Seccomp: a filter that leaves a process nothing but to compute, and to read and write what it has open already.

Every system call that is not listed fails with EPERM: no file is opened or looked at, no socket made, no process or
thread started, no signal sent, no limit lifted, and no page of memory may be executed that was not mapped so before.
"""

import ctypes
import errno
import platform
import struct
from typing import Final

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_KILL: Final = 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_GREATER, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_NUMBER_AT, _ARCH_AT, _THIRD_AT = 0, 4, 16 + 2 * 8
_PROT_EXEC: Final = 4
_X32: Final = 0x40000000
"""System calls of x86-64's other ABI have numbers from here on."""

# read, write, close, lseek, munmap, brk, rt_sigaction, rt_sigprocmask, rt_sigreturn, pread64, readv, writev, mremap,
# madvise, sched_yield, getpid, gettid, exit, exit_group, sigaltstack, futex, clock_gettime, clock_getres, gettimeofday,
# nanosleep, clock_nanosleep, restart_syscall, getrandom, getrusage, rseq; and (with a look at how) mmap, mprotect.
# fmt: off
_CALLS: Final = {
    "x86_64": (
        0xC000003E,
        (0, 1, 3, 8, 11, 12, 13, 14, 15, 17, 19, 20, 25, 28, 24, 39, 186, 60, 231, 131, 202, 228, 229, 96, 35, 230, 219,
         318, 98, 334),
        (9, 10),
    ),
    "aarch64": (
        0xC00000B7,
        (63, 64, 57, 62, 215, 214, 134, 135, 139, 67, 65, 66, 216, 233, 124, 172, 178, 93, 94, 132, 98, 113, 114, 169,
         101, 115, 128, 278, 165, 293),
        (222, 226),
    ),
}
# fmt: on


class CannotConfine(Exception):
    """This machine cannot confine a process; `str()` says why."""


def confine() -> None:
    """Puts the filter on this process, for ever; raises CannotConfine. It must have one thread only."""
    machine = platform.machine()
    if machine not in _CALLS:
        raise CannotConfine(f"There is no list of system calls for {machine}.")
    program = _program(*_CALLS[machine])
    kept = ctypes.create_string_buffer(program, len(program))
    told = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(kept)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(told), 0, 0):
        raise CannotConfine(f"The kernel takes no filter of system calls ({errno.errorcode[ctypes.get_errno()]}).")


def _program(arch: int, calls: tuple[int, ...], mapping: tuple[int, ...]) -> bytes:
    """The filter for the kernel: instructions of eight bytes each."""
    lines = [
        _step(_LOAD, _ARCH_AT),
        _step(_JUMP_EQUAL, arch, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
        _step(_JUMP_GREATER, _X32, 0, 1),
        _step(_RETURN, _REFUSE),
    ]
    for call in calls:
        lines += [_step(_JUMP_EQUAL, call, 0, 1), _step(_RETURN, _ALLOW)]
    for call in mapping:
        lines += [
            _step(_JUMP_EQUAL, call, 0, 4),
            _step(_LOAD, _THIRD_AT),
            _step(_JUMP_SET, _PROT_EXEC, 0, 1),
            _step(_RETURN, _REFUSE),
            _step(_RETURN, _ALLOW),
        ]
    lines.append(_step(_RETURN, _REFUSE))
    return b"".join(lines)


def _step(code: int, value: int, if_so: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("@HBBI", code, if_so, otherwise, value)
