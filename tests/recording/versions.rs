//! Versions: each that was ever written is read forever, from the fixtures; and `transactions` opens elsewhere.

use std::{borrow::Cow, process::Command, sync::Arc};

use tracer_user::{
    event::Role,
    protocol::TlsFacts,
    transaction::{
        CallId, Confidence, End, Kind, Network, TimeBasis, Transaction,
        anatomy::{Anatomy, CallSum, Causes, Link, LinkMethod},
    },
};

use super::*;

/// Transaction `i` of a run; each field takes its special values now and then.
pub fn transaction(i: u64) -> Transaction {
    let start = START_NS + i * 3_700_000;
    let duration = 900_000 + (i * 7_919) % 500_000;
    let answered = i % 10 != 3;
    Transaction {
        start_time: WallTime(start),
        request_end: Some(WallTime(start + 4_000)),
        response_start: answered.then_some(WallTime(start + duration - 20_000)),
        end_time: WallTime(start + duration),
        duration_ns: duration as i64,
        ttfb_ns: answered.then_some(duration - 24_000),
        queue_ns: (i.is_multiple_of(3)).then_some(i % 1_000),
        time_basis: TimeBasis::ALL[i as usize % 2],
        kind: Kind::Request,
        role: if i.is_multiple_of(2) { Role::Server } else { Role::Client },
        protocol: "http1",
        operation: format!("GET /item/{{id}}/{}", i % 5).into(),
        target: (!i.is_multiple_of(4)).then(|| {
            if i % 4 == 1 {
                Bytes::from(b"/item/\xff\xe2?q='\"".to_vec())
            } else {
                Bytes::from(format!("/item/{i}"))
            }
        }),
        status_code: answered.then_some(if i.is_multiple_of(7) { 503 } else { 200 }),
        error: i.is_multiple_of(7),
        error_type: (i.is_multiple_of(7)).then_some(Cow::Borrowed("503")),
        pid: 100,
        tid: 100 + (i % 4) as u32,
        comm: "shop".into(),
        service: "상점".into(),
        client_addr: if i.is_multiple_of(5) { "unix:/run/shop.sock".into() } else { "10.0.0.7".into() },
        client_port: (!i.is_multiple_of(5)).then_some(40_000 + (i % 100) as u16),
        server_addr: if i.is_multiple_of(5) { "unix:/run/shop.sock".into() } else { "10.0.0.1".into() },
        server_port: (!i.is_multiple_of(5)).then_some(8080),
        request_bytes: 120,
        response_bytes: 5_000 + i,
        end: if answered { End::Answered } else { End::Reset },
        confidence: Confidence::Complete,
        conn: ConnId(0x00ab_cdef_0000_0000 + i % 20),
        ordinal: i / 20,
        seq: i,
        namespace: (i % 6 == 2).then(|| Bytes::from_static(b"shop")),
        error_message: (i % 14 == 7).then(|| Bytes::from_static(b"deadline exceeded")),
        rows: (i % 6 == 2).then_some(i % 50),
        request_messages: (i % 9 == 4).then_some(1),
        response_messages: (i % 9 == 4).then_some(i),
        tls: tls(i % 20),
        trace_id: (i % 8 == 3).then(|| format!("{i:032x}").into()),
        carrier: None,
        call: None,
        causes: causes(i),
        network: network(i),
    }
}

/// Of connections that are no Unix sockets; some have lost segments, and of some no round trip was measured.
fn network(i: u64) -> Option<Network> {
    let rtt_us = if i % 20 == 11 { 0 } else { 80 + i as u32 };
    (!i.is_multiple_of(5)).then_some(Network { rtt_us, retransmits: (i % 17 == 3).into() })
}

/// Of requests that were served an anatomy, with time on the CPU split or not; of every fifth that was made what made it.
fn causes(i: u64) -> Option<Box<Causes>> {
    let anatomy = Anatomy {
        user_ns: 1_000 + i,
        kernel_ns: if i.is_multiple_of(4) { 700 } else { 0 },
        runq_ns: i,
        off_ns: std::array::from_fn(|reason| i * reason as u64),
        calls_ns: 3,
        sending_ns: 4,
        unattributed_ns: 5,
        is_split: i.is_multiple_of(4),
        is_shared: i.is_multiple_of(6),
        // Of threads that had others in flight.
        guessed: Anatomy::guessed_from_json(if i.is_multiple_of(6) {
            r#"["oncpu_ns","calls_ns"]"#
        } else {
            "[]"
        })
        .unwrap(),
    };
    let calls = vec![CallSum { kind: "postgres", peer: "10.0.0.9:5432".into(), count: i, ns: 9 * i }];
    // Those that there were when the files were written.
    let method = LinkMethod::ALL[i as usize / 10 % 4];
    let link = Link { parent: CallId { conn: ConnId(7), ordinal: i }, method };
    match i % 10 {
        0 | 4 => Some(Causes { anatomy: Some(anatomy), ..Causes::default() }),
        2 => Some(Causes { anatomy: Some(anatomy), calls, ..Causes::default() }),
        5 => Some(Causes { link: Some(link), ..Causes::default() }),
        _ => None,
    }
    .map(Box::new)
}

/// Of connection `i`: plain, all known, a part of it known.
fn tls(i: u64) -> Option<Arc<TlsFacts>> {
    let version = ["TLSv1.3", "TLSv1.2"][i as usize / 2 % 2];
    (!i.is_multiple_of(3))
        .then(|| {
            Arc::new(TlsFacts {
                library: (i % 7 == 1).then_some("openssl".into()),
                version: (i % 3 == 1).then_some(version.into()),
                sni: (i % 5 != 2).then(|| format!("shop{}.example", i % 4).into()),
                alpn: (i % 6 == 1).then_some("h2".into()),
            })
        })
        .filter(|facts| **facts != TlsFacts::default())
}

/// The recorded transactions of a folder. Targets come back as the text that was stored.
pub fn transactions(dir: &Path) -> Vec<Transaction> {
    Recording::open(dir)
        .unwrap()
        .transactions(WallRange::default())
        .flat_map(Result::unwrap)
        .map(original)
        .collect()
}

/// Bytes that are not UTF-8 are stored spelled out.
fn original(mut transaction: Transaction) -> Transaction {
    if transaction.target.as_deref() == Some(br#"/item/\xff\xe2?q='""#) {
        transaction.target = Some(Bytes::from_static(b"/item/\xff\xe2?q='\""));
    }
    transaction
}

fn record_transactions(dir: &Path, n: u64) {
    let mut recorder = Recorder::start(config(dir), Metrics::default()).unwrap();
    let mut sink = recorder.transactions();
    recorder.checkpoint(state(0), 0);
    recorder.tap(&batch(0..100, 1_000_000));
    for first in (0..n).step_by(1_000) {
        let transactions = (first..(first + 1_000).min(n)).map(transaction).collect();
        sink.write(&TransactionBatch { transactions, watermark: WallTime(0) }).unwrap();
    }
    sink.finish().unwrap();
    recorder.finish().unwrap();
}

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../fixtures/recording/v{version}"))
}

/// Makes the fixture of the current version when it is missing and `TXRAY_BLESS` is set; an old one is never made anew.
#[test]
fn every_version_ever_written_is_read() {
    let current = fixture(tracer_user::schema::VERSION);
    if std::env::var_os("TXRAY_BLESS").is_some() && !current.exists() {
        record_transactions(&current, 200);
    }
    for version in 1..=tracer_user::schema::VERSION {
        let dir = fixture(version);
        let recording = Recording::open(&dir).unwrap();
        assert!(recording.faults.is_empty(), "{:?}", recording.faults);
        assert!(recording.runs.iter().all(|run| run.events.iter().all(|part| part.meta.schema == version)));
        let replayed = all(&dir);
        assert_accounted(&replayed, 100, 1_000_000);
        assert_eq!(replayed.events.len(), 100);
        assert_eq!(replayed.restarts, [(0, Bytes::new())]);
        let expected: Vec<_> = (0..200).map(|i| known_to(version, transaction(i))).collect();
        assert_eq!(transactions(&dir), expected);
    }
}

/// What a version stored of a transaction.
fn known_to(version: u32, mut transaction: Transaction) -> Transaction {
    if version < 5
        && let Some(anatomy) = transaction.causes.as_mut().and_then(|causes| causes.anatomy.as_mut())
    {
        // Which parts are guesses was not told.
        *anatomy = Anatomy::from_parts(anatomy.parts(), anatomy.is_shared, None);
    }
    match version {
        1 => Transaction {
            namespace: None,
            error_message: None,
            rows: None,
            tls: None,
            trace_id: None,
            request_messages: None,
            response_messages: None,
            causes: None,
            network: None,
            ..transaction
        },
        2 => Transaction { causes: None, trace_id: None, network: None, ..transaction },
        3 => {
            let causes = transaction.causes.map(|causes| {
                let link = causes.link.map(|link| Link { method: LinkMethod::Thread, ..link });
                Box::new(Causes { link, ..*causes })
            });
            Transaction { trace_id: None, causes, network: None, ..transaction }
        }
        4 => Transaction { network: None, ..transaction },
        _ => transaction,
    }
}

#[test]
fn a_file_of_a_later_version_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    record_transactions(temp.path(), 10);
    let part = files(&temp.path().join("events"), ".parquet").remove(0);
    let rows = SealedFile::open(&part).unwrap();
    let mut meta = rows.meta.clone();
    meta.schema = tracer_user::schema::VERSION + 1;
    let later = {
        let path = part.with_file_name("later.parquet");
        std::fs::File::options().read(true).write(true).create_new(true).open(path).unwrap()
    };
    let mut writer = SealedWriter::new(later, meta.dataset).unwrap();
    for batch in rows.rows(1_000).unwrap() {
        writer.write(&batch.unwrap()).unwrap();
    }
    writer.finish(&meta).unwrap();
    let recording = Recording::open(temp.path()).unwrap();
    let fault = recording.faults[0].to_string();
    let version = format!("version {}", tracer_user::schema::VERSION + 1);
    assert!(fault.contains("later.parquet") && fault.contains(&version), "{fault}");
    assert_eq!(all(temp.path()).events.len(), 100, "the rest is there");
}

#[test]
fn recorded_transactions_come_back_over_hours() {
    let temp = tempfile::tempdir().unwrap();
    record_transactions(temp.path(), 5_000);
    assert_eq!(transactions(temp.path()), (0..5_000).map(transaction).collect::<Vec<_>>());
    let hours = files(&temp.path().join("transactions"), ".parquet").len();
    assert_eq!(hours, 2, "one file each side of 10:00");
    let (from, to) = (transaction(1_000).end_time, transaction(1_010).end_time);
    let cut: Vec<u64> = Recording::open(temp.path())
        .unwrap()
        .transactions(WallRange { from, to })
        .flat_map(Result::unwrap)
        .map(|transaction| transaction.seq)
        .collect();
    let want: Vec<u64> = (0..5_000).filter(|i| (from..to).contains(&transaction(*i).end_time)).collect();
    assert_eq!(cut, want);
}

/// An interpreter with pyarrow, pandas, DuckDB and Polars: `TXRAY_PYTHON`, or one of the tests' own below the user's cache
/// folder, made with pip the first time.
pub fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("TXRAY_PYTHON") {
        return python.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(std::env::home_dir()?.join(".cache")));
    let target = cache.unwrap_or_else(std::env::temp_dir).join("txray-tests");
    std::fs::create_dir_all(&target).unwrap();
    let (made, making) = (target.join("python"), target.join(format!("python-{}", std::process::id())));
    let run = |program: &Path, args: &[&str]| {
        let status = Command::new(program).args(args).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{} {args:?} (Debian: apt install python3-venv)",
            program.display()
        );
    };
    if !made.join("ready").exists() {
        run(Path::new("python3"), &["-m", "venv", making.to_str().unwrap()]);
        let packages = ["-m", "pip", "install", "--quiet", "pyarrow", "pandas", "duckdb", "polars"];
        run(&making.join("bin/python"), &packages);
        std::fs::write(making.join("ready"), "").unwrap();
        // Whoever is first wins; the other one's is as good.
        let _ = std::fs::rename(&making, &made);
    }
    made.join("bin/python")
}

#[test]
fn transactions_open_in_duckdb_pyarrow_pandas_and_polars_as_they_are() {
    let temp = tempfile::tempdir().unwrap();
    record_transactions(temp.path(), 5_000);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recording/open_transactions.py");
    let output = Command::new(python()).arg(script).arg(temp.path()).output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{error}");
    let errors = (0..5_000).filter(|i| transaction(*i).error).count();
    let bytes: u64 = (0..5_000).map(|i| transaction(i).response_bytes).sum();
    for reader in ["duckdb", "pyarrow", "pandas", "polars"] {
        let want = format!(
            "{reader} rows=5000 errors={errors} bytes={bytes} target=/item/\\xff\\xe2?q='\" nulls=1000"
        );
        assert!(out.lines().any(|line| line == want), "{want}\n{out}");
    }
}
