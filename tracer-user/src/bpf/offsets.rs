//! Every kernel offset that the probes need, resolved from BTF in user space and handed over as frozen globals.
//!
//! Each member is asked for with the size that the probe reads: a member that has moved costs nothing, one that has
//! changed its size is an error with its name, never a wrong read.

use tracer_ebpf as abi;

use super::btf::KernelBtf;

/// A member that a probe cannot do without is not where it is looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this kernel's BTF has no {what}: {hint}")]
pub struct MissingMember {
    /// `struct.member`.
    pub what: String,
    /// What is there instead, or what to do.
    pub hint: String,
}

macro_rules! offsets {
    (
        required { $($(#[$rdoc:meta])* $rname:ident = $rstruct:literal $rpath:literal $rsize:literal,)* }
        optional { $($(#[$odoc:meta])* $oname:ident = $ostruct:literal $opath:literal $osize:literal,)* }
    ) => {
        /// Byte offsets of members within the structs of the running kernel.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Offsets {
            $($(#[$rdoc])* #[doc = concat!("\n\n`", $rstruct, ".", $rpath, "`, ", stringify!($rsize), " bytes.")] pub $rname: u32,)*
            $($(#[$odoc])* #[doc = concat!("\n\n`", $ostruct, ".", $opath, "`, ", stringify!($osize), " bytes. `None` = not in this kernel.")] pub $oname: Option<u32>,)*
        }

        impl Offsets {
            /// Looks up all of them.
            pub fn resolve(btf: &KernelBtf) -> Result<Offsets, MissingMember> {
                Ok(Offsets {
                    $($rname: required(btf, $rstruct, $rpath, $rsize)?,)*
                    $($oname: optional(btf, $ostruct, $opath, $osize),)*
                })
            }

            /// All of them by field name, for tests and for `doctor`.
            pub fn all(&self) -> Vec<(&'static str, Option<u32>)> {
                vec![$((stringify!($rname), Some(self.$rname)),)* $((stringify!($oname), self.$oname),)*]
            }
        }

        /// (struct, path, size) of all that are asked for, the required ones first.
        #[cfg(test)]
        pub(crate) const WANTED: &[(&str, &str, u32)] =
            &[$(($rstruct, $rpath, $rsize),)* $(($ostruct, $opath, $osize),)*];
        /// How many of [`WANTED`] are required.
        #[cfg(test)]
        pub(crate) const N_REQUIRED: usize = [$($rpath),*].len();
    };
}

offsets! {
    required {
        /// Address family (`AF_INET`, `AF_INET6`, `AF_UNIX`). `struct sock` begins with its `sock_common`.
        skc_family = "sock" "__sk_common.skc_family" 2,
        /// TCP state.
        skc_state = "sock" "__sk_common.skc_state" 1,
        /// Peer's port, network byte order.
        skc_dport = "sock" "__sk_common.skc_dport" 2,
        /// Own port, host byte order.
        skc_num = "sock" "__sk_common.skc_num" 2,
        /// Peer's IPv4 address.
        skc_daddr = "sock" "__sk_common.skc_daddr" 4,
        /// Own IPv4 address.
        skc_rcv_saddr = "sock" "__sk_common.skc_rcv_saddr" 4,
        /// Network namespace (`struct net *`).
        skc_net = "sock" "__sk_common.skc_net" 8,
        /// `SOCK_STREAM`, `SOCK_DGRAM`, …
        sk_type = "sock" "sk_type" 2,
        /// `IPPROTO_TCP`, …
        sk_protocol = "sock" "sk_protocol" 2,
        /// `struct socket *`; null once orphaned.
        sk_socket = "sock" "sk_socket" 8,
        /// Pending error (positive errno).
        sk_err = "sock" "sk_err" 4,
        /// `struct sock *`.
        socket_sk = "socket" "sk" 8,
        /// `struct file *`; null for a socket that has no descriptor yet.
        socket_file = "socket" "file" 8,
        /// `SOCK_STREAM`, …
        socket_type = "socket" "type" 2,
        /// `struct proto_ops *`.
        socket_ops = "socket" "ops" 8,
        /// Next sequence number that the application will read.
        tcp_copied_seq = "tcp_sock" "copied_seq" 4,
        /// Sequence number behind the last byte that the application wrote.
        tcp_write_seq = "tcp_sock" "write_seq" 4,
        /// Next sequence number expected from the peer.
        tcp_rcv_nxt = "tcp_sock" "rcv_nxt" 4,
        /// First byte not yet acknowledged by the peer.
        tcp_snd_una = "tcp_sock" "snd_una" 4,
        /// Other end of a Unix pair (`struct sock *`).
        unix_peer = "unix_sock" "peer" 8,
        /// Bound address (`struct unix_address *`); null for an unnamed socket.
        unix_addr = "unix_sock" "addr" 8,
        /// Length of `unix_address_name` in bytes, its family field included.
        unix_address_len = "unix_address" "len" 4,
        /// `struct sockaddr_un`, as long as `unix_address_len` says (a flexible array: size 0).
        unix_address_name = "unix_address" "name" 0,
        /// `struct inode *`.
        file_inode = "file" "f_inode" 8,
        /// Of a socket's file: `struct socket *`.
        file_private_data = "file" "private_data" 8,
        /// `struct file_operations *`.
        file_op = "file" "f_op" 8,
        /// Inode number, as `/proc/PID/fd` shows it.
        inode_ino = "inode" "i_ino" 8,
        /// File type and permissions (`S_IFMT`).
        inode_mode = "inode" "i_mode" 2,
        /// `struct files_struct *`.
        task_files = "task_struct" "files" 8,
        /// Thread.
        task_pid = "task_struct" "pid" 4,
        /// Process.
        task_tgid = "task_struct" "tgid" 4,
        /// Thread name.
        task_comm = "task_struct" "comm" 16,
        /// Parent (`struct task_struct *`).
        task_real_parent = "task_struct" "real_parent" 8,
        /// Main thread (`struct task_struct *`).
        task_group_leader = "task_struct" "group_leader" 8,
        /// `PF_*`: kernel thread, io_uring worker.
        task_flags = "task_struct" "flags" 4,
        /// Wait status.
        task_exit_code = "task_struct" "exit_code" 4,
        /// Address space (`struct mm_struct *`); null for kernel threads.
        task_mm = "task_struct" "mm" 8,
        /// Start time, ns of boot time; with the process number an identity.
        task_start_boottime = "task_struct" "start_boottime" 8,
        /// `struct signal_struct *`.
        task_signal = "task_struct" "signal" 8,
        /// Threads alive in the process: 0 when the last one exits.
        signal_live = "signal_struct" "live" 4,
        /// `struct fdtable *`.
        files_fdt = "files_struct" "fdt" 8,
        /// Array of `struct file *`.
        fdtable_fd = "fdtable" "fd" 8,
        /// Number of entries of that array.
        fdtable_max_fds = "fdtable" "max_fds" 4,
        /// Inode number of a network namespace.
        net_ns_inum = "net" "ns.inum" 4,
        /// The program being executed (`struct file *`).
        binprm_file = "linux_binprm" "file" 8,
    }
    optional {
        /// Peer's IPv6 address (kernels built without IPv6 lack it).
        skc_v6_daddr = "sock" "__sk_common.skc_v6_daddr" 16,
        /// Own IPv6 address.
        skc_v6_rcv_saddr = "sock" "__sk_common.skc_v6_rcv_saddr" 16,
        /// Socket cookie, 0 until somebody asks for it.
        skc_cookie = "sock" "__sk_common.skc_cookie" 8,
        /// `RCV_SHUTDOWN`, `SEND_SHUTDOWN`.
        sk_shutdown = "sock" "sk_shutdown" 1,
        /// Bytes waiting in a Unix socket or behind TCP's `copied_seq`, as a list of buffers.
        sk_receive_queue_len = "sock" "sk_receive_queue.qlen" 4,
        /// `struct tcp_ulp_ops *`: what sits on top of TCP in the kernel, such as its TLS; null on a plain socket.
        tcp_ulp_ops = "tcp_sock" "inet_conn.icsk_ulp_ops" 8,
        /// Eight times the smoothed time from a segment to its acknowledgement, µs.
        tcp_srtt_us = "tcp_sock" "srtt_us" 4,
        /// Segments sent again since the connection began.
        tcp_total_retrans = "tcp_sock" "total_retrans" 4,
        /// Path of a bound Unix socket (`struct path`: mount, dentry).
        unix_path = "unix_sock" "path" 16,
        /// `TS_COMPAT` (2): the thread is inside a 32-bit system call.
        thread_status = "task_struct" "thread_info.status" 4,
        /// Base of thread-local storage, behind which Go keeps its goroutine (x86).
        task_fsbase = "task_struct" "thread.fsbase" 8,
        /// `struct nsproxy *`.
        task_nsproxy = "task_struct" "nsproxy" 8,
        /// Threads of the process, the dying ones included.
        signal_nr_threads = "signal_struct" "nr_threads" 4,
    }
}

impl From<&Offsets> for abi::KernelOffsets {
    /// As the probes take them: an absent member is [`abi::NO_OFFSET`].
    fn from(offsets: &Offsets) -> abi::KernelOffsets {
        let or_absent = |offset: Option<u32>| offset.unwrap_or(abi::NO_OFFSET);
        abi::KernelOffsets {
            sock_common_family: offsets.skc_family,
            sock_common_state: offsets.skc_state,
            sock_common_dport: offsets.skc_dport,
            sock_common_num: offsets.skc_num,
            sock_common_daddr: offsets.skc_daddr,
            sock_common_rcv_saddr: offsets.skc_rcv_saddr,
            sock_common_v6_daddr: or_absent(offsets.skc_v6_daddr),
            sock_common_v6_rcv_saddr: or_absent(offsets.skc_v6_rcv_saddr),
            sock_common_net: offsets.skc_net,
            sock_type: offsets.sk_type,
            sock_protocol: offsets.sk_protocol,
            sock_socket: offsets.sk_socket,
            sock_err: offsets.sk_err,
            socket_file: offsets.socket_file,
            socket_sk: offsets.socket_sk,
            tcp_sock_copied_seq: offsets.tcp_copied_seq,
            tcp_sock_write_seq: offsets.tcp_write_seq,
            tcp_sock_srtt_us: or_absent(offsets.tcp_srtt_us),
            tcp_sock_total_retrans: or_absent(offsets.tcp_total_retrans),
            tcp_sock_rcv_nxt: offsets.tcp_rcv_nxt,
            tcp_sock_icsk_ulp_ops: or_absent(offsets.tcp_ulp_ops),
            unix_sock_peer: offsets.unix_peer,
            unix_sock_addr: offsets.unix_addr,
            unix_address_len: offsets.unix_address_len,
            unix_address_name: offsets.unix_address_name,
            file_inode: offsets.file_inode,
            file_private_data: offsets.file_private_data,
            inode_ino: offsets.inode_ino,
            inode_mode: offsets.inode_mode,
            task_files: offsets.task_files,
            task_pid: offsets.task_pid,
            task_tgid: offsets.task_tgid,
            task_comm: offsets.task_comm,
            task_flags: offsets.task_flags,
            task_real_parent: offsets.task_real_parent,
            task_exit_code: offsets.task_exit_code,
            task_signal: offsets.task_signal,
            task_thread_info_status: or_absent(offsets.thread_status),
            signal_live: offsets.signal_live,
            files_fdt: offsets.files_fdt,
            fdtable_fd: offsets.fdtable_fd,
            fdtable_max_fds: offsets.fdtable_max_fds,
            net_ns_inum: offsets.net_ns_inum,
            linux_binprm_file: offsets.binprm_file,
            task_thread_fsbase: or_absent(offsets.task_fsbase),
        }
    }
}

fn required(btf: &KernelBtf, name: &str, path: &str, size: u32) -> Result<u32, MissingMember> {
    let missing = |hint: String| MissingMember { what: format!("{name}.{path}"), hint };
    match btf.member(name, path) {
        Some(member) if member.bitfield_bits != 0 => {
            Err(missing(format!("it is a bitfield of {} bits here", member.bitfield_bits)))
        }
        Some(member) if size != 0 && member.size != size => {
            Err(missing(format!("it has {} bytes here, {size} are expected", member.size)))
        }
        Some(member) => Ok(member.offset_bytes),
        None => Err(missing(match btf.size_of(name) {
            Some(_) => format!("struct {name} has no such member; the kernel may be newer than this txray"),
            None => format!("there is no struct {name}; the kernel may be built without that feature"),
        })),
    }
}

/// An optional member that has changed its shape is treated as absent.
fn optional(btf: &KernelBtf, name: &str, path: &str, size: u32) -> Option<u32> {
    required(btf, name, path, size).ok()
}

/// The running kernel's release (`uname -r`), empty if the system does not say.
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::btf_blob::Blob;

    /// Layouts of six kernels by `struct.member`, as measured from their own BTF.
    const LAYOUTS: &str = include_str!("../../../fixtures/btf/layouts.txt");

    /// A kernel and its values by row name.
    type Column = (String, Vec<(String, Option<u32>)>);
    /// Name, type, offset in bits, bits of a bitfield.
    type OwnedMember = (String, u32, u32, u32);

    /// The columns of `layouts.txt`.
    fn columns() -> Vec<Column> {
        let mut lines = LAYOUTS.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let names: Vec<&str> = lines.next().unwrap().split_whitespace().skip(1).collect();
        let rows: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
        (names.iter().enumerate())
            .map(|(i, name)| {
                let values = rows.iter().map(|row| (row[0].to_owned(), row[i + 1].parse().ok()));
                (name.to_string(), values.collect())
            })
            .collect()
    }

    /// A blob in which each wanted member of a struct lies where `offset` says (`None` leaves it out).
    fn blob_with(offset: impl Fn(&str, &str, u32) -> Option<(u32, u32)>) -> KernelBtf {
        let mut blob = Blob::new();
        let mut structs: Vec<(&str, Vec<OwnedMember>)> = Vec::new();
        // `sock.__sk_common.x` becomes the member `__sk_common` of a struct of its own, at 0.
        let mut inner: Vec<(&str, &str, Vec<OwnedMember>)> = Vec::new();
        for &(name, path, size) in WANTED {
            let Some((bytes, size)) = offset(name, path, size) else { continue };
            let byte = blob.int("char", 1);
            let type_id = blob.array(byte, size);
            if let Some((outer, member)) = path.split_once('.') {
                let entry = match inner.iter_mut().find(|entry| entry.0 == name && entry.1 == outer) {
                    Some(entry) => entry,
                    None => {
                        inner.push((name, outer, Vec::new()));
                        inner.last_mut().unwrap()
                    }
                };
                entry.2.push((member.to_owned(), type_id, bytes * 8, 0));
                continue;
            }
            match structs.iter_mut().find(|entry| entry.0 == name) {
                Some(entry) => entry.1.push((path.to_owned(), type_id, bytes * 8, 0)),
                None => structs.push((name, vec![(path.to_owned(), type_id, bytes * 8, 0)])),
            }
        }
        for (name, outer, members) in &inner {
            let members: Vec<_> =
                members.iter().map(|(name, t, bit, bits)| (name.as_str(), *t, *bit, *bits)).collect();
            let type_id = blob.structure("", 4096, &members);
            match structs.iter_mut().find(|entry| entry.0 == *name) {
                Some(entry) => entry.1.push((outer.to_string(), type_id, 0, 0)),
                None => structs.push((name, vec![(outer.to_string(), type_id, 0, 0)])),
            }
        }
        for (name, members) in &structs {
            let members: Vec<_> =
                members.iter().map(|(name, t, bit, bits)| (name.as_str(), *t, *bit, *bits)).collect();
            blob.structure(name, 8192, &members);
        }
        KernelBtf::parse(blob.finish()).unwrap()
    }

    /// The row of `layouts.txt` that speaks of a wanted member.
    fn row(name: &str, path: &str) -> String {
        match path.strip_prefix("__sk_common.") {
            Some(member) => format!("sock_common.{member}"),
            None => format!("{name}.{path}"),
        }
    }

    #[test]
    fn the_layouts_of_six_kernels_are_found_where_they_are() {
        let columns = columns();
        assert_eq!(columns.len(), 6);
        let mut n_checked = 0;
        for (kernel, values) in &columns {
            let measured = |name: &str, path: &str| {
                values.iter().find(|(row_name, _)| *row_name == row(name, path)).and_then(|(_, value)| *value)
            };
            // What was not measured lies at an odd place of its own.
            let btf = blob_with(|name, path, size| Some((measured(name, path).unwrap_or(777), size)));
            let offsets = Offsets::resolve(&btf).unwrap_or_else(|missing| panic!("{kernel}: {missing}"));
            for ((field, found), &(name, path, _)) in offsets.all().into_iter().zip(WANTED) {
                let expected = measured(name, path);
                n_checked += usize::from(expected.is_some());
                assert_eq!(found, Some(expected.unwrap_or(777)), "{kernel}: {field}");
            }
        }
        // 38 of the wanted members were measured on each kernel.
        assert_eq!(n_checked, 6 * 38);
    }

    #[test]
    fn this_hosts_kernel_has_all_that_is_wanted() {
        let btf = KernelBtf::running().unwrap();
        let offsets = Offsets::resolve(&btf).unwrap();
        // Never moved in any kernel measured.
        assert_eq!((offsets.skc_dport, offsets.skc_num, offsets.skc_family), (12, 14, 16));
        assert_eq!((offsets.socket_sk, offsets.files_fdt, offsets.fdtable_fd), (24, 32, 8));
        assert_eq!(offsets.inode_ino, 64);
        for (field, offset) in offsets.all() {
            assert!(offset.is_some(), "{field}");
        }
        assert!(!kernel_release().is_empty());
    }

    #[test]
    fn the_probes_get_each_offset_once_and_absent_ones_as_such() {
        // Every wanted member at a place of its own, so that a mix-up shows.
        let place = |name: &str, path: &str| {
            WANTED.iter().position(|&(n, p, _)| (n, p) == (name, path)).map(|i| 100 + i as u32 * 16)
        };
        let btf = blob_with(|name, path, size| {
            (path != "thread_info.status").then_some((place(name, path).unwrap(), size))
        });
        let offsets = abi::KernelOffsets::from(&Offsets::resolve(&btf).unwrap());
        let text = format!("{offsets:?}");
        let of = |name: &str, path: &str| place(name, path).unwrap();
        assert_eq!(offsets.sock_common_rcv_saddr, of("sock", "__sk_common.skc_rcv_saddr"));
        assert_eq!(offsets.sock_common_v6_daddr, of("sock", "__sk_common.skc_v6_daddr"));
        assert_eq!(offsets.tcp_sock_write_seq, of("tcp_sock", "write_seq"));
        assert_eq!(offsets.linux_binprm_file, of("linux_binprm", "file"));
        assert_eq!(offsets.task_thread_info_status, abi::NO_OFFSET);
        let mut values: Vec<&str> = text
            .split([' ', ',', '}'])
            .filter(|part| part.parse::<u32>().is_ok_and(|value| value > 0))
            .collect();
        let n_values = values.len();
        values.sort_unstable();
        values.dedup();
        assert_eq!(values.len(), n_values, "one offset went to two fields: {text}");
        assert_eq!(n_values * 4, size_of::<abi::KernelOffsets>());
    }

    #[test]
    fn a_missing_required_member_is_named_and_a_missing_optional_one_is_none() {
        for (i, &(name, path, _)) in WANTED.iter().enumerate() {
            let btf = blob_with(|n, p, size| ((n, p) != (name, path)).then_some((64, size)));
            match Offsets::resolve(&btf) {
                Err(missing) => {
                    assert!(i < N_REQUIRED, "{name}.{path} is optional");
                    assert_eq!(missing.what, format!("{name}.{path}"));
                }
                Ok(offsets) => {
                    assert!(i >= N_REQUIRED, "{name}.{path} is required");
                    assert_eq!(offsets.all()[i].1, None);
                }
            }
        }
    }

    #[test]
    fn a_member_of_another_size_is_never_read() {
        let btf = blob_with(|_, path, size| Some((8, if path == "sk_type" { 4 } else { size })));
        let missing = Offsets::resolve(&btf).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "this kernel's BTF has no sock.sk_type: it has 4 bytes here, 2 are expected"
        );
        let btf = blob_with(|_, path, size| Some((8, if path == "sk_shutdown" { 4 } else { size })));
        assert_eq!(Offsets::resolve(&btf).unwrap().sk_shutdown, None);
    }

    #[test]
    fn a_kernel_without_a_struct_says_so() {
        let btf = blob_with(|name, _, size| (name != "unix_sock").then_some((8, size)));
        let missing = Offsets::resolve(&btf).unwrap_err();
        assert_eq!(missing.what, "unix_sock.peer");
        assert!(missing.hint.starts_with("there is no struct unix_sock"), "{missing}");
    }
}
