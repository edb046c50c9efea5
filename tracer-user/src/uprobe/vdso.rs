//! The code that the kernel maps into every process (vdso(7)): clocks are read there, and where there is no fast way, the kernel is called from there.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::OnceLock,
};

use super::{process::Process, resolve::Code};

/// Its name in maps.
pub const NAME: &str = "[vdso]";
/// Bytes of it that are read: it is two or three pages.
const MAX_BYTES: usize = 64 << 10;

/// What is known of it. It is the same in all processes of one kernel (of 64 bits), and read from this one's memory.
pub fn code() -> Option<&'static Code> {
    static CODE: OnceLock<Option<Code>> = OnceLock::new();
    CODE.get_or_init(|| Code::read(&copy().ok()?, Path::new(NAME)).ok()).as_ref()
}

/// A file with what it holds.
fn copy() -> io::Result<File> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let own = Process::read(Path::new("/proc"), std::process::id()).map_err(|_| gone())?;
    let (range, _) = own.others.iter().find(|(_, name)| name == NAME).ok_or_else(gone)?;
    let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(|_| gone())?.min(MAX_BYTES)];
    File::open("/proc/self/mem")?.read_exact_at(&mut bytes, range.start)?;
    let mut file = tempfile::tempfile()?;
    file.write_all(&bytes)?;
    file.rewind()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_functions_have_names_and_say_how_they_find_their_callers() {
        let code = code().unwrap();
        let address = code.named("__vdso_clock_gettime").unwrap();
        assert_eq!(code.text(address, address), "__vdso_clock_gettime+0x0 ([vdso])");
        assert_ne!(code.caller(address), crate::uprobe::unwind::Caller::Unknown);
    }
}
