//! Damaged files: a clear error that names the file, never a panic, and what was good is kept.

use super::*;

/// A recording of three parts, small ones.
fn recording() -> (tempfile::TempDir, Vec<PathBuf>) {
    let temp = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(
        RecordingConfig { rotate_rows: 30, flush_after: Duration::from_millis(1), ..config(temp.path()) },
        Metrics::default(),
    )
    .unwrap();
    for first in [0, 40, 80] {
        while !recorder.wants_checkpoint() {
            std::thread::sleep(Duration::from_millis(1));
        }
        recorder.checkpoint(state(first), first);
        recorder.tap(&batch(first..first + 40, 1_000_000));
    }
    recorder.finish().unwrap();
    let parts = files(temp.path(), ".parquet");
    assert_eq!(parts.len(), 3);
    (temp, parts)
}

/// The file cannot be read, and the error says which it is. (A replay of the whole takes longer: it is done for some.)
#[track_caller]
fn assert_named(part: &Path, why: &str) {
    let read = SealedFile::open(part).and_then(SealedFile::verify);
    let error = read.expect_err(why).to_string();
    assert!(error.starts_with(part.to_str().unwrap()), "{why}: {error}");
}

/// The middle part of three is not as it was: its events, all of them or some, are missing, and the rest is there.
#[track_caller]
fn assert_hole(dir: &Path, part: &Path, why: &str) {
    let replayed = all(dir);
    assert_accounted(&replayed, 120, 1_000_000);
    assert!(!replayed.losses.is_empty(), "{why}: not noticed");
    assert!(replayed.losses.iter().all(|(first, n, reason)| {
        *first >= 40 && first + n.unwrap() <= 80 && *reason == LossReason::Damaged
    }));
    assert_eq!(
        replayed.restarts.last().unwrap(),
        &(80, Bytes::from(state(80))),
        "{why}: goes on from the checkpoint"
    );
    let name = part.file_name().unwrap().to_str().unwrap();
    assert!(replayed.faults.iter().any(|fault| fault.contains(name)), "{why}: {:?}", replayed.faults);
}

#[test]
fn a_file_cut_at_any_length_is_named_and_the_rest_is_replayed() {
    let (temp, parts) = recording();
    let whole = std::fs::read(&parts[1]).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&parts[1], &whole[..length]).unwrap();
        assert_named(&parts[1], &format!("cut to {length} bytes"));
        if length.is_multiple_of(211) {
            assert_hole(temp.path(), &parts[1], &format!("cut to {length} bytes"));
        }
    }
    std::fs::write(&parts[1], &whole).unwrap();
    assert!(all(temp.path()).losses.is_empty());
}

#[test]
fn any_flipped_byte_is_noticed() {
    let (temp, parts) = recording();
    let whole = std::fs::read(&parts[1]).unwrap();
    for i in 0..whole.len() {
        let mut flipped = whole.clone();
        // One bit, a different one each time; and the whole byte.
        for mask in [1 << (i % 8), 0xff] {
            flipped[i] = whole[i] ^ mask;
            std::fs::write(&parts[1], &flipped).unwrap();
            assert_named(&parts[1], &format!("byte {i} ^ {mask:#x}"));
            if i.is_multiple_of(211) {
                assert_hole(temp.path(), &parts[1], &format!("byte {i} ^ {mask:#x}"));
            }
        }
    }
}

#[test]
fn a_missing_file_and_a_missing_end_are_holes() {
    let (temp, parts) = recording();
    std::fs::remove_file(&parts[1]).unwrap();
    let replayed = all(temp.path());
    assert_eq!(replayed.losses, [(40, Some(40), LossReason::Damaged)]);

    let (temp, parts) = recording();
    std::fs::write(&parts[2], b"PAR1 and nothing more PAR1").unwrap();
    let replayed = all(temp.path());
    assert_eq!(replayed.losses, [(80, None, LossReason::Damaged)], "nobody knows how much it held");
    assert_eq!(replayed.events.len(), 80);
}

/// Ordinal behind the last event in a file.
fn next_event(dir: &Path) -> u64 {
    let Ok(recording) = Recording::open(dir) else { return 0 };
    recording.runs.iter().flat_map(|run| &run.events).map(|part| part.meta.next).max().unwrap_or(0)
}

#[test]
fn a_journal_cut_or_flipped_anywhere_gives_its_whole_frames() {
    let temp = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(
        RecordingConfig { flush_after: Duration::from_millis(1), ..config(temp.path()) },
        Metrics::default(),
    )
    .unwrap();
    recorder.checkpoint(state(0), 0);
    for first in [0, 40, 80] {
        recorder.tap(&batch(first..first + 40, 1_000_000));
        // Each batch is a frame of its own.
        while next_event(temp.path()) < first + 40 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let journal = files(temp.path(), ".journal").remove(0);
    let whole = std::fs::read(&journal).unwrap();
    recorder.finish().unwrap();
    std::fs::remove_file(&files(temp.path(), ".parquet")[0]).unwrap();
    std::fs::write(&journal, &whole).unwrap();
    assert_eq!(all(temp.path()).events.len(), 120, "as it was before it was sealed");

    let mut lengths = std::collections::BTreeSet::new();
    for length in (0..whole.len()).step_by(7) {
        std::fs::write(&journal, &whole[..length]).unwrap();
        let Ok(recording) = Recording::open(temp.path()) else { continue };
        if recording.runs.is_empty() {
            continue;
        }
        let replayed = all(temp.path());
        assert_accounted(&replayed, replayed.events.len() as u64, 1_000_000);
        lengths.insert(replayed.events.len());
    }
    assert!(lengths.len() >= 3 && lengths.iter().all(|n| [0, 40, 80].contains(n)), "{lengths:?}");

    for i in (0..whole.len()).step_by(11) {
        let mut flipped = whole.clone();
        flipped[i] ^= 1 << (i % 8);
        std::fs::write(&journal, &flipped).unwrap();
        let recording = Recording::open(temp.path()).unwrap();
        if recording.runs.is_empty() {
            assert!(recording.faults[0].to_string().contains(".journal"), "{:?}", recording.faults);
            continue;
        }
        let replayed = all(temp.path());
        let lost: u64 = replayed.losses.iter().filter_map(|(_, n, _)| *n).sum();
        let kept = replayed.events.len() as u64;
        for (ordinal, found) in &replayed.events {
            assert_eq!(*found, event(*ordinal, 1_000_000));
        }
        assert!(kept == 120 || kept + lost == 120 || kept == 80, "byte {i}: {kept} kept, {lost} lost");
    }
}

#[test]
fn files_of_others_and_of_later_versions_are_named_and_left_alone() {
    let (temp, parts) = recording();
    let foreign = parts[1].with_file_name("part-of-someone-else.parquet");
    std::fs::write(&foreign, b"PAR1 this was never a recording PAR1").unwrap();
    let replayed = all(temp.path());
    assert_eq!(replayed.events.len(), 120);
    assert!(replayed.faults[0].contains("part-of-someone-else.parquet"), "{:?}", replayed.faults);

    let report = recover(temp.path()).unwrap();
    assert_eq!(report.n_whole, 3);
    assert!(report.faults[0].to_string().contains("part-of-someone-else.parquet"));
    assert!(foreign.exists());
}
