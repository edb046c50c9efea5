//! Bytes of a call that has them in several buffers: gathered into as few records as hold them.
//!
//! Written for the verifier, which walks every turn of every loop: what a turn carries on is hidden from it (`hide`), and
//! what could be a branch is arithmetic, so that all paths through a turn meet again at its end.

use core::{arch::asm, ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use tracer_ebpf::{
    Conn, Data, FLAG_CUT, FLAG_FAULT, FLAG_TURN_START, MAX_IOVECS, MAX_PAYLOAD_PER_CALL, Stat,
};

use crate::{
    capture::{BPF_RB_NO_WAKEUP, BUFFER_IOVECS, Buffer, Moved, Part, Record, fill, refuse, reread},
    maps::EVENTS,
    memory::{hide, opaque},
    probes::call::{MESSAGE_IOVECS, MMSGHDR_BYTES, MMSGHDR_LENGTH},
    stats::count,
};

/// Pieces that the largest record takes: a buffer, or what of it fits.
const PIECES: u32 = 32;
/// Payload of the largest record.
const LARGEST: u32 = 16_384;
/// Largest records of one call. What is beyond is counted (`iovecs_cut`).
const RECORDS: u32 = 16;
const _: () = assert!(RECORDS * LARGEST >= MAX_PAYLOAD_PER_CALL);
const _: () = assert!(RECORDS * PIECES >= MAX_IOVECS);

/// How far a call has been copied.
struct Cursor {
    /// The piece in progress.
    index: u64,
    /// Bytes of it that are copied.
    offset: u64,
    /// Records that may follow.
    records_left: u64,
}

/// Sends the bytes of several buffers; `part` is the whole call's.
#[inline(never)]
pub fn send(conn: &mut Conn, moved: &Moved, part: &mut Part) -> u32 {
    let mut cursor = Cursor { index: 0, offset: 0, records_left: u64::from(RECORDS) - 1 };
    if moved.buffer.kind != BUFFER_IOVECS {
        // As many messages as there are pieces to a record: more are seldom sent on a stream.
        cursor.records_left = 0;
        return gather::<true, 16, 16_384, 4096, 20_480>(conn, moved, part, &mut cursor);
    }
    let wanted = part.wanted;
    let mut more = 1;
    if wanted <= 4096 {
        // Where many small pieces do not fit into this one, the largest follow.
        cursor.records_left += 1;
        more = if wanted <= 256 {
            gather::<false, 16, 256, 256, 512>(conn, moved, part, &mut cursor)
        } else if wanted <= 1024 {
            gather::<false, 16, 1024, 1024, 2048>(conn, moved, part, &mut cursor)
        } else {
            gather::<false, PIECES, 4096, 4096, 8192>(conn, moved, part, &mut cursor)
        };
    }
    // Whether a smaller record was tried first makes no difference from here on.
    let unknown = moved.time_ns;
    cursor.index = hide(cursor.index, unknown);
    cursor.offset = hide(cursor.offset, unknown);
    cursor.records_left = hide(cursor.records_left, unknown);
    more = hide(u64::from(more), unknown) as u32;
    // Written out: of a loop's turns the verifier keeps a few states alone, and forgets what it has walked of the others (`miss_cnt`, `is_state_visited`,
    // kernel/bpf/verifier.c). (`socket_receive`, kernel 6.18: 110,549 instructions walked with a loop, 89,431 without; 161,201 before what led here was hidden.)
    macro_rules! turns {
        ($($turn:literal)*) => {
            const { assert!([$($turn),*].len() as u32 == RECORDS) };
            $(
                let _ = $turn;
                if more == 0 {
                    return 0;
                }
                more = gather::<false, PIECES, 16_384, 4096, 20_480>(conn, moved, part, &mut cursor);
            )*
        };
    }
    turns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    let _ = more;
    0
}

/// `struct iovec` (include/uapi/linux/uio.h).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Iovec {
    pub base: u64,
    pub length: u64,
}

/// The `i`-th piece of a buffer in pieces; `None` if it cannot be read.
#[inline(always)]
fn piece<const MESSAGES: bool>(buffer: &Buffer, i: u64) -> Option<Iovec> {
    let mut slot = MaybeUninit::<Iovec>::uninit();
    let at = slot.as_mut_ptr();
    let mut iovecs = buffer.address + i * size_of::<Iovec>() as u64;
    let mut limit = 0;
    // SAFETY: the slot is plain integers, filled before it is read. One slot for all three: the stack is deepest here.
    unsafe {
        if MESSAGES {
            let message = buffer.address + i * MMSGHDR_BYTES;
            if bpf_probe_read_user(at.cast(), 8, (message + MESSAGE_IOVECS) as *const c_void) != 0 {
                return None;
            }
            iovecs = at.cast::<u64>().read_volatile();
            if bpf_probe_read_user(at.cast(), 4, (message + MMSGHDR_LENGTH) as *const c_void) != 0 {
                return None;
            }
            limit = u64::from(at.cast::<u32>().read_volatile());
        }
        if bpf_probe_read_user(at.cast(), size_of::<Iovec>() as u32, iovecs as *const c_void) != 0 {
            return None;
        }
        let iovec = slot.assume_init();
        if !MESSAGES {
            return Some(iovec);
        }
        // A message in several iovecs is not read further than its first one, and so are the messages behind it.
        (limit <= iovec.length).then_some(Iovec { base: iovec.base, length: limit })
    }
}

/// The smaller of two numbers below 2^62, without a branch.
#[inline(always)]
fn smaller(a: u64, b: u64) -> u64 {
    let mut least = a;
    // SAFETY: arithmetic on registers. b + min(a − b, 0).
    unsafe {
        asm!(
            "{least} -= {b}",
            "{mask} = {least}",
            "{mask} s>>= 63",
            "{least} &= {mask}",
            "{least} += {b}",
            least = inout(reg) least,
            b = in(reg) b,
            mask = out(reg) _,
            options(pure, nomem, nostack)
        );
    }
    least
}

/// How many pieces there are. Read each time: a copy would stand on the stack, which is deepest here.
#[inline(always)]
fn n_pieces(moved: &Moved) -> u64 {
    // SAFETY: a field of a struct that the caller holds.
    u64::from(unsafe { (&raw const moved.buffer.count).read_volatile() })
}

/// All bits where a number is not 0, without a branch.
#[inline(always)]
fn mask_unless_zero(value: u64) -> u64 {
    let mut mask = value;
    // SAFETY: arithmetic on registers: the sign of −value, for values below 2^63.
    unsafe {
        asm!("{mask} = -{mask}", "{mask} s>>= 63", mask = inout(reg) mask, options(pure, nomem, nostack))
    };
    mask
}

/// Sends one record with up to `N` of the bytes that are left, fewer than `M` of them at once (powers of two); 1 if there are more to send.
///
/// The record has room for `ROOM` = `N` + `M`, because the verifier bounds offset and length apart, not their sum.
#[inline(never)]
fn gather<const MESSAGES: bool, const PIECES: u32, const N: usize, const M: usize, const ROOM: usize>(
    conn: &mut Conn,
    moved: &Moved,
    part: &mut Part,
    cursor: &mut Cursor,
) -> u32 {
    const { assert!(ROOM == N + M && M <= N) };
    let Some(mut entry) = EVENTS.reserve::<Record<ROOM>>(0) else {
        count(Stat::EventsAttempted);
        refuse(conn, Stat::RefusedData);
        return 0;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: points into the reservation.
    let payload = unsafe { (&raw mut (*record).payload).cast::<u8>() };
    let unknown = moved.time_ns;
    // SAFETY: `record` is a reservation of the ring, and so it is in all blocks below.
    unsafe { fill(&raw mut (*record).data, conn, moved, part) };
    // SAFETY: within the reservation.
    let captured = unsafe { &raw mut (*record).data.captured };
    // SAFETY: within the reservation.
    unsafe { captured.write_volatile(0) };
    let all = u64::from(part.wanted);
    let wanted = hide(smaller(all, N as u64), unknown);
    let mut failed = 0u64;
    let mut index = cursor.index;
    let mut offset = cursor.offset;
    let mut i = 0;
    while i < PIECES {
        // SAFETY: within the reservation.
        let filled = unsafe { reread(captured) };
        if index >= n_pieces(moved) || filled >= wanted {
            break;
        }
        let Some(iovec) = piece::<MESSAGES>(&moved.buffer, index) else {
            failed = 1;
            break;
        };
        i += 1;
        // Below 2^31, or the call had failed; whatever stands there by now is made safe to calculate with.
        let length = iovec.length & (u64::MAX >> 2);
        let rest = length - smaller(length, offset);
        let n = smaller(smaller(rest, wanted - filled), M as u64 - 1);
        // The masks change no value: filled < wanted ≤ N, and n < M. They show it to the verifier.
        let at = opaque(filled) & (N as u64 - 1);
        let length = opaque(n) & (M as u64 - 1);
        // SAFETY: at < N, length < M, and the payload has N + M bytes.
        if unsafe {
            bpf_probe_read_user(
                payload.add(at as usize).cast::<c_void>(),
                length as u32,
                (iovec.base + offset) as *const c_void,
            )
        } != 0
        {
            failed = 1;
            break;
        }
        // SAFETY: within the reservation.
        unsafe { captured.write_volatile((filled + n) as u32) };
        // On in this piece, or to the next one.
        let stay = mask_unless_zero(rest - n);
        index = index.wrapping_add(1).wrapping_add(stay);
        offset = (offset + n) & stay;
    }
    // SAFETY: within the reservation.
    let filled = unsafe { reread(captured) };
    // Each turn may have been the last: from here on it makes no difference which one was.
    let failed = hide(failed, unknown);
    let index = hide(index, unknown);
    let offset = hide(offset, unknown);
    let is_last = failed != 0 || filled >= all || index >= n_pieces(moved) || cursor.records_left == 0;
    if !is_last && filled == 0 {
        // Empty buffers, more than a record takes: nothing to tell yet.
        entry.discard(BPF_RB_NO_WAKEUP);
    } else {
        if !is_last {
            // SAFETY: within the reservation. What is not copied belongs to the last record.
            unsafe { (&raw mut (*record).data.bytes).write_volatile(filled) };
        } else if failed != 0 {
            // What was copied before the fault is good: keep it, and say that the rest is missing.
            count(Stat::PayloadFault);
            // SAFETY: within the reservation.
            unsafe { (*record).data.header.flags |= FLAG_FAULT };
        } else if filled < all {
            count(Stat::IovecsCut);
            // SAFETY: within the reservation.
            unsafe { (*record).data.header.flags |= FLAG_CUT };
        }
        // SAFETY: within the reservation.
        unsafe { (*record).data.header.length = size_of::<Data>() as u32 + filled as u32 };
        count(Stat::EventsAttempted);
        count(Stat::EventsReserved);
        entry.submit(part.wake);
        part.flags = hide(u64::from(part.flags & !u32::from(FLAG_TURN_START)), unknown) as u32;
    }
    if is_last {
        return 0;
    }
    part.position = hide(part.position + filled, unknown);
    part.bytes = hide(part.bytes - filled, unknown);
    part.wanted = hide(all - filled, unknown) as u32;
    *cursor = Cursor { index, offset, records_left: hide(cursor.records_left - 1, unknown) };
    1
}
