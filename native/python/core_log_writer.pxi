# LogWriter: the commit loop in a thread of its own.


@cython.no_gc_clear  # the writer uses ring and device until it is freed
cdef class LogWriter:
    cdef jdr_writer *writer
    cdef readonly Ring ring
    cdef _Bound bound
    cdef object thread
    cdef bint stopped

    def __cinit__(
        self, Ring ring, device, *, data_offset, data_bytes, section_id, epoch, head_position, tail_position,
        batch_number, previous_checksum, batch_bytes_max=8 << 20,
    ):
        cdef jdr_writer_options options
        self.ring = ring
        self.bound = _Bound(device)
        options.device = self.bound.native
        options.ring = ring.ring
        options.data_offset = data_offset
        options.data_bytes = data_bytes
        options.section_id = section_id
        options.epoch = epoch
        options.head_position = head_position
        options.tail_position = tail_position
        options.batch_number = batch_number
        options.previous_checksum = previous_checksum
        options.batch_bytes_max = batch_bytes_max
        cdef int result = jdr_writer_create(&self.writer, &options)
        if result == -errno.ENOMEM:
            raise MemoryError("log writer")
        if result:
            raise InvalidRequest(
                f"log section of {data_bytes} bytes at {data_offset}, head {head_position}, tail {tail_position} is not valid",
                hint=(
                    "positions and sizes are multiples of 4096, the tail at most one lap before the head, the data area "
                    f"at least four of the ring's longest record ({ring.record_bytes_max}), a batch 4096 bytes to 64 MiB"
                ),
            )

    def __dealloc__(self):
        jdr_writer_destroy(self.writer)

    def start(self):
        if self.thread is not None or self.stopped:
            raise InvalidRequest(
                "the log writer was stopped" if self.stopped else "the log writer runs already",
                hint="start it once; open the log again for another",
            )
        self.thread = threading.Thread(target=self._run, name="jetdr-log-writer", daemon=True)
        self.thread.start()

    def _run(self):
        cdef int result
        with nogil:
            result = jdr_writer_run(self.writer)
        if result:
            interrupt_from(self.bound.take(), None)  # any other error has poisoned the ring

    def stop(self):
        self.stopped = True
        jdr_writer_stop(self.writer)
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def commit(self):
        cdef int result
        with nogil:
            result = jdr_writer_commit(self.writer)
        if result < 0:
            cause = self.bound.take()
            failed = self.ring.error(result, "commit")
            interrupt_from(cause, failed)
            raise failed from cause
        return result

    def set_tail(self, position):
        if jdr_writer_set_tail(self.writer, check(position)):
            raise InvalidRequest(
                f"the log's tail cannot move to {position}", hint="pass the place of a durable batch, not before the tail"
            )

    def state(self):
        cdef jdr_writer_state state
        c_writer_state(self.writer, &state)
        return WriterState(
            state.lsn_written, state.lsn_durable, state.batch_written, state.batch_durable, state.head_position,
            state.durable_position, state.previous_checksum, state.bytes_written, state.commits, state.flushes,
            state.failed,
        )
