//! Rows of `events` against their reader.

use proptest::prelude::*;

use super::*;
use crate::event::{
    Argument, Counters, FunctionFacts, LossReason, ProcessChange, ProcessFacts, Role, Stack, StackEnd,
    StackKind, ValueKind,
};

fn time() -> impl Strategy<Value = BootTime> {
    prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 1..1_000_000_u64].prop_map(BootTime)
}

fn payload() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from)
}

fn data() -> impl Strategy<Value = Event> {
    let numbers = (any::<u64>(), any::<u64>(), any::<u32>(), any::<u16>(), any::<[u32; 4]>());
    let followed = any::<(u64, u32)>().prop_map(|(ns, n)| if n == 0 { (0, 0) } else { (ns, n) });
    let of_thread = (followed, any::<[u32; 3]>());
    (time(), time(), time(), any::<u64>(), numbers, any::<[u8; 16]>(), payload(), of_thread).prop_map(
        |(
            time,
            first,
            arrival,
            conn,
            numbers,
            comm,
            payload,
            ((kernel_ns, off_cpu), [goroutine, rtt_us, retransmits]),
        )| {
            let (position, bytes, turn, flags, [pid, tid, n_calls, error]) = numbers;
            Event::Data(Data {
                time,
                first,
                arrival,
                conn: ConnId(conn),
                position,
                bytes,
                turn,
                flags,
                pid,
                tid,
                n_calls,
                error,
                comm,
                payload,
                kernel_ns,
                off_cpu,
                goroutine,
                rtt_us,
                retransmits,
            })
        },
    )
}

fn open() -> impl Strategy<Value = Event> {
    let role = prop_oneof![Just(Role::Client), Just(Role::Server), Just(Role::Unknown)];
    let tuple = any::<([u8; 16], [u8; 16], [u16; 3])>();
    (time(), time(), any::<(u64, u64, u32, u32, u16)>(), role, tuple, payload()).prop_map(
        |(time, established, (conn, inode, pid, netns, flags), role, tuple, unix_path)| {
            let (local, remote, [local_port, remote_port, family]) = tuple;
            Event::ConnOpen(ConnOpen {
                time,
                conn: ConnId(conn),
                established,
                inode,
                tuple: abi::Tuple { local, remote, local_port, remote_port, family, reserved: 0 },
                pid,
                netns,
                role,
                flags,
                unix_path,
            })
        },
    )
}

fn datagram() -> impl Strategy<Value = Event> {
    let numbers = any::<(u64, u64, u32, u16, [u32; 3], [u8; 16])>();
    (time(), numbers, payload()).prop_map(|(time, numbers, payload)| {
        let (conn, number, bytes, flags, [pid, tid, netns], comm) = numbers;
        let tuple = abi::Tuple { local: comm, remote_port: flags, ..abi::Tuple::default() };
        let conn = ConnId(conn);
        Event::Datagram(Datagram { time, conn, number, bytes, tuple, flags, pid, tid, netns, comm, payload })
    })
}

fn other() -> impl Strategy<Value = Event> {
    let texts = proptest::collection::vec(proptest::option::of(payload()), 0..4);
    let change =
        prop_oneof![Just(ProcessChange::Start), Just(ProcessChange::Exec), Just(ProcessChange::Exit)];
    prop_oneof![
        (time(), any::<u64>(), any::<bool>()).prop_map(|(time, conn, egress)| {
            let direction = if egress { Direction::Egress } else { Direction::Ingress };
            Event::ConnShut(ConnShut { time, conn: ConnId(conn), direction })
        }),
        (time(), any::<u64>(), any::<[u64; 2]>(), any::<[u32; 4]>()).prop_map(
            |(time, conn, position, [turn, reason, n_refused, error])| {
                let conn = ConnId(conn);
                Event::ConnClose(ConnClose { time, conn, position, turn, reason, n_refused, error })
            }
        ),
        (time(), any::<[u64; 2]>(), any::<u32>(), any::<[u16; 3]>()).prop_map(
            |(time, [conn, carrier], pid, [library, link, flags])| {
                let (conn, carrier) = (ConnId(conn), ConnId(carrier));
                Event::TlsOpen(TlsOpen { time, conn, carrier, pid, library, link, flags })
            }
        ),
        (time(), any::<[u64; 4]>(), any::<([u64; 8], u16)>(), any::<[u32; 3]>(), texts, any::<[u8; 16]>())
            .prop_map(
                |(
                    time,
                    [number, stack, goroutine, caller],
                    (registers, unread),
                    [function, pid, tid],
                    texts,
                    comm,
                )| {
                    Event::FunctionEnter(FunctionEnter {
                        time,
                        number,
                        stack,
                        goroutine,
                        caller,
                        registers,
                        unread,
                        texts,
                        function,
                        pid,
                        tid,
                        comm,
                    })
                }
            ),
        (time(), any::<[u64; 4]>(), any::<[u32; 3]>(), proptest::option::of(payload()), any::<u16>())
            .prop_map(|(time, [number, stack, goroutine, value], [function, pid, tid], text, flags)| {
                Event::FunctionReturn(FunctionReturn {
                    time,
                    number,
                    stack,
                    goroutine,
                    value,
                    text,
                    function,
                    pid,
                    tid,
                    flags,
                })
            }),
        (time(), any::<[u64; 2]>(), any::<[u32; 2]>(), ["[^\0]*", "[^\0]*"]).prop_map(
            |(time, [number, end], [pid, tid], [frames, code])| {
                Event::Stack(Stack {
                    time,
                    number,
                    pid,
                    tid,
                    frames: frames.into(),
                    code: code.into(),
                    end: StackEnd::from_number((end % 5) as u16).unwrap(),
                    kind: StackKind::from_number(pid % 3).unwrap(),
                    is_kept: tid % 2 == 1,
                    ..Stack::default()
                })
            }
        ),
        (time(), time(), time(), any::<[u64; 2]>(), any::<[u32; 5]>(), any::<[u16; 2]>()).prop_map(
            |(time, out, wake, [kernel_ns, argument], [number, pid, tid, call, waker], [file, flags])| {
                Event::OffCpu(OffCpu {
                    time,
                    out,
                    wake,
                    kernel_ns,
                    argument,
                    number,
                    pid,
                    tid,
                    call,
                    waker,
                    file,
                    flags,
                })
            }
        ),
        (time(), any::<u64>(), any::<[u32; 2]>()).prop_map(|(time, conn, [rtt_us, retransmits])| {
            Event::Retransmit(Retransmit { time, conn: ConnId(conn), rtt_us, retransmits })
        }),
        (time(), any::<u32>(), any::<[String; 2]>(), any::<[u8; 2]>()).prop_map(
            |(time, function, [name, place], [register, bytes])| {
                Event::FunctionFacts(FunctionFacts {
                    time,
                    function,
                    name: name.into(),
                    place: place.into(),
                    arguments: vec![Argument { register, kind: ValueKind::Signed(bytes) }],
                    returned: Some(ValueKind::Text(bytes)),
                    is_mark: bytes > 7,
                    by_return_probe: bytes > 9,
                    restarts: bytes > 11,
                    stack_ns: (bytes > 12).then_some(u64::from(bytes)),
                })
            }
        ),
        (time(), change, any::<[u32; 3]>(), any::<[u8; 16]>()).prop_map(
            |(time, change, [pid, parent_pid, exit_code], comm)| {
                Event::Process(Process { time, change, pid, parent_pid, exit_code, comm })
            }
        ),
        (time(), any::<u64>()).prop_map(|(boot, wall)| Event::Anchor(Anchor { boot, wall: WallTime(wall) })),
        (time(), any::<u32>(), any::<u64>(), any::<[String; 4]>()).prop_map(
            |(time, pid, start_ticks, [comm, exe, service, container])| {
                Event::ProcessFacts(ProcessFacts {
                    time,
                    pid,
                    start_ticks,
                    comm: comm.into(),
                    exe: exe.into(),
                    service: service.into(),
                    container: container.into(),
                })
            }
        ),
        (time(), any::<u32>(), any::<u16>()).prop_map(|(time, netns, port)| Event::Listening(Listening {
            time,
            netns,
            port
        })),
        (time(), any::<Vec<(String, u64)>>()).prop_map(|(time, values)| {
            let values = values.into_iter().map(|(name, count)| (name.into(), count)).collect();
            Event::Counters(Counters { time, values })
        }),
        time().prop_map(Event::Tick),
        (time(), any::<u64>(), any::<Option<u64>>()).prop_map(|(time, first_ordinal, n)| {
            Event::Loss(Loss { time, first_ordinal, n, reason: LossReason::Damaged })
        }),
    ]
}

proptest! {
    #[test]
    fn every_event_comes_back_as_it_went_in(
        events in proptest::collection::vec(prop_oneof![data(), datagram(), open(), other()], 1..40),
        first in 0..u64::from(u32::MAX),
    ) {
        let mut rows = EventRows::new(PayloadMode::Heads, 4);
        for (ordinal, event) in (first..).zip(&events) {
            rows.push(ordinal, event);
        }
        let batch = rows.finish();
        prop_assert!(rows.is_empty());
        let columns = EventColumns::new(&batch).unwrap();
        prop_assert_eq!(columns.len(), events.len());
        for (i, event) in events.iter().enumerate() {
            prop_assert_eq!(columns.ordinal(i), first + i as u64);
            prop_assert_eq!(columns.row(i).unwrap(), Row::Event(event.clone()));
        }
    }
}

#[test]
fn without_payload_no_captured_byte_and_no_state_is_kept() {
    let mut rows = EventRows::new(PayloadMode::None, 4);
    let data = Data { payload: Bytes::from_static(b"secret"), bytes: 6, ..Data::default() };
    rows.push_checkpoint(7, BootTime(5), b"secret");
    rows.push(7, &Event::Data(data.clone()));
    let batch = rows.finish();
    let columns = EventColumns::new(&batch).unwrap();
    assert_eq!(columns.row(0).unwrap(), Row::Checkpoint(Bytes::new()));
    assert_eq!(columns.row(1).unwrap(), Row::Event(Event::Data(Data { payload: Bytes::new(), ..data })));
}

#[test]
fn a_blob_that_is_too_short_is_a_fault_and_no_panic() {
    let open = Event::ConnOpen(ConnOpen { unix_path: Bytes::from_static(b"/run/x"), ..ConnOpen::default() });
    let mut rows = EventRows::new(PayloadMode::Heads, 64);
    for cut in 0..=53 {
        rows.push(cut, &open);
        // Cut the row's payload: the last end and the bytes behind it.
        let start = rows.payload.ends[rows.payload.ends.len() - 2];
        let last = rows.payload.ends.len() - 1;
        rows.payload.ends[last] = start + cut as i32;
        rows.payload.bytes.truncate(start as usize + cut as usize);
    }
    let batch = rows.finish();
    let columns = EventColumns::new(&batch).unwrap();
    for cut in 0..53 {
        assert!(columns.row(cut).is_err(), "{cut} bytes");
    }
    assert!(columns.row(53).is_ok(), "without a path it is whole");
}
