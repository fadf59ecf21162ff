"""Waits until no packet is left in the rules as they were.

A packet's lookups take microseconds, but the processor that works on it may be taken away from it in between: by an
interrupt, or from the whole machine where that is virtual. The kernel knows by RCU what is still on its way:
netfilter calls every hook under it. Nothing goes in or out; changes nothing.
"""

from __future__ import annotations

import os
import time

# The system call membarrier(2) by machine; newer ones all have the number of aarch64.
_SYSTEM_CALL = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "loongarch64": 283, "ppc64le": 365, "s390x": 356}
# MEMBARRIER_CMD_GLOBAL: the kernel answers when an RCU grace period has passed, 10 to 20 ms.
_GLOBAL = 1
# Where there is no such call, or processors that it may not disturb (nohz_full).
_LONG_FOR_A_PACKET_SECONDS = 0.05


def let_packets_leave() -> None:
    """Returns when all packets have left the rules that were in them when it was called."""
    import ctypes

    number = _SYSTEM_CALL.get(os.uname().machine)
    if number is None or ctypes.CDLL(None).syscall(number, _GLOBAL, 0, 0) != 0:
        time.sleep(_LONG_FOR_A_PACKET_SECONDS)
