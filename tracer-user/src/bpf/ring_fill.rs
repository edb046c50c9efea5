//! How full the ring is: the two positions that kernel and reader keep in its first pages (`kernel/bpf/ringbuf.c`).

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
    sync::atomic::{AtomicUsize, Ordering},
};

/// A look at the ring's positions, and the most that was seen between two readings.
pub struct RingFill {
    /// Two pages: what is read up to, and what is written up to.
    pages: *mut libc::c_void,
    page: usize,
    most: u64,
}

// SAFETY: the pages belong to this value alone and are only read.
unsafe impl Send for RingFill {}

impl RingFill {
    /// Of the ring with this descriptor.
    pub fn new(ring: BorrowedFd<'_>) -> io::Result<RingFill> {
        // SAFETY: no pointers; the page size always exists.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address that the kernel chooses, unmapped by `drop`.
        let pages = unsafe {
            libc::mmap(ptr::null_mut(), 2 * page, libc::PROT_READ, libc::MAP_SHARED, ring.as_raw_fd(), 0)
        };
        if pages == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(RingFill { pages, page, most: 0 })
    }

    fn position(&self, page: usize) -> usize {
        // SAFETY: both pages are mapped and begin with an `unsigned long` that others may write at any time.
        unsafe { (*self.pages.byte_add(page * self.page).cast::<AtomicUsize>()).load(Ordering::Relaxed) }
    }

    /// Bytes in the ring now: written or being written, and not yet read. For the thread that reads the ring: nobody else moves
    /// what is read up to.
    pub fn used(&mut self) -> u64 {
        // They count on beyond the ring's size and wrap with the word.
        let used = self.position(1).wrapping_sub(self.position(0)) as u64;
        self.most = self.most.max(used);
        used
    }

    /// The most that [`RingFill::used`] gave since the last call.
    pub fn most(&mut self) -> u64 {
        std::mem::take(&mut self.most)
    }
}

impl Drop for RingFill {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, and nothing borrows from it.
        unsafe { libc::munmap(self.pages, 2 * self.page) };
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write as _, os::fd::AsFd as _};

    use super::*;

    #[test]
    fn what_is_used_is_what_is_written_and_not_read_and_the_most_is_told_once() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        // SAFETY: no pointers.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let put = |read: usize, written: usize| {
            let mut bytes = vec![0; 2 * page];
            bytes[..8].copy_from_slice(&read.to_ne_bytes());
            bytes[page..page + 8].copy_from_slice(&written.to_ne_bytes());
            let mut file = File::options().write(true).open(&path).unwrap();
            file.write_all(&bytes).unwrap();
        };
        put(0, 0);
        let mut fill = RingFill::new(File::open(&path).unwrap().as_fd()).unwrap();
        assert_eq!((fill.used(), fill.most()), (0, 0));
        put(100, 4_196);
        assert_eq!(fill.used(), 4_096);
        put(usize::MAX - 7, 8);
        assert_eq!(fill.used(), 16);
        assert_eq!((fill.most(), fill.most()), (4_096, 0));
    }
}
