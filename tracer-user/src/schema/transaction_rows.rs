//! Rows of `transactions`: one per transaction, with the columns that JSON and filters name too.
//!
//! Integers are 64-bit and signed, missing values are null, ids are strings, bytes that are not UTF-8 are spelled `\xNN`
//! ([`crate::text::data_text`]): any reader of Parquet opens it as it is.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use arrow_array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray,
    builder::{BooleanBuilder, Int64Builder, StringBuilder},
    cast::AsArray as _,
    types,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;

use super::{
    Fault,
    event_blob::{column, wrong_type},
};
use crate::{
    event::{ConnId, Role, StackEnd},
    protocol::{REGISTRY, TlsFacts},
    text::data_text,
    time::WallTime,
    transaction::{
        Call, CallId, CallStack, Confidence, End, Kind, Network, TimeBasis, Transaction,
        anatomy::{Anatomy, CallSum, Causes, Link, LinkMethod, Lock, N_PARTS, PARTS},
        stacks::StackSum,
    },
};

/// Defines the columns once, in the order of the contract: name, type, whether it may be null.
macro_rules! columns {
    ($($name:literal $type:ident $null:literal,)*) => {
        /// Names of the columns, in their order.
        pub const COLUMNS: &[&str] = &[$($name),*];

        /// The columns, version 5. Version 4 has none of [`SINCE_VERSION_5`], version 3 none of [`SINCE_VERSION_4`] either, version 2 none of [`is_since_version_3`] either, version 1 none of [`SINCE_VERSION_2`] either.
        pub static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
            Arc::new(Schema::new(vec![$(Field::new($name, DataType::$type, $null)),*]))
        });
    };
}

columns! {
    "start_time_ns" Int64 false,
    "request_end_ns" Int64 true,
    "response_start_ns" Int64 true,
    "end_time_ns" Int64 false,
    "duration_ns" Int64 false,
    "ttfb_ns" Int64 true,
    "queue_ns" Int64 true,
    "time_basis" Utf8 false,
    "kind" Utf8 false,
    "role" Utf8 false,
    "protocol" Utf8 false,
    "operation" Utf8 false,
    "target" Utf8 true,
    "namespace" Utf8 true,
    "status_code" Int64 true,
    "error" Boolean false,
    "error_type" Utf8 true,
    "error_message" Utf8 true,
    "rows" Int64 true,
    "pid" Int64 false,
    "tid" Int64 false,
    "comm" Utf8 false,
    "service" Utf8 false,
    "client_addr" Utf8 false,
    "client_port" Int64 true,
    "server_addr" Utf8 false,
    "server_port" Int64 true,
    "tls_library" Utf8 true,
    "tls_version" Utf8 true,
    "tls_sni" Utf8 true,
    "tls_alpn" Utf8 true,
    "request_bytes" Int64 false,
    "response_bytes" Int64 false,
    "request_messages" Int64 true,
    "response_messages" Int64 true,
    "rtt_ns" Int64 true,
    "retransmits" Int64 true,
    "function" Utf8 true,
    "arguments" Utf8 true,
    "return" Utf8 true,
    "parent_id" Utf8 true,
    "root_id" Utf8 true,
    "self_ns" Int64 true,
    "stack" Utf8 true,
    "stack_end" Utf8 true,
    "anatomy_oncpu_ns" Int64 true,
    "anatomy_oncpu_user_ns" Int64 true,
    "anatomy_oncpu_kernel_ns" Int64 true,
    "anatomy_runq_ns" Int64 true,
    "anatomy_offcpu_futex_ns" Int64 true,
    "anatomy_offcpu_disk_ns" Int64 true,
    "anatomy_offcpu_network_ns" Int64 true,
    "anatomy_offcpu_timer_ns" Int64 true,
    "anatomy_offcpu_fault_ns" Int64 true,
    "anatomy_offcpu_pipe_ns" Int64 true,
    "anatomy_offcpu_poll_ns" Int64 true,
    "anatomy_offcpu_busy_ns" Int64 true,
    "anatomy_offcpu_child_ns" Int64 true,
    "anatomy_offcpu_stopped_ns" Int64 true,
    "anatomy_offcpu_other_ns" Int64 true,
    "anatomy_calls_ns" Int64 true,
    "anatomy_sending_ns" Int64 true,
    "anatomy_unattributed_ns" Int64 true,
    "anatomy_shared" Boolean true,
    "anatomy_guessed" Utf8 true,
    "calls" Utf8 true,
    "parent" Utf8 true,
    "link_method" Utf8 true,
    "link_confidence" Utf8 true,
    "trace_id" Utf8 true,
    "stacks" Utf8 true,
    "locks" Utf8 true,
    "end" Utf8 false,
    "confidence" Utf8 false,
    "conn_id" Utf8 false,
    "id" Utf8 false,
    "seq" Int64 false,
}

/// Columns that parts of version 1 do not have: all their values are missing.
pub const SINCE_VERSION_2: &[&str] = &[
    "namespace",
    "error_message",
    "rows",
    "tls_library",
    "tls_version",
    "tls_sni",
    "tls_alpn",
    "request_messages",
    "response_messages",
    "function",
    "arguments",
    "return",
    "parent_id",
    "root_id",
    "self_ns",
    "stack",
    "stack_end",
];

/// Columns that parts of version 3 do not have either; nor do they know links but `thread` and `order`.
pub const SINCE_VERSION_4: &[&str] = &["trace_id", "stacks", "locks"];

/// Columns that parts of version 4 do not have either.
pub const SINCE_VERSION_5: &[&str] = &["rtt_ns", "retransmits", "anatomy_guessed"];

/// Whether parts of version 2 do not have a column either.
pub fn is_since_version_3(name: &str) -> bool {
    PARTS.contains(&name)
        || ["anatomy_shared", "calls", "parent", "link_method", "link_confidence"].contains(&name)
}

/// Transactions as columns.
pub fn encode(transactions: &[Transaction]) -> RecordBatch {
    let all = transactions;
    let number = |value: &dyn Fn(&Transaction) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(all.iter().map(value)))
    };
    let maybe = |value: &dyn Fn(&Transaction) -> Option<i64>| -> ArrayRef {
        let mut builder = Int64Builder::with_capacity(all.len());
        all.iter().for_each(|transaction| builder.append_option(value(transaction)));
        Arc::new(builder.finish())
    };
    let text = |value: &dyn for<'a> Fn(&'a Transaction) -> &'a str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(all.iter().map(value)))
    };
    let maybe_text = |value: &dyn for<'a> Fn(&'a Transaction) -> Option<Cow<'a, str>>| -> ArrayRef {
        let mut builder = StringBuilder::with_capacity(all.len(), all.len() * 16);
        all.iter().for_each(|transaction| builder.append_option(value(transaction)));
        Arc::new(builder.finish())
    };
    let errors = {
        let mut builder = BooleanBuilder::with_capacity(all.len());
        all.iter().for_each(|transaction| builder.append_value(transaction.error));
        Arc::new(builder.finish())
    };
    let ids = |value: &dyn Fn(&Transaction, &mut String)| -> ArrayRef {
        let mut builder = StringBuilder::with_capacity(all.len(), all.len() * 20);
        let mut id = String::with_capacity(40);
        for transaction in all {
            id.clear();
            value(transaction, &mut id);
            builder.append_value(&id);
        }
        Arc::new(builder.finish())
    };
    let shared = {
        let mut builder = BooleanBuilder::with_capacity(all.len());
        let shared = |t: &Transaction| Some(t.causes.as_ref()?.anatomy?.is_shared);
        all.iter().for_each(|transaction| builder.append_option(shared(transaction)));
        Arc::new(builder.finish())
    };
    let causes: Vec<ArrayRef> = (0..N_PARTS)
        .map(|i| maybe(&|t| t.causes.as_ref()?.anatomy?.parts()[i].map(signed)))
        .chain([
            shared as ArrayRef,
            maybe_text(&|t| Some(Cow::Owned(t.causes.as_ref()?.anatomy?.guesses_as_json()))),
            maybe_text(&|t| Some(Cow::Owned(CallSum::as_json(t.causes.as_ref()?.calls()?)))),
            maybe_text(&|t| t.parent().map(|id| Cow::Owned(id.to_string()))),
            maybe_text(&|t| t.causes.as_ref()?.link.map(|link| Cow::Borrowed(link.method.as_str()))),
            maybe_text(&|t| t.causes.as_ref()?.link.map(|link| Cow::Borrowed(link.method.confidence()))),
            maybe_text(&|t| t.trace_id.as_deref().map(Cow::Borrowed)),
            maybe_text(&|t| Some(Cow::Owned(StackSum::as_json(t.causes.as_ref()?.stacks()?)))),
            maybe_text(&|t| Some(Cow::Owned(Lock::as_json(t.causes.as_ref()?.locks()?)))),
        ])
        .collect();
    let mut columns: Vec<ArrayRef> = vec![
        number(&|t| signed(t.start_time.0)),
        maybe(&|t| t.request_end.map(|time| signed(time.0))),
        maybe(&|t| t.response_start.map(|time| signed(time.0))),
        number(&|t| signed(t.end_time.0)),
        number(&|t| t.duration_ns),
        maybe(&|t| t.ttfb_ns.map(signed)),
        maybe(&|t| t.queue_ns.map(signed)),
        text(&|t| t.time_basis.as_str()),
        text(&|t| t.kind.as_str()),
        text(&|t| role_text(t.role)),
        text(&|t| t.protocol),
        text(&|t| &t.operation),
        maybe_text(&|t| t.target.as_deref().map(data_text)),
        maybe_text(&|t| t.namespace.as_deref().map(data_text)),
        maybe(&|t| t.status_code.map(i64::from)),
        errors,
        maybe_text(&|t| t.error_type.as_deref().map(Cow::Borrowed)),
        maybe_text(&|t| t.error_message.as_deref().map(data_text)),
        maybe(&|t| t.rows.map(signed)),
        number(&|t| i64::from(t.pid)),
        number(&|t| i64::from(t.tid)),
        text(&|t| &t.comm),
        text(&|t| &t.service),
        text(&|t| &t.client_addr),
        maybe(&|t| t.client_port.map(i64::from)),
        text(&|t| &t.server_addr),
        maybe(&|t| t.server_port.map(i64::from)),
        maybe_text(&|t| t.tls.as_ref()?.library.as_deref().map(Cow::Borrowed)),
        maybe_text(&|t| t.tls.as_ref()?.version.as_deref().map(Cow::Borrowed)),
        maybe_text(&|t| t.tls.as_ref()?.sni.as_deref().map(Cow::Borrowed)),
        maybe_text(&|t| t.tls.as_ref()?.alpn.as_deref().map(Cow::Borrowed)),
        number(&|t| signed(t.request_bytes)),
        number(&|t| signed(t.response_bytes)),
        maybe(&|t| t.request_messages.map(signed)),
        maybe(&|t| t.response_messages.map(signed)),
        maybe(&|t| t.network?.rtt_ns().map(signed)),
        maybe(&|t| Some(t.network?.retransmits.into())),
        maybe_text(&|t| t.call.as_ref().map(|call| Cow::Borrowed(&*call.function))),
        maybe_text(&|t| t.call.as_ref().map(|call| Cow::Borrowed(&*call.arguments))),
        maybe_text(&|t| t.call.as_ref()?.returned.as_deref().map(Cow::Borrowed)),
        maybe_text(&|t| t.call.as_ref()?.parent.map(|id| Cow::Owned(id.to_string()))),
        maybe_text(&|t| t.call.as_ref()?.root.map(|id| Cow::Owned(id.to_string()))),
        maybe(&|t| t.call.as_ref().map(|call| signed(call.self_ns))),
        maybe_text(&|t| Some(Cow::Borrowed(&*t.call.as_ref()?.stack.as_ref()?.frames))),
        maybe_text(&|t| Some(Cow::Borrowed(t.call.as_ref()?.stack.as_ref()?.end.as_str()))),
    ];
    columns.extend(causes);
    columns.extend([
        text(&|t| t.end.as_str()),
        text(&|t| t.confidence.as_str()),
        ids(&|t, out| push_hex(out, t.on_wire().0)),
        ids(&|t, out| {
            use std::fmt::Write as _;
            push_hex(out, t.conn.0);
            // Writing to a String cannot fail.
            let _ = write!(out, "-{}", t.ordinal);
        }),
        number(&|t| signed(t.seq)),
    ]);
    // INVARIANT: as many columns as fields, each of its field's type, all of `transactions.len()` rows.
    RecordBatch::try_new(SCHEMA.clone(), columns).expect("columns match the schema")
}

/// 64-bit counts beyond 2^63 do not occur (292 years, 9 exabytes); should one, it is shown as the largest number.
pub(super) fn signed(value: u64) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

fn push_hex(out: &mut String, value: u64) {
    for shift in (0..16).rev() {
        out.push(char::from(b"0123456789abcdef"[(value >> (4 * shift)) as usize & 15]));
    }
}

pub(super) fn role_text(role: Role) -> &'static str {
    match role {
        Role::Client => "client",
        Role::Server => "server",
        Role::Unknown => "unknown",
    }
}

pub(super) fn role_of(text: &str) -> Option<Role> {
    [Role::Client, Role::Server, Role::Unknown].into_iter().find(|role| role_text(*role) == text)
}

/// Columns as transactions. `names` makes equal texts share their memory: keep it from batch to batch.
pub fn decode(batch: &RecordBatch, names: &mut Names) -> Result<Vec<Transaction>, Fault> {
    let int = |name| -> Result<&Int64Array, Fault> {
        column(batch, name)?.as_primitive_opt::<types::Int64Type>().ok_or_else(|| wrong_type(name))
    };
    let text = |name| -> Result<&StringArray, Fault> {
        column(batch, name)?.as_string_opt::<i32>().ok_or_else(|| wrong_type(name))
    };
    let flag = |name| -> Result<&BooleanArray, Fault> {
        column(batch, name)?.as_boolean_opt().ok_or_else(|| wrong_type(name))
    };
    let (start_time, request_end, response_start) =
        (int("start_time_ns")?, int("request_end_ns")?, int("response_start_ns")?);
    let (end_time, duration, ttfb, queue) =
        (int("end_time_ns")?, int("duration_ns")?, int("ttfb_ns")?, int("queue_ns")?);
    let (time_basis, kind, role, protocol) =
        (text("time_basis")?, text("kind")?, text("role")?, text("protocol")?);
    let (operation, target, status, error, error_type) =
        (text("operation")?, text("target")?, int("status_code")?, flag("error")?, text("error_type")?);
    let (pid, tid, comm, service) = (int("pid")?, int("tid")?, text("comm")?, text("service")?);
    let (client_addr, client_port) = (text("client_addr")?, int("client_port")?);
    let (server_addr, server_port) = (text("server_addr")?, int("server_port")?);
    let (request_bytes, response_bytes) = (int("request_bytes")?, int("response_bytes")?);
    let is_there = |name: &str| batch.schema_ref().column_with_name(name).is_some();
    let later_int = |name| is_there(name).then(|| int(name)).transpose();
    let later_text = |name| is_there(name).then(|| text(name)).transpose();
    let (namespace, error_message) = (later_text("namespace")?, later_text("error_message")?);
    let (rows, request_messages, response_messages) =
        (later_int("rows")?, later_int("request_messages")?, later_int("response_messages")?);
    let (rtt, retransmits) = (later_int("rtt_ns")?, later_int("retransmits")?);
    let tls = [
        later_text("tls_library")?,
        later_text("tls_version")?,
        later_text("tls_sni")?,
        later_text("tls_alpn")?,
    ];
    let call_texts = [
        later_text("function")?,
        later_text("arguments")?,
        later_text("return")?,
        later_text("parent_id")?,
        later_text("root_id")?,
    ];
    let self_ns = later_int("self_ns")?;
    let (stack, stack_end) = (later_text("stack")?, later_text("stack_end")?);
    let mut parts = [None; N_PARTS];
    for (part, name) in parts.iter_mut().zip(PARTS) {
        *part = later_int(name)?;
    }
    let shared = is_there("anatomy_shared").then(|| flag("anatomy_shared")).transpose()?;
    let [guessed, calls, parent, link_method, stacks, locks] = [
        later_text("anatomy_guessed")?,
        later_text("calls")?,
        later_text("parent")?,
        later_text("link_method")?,
        later_text("stacks")?,
        later_text("locks")?,
    ];
    let trace_id = later_text("trace_id")?;
    let (end, confidence, conn_id) = (text("end")?, text("confidence")?, text("conn_id")?);
    let (id, seq) = (text("id")?, int("seq")?);

    let mut out = Vec::with_capacity(batch.num_rows());
    for i in 0..batch.num_rows() {
        let bad = |name: &str| Fault::Damaged(format!("row {i}: {name} is not one of its values"));
        let maybe = |array: &Int64Array| array.is_valid(i).then(|| array.value(i));
        let maybe_text = |array: &StringArray| array.is_valid(i).then(|| array.value(i).to_owned());
        let maybe_bytes = |array: &StringArray| {
            array.is_valid(i).then(|| Bytes::copy_from_slice(array.value(i).as_bytes()))
        };
        let later_count = |array: Option<&Int64Array>, name: &str| {
            let value = array.and_then(maybe);
            value.map(|value| u64::try_from(value).map_err(|_| bad(name))).transpose()
        };
        let (conn, ordinal) = parse_id(id.value(i)).ok_or_else(|| bad("id"))?;
        let on_wire = u64::from_str_radix(conn_id.value(i), 16).map_err(|_| bad("conn_id"))?;
        let port = |array: &Int64Array, name: &str| {
            maybe(array).map(|port| u16::try_from(port).map_err(|_| bad(name))).transpose()
        };
        let count = |array: &Int64Array, name: &str| u64::try_from(array.value(i)).map_err(|_| bad(name));
        let pid_of = |array: &Int64Array, name: &str| u32::try_from(array.value(i)).map_err(|_| bad(name));
        out.push(Transaction {
            start_time: WallTime(count(start_time, "start_time_ns")?),
            request_end: maybe(request_end).map(|time| WallTime(time as u64)),
            response_start: maybe(response_start).map(|time| WallTime(time as u64)),
            end_time: WallTime(count(end_time, "end_time_ns")?),
            duration_ns: duration.value(i),
            ttfb_ns: maybe(ttfb).map(|time| time as u64),
            queue_ns: maybe(queue).map(|time| time as u64),
            time_basis: TimeBasis::parse(time_basis.value(i)).ok_or_else(|| bad("time_basis"))?,
            kind: Kind::parse(kind.value(i)).ok_or_else(|| bad("kind"))?,
            role: role_of(role.value(i)).ok_or_else(|| bad("role"))?,
            protocol: REGISTRY
                .iter()
                .map(|protocol| protocol.name())
                .find(|name| *name == protocol.value(i))
                // Of a function's call there is none.
                .unwrap_or(if protocol.value(i).is_empty() { "" } else { "unknown" }),
            operation: names.share(operation.value(i)),
            target: maybe_bytes(target),
            namespace: namespace.and_then(maybe_bytes),
            status_code: maybe(status)
                .map(|code| i32::try_from(code).map_err(|_| bad("status_code")))
                .transpose()?,
            error: error.value(i),
            error_type: maybe_text(error_type).map(Cow::Owned),
            error_message: error_message.and_then(maybe_bytes),
            rows: later_count(rows, "rows")?,
            pid: pid_of(pid, "pid")?,
            tid: pid_of(tid, "tid")?,
            comm: names.share(comm.value(i)),
            service: names.share(service.value(i)),
            client_addr: names.share(client_addr.value(i)),
            client_port: port(client_port, "client_port")?,
            server_addr: names.share(server_addr.value(i)),
            server_port: port(server_port, "server_port")?,
            tls: names.share_tls(
                tls.map(|array| array.filter(|array| array.is_valid(i)).map(|array| array.value(i))),
            ),
            trace_id: trace_id.and_then(maybe_text).map(Arc::from),
            request_bytes: count(request_bytes, "request_bytes")?,
            response_bytes: count(response_bytes, "response_bytes")?,
            request_messages: later_count(request_messages, "request_messages")?,
            response_messages: later_count(response_messages, "response_messages")?,
            network: match (later_count(rtt, "rtt_ns")?, later_count(retransmits, "retransmits")?) {
                (rtt_ns, Some(n)) => Some(Network {
                    rtt_us: (rtt_ns.unwrap_or(0) / 1_000).try_into().map_err(|_| bad("rtt_ns"))?,
                    retransmits: n.try_into().map_err(|_| bad("retransmits"))?,
                }),
                (_, None) => None,
            },
            call: {
                let [function, arguments, returned, parent, root] = call_texts
                    .map(|array| array.filter(|array| array.is_valid(i)).map(|array| array.value(i)));
                let id = |text: Option<&str>, name: &str| {
                    text.map(|text| text.parse::<CallId>().map_err(|()| bad(name))).transpose()
                };
                match function {
                    Some(function) => Some(Arc::new(Call {
                        function: names.share(function),
                        arguments: names.share(arguments.unwrap_or("[]")),
                        returned: returned.map(|text| names.share(text)),
                        parent: id(parent, "parent_id")?,
                        root: id(root, "root_id")?,
                        self_ns: later_count(self_ns, "self_ns")?.unwrap_or(0),
                        stack: match [stack, stack_end]
                            .map(|array| array.filter(|array| array.is_valid(i)).map(|array| array.value(i)))
                        {
                            [Some(frames), Some(end)] => Some(CallStack {
                                frames: names.share(frames),
                                end: StackEnd::parse(end).ok_or_else(|| bad("stack_end"))?,
                            }),
                            _ => None,
                        },
                    })),
                    None => None,
                }
            },
            causes: {
                let text = |array: Option<&'_ StringArray>| {
                    array.filter(|array| array.is_valid(i)).map(|array| array.value(i).to_owned())
                };
                let mut values = [None; N_PARTS];
                for ((value, part), name) in values.iter_mut().zip(parts).zip(PARTS) {
                    *value = later_count(part, name)?;
                }
                let shared = shared.filter(|array| array.is_valid(i)).map(|array| array.value(i));
                let link = match (text(parent), text(link_method)) {
                    (Some(parent), Some(method)) => Some(Link {
                        parent: parent.parse::<CallId>().map_err(|()| bad("parent"))?,
                        method: LinkMethod::parse(&method).ok_or_else(|| bad("link_method"))?,
                    }),
                    _ => None,
                };
                let guessed = match text(guessed) {
                    Some(names) => {
                        Some(Anatomy::guessed_from_json(&names).ok_or_else(|| bad("anatomy_guessed"))?)
                    }
                    None => None,
                };
                let causes = Causes {
                    anatomy: shared.map(|shared| Anatomy::from_parts(values, shared, guessed)),
                    calls: match text(calls) {
                        Some(calls) => CallSum::from_json(&calls).ok_or_else(|| bad("calls"))?,
                        None => Vec::new(),
                    },
                    link,
                    stacks: match text(stacks) {
                        Some(stacks) => StackSum::from_json(&stacks).ok_or_else(|| bad("stacks"))?,
                        None => Vec::new(),
                    },
                    locks: match text(locks) {
                        Some(locks) => Lock::from_json(&locks).ok_or_else(|| bad("locks"))?,
                        None => Vec::new(),
                    },
                };
                (causes != Causes::default()).then(|| Box::new(causes))
            },
            end: End::parse(end.value(i)).ok_or_else(|| bad("end"))?,
            confidence: Confidence::parse(confidence.value(i)).ok_or_else(|| bad("confidence"))?,
            conn: ConnId(conn),
            carrier: Some(ConnId(on_wire)).filter(|carrier| *carrier != ConnId(conn)),
            ordinal,
            seq: count(seq, "seq")?,
        });
    }
    Ok(out)
}

fn parse_id(id: &str) -> Option<(u64, u64)> {
    let (conn, ordinal) = id.split_once('-')?;
    Some((u64::from_str_radix(conn, 16).ok()?, ordinal.parse().ok()?))
}

/// Texts that were seen, shared. Bounded: when full it begins anew.
#[derive(Debug, Default)]
pub struct Names {
    texts: HashMap<Box<str>, Arc<str>>,
    /// The facts of the row before: mostly those of the next, too.
    tls: Option<Arc<TlsFacts>>,
}

impl Names {
    /// Texts held at once: 65,536 operations, services and addresses.
    const MAX: usize = 65_536;

    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(shared) = self.texts.get(text) {
            return shared.clone();
        }
        if self.texts.len() >= Self::MAX {
            self.texts.clear();
        }
        let shared: Arc<str> = text.into();
        self.texts.insert(text.into(), shared.clone());
        shared
    }

    /// Library, version, SNI and ALPN; without any of them nothing is known.
    fn share_tls(&mut self, columns: [Option<&str>; 4]) -> Option<Arc<TlsFacts>> {
        if columns == [None; 4] {
            return None;
        }
        let is_same = |TlsFacts { library, version, sni, alpn }: &TlsFacts| {
            [library, version, sni, alpn].map(Option::as_deref) == columns
        };
        if !self.tls.as_deref().is_some_and(is_same) {
            let [library, version, sni, alpn] =
                columns.map(|text| text.map(|text| Cow::Owned(text.to_owned())));
            self.tls = Some(Arc::new(TlsFacts { library, version, sni, alpn }));
        }
        self.tls.clone()
    }
}
