//! Every reason for which a probe gives up or leaves something out: the index into the per-CPU counter array.

/// Defines the counters once: constant, number of them, and names for user space.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Index of a kernel counter in the `STATS` per-CPU array.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(non_camel_case_types, reason = "never")]
        pub enum Stat { $($(#[$doc])* $name,)* }

        /// Names, in index order: metric labels, JSON keys, Health rows.
        pub const STAT_NAMES: &[&str] = &[$($text,)*];

        /// Number of kernel counters.
        pub const N_STATS: u32 = STAT_NAMES.len() as u32;
    };
}

counters! {
    /// Records that a probe wanted to write. `attempted = reserved + refused`.
    EventsAttempted = "events_attempted",
    /// Records for which the ring had room.
    EventsReserved = "events_reserved",
    /// Data records refused: the ring was full. Lost.
    RefusedData = "refused_data",
    /// Opens, shuts, closes refused. Lost.
    RefusedConn = "refused_conn",
    /// Process records refused. Lost.
    RefusedProcess = "refused_process",
    /// Data records whose payload was left out because the ring was over 75 % full.
    OverloadPayload = "overload_payload",
    /// Data records without a turn start that were summed instead of sent because the ring was nearly full.
    OverloadSummed = "overload_summed",
    /// Sums begun: bytes that wait for the next event of their connection. `begun − sent` = waiting.
    SumsBegun = "sums_begun",
    /// Sums sent as records (or refused, and counted there).
    SumsSent = "sums_sent",
    /// Turns begun in the request direction (server ingress, client egress), whether or not the ring had room.
    TurnsRequest = "turns_request",
    /// Turns begun in the response direction.
    TurnsResponse = "turns_response",
    /// Turns begun on connections whose role the kernel does not know.
    TurnsUnknown = "turns_unknown",
    /// The connection map was full: a call on an untracked connection was not recorded. Lost.
    ConnMapFull = "conn_map_full",
    /// Two CPUs met at a connection's first use and one would not wait: its call was not recorded. Lost.
    ConnRace = "conn_race",
    /// The target map was full: a new child or match is not followed. Its requests are not seen.
    TargetMapFull = "target_map_full",
    /// A payload copy failed: the page was not resident. The length is recorded.
    PayloadFault = "payload_fault",
    /// A call without a readable buffer (sendfile, splice): length only.
    NoBufferFile = "no_buffer_sendfile_splice",
    /// A 32-bit or x32 caller: length only.
    NoBufferCompat = "no_buffer_32bit",
    /// An io_uring submission or its worker: length only.
    NoBufferUring = "no_buffer_io_uring",
    /// A kernel thread: length only.
    NoBufferKernel = "no_buffer_kernel_thread",
    /// A message of a recvmmsg or sendmmsg vector whose place in it is not known, or too far back: length only.
    NoBufferVector = "no_buffer_message_vector",
    /// A system call that is not on the list: length only.
    NoBufferOther = "no_buffer_other_call",
    /// More iovecs than the probe reads: the rest is length only.
    IovecsCut = "iovecs_cut",
    /// A call moved more bytes than the probe copies: the rest is length only.
    PayloadCut = "payload_cut",
    /// MSG_PEEK: looked at, nothing consumed. Not an event.
    Peeked = "peeked",
    /// MSG_TRUNC: bytes were dropped by the receiver unread: length only.
    Truncated = "truncated_by_receiver",
    /// MSG_ERRQUEUE: not stream data. Not an event.
    ErrorQueue = "error_queue",
    /// MSG_OOB: urgent data, outside the stream. Not an event.
    OutOfBand = "out_of_band",
    /// EAGAIN, EINTR: nothing moved. Not an event.
    WouldBlock = "would_block",
    /// Other failed calls on a tracked connection.
    CallFailed = "call_failed",
    /// A message of a recvmmsg or sendmmsg vector behind the most that are read, or that could not be read, on a UDP socket: it shows as a gap in the socket's numbers. Lost.
    DatagramVector = "datagram_vector",
    /// A datagram was received of which the call tells the peer only at its end, and the hook at the end was not attached yet: it shows as a
    /// gap in the socket's numbers. Lost.
    DatagramUnnamed = "datagram_unnamed",
    /// Bytes that a TLS library took or gave in a call during which nothing moved on a socket, by a handle that was not met before: whose they are
    /// is not known; and calls on a connection of which the clear text is told, by a process without all of its probes (a child that was not looked at yet). Lost.
    TlsUnlinked = "tls_unlinked",
    /// A call of a TLS library without a return: an exception or longjmp went over it, or its thread ended. Its bytes, if any, are lost.
    TlsCallLeft = "tls_call_left",
    /// The map of calls in progress was full: a call of a TLS library is not seen. Lost.
    TlsCallsFull = "tls_calls_full",
    /// Records of functions refused: the ring was full, or so full that requests go first. Lost; it shows as a gap in the thread's numbers.
    RefusedFunction = "refused_function",
    /// Texts of functions' arguments left out because the ring was over 75 % full.
    FunctionTextLeftOut = "function_text_left_out",
    /// Texts of functions' arguments, and arguments of marks, that could not be read: the address is none, or its page was not resident.
    FunctionTextFault = "function_text_fault",
    /// Records of call stacks refused: the ring was over 75 % full. Lost.
    RefusedStack = "refused_stack",
    /// A function ended of which the beginning is not known (it began before the run, or too many were open): whether it was slow is not known, and its
    /// stack was not taken.
    StackUnknown = "function_stack_unknown",
    /// Records of threads off the CPU refused: the ring was over 75 % full. Lost; it shows as a gap in the thread's numbers.
    RefusedOffCpu = "refused_off_cpu",
    /// Records of segments sent again, refused by the ring. The connection's next record has their count, without their time.
    RefusedRetransmit = "refused_retransmit",
    /// Stacks of waits that were not told: enough of them had been in that tenth of a second. What was waited for is told all the same.
    StacksLeftOut = "stacks_left_out",
    /// Threads that serve left their CPU, as the kernel counts it, without being seen: that time is nobody's (`unattributed`).
    SwitchesMissed = "switches_missed",
    /// The map of threads that serve requests was full: the anatomy of what such a thread serves is not known.
    ThreadsFull = "threads_full",
    /// Stacks of Python's threads that were not found among [`crate::PYTHON_THREADS`]: they have the interpreter's functions and not the script's.
    PythonThreadUnknown = "python_thread_unknown",
    /// Stacks whose frames of Python could not be read to the end.
    PythonFault = "python_fault",
    /// Sockets of a kind that is not traced (UDP on other ports, raw, netlink, …).
    OtherSocket = "other_socket",
    /// A kernel structure could not be read.
    ReadFault = "kernel_read_fault",
    /// Hits of a data hook by a process that is no target.
    NotTarget = "not_target",
}
