# Simulation: one thread of the process runs at a time, and waits of the core are given to Python.


cdef object simulated_clock = None
cdef object simulated_pause = None


cdef void python_pause(atomic_uint32 *word, uint32_t seen, int64_t limit_ns) noexcept with gil:
    try:
        simulated_pause(<size_t>word, seen, limit_ns)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os.abort()  # the core cannot be left in the middle of a wait


def simulate(ManualClock clock not None, pause):
    """Have every thread of the core that would wait call ``pause``, and measure its limits on ``clock``."""
    global simulated_clock, simulated_pause
    if simulated_pause is not None:
        raise InvalidRequest("the core is simulated already", hint="one simulation for each process")
    simulated_clock, simulated_pause = clock, pause
    jdr_simulation.clock = &clock.clock
    jdr_simulation.pause = python_pause


def word_at(address):
    """The 32-bit word at ``address``, as ``pause`` was given it."""
    return word_load(<const void *><size_t>address)
