//! Conversations of MySQL and MariaDB.

use proptest::{collection::vec, option, prelude::*, sample::select};
use tracer_user::protocol::{
    Flow,
    codec::sql::{self, Dialect},
};

use super::{Conversation, Script};

/// One result of a statement.
#[derive(Clone, Debug)]
enum Said {
    Done(u8),
    Rows { n_columns: u8, rows: Vec<Vec<u8>> },
}

#[derive(Clone, Debug)]
enum Command {
    Query { sql: &'static str, results: Vec<Said>, error: Option<u16> },
    Load { file: Vec<Vec<u8>>, error: Option<u16>, progress: bool },
    Prepare { sql: &'static str, n_columns: u8, n_parameters: u8, error: Option<u16> },
    Execute { id: Id, results: Vec<Said>, error: Option<u16> },
    Cursor,
    Fetch { rows: Vec<Vec<u8>> },
    LongData(Vec<u8>),
    Close,
    Use { name: &'static str, error: Option<u16> },
    Simple(u8),
    Statistics,
    Fields(u8),
}

/// Which statement is run.
#[derive(Clone, Copy, Debug)]
enum Id {
    Known,
    Unknown,
    Last,
}

/// Rows that tempt a parser: other packets, ends of rows, anything. The first value of a row is shorter than 251 bytes.
fn row() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\x05\0\0\x05\xfe\0\0\x02\0".to_vec()),
        Just(b"\x07\0\0\x01\0\0\0\x02\0\0\0".to_vec()),
        Just(b"\x09\0\0\0\x03select 1".to_vec()),
        Just(b"\x09\0\0\x01\xff\x7a\x04#42S02".to_vec()),
        vec(any::<u8>(), 0..60),
        Just(vec![b'x'; 300]),
    ];
    let first = prop_oneof![
        4 => vec(any::<u8>(), 0..40).prop_map(|value| [vec![value.len() as u8], value].concat()),
        1 => Just(vec![0xfb]),
        // A row of the binary protocol.
        1 => Just(vec![0, 0]),
    ];
    (first, vec(piece, 0..4)).prop_map(|(first, rest)| [first, rest.concat()].concat())
}

fn rows() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(row(), 0..5)
}

fn results() -> impl Strategy<Value = Vec<Said>> {
    let one = || {
        prop_oneof![
            (0..251u8).prop_map(Said::Done),
            (1..4u8, rows()).prop_map(|(n_columns, rows)| Said::Rows { n_columns, rows }),
        ]
    };
    prop_oneof![4 => vec(one(), 1..2), 1 => vec(one(), 2..4)]
}

fn error() -> impl Strategy<Value = Option<u16>> {
    option::weighted(0.2, select(vec![1062u16, 1146, 1213, 3024]))
}

fn command() -> impl Strategy<Value = Command> {
    let sql = || {
        select(vec![
            "SELECT name FROM orders WHERE id = 7",
            "insert into orders(name) values('x')",
            "/* a */ update orders set price = 1",
            "CALL two()",
        ])
    };
    let id = select(vec![Id::Known, Id::Known, Id::Unknown, Id::Last]);
    prop_oneof![
        6 => (sql(), results(), error()).prop_map(|(sql, results, error)| Command::Query { sql, results, error }),
        1 => (vec(row(), 0..4), error(), any::<bool>())
            .prop_map(|(file, error, progress)| Command::Load { file, error, progress }),
        3 => (sql(), 0..3u8, 0..3u8, error())
            .prop_map(|(sql, n_columns, n_parameters, error)| Command::Prepare { sql, n_columns, n_parameters, error }),
        4 => (id, results(), error()).prop_map(|(id, results, error)| Command::Execute { id, results, error }),
        1 => Just(Command::Cursor),
        1 => rows().prop_map(|rows| Command::Fetch { rows }),
        1 => row().prop_map(Command::LongData),
        1 => Just(Command::Close),
        1 => (select(vec!["shop", "stock"]), error()).prop_map(|(name, error)| Command::Use { name, error }),
        1 => select(vec![0x0d, 0x0e, 0x1f]).prop_map(Command::Simple),
        1 => Just(Command::Statistics),
        1 => (0..4u8).prop_map(Command::Fields),
    ]
}

/// How a connection begins.
#[derive(Clone, Copy, Debug)]
enum Beginning {
    /// It was joined in the middle.
    Joined,
    Login {
        switch: bool,
        database: bool,
    },
}

/// Up to 6 rounds; a round is one command, or up to 4 pipelined ones.
pub fn conversation() -> impl Strategy<Value = Conversation> {
    let beginning = prop_oneof![
        1 => Just(Beginning::Joined),
        3 => (any::<bool>(), any::<bool>()).prop_map(|(switch, database)| Beginning::Login { switch, database }),
    ];
    let rounds = vec(prop_oneof![3 => vec(command(), 1..2), 1 => vec(command(), 2..5)], 1..6);
    (beginning, any::<bool>(), any::<bool>(), rounds).prop_map(
        |(beginning, deprecate_eof, flagged, rounds)| {
            let mut maker = Maker { deprecate_eof, flagged, ..Maker::default() };
            match beginning {
                Beginning::Joined => maker.joined = true,
                Beginning::Login { switch, database } => maker.login(switch, database),
            }
            for round in &rounds {
                maker.round(round);
            }
            maker.script.finish()
        },
    )
}

/// Writes a conversation.
#[derive(Default)]
struct Maker {
    script: Script,
    deprecate_eof: bool,
    /// A byte behind the number of columns says that definitions follow (MariaDB).
    flagged: bool,
    joined: bool,
    namespace: Option<&'static str>,
    /// The statement prepared last with success, and the one asked for last.
    prepared: Option<(u32, &'static str)>,
    last: Option<&'static str>,
    next_id: u32,
}

/// Packets with ascending sequence ids.
struct Packets {
    bytes: Vec<u8>,
    seq: u8,
}

impl Packets {
    fn from(seq: u8) -> Packets {
        Packets { bytes: Vec::new(), seq }
    }

    fn add(&mut self, payload: &[u8]) {
        self.bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes()[..3]);
        self.bytes.push(self.seq);
        self.bytes.extend_from_slice(payload);
        self.seq = self.seq.wrapping_add(1);
    }

    fn error(&mut self, errno: u16) {
        self.add(&[b"\xff".as_slice(), &errno.to_le_bytes(), b"#42S02no 'secret'"].concat());
    }

    fn definitions(&mut self, n: u8) {
        for _ in 0..n {
            self.add(b"\x03def\x04shop\x01t\x01t\x01a\x01a\x0c\x3f\0\x0b\0\0\0\x03\0\0\0\0\0");
        }
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut packets = Packets::from(0);
    packets.add(payload);
    packets.bytes
}

/// The response to a statement.
struct Answer {
    bytes: Vec<u8>,
    text: String,
}

impl Maker {
    fn login(&mut self, switch: bool, database: bool) {
        let (mut low, mut high) = (0xa20fu16, 0x008eu16);
        low |= u16::from(database) << 3;
        high |= u16::from(self.deprecate_eof) << 8;
        let mut greeting = b"\x0a8.0.36\0\x07\0\0\0abcdefgh\0\xff\xff\xff\x02\0\xff\xdf\x15".to_vec();
        greeting.extend([[0; 10].as_slice(), b"ijklmnopqrst\0caching_sha2_password\0"].concat());
        let greeting = frame(&greeting);
        self.script.bytes(Flow::Response, &greeting, greeting.len(), false);
        if !database {
            low &= !8;
        }
        let mut response = [low.to_le_bytes(), high.to_le_bytes()].concat();
        response.extend(b"\0\0\0\x01\x2d");
        response.extend([0; 23]);
        response.extend(b"secret-user\0\x04\xff\xfe\0\x01");
        if database {
            response.extend(b"shop\0");
        }
        response.extend(b"caching_sha2_password\0");
        let mut packets = Packets::from(1);
        packets.add(&response);
        let named = if database { ", in shop" } else { "" };
        self.request(&packets.bytes, format!("CONNECT (target -, to -{named})"));
        let mut ok = Packets::from(2);
        if switch {
            let mut asks = Packets::from(2);
            asks.add(b"\xfemysql_native_password\0ABCDEFGHIJKLMNOPQRST\0");
            self.script.unannounced(Flow::Response, &asks.bytes, asks.bytes.len(), "- interim");
            let mut data = Packets::from(3);
            data.add(&[0x80; 20]);
            self.script.bytes(Flow::Request, &data.bytes, data.bytes.len(), false);
            ok = Packets::from(4);
        }
        ok.add(b"\0\0\0\x02\0\0\0");
        self.script.unannounced(Flow::Response, &ok.bytes, ok.bytes.len(), "-");
        self.namespace = database.then_some("shop");
    }

    fn round(&mut self, commands: &[Command]) {
        if let [Command::Load { file, error, progress }] = commands {
            return self.load(file, *error, *progress);
        }
        // What pipelined commands change is known when they are answered.
        let mut known = self.prepared;
        let mut namespace = self.namespace;
        let mut answers = Vec::new();
        let is_alone = commands.len() == 1;
        for command in commands {
            answers.extend(self.command(command, &mut known, &mut namespace, is_alone));
        }
        for answer in answers {
            self.script.unannounced(Flow::Response, &answer.bytes, answer.bytes.len(), answer.text);
        }
        self.namespace = namespace;
    }

    /// A request, which says less if its database is not known.
    fn request(&mut self, bytes: &[u8], text: String) {
        self.script.unannounced(Flow::Request, bytes, bytes.len(), text);
    }

    fn asks(&mut self, payload: &[u8], operation: &str, target: &str, one_way: bool) {
        let one_way = if one_way { ", one way" } else { "" };
        let target = if target.is_empty() { "-" } else { target };
        let say = |operation: &str, target: &str, namespace: Option<&str>| {
            let named = namespace.map_or(String::new(), |name| format!(", in {name}"));
            format!("{operation} (target {target}, to -{named}{one_way})")
        };
        let text = say(operation, target, self.namespace);
        self.request(&frame(payload), text);
        let unknown = if payload[0] == 0x17 { "EXECUTE" } else { operation };
        let is_by_id = matches!(payload[0], 0x17..=0x1c);
        for namespace in [self.namespace, None] {
            self.script.less(say(operation, target, namespace));
            if is_by_id {
                self.script.less(say(unknown, "-", namespace));
            }
        }
    }

    fn command(
        &mut self,
        command: &Command,
        known: &mut Option<(u32, &'static str)>,
        namespace: &mut Option<&'static str>,
        is_alone: bool,
    ) -> Option<Answer> {
        let fingerprint = |sql: &str| {
            let statement = sql::fingerprint(sql.as_bytes(), Dialect::MySql);
            (statement.summary.into_owned(), statement.text.escape_ascii().to_string())
        };
        let mut packets = Packets::from(1);
        let mut text = "-".to_owned();
        match command {
            Command::Query { sql, results, error } => {
                let (summary, target) = fingerprint(sql);
                self.asks(&[b"\x03", sql.as_bytes()].concat(), &summary, &target, false);
                text = self.results(&mut packets, results, *error);
            }
            Command::Load { .. } => {
                self.asks(b"\x0e", "PING", "", false);
                self.done(&mut packets, 0, 0, false);
            }
            Command::Prepare { sql, n_columns, n_parameters, error } => {
                let (_, target) = fingerprint(sql);
                self.asks(&[b"\x16", sql.as_bytes()].concat(), "PREPARE", &target, false);
                self.last = Some(sql);
                match error {
                    Some(errno) => {
                        packets.error(*errno);
                        text = format!("{errno} error");
                    }
                    None => {
                        // Whether EOF packets follow is not known on a connection that was joined, and more is pipelined.
                        let are_told = !self.joined || is_alone;
                        let (n_columns, n_parameters) =
                            if are_told { (*n_columns, *n_parameters) } else { (0, 0) };
                        self.next_id += 1;
                        self.prepared = Some((self.next_id, sql));
                        let mut head = [b"\0".as_slice(), &self.next_id.to_le_bytes()].concat();
                        head.extend([n_columns, 0, n_parameters, 0, 0, 0, 0]);
                        packets.add(&head);
                        for n in [n_parameters, n_columns] {
                            packets.definitions(n);
                            if n > 0 && !self.deprecate_eof {
                                packets.add(b"\xfe\0\0\x02\0");
                            }
                        }
                    }
                }
            }
            Command::Execute { id, results, error } => {
                let (id, sql) = match id {
                    Id::Known => (known.map_or(77_777, |known| known.0), known.map(|known| known.1)),
                    Id::Unknown => (88_888, None),
                    Id::Last => (u32::MAX, self.last),
                };
                let payload = [b"\x17".as_slice(), &id.to_le_bytes(), b"\0\x01\0\0\0"].concat();
                let (summary, target) = sql.map_or(("EXECUTE".to_owned(), String::new()), fingerprint);
                self.asks(&payload, &summary, &target, false);
                text = self.results(&mut packets, results, *error);
            }
            Command::Cursor => {
                self.asks(b"\x17\xe8\x03\x01\0\x01\x01\0\0\0", "EXECUTE", "", false);
                packets.add(b"\x01");
                packets.definitions(1);
                self.end(&mut packets, 0x42);
                text = "-, then - 0 rows".to_owned();
            }
            Command::Fetch { rows } => {
                self.asks(b"\x1c\xe8\x03\x01\0\x05\0\0\0", "STMT_FETCH", "", false);
                rows.iter().for_each(|row| packets.add(row));
                self.end(&mut packets, 0x82);
                text = format!("-, then - {} rows", rows.len());
            }
            Command::LongData(data) => {
                let payload = [b"\x18\xe8\x03\x01\0\0\0".as_slice(), data].concat();
                self.asks(&payload, "STMT_SEND_LONG_DATA", "", true);
                return None;
            }
            Command::Close => {
                self.asks(b"\x19\xe8\x03\x01\0", "STMT_CLOSE", "", true);
                return None;
            }
            Command::Use { name, error } => {
                self.asks(&[b"\x02", name.as_bytes()].concat(), "INIT_DB", "", false);
                // Of what is pipelined behind it the database is not known.
                self.namespace = None;
                match error {
                    Some(errno) => {
                        packets.error(*errno);
                        text = format!("{errno} error");
                    }
                    None => {
                        self.done(&mut packets, 0, 0, false);
                        *namespace = Some(name);
                    }
                }
            }
            Command::Simple(code) => {
                let name = match code {
                    0x0d => "DEBUG",
                    0x0e => "PING",
                    _ => "RESET_CONNECTION",
                };
                self.asks(&[*code], name, "", false);
                if *code == 0x1f {
                    (self.prepared, *known) = (None, None);
                }
                match code {
                    0x0d => packets.add(b"\xfe\0\0\x02\0"),
                    _ => self.done(&mut packets, 0, 0, false),
                }
            }
            Command::Statistics => {
                self.asks(b"\x09", "STATISTICS", "", false);
                packets.add(b"Uptime: 290  Threads: 1");
            }
            Command::Fields(n) => {
                self.asks(b"\x04orders\0%", "FIELD_LIST", "", false);
                packets.definitions(*n);
                self.end(&mut packets, 2);
            }
        }
        Some(Answer { bytes: packets.bytes, text })
    }

    /// A file that the server asks for.
    fn load(&mut self, file: &[Vec<u8>], error: Option<u16>, progress: bool) {
        let sql = "LOAD DATA LOCAL INFILE 'secret' INTO TABLE orders";
        let statement = sql::fingerprint(sql.as_bytes(), Dialect::MySql);
        let target = statement.text.escape_ascii().to_string();
        self.asks(&[b"\x03", sql.as_bytes()].concat(), &statement.summary, &target, false);
        let mut asks = Packets::from(1);
        asks.add(b"\xfbsecret");
        self.script.unannounced(Flow::Response, &asks.bytes, asks.bytes.len(), "- interim");
        let mut sent = Packets::from(2);
        file.iter().for_each(|part| sent.add(part));
        sent.add(b"");
        self.script.bytes(Flow::Request, &sent.bytes, sent.bytes.len(), false);
        let mut done = Packets::from(sent.seq);
        if progress {
            done.add(b"\xff\xff\xff\x01\x02\x02\0\0\0\x0fEnd bulk insert");
            self.script.unannounced(Flow::Response, &done.bytes, done.bytes.len(), "- interim");
            done.bytes.clear();
        }
        let text = match error {
            Some(errno) => {
                done.error(errno);
                format!("{errno} error")
            }
            None => {
                self.done(&mut done, 5, 0, false);
                "- 5 rows".to_owned()
            }
        };
        self.script.unannounced(Flow::Response, &done.bytes, done.bytes.len(), text);
    }

    /// An OK packet.
    fn done(&self, packets: &mut Packets, affected: u8, status: u8, for_eof: bool) {
        packets.add(&[if for_eof { 0xfe } else { 0 }, affected, 0, status | 2, 0, 0, 0]);
    }

    /// What ends rows and definitions.
    fn end(&self, packets: &mut Packets, status: u8) {
        match self.deprecate_eof {
            true => self.done(packets, 0, status, true),
            false => packets.add(&[0xfe, 0, 0, status, 0]),
        }
    }

    /// All results; with an error at the end, or in the place of the only one. Returns what the response says.
    fn results(&self, packets: &mut Packets, results: &[Said], error: Option<u16>) -> String {
        if let (Some(errno), [_]) = (error, results) {
            packets.error(errno);
            return format!("{errno} error");
        }
        let mut n_rows = 0;
        for (at, result) in results.iter().enumerate() {
            let status = if at + 1 < results.len() || error.is_some() { 8 } else { 0 };
            match result {
                Said::Done(affected) => {
                    n_rows += usize::from(*affected);
                    self.done(packets, *affected, status, false);
                }
                Said::Rows { n_columns, rows } => {
                    n_rows += rows.len();
                    match self.flagged {
                        true => packets.add(&[*n_columns, 1]),
                        false => packets.add(&[*n_columns]),
                    }
                    packets.definitions(*n_columns);
                    if !self.deprecate_eof {
                        packets.add(&[0xfe, 0, 0, status, 0]);
                    }
                    rows.iter().for_each(|row| packets.add(row));
                    self.end(packets, status);
                }
            }
        }
        match (error, results) {
            (Some(errno), _) => {
                packets.error(errno);
                format!("-, then {errno} error")
            }
            (None, [Said::Done(affected)]) => format!("- {affected} rows"),
            (None, _) => format!("-, then - {n_rows} rows"),
        }
    }
}
