//! Functions of a Python script in a call stack: they stand where the interpreter's own function stands that runs them.
//!
//! One call of `_PyEval_EvalFrameDefault` runs a function of the script and, from CPython 3.11 on, those that it calls; which of them is the first of a call its frame says. So each run of functions takes
//! the place of its call. That function of C says nothing more then, and is left out; where one stands nevertheless, what it ran is not known.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustc_hash::FxHashMap;

use crate::{
    event::{Stack, StackEnd},
    uprobe::python::Python,
};

/// The interpreter's function that runs functions of scripts.
const RUNS: &str = "_PyEval_EvalFrameDefault";
/// Functions of one process that are known; beyond it all are read anew.
const MAX_FUNCTIONS: usize = 16_384;

/// A function of a script, in a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    /// `Class.function (file)`.
    text: Arc<str>,
    /// It is the first that its function of C runs.
    is_first: bool,
}

/// What is known of the script of a process.
#[derive(Debug)]
pub struct Script {
    python: Arc<Python>,
    /// `/proc/PID/mem`, which is opened when something is to be read.
    memory: PathBuf,
    /// By code. `None`: nobody's.
    functions: FxHashMap<u64, Option<Arc<str>>>,
}

impl Script {
    /// Of a process, by `/proc/PID`.
    pub fn of(process: &Path, python: Arc<Python>) -> Script {
        Script { python, memory: process.join("mem"), functions: FxHashMap::default() }
    }

    /// Puts the functions of the script into the frames of a stack of which the kernel told them.
    pub fn join<F: AsRef<str> + From<Arc<str>>>(
        &mut self,
        stack: &Stack,
        end: StackEnd,
        frames: &mut Vec<F>,
    ) {
        let mut functions: Vec<Function> = Vec::new();
        let mut memory = None;
        for (code, is_first) in self.python.functions(&stack.python) {
            match self.text(code, &mut memory) {
                Some(text) => functions.push(Function { text, is_first }),
                // What runs stands below it all the same.
                None if is_first => {
                    functions.iter_mut().next_back().into_iter().for_each(|last| last.is_first = true)
                }
                None => {}
            }
        }
        let is_whole = stack.python_end == StackEnd::Complete;
        *frames = joined(std::mem::take(frames), end == StackEnd::Complete, &functions, is_whole);
    }

    /// `memory`: opened for this stack.
    fn text(&mut self, code: u64, memory: &mut Option<File>) -> Option<Arc<str>> {
        if let Some(known) = self.functions.get(&code) {
            return known.clone();
        }
        if memory.is_none() {
            *memory = File::open(&self.memory).ok();
        }
        let text = match memory.as_ref().and_then(|memory| self.python.name(memory, code)) {
            Some(name) if name.is_nobodys() => None,
            Some(name) => Some(name.frame().into()),
            // It has ended, or the function is gone: only where it was. Another may stand there soon.
            None => return Some(format!("{code:#x} ([python])").into()),
        };
        if self.functions.len() >= MAX_FUNCTIONS {
            self.functions.clear();
        }
        self.functions.insert(code, text.clone());
        text
    }
}

/// Whether a frame is the interpreter's function that runs functions of scripts.
pub fn runs_script(frame: &str) -> bool {
    // Compilers part functions: `.cold`, `.part.0`.
    frame.strip_prefix(RUNS).is_some_and(|rest| rest.starts_with(['+', '.', ' ']))
}

/// The frames of C and the functions of the script, the innermost first, as one stack. `c_is_whole` and `is_whole`: their outermost ones are known.
fn joined<F: AsRef<str> + From<Arc<str>>>(
    c: Vec<F>,
    c_is_whole: bool,
    script: &[Function],
    is_whole: bool,
) -> Vec<F> {
    if script.is_empty() {
        return c;
    }
    let n_calls = c.iter().filter(|frame| runs_script(frame.as_ref())).count();
    let runs: Vec<&[Function]> = script.split_inclusive(|function| function.is_first).collect();
    // From the innermost on they belong together, unless there is one too many of a kind within: of a call that is just beginning no function is known yet.
    let fits =
        n_calls == runs.len() || (n_calls < runs.len() && !c_is_whole) || (n_calls > runs.len() && !is_whole);
    let texts =
        |run: &[Function]| run.iter().map(|function| F::from(function.text.clone())).collect::<Vec<_>>();
    let mut all = Vec::with_capacity(c.len() + script.len());
    let mut left = if fits { runs } else { vec![script] }.into_iter();
    for frame in c {
        if !runs_script(frame.as_ref()) {
            all.push(frame);
            continue;
        }
        let run = left.next();
        all.extend(run.into_iter().flat_map(texts));
        // The first that it ran may not be known.
        let is_told = fits && run.is_some_and(|run| is_whole || run.last().is_some_and(|last| last.is_first));
        if !is_told {
            all.push(frame);
        }
    }
    all.extend(left.flat_map(texts));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of C by one letter each, `E` for the interpreter's function; of the script by name, with `!` for the first of its function of C.
    #[track_caller]
    fn check(c: &str, c_is_whole: bool, script: &str, is_whole: bool, all: &str) {
        let frame = |name: &str| match name {
            "E" => Arc::from(format!("{RUNS}+0x12 (python3.11)")),
            name => Arc::from(name),
        };
        let function =
            |name: &str| Function { text: name.trim_end_matches('!').into(), is_first: name.ends_with('!') };
        let script: Vec<Function> = script.split_whitespace().map(function).collect();
        let found = joined(c.split_whitespace().map(frame).collect(), c_is_whole, &script, is_whole);
        let found: Vec<&str> =
            found.iter().map(|frame| if runs_script(frame) { "E" } else { &**frame }).collect();
        assert_eq!(found.join(" "), all);
    }

    #[test]
    fn each_run_of_functions_stands_where_its_function_of_c_does() {
        check("a E b E c", true, "f g! h!", true, "a f g b h c");
        check("E", true, "f!", true, "f");
        check("a b", true, "", true, "a b");
        check("a E b", true, "", true, "a E b");
    }

    #[test]
    fn what_is_cut_off_outside_is_joined_from_inside() {
        // The stack of C: what it would hold stands behind it.
        check("a E b", false, "f g! h! i!", true, "a f g b h i");
        check("a b", false, "f!", true, "a b f");
        // The script's, between two functions of C, and within what one runs.
        check("a E b E c", true, "f g!", false, "a f g b E c");
        check("a E b E c E d", true, "f g! h", false, "a f g b h E c E d");
        check("a E b", true, "f g", false, "a f g E b");
        // Both.
        check("a E b", false, "f! g", false, "a f b g");
    }

    #[test]
    fn what_does_not_fit_stands_at_the_innermost_and_nothing_is_left_out() {
        // Of the innermost call no function is known yet.
        check("a E b E c", true, "f g!", true, "a f g E b E c");
        check("a E b", true, "f! g!", true, "a f g E b");
        check("a b", true, "f! g", true, "a b f g");
    }

    #[test]
    fn the_interpreters_function_is_known_in_parts_too() {
        for (frame, is_it) in [
            ("_PyEval_EvalFrameDefault+0x1 (python3.11)", true),
            ("_PyEval_EvalFrameDefault.cold+0x1 (python3.11)", true),
            ("_PyEval_EvalFrameDefault (libpython3.12.so.1.0)", true),
            ("_PyEval_EvalFrameDefaults+0x1 (a)", false),
            ("_PyEval_Vector+0x1 (python3.11)", false),
        ] {
            assert_eq!(runs_script(frame), is_it, "{frame}");
        }
    }
}
