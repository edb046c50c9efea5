//! What a frame of a stack says: a function, its file, and whether it is the kernel's.

use std::{borrow::Cow, sync::Arc};

use crate::text::screen_text;

/// What a node of a tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameKind {
    /// A function of a program, or of a library.
    Program,
    /// One of the kernel.
    Kernel,
    /// No function: in which part of the time the stacks below it were met.
    Part,
    /// No function: why the callers, or the stack itself, are not known.
    Mark,
}

impl FrameKind {
    /// The text in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            FrameKind::Program => "program",
            FrameKind::Kernel => "kernel",
            FrameKind::Part => "part",
            FrameKind::Mark => "mark",
        }
    }
}

/// A function, wherever in it it was met.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function {
    /// Its name, safe to show; the address where none is known.
    pub name: Arc<str>,
    /// The file that holds it, safe to show; empty where that is not known, and of what is no function.
    pub file: Arc<str>,
    /// What it is.
    pub kind: FrameKind,
}

impl Function {
    /// Reads a frame as the source writes it: `name+0x12 (file)`, `name+0x12 (kernel)`, `+0x1234 (file)`, `0x1234`.
    pub fn of_frame(text: &str) -> Function {
        let (place, file) = split_file(text);
        let name = without_offset(place);
        let kind = match file {
            "kernel" => FrameKind::Kernel,
            file if file.starts_with("kernel ") => FrameKind::Kernel,
            _ => FrameKind::Program,
        };
        Function { name: screen_text(name).into(), file: screen_text(file).into(), kind }
    }

    /// What is no function.
    pub fn other(name: &str, kind: FrameKind) -> Function {
        Function { name: name.into(), file: "".into(), kind }
    }

    /// As people read it: `name (file)`.
    pub fn label(&self) -> Cow<'_, str> {
        if self.file.is_empty() {
            Cow::Borrowed(&self.name)
        } else {
            Cow::Owned(format!("{} ({})", self.name, self.file))
        }
    }

    /// As flame graphs name it: functions of the kernel end with `_[k]`, and where only a place is known its file is named.
    pub fn short(&self) -> String {
        match self.kind {
            FrameKind::Kernel => format!("{}_[k]", self.name),
            FrameKind::Program if self.is_place() && !self.file.is_empty() => {
                format!("{}{}{}", self.file, if self.name.starts_with('+') { "" } else { " " }, self.name)
            }
            _ => self.name.to_string(),
        }
    }

    /// Its function is not known: only where it is.
    pub fn is_place(&self) -> bool {
        self.kind == FrameKind::Program && (self.name.starts_with("+0x") || self.name.starts_with("0x"))
    }

    /// It belongs to what every program stands on, and says nothing about what it was doing: the C library with its threads and loader, what the
    /// kernel maps into each process, the interpreter of a language, or the runtime and standard library of Go, Rust and C++ within the program.
    pub fn is_internal(&self) -> bool {
        self.is_c_library() || self.is_interpreter() || self.is_runtime()
    }

    /// The C library with its threads and loader, and what the kernel maps into each process.
    pub fn is_c_library(&self) -> bool {
        let is_library = |name: &str| {
            let rest = self.file.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['.', '-', '_']))
        };
        ["libc", "libpthread", "ld-linux", "ld-musl", "ld", "librt"].into_iter().any(is_library)
            || &*self.file == "[vdso]"
    }

    fn is_interpreter(&self) -> bool {
        const LIBRARIES: [&str; 9] =
            ["libpython", "libruby", "libperl", "libphp", "libjvm", "libnode", "libv8", "libmono", "liblua"];
        // `python3.11`, `php8.2`: the version is part of the name.
        let program = self.file.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
        // Python's standard library, by its folder, and what of it is within the interpreter.
        let is_library = |(version, _): (&str, &str)| version.bytes().all(|byte| byte.is_ascii_digit());
        self.file.strip_prefix("python3.").and_then(|rest| rest.split_once('/')).is_some_and(is_library)
            || self.file.starts_with("<frozen ")
            || LIBRARIES.into_iter().any(|name| self.file.starts_with(name))
            || ["python", "ruby", "perl", "php", "php-fpm", "node", "nodejs", "lua", "luajit", "java"]
                .contains(&program)
    }

    fn is_runtime(&self) -> bool {
        const NAMES: [&str; 11] = [
            "runtime.",
            "runtime/",
            "internal/",
            "sync.",
            "sync/",
            "syscall.",
            "std::",
            "core::",
            "alloc::",
            "__gnu_cxx::",
            "__gthread_",
        ];
        let name = self.name.trim_start_matches('<');
        NAMES.into_iter().any(|prefix| name.starts_with(prefix))
            || self.file.starts_with("libstdc++")
            || self.file.starts_with("libgcc_s")
    }
}

/// The place, and the file behind it in brackets, which may hold brackets of its own.
fn split_file(text: &str) -> (&str, &str) {
    let Some(inner) = text.strip_suffix(')') else { return (text, "") };
    let mut depth = 1;
    for (at, c) in inner.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return match inner[..at].strip_suffix(' ') {
                Some(place) if !place.is_empty() => (place, &inner[at + 1..]),
                _ => (text, ""),
            };
        }
    }
    (text, "")
}

/// `name` of `name+0x12`; a place without a name stays what it is: two of them may be of two functions.
fn without_offset(place: &str) -> &str {
    match place.rsplit_once("+0x") {
        Some((name, offset))
            if !name.is_empty() && !offset.is_empty() && offset.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            name
        }
        _ => place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_function_in_a_file_wherever_in_it_it_was_met() {
        use FrameKind::{Kernel, Program};
        for (text, name, file, kind, short) in [
            ("handle+0x12 (shop)", "handle", "shop", Program, "handle"),
            ("handle+0x0 (shop)", "handle", "shop", Program, "handle"),
            ("futex_wait+0x7a (kernel)", "futex_wait", "kernel", Kernel, "futex_wait_[k]"),
            (
                "nft_do_chain+0x1 (kernel nf_tables)",
                "nft_do_chain",
                "kernel nf_tables",
                Kernel,
                "nft_do_chain_[k]",
            ),
            ("0xffffffff81000000 (kernel)", "0xffffffff81000000", "kernel", Kernel, "0xffffffff81000000_[k]"),
            (
                "f(int, (anonymous)::x)+0x1f (a.so (deleted))",
                "f(int, (anonymous)::x)",
                "a.so (deleted)",
                Program,
                "f(int, (anonymous)::x)",
            ),
            ("+0x1234 (libx.so)", "+0x1234", "libx.so", Program, "libx.so+0x1234"),
            ("0x7f00 ([anon])", "0x7f00", "[anon]", Program, "[anon] 0x7f00"),
            ("0x7f00", "0x7f00", "", Program, "0x7f00"),
            ("operator+0x (x)", "operator+0x", "x", Program, "operator+0x"),
            ("(shop)", "(shop)", "", Program, "(shop)"),
            ("odd)", "odd)", "", Program, "odd)"),
            ("", "", "", Program, ""),
            ("a\u{1b}[2J+0x1 (b\n)", "a\\u{1b}[2J", "b\\n", Program, "a\\u{1b}[2J"),
        ] {
            let function = Function::of_frame(text);
            assert_eq!((&*function.name, &*function.file, function.kind), (name, file, kind), "{text}");
            assert_eq!(function.short(), short);
        }
    }

    #[test]
    fn what_every_program_stands_on_is_internal() {
        for (frame, internal) in [
            ("pthread_cond_wait+0x1 (libc.so.6)", true),
            ("epoll_wait+0x1 (libc-2.31.so)", true),
            ("read+0x1 (ld-musl-x86_64.so.1)", true),
            ("clock_gettime+0x1 ([vdso])", true),
            ("_PyEval_EvalFrameDefault+0x1 (python3.11)", true),
            ("PyThread_acquire_lock+0x1 (libpython3.12.so.1.0)", true),
            ("runtime.gopark+0x1 (server)", true),
            ("sync.(*Mutex).Lock+0x1 (server)", true),
            ("std::sys::sync::futex::wait+0x1 (server)", true),
            ("<core::option::Option<T> as x>::y+0x1 (server)", true),
            ("main.handle+0x1 (server)", false),
            ("shop::cart::lock+0x1 (server)", false),
            ("PQexec+0x1 (libpq.so.5)", false),
            ("curl_easy_perform+0x1 (libcurl.so.4)", false),
            ("f+0x1 (pythonic)", false),
            ("Event.wait (python3.11/threading.py)", true),
            ("_find_and_load (<frozen importlib._bootstrap>)", true),
            ("Handler.do_GET (shop.py)", false),
            ("BaseHandler.get_response (django/core/handlers/base.py)", false),
            ("SSL_read+0x1 (libssl.so.3)", false),
        ] {
            assert_eq!(Function::of_frame(frame).is_internal(), internal, "{frame}");
        }
    }
}
