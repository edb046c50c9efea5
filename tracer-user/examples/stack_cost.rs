//! What it takes to find the callers of a stack and their names once its code is known (`Resolver::resolve`), by depth: stacks of this program itself, found by the tables of
//! its code in a copy of its stack. Run it in release: `cargo run --release --example stack_cost [MILLISECONDS]`. A line of JSON for each depth.

use std::{
    arch::asm,
    fs::File,
    hint::black_box,
    os::unix::fs::FileExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use tracer_ebpf as abi;
use tracer_user::{
    event::{Stack, StackEnd},
    source::stacks::Resolver,
};

/// Calls from here to the innermost function.
const DEPTHS: [usize; 4] = [4, 12, 24, 44];
/// Stacks that are resolved between two looks at the clock.
const BATCH: usize = 100;

/// Calls itself so often, and takes the stack.
#[inline(never)]
fn deep(n: usize, memory: &File, stack: &mut Option<Stack>) {
    if n > 0 {
        deep(n - 1, memory, stack);
    } else {
        *stack = take(memory);
    }
    // What follows a call, so that it is none that is a jump.
    black_box(stack);
}

/// What the kernel tells of a thread that it has met here.
#[inline(never)]
fn take(memory: &File) -> Option<Stack> {
    let (place, top, frame): (u64, u64, u64);
    // SAFETY: reads three registers.
    unsafe {
        asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) place, out(reg) top, out(reg) frame, options(nomem, nostack));
    }
    let mut copy = vec![0; abi::STACK_BYTES];
    let n = memory.read_at(&mut copy, top).ok()?;
    copy.truncate(n);
    let pid = std::process::id();
    let end = StackEnd::Truncated;
    let (addresses, pointers, copy) = (vec![place], [top, frame], Bytes::from(copy));
    Some(Stack { pid, tid: pid, addresses, is_place: true, pointers, copy, end, ..Stack::default() })
}

/// How many frames it has, and what resolving it took again and again, ns.
fn measure(resolver: &mut Resolver, stack: &Stack, time: Duration) -> Result<(usize, Vec<f64>)> {
    // Files of code are read by a thread of their own.
    let began = Instant::now();
    let known = loop {
        let mut known = stack.clone();
        resolver.resolve(&mut known);
        if known.end == StackEnd::Complete {
            break known;
        }
        ensure!(began.elapsed() < Duration::from_secs(60), "it ends {:?}: {}", known.end, known.frames);
        thread::sleep(Duration::from_millis(20));
    };
    let frames: Vec<String> = serde_json::from_str(&known.frames)?;
    let mut costs = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let mut stacks: Vec<Stack> = (0..BATCH).map(|_| stack.clone()).collect();
        let at = Instant::now();
        stacks.iter_mut().for_each(|stack| resolver.resolve(black_box(stack)));
        costs.push(at.elapsed().as_nanos() as f64 / BATCH as f64);
    }
    costs.sort_by(f64::total_cmp);
    Ok((frames.len(), costs))
}

fn main() -> Result<()> {
    let time = std::env::args().nth(1).map_or(Ok(500), |text| text.parse())?;
    let memory = File::open("/proc/self/mem")?;
    let mut resolver = Resolver::new(Path::new("/proc"), false);
    for depth in DEPTHS {
        let mut stack = None;
        deep(depth, &memory, &mut stack);
        let stack = stack.context("the stack was not read")?;
        let (frames, costs) = measure(&mut resolver, &stack, Duration::from_millis(time))?;
        let [ns, p99] = [50, 99].map(|percent| costs[(costs.len() - 1) * percent / 100]);
        println!(
            "{{\"frames\":{frames},\"ns\":{ns:.1},\"p99_ns\":{p99:.1},\"batches\":{},\"optimised\":{}}}",
            costs.len(),
            !cfg!(debug_assertions)
        );
    }
    Ok(())
}
