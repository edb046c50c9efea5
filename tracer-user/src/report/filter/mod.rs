//! The filter language: `duration >= 100ms and (status_code in (500, 503) or target ~ '/api/**')`.
//!
//! Fields are the columns of a row (`_ns` may be left off; `tls_version` is `tls.version` too, as in JSON). Operators: `= != < <= > >=`,
//! `~` glob, `=~` regular expression, `in (…)`; joined by `and`, `or`, `not` and parentheses. A comparison with a missing value is false,
//! whatever the operator (so that `not` of it is true); `field = null` and `field != null` ask for it. Units: `us ms s
//! m h` of fields in ns, `KB MB GB` (1,024) of counts of bytes; times are RFC 3339 or ns. In globs of paths
//! (`target`, `operation`) `*` stops at `/` and `**` does not; elsewhere `*` takes everything.
//!
//! In a recording a filter leaves out row groups that cannot match ([`Filter::may_match`]). It never narrows what the kernel
//! captures, because that would change which transactions there are:
//!
//! * `pid`, `tid`, `comm`, `service` are of the thread that moved the first byte of the request. The answer may be written by
//!   another process, the connection accepted by a third (workers that share sockets): without their calls the answer is a
//!   gap. Roles of old connections come from listening sockets, which may belong to others, too.
//! * Ports are a connection's, and never change. Still, names of operations are learned from all calls of a service: on one
//!   that listens on two ports, those of one port would get other names.
//! * Everything else is known only when the transaction is over.
//!
//! And what a filter left out is counted (`filtered`), which takes having seen it. Whoever wants less captured says so with
//! the targets (`--pid`, `--comm`, `--port`, …).

mod parse;
mod prune;

use std::{borrow::Cow, rc::Rc, time::Duration};

use crate::{
    config::Span,
    event::ConnId,
    protocol::TlsFacts,
    schema::groups::ColumnFacts,
    text::data_text,
    transaction::{
        Call, CallId, Kind, Network, Transaction,
        anatomy::{CallSum, LinkMethod, Lock},
        stacks::StackSum,
    },
};

/// Expressions nested deeper are refused, so that neither reading nor evaluating one can exhaust the stack.
const MAX_DEPTH: usize = 64;
/// Protocols that `db` stands for.
const DATABASES: [&str; 6] = ["postgres", "mysql", "redis", "mongodb", "memcached", "cassandra"];

/// What the settings say of the language's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// From which duration on `slow` holds, ns.
    pub slow_ns: u64,
}

impl Default for Thresholds {
    /// 3 s, Scouter's first step.
    fn default() -> Self {
        Thresholds { slow_ns: 3_000_000_000 }
    }
}

impl Thresholds {
    /// The words that stand for expressions, each with what it means, for whoever types one.
    pub fn words(self) -> String {
        let slow = Span(Duration::from_nanos(self.slow_ns));
        format!("slow (duration >= {slow}), err, db, out, async")
    }
}

/// A filter, ready to be asked.
#[derive(Clone, Debug)]
pub struct Filter {
    text: String,
    expression: Expression,
}

impl Filter {
    /// Reads an expression, in which `slow` means what `thresholds` say.
    pub fn parse(text: &str, thresholds: Thresholds) -> Result<Filter, FilterError> {
        Ok(Filter { text: text.to_owned(), expression: parse::parse(text, thresholds)? })
    }

    /// The fields, as one types them, and what is short for an expression.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let fields = Field::ALL.iter().map(|field| field.short());
        // What is asked for most comes first: a line may have no room for all.
        let usual = ["duration", "status_code", "target", "operation", "service", "err", "slow", "role"];
        let rest = fields.chain(["db", "out", "async"]).filter(move |name| !usual.contains(name));
        usual.into_iter().chain(rest)
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The transactions with this `seq`: one of each run.
    pub fn seq(seq: u64) -> Filter {
        let expression = Expression::Integer { field: Field::Seq, op: Order::Equal, value: i128::from(seq) };
        Filter { text: format!("seq = {seq}"), expression }
    }

    /// The transaction with this `id`.
    pub fn id(id: &str) -> Filter {
        let expression = Expression::Text { field: Field::Id, op: Order::Equal, value: id.to_owned() };
        Filter { text: format!("id = '{id}'"), expression }
    }

    /// What was made for the transaction with this id.
    pub fn made_for(id: CallId) -> Filter {
        let value = id.to_string();
        let text = format!("parent = '{value}'");
        Filter { text, expression: Expression::Text { field: Field::Parent, op: Order::Equal, value } }
    }

    /// The transactions of this connection.
    pub fn conn(conn: ConnId) -> Filter {
        let value = format!("{:016x}", conn.0);
        let text = format!("conn_id = '{value}'");
        Filter { text, expression: Expression::Text { field: Field::ConnId, op: Order::Equal, value } }
    }

    /// What both want.
    #[must_use]
    pub fn and(self, other: Filter) -> Filter {
        Filter {
            text: format!("({}) and ({})", self.text, other.text),
            expression: Expression::And(Box::new(self.expression), Box::new(other.expression)),
        }
    }

    /// Whether a transaction is wanted.
    pub fn matches(&self, transaction: &Transaction) -> bool {
        self.expression.matches(transaction)
    }

    /// Whether one of many transactions may be wanted, by what is known of each of their columns. `false` is certain.
    pub fn may_match(&self, column: &dyn Fn(&str) -> Rc<ColumnFacts>) -> bool {
        self.expression.outcomes(column).hit
    }
}

/// A text as a literal of an expression: whatever is in it, the filter means exactly it.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        if matches!(c, '\'' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('\'');
    out
}

/// An expression that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter, column {column}: {message}\n  {text}\n  {:>column$}", "^")]
pub struct FilterError {
    /// The expression.
    text: String,
    /// Column of the fault, from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

#[derive(Clone, Debug)]
enum Expression {
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    /// Missing, or (negated) not missing.
    IsNull {
        field: Field,
        negated: bool,
    },
    Integer {
        field: Field,
        op: Order,
        value: i128,
    },
    IntegerIn {
        field: Field,
        values: Vec<i128>,
    },
    Boolean {
        field: Field,
        op: Order,
        value: bool,
    },
    Text {
        field: Field,
        op: Order,
        value: String,
    },
    TextIn {
        field: Field,
        values: Vec<String>,
    },
    Matches {
        field: Field,
        pattern: regex_lite::Regex,
    },
    Database,
}

impl Expression {
    fn matches(&self, transaction: &Transaction) -> bool {
        match self {
            Expression::And(a, b) => a.matches(transaction) && b.matches(transaction),
            Expression::Or(a, b) => a.matches(transaction) || b.matches(transaction),
            Expression::Not(a) => !a.matches(transaction),
            Expression::IsNull { field, negated } => {
                matches!(field.value(transaction), Value::Null) != *negated
            }
            Expression::Integer { field, op, value } => {
                matches!(field.value(transaction), Value::Integer(have) if op.holds(have.cmp(value)))
            }
            Expression::IntegerIn { field, values } => {
                matches!(field.value(transaction), Value::Integer(have) if values.contains(&have))
            }
            Expression::Boolean { field, op, value } => {
                matches!(field.value(transaction), Value::Boolean(have) if op.holds(have.cmp(value)))
            }
            Expression::Text { field, op, value } => {
                matches!(field.value(transaction), Value::Text(have) if op.holds(have.as_ref().cmp(value)))
            }
            Expression::TextIn { field, values } => {
                matches!(field.value(transaction), Value::Text(have) if values.iter().any(|v| *v == have))
            }
            Expression::Matches { field, pattern } => {
                matches!(field.value(transaction), Value::Text(have) if pattern.is_match(&have))
            }
            Expression::Database => DATABASES.contains(&transaction.protocol),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Order::Equal => ordering.is_eq(),
            Order::NotEqual => ordering.is_ne(),
            Order::Less => ordering.is_lt(),
            Order::LessOrEqual => ordering.is_le(),
            Order::Greater => ordering.is_gt(),
            Order::GreaterOrEqual => ordering.is_ge(),
        }
    }
}

enum Value<'a> {
    Null,
    Integer(i128),
    Boolean(bool),
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    fn integer(value: Option<impl Into<i128>>) -> Value<'a> {
        value.map_or(Value::Null, |value| Value::Integer(value.into()))
    }

    /// One of the facts of the connection's TLS.
    fn fact(
        transaction: &'a Transaction,
        fact: impl Fn(&'a TlsFacts) -> &'a Option<Cow<'static, str>>,
    ) -> Value<'a> {
        let text = transaction.tls.as_deref().and_then(|tls| fact(tls).as_deref());
        text.map_or(Value::Null, |text| Value::Text(text.into()))
    }

    /// One of the parts of its anatomy.
    fn part(transaction: &Transaction, i: usize) -> Value<'a> {
        let anatomy = transaction.causes.as_ref().and_then(|causes| causes.anatomy);
        Value::integer(anatomy.and_then(|anatomy| anatomy.parts()[i]))
    }

    /// How it is known what made it.
    fn link(transaction: &Transaction, of: impl Fn(LinkMethod) -> &'static str) -> Value<'a> {
        let link = transaction.causes.as_ref().and_then(|causes| causes.link);
        link.map_or(Value::Null, |link| Value::Text(of(link.method).into()))
    }

    /// Something of a function's call.
    fn call(transaction: &'a Transaction, of: impl Fn(&'a Call) -> Option<Cow<'a, str>>) -> Value<'a> {
        transaction.call.as_deref().and_then(of).map_or(Value::Null, Value::Text)
    }

    /// Empty means not known, as in the rows.
    fn address(text: &'a str) -> Value<'a> {
        if text.is_empty() { Value::Null } else { Value::Text(text.into()) }
    }
}

/// What literals a field takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// Wall time, ns.
    Time,
    /// A span of time, ns.
    Span,
    Bytes,
    Integer,
    Boolean,
    Text,
    /// Text in which `/` separates, for globs.
    Path,
}

macro_rules! fields {
    ($($variant:ident $name:literal $type:ident = $value:expr;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Field { $($variant),* }

        impl Field {
            const ALL: &[Field] = &[$(Field::$variant),*];

            fn name(self) -> &'static str {
                match self { $(Field::$variant => $name),* }
            }

            fn type_of(self) -> Type {
                match self { $(Field::$variant => Type::$type),* }
            }

            fn value(self, transaction: &Transaction) -> Value<'_> {
                fn typed<F: Fn(&Transaction) -> Value<'_>>(f: F) -> F { f }
                match self { $(Field::$variant => typed($value)(transaction)),* }
            }
        }
    };
}

fields! {
    StartTime "start_time_ns" Time = |t| Value::Integer(t.start_time.0.into());
    RequestEnd "request_end_ns" Time = |t| Value::integer(t.request_end.map(|time| time.0));
    ResponseStart "response_start_ns" Time = |t| Value::integer(t.response_start.map(|time| time.0));
    EndTime "end_time_ns" Time = |t| Value::Integer(t.end_time.0.into());
    Duration "duration_ns" Span = |t| Value::Integer(t.duration_ns.into());
    Ttfb "ttfb_ns" Span = |t| Value::integer(t.ttfb_ns);
    Queue "queue_ns" Span = |t| Value::integer(t.queue_ns);
    TimeBasis "time_basis" Text = |t| Value::Text(t.time_basis.as_str().into());
    Kind "kind" Text = |t| Value::Text(t.kind.as_str().into());
    Role "role" Text = |t| Value::Text(t.role.as_str().into());
    Protocol "protocol" Text = |t| Value::Text(t.protocol.into());
    Operation "operation" Path = |t| Value::Text(t.operation.as_ref().into());
    Target "target" Path = |t| t.target.as_deref().map_or(Value::Null, |target| Value::Text(data_text(target)));
    Namespace "namespace" Text = |t| t.namespace.as_deref().map_or(Value::Null, |name| Value::Text(data_text(name)));
    StatusCode "status_code" Integer = |t| Value::integer(t.status_code);
    Error "error" Boolean = |t| Value::Boolean(t.error);
    ErrorType "error_type" Text = |t| t.error_type.as_deref().map_or(Value::Null, |text| Value::Text(text.into()));
    ErrorMessage "error_message" Text = |t| t.error_message.as_deref().map_or(Value::Null, |text| Value::Text(data_text(text)));
    Rows "rows" Integer = |t| Value::integer(t.rows);
    Pid "pid" Integer = |t| Value::Integer(t.pid.into());
    Tid "tid" Integer = |t| Value::Integer(t.tid.into());
    Comm "comm" Text = |t| Value::Text(t.comm.as_ref().into());
    Service "service" Text = |t| Value::Text(t.service.as_ref().into());
    ClientAddr "client_addr" Text = |t| Value::address(&t.client_addr);
    ClientPort "client_port" Integer = |t| Value::integer(t.client_port);
    ServerAddr "server_addr" Text = |t| Value::address(&t.server_addr);
    ServerPort "server_port" Integer = |t| Value::integer(t.server_port);
    TlsLibrary "tls_library" Text = |t| Value::fact(t, |tls| &tls.library);
    TlsVersion "tls_version" Text = |t| Value::fact(t, |tls| &tls.version);
    TlsSni "tls_sni" Text = |t| Value::fact(t, |tls| &tls.sni);
    TlsAlpn "tls_alpn" Text = |t| Value::fact(t, |tls| &tls.alpn);
    RequestBytes "request_bytes" Bytes = |t| Value::Integer(t.request_bytes.into());
    ResponseBytes "response_bytes" Bytes = |t| Value::Integer(t.response_bytes.into());
    RequestMessages "request_messages" Integer = |t| Value::integer(t.request_messages);
    ResponseMessages "response_messages" Integer = |t| Value::integer(t.response_messages);
    Rtt "rtt_ns" Span = |t| Value::integer(t.network.and_then(Network::rtt_ns));
    Retransmits "retransmits" Integer = |t| Value::integer(t.network.map(|network| network.retransmits));
    Function "function" Text = |t| Value::call(t, |call| Some(call.function.as_ref().into()));
    Arguments "arguments" Text = |t| Value::call(t, |call| Some(call.arguments.as_ref().into()));
    Return "return" Text = |t| Value::call(t, |call| call.returned.as_deref().map(Cow::Borrowed));
    ParentId "parent_id" Text = |t| Value::call(t, |call| call.parent.map(|id| id.to_string().into()));
    RootId "root_id" Text = |t| Value::call(t, |call| call.root.map(|id| id.to_string().into()));
    Self_ "self_ns" Span = |t| Value::integer(t.call.as_ref().map(|call| call.self_ns));
    Stack "stack" Text = |t| Value::call(t, |call| call.stack.as_ref().map(|stack| stack.frames.as_ref().into()));
    StackEnd "stack_end" Text = |t| Value::call(t, |call| call.stack.as_ref().map(|stack| stack.end.as_str().into()));
    AnatomyOncpu "anatomy_oncpu_ns" Span = |t| Value::part(t, 0);
    AnatomyOncpuUser "anatomy_oncpu_user_ns" Span = |t| Value::part(t, 1);
    AnatomyOncpuKernel "anatomy_oncpu_kernel_ns" Span = |t| Value::part(t, 2);
    AnatomyRunq "anatomy_runq_ns" Span = |t| Value::part(t, 3);
    AnatomyOffcpuFutex "anatomy_offcpu_futex_ns" Span = |t| Value::part(t, 4);
    AnatomyOffcpuDisk "anatomy_offcpu_disk_ns" Span = |t| Value::part(t, 5);
    AnatomyOffcpuNetwork "anatomy_offcpu_network_ns" Span = |t| Value::part(t, 6);
    AnatomyOffcpuTimer "anatomy_offcpu_timer_ns" Span = |t| Value::part(t, 7);
    AnatomyOffcpuFault "anatomy_offcpu_fault_ns" Span = |t| Value::part(t, 8);
    AnatomyOffcpuPipe "anatomy_offcpu_pipe_ns" Span = |t| Value::part(t, 9);
    AnatomyOffcpuPoll "anatomy_offcpu_poll_ns" Span = |t| Value::part(t, 10);
    AnatomyOffcpuBusy "anatomy_offcpu_busy_ns" Span = |t| Value::part(t, 11);
    AnatomyOffcpuChild "anatomy_offcpu_child_ns" Span = |t| Value::part(t, 12);
    AnatomyOffcpuStopped "anatomy_offcpu_stopped_ns" Span = |t| Value::part(t, 13);
    AnatomyOffcpuOther "anatomy_offcpu_other_ns" Span = |t| Value::part(t, 14);
    AnatomyCalls "anatomy_calls_ns" Span = |t| Value::part(t, 15);
    AnatomySending "anatomy_sending_ns" Span = |t| Value::part(t, 16);
    AnatomyUnattributed "anatomy_unattributed_ns" Span = |t| Value::part(t, 17);
    AnatomyShared "anatomy_shared" Boolean = |t| t.causes.as_ref().and_then(|causes| causes.anatomy).map_or(Value::Null, |anatomy| Value::Boolean(anatomy.is_shared));
    AnatomyGuessed "anatomy_guessed" Text = |t| t.causes.as_ref().and_then(|causes| causes.anatomy).map_or(Value::Null, |anatomy| Value::Text(anatomy.guesses_as_json().into()));
    Calls "calls" Text = |t| t.causes.as_ref().and_then(|causes| causes.calls()).map_or(Value::Null, |calls| Value::Text(CallSum::as_json(calls).into()));
    Parent "parent" Text = |t| t.parent().map_or(Value::Null, |id| Value::Text(id.to_string().into()));
    LinkMethod "link_method" Text = |t| Value::link(t, LinkMethod::as_str);
    LinkConfidence "link_confidence" Text = |t| Value::link(t, LinkMethod::confidence);
    TraceId "trace_id" Text = |t| t.trace_id.as_deref().map_or(Value::Null, |id| Value::Text(id.into()));
    Stacks "stacks" Text = |t| t.causes.as_ref().and_then(|causes| causes.stacks()).map_or(Value::Null, |stacks| Value::Text(StackSum::as_json(stacks).into()));
    Locks "locks" Text = |t| t.causes.as_ref().and_then(|causes| causes.locks()).map_or(Value::Null, |locks| Value::Text(Lock::as_json(locks).into()));
    End "end" Text = |t| Value::Text(t.end.as_str().into());
    Confidence "confidence" Text = |t| Value::Text(t.confidence.as_str().into());
    ConnId "conn_id" Text = |t| Value::Text(format!("{:016x}", t.on_wire().0).into());
    Id "id" Text = |t| Value::Text(t.id().into());
    Seq "seq" Integer = |t| Value::Integer(t.seq.into());
}

impl Field {
    fn find(name: &str) -> Option<Field> {
        Field::ALL.iter().copied().find(|field| field.name() == name || field.short() == name)
    }

    /// The name without its unit; parts of an object as JSON has them.
    fn short(self) -> &'static str {
        match self {
            Field::TlsLibrary => "tls.library",
            Field::TlsVersion => "tls.version",
            Field::TlsSni => "tls.sni",
            Field::TlsAlpn => "tls.alpn",
            Field::AnatomyOncpu => "anatomy.oncpu",
            Field::AnatomyOncpuUser => "anatomy.oncpu_user",
            Field::AnatomyOncpuKernel => "anatomy.oncpu_kernel",
            Field::AnatomyRunq => "anatomy.runq",
            Field::AnatomyOffcpuFutex => "anatomy.offcpu_futex",
            Field::AnatomyOffcpuDisk => "anatomy.offcpu_disk",
            Field::AnatomyOffcpuNetwork => "anatomy.offcpu_network",
            Field::AnatomyOffcpuTimer => "anatomy.offcpu_timer",
            Field::AnatomyOffcpuFault => "anatomy.offcpu_fault",
            Field::AnatomyOffcpuPipe => "anatomy.offcpu_pipe",
            Field::AnatomyOffcpuPoll => "anatomy.offcpu_poll",
            Field::AnatomyOffcpuBusy => "anatomy.offcpu_busy",
            Field::AnatomyOffcpuChild => "anatomy.offcpu_child",
            Field::AnatomyOffcpuStopped => "anatomy.offcpu_stopped",
            Field::AnatomyOffcpuOther => "anatomy.offcpu_other",
            Field::AnatomyCalls => "anatomy.calls",
            Field::AnatomySending => "anatomy.sending",
            Field::AnatomyUnattributed => "anatomy.unattributed",
            Field::AnatomyShared => "anatomy.shared",
            Field::AnatomyGuessed => "anatomy.guessed",
            Field::LinkMethod => "link.method",
            Field::LinkConfidence => "link.confidence",
            _ => self.name().strip_suffix("_ns").unwrap_or(self.name()),
        }
    }
}

/// What a name that is no field stands for.
fn alias(name: &str, thresholds: Thresholds) -> Option<Expression> {
    let text = |field, value: &str| Expression::Text { field, op: Order::Equal, value: value.to_owned() };
    Some(match name {
        "slow" => Expression::Integer {
            field: Field::Duration,
            op: Order::GreaterOrEqual,
            value: thresholds.slow_ns.into(),
        },
        "err" => Expression::Boolean { field: Field::Error, op: Order::Equal, value: true },
        "db" => Expression::Database,
        "out" => text(Field::Role, "client"),
        "async" => text(Field::Kind, Kind::LongLived.as_str()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{schema::transaction_rows::COLUMNS, sink::compliance::transaction, time::WallTime};

    fn slow_post() -> Transaction {
        Transaction {
            duration_ns: 3_500_000_000,
            operation: "POST /api/order/{id}".into(),
            target: Some(Bytes::from_static(b"/api/order/7?x=\xff")),
            status_code: Some(503),
            error: true,
            error_type: Some("503".into()),
            ttfb_ns: None,
            client_port: None,
            response_bytes: 3 << 20,
            end_time: WallTime(1_767_225_600_500_000_000),
            ..transaction(7)
        }
    }

    #[track_caller]
    fn check(text: &str, expect: bool) {
        match Filter::parse(text, Thresholds::default()) {
            Ok(filter) => assert_eq!(filter.matches(&slow_post()), expect, "{text}"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn every_column_is_a_field_and_every_field_a_column() {
        let fields: Vec<_> = Field::ALL.iter().map(|field| field.name()).collect();
        assert_eq!(fields, COLUMNS);
    }

    #[test]
    fn comparisons_with_units() {
        check("duration >= 3s", true);
        check("duration_ns >= 3500ms", true);
        check("duration > 3500ms", false);
        check("duration < 1m", true);
        check("duration_ns = 3500000000", true);
        check("duration > 0", true);
        check("response_bytes >= 3MB and response_bytes < 4 MB", true);
        check("status_code != 200", true);
        check("status_code in (500, 503)", true);
        check("not status_code in (500,503)", false);
        check("end_time >= '2026-01-01T00:00:00Z' and end_time < '2026-01-01T09:00:01+09:00'", true);
        check("end_time > '2026-01-01T00:00:00.5Z'", false);
        check("error = true", true);
        check("error != true", false);
    }

    #[test]
    fn text_globs_and_regular_expressions() {
        check("service = shop and comm = \"shop\"", true);
        check("operation ~ 'POST /api/*/{id}'", true);
        check("target ~ '/api/*'", false);
        check("target ~ '/api/**'", true);
        check("target ~ '*order*'", false);
        check("target ~ '**order**'", true);
        check("service ~ s*p", true);
        check("service ~ 'S*'", false);
        check("service ~ 'sh?p'", true);
        check("service ~ 'sh.p'", false);
        check("operation =~ '^(GET|POST) /api'", true);
        check(r"target =~ '\\\\xff$'", true);
        check("error_type = 503", true);
        check("id = '000000000000abcd-7'", true);
        check("service in (shop, cart)", true);
    }

    #[test]
    fn a_comparison_with_a_missing_value_is_false_and_null_is_asked_for() {
        check("ttfb > 0", false);
        check("ttfb <= 0", false);
        check("ttfb != 5ns", false);
        check("not ttfb > 0", true);
        check("ttfb = null", true);
        check("ttfb != null", false);
        check("status_code = null", false);
        check("client_port in (1, 2)", false);
    }

    #[test]
    fn and_binds_tighter_than_or_and_not_tightest() {
        check("status_code = 1 and status_code = 2 or err", true);
        check("status_code = 1 and (status_code = 2 or err)", false);
        check("not status_code = 1 and err", true);
        check("not (err or status_code = 1)", false);
        check("NOT err OR slow AND err", true);
    }

    #[test]
    fn aliases_stand_for_expressions() {
        check("slow", true);
        check("err and not db", true);
        check("out", false);
        check("async", false);
    }

    #[test]
    fn slow_means_what_the_settings_say() {
        for (slow_ns, slow) in [(3_500_000_000, true), (3_500_000_001, false), (0, true), (u64::MAX, false)] {
            let filter = Filter::parse("slow", Thresholds { slow_ns }).unwrap();
            assert_eq!(filter.matches(&slow_post()), slow, "{slow_ns}");
        }
    }

    #[track_caller]
    fn fault(text: &str, column: usize, word: &str) {
        let error = Filter::parse(text, Thresholds::default()).expect_err(text);
        assert_eq!(error.column, column, "{error}");
        assert!(error.message.contains(word), "{error}");
    }

    #[test]
    fn faults_point_at_their_column() {
        fault("", 1, "field");
        fault("dration > 1s", 1, "duration");
        fault("duration > 1x", 12, "unit");
        fault("duration > 100", 12, "100ms");
        fault("not queue in (5ms, 7)", 20, "7ms");
        fault("elapsed > 1s", 1, "'duration'");
        fault("path ~ x", 1, "'target'");
        fault("error", 6, "err");
        fault("duration > 1s and", 18, "field");
        fault("duration ! 1s", 10, "operator");
        fault("(duration > 1s", 15, "')'");
        fault("duration > 1s)", 14, "end");
        fault("status_code = abc", 15, "number");
        fault("status_code ~ 5", 13, "text");
        fault("service = 'abc", 11, "quote");
        fault("service =~ '('", 12, "regular expression");
        fault("주문 = 1", 1, "field");
        fault("service = '주' and x = 1", 19, "field");
        fault("error = 3", 9, "true");
        fault("duration > null", 12, "null");
        fault("end_time > '2026-13-01T00:00:00Z'", 12, "time");
        fault("duration > 99999999999999999999999999999999999999999", 12, "number");
    }

    #[test]
    fn nesting_is_bounded() {
        fault(&format!("{}err{}", "(".repeat(100), ")".repeat(100)), 65, "nested");
        fault(&"not ".repeat(100), 4 * 64 + 1, "nested");
        let long = vec!["err"; 5_000].join(" or ");
        fault(&long, 4_097, "long");
    }

    #[test]
    fn the_message_draws_the_column() {
        let error = Filter::parse("err and foo = 1", Thresholds { slow_ns: 1_500_000_000 }).unwrap_err();
        assert_eq!(
            error.to_string(),
            "filter, column 9: 'foo' is none of slow (duration >= 1500ms), err, db, out, async and no field such as \
             duration, status_code, target, operation, service, role (the keys of --json)\n  err and foo = 1\n          ^"
        );
    }
}
