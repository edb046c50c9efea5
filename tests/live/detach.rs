//! Nothing stays behind: whatever ends the tracer, its programs go with it.

use std::{collections::BTreeSet, os::fd::RawFd, thread, time::Duration};

use rstest::rstest;

use super::{
    Hooks, machine,
    process::{Server, wait_for},
    tracer::Tracer,
};

/// `BPF_PROG_GET_NEXT_ID` (include/uapi/linux/bpf.h).
const PROG_GET_NEXT_ID: libc::c_int = 11;
/// `BPF_PROG_GET_FD_BY_ID`.
const PROG_GET_FD_BY_ID: libc::c_int = 13;
/// `BPF_OBJ_GET_INFO_BY_FD`.
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

fn bpf(command: libc::c_int, attributes: &mut [u64; 16]) -> i64 {
    // SAFETY: a zero-filled attribute block of 128 bytes, as large as these commands read.
    unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) }
}

/// Ids and names of all loaded programs. The kernel frees one some time after its last reference.
fn programs() -> BTreeSet<(u32, String)> {
    let mut found = BTreeSet::new();
    let mut id = 0u32;
    loop {
        let mut attributes = [0u64; 16];
        attributes[0] = u64::from(id);
        if bpf(PROG_GET_NEXT_ID, &mut attributes) != 0 {
            return found;
        }
        id = (attributes[0] >> 32) as u32;
        let mut attributes = [0u64; 16];
        attributes[0] = u64::from(id);
        let fd = bpf(PROG_GET_FD_BY_ID, &mut attributes) as RawFd;
        if fd < 0 {
            continue;
        }
        // `struct bpf_prog_info`: the name stands 64 bytes in and has 16 bytes.
        let mut info = [0u8; 256];
        let mut attributes = [0u64; 16];
        attributes[0] = (size_of_val(&info) as u64) << 32 | fd as u64;
        attributes[1] = info.as_mut_ptr() as u64;
        let read = bpf(OBJ_GET_INFO_BY_FD, &mut attributes);
        // SAFETY: opened above.
        unsafe { libc::close(fd) };
        if read == 0 {
            let name: Vec<u8> = info[64..80].iter().copied().take_while(|&byte| byte != 0).collect();
            found.insert((id, String::from_utf8_lossy(&name).into_owned()));
        }
    }
}

#[rstest]
#[case::killed(libc::SIGKILL)]
#[case::terminated(libc::SIGTERM)]
#[case::interrupted(libc::SIGINT)]
#[case::hung_up(libc::SIGHUP)]
#[case::aborted(libc::SIGABRT)]
fn no_program_outlives_the_tracer(
    #[case] signal: libc::c_int,
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
) {
    let _machine = machine();
    let before = programs();
    let server = Server::start("");
    let tracer = Tracer::start(hooks, &[server.process.pid()]);
    let during: BTreeSet<_> = programs().difference(&before).cloned().collect();
    assert!(during.iter().any(|(_, name)| name == "tcp_destroy"), "not loaded: {during:?}");
    tracer.end_by(signal);
    wait_for("the kernel to free the programs", || {
        let left = programs().intersection(&during).count();
        if left != 0 {
            thread::sleep(Duration::from_millis(20));
        }
        (left == 0).then_some(())
    });
}
