//! The XLog as cells: which dots of a window fall where, what a cell is painted as. Pure.

use std::ops::Range;

use hdrhistogram::Histogram;

use crate::{
    event::Role,
    sink::{
        histogram::HIGHEST_NS,
        xlog::{Class, Xlog},
    },
    time::WallTime,
    transaction::Transaction,
};

use super::{axis::Axis, view::Roles};

/// Decades that a logarithmic axis of time shows; as many steps of 16 of one of bytes.
const DECADES: i32 = 5;
/// Dots per occupied position from which a scatter hides more than it shows…
const DENSE: u64 = 4;
/// …and below which it is shown again.
const SPARSE: u64 = 2;

/// The elapsed axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Five decades below the top.
    Log,
    /// From 0.
    Linear,
}

/// Dots or counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Density {
    /// One braille dot each.
    Scatter,
    /// Counts per cell.
    Heat,
}

/// What is shown where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChartArea {
    /// Cells across.
    pub width: u16,
    /// Cells down.
    pub height: u16,
    /// End of what is shown, at the right edge; what ends at it or later is not.
    pub end: WallTime,
    /// Time from edge to edge, ns.
    pub window_ns: u64,
    /// What is shown upwards.
    pub axis: Axis,
    /// The value at the top, in the axis's unit: ns or bytes.
    pub y_max_ns: u64,
    /// Logarithmic or linear.
    pub scale: Scale,
    /// Whose dots.
    pub roles: Roles,
}

/// One character cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Braille bits (U+2800 + bits).
    pub bits: u8,
    /// Dots.
    pub count: u64,
    /// The most important class among them.
    pub class: Option<Class>,
}

/// A chart's grid of cells over time and elapsed time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// What it shows.
    pub area: ChartArea,
    /// Time at the left edge.
    pub start: WallTime,
    /// Time behind the right edge: [`ChartArea::end`] rounded up to a whole column, so that dots do not jitter.
    pub end: WallTime,
    /// Time across a dot; a cell is two of them.
    dot_ns: u64,
}

impl Geometry {
    /// The grid of an area.
    pub fn of(area: ChartArea) -> Geometry {
        let width = u64::from(area.width.max(1));
        // Two dots across per cell.
        let dot_ns = (area.window_ns / (width * 2)).max(1);
        let end = WallTime(area.end.0.div_ceil(dot_ns * 2).max(width) * dot_ns * 2);
        let start = WallTime(end.0 - dot_ns * 2 * width);
        Geometry { area, start, end, dot_ns }
    }

    /// Time across a cell, ns.
    pub fn column_ns(&self) -> u64 {
        self.dot_ns * 2
    }

    /// Column and row of the dot of an end and an elapsed time, both in dots; `None` outside of the window.
    fn dot(&self, end: WallTime, duration_ns: u64) -> Option<(u64, u16)> {
        // The last column may reach behind the end of the window: what lies there is not shown.
        if end < self.start || end >= self.end.min(self.area.end) {
            return None;
        }
        Some(((end.0 - self.start.0) / self.dot_ns, self.area.dot_row(duration_ns)))
    }

    /// Column and row of the cell in which a dot is drawn; `None` outside of the window.
    pub fn cell(&self, end: WallTime, duration_ns: u64) -> Option<(u16, u16)> {
        let (x, y) = self.dot(end, duration_ns)?;
        Some((u16::try_from(x / 2).ok()?, y / 4))
    }

    /// The rectangle that has these cells in two opposite corners.
    pub fn rectangle(&self, a: (u16, u16), b: (u16, u16)) -> Rectangle {
        let (columns, rows) = ((a.0.min(b.0), a.0.max(b.0)), (a.1.min(b.1), a.1.max(b.1)));
        Rectangle { geometry: *self, columns, rows }
    }

    /// Elapsed at the upper edge of a row, ns.
    fn edge_ns(&self, row: u16) -> u64 {
        let share = 1.0 - f64::from(row) / f64::from(self.area.height.max(1));
        let top = self.area.y_max_ns as f64;
        match self.area.scale {
            Scale::Linear => (top * share).round() as u64,
            Scale::Log => {
                let step = self.area.axis.step() as f64;
                (top * step.powf((share - 1.0) * f64::from(DECADES))).round() as u64
            }
        }
    }
}

/// A rectangle of cells: what is drawn in it is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rectangle {
    geometry: Geometry,
    /// First and last column.
    columns: (u16, u16),
    /// First and last row, from the top.
    rows: (u16, u16),
}

impl Rectangle {
    /// Whether the dot of such a transaction is drawn in it.
    pub fn contains(&self, role: Role, end: WallTime, duration_ns: u64) -> bool {
        self.geometry.area.roles.shows(role)
            && self.geometry.cell(end, duration_ns).is_some_and(|(column, row)| self.has(column, row))
    }

    /// Whether the dot of a transaction is drawn in it.
    pub fn holds(&self, row: &Transaction) -> bool {
        let value = self.geometry.area.axis.value(row);
        value.is_some_and(|value| self.contains(row.role, row.end_time, value))
    }

    /// What is shown upwards.
    pub fn axis(&self) -> Axis {
        self.geometry.area.axis
    }

    /// Whether the dot of such a transaction is drawn on the chart, here or elsewhere.
    pub fn is_on_chart(&self, role: Role, end: WallTime) -> bool {
        self.geometry.area.roles.shows(role) && self.geometry.dot(end, 0).is_some()
    }

    /// Time at the left edge of the chart, and the end of what is shown.
    pub fn chart_times(&self) -> (WallTime, WallTime) {
        (self.geometry.start, self.geometry.area.end)
    }

    /// Whether a cell is one of its.
    pub fn has(&self, column: u16, row: u16) -> bool {
        (self.columns.0..=self.columns.1).contains(&column) && (self.rows.0..=self.rows.1).contains(&row)
    }

    /// Time at its left edge and behind its right one.
    pub fn times(&self) -> (WallTime, WallTime) {
        let at = |column: u16| {
            WallTime(self.geometry.start.0 + u64::from(column) * self.geometry.dot_ns.saturating_mul(2))
        };
        (at(self.columns.0), at(self.columns.1.saturating_add(1)))
    }

    /// Elapsed at its upper edge, ns.
    pub fn top_ns(&self) -> u64 {
        self.geometry.edge_ns(self.rows.0)
    }

    /// Elapsed at its lower edge, ns.
    pub fn bottom_ns(&self) -> u64 {
        // The last row holds all that is shorter, too.
        if self.rows.1 + 1 >= self.geometry.area.height { 0 } else { self.geometry.edge_ns(self.rows.1 + 1) }
    }

    /// Whether it has the first row, where all that is longer than the top is drawn.
    pub fn is_open(&self) -> bool {
        self.rows.0 == 0
    }
}

/// [`Geometry::dot`] for very many dots that come about in the order of their ends: no division and no logarithm for most.
struct Places {
    geometry: Geometry,
    /// The column of the last one, and the times between which it lies.
    column: u64,
    times: Range<u64>,
    /// By the leading bits of an elapsed time ([`Places::slot`]): [`Places::UNKNOWN`], [`Places::SEVERAL`], or the one row of all such
    /// times; and how many there were.
    rows: Vec<(u16, u32)>,
}

impl Places {
    const UNKNOWN: u16 = u16::MAX;
    const SEVERAL: u16 = u16::MAX - 1;
    /// Bits behind the leading one. A linear axis of 400 dots has 200 of them in its upper half: four in five times need no more. And
    /// no two of them are apart in a histogram of two digits, which has seven.
    const BITS: u32 = 10;

    fn new(geometry: Geometry) -> Places {
        let rows = vec![(Places::UNKNOWN, 0); ((u64::BITS - Places::BITS + 1) as usize) << Places::BITS];
        Places { geometry, column: 0, times: 0..0, rows }
    }

    /// The column of an end; `None` outside of the window.
    fn column(&mut self, end: WallTime) -> Option<u64> {
        if !self.times.contains(&end.0) {
            let Geometry { start, dot_ns, .. } = self.geometry;
            (self.column, _) = self.geometry.dot(end, 0)?;
            let from = start.0 + self.column * dot_ns;
            self.times = from..(from + dot_ns).min(self.geometry.area.end.0);
        }
        Some(self.column)
    }

    /// The place of an elapsed time among `rows`, its leading bits and how many are left out: the leading one and those behind it are
    /// kept; short times keep all.
    fn slot(elapsed_ns: u64) -> (usize, u64, u32) {
        let shift = (u64::BITS - elapsed_ns.leading_zeros()).saturating_sub(Places::BITS + 1);
        let leading = elapsed_ns >> shift;
        (((shift as usize) << Places::BITS) + leading as usize, leading, shift)
    }

    /// [`ChartArea::dot_row`].
    fn row(&mut self, elapsed_ns: u64) -> u16 {
        let area = &self.geometry.area;
        let (slot, leading, shift) = Places::slot(elapsed_ns);
        let Some((row, _)) = self.rows.get_mut(slot) else { return area.dot_row(elapsed_ns) };
        if *row == Places::UNKNOWN {
            let (first, last) = (leading << shift, (leading << shift) | ((1 << shift) - 1));
            let (top, bottom) = (area.dot_row(last), area.dot_row(first));
            *row = if top == bottom { top } else { Places::SEVERAL };
        }
        if *row == Places::SEVERAL { area.dot_row(elapsed_ns) } else { *row }
    }

    /// Keeps an elapsed time for [`Places::record`].
    fn count(&mut self, elapsed_ns: u64) {
        if let Some((_, n)) = self.rows.get_mut(Places::slot(elapsed_ns).0) {
            *n += 1;
        }
    }

    /// Records what was kept.
    fn record(&self, latency: &mut Histogram<u32>) {
        for (slot, (_, n)) in self.rows.iter().enumerate().filter(|(_, (_, n))| *n != 0) {
            let shift = (slot >> Places::BITS).saturating_sub(1);
            let leading = slot - (shift << Places::BITS);
            latency.saturating_record_n((leading as u64) << shift, *n);
        }
    }
}

/// The dots of a window, in cells.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub area: ChartArea,
    /// The grid.
    pub geometry: Geometry,
    /// Cells, row by row from the top.
    pub cells: Vec<Cell>,
    /// Columns in which something was lost.
    pub lost: Vec<bool>,
    /// Dots shown.
    pub n: u64,
    /// Errors among them.
    pub n_errors: u64,
    /// Dots above the top: drawn in the first row.
    pub n_clamped: u64,
    /// Dots of the other role.
    pub n_hidden: u64,
    /// Transactions of the window that have no such value: they have no dot.
    pub n_without: u64,
    /// Transactions of the window whose value is not kept, so that they have none either.
    pub n_older: u64,
    /// Greatest count of a cell.
    pub max_count: u64,
    /// Dots by row of cells.
    pub by_row: Vec<u64>,
    /// Durations of the dots shown, long-lived ones apart.
    latency: Option<Histogram<u32>>,
    /// Durations that fell out of the ring, and are known to a power of two only, are among them.
    pub is_coarse: bool,
    /// Dot positions in use, for [`Chart::density`].
    occupied: u64,
}

impl Chart {
    /// Puts the dots of the ring (and the counts of what fell out of it) into cells.
    pub fn build(area: ChartArea, xlog: &Xlog, marks: impl Iterator<Item = (WallTime, WallTime)>) -> Chart {
        let mut chart = Chart::empty(area);
        let Geometry { start, end, .. } = chart.geometry;
        for old in xlog.old(start, area.end) {
            chart.add(old.end, old.duration_ns, old.class, old.role, old.n);
            chart.is_coarse = true;
        }
        let mut places = Places::new(chart.geometry);
        for dot in xlog.dots(start, end) {
            let Some(column) = places.column(dot.end()) else { continue };
            if !area.roles.shows(dot.role()) {
                chart.n_hidden += 1;
                continue;
            }
            let (elapsed_ns, class) = (dot.duration_ns(), dot.class());
            chart.put((column, places.row(elapsed_ns)), elapsed_ns, class, 1);
            if class != Class::LongLived {
                places.count(elapsed_ns);
            }
        }
        if let Some(latency) = &mut chart.latency {
            places.record(latency);
        }
        chart.add_up();
        chart.mark(marks);
        chart
    }

    /// Puts transactions into cells.
    pub fn of_rows<'a>(
        area: ChartArea,
        rows: impl Iterator<Item = &'a Transaction>,
        marks: impl Iterator<Item = (WallTime, WallTime)>,
    ) -> Chart {
        let mut chart = Chart::empty(area);
        for row in rows {
            match area.axis.value(row) {
                Some(value) => chart.add(row.end_time, value, Class::of(row), row.role, 1),
                None => chart.add_without(row.end_time, row.role),
            }
        }
        chart.add_up();
        chart.mark(marks);
        chart
    }

    fn empty(area: ChartArea) -> Chart {
        let n_cells = usize::from(area.width) * usize::from(area.height);
        Chart {
            area,
            geometry: Geometry::of(area),
            cells: vec![Cell::default(); n_cells],
            lost: vec![false; usize::from(area.width)],
            n: 0,
            n_errors: 0,
            n_clamped: 0,
            n_hidden: 0,
            n_without: 0,
            n_older: 0,
            max_count: 0,
            by_row: vec![0; usize::from(area.height)],
            latency: Histogram::new_with_bounds(8, HIGHEST_NS, 2).ok(),
            is_coarse: false,
            occupied: 0,
        }
    }

    /// Marks the columns in which something was lost.
    fn mark(&mut self, marks: impl Iterator<Item = (WallTime, WallTime)>) {
        let Geometry { start, end, dot_ns, .. } = self.geometry;
        for (from, to) in marks {
            if to < start || from >= end {
                continue;
            }
            let column = |at: WallTime| (at.0.clamp(start.0, end.0 - 1) - start.0) / (dot_ns * 2);
            for column in column(from)..=column(to) {
                if let Some(lost) = self.lost.get_mut(column as usize) {
                    *lost = true;
                }
            }
        }
    }

    fn add_without(&mut self, at: WallTime, role: Role) {
        if self.geometry.dot(at, 0).is_some() {
            let n = if self.area.roles.shows(role) { &mut self.n_without } else { &mut self.n_hidden };
            *n += 1;
        }
    }

    fn add(&mut self, at: WallTime, duration_ns: u64, class: Class, role: Role, n: u64) {
        let Some(place) = self.geometry.dot(at, duration_ns).filter(|_| n != 0) else { return };
        if !self.area.roles.shows(role) {
            self.n_hidden += n;
            return;
        }
        self.put(place, duration_ns, class, n);
        if let Some(latency) = self.latency.as_mut().filter(|_| class != Class::LongLived) {
            latency.saturating_record_n(duration_ns, u32::try_from(n).unwrap_or(u32::MAX));
        }
    }

    /// Puts `n` dots at a place ([`Geometry::dot`]). Called for every dot of a frame: what cells can be added up to is left to
    /// [`Chart::add_up`].
    fn put(&mut self, (x, y): (u64, u16), duration_ns: u64, class: Class, n: u64) {
        if class.is_error() {
            self.n_errors += n;
        }
        if duration_ns >= self.area.y_max_ns {
            self.n_clamped += n;
        }
        let index = usize::from(y / 4) * usize::from(self.area.width) + (x / 2) as usize;
        let Some(cell) = self.cells.get_mut(index) else { return };
        // The braille block's dots are numbered down the left column, down the right, and then the last row.
        const BITS: [[u8; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
        cell.bits |= BITS[(x % 2) as usize][usize::from(y % 4)];
        cell.count += n;
        cell.class = cell.class.max(Some(class));
    }

    /// Adds up the cells.
    fn add_up(&mut self) {
        for (row, cells) in self.by_row.iter_mut().zip(self.cells.chunks(usize::from(self.area.width.max(1))))
        {
            *row = cells.iter().map(|cell| cell.count).sum();
        }
        self.n = self.by_row.iter().sum();
        self.max_count = self.cells.iter().map(|cell| cell.count).max().unwrap_or(0);
        self.occupied = self.cells.iter().map(|cell| u64::from(cell.bits.count_ones())).sum();
    }

    /// Dots of each column, and whether an error is among them.
    pub fn by_column(&self) -> Vec<(u64, bool)> {
        let width = usize::from(self.area.width);
        let mut columns = vec![(0, false); width];
        for (at, cell) in self.cells.iter().enumerate() {
            let column = &mut columns[at % width.max(1)];
            column.0 += cell.count;
            column.1 |= cell.class.is_some_and(Class::is_error);
        }
        columns
    }

    /// Quantiles of the dots shown, ns; `None` without any. Where [`Chart::is_coarse`] they are known to a power of two only.
    pub fn quantiles<const N: usize>(&self, quantiles: [f64; N]) -> Option<[u64; N]> {
        let latency = self.latency.as_ref().filter(|latency| !latency.is_empty())?;
        Some(quantiles.map(|quantile| latency.value_at_quantile(quantile)))
    }

    /// The row of cells in which an elapsed time is drawn; `None` above the top.
    pub fn row_of(&self, duration_ns: u64) -> Option<u16> {
        (duration_ns < self.area.y_max_ns).then(|| self.area.dot_row(duration_ns) / 4)
    }

    /// Scatter or heat map, given what was shown before (so that it does not flicker between the two).
    pub fn density(&self, before: Density) -> Density {
        let limit = match before {
            Density::Scatter => DENSE,
            Density::Heat => SPARSE,
        };
        if self.occupied != 0 && self.n >= limit * self.occupied { Density::Heat } else { Density::Scatter }
    }

    /// How full a cell of the heat map is, 0 (empty) to 8, on a logarithmic scale up to the fullest cell.
    pub fn level(&self, cell: Cell) -> usize {
        if cell.count == 0 {
            return 0;
        }
        let full = (self.max_count as f64).ln_1p();
        (((cell.count as f64).ln_1p() / full * 8.0).round() as usize).clamp(1, 8)
    }
}

impl ChartArea {
    /// Row of dots (four a cell) from the top for an elapsed time. At the top or above it: the first.
    fn dot_row(&self, duration_ns: u64) -> u16 {
        let rows = self.height.max(1).saturating_mul(4);
        let share = self.share(duration_ns);
        // The addend keeps a value that lies on a line from slipping above it by the last bit of a logarithm.
        ((f64::from(rows) * (1.0 - share) + 1e-6) as u16).min(rows - 1)
    }

    /// Height above the bottom, 0 to 1.
    fn share(&self, duration_ns: u64) -> f64 {
        let (value, top) = (duration_ns as f64, self.y_max_ns.max(1) as f64);
        if value >= top {
            return 1.0;
        }
        match self.scale {
            Scale::Linear => value / top,
            Scale::Log => {
                let steps = (value.max(1.0) / top).log10() / (self.axis.step() as f64).log10();
                (steps / f64::from(DECADES) + 1.0).clamp(0.0, 1.0)
            }
        }
    }

    /// Elapsed times to label, with the cell row each belongs to; from the top, no two in one row.
    pub fn labels(&self) -> Vec<(u16, u64)> {
        let values: Vec<u64> = match self.scale {
            Scale::Log => {
                (0..DECADES).map(|step| self.y_max_ns / self.axis.step().pow(step as u32)).collect()
            }
            Scale::Linear => (0..4).map(|quarter| self.y_max_ns / 4 * (4 - quarter)).collect(),
        };
        let mut labels: Vec<(u16, u64)> = Vec::new();
        for value in values {
            let row = self.dot_row(value) / 4;
            if labels.last().is_none_or(|(last, _)| *last < row) {
                labels.push((row, value));
            }
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sink::compliance::transaction, transaction::End};

    const SECOND: u64 = 1_000_000_000;

    fn area(scale: Scale) -> ChartArea {
        ChartArea {
            width: 10,
            height: 5,
            end: WallTime(1_000 * SECOND),
            window_ns: 100 * SECOND,
            axis: Axis::Elapsed,
            y_max_ns: 10 * SECOND,
            scale,
            roles: Roles::Servers,
        }
    }

    fn at(second: u64, duration_ns: u64) -> Transaction {
        Transaction {
            end_time: WallTime(second * SECOND),
            duration_ns: duration_ns as i64,
            ..transaction(second)
        }
    }

    fn chart(area: ChartArea, transactions: &[Transaction]) -> Chart {
        let mut xlog = Xlog::new(1 << 16);
        for transaction in transactions {
            xlog.push(transaction);
        }
        Chart::build(area, &xlog, std::iter::empty())
    }

    fn cell(chart: &Chart, row: usize, column: usize) -> Cell {
        chart.cells[row * usize::from(chart.area.width) + column]
    }

    #[test]
    fn a_dot_goes_where_its_end_and_duration_say() {
        let chart = chart(area(Scale::Linear), &[at(905, 9_900_000_000), at(999, 100_000_000)]);
        // 900..905 is the first dot column of the first cell, 905..910 the second.
        assert_eq!(cell(&chart, 0, 0).bits, 0x08);
        assert_eq!(cell(&chart, 4, 9).bits, 0x80);
        assert_eq!((chart.n, chart.n_clamped), (2, 0));
    }

    #[test]
    fn dots_above_the_top_are_in_the_first_row_and_counted() {
        let chart = chart(area(Scale::Log), &[at(950, 10 * SECOND), at(950, 3_000 * SECOND)]);
        assert_eq!(cell(&chart, 0, 5).count, 2);
        assert_eq!((chart.n, chart.n_clamped), (2, 2));
    }

    #[test]
    fn an_error_wins_its_cell_whichever_came_first() {
        let error = Transaction { error: true, ..at(950, SECOND) };
        for transactions in [[error.clone(), at(950, SECOND)], [at(950, SECOND), error]] {
            let chart = chart(area(Scale::Log), &transactions);
            let painted: Vec<_> = chart.cells.iter().filter_map(|cell| cell.class).collect();
            assert_eq!(painted, [Class::Error]);
            assert_eq!((chart.n, chart.n_errors), (2, 1));
        }
    }

    #[test]
    fn the_more_important_class_wins_its_cell_and_the_errors_are_those_that_failed() {
        let normal = at(950, SECOND);
        let client_error = Transaction { status_code: Some(404), ..normal.clone() };
        let aborted = Transaction { end: End::Closed, error: true, ..normal.clone() };
        let error = Transaction { status_code: Some(500), error: true, ..normal.clone() };
        let all = [normal, client_error, aborted, error];
        let wins = [Class::Normal, Class::ClientError, Class::Aborted, Class::Error];
        for (n, (class, errors)) in wins.into_iter().zip([0, 0, 1, 2]).enumerate() {
            let mut transactions = all[..=n].to_vec();
            for _ in 0..2 {
                let chart = chart(area(Scale::Log), &transactions);
                assert_eq!(chart.cells.iter().filter_map(|cell| cell.class).collect::<Vec<_>>(), [class]);
                assert_eq!((chart.n, chart.n_errors), (n as u64 + 1, errors));
                assert_eq!(chart.by_column().iter().any(|(_, has_error)| *has_error), errors != 0);
                transactions.reverse();
            }
        }
    }

    #[test]
    fn every_dot_of_the_window_is_in_some_cell_and_the_count_says_so() {
        let transactions: Vec<_> = (800..1_100).map(|s| at(s, (s * 7_919_000) % (20 * SECOND))).collect();
        for scale in [Scale::Log, Scale::Linear] {
            let chart = chart(area(scale), &transactions);
            assert_eq!(chart.cells.iter().map(|cell| cell.count).sum::<u64>(), chart.n);
            assert_eq!(chart.by_column().iter().map(|(n, _)| n).sum::<u64>(), chart.n);
            assert_eq!(
                chart.n, 100,
                "one a second from {:?} to {:?}",
                chart.geometry.start, chart.geometry.end
            );
        }
    }

    #[test]
    fn decades_are_equally_high_on_the_log_axis() {
        let area = ChartArea { height: 50, ..area(Scale::Log) };
        let rows: Vec<u16> = [10 * SECOND, SECOND, SECOND / 10, SECOND / 100, SECOND / 1_000]
            .map(|ns| area.dot_row(ns))
            .to_vec();
        assert_eq!(rows, [0, 40, 80, 120, 160]);
        assert_eq!(area.dot_row(0), 199);
        assert_eq!(area.labels()[1], (10, SECOND));
    }

    #[test]
    fn sixteenths_are_equally_high_on_the_log_axis_of_bytes() {
        let area = ChartArea { axis: Axis::ResponseBytes, y_max_ns: 1 << 20, height: 50, ..area(Scale::Log) };
        assert_eq!(
            [1 << 20, 1 << 16, 1 << 12, 1 << 8, 1 << 4].map(|n| area.dot_row(n)),
            [0, 40, 80, 120, 160]
        );
        assert_eq!(area.labels()[1], (10, 1 << 16));
        assert_eq!(Geometry::of(area).edge_ns(20), 1 << 12);
    }

    #[test]
    fn what_has_no_such_value_is_counted_and_not_drawn_at_zero() {
        let area = ChartArea { axis: Axis::Queue, ..area(Scale::Log) };
        let rows = [
            Transaction { queue_ns: Some(0), ..at(950, SECOND) },
            Transaction { queue_ns: Some(20 * SECOND), ..at(950, SECOND) },
            at(950, SECOND),
            Transaction { role: Role::Client, ..at(950, SECOND) },
            at(10, SECOND),
        ];
        let chart = Chart::of_rows(area, rows.iter(), std::iter::empty());
        assert_eq!((chart.n, chart.n_clamped, chart.n_without, chart.n_hidden), (2, 1, 1, 1));
        assert_eq!(chart.cells.iter().map(|cell| cell.count).sum::<u64>(), 2);
    }

    #[test]
    fn density_switches_with_hysteresis() {
        let crowd = |n: usize| chart(area(Scale::Log), &vec![at(950, SECOND); n]);
        assert_eq!(crowd(3).density(Density::Scatter), Density::Scatter);
        assert_eq!(crowd(4).density(Density::Scatter), Density::Heat);
        assert_eq!(crowd(3).density(Density::Heat), Density::Heat);
        assert_eq!(crowd(1).density(Density::Heat), Density::Scatter);
        assert_eq!(crowd(0).density(Density::Heat), Density::Scatter);
    }

    #[test]
    fn levels_go_from_the_emptiest_to_the_fullest() {
        let mut transactions = vec![at(950, SECOND); 1_000];
        transactions.insert(0, at(910, SECOND));
        let chart = chart(area(Scale::Log), &transactions);
        let levels: Vec<usize> =
            chart.cells.iter().map(|&cell| chart.level(cell)).filter(|&level| level != 0).collect();
        assert_eq!(levels, [1, 8]);
    }

    #[test]
    fn what_fell_out_of_the_ring_is_still_counted_on_the_chart() {
        let mut xlog = Xlog::new(10);
        for second in 900..1_000 {
            xlog.push(&at(second, SECOND));
        }
        let chart = Chart::build(area(Scale::Log), &xlog, std::iter::empty());
        assert_eq!(chart.n, 100);
        assert!(chart.cells.iter().filter(|cell| cell.count != 0).count() >= 10);
    }

    #[test]
    fn columns_with_losses_are_marked() {
        let marks = [(WallTime(910 * SECOND), WallTime(925 * SECOND)), (WallTime(1), WallTime(2))];
        let chart = Chart::build(area(Scale::Log), &Xlog::new(1), marks.into_iter());
        let lost: Vec<usize> = (0..10).filter(|&column| chart.lost[column]).collect();
        assert_eq!(lost, [1, 2]);
    }

    #[test]
    fn the_other_roles_dots_are_hidden_and_counted() {
        let client = Transaction { role: Role::Client, ..at(950, SECOND) };
        let both = [client, at(950, SECOND)];
        let servers = chart(area(Scale::Log), &both);
        assert_eq!((servers.n, servers.n_hidden), (1, 1));
        let all = chart(ChartArea { roles: Roles::Both, ..area(Scale::Log) }, &both);
        assert_eq!((all.n, all.n_hidden), (2, 0));
    }

    #[test]
    fn many_dots_are_where_each_alone_would_be() {
        let mut random = crate::source::synthetic::Random(7);
        for (scale, height, y_max_ns) in [
            (Scale::Log, 50, 10 * SECOND),
            (Scale::Linear, 100, 9_999_999_999),
            (Scale::Linear, 3, 50_000_000),
            (Scale::Log, 1, 1),
        ] {
            let area = ChartArea { height, y_max_ns, ..area(scale) };
            let geometry = Geometry::of(area);
            let mut places = Places::new(geometry);
            let mut direct = Histogram::<u32>::new_with_bounds(8, HIGHEST_NS, 2).unwrap();
            for n in 0..20_000 {
                let end = WallTime(890 * SECOND + n * 6_000_000 + random.below(9_000_000));
                let bits = random.below(64);
                let edge = geometry.edge_ns(random.below(u64::from(height)) as u16);
                for elapsed in [random.below(1 << bits), edge.saturating_sub(1), edge, edge + 1, u64::MAX] {
                    let place = places.column(end).map(|column| (column, places.row(elapsed)));
                    assert_eq!(place, geometry.dot(end, elapsed), "{end:?} {elapsed}");
                    places.count(elapsed);
                    direct.saturating_record(elapsed);
                }
            }
            let mut kept = Histogram::<u32>::new_with_bounds(8, HIGHEST_NS, 2).unwrap();
            places.record(&mut kept);
            assert_eq!(kept, direct);
        }
    }

    #[test]
    fn odd_sizes_and_times_do_no_harm() {
        for (width, height, end, window_ns) in
            [(0, 0, 0, 0), (1, 1, 0, 1), (300, 1, u64::MAX / 2, u64::MAX / 4), (1, 200, 5, SECOND)]
        {
            let area = ChartArea { width, height, end: WallTime(end), window_ns, ..area(Scale::Log) };
            let _ = chart(area, &[at(0, 1), at(1, SECOND)]);
            let _ = area.labels();
        }
    }
}
