//! Who called: the frames that are told of a call against those that the program wrote down itself.

use std::{collections::BTreeMap, path::Path};

use rstest::rstest;
use tempfile::TempDir;
use tracer_user::{
    event::Event,
    metrics::Metrics,
    source::{Source as _, recording::Recording, replay::ReplaySource},
    time::WallTime,
    transaction::WallRange,
    uprobe::functions::{Spec, find},
};

use super::{
    super::{
        Hooks, machine, tool,
        tracer::{Capture, Tracer, Transaction},
        txray_program,
    },
    Program, calls, check_replay, compiled_with,
};

/// Frames that are told of a call at most.
const MAX_FRAMES: usize = 64;
/// Slow calls sleep 250 ms; the others return at once.
const SLOW: &str = "--stack=200ms";
const FRAME_POINTERS: &str = "-fno-omit-frame-pointer";
const NONE: &str = "-fomit-frame-pointer";

/// What a program wrote down of one call: `N|WHERE IN ITS CALLER|CALLERS`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Truth {
    place: String,
    callers: Vec<String>,
}

fn truths(lines: &[String]) -> BTreeMap<i64, Truth> {
    let truth = |line: &String| {
        let [n, place, callers] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let callers = callers.split(';').map(str::to_owned).collect();
        (n.parse().unwrap(), Truth { place: place.to_owned(), callers })
    };
    let all: BTreeMap<i64, Truth> = lines.iter().map(truth).collect();
    assert_eq!(all.len(), lines.len(), "each call has a number of its own");
    all
}

/// Function, place in it and file of a frame.
fn parts(frame: &str) -> (&str, &str, &str) {
    let (rest, file) = frame.rsplit_once(" (").unwrap_or_else(|| panic!("{frame}"));
    let (function, place) = rest.rsplit_once('+').unwrap_or((rest, ""));
    (function, place, file.trim_end_matches(')'))
}

/// Functions, without a mark of the compiler's for parts that it moved away.
fn names(stack: &[String]) -> Vec<String> {
    stack.iter().map(|frame| parts(frame).0.trim_end_matches(" [clone .cold]").to_owned()).collect()
}

/// The number that a call was given.
fn number(one: &Transaction) -> i64 {
    one.arguments.as_ref().unwrap()[0].as_i64().unwrap()
}

fn of<'a>(capture: &'a Capture, operation: &str) -> Vec<&'a Transaction> {
    calls(capture).into_iter().filter(|one| one.operation == operation).collect()
}

/// Traces one round of a program; gives what it wrote down.
#[track_caller]
fn trace(program: &mut Program, functions: &[&str], stack: &str) -> (Capture, BTreeMap<i64, Truth>) {
    // Where in its caller a call is made a program can say only while nobody has replaced its return address.
    let mut truth = truths(&program.works());
    let mut flags = program.flags(functions);
    flags.push(stack.to_owned());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let tracer = Tracer::start_with(Hooks::Socket, &[program.pid()], &flags);
    let again = truths(&program.works());
    let capture = tracer.stop();
    for (n, truth) in &mut truth {
        assert_eq!(truth.callers, again[n].callers);
    }
    // Untraced it does what it did.
    program.works();
    (capture, truth)
}

/// All calls of `operation` are told; those that are slow, or all, have a stack.
#[track_caller]
fn stacks(
    capture: &Capture,
    truth: &BTreeMap<i64, Truth>,
    operation: &str,
    all: bool,
) -> Vec<(Truth, Vec<String>, String)> {
    let told = of(capture, operation);
    assert_eq!(told.len(), truth.len(), "{}", capture.stderr);
    let mut found = Vec::new();
    for one in told {
        let n = number(one);
        match (&one.stack, &one.stack_end) {
            (Some(frames), Some(end)) if all || n % 10 == 3 => {
                found.push((truth[&n].clone(), frames.clone(), end.clone()));
            }
            (None, None) if !all && n % 10 != 3 => {}
            // The kernel keeps 64 return probes of a thread: nobody sees it return.
            (None, None) if !all && one.end == "tracer_stopped" => {}
            other => panic!("{n}: {other:?}\n{}", capture.stderr),
        }
    }
    assert!(found.len() >= 3 && (all || found.len() < truth.len()));
    found
}

/// What the kernel counted until the end.
pub(in super::super) fn kernel(capture: &Capture) -> BTreeMap<String, u64> {
    let recording = Recording::open(&capture.recording()).unwrap();
    let whole = WallRange { from: WallTime(0), to: WallTime(u64::MAX) };
    let mut source = ReplaySource::open(&recording, whole, Metrics::default()).unwrap();
    let mut last = BTreeMap::new();
    while let Some(batch) = source.next_batch().unwrap() {
        for event in batch.events {
            if let Event::Counters(counters) = event {
                last = counters.values.iter().map(|(name, n)| (name.to_string(), *n)).collect();
            }
        }
    }
    last
}

#[track_caller]
fn check_nothing_is_lost(capture: &Capture) {
    let kernel = kernel(capture);
    for name in ["kernel.refused_stack", "kernel.function_stack_unknown", "kernel.refused_function"] {
        assert_eq!(kernel[name], 0, "{name}");
    }
}

/// From the outermost that the program knows of the C library's own go on, to where the thread begins.
#[track_caller]
fn check_c(truth: &Truth, frames: &[String], end: &str) {
    let n = truth.callers.len().min(MAX_FRAMES);
    assert_eq!(names(frames)[..n], truth.callers[..n], "{frames:?}");
    let (_, place, file) = parts(&frames[0]);
    assert_eq!((place, file), (truth.place.as_str(), "callers"), "{frames:?}");
    if truth.callers.len() >= MAX_FRAMES {
        assert_eq!((end, frames.len()), ("truncated", MAX_FRAMES), "{frames:?}");
        return;
    }
    assert_eq!(end, "complete", "{frames:?}");
    let is_main = truth.callers.last().unwrap() == "main";
    let (last, rest) = frames[n..].split_last().unwrap();
    assert!(rest.iter().all(|frame| parts(frame).2 == "libc.so.6"), "{frames:?}");
    let begins = if is_main { ("_start", "callers") } else { (parts(last).0, "libc.so.6") };
    assert_eq!((parts(last).0, parts(last).2), begins, "{frames:?}");
}

#[rstest]
fn callers_in_c_are_told_in_order_through_recursion_return_probes_and_threads(
    #[values(SLOW, "--stack=all")] stack: &str,
    #[values(false, true)] are_callers_probed: bool,
    #[values(FRAME_POINTERS, NONE)] flag: &str,
) {
    let _machine = machine();
    let mut program = Program::start_with("callers.c", &[flag]);
    let mut functions = vec!["work(int)->int"];
    if are_callers_probed {
        // The kernel replaces their return addresses, which are in the stacks of what they call.
        functions.extend(["inner(int)", "middle(int)", "outer(int)", "climb(int,int)", "jumps(int)"]);
    }
    let (capture, truth) = trace(&mut program, &functions, stack);
    for (truth, frames, end) in stacks(&capture, &truth, "work", stack != SLOW) {
        check_c(&truth, &frames, &end);
    }
    check_nothing_is_lost(&capture);
    check_replay(&capture);
    program.ends();
}

/// Without frame pointers and without tables nobody knows more than where the function itself returns to.
#[test]
fn where_nothing_says_how_code_finds_its_caller_one_is_told_and_that_no_more_is_known() {
    let _machine = machine();
    let flags = [NONE, "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    let mut program = Program::start_with("callers.c", &flags);
    let (capture, truth) = trace(&mut program, &["work(int)->int"], "--stack=all");
    for (truth, frames, end) in stacks(&capture, &truth, "work", true) {
        let (function, place, file) = parts(&frames[0]);
        assert_eq!((function, place, file), (truth.callers[0].as_str(), truth.place.as_str(), "callers"));
        assert_eq!((frames.len(), end.as_str()), (1, "unknown_caller"), "{frames:?}");
    }
    check_replay(&capture);
    program.ends();
}

#[test]
fn callers_in_a_stripped_program_are_told_by_their_places() {
    let _machine = machine();
    let folder = TempDir::new().unwrap();
    let whole = compiled_with("callers.c", folder.path(), &[FRAME_POINTERS]);
    let address = super::address_of(&whole, "work");
    let inner = u64::from_str_radix(&super::address_of(&whole, "inner")[2..], 16).unwrap();
    let path = folder.path().join("stripped");
    let mut strip = std::process::Command::new(tool("strip", "binutils"));
    assert!(strip.arg("-o").arg(&path).arg(&whole).status().unwrap().success());
    let mut program = Program::run(path);
    let (capture, truth) = trace(&mut program, &[&format!("{address}(int)->int")], SLOW);
    for (truth, frames, _) in stacks(&capture, &truth, &address, false) {
        let n = truth.callers.len().min(MAX_FRAMES);
        assert!(frames.len() >= n, "{frames:?}");
        assert!(frames[..n].iter().all(|frame| frame.starts_with('+') && frame.ends_with(" (stripped)")));
        if truth.callers[0] == "inner" {
            let offset = u64::from_str_radix(&truth.place[2..], 16).unwrap();
            assert_eq!(frames[0], format!("+{:#x} (stripped)", inner + offset));
        }
    }
    program.ends();
}

#[rstest]
fn callers_in_cpp_are_told_as_their_author_wrote_them(
    #[values(SLOW, "--stack=all")] stack: &str,
    #[values(FRAME_POINTERS, NONE)] flag: &str,
) {
    let _machine = machine();
    let mut program = Program::start_with("callers.cc", &[flag]);
    let (capture, truth) = trace(&mut program, &["shop::work(int)->int"], stack);
    // One is left by an exception: its stack is known if it was taken at its beginning.
    for (truth, frames, end) in stacks(&capture, &truth, "shop::work(int)", stack != SLOW) {
        assert_eq!(end, "complete");
        assert_eq!(names(&frames)[..truth.callers.len()], truth.callers, "{frames:?}");
    }
    check_nothing_is_lost(&capture);
    check_replay(&capture);
    program.ends();
}

#[rstest]
fn callers_in_rust_are_told_as_their_author_wrote_them(
    #[values(SLOW, "--stack=all")] stack: &str,
    #[values("yes", "no")] frame_pointers: &str,
) {
    let _machine = machine();
    let flag = format!("force-frame-pointers={frame_pointers}");
    let mut program = Program::start_with("callers.rs", &["-C", &flag]);
    let (capture, truth) = trace(&mut program, &["callers::work(i64)->i64"], stack);
    for (truth, frames, end) in stacks(&capture, &truth, "callers::work", stack != SLOW) {
        assert_eq!(end, "complete");
        assert_eq!(names(&frames)[..truth.callers.len()], truth.callers, "{frames:?}");
    }
    check_replay(&capture);
    program.ends();
}

/// The whole stack, as Go's runtime tells it.
#[rstest]
fn callers_in_go_are_told_as_the_runtime_tells_them(#[values(SLOW, "--stack=all")] stack: &str) {
    let _machine = machine();
    let mut program = Program::start("callers.go");
    let (capture, truth) = trace(&mut program, &["main.work(int)->int"], stack);
    for (truth, frames, end) in stacks(&capture, &truth, "main.work", stack != SLOW) {
        let n = truth.callers.len();
        assert_eq!(names(&frames), truth.callers[..n.min(MAX_FRAMES)], "{frames:?}");
        assert_eq!(end, if n > MAX_FRAMES { "truncated" } else { "complete" }, "{frames:?}");
    }
    check_nothing_is_lost(&capture);
    check_replay(&capture);
    program.ends();
}

#[test]
fn a_place_has_the_stack_at_the_place_itself_and_a_mark_has_none() {
    let _machine = machine();
    for flag in [FRAME_POINTERS, NONE] {
        let mut program = Program::start_with("callers.c", &[flag]);
        // Behind its first instruction, wherever that ends: before it has set up its frame.
        let text = format!("{}:inner+0x1", program.path.display());
        let offset = match find(&Spec::parse(&text, Path::exists).unwrap(), &[], 9, true) {
            Ok(_) => "+0x1".to_owned(),
            Err(error) => error.hint.rsplit(' ').next().unwrap().to_owned(),
        };
        let (capture, truth) = trace(&mut program, &[&format!("inner{offset}")], "--stack=all");
        let all = calls(&capture);
        let made = truth.values().filter(|one| one.callers[0] == "inner").count();
        assert_eq!(all.len(), made, "{}", capture.stderr);
        for one in all {
            let frames = one.stack.as_deref().unwrap();
            assert_eq!(frames[0], format!("inner{offset} (callers)"));
            assert!(["main", "middle"].contains(&names(frames)[1].as_str()), "{frames:?}");
            assert_eq!(one.stack_end.as_deref(), Some("complete"), "{frames:?}");
        }
        program.ends();
    }
    let mut program = Program::start("marks.c");
    let mut flags = program.flags(&["usdt:shop:sold(int,str,int)"]);
    flags.push("--stack=all".to_owned());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let tracer = Tracer::start_with(Hooks::Socket, &[program.pid()], &flags);
    program.works();
    let capture = tracer.stop();
    assert!(!calls(&capture).is_empty() && calls(&capture).iter().all(|one| one.stack.is_none()));
    program.ends();
}

#[test]
fn stacks_for_which_the_ring_has_no_room_are_counted_and_their_calls_have_none() {
    let _machine = machine();
    let mut program = Program::start_with("hot.c", &[FRAME_POINTERS]);
    let function = format!("{}:next(int)->int", program.path.display());
    let flags = ["--uprobe", &function, "--stack=all", "--ring-size", "64K", "--queue-batches", "2"];
    let tracer = Tracer::start_with(Hooks::Socket, &[program.pid()], &flags);
    program.works();
    let capture = tracer.stop();
    let refused = capture.summary.lost["refused_stack"];
    assert!(refused > 0, "{:?}", capture.summary.lost);
    let all = calls(&capture);
    super::check_pairs(&all);
    let without = all.iter().filter(|one| one.stack.is_none()).count() as u64;
    let more = capture.summary.lost["batch_queue_full"];
    assert!(without <= refused + more && without < all.len() as u64, "{without} of {}", all.len());
    for one in all.iter().filter(|one| one.stack.is_some()) {
        assert_eq!(names(one.stack.as_deref().unwrap())[0], "main", "{one:?}");
    }
}

#[test]
fn a_stack_without_a_function_is_refused() {
    let flags = ["live", "--stack", "--duration", "1s", "--comm", "no-such-process"];
    let output = std::process::Command::new(txray_program()).args(flags).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--stack has no functions") && said.contains("--uprobe BINARY:SYMBOL"), "{said}");
    let output = std::process::Command::new(txray_program()).args(["live", "--stack=10"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("slow, all or a duration such as 10ms"), "{said}");
}
