//! Functions of OpenSSL and BoringSSL that no symbol names: found by the errors that they report.
//!
//! Whoever reports an error hands over constants right before the call: its source file's name, the library's number, a reason, and in OpenSSL 3 the
//! function's own name. Which function reports what has hardly changed in ten years. So a function is known by its errors and by whom it
//! calls; where two would fit, or none, the library stays opaque, and the reason is told.

use super::reports::{Report, Reporter};

/// Where a function begins and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: u64,
    pub(super) size: u64,
}

impl Place {
    fn of(reporter: &Reporter) -> Place {
        Place { address: reporter.address, size: reporter.size }
    }
}

/// The functions that were found, by the names that they have in the source.
pub(super) type Found = Vec<(&'static str, Place)>;

/// How the names of BoringSSL's source files end, in C and C++.
pub(super) const BORINGSSL_FILES: [&str; 5] =
    ["ssl/ssl_lib.cc", "ssl/s3_both.cc", "ssl/ssl_buffer.cc", "crypto/bio/bio.c", "crypto/bio/bio.cc"];
const LIB: usize = 0;
const S3_BOTH: usize = 1;
const BUFFER: usize = 2;
const BIO_C: usize = 3;
const BIO_CC: usize = 4;

/// Reasons as BoringSSL's err.h, ssl.h and bio.h number them; none was ever numbered anew.
mod boringssl {
    /// The numbers of the libraries that report.
    pub(super) const SSL: u32 = 16;
    pub(super) const BIO: u32 = 17;
    pub(super) const SHOULD_NOT_HAVE_BEEN_CALLED: u32 = 66;
    pub(super) const BAD_LENGTH: u32 = 111;
    pub(super) const BIO_NOT_SET: u32 = 119;
    pub(super) const CONNECTION_TYPE_NOT_SET: u32 = 134;
    pub(super) const PROTOCOL_IS_SHUTDOWN: u32 = 194;
    pub(super) const SSL_HANDSHAKE_FAILURE: u32 = 215;
    pub(super) const UNINITIALIZED: u32 = 226;
    pub(super) const BIO_UNINITIALIZED: u32 = 114;
    pub(super) const BIO_UNSUPPORTED_METHOD: u32 = 115;
}

/// Those that report all of these from a file.
fn those<'a>(
    reporters: &'a [Reporter],
    file: usize,
    library: u32,
    reasons: &'static [u32],
) -> impl Iterator<Item = &'a Reporter> {
    reporters.iter().filter(move |reporter| {
        reasons.iter().all(|reason| {
            let report = Report { file, library: Some(library), reason: Some(*reason), function: None };
            reporter.reports.contains(&report)
        })
    })
}

/// BoringSSL's. `callers`: the functions that call one.
pub(super) fn boringssl(
    reporters: &[Reporter],
    callers: impl FnOnce(u64) -> Vec<Reporter>,
) -> Result<Found, String> {
    use boringssl::{
        BAD_LENGTH, CONNECTION_TYPE_NOT_SET, SHOULD_NOT_HAVE_BEEN_CALLED, SSL, SSL_HANDSHAKE_FAILURE,
        UNINITIALIZED,
    };
    let those = |reasons| those(reporters, LIB, SSL, reasons);
    // To write, it completes the handshake, and refuses lengths below zero.
    let write = only(those(&[UNINITIALIZED, SSL_HANDSHAKE_FAILURE, BAD_LENGTH]), "SSL_write")?;
    // Others have it compiled into them; the one that is called is it.
    let handshake = those(&[CONNECTION_TYPE_NOT_SET]).filter(|one| write.calls.contains(&one.address));
    let handshake = only(handshake, "SSL_do_handshake")?;
    // `ssl_read_impl` completes it as well.
    let inner = those(&[UNINITIALIZED, SSL_HANDSHAKE_FAILURE])
        .filter(|one| one.address != write.address && one.calls.contains(&handshake.address));
    let inner = only(inner, "what reads")?;
    // Nobody reads while QUIC moves the bytes: `SSL_peek` says so, which `SSL_read` begins with.
    let outer: Vec<&Reporter> = those(&[SHOULD_NOT_HAVE_BEEN_CALLED])
        .filter(|one| one.address == inner.address || one.calls.contains(&inner.address))
        .collect();
    // Only reading changes what waits; what `ssl_read_impl` does itself says nothing of its caller.
    let takes = |one: &Reporter| one.changes && one.address != inner.address;
    let read = match outer[..] {
        // One within the other.
        [one, other] => match (is_more(one, other), is_more(other, one)) {
            (true, false) if takes(one) && !takes(other) => Place::of(one),
            (false, true) if takes(other) && !takes(one) => Place::of(other),
            _ => return Err("SSL_read cannot be told from SSL_peek".to_owned()),
        },
        // Nobody looks.
        [one] if takes(one) => Place::of(one),
        // One behind the other, and both in the same source.
        [peek] => {
            let of_source =
                reporters.iter().filter(|one| one.reports.iter().any(|report| report.file == LIB));
            let source = of_source
                .fold((u64::MAX, 0), |(first, last), one| (first.min(one.address), last.max(one.address)));
            let callers = callers(peek.address);
            let is_read = |one: &&Reporter| {
                (source.0..=source.1).contains(&one.address)
                    && one.address != peek.address
                    && one.hands_on_to == Some(peek.address)
                    && takes(one)
            };
            Place::of(only(callers.iter().filter(is_read), "SSL_read")?)
        }
        _ => return Err(missing(outer.len(), "SSL_read")),
    };
    let mut found =
        vec![("SSL_read", read), ("SSL_write", Place::of(write)), ("SSL_do_handshake", Place::of(handshake))];
    // Without it clear text is seen as well.
    found.extend(bio_write(reporters).map(|place| ("BIO_write", place)));
    Some(found)
        .filter(|found| {
            let places = |place: &Place| found.iter().filter(|(_, other)| other == place).count();
            found.iter().all(|(_, place)| places(place) == 1)
        })
        .ok_or_else(|| "one function reports the errors of two".to_owned())
}

/// Whether a function has all of another in it, and more.
fn is_more(one: &Reporter, than: &Reporter) -> bool {
    one.calls.contains(&than.address)
        || one.calls.len() > than.calls.len() && one.calls.is_superset(&than.calls)
}

/// `BIO_write`, or `BIO_write_ex`, which newer ones call (its first three arguments are the same): both what sends the messages of a handshake and what sends records call it; what reads is called by others.
fn bio_write(reporters: &[Reporter]) -> Option<Place> {
    use boringssl::{BIO, BIO_NOT_SET, BIO_UNINITIALIZED, BIO_UNSUPPORTED_METHOD, PROTOCOL_IS_SHUTDOWN, SSL};
    let flight = only(those(reporters, S3_BOTH, SSL, &[BIO_NOT_SET, PROTOCOL_IS_SHUTDOWN]), "").ok()?;
    let records: Vec<&Reporter> = those(reporters, BUFFER, SSL, &[BIO_NOT_SET]).collect();
    let is_called = |one: &&Reporter| {
        flight.calls.contains(&one.address) && records.iter().any(|other| other.calls.contains(&one.address))
    };
    let reasons = &[BIO_UNSUPPORTED_METHOD, BIO_UNINITIALIZED];
    let written = [BIO_C, BIO_CC].into_iter().flat_map(|file| those(reporters, file, BIO, reasons));
    only(written.filter(is_called), "").ok().map(Place::of)
}

/// The one there is.
fn only<'a>(mut some: impl Iterator<Item = &'a Reporter>, what: &str) -> Result<&'a Reporter, String> {
    match (some.next(), some.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(missing(0, what)),
        (Some(_), Some(_)) => Err(missing(2 + some.count(), what)),
    }
}

fn missing(n: usize, what: &str) -> String {
    match n {
        0 => format!("no function reports the errors of {what}"),
        n => format!("{n} functions report the errors of {what}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const QUIC: u32 = 66;
    const WRITE: &[u32] = &[QUIC, 226, 215, 111];
    const SHAKE: u64 = 0x2000;
    const INNER: u64 = 0x5000;
    const PEEK: u64 = 0x6000;
    const READ: u64 = 0x6800;

    fn one(address: u64, reasons: &[u32], calls: &[u64]) -> Reporter {
        of(LIB, 16, address, reasons, calls)
    }

    fn of(file: usize, library: u32, address: u64, reasons: &[u32], calls: &[u64]) -> Reporter {
        let report =
            |reason: &u32| Report { file, library: Some(library), reason: Some(*reason), function: None };
        Reporter {
            address,
            size: 0x100,
            reports: reasons.iter().map(report).collect(),
            calls: calls.iter().copied().collect(),
            hands_on_to: calls.first().copied(),
            changes: false,
        }
    }

    fn changing(one: Reporter) -> Reporter {
        Reporter { changes: true, ..one }
    }

    /// As it is in programs: reading and looking have the beginning of both in them.
    fn usual() -> Vec<Reporter> {
        vec![
            one(0x1000, &[284, 246], &[]),
            changing(one(SHAKE, &[134], &[9])),
            changing(one(0x2800, &[134], &[9])),
            one(0x3000, WRITE, &[SHAKE]),
            changing(one(INNER, &[226, 215, 100, 182], &[SHAKE, 8])),
            one(PEEK, &[QUIC], &[INNER, 7]),
            changing(one(READ, &[QUIC], &[INNER, 7, 6])),
            one(0x7000, &[QUIC], &[]),
            one(0x8000, &[226, 291], &[]),
        ]
    }

    #[track_caller]
    fn found(reporters: &[Reporter], callers: Vec<Reporter>) -> Vec<(&'static str, u64)> {
        let found = boringssl(reporters, |_| callers).unwrap();
        found.into_iter().map(|(name, place)| (name, place.address)).collect()
    }

    #[track_caller]
    fn refused(reporters: &[Reporter], callers: Vec<Reporter>) -> String {
        boringssl(reporters, |_| callers).unwrap_err()
    }

    const ALL: [(&str, u64); 3] = [("SSL_read", READ), ("SSL_write", 0x3000), ("SSL_do_handshake", SHAKE)];

    #[test]
    fn functions_are_known_by_their_errors_and_by_whom_they_call() {
        let usual = usual();
        assert_eq!(found(&usual, Vec::new()), ALL);
        // A program that never looks has no function for it.
        let mut reads = usual.clone();
        reads.remove(5);
        assert_eq!(found(&reads, Vec::new()), ALL);
        // Where reading calls looking, whether that has the rest in it or not.
        let mut calls = usual;
        calls.remove(6);
        let read = changing(one(READ, &[], &[PEEK, 6]));
        assert_eq!(found(&calls, vec![read.clone()]), ALL);
        calls.remove(4);
        calls[4] = changing(one(PEEK, &[QUIC, 226, 215], &[SHAKE, 8]));
        assert_eq!(found(&calls, vec![read.clone()]), ALL);
        // A program that looks for itself is none of the library.
        assert_eq!(found(&calls, vec![read, changing(one(0x9000, &[], &[PEEK]))]), ALL);
    }

    #[test]
    fn what_hands_over_records_is_known_by_both_that_call_it() {
        let mut usual = usual();
        let bio = |address| of(BIO_CC, 17, address, &[114, 115], &[]);
        usual.extend([bio(0xa000), bio(0xa100), bio(0xa200)]);
        usual.push(of(S3_BOTH, 16, 0xb000, &[194, 119], &[0xa100]));
        usual.push(of(BUFFER, 16, 0xb100, &[119], &[0xa100]));
        usual.push(of(BUFFER, 16, 0xb200, &[119, 121], &[0xa000]));
        assert_eq!(found(&usual, Vec::new())[3..], [("BIO_write", 0xa100)]);
        // Two that both call: neither; what is said is seen as well.
        usual[12] = of(S3_BOTH, 16, 0xb000, &[194, 119], &[0xa100, 0xa000]);
        assert_eq!(found(&usual, Vec::new()), ALL);
        usual[12] = of(S3_BOTH, 16, 0xb000, &[194, 119], &[]);
        assert_eq!(found(&usual, Vec::new()), ALL);
    }

    #[test]
    fn what_could_be_two_is_none() {
        const SAME: &str = "SSL_read cannot be told from SSL_peek";
        let mut two = usual();
        two.push(one(0x9000, WRITE, &[SHAKE]));
        assert_eq!(refused(&two, Vec::new()), "2 functions report the errors of SSL_write");
        let mut two = usual();
        two[3] = one(0x3000, WRITE, &[SHAKE, 0x2800]);
        assert_eq!(refused(&two, Vec::new()), "2 functions report the errors of SSL_do_handshake");
        // Both do as much, or different things; or both change something, or neither.
        for calls in [[INNER, 7, 6], [INNER, 7, 5]] {
            let mut same = usual();
            same[5] = one(PEEK, &[QUIC], &calls);
            assert_eq!(refused(&same, Vec::new()), SAME);
        }
        let mut same = usual();
        same[5].changes = true;
        assert_eq!(refused(&same, Vec::new()), SAME);
        (same[5].changes, same[6].changes) = (false, false);
        assert_eq!(refused(&same, Vec::new()), SAME);
        let mut three = usual();
        three[7] = one(0x7000, &[QUIC], &[INNER]);
        assert_eq!(refused(&three, Vec::new()), "3 functions report the errors of SSL_read");
        // Looking alone, and two of the same source that call it; or one that does not take what it saw, or calls it for others.
        let mut looks = usual();
        looks.remove(6);
        let calls = |at, target| changing(one(at, &[], &[target, 6]));
        let both = vec![calls(READ, PEEK), calls(0x6900, PEEK)];
        assert_eq!(refused(&looks, both), "2 functions report the errors of SSL_read");
        for others in
            [vec![calls(READ, 6)], vec![one(READ, &[], &[PEEK, 6])], vec![calls(0x9000, PEEK)], vec![]]
        {
            assert_eq!(refused(&looks, others), "no function reports the errors of SSL_read");
        }
    }

    #[test]
    fn what_is_missing_is_not_guessed() {
        for (at, what) in [(1, "SSL_do_handshake"), (3, "SSL_write"), (4, "what reads")] {
            let mut less = usual();
            less.remove(at);
            let why = format!("no function reports the errors of {what}");
            assert_eq!(refused(&less, Vec::new()), why);
        }
        // Other libraries' errors, and other sources', have the same numbers.
        let is_others = |report: Report| Report { library: Some(20), ..report };
        let is_elsewhere = |report: Report| Report { file: BUFFER, ..report };
        for change in [is_others as fn(Report) -> Report, is_elsewhere] {
            let mut other = usual();
            other[3].reports = other[3].reports.iter().copied().map(change).collect::<BTreeSet<_>>();
            assert_eq!(refused(&other, Vec::new()), "no function reports the errors of SSL_write");
        }
        assert_eq!(refused(&[], Vec::new()), "no function reports the errors of SSL_write");
    }
}
