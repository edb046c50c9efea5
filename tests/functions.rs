//! Calls of probed functions through the pipeline: checkpoints, losses, the account.

use bytes::Bytes;
use proptest::prelude::*;
use tracer_ebpf as abi;
use tracer_user::{
    event::{
        Argument, Event, FunctionEnter, FunctionFacts, FunctionReturn, Process, ProcessChange, Stack,
        StackEnd, ValueKind,
    },
    metrics::{Counter, Metrics},
    pipeline::{NullVerdicts, Pipeline, PipelineConfig},
    time::BootTime,
    transaction::{End, Kind, Transaction},
};

const MS: u64 = 1_000_000;
/// Functions that are known: the second returns a text, the third is a place.
const N_FUNCTIONS: u32 = 3;

fn facts() -> impl Iterator<Item = Event> {
    (1..=N_FUNCTIONS).map(|function| {
        Event::FunctionFacts(FunctionFacts {
            function,
            name: format!("f{function}").into(),
            place: format!("/bin/app:f{function}").into(),
            arguments: vec![
                Argument { register: 0, kind: ValueKind::Signed(4) },
                Argument { register: 1, kind: ValueKind::Text(0) },
            ],
            returned: Some(if function == 2 { ValueKind::Text(0) } else { ValueKind::Unsigned(8) }),
            is_mark: function == 3,
            // Of all calls of the first, of slow ones of the second.
            stack_ns: [Some(0), Some(5 * MS), None][function as usize - 1],
            ..FunctionFacts::default()
        })
    })
}

fn pipeline(metrics: &Metrics) -> Pipeline {
    Pipeline::new(PipelineConfig::default(), metrics.clone(), Box::new(NullVerdicts))
}

/// What comes of the events; behind those at `cuts` the pipeline is saved and restored. Checks the account at every instant.
fn through(events: &[Event], cuts: &[usize]) -> (Vec<Transaction>, Metrics) {
    let metrics = Metrics::default();
    let mut pipeline = self::pipeline(&metrics);
    let mut out = Vec::new();
    for (i, event) in events.iter().enumerate() {
        pipeline.push(event);
        if cuts.contains(&i) {
            let saved = pipeline.checkpoint();
            let config = PipelineConfig::default();
            pipeline = Pipeline::restore(&saved, config, metrics.clone(), Box::new(NullVerdicts)).unwrap();
        }
        out.extend(pipeline.drain().transactions);
        let snapshot = pipeline.snapshot();
        assert_eq!(
            metrics.get(Counter::FunctionCalls),
            out.len() as u64 + snapshot.n_open + snapshot.n_waiting,
            "functions.calls = transactions + open, at every instant"
        );
        assert!(snapshot.open.iter().all(|one| one.kind == Kind::Function && !one.path.is_empty()));
    }
    out.extend(pipeline.finish().transactions);
    assert_eq!(metrics.get(Counter::FunctionCalls), out.len() as u64);
    let n_told = events.iter().filter(|event| matches!(event, Event::Stack(_))).count() as u64;
    let (used, unused) = (Counter::FunctionStacks, Counter::FunctionStackUnused);
    assert_eq!(metrics.get(used) + metrics.get(unused), n_told, "stacks told = those of calls + unused");
    let with = out.iter().filter(|one| one.call.as_ref().unwrap().stack.is_some()).count() as u64;
    assert_eq!(metrics.get(used), with);
    let wanted = |one: &&Transaction| match &*one.operation {
        "f1" => true,
        "f2" => one.end == End::Answered && one.duration_ns.cast_unsigned() >= 5 * MS,
        _ => false,
    };
    let n_wanted = out.iter().filter(wanted).count() as u64;
    assert_eq!(metrics.get(Counter::FunctionStackMissing), n_wanted - with, "wanted = with + missing");
    (out, metrics)
}

/// Threads that call, return, throw and lose records.
fn anything() -> impl Strategy<Value = Vec<Event>> {
    let step = (0..12_u32, 0..4_u32, 1..=N_FUNCTIONS, 1..30_u64);
    prop::collection::vec(step, 1..200).prop_map(|steps| {
        let mut stacks = vec![(0_u64, Vec::<(u32, u64)>::new()); 4];
        let mut now = 1_000 * MS;
        let mut events: Vec<Event> = facts().collect();
        for (what, thread, function, wait) in steps {
            now += wait * wait * MS / 4;
            let time = BootTime(now);
            let (number, stack) = &mut stacks[thread as usize];
            let (pid, tid) = (10 + thread / 2, 100 + thread);
            // The last two are goroutines on any thread.
            let goroutine = if thread >= 2 { 0xc000_0000 + u64::from(thread) } else { 0 };
            *number += 1;
            let frame = stack.last().map_or(1 << 30, |(_, frame)| frame - 64);
            let enter = FunctionEnter {
                time,
                number: *number,
                stack: frame,
                goroutine,
                registers: [now, 1, 2, 3, 4, 5, 6, 7],
                texts: vec![(wait % 3 != 0).then(|| Bytes::from(format!("t{wait}")))],
                function,
                pid,
                tid,
                ..FunctionEnter::default()
            };
            let told = Event::Stack(Stack {
                time,
                number: *number,
                pid,
                tid,
                frames: format!("[\"f{number}\"]").into(),
                end: StackEnd::Complete,
                ..Stack::default()
            });
            let is_told = what < 9 && wait % 2 == 0;
            events.extend(is_told.then_some(told));
            match what {
                0..5 => {
                    events.push(Event::FunctionEnter(enter));
                    if function != 3 {
                        stack.push((function, frame));
                    }
                }
                5..9 => match stack.pop() {
                    Some((function, frame)) => events.push(Event::FunctionReturn(FunctionReturn {
                        time,
                        number: *number,
                        stack: frame,
                        goroutine,
                        value: wait,
                        text: (function == 2).then(|| Bytes::from_static(b"text")),
                        function,
                        pid,
                        tid,
                        flags: if wait == 7 { abi::FLAG_HANDS_OVER } else { 0 },
                    })),
                    None => *number -= 1,
                },
                9 => {
                    stack.truncate(stack.len() / 2);
                    *number -= 1;
                }
                // Lost: a return, or an entry.
                10 => {
                    stack.pop();
                }
                _ if wait == 3 => {
                    stacks.iter_mut().for_each(|(_, stack)| stack.clear());
                    stacks[thread as usize].0 -= 1;
                    for pid in [10, 11] {
                        events.push(Event::Process(Process {
                            time,
                            change: ProcessChange::Exit,
                            pid,
                            parent_pid: 1,
                            exit_code: 0,
                            comm: [0; 16],
                        }));
                    }
                }
                _ => {
                    *number -= 1;
                    events.push(Event::Tick(time));
                }
            }
        }
        events
    })
}

proptest! {
    #[test]
    fn whatever_is_called_and_lost_the_account_is_right_and_a_checkpoint_changes_nothing(
        events in anything(),
        cuts in prop::collection::vec(0..200_usize, 3),
    ) {
        let (whole, _) = through(&events, &[]);
        let (cut, _) = through(&events, &cuts);
        prop_assert_eq!(&cut, &whole);
        for one in &whole {
            let call = one.call.as_ref().unwrap();
            prop_assert!(call.self_ns <= one.duration_ns.cast_unsigned());
            prop_assert!(one.end == End::Answered || call.returned.is_none());
            // Its own: of its entry, or of its return.
            let own = call.stack.as_ref().map(|stack| stack.frames.trim_matches(['[', ']', '"', 'f']).parse::<u64>());
            prop_assert!(own.is_none_or(|own| own.is_ok_and(|own| own >= one.ordinal)));
        }
    }
}

#[test]
fn what_could_not_be_read_is_null_and_no_number() {
    let enter = |unread| FunctionEnter {
        time: BootTime(1_000 * MS),
        number: 1,
        stack: 64,
        registers: [0; 8],
        unread,
        function: 2,
        pid: 5,
        tid: 6,
        ..FunctionEnter::default()
    };
    for (unread, expected) in
        [(0, serde_json::json!(0)), (1, serde_json::Value::Null), (2, serde_json::json!(0))]
    {
        let events: Vec<Event> = facts().chain([Event::FunctionEnter(enter(unread))]).collect();
        let (rows, _) = through(&events, &[]);
        let call = rows[0].call.as_ref().expect("a call");
        let arguments: serde_json::Value = serde_json::from_str(&call.arguments).unwrap();
        assert_eq!(arguments[0], expected, "{unread:b}");
    }
}

#[test]
fn values_are_printed_as_they_were_asked_for() {
    let enter = FunctionEnter {
        time: BootTime(1_000 * MS),
        number: 1,
        stack: 64,
        registers: [u64::MAX, 1, 2, 3, 4, 5, 6, 7],
        texts: vec![Some(Bytes::from_static(b"a\x1b\xff"))],
        function: 2,
        pid: 5,
        tid: 6,
        comm: *b"app\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ..FunctionEnter::default()
    };
    let leave = FunctionReturn {
        time: BootTime(1_003 * MS),
        number: 2,
        stack: 64,
        text: None,
        function: 2,
        pid: 5,
        tid: 6,
        ..FunctionReturn::default()
    };
    let events: Vec<Event> =
        facts().chain([Event::FunctionEnter(enter), Event::FunctionReturn(leave)]).collect();
    let (rows, _) = through(&events, &[]);
    let [row] = &rows[..] else { panic!("{rows:?}") };
    let mut line = Vec::new();
    tracer_user::sink::jsonl::write_transaction(&mut line, row);
    let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(value["arguments"], serde_json::json!([-1, "a\u{1b}\\xff"]));
    assert!(!line.contains(&0x1b), "no control character leaves as it is");
    assert_eq!((&value["return"], &value["protocol"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert_eq!((&value["operation"], &value["function"]), (&"f2".into(), &"/bin/app:f2".into()));
    assert_eq!((&value["kind"], &value["end"]), (&"function".into(), &"answered".into()));
    assert_eq!((&value["duration_ns"], &value["self_ns"]), (&3_000_000.into(), &3_000_000.into()));
    assert_eq!(&value["id"], &"8000000500000006-1");
}

#[test]
fn a_function_of_which_nothing_is_known_is_counted() {
    let enter = FunctionEnter { time: BootTime(9), number: 1, function: 9, ..FunctionEnter::default() };
    let (rows, metrics) = through(&[Event::FunctionEnter(enter)], &[]);
    assert_eq!((rows.len(), metrics.get(Counter::FunctionUnknown)), (0, 1));
}
