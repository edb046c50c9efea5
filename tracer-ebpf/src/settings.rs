//! What user space set before load: a frozen global, so that every field is a constant to the verifier and what is
//! switched off is dead code.

use tracer_ebpf::{ABI_VERSION, KernelOffsets, NO_OFFSET, Settings};

/// Overridden by the loader. The values here make a program that was loaded without it do nothing.
#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings {
    stack_ns: 0,
    wait_stack_ns: 0,
    abi_version: ABI_VERSION,
    self_pid: 0,
    mode: u32::MAX,
    by_cgroup: 0,
    n_comms: 0,
    by_exe: 0,
    by_port: 0,
    budget: 0,
    ring_bytes: 0,
    wake_bytes: 0,
    capture: 0,
    datagrams: 0,
    tls: 0,
    stacks: 0,
    anatomy: 0,
    switch_has_state: 0,
    has_task_registers: 0,
    hits_in_call: 0,
    task_state: NO_OFFSET,
    task_stack: NO_OFFSET,
    io_wait_byte: NO_OFFSET,
    io_wait_bit: 0,
    stacks_per_window: 0,
    task_switches: NO_OFFSET,
    reserved: 0,
    offsets: KernelOffsets {
        sock_common_family: NO_OFFSET,
        sock_common_state: NO_OFFSET,
        sock_common_dport: NO_OFFSET,
        sock_common_num: NO_OFFSET,
        sock_common_daddr: NO_OFFSET,
        sock_common_rcv_saddr: NO_OFFSET,
        sock_common_v6_daddr: NO_OFFSET,
        sock_common_v6_rcv_saddr: NO_OFFSET,
        sock_common_net: NO_OFFSET,
        sock_type: NO_OFFSET,
        sock_protocol: NO_OFFSET,
        sock_socket: NO_OFFSET,
        sock_err: NO_OFFSET,
        socket_file: NO_OFFSET,
        socket_sk: NO_OFFSET,
        tcp_sock_copied_seq: NO_OFFSET,
        tcp_sock_write_seq: NO_OFFSET,
        tcp_sock_srtt_us: NO_OFFSET,
        tcp_sock_total_retrans: NO_OFFSET,
        tcp_sock_rcv_nxt: NO_OFFSET,
        tcp_sock_icsk_ulp_ops: NO_OFFSET,
        unix_sock_peer: NO_OFFSET,
        unix_sock_addr: NO_OFFSET,
        unix_address_len: NO_OFFSET,
        unix_address_name: NO_OFFSET,
        file_inode: NO_OFFSET,
        file_private_data: NO_OFFSET,
        inode_ino: NO_OFFSET,
        inode_mode: NO_OFFSET,
        task_files: NO_OFFSET,
        task_pid: NO_OFFSET,
        task_tgid: NO_OFFSET,
        task_comm: NO_OFFSET,
        task_flags: NO_OFFSET,
        task_real_parent: NO_OFFSET,
        task_exit_code: NO_OFFSET,
        task_signal: NO_OFFSET,
        task_thread_info_status: NO_OFFSET,
        signal_live: NO_OFFSET,
        files_fdt: NO_OFFSET,
        fdtable_fd: NO_OFFSET,
        fdtable_max_fds: NO_OFFSET,
        net_ns_inum: NO_OFFSET,
        linux_binprm_file: NO_OFFSET,
        task_thread_fsbase: NO_OFFSET,
    },
};

/// Reads one setting. Volatile: the compiler must not fold the value that stands above.
macro_rules! setting {
    ($($field:ident).+) => {
        // SAFETY: a field of a static that is always initialised.
        unsafe { core::ptr::read_volatile(&raw const $crate::settings::SETTINGS.$($field).+) }
    };
}
pub(crate) use setting;
