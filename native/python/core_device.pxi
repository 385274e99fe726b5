# A BlockDevice as native code calls it.


@cython.no_gc_clear  # native code calls into it until its owner is freed
cdef class _Bound:
    """A BlockDevice as native code calls it: through its descriptor or its own native functions where it has them.

    What a device implemented in Python raises is kept, per thread, for the call that met it.
    """

    cdef jdr_device native
    cdef object device
    cdef object met

    def __cinit__(self, device):
        cdef int fd = device.fileno()
        cdef object native_device = getattr(device, "native_device", None)
        self.device = device
        self.met = threading.local()
        if fd >= 0:
            jdr_device_from_fd(&self.native, fd, device.block_bytes)
            return
        if native_device is not None:
            self.native = (<jdr_device *>PyCapsule_GetPointer(native_device(), b"jdr_device"))[0]
            return
        self.native.read = python_read
        self.native.write = python_write
        self.native.zero = python_zero
        self.native.sync = python_sync
        self.native.context = <void *>self
        self.native.fd = -1
        self.native.block_bytes = device.block_bytes

    cdef int failed(self, object error) noexcept:
        """Keep ``error``; the negative errno that it means."""
        try:
            first = getattr(self.met, "error", None)
            if first is None or (isinstance(first, Exception) and not isinstance(error, Exception)):
                self.met.error = error
            number = getattr(error, "errno", None)
            return -number if isinstance(number, int) and 0 < number <= JDR_ERRNO_MAX else -EIO
        except BaseException:
            return -EIO

    cdef object take(self):
        """The first error the device raised in this thread since the last look, or None. An interrupt goes before it."""
        error = getattr(self.met, "error", None)
        self.met.error = None
        return error


cdef int python_read(const jdr_device *device, uint64_t offset, void *target, size_t length) noexcept with gil:
    bound = <_Bound>device.context
    try:
        view = PyMemoryView_FromMemory(<char *>target, length, 0x200)
        try:
            bound.device.read_into(offset, view)
        finally:
            view.release()  # BufferError where the device keeps it: the memory is the caller's
        return 0
    except BaseException as error:
        return bound.failed(error)


cdef int python_write(const jdr_device *device, uint64_t offset, const iovec *iov, int count) noexcept with gil:
    cdef int i
    bound = <_Bound>device.context
    try:
        data = b"".join([PyMemoryView_FromMemory(<char *>iov[i].iov_base, iov[i].iov_len, 0x100) for i in range(count)])
        bound.device.write(offset, data)
        return 0
    except BaseException as error:
        return bound.failed(error)


cdef int python_zero(const jdr_device *device, uint64_t offset, uint64_t length, c_bool may_discard) noexcept with gil:
    bound = <_Bound>device.context
    try:
        bound.device.zero(offset, length)
        return 0
    except BaseException as error:
        return bound.failed(error)


cdef int python_sync(const jdr_device *device) noexcept with gil:
    bound = <_Bound>device.context
    try:
        bound.device.sync()
        return 0
    except BaseException as error:
        return bound.failed(error)
