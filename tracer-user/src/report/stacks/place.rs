//! Where one request spent its time, in one frame.

use std::collections::BTreeMap;

use super::frame::{FrameKind, Function};
use crate::transaction::stacks::{StackPart, StackSum};

/// A frame, and the time that was met there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The function.
    pub function: Function,
    /// Time of the stacks that are told by it, ns.
    pub ns: u64,
    /// Time of all stacks of the part, ns.
    pub of_ns: u64,
}

/// The frame by which the waits of a part are told, of the longest.
///
/// It is the innermost function of the program that is not [`Function::is_internal`]: not the C library, an interpreter, or a language's own runtime.
/// A stack without such a one is told by its innermost function that is not the C library's, then by its innermost of the program, then by its
/// innermost.
pub fn waited_at(stacks: &[StackSum], part: StackPart) -> Option<Place> {
    longest(stacks, part, |functions| {
        let program = || functions.iter().filter(|function| function.kind == FrameKind::Program);
        program()
            .find(|function| !function.is_internal())
            .or_else(|| program().find(|function| !function.is_c_library()))
            .or_else(|| program().next())
            .or_else(|| functions.first())
    })
}

/// The function in which most of the time on a CPU was met: the innermost, whoever's it is.
pub fn hottest(stacks: &[StackSum]) -> Option<Place> {
    longest(stacks, StackPart::OnCpu, |functions| functions.first())
}

fn longest(
    stacks: &[StackSum],
    part: StackPart,
    told_by: impl Fn(&[Function]) -> Option<&Function>,
) -> Option<Place> {
    let mut sums: BTreeMap<Function, u64> = BTreeMap::new();
    let mut of_ns = 0_u64;
    for stack in stacks.iter().filter(|stack| stack.part == part) {
        of_ns = of_ns.saturating_add(stack.ns);
        let functions: Vec<Function> = stack.frames().iter().map(|frame| Function::of_frame(frame)).collect();
        if let Some(function) = told_by(&functions) {
            let sum = sums.entry(function.clone()).or_default();
            *sum = sum.saturating_add(stack.ns);
        }
    }
    // Of equal ones the first by name.
    let (function, ns) = sums.into_iter().reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    Some(Place { function, ns, of_ns })
}
