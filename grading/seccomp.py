"""The system calls that a sandboxed Python may make, as a BPF program for the kernel.

What is not listed answers "function not implemented": sockets, namespaces, mounts, tracing, keys, io_uring,
shared memory that no limit counts. Threads may be started, processes not, so that the limits on one process
are the limits on all.
"""

from __future__ import annotations

import errno
import platform
import struct

_CALLS = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, close 3 57,
close_range 436 436, fstat 5 80, newfstatat 262 79, statx 332 291, lseek 8 62, open 2 -,
openat 257 56, openat2 437 437, stat 4 -, lstat 6 -, access 21 -, faccessat 269 48,
faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents64 217 61, getcwd 79 17, chdir 80 49,
fchdir 81 50, mkdir 83 -, mkdirat 258 34, unlink 87 -, unlinkat 263 35, rmdir 84 -, rename 82 -,
renameat 264 38, renameat2 316 276, ftruncate 77 46, truncate 76 45, fallocate 285 47, fsync 74 82,
fdatasync 75 83, fcntl 72 25, ioctl 16 29, dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -,
pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, eventfd2 290 19, flock 73 32, umask 95 166,
utimensat 280 88, fadvise64 221 223, sendfile 40 71, copy_file_range 326 285, statfs 137 43,
fstatfs 138 44, mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, brk 12 214,
madvise 28 233, mincore 27 232, membarrier 324 283, rt_sigaction 13 134, rt_sigprocmask 14 135,
rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128 137, rt_sigsuspend 130 133,
sigaltstack 131 132, futex 202 98, set_robust_list 273 99, get_robust_list 274 100,
set_tid_address 218 96, rseq 334 293, arch_prctl 158 -, prctl 157 167, clock_gettime 228 113,
clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101, gettimeofday 96 169, time 201 -,
times 100 153, getitimer 36 102, setitimer 38 103, alarm 37 -, pause 34 -, getpid 39 172,
getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
getpgrp 111 -, getpgid 121 155, getsid 124 156, getresuid 118 148, getresgid 120 150,
getgroups 115 158, getrlimit 97 163, prlimit64 302 261, getrusage 98 165, sched_yield 24 124,
sched_getaffinity 204 123, sched_getparam 143 121, sched_getscheduler 145 120, getcpu 309 168,
sysinfo 99 179, uname 63 160, getrandom 318 278, tgkill 234 131, kill 62 129, tkill 200 130,
wait4 61 260, waitid 247 95, execve 59 221, exit 60 93, exit_group 231 94, restart_syscall 219 128
"""
"""Name, number on x86_64, number on aarch64 (where `-` is none), as linux/unistd.h has them."""


def _allowed(column: int) -> frozenset[int]:
    numbers = (call.split()[column] for call in _CALLS.split(","))
    return frozenset(int(number) for number in numbers if number != "-")


_MACHINES = {
    "x86_64": (0xC000_003E, 56, _allowed(1)),
    "aarch64": (0xC000_00B7, 220, _allowed(2)),
}
"""Machine -> its audit architecture, the number of `clone`, the numbers allowed."""

CLONE_THREAD = 0x0001_0000

_LOAD_WORD, _JUMP_EQUAL, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF_0000, 0x0005_0000, 0x8000_0000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENT_0_AT = 0, 4, 16
"""Offsets in `struct seccomp_data`; the lower half of an argument comes first on both machines."""


def program(machine: str | None = None) -> bytes:
    """`struct sock_filter[]` for this machine. Raises KeyError for one that is not known."""
    architecture, clone, allowed = _MACHINES[machine or platform.machine()]
    code = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
    ]
    for number in sorted(allowed):
        code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    code += [
        (_JUMP_EQUAL, 0, 4, clone),
        (_LOAD_WORD, 0, 0, _ARGUMENT_0_AT),
        (_JUMP_BITS, 0, 1, CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
