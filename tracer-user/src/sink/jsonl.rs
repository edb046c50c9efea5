//! JSON lines: one object per transaction and line. The order of the keys and their types are a contract.
//!
//! Written by hand into one reusable buffer: no map and no allocation per row. Characters that a terminal would obey
//! (and lone control characters) leave as `\uXXXX`, which any JSON reader turns back; bytes that are not UTF-8 are
//! spelled `\xNN` in the string itself.

use std::io::{self, Write};

use super::{Sink, SinkError};
use crate::{
    protocol::TlsFacts,
    text::{data_text, push_json},
    transaction::{
        Call, Network, Transaction, TransactionBatch,
        anatomy::{Anatomy, CallSum, Link, Lock, Reason},
        stacks::StackSum,
    },
};

/// The keys of a row, in order: JSON keys = Parquet columns = filter fields. `tls` is an object: of columns `tls_…`, of fields `tls.…`.
pub const KEYS: [&str; 46] = [
    "start_time_ns",
    "request_end_ns",
    "response_start_ns",
    "end_time_ns",
    "duration_ns",
    "ttfb_ns",
    "queue_ns",
    "time_basis",
    "kind",
    "role",
    "protocol",
    "operation",
    "target",
    "namespace",
    "status_code",
    "error",
    "error_type",
    "error_message",
    "rows",
    "pid",
    "tid",
    "comm",
    "service",
    "client_addr",
    "client_port",
    "server_addr",
    "server_port",
    "tls",
    "request_bytes",
    "response_bytes",
    "request_messages",
    "response_messages",
    "rtt_ns",
    "retransmits",
    "anatomy",
    "calls",
    "parent",
    "link",
    "trace_id",
    "stacks",
    "locks",
    "end",
    "confidence",
    "conn_id",
    "id",
    "seq",
];

/// The keys that rows of functions' calls have beside those, before `anatomy`.
pub const CALL_KEYS: [&str; 8] =
    ["function", "arguments", "return", "parent_id", "root_id", "self_ns", "stack", "stack_end"];

/// Appends one object and a line feed.
pub fn write_transaction(out: &mut Vec<u8>, transaction: &Transaction) {
    // Destructured whole: a new field of the record must be decided on here.
    let Transaction {
        start_time,
        request_end,
        response_start,
        end_time,
        duration_ns,
        ttfb_ns,
        queue_ns,
        time_basis,
        kind,
        role,
        protocol,
        operation,
        target,
        namespace,
        status_code,
        error,
        error_type,
        error_message,
        rows,
        pid,
        tid,
        comm,
        service,
        client_addr,
        client_port,
        server_addr,
        server_port,
        tls,
        trace_id,
        request_bytes,
        response_bytes,
        request_messages,
        response_messages,
        call,
        causes,
        network,
        end,
        confidence,
        conn,
        carrier: _,
        ordinal,
        seq,
    } = transaction;
    let mut row = Row { out, first: true };
    row.number("start_time_ns", Some(start_time.0));
    row.number("request_end_ns", request_end.map(|time| time.0));
    row.number("response_start_ns", response_start.map(|time| time.0));
    row.number("end_time_ns", Some(end_time.0));
    row.number("duration_ns", Some(duration_ns));
    row.number("ttfb_ns", *ttfb_ns);
    row.number("queue_ns", *queue_ns);
    row.text("time_basis", Some(time_basis.as_str()));
    row.text("kind", Some(kind.as_str()));
    row.text("role", Some(role.as_str()));
    row.text("protocol", Some(*protocol).filter(|name| !name.is_empty()));
    row.text("operation", Some(operation));
    row.text("target", target.as_deref().map(data_text).as_deref());
    row.text("namespace", namespace.as_deref().map(data_text).as_deref());
    row.number("status_code", *status_code);
    row.number("error", Some(error));
    row.text("error_type", error_type.as_deref());
    row.text("error_message", error_message.as_deref().map(data_text).as_deref());
    row.number("rows", *rows);
    row.number("pid", Some(pid));
    row.number("tid", Some(tid));
    row.text("comm", Some(comm));
    row.text("service", Some(service));
    row.text("client_addr", Some(client_addr.as_ref()).filter(|text| !text.is_empty()));
    row.number("client_port", *client_port);
    row.text("server_addr", Some(server_addr.as_ref()).filter(|text| !text.is_empty()));
    row.number("server_port", *server_port);
    row.tls("tls", tls.as_deref());
    row.number("request_bytes", Some(request_bytes));
    row.number("response_bytes", Some(response_bytes));
    row.number("request_messages", *request_messages);
    row.number("response_messages", *response_messages);
    row.number("rtt_ns", network.and_then(Network::rtt_ns));
    row.number("retransmits", network.map(|network| network.retransmits));
    if let Some(call) = call {
        let Call { function, arguments, returned, parent, root, self_ns, stack } = &**call;
        row.text("function", Some(function));
        // Both are JSON as they are.
        row.number("arguments", Some(arguments));
        row.number("return", returned.as_ref());
        row.number("parent_id", parent.map(|id| format!("\"{id}\"")));
        row.number("root_id", root.map(|id| format!("\"{id}\"")));
        row.number("self_ns", Some(self_ns));
        row.number("stack", stack.as_ref().map(|stack| &stack.frames));
        row.text("stack_end", stack.as_ref().map(|stack| stack.end.as_str()));
    }
    let anatomy = causes.as_ref().and_then(|causes| causes.anatomy.as_ref());
    row.anatomy("anatomy", anatomy, *queue_ns);
    row.calls("calls", causes.as_ref().and_then(|causes| causes.calls()));
    row.number("parent", transaction.parent().map(|id| format!("\"{id}\"")));
    row.link("link", causes.as_ref().and_then(|causes| causes.link.as_ref()));
    row.text("trace_id", trace_id.as_deref());
    let stacks = causes.as_ref().and_then(|causes| causes.stacks());
    row.number("stacks", stacks.map(StackSum::as_json));
    row.number("locks", causes.as_ref().and_then(|causes| causes.locks()).map(Lock::as_json));
    row.text("end", Some(end.as_str()));
    row.text("confidence", Some(confidence.as_str()));
    row.number("conn_id", Some(format_args!("\"{:016x}\"", transaction.on_wire().0)));
    row.number("id", Some(format_args!("\"{:016x}-{ordinal}\"", conn.0)));
    row.number("seq", Some(seq));
    row.out.extend_from_slice(b"}\n");
}

/// Appends the key `tls` and what is known of a connection's TLS.
pub fn push_tls(out: &mut Vec<u8>, facts: Option<&TlsFacts>) {
    let mut row = Row { out, first: false };
    row.tls("tls", facts);
}

struct Row<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Row<'_> {
    fn key(&mut self, key: &str) {
        self.out.extend_from_slice(if self.first { b"{\"" } else { b",\"" });
        self.first = false;
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A value whose `Display` is JSON.
    fn number(&mut self, key: &str, value: Option<impl std::fmt::Display>) {
        self.key(key);
        match value {
            // Writing to a Vec cannot fail.
            Some(value) => drop(write!(self.out, "{value}")),
            None => self.out.extend_from_slice(b"null"),
        }
    }

    /// One object: of it all keys, or `null` without any.
    fn tls(&mut self, key: &str, facts: Option<&TlsFacts>) {
        self.key(key);
        let Some(TlsFacts { library, version, sni, alpn }) = facts else {
            return self.out.extend_from_slice(b"null");
        };
        let mut object = Row { out: self.out, first: true };
        object.text("library", library.as_deref());
        object.text("version", version.as_deref());
        object.text("sni", sni.as_deref());
        object.text("alpn", alpn.as_deref());
        object.out.push(b'}');
    }

    /// One object, or `null`. Reasons for which it did not wait are left out.
    fn anatomy(&mut self, key: &str, anatomy: Option<&Anatomy>, queue_ns: Option<u64>) {
        self.key(key);
        let Some(anatomy) = anatomy else { return self.out.extend_from_slice(b"null") };
        let split = |ns: u64| anatomy.is_split.then_some(ns);
        let mut object = Row { out: self.out, first: true };
        object.number("queued_ns", queue_ns);
        object.number("oncpu_ns", Some(anatomy.on_cpu_ns()));
        object.number("oncpu_user_ns", split(anatomy.user_ns));
        object.number("oncpu_kernel_ns", split(anatomy.kernel_ns));
        object.number("runq_ns", Some(anatomy.runq_ns));
        object.key("offcpu_ns");
        let mut reasons = Row { out: object.out, first: true };
        for (reason, ns) in Reason::ALL.into_iter().zip(anatomy.off_ns) {
            if ns > 0 {
                reasons.number(reason.as_str(), Some(ns));
            }
        }
        reasons.out.extend_from_slice(if reasons.first { b"{}" } else { b"}" });
        object.number("calls_ns", Some(anatomy.calls_ns));
        object.number("sending_ns", Some(anatomy.sending_ns));
        object.number("unattributed_ns", Some(anatomy.unattributed_ns));
        object.number("shared", Some(anatomy.is_shared));
        object.key("guessed");
        object.out.extend_from_slice(anatomy.guesses_as_json().as_bytes());
        object.out.push(b'}');
    }

    /// An array of objects, or `null`.
    fn calls(&mut self, key: &str, calls: Option<&[CallSum]>) {
        self.key(key);
        let Some(calls) = calls else { return self.out.extend_from_slice(b"null") };
        self.out.push(b'[');
        for (i, CallSum { kind, peer, count, ns }) in calls.iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            let mut object = Row { out: self.out, first: true };
            object.text("kind", Some(kind));
            object.text("peer", Some(peer));
            object.number("count", Some(count));
            object.number("ns", Some(ns));
            object.out.push(b'}');
        }
        self.out.push(b']');
    }

    /// One object, or `null`.
    fn link(&mut self, key: &str, link: Option<&Link>) {
        self.key(key);
        let Some(link) = link else { return self.out.extend_from_slice(b"null") };
        let mut object = Row { out: self.out, first: true };
        object.text("method", Some(link.method.as_str()));
        object.text("confidence", Some(link.method.confidence()));
        object.out.push(b'}');
    }

    fn text(&mut self, key: &str, value: Option<&str>) {
        self.key(key);
        match value {
            Some(value) => push_json(self.out, value),
            None => self.out.extend_from_slice(b"null"),
        }
    }
}

/// Writes rows to `W`.
pub struct JsonLines<W> {
    writer: W,
    buffer: Vec<u8>,
    on_closed: Box<dyn Fn() + Send>,
    closed: bool,
}

/// Written through whenever so much has gathered, so that the buffer stays bounded whatever a batch holds.
const FLUSH_BYTES: usize = 256 * 1024;

impl<W: Write + Send> JsonLines<W> {
    /// Rows go to `writer`. When its reader closes the pipe `on_closed` is called, once, and the rest goes nowhere.
    pub fn new(writer: W, on_closed: impl Fn() + Send + 'static) -> JsonLines<W> {
        JsonLines { writer, buffer: Vec::new(), on_closed: Box::new(on_closed), closed: false }
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        if self.closed {
            self.buffer.clear();
            return Ok(());
        }
        let result = self.writer.write_all(&self.buffer).and_then(|()| self.writer.flush());
        self.buffer.clear();
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                (self.on_closed)();
                Ok(())
            }
            result => result.map_err(|source| SinkError {
                sink: "jsonl",
                doing: "write to standard output".to_owned(),
                source: Box::new(source),
            }),
        }
    }
}

impl<W: Write + Send> Sink for JsonLines<W> {
    fn name(&self) -> &'static str {
        "jsonl"
    }

    fn write(&mut self, batch: &TransactionBatch) -> Result<(), SinkError> {
        for transaction in &batch.transactions {
            write_transaction(&mut self.buffer, transaction);
            if self.buffer.len() >= FLUSH_BYTES {
                self.flush()?;
            }
        }
        if self.buffer.is_empty() { Ok(()) } else { self.flush() }
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use bytes::Bytes;
    use serde_json::Value;

    use super::*;
    use crate::sink::compliance::{self, transaction};

    fn line(transaction: &Transaction) -> String {
        let mut out = Vec::new();
        write_transaction(&mut out, transaction);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_row_is_exactly_this_line() {
        assert_eq!(
            line(&Transaction {
                status_code: None,
                client_port: None,
                client_addr: "".into(),
                ..transaction(1)
            }),
            "{\"start_time_ns\":1700000000010000000,\"request_end_ns\":1700000000010010000,\
             \"response_start_ns\":1700000000011190000,\"end_time_ns\":1700000000011200000,\
             \"duration_ns\":1200000,\"ttfb_ns\":1180000,\"queue_ns\":null,\"time_basis\":\"exit\",\
             \"kind\":\"request\",\"role\":\"server\",\"protocol\":\"http1\",\
             \"operation\":\"GET /item/{id}\",\"target\":\"/item/1\",\"namespace\":null,\
             \"status_code\":null,\"error\":false,\"error_type\":null,\"error_message\":null,\"rows\":null,\"pid\":100,\"tid\":101,\"comm\":\"shop\",\"service\":\"shop\",\
             \"client_addr\":null,\"client_port\":null,\"server_addr\":\"127.0.0.1\",\"server_port\":80,\"tls\":null,\
             \"request_bytes\":80,\"response_bytes\":400,\"request_messages\":null,\
             \"response_messages\":null,\"rtt_ns\":null,\"retransmits\":null,\"anatomy\":null,\"calls\":null,\"parent\":null,\"link\":null,\"trace_id\":null,\"stacks\":null,\"locks\":null,\"end\":\"answered\",\"confidence\":\"complete\",\
             \"conn_id\":\"000000000000abcd\",\"id\":\"000000000000abcd-1\",\"seq\":1}\n"
        );
    }

    #[test]
    fn what_is_known_of_tls_is_an_object() {
        let facts = TlsFacts {
            version: Some("TLSv1.2".into()),
            sni: Some("shop\u{1b}.example".into()),
            ..TlsFacts::default()
        };
        let line = line(&Transaction { tls: Some(Arc::new(facts)), ..transaction(0) });
        let tls = "\"tls\":{\"library\":null,\"version\":\"TLSv1.2\",\"sni\":\"shop\\u001b.example\",\"alpn\":null},\"request_bytes\"";
        assert!(line.contains(tls), "{line}");
    }

    #[test]
    fn the_keys_are_the_contract_in_its_order() {
        let line = line(&transaction(0));
        let mut at = 0;
        for key in KEYS {
            let found = line[at..].find(&format!("\"{key}\":"));
            at += found.unwrap_or_else(|| panic!("{key} is missing or out of order"));
        }
        let Value::Object(object) = serde_json::from_str(&line).unwrap() else { panic!("no object") };
        assert_eq!(object.len(), KEYS.len());
    }

    #[test]
    fn hostile_bytes_come_back_from_a_json_reader_and_move_no_terminal() {
        let hostile = "\u{1b}]0;x\u{7}\"\\\n\u{9b}31m\u{202e}\u{e0001}나";
        let line = line(&Transaction {
            target: Some(Bytes::from([hostile.as_bytes(), b"\xff"].concat())),
            comm: hostile.into(),
            ..transaction(0)
        });
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["comm"], hostile);
        assert_eq!(value["target"], format!("{hostile}\\xff"));
        assert!(line.trim_end().chars().all(|c| !c.is_control() && c != '\u{202e}'));
        assert_eq!(line.matches('\n').count(), 1);
    }

    struct Closed(Arc<AtomicUsize>);
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_is_told_once() {
        let (writes, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = told.clone();
        let mut sink = JsonLines::new(Closed(writes.clone()), move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        for batch in compliance::batches(3) {
            sink.write(&batch).unwrap();
        }
        sink.finish().unwrap();
        assert_eq!((writes.load(Ordering::Relaxed), told.load(Ordering::Relaxed)), (1, 1));
    }

    #[derive(Clone, Default)]
    struct SharedVec(Arc<Mutex<Vec<u8>>>);
    impl Write for SharedVec {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_sink_complies() {
        compliance::check(|| {
            let out = SharedVec::default();
            let read = out.clone();
            (JsonLines::new(out, || ()), move || read.0.lock().unwrap().clone())
        });
    }
}
