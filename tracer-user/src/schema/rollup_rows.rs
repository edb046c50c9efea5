//! Rows of `rollups`: what happened in each second, minute and hour, with the names that `transactions` has for the same.
//!
//! Each interval that was watched has one row without service and role: what is known of the whole host (in flight, lost) and how much of
//! it was watched; its counts are 0. An interval without that row was not recorded. Who did something in it has a row of its own, by
//! service and role, so that sums over the rows of one length count everything once. Rows of equal keys add up: there may be several where a
//! run ended and another began, or where the clock was set back. A minute is the sum of its seconds, an hour of its minutes.

use std::sync::{Arc, LazyLock};

use arrow_array::{
    Array, BinaryArray, Int64Array, RecordBatch, StringArray,
    builder::{BinaryBuilder, Int64Builder, StringBuilder},
    cast::AsArray as _,
    types,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef};

use super::{
    Fault,
    event_blob::{column, wrong_type},
    transaction_rows::{Names, role_of, role_text, signed},
};
use crate::{
    time::WallTime,
    transaction::{
        latency::Latency,
        rollup::{Interval, Resolution, ServiceSums, Sums},
    },
};

/// Defines the columns once, in their order: name, type, whether it may be null.
macro_rules! columns {
    ($($name:literal $type:ident $null:literal,)*) => {
        /// Names of the columns, in their order.
        pub const COLUMNS: &[&str] = &[$($name),*];

        /// The columns, version 1.
        pub static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
            Arc::new(Schema::new(vec![$(Field::new($name, DataType::$type, $null)),*]))
        });
    };
}

columns! {
    "interval_start_ns" Int64 false,
    "interval_ns" Int64 false,
    "recorded_ns" Int64 true,
    "service" Utf8 true,
    "role" Utf8 true,
    "count" Int64 false,
    "errors" Int64 false,
    "measured" Int64 false,
    "duration_sum_ns" Int64 false,
    "duration_max_ns" Int64 false,
    "request_bytes" Int64 false,
    "response_bytes" Int64 false,
    "hdr" Binary true,
    "in_flight" Int64 true,
    "lost" Int64 true,
}

/// Rows that an interval takes.
pub fn n_rows(interval: &Interval) -> usize {
    1 + interval.rows.len()
}

/// Intervals as columns: first the row of the host, then those of the services.
pub fn encode(intervals: &[(Resolution, Interval)]) -> RecordBatch {
    let n = intervals.iter().map(|(_, interval)| n_rows(interval)).sum();
    let number = || Int64Builder::with_capacity(n);
    let [mut start, mut length, mut recorded] = [number(), number(), number()];
    let (mut service, mut role) = (StringBuilder::new(), StringBuilder::new());
    let mut figures: [Int64Builder; 7] = std::array::from_fn(|_| number());
    let mut hdr = BinaryBuilder::new();
    let [mut in_flight, mut lost] = [number(), number()];
    let none = Sums::default();
    for (resolution, interval) in intervals {
        let Interval { start: begin, recorded_ns, in_flight: most, lost: gone, rows } = interval;
        for row in std::iter::once(None).chain(rows.iter().map(Some)) {
            let is_host = row.is_none();
            start.append_value(signed(begin.0));
            length.append_value(signed(resolution.ns()));
            recorded.append_option(is_host.then_some(signed(*recorded_ns)));
            service.append_option(row.map(|row| &*row.service));
            role.append_option(row.map(|row| role_text(row.role)));
            let sums = row.map_or(&none, |row| &row.sums);
            let values = [
                sums.count,
                sums.errors,
                sums.latency.len(),
                sums.duration_sum_ns,
                sums.duration_max_ns,
                sums.request_bytes,
                sums.response_bytes,
            ];
            for (builder, value) in figures.iter_mut().zip(values) {
                builder.append_value(signed(value));
            }
            hdr.append_option((!sums.latency.is_empty()).then(|| sums.latency.serialize()));
            in_flight.append_option(most.filter(|_| is_host).map(signed));
            lost.append_option(gone.filter(|_| is_host).map(signed));
        }
    }
    let [mut count, mut errors, mut measured, mut sum, mut max, mut request, mut response] = figures;
    // INVARIANT: as many columns as fields, each of its field's type, all of `n` rows.
    RecordBatch::try_new(
        SCHEMA.clone(),
        vec![
            Arc::new(start.finish()),
            Arc::new(length.finish()),
            Arc::new(recorded.finish()),
            Arc::new(service.finish()),
            Arc::new(role.finish()),
            Arc::new(count.finish()),
            Arc::new(errors.finish()),
            Arc::new(measured.finish()),
            Arc::new(sum.finish()),
            Arc::new(max.finish()),
            Arc::new(request.finish()),
            Arc::new(response.finish()),
            Arc::new(hdr.finish()),
            Arc::new(in_flight.finish()),
            Arc::new(lost.finish()),
        ],
    )
    .expect("columns match the schema")
}

/// Columns as intervals that are `wanted`, one for each row: those of equal begin and length are to be merged.
pub fn decode(
    batch: &RecordBatch,
    names: &mut Names,
    wanted: impl Fn(Resolution, WallTime) -> bool,
) -> Result<Vec<(Resolution, Interval)>, Fault> {
    let int = |name| -> Result<&Int64Array, Fault> {
        column(batch, name)?.as_primitive_opt::<types::Int64Type>().ok_or_else(|| wrong_type(name))
    };
    let text = |name| -> Result<&StringArray, Fault> {
        column(batch, name)?.as_string_opt::<i32>().ok_or_else(|| wrong_type(name))
    };
    let hdr: &BinaryArray = column(batch, "hdr")?.as_binary_opt::<i32>().ok_or_else(|| wrong_type("hdr"))?;
    let (start, length, recorded) = (int("interval_start_ns")?, int("interval_ns")?, int("recorded_ns")?);
    let (service, role) = (text("service")?, text("role")?);
    let (count, errors) = (int("count")?, int("errors")?);
    let (sum, max) = (int("duration_sum_ns")?, int("duration_max_ns")?);
    let (request, response) = (int("request_bytes")?, int("response_bytes")?);
    let (in_flight, lost) = (int("in_flight")?, int("lost")?);
    let mut out = Vec::new();
    for i in 0..batch.num_rows() {
        let bad = |name: &str| Fault::Damaged(format!("row {i}: {name} is not one of its values"));
        let number = |array: &Int64Array, name: &str| u64::try_from(array.value(i)).map_err(|_| bad(name));
        let maybe =
            |array: &Int64Array, name: &str| array.is_valid(i).then(|| number(array, name)).transpose();
        let begin = WallTime(number(start, "interval_start_ns")?);
        let length = number(length, "interval_ns")?;
        // A length that a later txray may add says nothing to this one.
        let Some(resolution) = Resolution::of_ns(length).filter(|resolution| wanted(*resolution, begin))
        else {
            continue;
        };
        let mut interval = Interval::new(begin);
        if service.is_valid(i) {
            let latency = if hdr.is_valid(i) { hdr.value(i) } else { &[] };
            let sums = Sums {
                count: number(count, "count")?,
                errors: number(errors, "errors")?,
                duration_sum_ns: number(sum, "duration_sum_ns")?,
                duration_max_ns: number(max, "duration_max_ns")?,
                request_bytes: number(request, "request_bytes")?,
                response_bytes: number(response, "response_bytes")?,
                latency: Latency::deserialize(latency).ok_or_else(|| bad("hdr"))?,
            };
            let role = role_of(role.value(i)).ok_or_else(|| bad("role"))?;
            interval.rows.push(ServiceSums { service: names.share(service.value(i)), role, sums });
        } else {
            interval.recorded_ns = number(recorded, "recorded_ns")?;
            (interval.in_flight, interval.lost) = (maybe(in_flight, "in_flight")?, maybe(lost, "lost")?);
        }
        out.push((resolution, interval));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::Role, sink::compliance::transaction};

    #[test]
    fn intervals_come_back_as_they_were() {
        let mut sums = Sums::default();
        for i in 0..300 {
            sums.record(&transaction(i));
        }
        let row = |service: &str, role, sums: &Sums| ServiceSums {
            service: service.into(),
            role,
            sums: sums.clone(),
        };
        let empty = Sums { count: 2, errors: 1, ..Sums::default() };
        let intervals = vec![
            (
                Resolution::Second,
                Interval { recorded_ns: 1_000_000_000, ..Interval::new(WallTime(7_000_000_000)) },
            ),
            (
                Resolution::Minute,
                Interval {
                    start: WallTime(60_000_000_000),
                    recorded_ns: 12_345_678_901,
                    in_flight: Some(0),
                    lost: Some(9),
                    rows: vec![row("cart", Role::Unknown, &empty), row("상점", Role::Client, &sums)],
                },
            ),
        ];
        let batch = encode(&intervals);
        assert_eq!((batch.num_rows(), batch.schema().fields().len()), (4, COLUMNS.len()));
        let mut read: Vec<(Resolution, Interval)> = Vec::new();
        for (resolution, part) in decode(&batch, &mut Names::default(), |_, _| true).unwrap() {
            match read.last_mut() {
                Some((last, interval)) if *last == resolution && interval.start == part.start => {
                    interval.merge(&part);
                }
                _ => read.push((resolution, part)),
            }
        }
        assert_eq!(read, intervals);
        let minutes = decode(&batch, &mut Names::default(), |resolution, _| resolution == Resolution::Minute);
        assert_eq!(minutes.unwrap().len(), 3);
    }
}
