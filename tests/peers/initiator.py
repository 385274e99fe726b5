"""Another initiator: libiscsi through ctypes, for what the engine itself never does to a LUN."""

from __future__ import annotations

import ctypes

from tests.peers.tgt import Lun

_SESSION_NORMAL = 2


def reset_lun(lun: Lun) -> None:
    """Send LOGICAL UNIT RESET. The target answers the next command of every other initiator with a unit attention."""
    library = ctypes.CDLL("libiscsi.so.7")
    library.iscsi_create_context.restype = ctypes.c_void_p
    library.iscsi_get_error.restype = ctypes.c_char_p
    context = ctypes.c_void_p(library.iscsi_create_context(b"iqn.2026-11.test.jetdr:resetter"))
    try:
        library.iscsi_set_targetname(context, lun.target.encode())
        library.iscsi_set_session_type(context, _SESSION_NORMAL)
        connected = library.iscsi_full_connect_sync(context, f"127.0.0.1:{lun.port}".encode(), 1)
        assert connected == 0, library.iscsi_get_error(context)
        assert library.iscsi_task_mgmt_lun_reset_sync(context, 1) == 0, library.iscsi_get_error(context)
    finally:
        library.iscsi_destroy_context(context)
