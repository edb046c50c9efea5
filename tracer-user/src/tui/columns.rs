//! Columns of the operations table and of lists: which there are, and how many fit.

/// A figure of the operations table; names stand before the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationColumn {
    /// Transactions per second.
    Rate,
    /// Errors.
    Errors,
    /// Transactions.
    Count,
    /// Median.
    P50,
    /// 90 of 100 are not longer.
    P90,
    /// 99 of 100.
    P99,
    /// 999 of 1,000.
    P999,
    /// Longest.
    Max,
}

impl OperationColumn {
    /// All with their names in the settings, in the order in which they are shown unless the settings say otherwise.
    pub const ALL: [(OperationColumn, &str); 8] = [
        (OperationColumn::Rate, "rate"),
        (OperationColumn::Errors, "errors"),
        (OperationColumn::Count, "count"),
        (OperationColumn::P50, "p50"),
        (OperationColumn::P90, "p90"),
        (OperationColumn::P99, "p99"),
        (OperationColumn::P999, "p99.9"),
        (OperationColumn::Max, "max"),
    ];
}

/// A column of a list of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListColumn {
    /// When it ended.
    End,
    /// How long it took.
    Elapsed,
    /// Status, or what stands for it.
    Status,
    /// C or S.
    Role,
    /// Service.
    Service,
    /// Operation.
    Operation,
    /// Target as sent.
    Target,
}

impl ListColumn {
    /// All with their names in the settings, in the order in which they are shown unless the settings say otherwise.
    pub const ALL: [(ListColumn, &str); 7] = [
        (ListColumn::End, "end"),
        (ListColumn::Elapsed, "elapsed"),
        (ListColumn::Status, "status"),
        (ListColumn::Role, "role"),
        (ListColumn::Service, "service"),
        (ListColumn::Operation, "operation"),
        (ListColumn::Target, "target"),
    ];
}

/// The columns that were chosen; `None` = the screen's own choice, which depends on its width.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// Of the operations table.
    pub operations: Option<Vec<OperationColumn>>,
    /// Of lists.
    pub list: Option<Vec<ListColumn>>,
}

/// Columns of the mark that says how many are not shown: no screen hides ten.
pub(super) const MARK: usize = 3;

/// How many columns of these least widths fit from the left, a space behind each; where not all do, the mark fits too.
pub(super) fn fitting(widths: impl IntoIterator<Item = usize> + Clone, room: usize) -> usize {
    let whole: usize = widths.clone().into_iter().map(|width| width + 1).sum();
    let room = if whole <= room { room } else { room.saturating_sub(MARK) };
    let mut used = 0;
    widths
        .into_iter()
        .take_while(|width| {
            used += width + 1;
            used <= room
        })
        .count()
}

/// What stands at the right end of the heading where columns are not shown.
pub(super) fn mark(hidden: usize) -> Option<String> {
    (hidden != 0).then(|| format!(">{hidden}"))
}

/// Columns that are left for a table's own, with the mark beside them where columns are not shown.
pub(super) fn beside_mark(width: u16, hidden: usize) -> u16 {
    if hidden == 0 { width } else { width.saturating_sub(MARK as u16) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_dropped_from_the_right_and_leave_room_for_the_mark() {
        assert_eq!(fitting([6, 6, 6], 21), 3);
        assert_eq!(fitting([6, 6, 6], 20), 2);
        assert_eq!(fitting([6, 6, 6], 16), 1);
        assert_eq!(fitting([6, 6, 6], 3), 0);
        assert_eq!(mark(0), None);
        assert_eq!(mark(2).as_deref(), Some(">2"));
        assert_eq!([beside_mark(80, 0), beside_mark(80, 1), beside_mark(2, 1)], [80, 77, 0]);
    }
}
