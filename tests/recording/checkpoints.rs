//! Checkpoints within a part: they are listed, a replay begins at the last one before an instant, and reads nothing before it.

use tracer_user::{
    schema::{
        Checkpoint,
        event_rows::{EventColumns, Row},
        journal::{FRAME_HEADER, Journal},
    },
    source::{recording::Run, synthetic::Random},
};

use super::*;

/// All of a recording lies within the hour.
const STEP_NS: u64 = 10_000;
const N: u64 = 12_000;
/// Events between two checkpoints, and in a batch: between two batches one is asked for and given.
const EVERY: u64 = 700;
const BATCH: u64 = 100;

fn config(dir: &Path, rotate_rows: u64) -> RecordingConfig {
    RecordingConfig { rotate_rows, checkpoint_rows: EVERY, ..super::config(dir) }
}

/// Taps events `0..n`; gives the number of checkpoints that were asked for.
fn tap_all(recorder: &mut Recorder, n: u64) -> usize {
    let mut n_asked = 0;
    for first in (0..n).step_by(BATCH as usize) {
        if recorder.wants_checkpoint() {
            recorder.checkpoint(state(first), first);
            n_asked += 1;
        }
        tap_and_wait(recorder, batch(first..first + BATCH, STEP_NS));
    }
    n_asked
}

/// Wall time of event `i`.
fn wall(i: u64) -> u64 {
    START_NS + i * STEP_NS
}

/// The checkpoints that stand among the rows of sealed files, by their rows.
fn in_files(dir: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    for path in files(&dir.join("events"), ".parquet") {
        for batch in SealedFile::open(&path).unwrap().rows(1_000).unwrap() {
            let batch = batch.unwrap();
            let columns = EventColumns::new(&batch).unwrap();
            for i in 0..columns.len() {
                if let Row::Checkpoint(bytes) = columns.row(i).unwrap() {
                    assert_eq!(bytes, state(columns.ordinal(i)));
                    found.push(columns.ordinal(i));
                }
            }
        }
    }
    found
}

/// The checkpoints of a run.
pub fn listed(run: &Run) -> Vec<Checkpoint> {
    run.checkpoints().map(|start| start.checkpoint).collect()
}

/// Each checkpoint has the time of the event before it, and they lie as close as they should.
#[track_caller]
fn assert_listed(run: &Run, n: u64) {
    let listed = listed(run);
    for Checkpoint { ordinal, horizon_ns } in &listed {
        assert_eq!(*horizon_ns, if *ordinal == 0 { 0 } else { wall(*ordinal - 1) }, "before {ordinal}");
    }
    let ordinals: Vec<u64> = listed.iter().map(|checkpoint| checkpoint.ordinal).chain([n]).collect();
    assert_eq!(ordinals[0], 0);
    assert!(
        ordinals.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= EVERY + BATCH),
        "{ordinals:?}"
    );
}

/// A replay from an instant begins at the last checkpoint before it, and has everything from there on.
#[track_caller]
pub fn assert_begins(dir: &Path, n: u64, step_ns: u64, n_instants: usize, random: &mut Random) -> usize {
    let recording = Recording::open(dir).unwrap();
    let wall = |i: u64| START_NS + i * step_ns;
    let listed: Vec<Checkpoint> = listed(&recording.runs[0]);
    let mut n_within = 0;
    for _ in 0..n_instants {
        let from = START_NS + random.below((n - 1) * step_ns);
        let begin = listed.iter().rfind(|checkpoint| checkpoint.horizon_ns < from).unwrap().ordinal;
        let replayed = replay(dir, WallRange { from: WallTime(from), to: WallTime(u64::MAX) });
        let bytes = if begin == 0 { Bytes::new() } else { Bytes::from(state(begin)) };
        assert_eq!(replayed.restarts, [(begin, bytes)]);
        assert_eq!((replayed.losses, replayed.faults), (Vec::new(), Vec::new()));
        let events: Vec<_> = (begin..n).map(|i| (i, event(i, step_ns))).collect();
        assert!(replayed.events == events, "from {from}");
        // The instant comes before the next checkpoint.
        let next = listed.iter().find(|checkpoint| checkpoint.ordinal > begin).map_or(n, |next| next.ordinal);
        assert!(wall(next - 1) >= from || next == n);
        n_within += usize::from(recording.runs[0].events.iter().all(|part| part.meta.first != begin));
    }
    n_within
}

#[test]
fn a_replay_from_an_instant_begins_at_the_last_checkpoint_before_it_within_a_part_too() {
    for rotate_rows in [5_000, 1_000_000] {
        let temp = tempfile::tempdir().unwrap();
        let mut recorder = Recorder::start(config(temp.path(), rotate_rows), Metrics::default()).unwrap();
        let n_asked = tap_all(&mut recorder, N);
        recorder.finish().unwrap();
        let recording = Recording::open(temp.path()).unwrap();
        let run = &recording.runs[0];
        assert!(run.events.len() as u64 <= 1 + N / rotate_rows, "parts stay as long as they are");
        assert_listed(run, N);
        let ordinals: Vec<u64> = listed(run).iter().map(|checkpoint| checkpoint.ordinal).collect();
        assert_eq!(in_files(temp.path()), ordinals);
        assert_eq!(n_asked, ordinals.len(), "none is made for nothing");
        let n_within = assert_begins(temp.path(), N, STEP_NS, 30, &mut Random(1));
        assert!(n_within > 15, "{n_within} of 30 begin within a part");
        assert_accounted(&all(temp.path()), N, STEP_NS);
    }
}

#[test]
fn checkpoints_come_by_time_too_and_not_without_enough_behind_the_last() {
    let temp = tempfile::tempdir().unwrap();
    let by_time = RecordingConfig {
        checkpoint_rows: 12_000,
        checkpoint_after: Duration::from_nanos(900 * STEP_NS),
        ..config(temp.path(), 1_000_000)
    };
    record(by_time, 5_000, STEP_NS);
    let recording = Recording::open(temp.path()).unwrap();
    let ordinals: Vec<u64> = listed(&recording.runs[0]).iter().map(|checkpoint| checkpoint.ordinal).collect();
    assert!(
        ordinals.len() >= 5 && ordinals.windows(2).all(|pair| (900..=1_000).contains(&(pair[1] - pair[0]))),
        "{ordinals:?}"
    );

    // The bytes of a batch are many times those of its checkpoint, and less than so many times.
    let temp = tempfile::tempdir().unwrap();
    let seldom = RecordingConfig { checkpoint_share: 1 << 40, ..config(temp.path(), 1_000_000) };
    record(seldom, 5_000, STEP_NS);
    assert_eq!(in_files(temp.path()), [0]);
}

/// Copies `events` as a kill would leave it: what was handed to the kernel so far. Journals first, so that one that is sealed
/// meanwhile is there in one form at least.
pub fn copy_events(from: &Path, to: &Path) {
    for ending in [".journal", ".parquet"] {
        for path in files(&from.join("events"), ending) {
            let target = to.join(path.strip_prefix(from).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            match std::fs::copy(&path, target) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", path.display()),
            }
        }
    }
}

/// A recording that was killed behind event `n`: an unsealed journal with everything in it.
fn killed(n: u64) -> tempfile::TempDir {
    let (whole, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut recorder = Recorder::start(config(whole.path(), 1_000_000), Metrics::default()).unwrap();
    tap_all(&mut recorder, n);
    let is_written =
        || Recording::open(whole.path()).is_ok_and(|recording| recording.runs[0].events[0].meta.next == n);
    while !is_written() {
        std::thread::sleep(Duration::from_millis(1));
    }
    copy_events(whole.path(), temp.path());
    recorder.finish().unwrap();
    temp
}

#[test]
fn the_checkpoints_of_a_journal_count_and_sealing_it_keeps_them() {
    let temp = killed(5_000);
    let recording = Recording::open(temp.path()).unwrap();
    assert!(recording.runs[0].events[0].sealed.is_none());
    assert_listed(&recording.runs[0], 5_000);
    assert_begins(temp.path(), 5_000, STEP_NS, 30, &mut Random(2));
    let before = listed(&recording.runs[0]);

    recover(temp.path()).unwrap();
    let recording = Recording::open(temp.path()).unwrap();
    assert!(recording.runs[0].events[0].journal.is_none());
    assert_eq!(listed(&recording.runs[0]), before);
    assert_begins(temp.path(), 5_000, STEP_NS, 30, &mut Random(3));
}

#[test]
fn a_checkpoint_whose_frame_is_damaged_is_passed_over() {
    let temp = killed(5_000);
    let recording = Recording::open(temp.path()).unwrap();
    let known = listed(&recording.runs[0]);
    let (before, gone) = (known[3], known[4]);
    let path = files(temp.path(), ".journal").remove(0);
    let journal = Journal::open(&path).unwrap();
    assert!(journal.holds_checkpoint(gone.ordinal));
    let mut bytes = std::fs::read(&path).unwrap();
    // Its state stands behind its frame's header, in the last frame that begins before it.
    let text = state(gone.ordinal);
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
    assert!(at > FRAME_HEADER);
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    let from = WallRange { from: WallTime(gone.horizon_ns + 1), to: WallTime(u64::MAX) };
    for _ in 0..2 {
        let replayed = replay(temp.path(), from);
        assert_eq!(replayed.restarts, [(before.ordinal, Bytes::from(state(before.ordinal)))]);
        assert_eq!(replayed.events.len() as u64, 5_000 - before.ordinal);
        assert!(replayed.losses.is_empty(), "no event was in it");
        // The same once it is sealed.
        recover(temp.path()).unwrap();
    }
    let recording = Recording::open(temp.path()).unwrap();
    let left: Vec<_> = known.iter().copied().filter(|checkpoint| *checkpoint != gone).collect();
    assert_eq!(listed(&recording.runs[0]), left);
}

#[test]
fn a_part_whose_first_frame_is_damaged_no_longer_begins_with_a_checkpoint() {
    let temp = killed(1_000);
    let path = files(temp.path(), ".journal").remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    let text = state(0);
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let before = all(temp.path());
    recover(temp.path()).unwrap();
    let recording = Recording::open(temp.path()).unwrap();
    assert!(!recording.runs[0].events[0].meta.checkpoint);
    assert_eq!(all(temp.path()).events, before.events);
}

#[test]
fn where_the_clock_is_set_back_no_checkpoint_hides_what_is_later_than_it_says() {
    let temp = tempfile::tempdir().unwrap();
    let mut recorder = Recorder::start(config(temp.path(), 1_000_000), Metrics::default()).unwrap();
    // Two hours of it, the second set back by one.
    let (step, back) = (1_000_000_000, 3_600_000_000_000);
    for first in (0..7_200).step_by(BATCH as usize) {
        if recorder.wants_checkpoint() {
            recorder.checkpoint(state(first), first);
        }
        let mut events: Vec<Event> = (first..first + BATCH).map(|i| event(i, step)).collect();
        if first == 3_600 {
            // Not at the first place: rows of before stand in the same batch.
            let at = (first + 50) * step;
            let (boot, wall) = (BootTime(BOOT_NS + at), WallTime(START_NS + at - back));
            events[50] = Event::Anchor(Anchor { boot, wall });
        }
        tap_and_wait(&mut recorder, Arc::new(EventBatch { first_ordinal: first, events }));
    }
    recorder.finish().unwrap();
    let recording = Recording::open(temp.path()).unwrap();
    let latest = START_NS + 3_649 * step;
    let behind = listed(&recording.runs[0]).into_iter().filter(|checkpoint| checkpoint.ordinal > 3_650);
    let behind: Vec<Checkpoint> = behind.collect();
    assert!(behind.len() >= 5);
    assert!(behind.iter().all(|checkpoint| checkpoint.horizon_ns >= latest), "{behind:?}, {latest}");
}

#[test]
fn a_part_that_was_only_begun_lists_no_checkpoint() {
    let temp = killed(1_000);
    let path = files(temp.path(), ".journal").remove(0);
    let bytes = std::fs::read(&path).unwrap();
    let first_frame = bytes.windows(4).position(|window| window == b"TXF1").unwrap();
    let listed = || -> Vec<_> {
        let recording = Recording::open(temp.path()).unwrap();
        recording.runs.iter().flat_map(listed).map(|checkpoint| checkpoint.ordinal).collect()
    };
    assert_eq!(listed()[0], 0);
    // Killed between the file's header and its first frame, or within that frame.
    for length in [first_frame + FRAME_HEADER + 1, first_frame + 1, first_frame] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert_eq!(listed(), Vec::<u64>::new());
    }
    // Nor does recovery make one of it: nothing was in it.
    recover(temp.path()).unwrap();
    assert_eq!((files(temp.path(), ".journal"), files(temp.path(), ".parquet")), (vec![], vec![]));
}
