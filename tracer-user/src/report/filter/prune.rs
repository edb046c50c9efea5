//! Which row groups cannot hold a transaction that a filter wants: the expression, asked of a whole group at once.
//!
//! Of a group it is only known which values its columns may have, so that an expression has two answers: whether it may
//! hold for one of the rows, and whether it may fail for one. Each may be `true` too often, never `false` too often.
//! `not` swaps them, which is why both are kept: what may match `not e` is what may fail `e`, a missing value included.

use std::{ops::RangeInclusive, rc::Rc};

use super::{DATABASES, Expression, Field, Order};
use crate::{
    protocol::REGISTRY,
    schema::groups::{ColumnFacts, Values},
};

/// What an expression may do on the rows of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcomes {
    /// Whether it may hold for one of them.
    pub(super) hit: bool,
    /// Whether it may fail for one of them.
    pub(super) miss: bool,
}

impl Outcomes {
    const ANY: Outcomes = Outcomes { hit: true, miss: true };

    /// Of a comparison: with a missing value it fails.
    fn of_values<'a, V: 'a>(
        values: impl Iterator<Item = &'a V>,
        nulls: bool,
        holds: impl Fn(&V) -> bool,
    ) -> Outcomes {
        let mut outcomes = Outcomes { hit: false, miss: nulls };
        for value in values {
            let holds = holds(value);
            outcomes.hit |= holds;
            outcomes.miss |= !holds;
        }
        outcomes
    }
}

type Columns<'a> = dyn Fn(&str) -> Rc<ColumnFacts> + 'a;

impl Expression {
    pub(super) fn outcomes(&self, column: &Columns<'_>) -> Outcomes {
        match self {
            Expression::And(a, b) => {
                let (a, b) = (a.outcomes(column), b.outcomes(column));
                Outcomes { hit: a.hit && b.hit, miss: a.miss || b.miss }
            }
            Expression::Or(a, b) => {
                let (a, b) = (a.outcomes(column), b.outcomes(column));
                Outcomes { hit: a.hit || b.hit, miss: a.miss && b.miss }
            }
            Expression::Not(a) => {
                let Outcomes { hit, miss } = a.outcomes(column);
                Outcomes { hit: miss, miss: hit }
            }
            Expression::IsNull { field, negated } => {
                let facts = field.facts(column);
                let (null, present) = (facts.nulls, facts.values != Values::None);
                if *negated {
                    Outcomes { hit: present, miss: null }
                } else {
                    Outcomes { hit: null, miss: present }
                }
            }
            Expression::Integer { field, op, value } => integers(&field.facts(column), *op, *value),
            Expression::IntegerIn { field, values } => {
                let facts = field.facts(column);
                match &facts.values {
                    Values::Integers(range) => {
                        let within = |value: &i128| {
                            (i128::from(*range.start())..=i128::from(*range.end())).contains(value)
                        };
                        Outcomes { hit: values.iter().any(within), miss: true }
                    }
                    Values::IntegerSet(set) => Outcomes::of_values(set.iter(), facts.nulls, |have| {
                        values.contains(&i128::from(*have))
                    }),
                    _ => other(&facts),
                }
            }
            Expression::Boolean { field, op, value } => {
                let facts = field.facts(column);
                match &facts.values {
                    Values::Booleans(range) => {
                        let both = [*range.start(), *range.end()];
                        Outcomes::of_values(both.iter(), facts.nulls, |have| op.holds(have.cmp(value)))
                    }
                    _ => other(&facts),
                }
            }
            Expression::Text { field: Field::Id, op: Order::Equal, value } => {
                ids(column, std::slice::from_ref(value))
            }
            Expression::TextIn { field: Field::Id, values } => ids(column, values),
            Expression::Text { field, op, value } => {
                texts(&field.facts(column), |have| op.holds(have.cmp(value.as_str())))
            }
            Expression::TextIn { field, values } => {
                texts(&field.facts(column), |have| values.iter().any(|value| value == have))
            }
            Expression::Matches { field, pattern } => {
                texts(&field.facts(column), |have| pattern.is_match(have))
            }
            Expression::Database => texts(&Field::Protocol.facts(column), |have| DATABASES.contains(&have)),
        }
    }
}

fn integers(facts: &ColumnFacts, op: Order, value: i128) -> Outcomes {
    match &facts.values {
        Values::Integers(range) => Outcomes {
            hit: may_hold(range, op, value),
            miss: facts.nulls || may_hold(range, op.negated(), value),
        },
        Values::IntegerSet(set) => {
            Outcomes::of_values(set.iter(), facts.nulls, |have| op.holds(i128::from(*have).cmp(&value)))
        }
        _ => other(facts),
    }
}

/// Whether a number of the range may stand in this order to `value`.
fn may_hold(range: &RangeInclusive<i64>, op: Order, value: i128) -> bool {
    let (min, max) = (i128::from(*range.start()), i128::from(*range.end()));
    match op {
        Order::Equal => (min..=max).contains(&value),
        Order::NotEqual => min != value || max != value,
        Order::Less => min < value,
        Order::LessOrEqual => min <= value,
        Order::Greater => max > value,
        Order::GreaterOrEqual => max >= value,
    }
}

fn texts(facts: &ColumnFacts, holds: impl Fn(&str) -> bool) -> Outcomes {
    match &facts.values {
        Values::Texts(texts) => Outcomes::of_values(texts.iter(), facts.nulls, |have: &String| holds(have)),
        _ => other(facts),
    }
}

/// An id is its connection's and a number. It is written without a dictionary, `conn_id` with one; but of what was seen inside TLS that has
/// another connection, the one on the wire.
fn ids(column: &Columns<'_>, values: &[String]) -> Outcomes {
    let may_be_inside = column("tls_library").values != Values::None;
    let is_one = |conn: &str| values.iter().any(|value| is_of(value, conn));
    let is_within = match &column("id").values {
        Values::TextRange(range) => values.iter().any(|value| range.contains(value)),
        facts => *facts != Values::None,
    };
    let hit = is_within && (may_be_inside || texts(&Field::ConnId.facts(column), is_one).hit);
    Outcomes { hit, miss: true }
}

/// Without values of the field's type: none at all, or nobody knows.
fn other(facts: &ColumnFacts) -> Outcomes {
    if facts.values == Values::None { Outcomes { hit: false, miss: facts.nulls } } else { Outcomes::ANY }
}

/// Whether an id is one of this connection's.
fn is_of(id: &str, conn: &str) -> bool {
    id.split_once('-').is_some_and(|(of, _)| of == conn)
}

impl Order {
    fn negated(self) -> Order {
        match self {
            Order::Equal => Order::NotEqual,
            Order::NotEqual => Order::Equal,
            Order::Less => Order::GreaterOrEqual,
            Order::LessOrEqual => Order::Greater,
            Order::Greater => Order::LessOrEqual,
            Order::GreaterOrEqual => Order::Less,
        }
    }
}

impl Field {
    /// What is known of the field: of its column, as far as a value there is the value that the field has.
    fn facts(self, column: &Columns<'_>) -> Rc<ColumnFacts> {
        let facts = column(self.name());
        match (self, &facts.values) {
            // An empty address is one that is not known.
            (Field::ClientAddr | Field::ServerAddr, Values::Texts(texts)) => {
                let known: Vec<String> = texts.iter().filter(|text| !text.is_empty()).cloned().collect();
                let nulls = facts.nulls || known.len() < texts.len();
                let values = if known.is_empty() { Values::None } else { Values::Texts(known) };
                Rc::new(ColumnFacts { values, nulls })
            }
            (Field::ClientAddr | Field::ServerAddr, _) => Rc::new(ColumnFacts::UNKNOWN),
            // Below zero they are read as very large: no recording has such.
            (
                Field::RequestEnd | Field::ResponseStart | Field::Ttfb | Field::Queue,
                Values::Integers(range),
            ) if *range.start() < 0 => Rc::new(ColumnFacts::UNKNOWN),
            // Protocols of a later txray are read as unknown.
            (Field::Protocol, Values::Texts(texts)) => {
                let registered = |text: &String| REGISTRY.iter().any(|protocol| protocol.name() == text);
                let read = |text: &String| if registered(text) { text.clone() } else { "unknown".to_owned() };
                let values = Values::Texts(texts.iter().map(read).collect());
                Rc::new(ColumnFacts { values, nulls: facts.nulls })
            }
            _ => facts,
        }
    }
}
