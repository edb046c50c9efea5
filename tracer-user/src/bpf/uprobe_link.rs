//! Attaches a loaded program to a place in a file, in one process or all: by a link of many uprobes, of which each has one here, or `perf_event_open(2)` on
//! the kernel's `uprobe` unit (see [`super::uprobe_programs`]). aya attaches through the object that holds the program, which one thread owns; places are
//! found by another one, which only has the programs' descriptors.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    sync::OnceLock,
};

use super::uprobe_programs::{self, UprobeProgram};

/// Where the kernel says how its unit is asked (Documentation/ABI/testing/sysfs-bus-event_source-devices-format).
const UNIT: &str = "/sys/bus/event_source/devices/uprobe";
/// `PERF_EVENT_IOC_SET_BPF`: `_IOW('$', 8, __u32)` (include/uapi/linux/perf_event.h).
const SET_BPF: libc::c_ulong = 0x4004_2408;
/// `PERF_EVENT_IOC_ENABLE`: `_IO('$', 0)`.
const ENABLE: libc::c_ulong = 0x2400;
/// `PERF_FLAG_FD_CLOEXEC`.
const CLOEXEC: libc::c_ulong = 1 << 3;

/// `BPF_LINK_CREATE`, `BPF_PERF_EVENT`, `BPF_TRACE_UPROBE_MULTI` (include/uapi/linux/bpf.h).
const LINK_CREATE: libc::c_long = 28;
const PERF_EVENT: u32 = 41;
pub(super) const TRACE_UPROBE_MULTI: u32 = 48;
/// `BPF_F_UPROBE_MULTI_RETURN`.
const MULTI_RETURN: u32 = 1;

/// `struct perf_event_attr`, its first version but for the two fields that name the place (include/uapi/linux/perf_event.h,
/// `PERF_ATTR_SIZE_VER1`).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    /// `uprobe_path`: address of the file's path.
    path: u64,
    /// `probe_offset`.
    offset: u64,
}

const _: () = assert!(size_of::<Attributes>() == 72);

/// How the kernel's unit is asked.
struct Unit {
    kind: u32,
    /// Bit of `config` that asks for the return.
    return_bit: u32,
}

/// What the kernel says of its unit; `None`: it has none.
fn unit() -> Option<&'static Unit> {
    static UNIT_OF_THIS_KERNEL: OnceLock<Option<Unit>> = OnceLock::new();
    UNIT_OF_THIS_KERNEL
        .get_or_init(|| {
            let read = |name: &str| fs::read_to_string(format!("{UNIT}/{name}")).ok();
            Some(Unit {
                kind: read("type")?.trim().parse().ok()?,
                return_bit: read("format/retprobe")?.trim().strip_prefix("config:")?.parse().ok()?,
            })
        })
        .as_ref()
}

/// Where a probe goes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The file, by a path that this process can open.
    pub path: &'a Path,
    /// Bytes from its beginning.
    pub offset: u64,
    /// At the function's return; the place is then one at which its return address is still at the stack pointer.
    pub at_return: bool,
    /// In this process alone; `None` = in all.
    pub pid: Option<u32>,
}

/// Attaches `program`. Dropping what is returned detaches it.
pub fn attach(program: &UprobeProgram, place: Place<'_>) -> io::Result<OwnedFd> {
    if program.is_multi() {
        return multi(program.fd(), place, None, 0);
    }
    let event = event(place, None)?;
    // SAFETY: both take a number.
    let outcome = unsafe {
        match libc::ioctl(event.as_raw_fd(), SET_BPF, program.fd().as_raw_fd()) {
            0 => libc::ioctl(event.as_raw_fd(), ENABLE, 0),
            error => error,
        }
    };
    if outcome != 0 { Err(io::Error::last_os_error()) } else { Ok(event) }
}

/// The same with a number that the program is told at each hit (kernel 5.15 and later). `semaphore`: where in the file the counter of a mark lies, which
/// the kernel raises meanwhile.
pub fn attach_with_cookie(
    program: &UprobeProgram,
    place: Place<'_>,
    semaphore: Option<u64>,
    cookie: u64,
) -> io::Result<OwnedFd> {
    /// `union bpf_attr`, the part for making a link to an event.
    #[repr(C)]
    struct Link {
        program: u32,
        event: u32,
        kind: u32,
        flags: u32,
        cookie: u64,
    }
    if program.is_multi() {
        return multi(program.fd(), place, semaphore, cookie);
    }
    let event = event(place, semaphore)?;
    let link = Link {
        program: program.fd().as_raw_fd().cast_unsigned(),
        event: event.as_raw_fd().cast_unsigned(),
        kind: PERF_EVENT,
        flags: 0,
        cookie,
    };
    // SAFETY: the structure is as long as the call is told.
    let made = unsafe { create_link(&link) }?;
    // SAFETY: takes a number.
    if unsafe { libc::ioctl(event.as_raw_fd(), ENABLE, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(made)
}

/// `BPF_LINK_CREATE`.
///
/// # Safety
///
/// `attributes` is a `repr(C)` beginning of `union bpf_attr`; what it points to is readable.
unsafe fn create_link<T>(attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the structure outlives the call, which is told its length.
    let made =
        unsafe { libc::syscall(libc::SYS_bpf, LINK_CREATE, std::ptr::from_ref(attributes), size_of::<T>()) };
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(made as i32) })
}

/// A link of many uprobes, with one.
fn multi(
    program: BorrowedFd<'_>,
    place: Place<'_>,
    semaphore: Option<u64>,
    cookie: u64,
) -> io::Result<OwnedFd> {
    /// `union bpf_attr`, the part for making such a link.
    #[repr(C)]
    struct Link {
        program: u32,
        target: u32,
        kind: u32,
        flags: u32,
        path: u64,
        offsets: u64,
        semaphores: u64,
        cookies: u64,
        n_places: u32,
        multi_flags: u32,
        pid: u32,
        /// The kernel refuses what it does not know, unless it is 0.
        rest: u32,
    }
    let path = CString::new(place.path.as_os_str().as_bytes())?;
    let semaphores = semaphore.as_ref().map_or(0, |at| std::ptr::from_ref(at) as u64);
    let link = Link {
        program: program.as_raw_fd().cast_unsigned(),
        target: 0,
        kind: TRACE_UPROBE_MULTI,
        flags: 0,
        path: path.as_ptr() as u64,
        offsets: &raw const place.offset as u64,
        semaphores,
        cookies: &raw const cookie as u64,
        n_places: 1,
        multi_flags: if place.at_return { MULTI_RETURN } else { 0 },
        pid: place.pid.unwrap_or(0),
        rest: 0,
    };
    // SAFETY: the path and the numbers outlive the call.
    unsafe { create_link(&link) }
}

/// Whether this kernel has links of many uprobes that are right about processes: the first ones took a process for its first thread (before 6.10, and
/// stable kernels of then).
pub fn has_multi() -> bool {
    static OF_THIS_KERNEL: OnceLock<bool> = OnceLock::new();
    *OF_THIS_KERNEL.get_or_init(|| {
        let Ok(nothing) = uprobe_programs::nothing() else { return false };
        let refused = |pid| {
            // A folder is no program; the kernels that are wrong look at it before they look at the process.
            let place = Place { path: Path::new("/"), offset: 0, at_return: false, pid: Some(pid) };
            multi(nothing.as_fd(), place, None, 0).err().and_then(|error| error.raw_os_error())
        };
        refused(0) == Some(libc::EBADF) && refused(u32::MAX) == Some(libc::EINVAL)
    })
}

/// An event of the kernel's unit, which does nothing by itself.
fn event(place: Place<'_>, semaphore: Option<u64>) -> io::Result<OwnedFd> {
    let no_unit = || io::Error::other(format!("this kernel has no uprobes that perf can ask for ({UNIT})"));
    let unit = unit().ok_or_else(no_unit)?;
    let path = CString::new(place.path.as_os_str().as_bytes())?;
    let attributes = Attributes {
        kind: unit.kind,
        size: size_of::<Attributes>() as u32,
        // `ref_ctr_offset`: the upper half (format/ref_ctr_offset).
        config: u64::from(place.at_return) << unit.return_bit | semaphore.unwrap_or(0) << 32,
        path: path.as_ptr() as u64,
        offset: place.offset,
        ..Attributes::default()
    };
    let (pid, cpu) = match place.pid {
        Some(pid) => (pid.cast_signed(), -1),
        None => (-1, 0),
    };
    // SAFETY: the attributes and the path outlive the call.
    let event =
        unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attributes, pid, cpu, -1, CLOEXEC) };
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(event as i32) })
}

/// Threads that attach at once, or detach. An attachment waits for a grace period of RCU where none has just been waited for (34 ms; 0.1 to 0.9 s on a
/// machine with much to do), and those that wait at once wait for the same one (Linux 6.18, AMD EPYC, two processors).
const AT_ONCE: usize = 16;

/// Attaches several, in the order given.
pub fn attach_all(wanted: &[(&UprobeProgram, Place<'_>)]) -> Vec<io::Result<OwnedFd>> {
    at_once(wanted, |(program, place)| attach(program, *place))
}

/// What `attach` makes of each of `wanted`, in their order, several at once.
pub fn at_once<T: Sync>(
    wanted: &[T],
    attach: impl Fn(&T) -> io::Result<OwnedFd> + Sync,
) -> Vec<io::Result<OwnedFd>> {
    let attach_some = |some: &[T]| -> Vec<io::Result<OwnedFd>> { some.iter().map(&attach).collect() };
    let size = wanted.len().div_ceil(AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let mut chunks = wanted.chunks(size);
        let first = chunks.next().unwrap_or_default();
        let attach_some = &attach_some;
        let others: Vec<_> = chunks
            .map(|some| (some, std::thread::Builder::new().spawn_scoped(scope, move || attach_some(some))))
            .collect();
        let mut links = attach_some(first);
        for (some, thread) in others {
            links.extend(match thread {
                Ok(thread) => thread.join().unwrap_or_else(|_| {
                    some.iter().map(|_| Err(io::Error::other("the thread that attaches ended"))).collect()
                }),
                // No thread was to be had.
                Err(_) => attach_some(some),
            });
        }
        links
    })
}

/// Threads that detach at once. Each waits for grace periods as well, some 20 to 40 ms: the 580 probes of processes that had just ended were gone after 0.16 s, with 16
/// threads after 3.2 s, one behind the other after 21 s (Linux 6.18, AMD EPYC, two processors). Those that wait take no time of a processor.
const CLOSE_AT_ONCE: usize = 128;

/// Detaches all, and returns when none runs any more.
pub fn close_all(links: Vec<OwnedFd>) {
    let size = links.len().div_ceil(CLOSE_AT_ONCE).max(1);
    std::thread::scope(|scope| {
        let mut links = links.into_iter();
        loop {
            let some: Vec<OwnedFd> = links.by_ref().take(size).collect();
            if some.is_empty() {
                break;
            }
            // Where no thread is to be had, they go with what was to be its body.
            let _ = std::thread::Builder::new().spawn_scoped(scope, move || drop(some));
        }
    });
}
