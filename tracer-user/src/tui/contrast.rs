//! What the selected transactions have that the others have not: shares of each value of each field, in the one and in the other. Pure.

use rustc_hash::FxHashMap;

use crate::{text::screen_text, transaction::Transaction};

/// A field's value in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Value<'a> {
    Missing,
    Text(&'a str),
    Number(i64),
}

/// Reads a field of a transaction.
type Read = for<'a> fn(&'a Transaction) -> Value<'a>;

/// The fields that are compared: those of few values, by their names in filters.
const FIELDS: [(&str, Read); 15] = [
    ("service", |t| Value::Text(&t.service)),
    ("operation", |t| Value::Text(&t.operation)),
    ("status_code", |t| t.status_code.map_or(Value::Missing, |code| Value::Number(code.into()))),
    ("error_type", |t| t.error_type.as_deref().map_or(Value::Missing, Value::Text)),
    ("end", |t| Value::Text(t.end.as_str())),
    ("protocol", |t| Value::Text(t.protocol)),
    ("kind", |t| Value::Text(t.kind.as_str())),
    ("role", |t| Value::Text(t.role.as_str())),
    ("confidence", |t| Value::Text(t.confidence.as_str())),
    ("comm", |t| Value::Text(&t.comm)),
    ("pid", |t| Value::Number(t.pid.into())),
    ("tid", |t| Value::Number(t.tid.into())),
    ("client_addr", |t| Value::Text(&t.client_addr)),
    ("server_addr", |t| Value::Text(&t.server_addr)),
    ("server_port", |t| t.server_port.map_or(Value::Missing, |port| Value::Number(port.into()))),
];

/// One value of one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contrast {
    /// Name of the field, as in filters.
    pub field: &'static str,
    /// The value, safe to show; `null` = missing.
    pub value: String,
    /// Selected transactions that have it.
    pub selected: u64,
    /// Others that have it.
    pub rest: u64,
}

/// How many were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Selected.
    pub selected: u64,
    /// Others.
    pub rest: u64,
}

/// The values whose share differs most between the selected and the others, the greatest difference first.
pub fn contrast<'a>(
    selected: impl Iterator<Item = &'a Transaction> + Clone,
    rest: impl Iterator<Item = &'a Transaction> + Clone,
) -> (Totals, Vec<Contrast>) {
    let totals = Totals { selected: selected.clone().count() as u64, rest: rest.clone().count() as u64 };
    let mut all = Vec::new();
    for (field, read) in FIELDS {
        let mut counts: FxHashMap<Value<'_>, [u64; 2]> = FxHashMap::default();
        // No more values than rows, which are bounded.
        selected.clone().for_each(|row| counts.entry(read(row)).or_default()[0] += 1);
        rest.clone().for_each(|row| counts.entry(read(row)).or_default()[1] += 1);
        let mut values: Vec<(Value<'_>, [u64; 2])> = counts.into_iter().collect();
        values.sort_unstable_by_key(|(value, _)| *value);
        all.extend(values.into_iter().map(|(value, [selected, rest])| Contrast {
            field,
            value: match value {
                Value::Missing => "null".to_owned(),
                Value::Text(text) => screen_text(text).into_owned(),
                Value::Number(n) => n.to_string(),
            },
            selected,
            rest,
        }));
    }
    // Stable: equal differences stay in the order of the fields and their values.
    all.sort_by(|a, b| difference(b, totals).total_cmp(&difference(a, totals)));
    (totals, all)
}

/// Difference of the shares, 0 to 1.
fn difference(contrast: &Contrast, totals: Totals) -> f64 {
    (share(contrast.selected, totals.selected) - share(contrast.rest, totals.rest)).abs()
}

/// A part of a whole, 0 to 1; 0 of nothing.
pub fn share(n: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { n as f64 / of as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::compliance::transaction;

    #[test]
    fn what_only_the_selected_have_comes_first_and_the_counts_add_up() {
        let rows: Vec<Transaction> = (0..200)
            .map(|i| Transaction {
                operation: if i < 20 { "GET /slow".into() } else { "GET /fast".into() },
                status_code: (i % 3 != 0).then_some(200),
                ..transaction(i)
            })
            .collect();
        let (totals, contrasts) = contrast(rows[..20].iter(), rows[20..].iter());
        assert_eq!(totals, Totals { selected: 20, rest: 180 });
        let first: Vec<(&str, &str, u64, u64)> =
            contrasts[..2].iter().map(|c| (c.field, c.value.as_str(), c.selected, c.rest)).collect();
        assert_eq!(first, [("operation", "GET /fast", 0, 180), ("operation", "GET /slow", 20, 0)]);
        for (field, _) in FIELDS {
            let of = |count: fn(&Contrast) -> u64| {
                contrasts.iter().filter(|c| c.field == field).map(count).sum::<u64>()
            };
            assert_eq!((of(|c| c.selected), of(|c| c.rest)), (20, 180), "{field}");
        }
        assert!(contrasts.iter().any(|c| c.field == "status_code" && c.value == "null" && c.selected == 7));
    }
}
