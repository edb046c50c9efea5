//! Medians, spreads, and the table.

use serde::Serialize;

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What is measured.
    pub(crate) what: String,
    /// Family of data hooks, where it matters.
    pub(crate) hooks: Option<String>,
    /// The figure.
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What design asks for, in words.
    pub(crate) goal: &'static str,
    /// Whether the figure meets it; `None` where there is nothing to meet.
    pub(crate) met: Option<bool>,
    /// Spread, number of runs and other particulars.
    pub(crate) note: String,
}

/// The middle of the values; the mean of the two middle ones where their number is even.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// First and third quartile, by rank.
pub(crate) fn quartiles(values: &[f64]) -> (f64, f64) {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = |numerator: usize| values.get(values.len().saturating_sub(1) * numerator / 4).copied();
    (at(1).unwrap_or(f64::NAN), at(3).unwrap_or(f64::NAN))
}

/// The ratios of two series taken in pairs.
pub(crate) fn ratios(of: &[f64], to: &[f64]) -> Vec<f64> {
    of.iter().zip(to).map(|(of, to)| of / to).collect()
}

/// `median [first quartile, third quartile], n`.
pub(crate) fn spread(values: &[f64]) -> String {
    let (low, high) = quartiles(values);
    format!("quartiles {low:.3} to {high:.3}, {} pairs", values.len())
}

/// The table in Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| what | hooks | figure | goal | met | note |\n| --- | --- | ---: | --- | --- | --- |\n",
    );
    for Row { what, hooks, value, unit, goal, met, note } in rows {
        let figure = match value.abs() {
            v if v >= 10_000.0 => format!("{value:.0}"),
            v if v >= 10.0 => format!("{value:.1}"),
            _ => format!("{value:.3}"),
        };
        let hooks = hooks.as_deref().unwrap_or("–");
        let met = match met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "–",
        };
        text.push_str(&format!("| {what} | {hooks} | {figure} {unit} | {goal} | {met} | {note} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles_are_by_rank() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(quartiles(&[5.0, 1.0, 2.0, 3.0, 4.0]), (2.0, 4.0));
        assert_eq!(ratios(&[1.0, 3.0], &[2.0, 4.0]), [0.5, 0.75]);
    }

    #[test]
    fn a_figure_that_falls_short_stands_out() {
        let row = Row {
            what: "x".into(),
            hooks: None,
            value: 0.5,
            unit: "of untraced",
            goal: "≥ 0.85",
            met: Some(false),
            note: String::new(),
        };
        assert!(table(&[row]).contains("| x | – | 0.500 of untraced | ≥ 0.85 | **no** |"));
    }
}
