//! Functions that somebody asks for: which file, which places in it, how their ends are seen.
//!
//! The end of a function is seen by a return probe, which costs little, or by a probe at each place where it returns. Which of both is not a matter of
//! cost: a return probe replaces the return address on the stack. Exceptions and panics find their way by those addresses and end the program where they
//! meet one that they do not know; Go moves its stacks. So that code that may be unwound gets probes on its returns.

mod find;
mod spec;

use std::{fmt, path::PathBuf};

pub use self::{
    find::{find, is_shared, n_registers},
    spec::{Spec, Type, What},
};
use super::{placement::Site, usdt::Mark};

/// A function, or a place, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// A path by which its file can be opened from here.
    pub path: PathBuf,
    /// Whether many programs may run that file: a shared library.
    pub is_shared: bool,
    /// As its author wrote it.
    pub name: String,
    /// The file, and its name there.
    pub place: String,
    /// How it is called.
    pub language: Language,
    /// Where a probe sees it begin, its arguments in their registers and its return address on top of the stack; or the place.
    pub entry: Site,
    /// How its end is seen.
    pub end: End,
    /// Types of its arguments, as they were asked for.
    pub arguments: Vec<Type>,
    /// Type of what it returns.
    pub returned: Option<Type>,
    /// The mark's own description.
    pub mark: Option<Mark>,
}

impl Found {
    /// What a call costs more than with emulated places, if anything.
    pub fn is_single_stepped(&self) -> bool {
        use super::code::Step::SingleStepped;
        let at_end = match &self.end {
            End::Places { returns, tails } => {
                returns.iter().chain(tails).any(|site| site.step == SingleStepped)
            }
            End::ReturnProbe | End::None => false,
        };
        self.entry.step == SingleStepped || at_end
    }
}

/// How a function's end is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By a return probe at the place of the entry.
    ReturnProbe,
    /// By probes where it returns, and where it jumps to another function.
    Places {
        /// Returns.
        returns: Vec<Site>,
        /// Jumps out of it.
        tails: Vec<Site>,
    },
    /// It has none: a place that is passed.
    None,
}

/// Whose calling convention and texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// C, C++ and whatever follows them: texts end with a zero.
    C,
    /// The same registers; texts are an address and a length.
    Rust,
    /// Go's registers; texts are an address and a length.
    Go,
}

/// Why functions cannot be probed. Each says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionError {
    /// What is wrong.
    pub what: String,
    /// The way out.
    pub hint: String,
}

impl FunctionError {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> FunctionError {
        FunctionError { what: what.into(), hint: hint.into() }
    }
}

impl fmt::Display for FunctionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for FunctionError {}
