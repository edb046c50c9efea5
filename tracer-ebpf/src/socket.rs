//! Sockets: what kind, which ends, where in the stream.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_skc_to_tcp_sock};
use tracer_ebpf::{
    FAMILY_INET, FAMILY_INET6, FAMILY_UNIX, MAX_UNIX_PATH, NO_OFFSET, ROLE_CLIENT, ROLE_SERVER, ROLE_UNKNOWN,
    Stat, Tuple,
};

use crate::{
    memory::{Memory, Probed, Typed, opaque, read_user, zero},
    settings::setting,
    stats::count,
};

/// `SOCK_STREAM` (include/linux/net.h).
const SOCK_STREAM: u16 = 1;
/// `IPPROTO_TCP`, `IPPROTO_UDP`.
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;

/// Kinds of sockets that are traced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Unix,
    /// Datagrams; those of wanted ports only.
    Udp,
}

/// What a socket is; `None` for what is not traced.
#[inline(always)]
pub fn kind<M: Memory>(sock: *const u8) -> Option<Kind> {
    let family: u16 = M::read(sock, setting!(offsets.sock_common_family));
    if family == FAMILY_INET || family == FAMILY_INET6 {
        let protocol: u16 = M::read(sock, setting!(offsets.sock_protocol));
        // The member is 16 bits wide from 5.6 on; only the low byte counts for TCP against UDP and SCTP, but MPTCP is 262.
        if setting!(datagrams) != 0 && protocol == IPPROTO_UDP {
            return Some(Kind::Udp);
        }
        return (protocol == IPPROTO_TCP).then_some(Kind::Tcp);
    }
    if family == FAMILY_UNIX {
        let socket_type: u16 = M::read(sock, setting!(offsets.sock_type));
        return (socket_type == SOCK_STREAM).then_some(Kind::Unix);
    }
    None
}

/// Sequence numbers of a TCP socket.
#[derive(Clone, Copy)]
pub struct Sequence {
    /// Next byte that the process will read.
    pub copied: u32,
    /// Next byte that the process will write.
    pub write: u32,
    /// Next byte that the network will bring.
    pub received: u32,
    /// As [`tracer_ebpf::Data::rtt_us`].
    pub rtt_us: u32,
    /// As [`tracer_ebpf::Data::retransmits`].
    pub retransmits: u32,
    /// They are those of records: the kernel's TLS sits on top of TCP, or something like it. Records are longer than what calls move, are sent later, and
    /// are taken from the socket before anybody asks for what is in them.
    pub counts_records: bool,
}

/// Access to the `tcp_sock` behind a `sock`.
pub trait TcpMemory: Memory {
    /// Sequence numbers; `None` if it is no full TCP socket.
    fn sequence(sock: *const u8) -> Option<Sequence>;
}

#[inline(always)]
fn read_sequence<M: Memory>(tcp: *const u8, counts_records: bool) -> Sequence {
    Sequence {
        copied: M::read(tcp, setting!(offsets.tcp_sock_copied_seq)),
        write: M::read(tcp, setting!(offsets.tcp_sock_write_seq)),
        received: M::read(tcp, setting!(offsets.tcp_sock_rcv_nxt)),
        rtt_us: rtt_us::<M>(tcp),
        retransmits: retransmits::<M>(tcp),
        counts_records,
    }
}

/// As [`tracer_ebpf::Data::rtt_us`]. The kernel keeps eight times as much (`tcp_rtt_estimator`, net/ipv4/tcp_input.c).
#[inline(always)]
pub fn rtt_us<M: Memory>(tcp: *const u8) -> u32 {
    let at = setting!(offsets.tcp_sock_srtt_us);
    if at == NO_OFFSET { 0 } else { M::read::<u32>(tcp, at) >> 3 }
}

/// As [`tracer_ebpf::Data::retransmits`].
#[inline(always)]
pub fn retransmits<M: Memory>(tcp: *const u8) -> u32 {
    let at = setting!(offsets.tcp_sock_total_retrans);
    if at == NO_OFFSET { 0 } else { M::read(tcp, at) }
}

impl TcpMemory for Typed {
    #[inline(always)]
    fn sequence(sock: *const u8) -> Option<Sequence> {
        // SAFETY: `sock` is a tracing argument of type `struct sock *`.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sock.cast_mut().cast::<c_void>()) };
        (!tcp.is_null()).then(|| {
            let tcp = tcp.cast::<u8>();
            let layer = setting!(offsets.tcp_sock_icsk_ulp_ops);
            read_sequence::<Typed>(tcp, layer != NO_OFFSET && Typed::read::<u64>(tcp, layer) != 0)
        })
    }
}

impl TcpMemory for Probed {
    #[inline(always)]
    fn sequence(sock: *const u8) -> Option<Sequence> {
        // `tcp_sock` begins with the `sock` (kernel: include/linux/tcp.h, inet_conn first). What sits on top is not asked for: kernel 6.1 walked more than
        // a million instructions with it.
        Some(read_sequence::<Probed>(sock, false))
    }
}

/// The ends of a TCP socket.
#[inline(always)]
pub fn tuple<M: Memory>(sock: *const u8) -> Tuple {
    let family: u16 = M::read(sock, setting!(offsets.sock_common_family));
    let mut tuple = no_tuple();
    tuple.local_port = M::read(sock, setting!(offsets.sock_common_num));
    tuple.remote_port = u16::from_be(M::read(sock, setting!(offsets.sock_common_dport)));
    tuple.family = family;
    if family == FAMILY_INET6 && setting!(offsets.sock_common_v6_daddr) != NO_OFFSET {
        let local = setting!(offsets.sock_common_v6_rcv_saddr);
        let remote = setting!(offsets.sock_common_v6_daddr);
        put(&mut tuple.local, 0, M::read(sock, local));
        put(&mut tuple.local, 8, M::read(sock, local + 8));
        put(&mut tuple.remote, 0, M::read(sock, remote));
        put(&mut tuple.remote, 8, M::read(sock, remote + 8));
    } else {
        let local: u32 = M::read(sock, setting!(offsets.sock_common_rcv_saddr));
        let remote: u32 = M::read(sock, setting!(offsets.sock_common_daddr));
        put(&mut tuple.local, 0, u64::from(local));
        put(&mut tuple.remote, 0, u64::from(remote));
    }
    tuple
}

/// The two ports of an IP socket, in host order: the own one, and the peer's; 0 = none.
#[inline(always)]
pub fn ports<M: Memory>(sock: *const u8) -> (u16, u16) {
    (
        M::read(sock, setting!(offsets.sock_common_num)),
        u16::from_be(M::read(sock, setting!(offsets.sock_common_dport))),
    )
}

/// Takes the peer from a `sockaddr` in user memory; of another family than the two of IP, nothing.
#[inline(always)]
pub fn peer_of_name(tuple: &mut Tuple, address: u64) {
    let Some(start) = read_user::<u64>(address) else {
        count(Stat::ReadFault);
        return;
    };
    let family = start as u16;
    if family == FAMILY_INET {
        put(&mut tuple.remote, 0, start >> 32);
        put(&mut tuple.remote, 8, 0);
    } else if family == FAMILY_INET6 {
        // Behind `sin6_flowinfo`.
        let Some(words) = read_user::<[u64; 2]>(address + 8) else {
            count(Stat::ReadFault);
            return;
        };
        put(&mut tuple.remote, 0, words[0]);
        put(&mut tuple.remote, 8, words[1]);
    } else {
        return;
    }
    tuple.remote_port = u16::from_be((start >> 16) as u16);
}

/// Ends that are not known.
#[inline(always)]
pub fn no_tuple() -> Tuple {
    let mut tuple = MaybeUninit::<Tuple>::uninit();
    // SAFETY: `Tuple` is plain integers, aligned to 8: all zeros is a value.
    unsafe {
        zero(tuple.as_mut_ptr());
        tuple.assume_init()
    }
}

#[inline(always)]
fn put(address: &mut [u8; 16], at: usize, value: u64) {
    // SAFETY: `at` is 0 or 8.
    unsafe { address.as_mut_ptr().add(at).cast::<u64>().write_unaligned(value) };
}

/// Inode number of the network namespace; 0 if not known.
#[inline(always)]
pub fn netns<M: Memory>(sock: *const u8) -> u32 {
    let net: *const u8 = M::read(sock, setting!(offsets.sock_common_net));
    M::read(net, setting!(offsets.net_ns_inum))
}

/// Inode number of the socket's file; 0 while no process owns it.
#[inline(always)]
pub fn inode<M: Memory>(sock: *const u8) -> u64 {
    let socket: *const u8 = M::read(sock, setting!(offsets.sock_socket));
    if socket.is_null() {
        return 0;
    }
    let file: *const u8 = M::read(socket, setting!(offsets.socket_file));
    if file.is_null() {
        return 0;
    }
    let inode: *const u8 = M::read(file, setting!(offsets.file_inode));
    if inode.is_null() {
        return 0;
    }
    M::read(inode, setting!(offsets.inode_ino))
}

/// Role of a Unix socket's owner and the address that has the path: an accepted socket shares its listener's address,
/// a connecting one seldom binds itself. (unix_sock lies behind the verifier's idea of a `sock`: probe reads.)
#[inline(always)]
pub fn unix_end(sock: *const u8) -> (u8, *const u8) {
    let own: *const u8 = Probed::read(sock, setting!(offsets.unix_sock_addr));
    if !own.is_null() {
        return (ROLE_SERVER, own);
    }
    let peer: *const u8 = Probed::read(sock, setting!(offsets.unix_sock_peer));
    if peer.is_null() {
        return (ROLE_UNKNOWN, core::ptr::null());
    }
    let address: *const u8 = Probed::read(peer, setting!(offsets.unix_sock_addr));
    if address.is_null() { (ROLE_UNKNOWN, address) } else { (ROLE_CLIENT, address) }
}

/// Copies a Unix address's path; returns its length, 0 if there is none.
#[inline(always)]
pub fn unix_path(address: *const u8, path: *mut u8) -> u8 {
    /// Bytes of `sockaddr_un` before `sun_path`.
    const FAMILY_BYTES: u64 = 2;
    let length: u32 = Probed::read(address, setting!(offsets.unix_address_len));
    if u64::from(length) <= FAMILY_BYTES {
        return 0;
    }
    let mut n = opaque(u64::from(length) - FAMILY_BYTES);
    if n > u64::from(MAX_UNIX_PATH) {
        n = u64::from(MAX_UNIX_PATH);
    }
    let name = address.wrapping_add(setting!(offsets.unix_address_name) as usize + FAMILY_BYTES as usize);
    // SAFETY: the destination has MAX_UNIX_PATH bytes.
    if unsafe { bpf_probe_read_kernel(path.cast::<c_void>(), n as u32, name.cast::<c_void>()) } != 0 {
        return 0;
    }
    n as u8
}
