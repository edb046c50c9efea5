//! The binary `txray`: parse, dispatch, exit code.

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;
use tracer_user::cli;
/// Heap that glibc keeps instead of giving it back to the kernel, bytes.
const KEPT_BYTES: libc::c_int = 256 << 20;
/// Largest allocation that comes from the heap instead of from a mapping of its own, bytes.
const LARGEST_FROM_HEAP: libc::c_int = 32 << 20;

fn main() -> ExitCode {
    keep_memory();
    let cli = cli::Cli::parse();
    match cli::run(cli) {
        Ok(code) => code.into(),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if standard error is closed too.
            let _ = std::io::stderr().write_all(cli::failure_lines(&error).as_bytes());
            cli::ExitCode::Error.into()
        }
    }
}

/// Buffers of rows and batches are freed and allocated again all the time: pages that go back to the kernel in between are faults later. (A
/// replay of 374,000 events took 0.44 to 0.53 s of user time and 10,700 page faults with this, 0.58 to 0.62 s and 21,000 to 26,500
/// without. The price: 117 instead of 106 MB resident in a live run at saturation.)
fn keep_memory() {
    // SAFETY: no other thread exists yet. A refusal (0) changes nothing.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_FROM_HEAP);
    }
}

/// Whether standard output was closed by its reader (`txray … | head`): that ends a run quietly.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
