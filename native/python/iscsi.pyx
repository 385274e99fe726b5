# cython: language_level=3, freethreading_compatible=True, autotestdict=False
"""Python face of an iSCSI session (native/iscsi/session.h). The contract is in jetdr_core/_iscsi.pyi."""

import errno
import os
from collections import namedtuple

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t, uint32_t, uint64_t

from jetdr_core.errors import (
    DeviceAccessDenied,
    DeviceBusy,
    DeviceGone,
    DeviceReadOnly,
    DeviceResized,
    InvalidRequest,
)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<stdbool.h>" nogil:
    ctypedef bint c_bool "bool"

cdef extern from "jetdr.h" nogil:
    struct jdr_device:
        int (*read)(const jdr_device *, uint64_t, void *, size_t) noexcept nogil
        int (*write)(const jdr_device *, uint64_t, const iovec *, int) noexcept nogil
        int (*zero)(const jdr_device *, uint64_t, uint64_t, c_bool) noexcept nogil
        int (*sync)(const jdr_device *) noexcept nogil

cdef extern from "iscsi/session.h" nogil:
    enum jdr_iscsi_problem:
        JDR_ISCSI_FINE
        JDR_ISCSI_UNREACHABLE
        JDR_ISCSI_DENIED
        JDR_ISCSI_NO_TARGET
        JDR_ISCSI_NO_LUN
        JDR_ISCSI_OTHER_LUN
        JDR_ISCSI_READ_ONLY
        JDR_ISCSI_RESIZED
        JDR_ISCSI_RESERVED
        JDR_ISCSI_FAILED
        JDR_ISCSI_PROTOCOL
    struct jdr_iscsi_failure:
        jdr_iscsi_problem problem
        char text[256]
    struct jdr_iscsi_options:
        const char *portal
        const char *target
        const char *initiator
        const char *user
        const char *password
        int lun
        bint writable, preempt, first
        uint32_t machine
        int64_t limit_ns, login_limit_ns
    struct jdr_iscsi_info:
        uint64_t size_bytes
        uint32_t block_bytes
        uint64_t size_bytes_now, max_transfer_bytes, retained_bytes, reconnects, replayed_bytes, syncs
        bint reserved, thin
        jdr_iscsi_failure failure
    struct jdr_iscsi:
        pass
    int jdr_iscsi_open(jdr_iscsi **, const jdr_iscsi_options *, jdr_iscsi_failure *)
    void jdr_iscsi_close(jdr_iscsi *)
    void jdr_iscsi_free(jdr_iscsi *)
    void jdr_iscsi_device(jdr_iscsi *, jdr_device *)
    void c_info "jdr_iscsi_info"(jdr_iscsi *, jdr_iscsi_info *)

SessionInfo = namedtuple(
    "SessionInfo",
    "size_bytes block_bytes size_bytes_now max_transfer_bytes retained_bytes reconnects replayed_bytes syncs reserved "
    "thin failure",
)

_REMEDIES = {
    JDR_ISCSI_UNREACHABLE: "check that the target runs, its address, and the network",
    JDR_ISCSI_DENIED: "check the user in the URL and the password that belongs to it",
    JDR_ISCSI_NO_TARGET: "check the target's name, and which initiators it admits",
    JDR_ISCSI_NO_LUN: "check the LUN's number and state at the target",
    JDR_ISCSI_OTHER_LUN: "another LUN was put in its place: put the right one back",
    JDR_ISCSI_READ_ONLY: "make it writable at the target",
    JDR_ISCSI_RESIZED: "restore the size that it had",
    JDR_ISCSI_RESERVED: "stop that machine, or take the volume over if it is gone for good",
    JDR_ISCSI_FAILED: "look at the target's own log",
    JDR_ISCSI_PROTOCOL: "look at the target's own log",
}
_ERRORS = {
    JDR_ISCSI_DENIED: DeviceAccessDenied,
    JDR_ISCSI_READ_ONLY: DeviceReadOnly,
    JDR_ISCSI_RESIZED: DeviceResized,
    JDR_ISCSI_RESERVED: DeviceBusy,
}


cdef object failed(str where, int result, const jdr_iscsi_failure *failure):
    """The exception that the negative ``result`` means, in the words of ``failure``, which led to it."""
    if failure.problem == JDR_ISCSI_FINE:
        return OSError(-result, os.strerror(-result), where)
    problem = failure.problem
    text = (<bytes>failure.text).decode("utf-8", "replace")
    kind = _ERRORS.get(problem, DeviceGone)
    return kind(f"{where}: {text}", hint=_REMEDIES[problem], errno=-result, where=where)


@cython.no_gc_clear
cdef class Session:
    cdef jdr_iscsi *session
    cdef jdr_device device
    cdef str where

    def __cinit__(
        self, where, *, portal, target, lun, initiator, user, password, writable, preempt, first, machine,
        limit_s, login_limit_s,
    ):
        cdef jdr_iscsi_options options
        cdef jdr_iscsi_failure failure
        cdef int result
        self.where = where
        held = [None if text is None else text.encode() for text in (portal, target, initiator, user, password)]
        options.portal = held[0]
        options.target = held[1]
        options.initiator = held[2]
        options.user = NULL
        options.password = NULL
        if held[3] is not None:
            options.user = held[3]
        if held[4] is not None:
            options.password = held[4]
        options.lun = lun
        options.writable = writable
        options.preempt = preempt
        options.first = first
        options.machine = machine
        options.limit_ns = <int64_t>(limit_s * 1e9)
        options.login_limit_ns = <int64_t>(login_limit_s * 1e9)
        with nogil:
            result = jdr_iscsi_open(&self.session, &options, &failure)
        if result == -errno.EINVAL:
            raise InvalidRequest(f"{where}: a name or limit is out of range", hint="names have at most 255 bytes")
        if result:
            raise failed(where, result, &failure)
        jdr_iscsi_device(self.session, &self.device)

    def __dealloc__(self):
        with nogil:
            jdr_iscsi_free(self.session)

    def native_device(self):
        return PyCapsule_New(&self.device, b"jdr_device", NULL)

    def read_into(self, offset, target):
        cdef Py_buffer view
        cdef uint64_t at = offset
        cdef int result
        PyObject_GetBuffer(target, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            with nogil:
                result = self.device.read(&self.device, at, view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        self.check(result)

    def write(self, offset, data):
        cdef Py_buffer view
        cdef iovec iov
        cdef uint64_t at = offset
        cdef int result
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        iov.iov_base = view.buf
        iov.iov_len = view.len
        try:
            with nogil:
                result = self.device.write(&self.device, at, &iov, 1)
        finally:
            PyBuffer_Release(&view)
        self.check(result)

    def zero(self, offset, length):
        cdef uint64_t at = offset
        cdef uint64_t count = length
        cdef int result
        with nogil:
            result = self.device.zero(&self.device, at, count, True)
        self.check(result)

    def sync(self):
        cdef int result
        with nogil:
            result = self.device.sync(&self.device)
        self.check(result)

    def close(self):
        with nogil:
            jdr_iscsi_close(self.session)

    def info(self):
        cdef jdr_iscsi_info info
        c_info(self.session, &info)
        return SessionInfo(
            info.size_bytes, info.block_bytes, info.size_bytes_now, info.max_transfer_bytes, info.retained_bytes,
            info.reconnects, info.replayed_bytes, info.syncs, bool(info.reserved), bool(info.thin),
            (<bytes>info.failure.text).decode("utf-8", "replace"),
        )

    cdef object check(self, int result):
        cdef jdr_iscsi_info info
        if not result:
            return
        if result == -errno.ESHUTDOWN:
            raise ValueError(f"{self.where}: the device is closed")
        c_info(self.session, &info)
        raise failed(self.where, result, &info.failure)
