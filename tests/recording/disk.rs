//! A full disk: capture goes on, the loss is counted, and recorded when there is room again.

use std::{ffi::CString, os::unix::ffi::OsStrExt as _};

use super::*;

/// A file system of its own of a few pages, in a mount namespace of this thread's own: gone with the thread.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(size: &str) -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        let target = CString::new(dir.path().as_os_str().as_bytes()).unwrap();
        let options = CString::new(format!("size={size},mode=0755")).unwrap();
        // SAFETY: all strings end in a zero.
        let mounted = unsafe {
            libc::mount(c"tmpfs".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, options.as_ptr().cast())
        };
        assert_eq!(mounted, 0, "this test needs root: {}", std::io::Error::last_os_error());
        SmallDisk { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let target = CString::new(self.dir.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: the string ends in a zero.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

#[test]
fn a_full_disk_costs_what_does_not_fit_and_no_more() {
    let disk = SmallDisk::mount("4m");
    let ballast = disk.path().join("ballast");
    let out = disk.path().join("out");
    let metrics = Metrics::default();
    let config = RecordingConfig { rotate_rows: 2_000, ..config(&out) };
    let mut recorder = Recorder::start(config, metrics.clone()).unwrap();
    let mut record = |range: std::ops::Range<u64>| {
        for first in range.step_by(100) {
            if recorder.wants_checkpoint() {
                recorder.checkpoint(state(first), first);
            }
            tap_and_wait(&mut recorder, batch(first..first + 100, 1_000_000));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    record(0..4_000);
    assert_eq!(metrics.get(Counter::RecorderWrite), 0);
    // Now another one fills the disk to its last byte.
    let filled = std::fs::write(&ballast, vec![0; 8 << 20]);
    assert!(filled.is_err(), "the disk is not full");
    record(4_000..12_000);
    let lost = metrics.get(Counter::RecorderWrite);
    assert!(lost > 0, "nothing was lost: the test shows nothing");
    std::fs::remove_file(&ballast).unwrap();
    record(12_000..16_000);
    let summary = recorder.finish().unwrap();

    assert_eq!(metrics.get(Counter::RecorderWrite), summary.n_lost);
    assert_eq!(summary.n_events + summary.n_lost, 16_000);
    assert_eq!(summary.n_unsealed, 0, "what could not be sealed then is sealed now");
    let replayed = all(&out);
    assert_accounted(&replayed, 16_000, 1_000_000);
    assert_eq!(replayed.events.len() as u64, summary.n_events);
    assert!(replayed.losses.iter().all(|(.., reason)| *reason == LossReason::Write), "{:?}", replayed.losses);
    assert!(replayed.restarts.len() >= 2, "behind the hole it goes on from a checkpoint");
    assert!(replayed.faults.is_empty());
}

#[test]
fn a_disk_that_stays_full_leaves_a_recording_that_opens() {
    let disk = SmallDisk::mount("1m");
    let out = disk.path().join("out");
    let (summary, metrics) = record(config(&out), 60_000, 1_000_000);
    assert!(summary.n_lost > 0 && summary.n_events > 0, "{summary:?}");
    assert_eq!(metrics.get(Counter::RecorderWrite), summary.n_lost);
    let replayed = all(&out);
    assert_eq!(replayed.events.len() as u64, summary.n_events);
    assert_eq!(replayed.events[0].0, 0);
    assert!(replayed.faults.is_empty(), "{:?}", replayed.faults);
}
