//! DNS: RFC 1035 (<https://www.rfc-editor.org/rfc/rfc1035>), over TCP RFC 7766, EDNS RFC 6891, zone transfers RFC 1995 and 5936,
//! NOTIFY RFC 1996, UPDATE RFC 2136.
//!
//! **Framing.** Each message stands behind its length in two bytes, as over TCP; datagrams are shown the same way. A message is
//! looked at when all of it is there (65,535 bytes at most). Questions and answers find each other by the id and a hash of
//! the question: one socket may ask several questions at once, and a question that is asked again under the same id is a transaction of
//! its own, whose first unanswered one the answer gets. Answers without a question (FORMERR, the later messages of a transfer)
//! belong to the last question of that id.
//!
//! **What becomes of it.** `operation` is the type asked for (`A`; types without a name are `_OTHER`), or `NOTIFY`, `UPDATE`, `STATUS`.
//! `target` is the name, folded to lower case (names are case-insensitive, and resolvers mix cases against forgery), bytes outside of
//! ASCII's printable ones as `\DDD`. `rows` is the number of answers that the header announces. `status_code` is the rcode, with
//! the high bits of EDNS, `error_type` its name. SERVFAIL and NOTIMP are the server's failure and errors for both; all others (NXDOMAIN,
//! REFUSED, …) are errors of the lookup, for the client alone, as HTTP's 4xx are. A truncated answer (TC) is none: the
//! same question comes again over TCP, as a second transaction. A question that gets no answer ends with its socket (`closed`) or as
//! `stuck`; a resolver that asks again after its five seconds begins another transaction.
//!
//! A zone transfer is one transaction of many messages: it ends with the closing SOA. Its `rows` are known only where it
//! comes in one message. An incremental one whose zone is unchanged is a single SOA.
//!
//! **Losses.** A message that was cut has a known length: the next boundary is certain. Otherwise at a turn's start, if what stands there is
//! a DNS message. Behind a loss of responses no transfer that was asked for is followed any further, as its end may have been lost,
//! but for a zone's that begins there.
//!
//! **Not handled**: stateful operations (RFC 8490), messages of more than one question, DNS over TLS or HTTPS (their bytes are not seen
//! here), what the records say. Requests signed or padded are as any others.
//!
//! **Bounds**: the last 256 questions are remembered for answers without one, and 64 transfers are followed at once: names are not kept.

use std::{borrow::Cow, collections::VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Body, Coverage, ErrorFor, Family, Flow, Inference, Mark, Message, Operation, Pairing, Parser, Protocol,
    Request, Response, Resync, Step,
    codec::dns::{
        AXFR, Fault, HEADER, Header, IXFR, NOTIFY, QUERY, Question, Records, SOA, STATUS, UPDATE, name,
        question, question_hash, rcode_name, record, records, serial, type_name,
    },
};

/// Bytes of the length before a message.
const PREFIX: usize = 2;
/// Bytes of the shortest request: a header and a question for the root. (Over TCP there are two more.)
const SHORTEST: u64 = 17;
/// Questions remembered.
const MAX_ASKED: usize = 256;
/// Transfers followed at once.
const MAX_TRANSFERS: usize = 64;
/// Bytes of a long answer from which on its beginning is enough to know it.
const ENOUGH: usize = 512;

/// DNS.
pub struct Dns;

impl Protocol for Dns {
    fn name(&self) -> &'static str {
        "dns"
    }

    fn family(&self) -> Family {
        Family::Dns
    }

    fn coverage(&self) -> Coverage {
        Coverage {
            title: "DNS",
            covers: "UDP and TCP: lookups, EDNS, truncation, zone transfers, NOTIFY, UPDATE",
            lacks: "DNS over TLS or HTTPS; stateful operations; several questions in one message; contents of records",
            tested_with: "BIND, dnsmasq, dig, glibc",
        }
    }

    fn infer(&self, head: &[u8]) -> Inference {
        infer(Flavor::Dns, head)
    }

    fn udp_ports(&self) -> &'static [u16] {
        &[53]
    }

    fn parser(&self) -> Box<dyn Parser> {
        Box::new(DnsParser::new(Flavor::Dns))
    }

    fn pairing(&self) -> Pairing {
        Pairing::ByStreamId
    }

    fn shortest_request(&self) -> u64 {
        SHORTEST
    }
}

/// Which of the protocols with this message it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Flavor {
    /// Questions of one resolver to one server.
    #[default]
    Dns,
    /// Multicast: everybody asks all, and all tell everybody.
    Mdns,
    /// Multicast questions, unicast answers.
    Llmnr,
}

impl Flavor {
    /// Whether a header can be of such a message. Strict: this is what tells it from other protocols.
    fn takes(self, header: &Header, length: usize) -> bool {
        let [questions, answers, authority, additional] = header.counts;
        if !header.fits(length) || !self.takes_flags(header) {
            return false;
        }
        match (self, header.is_response()) {
            // What else is in a question are keys, signatures and EDNS.
            (Flavor::Dns, false) if questions != 1 => false,
            (Flavor::Dns, false) => match header.opcode() {
                QUERY => answers == 0 && authority <= 1 && additional <= 4,
                STATUS => answers == 0 && authority == 0 && additional <= 4,
                NOTIFY => answers <= 1 && authority == 0 && additional <= 4,
                _ => true,
            },
            (Flavor::Dns, true) => questions <= 1,
            (Flavor::Mdns, false) => questions > 0,
            (Flavor::Mdns, true) => answers > 0,
            // RFC 4795 §2.1.1: one question each way.
            (Flavor::Llmnr, response) => questions == 1 && (response || answers == 0),
        }
    }

    /// The same of its flags alone.
    fn takes_flags(self, header: &Header) -> bool {
        let (opcode, response) = (header.opcode(), header.is_response());
        let reserved = match (self, response) {
            // TC, RA, the reserved bit and the rcode; AA but in a notify.
            (Flavor::Dns, false) if opcode == NOTIFY => 0x02cf,
            (Flavor::Dns, false) => 0x06cf,
            (Flavor::Dns, true) => 0x0040,
            // RFC 6762 §18: all but AA and TC is zero; what a question has there is ignored.
            (Flavor::Mdns, false) => 0x000f,
            (Flavor::Mdns, true) => 0,
            // RFC 4795 §2.1.1: four reserved bits, and the rcode of a question.
            (Flavor::Llmnr, false) => 0x00ff,
            (Flavor::Llmnr, true) => 0x00f0,
        };
        let opcodes: &[u8] = match self {
            Flavor::Dns => &[QUERY, STATUS, NOTIFY, UPDATE],
            Flavor::Mdns | Flavor::Llmnr => &[QUERY],
        };
        header.flags & reserved == 0 && opcodes.contains(&opcode)
    }
}

/// Looks at the first bytes of a direction, or at a datagram behind its length.
pub(super) fn infer(flavor: Flavor, head: &[u8]) -> Inference {
    let Some((prefix, rest)) = head.split_first_chunk::<PREFIX>() else { return Inference::NeedMore };
    let length = usize::from(u16::from_be_bytes(*prefix));
    if length < HEADER {
        return Inference::No;
    }
    let Some(header) = Header::read(rest) else {
        // The flags and the number of questions, or half of them, rule out most of what is none.
        let byte = |at: usize| rest.get(at).copied().unwrap_or(0);
        let flags = u16::from_be_bytes([byte(2), byte(3)]);
        let begun = Header { id: 0, flags, counts: [u16::from_be_bytes([byte(4), byte(5)]), 0, 0, 0] };
        let can_be = (rest.len() < 3 || flavor.takes_flags(&begun))
            && (rest.len() < 5 || flavor == Flavor::Mdns || begun.counts[0] <= 1);
        return if can_be { Inference::NeedMore } else { Inference::No };
    };
    if !flavor.takes(&header, length) {
        return Inference::No;
    }
    let inferred = if header.is_response() { Inference::Response } else { Inference::Request };
    let message = rest.get(..length).unwrap_or(rest);
    let whole = message.len() == length;
    let behind = match header.counts[0] {
        0 if flavor == Flavor::Mdns => HEADER,
        // An answer without its question is too little to know anything by.
        0 => return Inference::No,
        n => {
            let mut at = HEADER;
            for _ in 0..n {
                match question(message, at) {
                    Ok(question) => at = question.end,
                    Err(Fault::Short) if !whole => return Inference::NeedMore,
                    Err(_) => return Inference::No,
                }
            }
            at
        }
    };
    if whole {
        let is_sound = records(message, &header, behind, None).whole;
        return if is_sound { inferred } else { Inference::No };
    }
    let has_records = header.counts[1] > 0 && record(message, behind).is_ok();
    if header.is_response() && message.len() >= ENOUGH && has_records {
        return inferred;
    }
    Inference::NeedMore
}

/// The stream of a question: its id, and what it asks.
fn stream(id: u16, hash: u32) -> u64 {
    u64::from(hash) << 16 | u64::from(id)
}

/// A question that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    id: u16,
    hash: u32,
    /// It is for a transfer, and nothing was lost since.
    transfer: bool,
    /// Serial number that an incremental one begins behind.
    since: Option<u32>,
}

/// A transfer of which not all messages have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Transfer {
    id: u16,
    stream: u64,
    /// SOA records that are still to come, the last of which closes it.
    closing: u32,
    /// The serial number that they have; `None`: any counts.
    serial: Option<u32>,
    /// The next message tells whether it is of differences.
    undecided: bool,
    /// Its end may have been lost: its messages are nobody's.
    lost: bool,
    /// No message of it has been seen.
    unseen: bool,
}

/// One connection's, or one socket's with one peer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct DnsParser {
    #[serde(skip)]
    flavor: Flavor,
    asked: VecDeque<Asked>,
    transfers: Vec<Transfer>,
    /// By flow: bytes of the message in progress that are still to come.
    rest: [Option<u64>; 2],
}

impl DnsParser {
    pub(super) fn new(flavor: Flavor) -> DnsParser {
        DnsParser { flavor, ..DnsParser::default() }
    }

    /// A whole message.
    fn message(&mut self, flow: Flow, message: &[u8], marks: &mut Vec<Mark>) -> Result<(), &'static str> {
        let Some(header) = Header::read(message) else { return Err("no header") };
        if !self.flavor.takes(&header, message.len()) {
            return Err("no DNS header");
        }
        if header.is_response() != (flow == Flow::Response) {
            return Err("not of this side");
        }
        let asked = match header.counts[0] {
            0 => None,
            _ => Some(question(message, HEADER).map_err(|_| "no question")?),
        };
        match (self.flavor, flow) {
            (Flavor::Mdns, Flow::Request) => mdns_question(message, asked, marks),
            (Flavor::Mdns, Flow::Response) => mdns_answer(message, &header, marks),
            (_, Flow::Request) => self.question(message, &header, asked, marks),
            (_, Flow::Response) => self.answer(message, &header, asked, marks),
        }
        Ok(())
    }

    fn question(
        &mut self,
        message: &[u8],
        header: &Header,
        question: Option<Question>,
        marks: &mut Vec<Mark>,
    ) {
        let Some(question) = question else { return };
        let operation = match header.opcode() {
            NOTIFY => "NOTIFY",
            UPDATE => "UPDATE",
            STATUS => "STATUS",
            _ => type_name(question.kind),
        };
        let hash = question_hash(message, &question);
        if self.asked.len() >= MAX_ASKED {
            self.asked.pop_front();
        }
        let transfer = header.opcode() == QUERY && matches!(question.kind, AXFR | IXFR);
        let since = || record(message, question.end).ok().and_then(|record| serial(message, &record));
        let since = (transfer && header.counts[2] > 0).then(since).flatten();
        self.asked.push_back(Asked { id: header.id, hash, transfer, since });
        // The id is used again: what it stood for is over.
        self.transfers.retain(|transfer| transfer.id != header.id);
        let stream = stream(header.id, hash);
        marks.push(Mark::Begin(Message {
            stream,
            body: Body::Request(Request {
                operation: Operation::Fixed(Cow::Borrowed(operation)),
                target: name(message, question.name).map(Bytes::from),
                ..Request::default()
            }),
        }));
        marks.push(Mark::End { stream });
    }

    fn answer(&mut self, message: &[u8], header: &Header, question: Option<Question>, marks: &mut Vec<Mark>) {
        let behind = question.map_or(HEADER, |question| question.end);
        if let Some(at) = self.transfers.iter().position(|transfer| transfer.id == header.id) {
            if !self.transfers[at].unseen || !begins_zone(message, header, question) {
                self.go_on(at, message, header, behind, marks);
                return;
            }
            self.transfers.remove(at);
        }
        let hash = question.map(|question| question_hash(message, &question));
        let is_meant = |asked: &&Asked| asked.id == header.id && hash.is_none_or(|hash| hash == asked.hash);
        let asked = self.asked.iter().rev().find(is_meant).copied();
        let stream = stream(header.id, hash.or(asked.map(|asked| asked.hash)).unwrap_or(0));
        let is_transfer = match question {
            Some(question) => header.opcode() == QUERY && matches!(question.kind, AXFR | IXFR),
            None => asked.is_some_and(|asked| asked.transfer),
        };
        let records = records(message, header, behind, None);
        let rcode = header.rcode() | records.extended << 4;
        let mut transfer = None;
        if is_transfer && rcode == 0 && header.counts[1] > 0 {
            transfer = begun(header, stream, question, asked.and_then(|asked| asked.since), &records);
        }
        let response = Response {
            status_code: Some(i32::from(rcode)),
            error: match rcode {
                0 => ErrorFor::None,
                2 | 4 => ErrorFor::Both,
                _ => ErrorFor::Client,
            },
            error_type: (rcode != 0).then(|| rcode_name(rcode)),
            rows: transfer.is_none().then(|| u64::from(header.counts[1])),
            ..Response::default()
        };
        marks.push(Mark::Begin(Message { stream, body: Body::Response(response) }));
        match transfer {
            Some(transfer) if self.transfers.len() < MAX_TRANSFERS => self.transfers.push(transfer),
            // Its messages that are still to come are answers to nothing.
            Some(_) => marks.push(Mark::Cut { stream }),
            None => {
                marks.push(Mark::End { stream });
                if let Some(at) = self.asked.iter().rposition(|asked| is_meant(&asked)) {
                    self.asked.remove(at);
                }
            }
        }
    }

    /// A message of a transfer, not the first.
    fn go_on(&mut self, at: usize, message: &[u8], header: &Header, behind: usize, marks: &mut Vec<Mark>) {
        let transfer = &mut self.transfers[at];
        if transfer.lost {
            return;
        }
        let records = records(message, header, behind, transfer.serial);
        let stream = transfer.stream;
        if std::mem::take(&mut transfer.undecided) && !records.begins[0] {
            // No differences: the whole zone, between two SOA records of which one has come.
            (transfer.closing, transfer.serial) = (1, None);
        }
        let closing = if transfer.serial.is_none() { records.soas } else { records.closing };
        transfer.closing = transfer.closing.saturating_sub(closing);
        marks.push(Mark::Part { stream });
        if transfer.closing == 0 || header.rcode() != 0 {
            marks.push(Mark::End { stream });
            self.transfers.remove(at);
        }
    }
}

/// The transfer that a first message begins, unless it is all in this one. `since`: the serial number asked with.
fn begun(
    header: &Header,
    stream: u64,
    question: Option<Question>,
    since: Option<u32>,
    records: &Records,
) -> Option<Transfer> {
    let incremental = question.is_some_and(|question| question.kind == IXFR);
    let alone = header.counts[1] == 1;
    // RFC 1982: what is ahead by less than half of all numbers is newer.
    let is_newer = |serial: u32| since.is_some_and(|since| serial.wrapping_sub(since) as i32 > 0);
    let (closing, serial, undecided) = match records.serial {
        // Unchanged.
        Some(serial) if incremental && alone && !is_newer(serial) => return None,
        // The new serial three times: at the start, before the last additions, at the end.
        Some(serial) if incremental && (alone || records.begins[1]) => {
            (3_u32.saturating_sub(records.closing), Some(serial), alone)
        }
        _ => (2_u32.saturating_sub(records.soas), None, false),
    };
    (closing > 0).then_some(Transfer {
        id: header.id,
        stream,
        closing,
        serial,
        undecided,
        lost: false,
        unseen: false,
    })
}

fn mdns_question(message: &[u8], question: Option<Question>, marks: &mut Vec<Mark>) {
    let Some(question) = question else { return };
    marks.push(Mark::Begin(Message {
        stream: 0,
        body: Body::Request(Request {
            operation: Operation::Fixed(Cow::Borrowed(type_name(question.kind))),
            target: name(message, question.name).map(Bytes::from),
            one_way: true,
            ..Request::default()
        }),
    }));
    marks.push(Mark::End { stream: 0 });
}

fn mdns_answer(message: &[u8], header: &Header, marks: &mut Vec<Mark>) {
    let mut at = HEADER;
    for _ in 0..header.counts[0] {
        let Ok(question) = question(message, at) else { return };
        at = question.end;
    }
    let target = record(message, at).ok().and_then(|record| name(message, record.name));
    let request = Request {
        operation: Operation::Fixed(Cow::Borrowed("announcement")),
        target: target.map(Bytes::from),
        one_way: true,
        ..Request::default()
    };
    marks.push(Mark::Begin(Message { stream: 0, body: Body::Push(request) }));
}

/// Whether it is the first message of a zone (RFC 5936 §2.2): the SOA record comes first there, and apart from that only last. In a transfer of
/// differences it may begin any message.
fn begins_zone(message: &[u8], header: &Header, question: Option<Question>) -> bool {
    let Some(question) = question.filter(|question| question.kind == AXFR) else { return false };
    header.rcode() == 0
        && header.counts[1] > 1
        && record(message, question.end).is_ok_and(|record| record.kind == SOA)
}

impl Parser for DnsParser {
    fn step(&mut self, flow: Flow, buf: &[u8], marks: &mut Vec<Mark>) -> Step {
        let rest = &mut self.rest[flow.index()];
        *rest = None;
        let Some((prefix, behind)) = buf.split_first_chunk::<PREFIX>() else { return Step::NeedMore };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if let Some(header) = Header::read(behind)
            && !self.flavor.takes(&header, length)
        {
            return Step::Invalid("no DNS header");
        }
        let Some(message) = behind.get(..length) else {
            *rest = Some((length - behind.len()) as u64);
            return Step::NeedMore;
        };
        match self.message(flow, message, marks) {
            Ok(()) => Step::Consume { len: (PREFIX + length) as u64 },
            Err(why) => Step::Invalid(why),
        }
    }

    fn resync(&mut self, flow: Flow, missing: u64, buf: &[u8], turn_starts: &[usize]) -> Resync {
        if flow == Flow::Response {
            self.lose_transfers();
        }
        if let Some(rest) = self.rest[flow.index()].take()
            && let Some(rest) = rest.checked_sub(missing)
        {
            if rest <= buf.len() as u64 {
                return Resync::At(rest as usize);
            }
            self.rest[flow.index()] = Some(rest - buf.len() as u64);
            return Resync::NotYet { dropped: buf.len() };
        }
        let wanted = if flow == Flow::Request { Inference::Request } else { Inference::Response };
        for &start in turn_starts {
            match infer(self.flavor, buf.get(start..).unwrap_or_default()) {
                inferred if inferred == wanted => return Resync::At(start),
                Inference::NeedMore => return Resync::NotYet { dropped: start },
                _ => {}
            }
        }
        Resync::NotYet { dropped: buf.len() }
    }

    fn close(&mut self, flow: Flow, _: &mut Vec<Mark>) {
        self.rest[flow.index()] = None;
    }

    fn save(&self) -> Vec<u8> {
        // Plain data into memory: there is no way to fail; and `load` refuses what is empty.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    fn load(&mut self, state: &[u8]) -> bool {
        match postcard::take_from_bytes::<DnsParser>(state) {
            Ok((parser, [])) if parser.is_bounded() => {
                *self = DnsParser { flavor: self.flavor, ..parser };
                true
            }
            _ => false,
        }
    }
}

impl DnsParser {
    fn is_bounded(&self) -> bool {
        self.asked.len() <= MAX_ASKED
            && self.transfers.len() <= MAX_TRANSFERS
            && self.rest.iter().flatten().all(|rest| *rest <= u64::from(u16::MAX))
    }

    /// Responses were lost: what was asked for may have begun, or ended, among them.
    fn lose_transfers(&mut self) {
        for transfer in &mut self.transfers {
            transfer.lost = true;
        }
        for asked in self.asked.iter_mut().filter(|asked| asked.transfer) {
            asked.transfer = false;
            if self.transfers.len() < MAX_TRANSFERS {
                let stream = stream(asked.id, asked.hash);
                let (id, lost) = (asked.id, true);
                self.transfers.push(Transfer {
                    id,
                    stream,
                    closing: 1,
                    serial: None,
                    undecided: false,
                    lost,
                    unseen: true,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_its_question_belongs_to_the_last_of_its_id() {
        let mut parser = DnsParser::new(Flavor::Dns);
        let mut marks = Vec::new();
        let ask = |id: u8, name: &[u8]| {
            let mut message = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.len() as u8];
            message.extend([name, &[0, 0, 1, 0, 1]].concat());
            [&(message.len() as u16).to_be_bytes()[..], &message].concat()
        };
        for (id, name) in [(7, b"a".as_slice()), (8, b"b"), (7, b"c")] {
            let bytes = ask(id, name);
            assert_eq!(
                parser.step(Flow::Request, &bytes, &mut marks),
                Step::Consume { len: bytes.len() as u64 }
            );
        }
        let asked: Vec<u64> = marks.drain(..).step_by(2).filter_map(|mark| mark.stream()).collect();
        let answer = [0, 12, 0, 7, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        for expected in [asked[2], asked[0]] {
            parser.step(Flow::Response, &answer, &mut marks);
            let Some(Mark::Begin(Message { stream, body: Body::Response(response) })) = marks.first() else {
                panic!("{marks:?}")
            };
            assert_eq!((*stream, response.error_type.as_deref()), (expected, Some("FORMERR")));
            marks.clear();
        }
        assert_eq!(infer(Flavor::Dns, &answer), Inference::No, "too little to know it by");
    }
}
