//! Calls that have their bytes in many buffers: every byte is in the recording, in its place, and what has no room is counted.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
};

use rstest::rstest;
use tracer_user::{
    event::{Data, Direction, Event},
    metrics::Metrics,
    source::{Source as _, recording::Recording, replay::ReplaySource},
    time::WallTime,
    transaction::WallRange,
};

use super::{
    Hooks, machine,
    tracer::{Capture, Tracer},
};

/// How the bytes of a call are handed over.
#[derive(Clone, Copy, Debug)]
enum By {
    /// `writev` and `readv`.
    Vector,
    /// `sendmsg` and `recvmsg`.
    Message,
}

/// Most pieces of one call (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

/// No two stretches of eight bytes are the same: nothing is in its place by chance.
fn bytes(n: usize) -> Vec<u8> {
    (0..n.div_ceil(8)).flat_map(|i| format!("{i:07} ").into_bytes()).take(n).collect()
}

fn iovecs(buffers: &mut [&mut [u8]]) -> Vec<libc::iovec> {
    buffers
        .iter_mut()
        .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
        .collect()
}

fn header(iovecs: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: plain integers and null pointers.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (iovecs.as_mut_ptr(), iovecs.len());
    header
}

/// Cuts bytes into pieces of these lengths; what is left over belongs to none.
fn pieces<'a>(mut rest: &'a mut [u8], lengths: &[usize]) -> Vec<&'a mut [u8]> {
    let mut pieces = Vec::new();
    for &length in lengths {
        let (piece, behind) = rest.split_at_mut(length.min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// Sends pieces in one call.
#[track_caller]
fn send(stream: &TcpStream, by: By, bytes: &[u8], lengths: &[usize]) {
    let mut copy = bytes.to_vec();
    let mut iovecs = iovecs(&mut pieces(&mut copy, lengths));
    // SAFETY: the pieces outlive the call.
    let n = unsafe {
        match by {
            By::Vector => libc::writev(stream.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32),
            By::Message => libc::sendmsg(stream.as_raw_fd(), &header(&mut iovecs), 0),
        }
    };
    assert_eq!(n, bytes.len() as isize, "{}", std::io::Error::last_os_error());
}

/// Receives into pieces, one call; the bytes.
#[track_caller]
fn receive(stream: &TcpStream, by: By, lengths: &[usize]) -> Vec<u8> {
    let mut room = vec![0; lengths.iter().sum()];
    let mut iovecs = iovecs(&mut pieces(&mut room, lengths));
    // SAFETY: the pieces outlive the call.
    let n = unsafe {
        match by {
            By::Vector => libc::readv(stream.as_raw_fd(), iovecs.as_ptr(), iovecs.len() as i32),
            By::Message => libc::recvmsg(stream.as_raw_fd(), &mut header(&mut iovecs), 0),
        }
    };
    assert!(n > 0, "{}", std::io::Error::last_os_error());
    room.truncate(n as usize);
    room
}

/// Traces this process while it asks itself once: the request's body goes out in calls of these pieces, and comes in through calls of as many.
/// What was captured of the request's direction, at either end, and the request.
#[track_caller]
fn trace(hooks: Hooks, by: By, calls: &[Vec<usize>]) -> (Capture, Vec<u8>) {
    let n: usize = calls.iter().flatten().sum();
    let head = format!("POST /pieces HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\n\r\n").into_bytes();
    let body = bytes(n);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let flags = ["--port", &port.to_string(), "--payload", "full"];
    let tracer = Tracer::start_with(hooks, &[std::process::id()], &flags);
    let request = [&head[..], &body].concat();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut read = Vec::new();
            for lengths in calls.iter().cycle() {
                // An empty buffer among the others; room for a byte at least.
                let lengths: Vec<usize> = [0, 1].iter().chain(lengths).copied().take(MAX_PIECES).collect();
                read.extend(receive(&stream, by, &lengths));
                if read.len() == request.len() {
                    break;
                }
            }
            assert_eq!(read, request);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            // Closed by the client first.
            let _ = stream.read(&mut [0]);
        });
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(&head).unwrap();
        let mut at = 0;
        for lengths in calls {
            let n: usize = lengths.iter().sum();
            send(&stream, by, &body[at..at + n], lengths);
            at += n;
        }
        stream.read_exact(&mut [0; 38]).unwrap();
    });
    let capture = tracer.stop();
    assert_eq!(capture.transactions.len(), 2, "{}", capture.stdout);
    for one in &capture.transactions {
        assert_eq!((one.end.as_str(), one.request_bytes), ("answered", request.len() as u64), "{one:?}");
    }
    (capture, request)
}

/// The records of the request's direction at both ends, in order, and a reading of the kernel's counters.
fn recorded(capture: &Capture) -> ([Vec<Data>; 2], Vec<(String, u64)>) {
    let recording = Recording::open(&capture.recording()).unwrap();
    let whole = WallRange { from: WallTime(0), to: WallTime(u64::MAX) };
    let mut source = ReplaySource::open(&recording, whole, Metrics::default()).unwrap();
    let (mut sent, mut counters) = ([Vec::new(), Vec::new()], Vec::new());
    let mut answered = std::collections::BTreeSet::new();
    while let Some(batch) = source.next_batch().unwrap() {
        for event in batch.events {
            match event {
                Event::Counters(values) => {
                    counters = values.values.iter().map(|(name, n)| (name.to_string(), *n)).collect();
                }
                // The first bytes on a connection are the request's, whichever end it is.
                Event::Data(data)
                    if data.bytes > 0
                        && !answered.contains(&(data.conn, data.direction().flip().index())) =>
                {
                    answered.insert((data.conn, data.direction().index()));
                    sent[usize::from(data.direction() == Direction::Egress)].push(data);
                }
                _ => {}
            }
        }
    }
    for records in &mut sent {
        records.sort_by_key(|data| data.position);
    }
    (sent, counters)
}

fn counter(counters: &[(String, u64)], name: &str) -> u64 {
    counters.iter().find(|(other, _)| other == name).expect("the kernel's counter").1
}

/// Every record's bytes are those of its place, and no byte of the request is in none; how many were copied.
#[track_caller]
fn check_places(records: &[Data], request: &[u8]) -> usize {
    let first = records.first().expect("records").position;
    let (mut next, mut copied) = (first, 0);
    for data in records {
        assert_eq!(data.position, next, "a record begins where the one before ended");
        next += data.bytes;
        let at = (data.position - first) as usize;
        assert!(data.payload.len() as u64 <= data.bytes);
        assert!(data.payload[..] == request[at..at + data.payload.len()], "other bytes at {at}");
        copied += data.payload.len();
    }
    assert_eq!(next - first, request.len() as u64, "every byte is told");
    copied
}

/// Lengths of `n` pieces, empty ones among them and one now and then that is longer than a step or a record.
fn lengths(n: usize) -> Vec<usize> {
    const SIZES: [usize; 11] = [9, 0, 137, 1, 255, 0, 256, 64, 4096, 33, 700];
    let mut lengths: Vec<usize> = (0..n).map(|i| SIZES[(i * 7 + n) % SIZES.len()]).collect();
    // At least one byte.
    lengths[n / 2] += if n.is_multiple_of(25) { 20_000 } else { 1 };
    lengths
}

#[rstest]
fn calls_of_up_to_a_hundred_pieces_are_copied_whole(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(By::Vector, By::Message)] by: By,
) {
    let _machine = machine();
    let calls: Vec<Vec<usize>> = (1..=100).step_by(3).chain([25, 50, 75, 100]).map(lengths).collect();
    let (capture, request) = trace(hooks, by, &calls);
    let (sent, counters) = recorded(&capture);
    for records in &sent {
        assert_eq!(check_places(records, &request), request.len());
    }
    for name in ["kernel.iovecs_cut", "kernel.payload_cut", "kernel.payload_fault"] {
        assert_eq!(counter(&counters, name), 0, "{name}");
    }
}

#[rstest]
fn of_a_mebibyte_in_one_call_the_first_quarter_is_copied_and_the_rest_counted(
    #[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks,
    #[values(1, 2, 64)] pieces: usize,
) {
    const ALL: usize = 1 << 20;
    let _machine = machine();
    let (capture, request) = trace(hooks, By::Vector, &[vec![ALL / pieces; pieces]]);
    let (sent, counters) = recorded(&capture);
    for records in &sent {
        check_places(records, &request);
    }
    let of_call: usize = sent[1].iter().filter(|data| data.bytes > 100).map(|data| data.payload.len()).sum();
    assert_eq!(of_call, tracer_ebpf::MAX_PAYLOAD_PER_CALL as usize);
    assert!(counter(&counters, "kernel.payload_cut") >= 1);
    assert_eq!(counter(&counters, "kernel.iovecs_cut"), 0);
}

#[rstest]
fn more_pieces_than_are_read_are_counted(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    let (capture, request) = trace(hooks, By::Vector, &[vec![1; MAX_PIECES]]);
    let (sent, counters) = recorded(&capture);
    let copied = check_places(&sent[1], &request);
    let head = request.len() - MAX_PIECES;
    assert!(
        (head + tracer_ebpf::MAX_IOVECS as usize..request.len()).contains(&copied),
        "{copied} of {}",
        request.len()
    );
    // By the send, and by the receive as well where it met that many at once.
    assert!(counter(&counters, "kernel.iovecs_cut") >= 1);
}

#[rstest]
fn empty_pieces_are_no_bytes(#[values(Hooks::Socket, Hooks::Syscall)] hooks: Hooks) {
    let _machine = machine();
    // More of them than a record takes pieces, before the first byte, between bytes and behind the last one.
    let mut call = vec![0; 70];
    call.extend([5, 0, 7]);
    call.extend([0; 70]);
    call.push(3);
    call.extend([0; 70]);
    let (capture, request) = trace(hooks, By::Message, &[call]);
    let (sent, counters) = recorded(&capture);
    for records in &sent {
        assert_eq!(check_places(records, &request), request.len());
    }
    assert_eq!(counter(&counters, "kernel.iovecs_cut"), 0);
}
