//! From text to an expression.

use super::{Expression, Field, Filter, FilterError, MAX_DEPTH, Order, Thresholds, Type, alias};
use crate::time::WallTime;

/// Longer expressions are refused: what was read is evaluated by recursion over a list of `and` and `or`.
const MAX_LENGTH: usize = 4_096;
/// Names that a message has room for.
const USUAL: usize = 8;
/// Compiled size of a regular expression, bytes.
const MAX_PATTERN: usize = 1 << 20;

pub(super) fn parse(text: &str, thresholds: Thresholds) -> Result<Expression, FilterError> {
    let mut parser = Parser { text, at: 0, depth: 0, thresholds, is_short: false };
    if text.chars().count() > MAX_LENGTH {
        return Err(parser.fault_at(
            text.char_indices().nth(MAX_LENGTH).map_or(0, |(at, _)| at),
            format!("too long: {MAX_LENGTH} characters are the most"),
        ));
    }
    let expression = parser.or()?;
    parser.blanks();
    if parser.at < text.len() {
        return Err(parser.fault("expected 'and', 'or' or the end"));
    }
    Ok(expression)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    thresholds: Thresholds,
    /// The field that is being compared was typed without its unit.
    is_short: bool,
}

enum Literal<'a> {
    Null,
    Word(&'a str),
    Quoted(String),
}

impl<'a> Parser<'a> {
    fn fault_at(&self, at: usize, message: impl Into<String>) -> FilterError {
        FilterError {
            text: self.text.to_owned(),
            column: self.text[..at].chars().count() + 1,
            message: message.into(),
        }
    }

    fn fault(&self, message: impl Into<String>) -> FilterError {
        self.fault_at(self.at, message)
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        self.blanks();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// A keyword, in any case, not part of a longer word.
    fn keyword(&mut self, keyword: &str) -> bool {
        self.blanks();
        let word = word(self.rest());
        let found = word.eq_ignore_ascii_case(keyword);
        if found {
            self.at += word.len();
        }
        found
    }

    fn deeper(&mut self) -> Result<(), FilterError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault(format!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(())
    }

    fn or(&mut self) -> Result<Expression, FilterError> {
        let mut left = self.and()?;
        while self.keyword("or") {
            left = Expression::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expression, FilterError> {
        let mut left = self.unary()?;
        while self.keyword("and") {
            left = Expression::And(Box::new(left), Box::new(self.unary()?));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expression, FilterError> {
        self.blanks();
        self.deeper()?;
        let expression = if self.keyword("not") {
            Expression::Not(Box::new(self.unary()?))
        } else if self.take("(") {
            let inner = self.or()?;
            if !self.take(")") {
                return Err(self.fault("expected ')'"));
            }
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn comparison(&mut self) -> Result<Expression, FilterError> {
        self.blanks();
        let start = self.at;
        let name = word(self.rest());
        if name.is_empty() {
            return Err(self.fault("expected a field, 'not' or '('"));
        }
        let Some(field) = Field::find(name) else {
            if let Some(expression) = alias(name, self.thresholds) {
                self.at += name.len();
                return Ok(expression);
            }
            let message = match meant(name).or_else(|| near(name)) {
                Some(near) => format!("'{name}' is no field, did you mean '{near}'?"),
                None => {
                    let is_word = |name: &&str| matches!(*name, "err" | "slow");
                    let usual: Vec<&str> =
                        Filter::names().take(USUAL).filter(|name| !is_word(name)).collect();
                    let (usual, words) = (usual.join(", "), self.thresholds.words());
                    format!("'{name}' is none of {words} and no field such as {usual} (the keys of --json)")
                }
            };
            return Err(self.fault_at(start, message));
        };
        self.at += name.len();
        self.is_short = field.name() != name;
        self.blanks();
        let operator = self.at;
        let texts = matches!(field.type_of(), Type::Text | Type::Path);
        if self.take("=~") {
            self.only_text(field, operator)?;
            let at = self.literal_start();
            let pattern = self.text_literal()?;
            return self.pattern(field, at, &pattern);
        }
        if self.take("~") {
            self.only_text(field, operator)?;
            let at = self.literal_start();
            let glob = self.text_literal()?;
            return self.pattern(field, at, &glob_pattern(&glob, field.type_of() == Type::Path));
        }
        if self.keyword("in") {
            return self.list(field, texts);
        }
        let order = self.order().ok_or_else(|| match field {
            Field::Error => self.fault("write err, or error = true"),
            _ => self.fault("expected an operator: = != < <= > >= ~ =~ in"),
        })?;
        let at = self.literal_start();
        let literal = self.literal()?;
        Ok(match (literal, order) {
            (Literal::Null, Order::Equal) => Expression::IsNull { field, negated: false },
            (Literal::Null, Order::NotEqual) => Expression::IsNull { field, negated: true },
            (Literal::Null, _) => return Err(self.fault_at(at, "null is compared with = and != only")),
            (literal, op) if texts => Expression::Text { field, op, value: literal.into_text() },
            (literal, op) if field.type_of() == Type::Boolean => match literal.text() {
                "true" => Expression::Boolean { field, op, value: true },
                "false" => Expression::Boolean { field, op, value: false },
                _ => return Err(self.fault_at(at, "expected true or false")),
            },
            (literal, op) => {
                Expression::Integer { field, op, value: self.integer(field, at, literal.text())? }
            }
        })
    }

    fn only_text(&self, field: Field, at: usize) -> Result<(), FilterError> {
        match field.type_of() {
            Type::Text | Type::Path => Ok(()),
            _ => Err(self.fault_at(at, format!("~ and =~ are for text, '{}' is a number", field.name()))),
        }
    }

    fn list(&mut self, field: Field, texts: bool) -> Result<Expression, FilterError> {
        if !self.take("(") {
            return Err(self.fault("expected '('"));
        }
        let (mut text_values, mut integers) = (Vec::new(), Vec::new());
        loop {
            let at = self.literal_start();
            match self.literal()? {
                Literal::Null => return Err(self.fault_at(at, "null in a list: write 'field = null'")),
                literal if texts => text_values.push(literal.into_text()),
                _ if field.type_of() == Type::Boolean => {
                    return Err(
                        self.fault_at(at, "lists are for numbers and text; compare with true or false")
                    );
                }
                literal => integers.push(self.integer(field, at, literal.text())?),
            }
            if self.take(")") {
                break;
            }
            if !self.take(",") {
                return Err(self.fault("expected ',' or ')'"));
            }
        }
        Ok(if texts {
            Expression::TextIn { field, values: text_values }
        } else {
            Expression::IntegerIn { field, values: integers }
        })
    }

    fn order(&mut self) -> Option<Order> {
        // Longer ones first.
        let orders = [
            ("!=", Order::NotEqual),
            ("<=", Order::LessOrEqual),
            (">=", Order::GreaterOrEqual),
            ("=", Order::Equal),
            ("<", Order::Less),
            (">", Order::Greater),
        ];
        orders.into_iter().find(|(token, _)| self.take(token)).map(|(_, order)| order)
    }

    fn literal_start(&mut self) -> usize {
        self.blanks();
        self.at
    }

    fn literal(&mut self) -> Result<Literal<'a>, FilterError> {
        self.blanks();
        let start = self.at;
        if let Some(quote) = self.rest().chars().next().filter(|c| matches!(c, '\'' | '"')) {
            let mut value = String::new();
            let mut chars = self.rest().char_indices().skip(1);
            while let Some((at, c)) = chars.next() {
                match c {
                    c if c == quote => {
                        self.at += at + c.len_utf8();
                        return Ok(Literal::Quoted(value));
                    }
                    // A backslash takes the next character as it is, so that a quote can be written.
                    '\\' => value.extend(chars.next().map(|(_, c)| c)),
                    c => value.push(c),
                }
            }
            return Err(self.fault_at(start, "the quote is not closed"));
        }
        let end = self
            .rest()
            .find(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | '\'' | '"' | '=' | '<' | '>'))
            .unwrap_or(self.rest().len());
        let word = &self.rest()[..end];
        if word.is_empty() {
            return Err(self.fault("expected a value"));
        }
        self.at += end;
        // "4 MB": the unit may stand apart.
        let unit = self.rest().trim_start();
        let unit = &unit[..unit.len().min(self::word(unit).len())];
        if word.bytes().all(|b| b.is_ascii_digit()) && UNITS.iter().any(|(name, ..)| *name == unit) {
            let end = self.rest().find(unit).unwrap_or(0) + unit.len();
            self.at += end;
            return Ok(Literal::Word(&self.text[start..self.at]));
        }
        Ok(if word.eq_ignore_ascii_case("null") { Literal::Null } else { Literal::Word(word) })
    }

    fn text_literal(&mut self) -> Result<String, FilterError> {
        let at = self.literal_start();
        match self.literal()? {
            Literal::Null => Err(self.fault_at(at, "expected a pattern")),
            literal => Ok(literal.into_text()),
        }
    }

    fn pattern(&self, field: Field, at: usize, pattern: &str) -> Result<Expression, FilterError> {
        regex_lite::RegexBuilder::new(pattern)
            .size_limit(MAX_PATTERN)
            .build()
            .map(|pattern| Expression::Matches { field, pattern })
            .map_err(|error| self.fault_at(at, format!("not a regular expression: {error}")))
    }

    fn integer(&self, field: Field, at: usize, text: &str) -> Result<i128, FilterError> {
        if field.type_of() == Type::Time && text.contains(['-', ':']) {
            return text
                .parse::<WallTime>()
                .map(|time| time.0.into())
                .map_err(|error| self.fault_at(at, error.to_string()));
        }
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(text.len());
        let (number, unit) = (&text[..digits], text[digits..].trim_start());
        let number: i64 = number
            .parse()
            .map_err(|_| self.fault_at(at, format!("'{}' is a number, '{text}' is not", field.name())))?;
        if unit.is_empty() {
            // Who leaves the unit out of the name and of the number means hardly ever nanoseconds.
            if self.is_short && field.type_of() == Type::Span && number != 0 {
                let what = format!("of which unit? {number}ms, {number}us ({}: ns)", field.name());
                return Err(self.fault_at(at, what));
            }
            return Ok(number.into());
        }
        let factor = UNITS.iter().find(|(name, of, _)| *name == unit && *of == field.type_of());
        let Some((_, _, factor)) = factor else {
            return Err(self.fault_at(at, format!("'{unit}' is no unit of '{}'", field.name())));
        };
        Ok(i128::from(number) * i128::from(*factor))
    }
}

impl Literal<'_> {
    fn text(&self) -> &str {
        match self {
            Literal::Null => "null",
            Literal::Word(word) => word,
            Literal::Quoted(text) => text,
        }
    }

    fn into_text(self) -> String {
        match self {
            Literal::Quoted(text) => text,
            literal => literal.text().to_owned(),
        }
    }
}

const UNITS: [(&str, Type, i64); 12] = [
    ("ns", Type::Span, 1),
    ("us", Type::Span, 1_000),
    ("ms", Type::Span, 1_000_000),
    ("s", Type::Span, 1_000_000_000),
    ("m", Type::Span, 60_000_000_000),
    ("h", Type::Span, 3_600_000_000_000),
    ("B", Type::Bytes, 1),
    ("KB", Type::Bytes, 1 << 10),
    ("MB", Type::Bytes, 1 << 20),
    ("GB", Type::Bytes, 1 << 30),
    ("KiB", Type::Bytes, 1 << 10),
    ("MiB", Type::Bytes, 1 << 20),
];

fn word(text: &str) -> &str {
    // A dot between two words leads into an object.
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_within = |at: usize, c: char| c == '.' && text[at + 1..].starts_with(is_word);
    let end = text.char_indices().find(|&(at, c)| !is_word(c) && !is_within(at, c));
    let end = end.map_or(text.len(), |(at, _)| at);
    &text[..end]
}

/// What the field is called in other tools, or on the screen.
fn meant(name: &str) -> Option<&'static str> {
    Some(match name {
        "elapsed" | "latency" | "time" | "took" => "duration",
        "path" | "url" | "uri" => "target",
        "method" | "name" | "endpoint" => "operation",
        "code" => "status_code",
        "errors" | "failed" => "err",
        "process" => "comm",
        "client" => "client_addr",
        "server" => "server_addr",
        "port" => "server_port",
        "sni" => "tls.sni",
        "alpn" => "tls.alpn",
        _ => return None,
    })
}

/// The field that was probably meant: one that begins alike or differs by one letter.
fn near(name: &str) -> Option<&'static str> {
    let name_chars: Vec<char> = name.chars().collect();
    let close = |field: &str| {
        let field: Vec<char> = field.chars().collect();
        let (long, short) =
            if field.len() >= name_chars.len() { (&field, &name_chars) } else { (&name_chars, &field) };
        let same_start = long.iter().zip(short).take_while(|(a, b)| a == b).count();
        let same_end = long.iter().rev().zip(short.iter().rev()).take_while(|(a, b)| a == b).count();
        long.len() - short.len() <= 1 && same_start + same_end + 1 >= long.len()
    };
    Field::ALL
        .iter()
        .map(|field| field.short())
        .find(|field| name_chars.len() >= 3 && (field.starts_with(name) || close(field)))
}

/// A glob as a regular expression over the whole text.
fn glob_pattern(glob: &str, path: bool) -> String {
    let one = if path { "[^/]" } else { "." };
    let mut pattern = String::from("(?s)^");
    let mut chars = glob.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some(&'*') => {
                chars.next();
                pattern.push_str(".*");
            }
            '*' => {
                pattern.push_str(one);
                pattern.push('*');
            }
            '?' => pattern.push_str(one),
            c => pattern.push_str(&regex_lite::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    pattern.push('$');
    pattern
}
