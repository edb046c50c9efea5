//! Statements and their fingerprints.

use super::*;

fn pg(sql: &str) -> (String, String) {
    both(sql.as_bytes(), Dialect::Postgres)
}

fn my(sql: &str) -> (String, String) {
    both(sql.as_bytes(), Dialect::MySql)
}

fn both(sql: &[u8], dialect: Dialect) -> (String, String) {
    let statement = fingerprint(sql, dialect);
    (statement.summary.into_owned(), String::from_utf8_lossy(&statement.text).into_owned())
}

/// All that differs at once.
#[track_caller]
fn check(cases: &[(&str, &str, &str)], give: fn(&str) -> (String, String)) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(sql, summary, text)| {
            let given = give(sql);
            let is_right = given == ((*summary).to_owned(), (*text).to_owned());
            (!is_right).then(|| format!("{sql}\n  gives {given:?}\n     not {:?}\n", (summary, text)))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn postgres() {
    let cases = [
        ("SELECT 1;", "SELECT", "SELECT ?"),
        (
            "select * from orders where id=-5 and a - 5 > 1e-3 and b -7<.5",
            "SELECT orders",
            "select * from orders where id = ? and a - ? > ? and b - ? < ?",
        ),
        (
            "SELECT a.* FROM \"Order Items\" a, public.\"users\" AS u JOIN x.y ON u.id = y.id",
            "SELECT \"Order Items\" public.users x.y",
            "SELECT a.* FROM \"Order Items\" a, public.\"users\" AS u JOIN x.y ON u.id = y.id",
        ),
        (
            "INSERT INTO shipping_details (order_id, address) SELECT order_id, address FROM orders WHERE order_id = 7",
            "INSERT shipping_details SELECT orders",
            "INSERT INTO shipping_details(order_id, address) SELECT order_id, address FROM orders WHERE order_id = ?",
        ),
        (
            "SELECT order_date FROM (SELECT * FROM orders o JOIN customers c ON o.customer_id = c.customer_id) t",
            "SELECT SELECT orders customers",
            "SELECT order_date FROM (SELECT * FROM orders o JOIN customers c ON o.customer_id = c.customer_id) t",
        ),
        (
            "WITH x AS (SELECT * FROM a), y (n) AS MATERIALIZED (DELETE FROM d RETURNING *) INSERT INTO b SELECT * FROM x, y, z",
            "SELECT a DELETE d INSERT b SELECT z",
            "WITH x AS (SELECT * FROM a), y(n) AS MATERIALIZED(DELETE FROM d RETURNING *) INSERT INTO b SELECT * FROM x, y, z",
        ),
        (
            "INSERT INTO t VALUES (1,'a', now()), (2, 'b', f((3)))  ON CONFLICT (id) DO UPDATE SET a = excluded.a",
            "INSERT t",
            "INSERT INTO t VALUES (?, ?, now()) ON CONFLICT (id) DO UPDATE SET a = excluded.a",
        ),
        (
            "SELECT * FROM t WHERE id IN (1, -2,3) AND (a,b) IN ((1,2),(3,4)) AND c IN ($1,$2) AND d = ANY(ARRAY['x'::text, 'y'::text])",
            "SELECT t",
            "SELECT * FROM t WHERE id IN (?) AND (a, b) IN ((?, ?)) AND c IN ($1) AND d = ANY (ARRAY[?::text])",
        ),
        (
            "SELECT E'it\\'s', U&'x' , $$a'b$$, $q$ $$ $q$, B'1', X'ff', N'n', 'a''b'",
            "SELECT",
            "SELECT ?, ?, ?, ?, ?, ?, ?, ?",
        ),
        ("SELECT /* a /* nested 'x' */ 5 */ 1 -- secret 'y'\n + 2", "SELECT", "SELECT ? + ?"),
        (
            "SELECT extract(year FROM ts), a IS DISTINCT FROM b FROM t, generate_series(1,5) g, LATERAL f(x)",
            "SELECT t",
            "SELECT extract(year FROM ts), a IS DISTINCT FROM b FROM t, generate_series(?, ?) g, LATERAL f(x)",
        ),
        ("CREATE USER bob WITH PASSWORD 'secret'", "CREATE USER", "CREATE USER bob WITH PASSWORD ?"),
        ("ALTER ROLE bob PASSWORD \"secret\"", "ALTER ROLE", "ALTER ROLE bob PASSWORD ?"),
        ("ALTER ROLE bob SET app.key TO secret, other", "ALTER ROLE", "ALTER ROLE bob SET app.key TO ?"),
        ("SET LOCAL app.user = secret_word; SELECT 2", "SET; SELECT", "SET LOCAL app.user = ?; SELECT ?"),
        (
            "SAVEPOINT s123; ROLLBACK TO SAVEPOINT s123; RELEASE s123",
            "SAVEPOINT; ROLLBACK; RELEASE",
            "SAVEPOINT ?; ROLLBACK TO SAVEPOINT ?; RELEASE ?",
        ),
        ("COPY t (a, b) FROM STDIN WITH (FORMAT csv)", "COPY t", "COPY t(a, b) FROM STDIN WITH (FORMAT csv)"),
        ("COPY (SELECT * FROM x) TO '/tmp/f'", "COPY SELECT x", "COPY(SELECT * FROM x) TO ?"),
        (
            "CREATE TABLE IF NOT EXISTS a.t (id int DEFAULT 5 REFERENCES o ON DELETE CASCADE)",
            "CREATE TABLE a.t",
            "CREATE TABLE IF NOT EXISTS a.t(id int DEFAULT ? REFERENCES o ON DELETE CASCADE)",
        ),
        (
            "CREATE TABLE t2 AS SELECT * FROM t1",
            "CREATE TABLE t2 SELECT t1",
            "CREATE TABLE t2 AS SELECT * FROM t1",
        ),
        (
            "create unique index concurrently i on t (a)",
            "CREATE INDEX t",
            "create unique index concurrently i on t(a)",
        ),
        ("DROP TABLE a, b CASCADE", "DROP TABLE a b", "DROP TABLE a, b CASCADE"),
        ("TRUNCATE TABLE a, ONLY b", "TRUNCATE a b", "TRUNCATE TABLE a, ONLY b"),
        (
            "UPDATE ONLY t SET a = NULL, b = TRUE FROM u WHERE c IS NOT NULL FOR UPDATE",
            "UPDATE t u",
            "UPDATE ONLY t SET a = ?, b = ? FROM u WHERE c IS NOT NULL FOR UPDATE",
        ),
        ("DELETE FROM t USING u WHERE t.a = u.a", "DELETE t u", "DELETE FROM t USING u WHERE t.a = u.a"),
        (
            "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN UPDATE SET b = 1 WHEN NOT MATCHED THEN INSERT VALUES (1, 2)",
            "MERGE t s",
            "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN UPDATE SET b = ? WHEN NOT MATCHED THEN INSERT VALUES (?, ?)",
        ),
        (
            "EXPLAIN (ANALYZE, BUFFERS) SELECT * FROM t",
            "EXPLAIN SELECT t",
            "EXPLAIN(ANALYZE, BUFFERS) SELECT * FROM t",
        ),
        ("BEGIN", "BEGIN", "BEGIN"),
        (
            "start transaction isolation level serializable",
            "START TRANSACTION",
            "start transaction isolation level serializable",
        ),
        ("hunter2 'x'", "_OTHER", "hunter2 ?"),
        ("  ; ;; ", "", ""),
        ("LISTEN jobs", "LISTEN jobs", "LISTEN jobs"),
        (
            "PREPARE p AS SELECT * FROM t WHERE a = $1",
            "PREPARE SELECT t",
            "PREPARE p AS SELECT * FROM t WHERE a = $1",
        ),
        ("DECLARE c CURSOR FOR SELECT * FROM t", "DECLARE SELECT t", "DECLARE c CURSOR FOR SELECT * FROM t"),
        (
            "SELECT a[1:2], b ->> 'k', c @> '{}'::jsonb, :name FROM t FOR UPDATE OF t",
            "SELECT t",
            "SELECT a[? : ?], b ->> ?, c @> ?::jsonb, :name FROM t FOR UPDATE OF t",
        ),
        (
            "(SELECT a FROM t) UNION ALL (SELECT b FROM u) ORDER BY 1",
            "SELECT t SELECT u",
            "(SELECT a FROM t) UNION ALL (SELECT b FROM u) ORDER BY ?",
        ),
        ("VACUUM FULL ANALYZE t", "VACUUM t", "VACUUM FULL ANALYZE t"),
        ("SELECT 'cut", "SELECT", "SELECT ?"),
        ("SELECT a FROM t WHERE b IN (1, 2, 'cu", "SELECT t", "SELECT a FROM t WHERE b IN (?"),
    ];
    check(&cases, pg);
}

#[test]
fn mysql() {
    let cases = [
        (
            "SELECT * FROM `order items` WHERE a = \"secret\" # comment 'x'\n AND b = 'it\\'s' AND c = _utf8'x' 'y'",
            "SELECT `order items`",
            "SELECT * FROM `order items` WHERE a = ? AND b = ? AND c = _utf8 ?",
        ),
        ("/*!40101 SET @OLD = 1, NAMES = 'x' */;", "SET", "SET @OLD = ?, NAMES = ?"),
        ("SELECT 5--5, 1 -- c", "SELECT", "SELECT ? - ?, ?"),
        (
            "INSERT IGNORE INTO t (a) VALUES (0x1F), (b'01') ON DUPLICATE KEY UPDATE a = VALUES(a), b = VALUES(b)",
            "INSERT t",
            "INSERT IGNORE INTO t(a) VALUES (?) ON DUPLICATE KEY UPDATE a = VALUES (a), b = VALUES (b)",
        ),
        ("REPLACE INTO t SET a = 1", "REPLACE t", "REPLACE INTO t SET a = ?"),
        ("UPDATE LOW_PRIORITY a, b SET a.x = b.y", "UPDATE a b", "UPDATE LOW_PRIORITY a, b SET a.x = b.y"),
        ("CREATE USER 'u'@'h' IDENTIFIED BY 'secret'", "CREATE USER", "CREATE USER ? @ ? IDENTIFIED BY ?"),
        ("SET PASSWORD FOR 'u'@'h' = PASSWORD('secret')", "SET", "SET PASSWORD FOR ? @ ? = ?"),
        (
            "SELECT STRAIGHT_JOIN * FROM a STRAIGHT_JOIN b LEFT JOIN c USING (x)",
            "SELECT a b c",
            "SELECT STRAIGHT_JOIN * FROM a STRAIGHT_JOIN b LEFT JOIN c USING (x)",
        ),
        ("LOAD DATA INFILE '/x' INTO TABLE t", "LOAD t", "LOAD DATA INFILE ? INTO TABLE t"),
        ("CALL db.p(1, 'x')", "CALL db.p", "CALL db.p(?, ?)"),
        ("SELECT a INTO @v FROM t LIMIT 5, 10", "SELECT t", "SELECT a INTO @v FROM t LIMIT ?, ?"),
        (
            "select `db`.`t`.a from `db`.`t` where x<=>NULL",
            "SELECT db.t",
            "select `db`.`t`.a from `db`.`t` where x <=> ?",
        ),
    ];
    check(&cases, my);
}

#[test]
fn mysql_without_backslash_escapes() {
    let cases = [
        ("SELECT 'it\\' or 'secret', a FROM t", "SELECT t", "SELECT ? or ?, a FROM t"),
        ("SELECT \"it\\\" , b, 'it''s \\'", "SELECT", "SELECT ?, b, ?"),
    ];
    check(&cases, |sql| both(sql.as_bytes(), Dialect::MySqlPlain));
}

/// What only one of two readings takes for a literal is none that is shown.
#[test]
fn mysql_with_or_without_backslash_escapes() {
    let cases = [
        ("SELECT * FROM t WHERE a = 'it\\' or 'secret' or b", "SELECT t", "SELECT * FROM t WHERE a = ?"),
        ("SELECT * FROM t WHERE a = 'it\\'s' AND b = 'c'", "SELECT t", "SELECT * FROM t WHERE a = ?"),
        ("SELECT * FROM t WHERE a = \"it\\\"s\" AND b = 'c'", "SELECT t", "SELECT * FROM t WHERE a = ?"),
        ("SELECT 'a\\n\\\\', 'it''s', `x\\`, y FROM t", "SELECT t", "SELECT ?, ?, `x\\`, y FROM t"),
        ("SELECT N'a\\'' FROM t", "SELECT", "SELECT ?"),
    ];
    check(&cases, |sql| both(sql.as_bytes(), Dialect::MySqlEither));
}

#[test]
fn a_list_that_a_semicolon_cuts_off_is_a_list() {
    for (sql, text) in [
        ("[,;", "["),
        ("SELECT a IN (1, 2, 3; SELECT 4", "SELECT a IN (?; SELECT ?"),
        ("SELECT a IN (1, f(2), 3; SELECT 4", "SELECT a IN (?, f(?), ?; SELECT ?"),
    ] {
        let once = fingerprint(sql.as_bytes(), Dialect::Postgres);
        assert_eq!(once.text.escape_ascii().to_string(), text);
        assert_eq!(fingerprint(&once.text, Dialect::Postgres).text, once.text, "{sql}");
    }
    // What had no room in the list leaves room for the statement behind it.
    let long = format!("SELECT a IN ({}; SELECT b FROM t", vec!["12345"; 4_000].join(", "));
    let once = fingerprint(long.as_bytes(), Dialect::Postgres);
    assert!(once.text.starts_with(b"SELECT a IN (?"), "{:?}", once.text);
    assert_eq!(fingerprint(&once.text, Dialect::Postgres).text, once.text);
}

/// Made statements, with the literals in them marked by a text that stands nowhere else.
mod properties {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    const MARK: &str = "zq7secret";

    fn dialects() -> impl Strategy<Value = Dialect> {
        select(vec![
            Dialect::Postgres,
            Dialect::PostgresEscapes,
            Dialect::MySql,
            Dialect::MySqlPlain,
            Dialect::MySqlEither,
        ])
    }

    /// A literal, and another in its place.
    fn literal(dialect: Dialect) -> impl Strategy<Value = (String, String)> {
        let all = [
            "'zq7secret'",
            "'it''s zq7secret -- '",
            "-77123",
            "77123.5e-3",
            "+.77123",
            "0x77123",
            "NULL",
            "TRUE",
            "x'77123'",
        ];
        let postgres = [
            "E'a\\'zq7secret'",
            "$$zq7secret'$$",
            "$t$ $$ zq7secret \" $t$",
            "U&'zq7secret'",
            "'zq7secret' \n 'more zq7secret'",
            "/* zq7secret */ 5",
        ];
        let mysql = [
            "\"zq7secret\"",
            "'a\\'zq7secret'",
            "\"it's \"\" zq7secret\"",
            "# zq7secret'\n5",
            "N'zq7secret'",
        ];
        let plain = ["\"zq7secret\"", "'zq7secret\\'", "\"it's \"\" zq7secret\\\"", "# zq7secret'\n5"];
        // Read alike with and without escapes.
        let either = ["\"zq7secret\"", "'\\\\ \\n zq7secret'", "\"it's \"\" zq7secret\"", "# zq7secret'\n5"];
        let own = match dialect {
            Dialect::Postgres | Dialect::PostgresEscapes => &postgres[..],
            Dialect::MySql => &mysql[..],
            Dialect::MySqlPlain => &plain[..],
            Dialect::MySqlEither => &either[..],
        };
        let texts: Vec<&str> = all.iter().chain(own).copied().collect();
        (select(texts.clone()), select(texts)).prop_map(|(one, other)| (one.to_owned(), other.to_owned()))
    }

    /// Two statements that differ in literals alone.
    fn pair() -> impl Strategy<Value = (Dialect, String, String)> {
        let shapes = vec![
            "SELECT * FROM orders o, items WHERE a = % AND b IN (%, %, %) LIMIT %",
            "INSERT INTO orders (a, b) VALUES (%, %), (%, %), (%, %)",
            "UPDATE orders SET a = %, b = b + 1 WHERE c BETWEEN % AND %",
            "DELETE FROM orders WHERE a > % OR f(%, x) < %",
            "WITH x AS (SELECT % AS n FROM orders) SELECT n FROM x JOIN items ON n = % UNION SELECT %",
            "SELECT CASE WHEN a = % THEN % ELSE % END FROM (SELECT a FROM orders WHERE b = %) q",
            "SET app.x = %",
            "SELECT %; SELECT % FROM orders",
            "SELECT f(%), ((%)), -(%)",
        ];
        dialects().prop_flat_map(move |dialect| {
            (select(shapes.clone()), vec(literal(dialect), 8)).prop_map(move |(shape, literals)| {
                let mut texts = [String::new(), String::new()];
                let mut parts = shape.split('%');
                for text in &mut texts {
                    text.push_str(parts.clone().next().unwrap());
                }
                parts.next();
                for (part, literal) in parts.zip(literals.iter().cycle()) {
                    texts[0].push_str(&literal.0);
                    texts[1].push_str(&literal.1);
                    texts.iter_mut().for_each(|text| text.push_str(part));
                }
                let [one, other] = texts;
                (dialect, one, other)
            })
        })
    }

    fn leaks(statement: &Statement) -> bool {
        let text = String::from_utf8_lossy(&statement.text).into_owned() + &statement.summary;
        // Any part of the mark that is more than a coincidence.
        text.contains(&MARK[..3]) || text.contains("secret") || text.contains("771")
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn statements_that_differ_in_literals_alone_have_one_fingerprint((dialect, one, other) in pair()) {
            let (one, other) = (fingerprint(one.as_bytes(), dialect), fingerprint(other.as_bytes(), dialect));
            prop_assert_eq!(&one, &other);
            prop_assert!(!leaks(&one), "{:?}", one);
        }

        #[test]
        fn no_cut_shows_a_literal((dialect, text, _) in pair(), at in any::<prop::sample::Index>()) {
            let cut = &text.as_bytes()[..at.index(text.len() + 1)];
            let statement = fingerprint(cut, dialect);
            prop_assert!(!leaks(&statement), "{:?}", statement);
            prop_assert_eq!(&fingerprint(&statement.text, dialect).text, &statement.text);
        }

        /// Names that only one reading shows could be a literal's.
        #[test]
        fn what_is_shown_in_doubt_is_shown_in_both_readings(
            pieces in vec(select(vec!["'", "'", "\"", "\\'", "\\'", "\\\"", "\\", " ", ",", "=", "``", "(", ")", "#", "\n", "''", "\\\\"]), 0..40),
        ) {
            let mut sql = "SELECT w0 ".to_owned();
            for (at, piece) in pieces.iter().enumerate() {
                sql += piece;
                sql += &format!(" zq{at}e ");
            }
            let shown = |dialect| {
                let statement = fingerprint(sql.as_bytes(), dialect);
                let text = String::from_utf8_lossy(&statement.text).into_owned() + " " + &statement.summary;
                (0..pieces.len()).filter(|at| text.contains(&format!("zq{at}e"))).collect::<Vec<_>>()
            };
            let both = [shown(Dialect::MySql), shown(Dialect::MySqlPlain)];
            for at in shown(Dialect::MySqlEither) {
                prop_assert!(both.iter().all(|one| one.contains(&at)), "{at} of {sql}");
            }
        }

        #[test]
        fn a_fingerprint_is_its_own_fingerprint((dialect, text, _) in pair()) {
            let once = fingerprint(text.as_bytes(), dialect);
            let twice = fingerprint(&once.text, dialect);
            prop_assert_eq!(twice, once);
        }

        #[test]
        fn any_bytes_are_taken_and_bounded(
            dialect in dialects(),
            pieces in vec(prop_oneof![
                3 => vec(any::<u8>(), 0..6),
                5 => select(vec!["SELECT ", "FROM ", "t", "(", ")", ",", ";", "'", "\"", "`", "$", "$$", "--", "/*", "*/", "\n", ".", "::", ":", "?", "-", "+", "5", "IN", "VALUES", "[", "]", "=", "e", "E'", "SET ", " TO ", "@", "#", "WITH ", "AS ", "NULL", "\\", "/*!1 "]).prop_map(|piece| piece.as_bytes().to_vec()),
            ], 0..60),
            repeat in 1..40usize,
        ) {
            let sql = pieces.concat().repeat(repeat);
            let once = fingerprint(&sql, dialect);
            prop_assert!(once.text.len() <= MAX_TEXT && once.summary.len() <= MAX_SUMMARY);
            let twice = fingerprint(&once.text, dialect);
            prop_assert_eq!(twice.text.escape_ascii().to_string(), once.text.escape_ascii().to_string());
            let mut memo = Memo::default();
            for _ in 0..3 {
                prop_assert_eq!(&memo.fingerprint(&sql, dialect), &once);
            }
        }
    }
}
