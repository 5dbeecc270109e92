"""
Recognizes connections that a step opens to the server past the gateway, so without the mark of `own_server`.

On Linux the kernel knows which user has opened a socket of this machine, and each step of a server of root has a user of its own.
Without root, steps have the user of the server's own programs, and nothing tells them apart.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

from pdkernel.egress.outbound_policy import is_loopback
from pdkernel.workers import is_step_user

STEP_CALL_KEY = "pdkernel.step_call"
"""Key in the scope for the `StepCaller` of a call of a step of this server's workflows; else there is none, or None."""

# linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, _NLMSG_ERROR = 4, 20, 1, 2
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI2s2s16s16sIII")
_USER_AND_INODE = struct.Struct("=II")
_USER_OFFSET = _HEADER.size + 4 + 48 + 12
"""The user follows the socket's state (4 bytes), its addresses (48), its timer and the lengths of its queues (12)."""
_LISTENS = 10
_ALL_STATES, _NO_COOKIE = 0xFFFFFFFF, 0xFFFFFFFF
_ANSWER_BYTES, _TIMEOUT_S = 4096, 1.0


def is_step_connection(own: Sequence[Any] | None, peer: Sequence[Any] | None) -> bool:
    """
    Return whether a step has opened the connection of a server of root between the addresses *own* and *peer*.

    A program of this machine that has closed the connection already may be a step as well, so it counts as one.
    """
    if sys.platform != "linux" or os.geteuid() != 0 or not own or not peer:
        return False
    if peer[0] != own[0] and not is_loopback(str(peer[0])):
        return False
    try:
        user = _find_user((str(peer[0]), int(peer[1])), (str(own[0]), int(own[1])))
    except OSError:  # the kernel or a container does not permit the question
        return False
    return user is None or is_step_user(user)


def _find_user(address: tuple[str, int], other: tuple[str, int]) -> int | None:
    """
    Return the user who opened the TCP socket of this machine at *address* that is connected to *other*; None if it is closed.

    Raises:
        OSError: The kernel does not answer.
    """
    source, target = (ipaddress.ip_address(host.partition("%")[0]) for host, _ in (address, other))
    mapped = [getattr(each, "ipv4_mapped", None) or each for each in (source, target)]
    family = socket.AF_INET if mapped[0].version == 4 else socket.AF_INET6
    body = _REQUEST.pack(
        family,
        socket.IPPROTO_TCP,
        0,
        0,
        _ALL_STATES,
        address[1].to_bytes(2, "big"),
        other[1].to_bytes(2, "big"),
        *(each.packed for each in mapped),
        0,
        _NO_COOKIE,
        _NO_COOKIE,
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asked:
        asked.settimeout(_TIMEOUT_S)
        asked.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + body)
        answer = asked.recv(_ANSWER_BYTES)
    if _HEADER.unpack_from(answer)[1] == _NLMSG_ERROR:
        code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if code == errno.ENOENT:
            return None
        raise OSError(code, os.strerror(code))
    user, inode = _USER_AND_INODE.unpack_from(answer, _USER_OFFSET)
    is_listener = answer[_HEADER.size + 1] == _LISTENS  # of a port that was the client's
    return None if is_listener or not inode else int(user)
