//! Patterns on the screen: the list with its sentences, the marks in the XLog, and the way from the one to the other.

use tracer_user::sink::{
    Sink as _,
    patterns::{Pattern, PatternSink},
};

use super::*;
use crate::patterns::synthetic::with;

/// Traffic in which all wait for one instant, 60 s and more behind the beginning.
fn held() -> Feed {
    let rows = with(Pattern::Vertical, 1).transactions();
    let rows = rows.into_iter().enumerate().map(|(i, row)| Transaction { seq: i as u64, ..row }).collect();
    let feed = feed(rows, &[snapshot()]);
    PatternSink::new(feed.patterns.clone(), Metrics::default()).finish().unwrap();
    feed
}

#[test]
fn patterns_are_listed_with_what_they_mean() {
    let feed = held();
    for (width, height) in [(120, 40), (80, 24)] {
        let screen = screen(&feed, width, height, MANY, App { view: View::Patterns, ..App::default() });
        read_back::check(&screen, "patterns");
        assert!(screen.text().contains("vertical line") && screen.text().contains("released at once"));
        insta::assert_snapshot!(format!("held_{width}x{height}"), screen.text());
    }
}

#[test]
fn enter_leads_to_the_dots_where_the_pattern_is_marked_and_escape_back() {
    let feed = held();
    let mut app = App { view: View::Patterns, ..App::default() };
    let shown = press(&feed, (120, 40), &mut app, &[Key::Enter]);
    assert_eq!(app.view, View::Xlog);
    let finding = shown.model.patterns[0].clone();
    let geometry = shown.chart().geometry;
    assert!(geometry.start < finding.from && finding.to < geometry.end);
    // Its letter stands in the chart's first row, in the column of its time.
    let column = (finding.from.0 - geometry.start.0) / geometry.column_ns();
    let marked = shown.buffer[(shown.layout.chart.x + column as u16, shown.layout.chart.y)].symbol();
    assert_eq!(marked, "V");
    insta::assert_snapshot!("jumped_120x40", shown.text());
    press(&feed, (120, 40), &mut app, &[Key::Escape]);
    assert_eq!((app.paused, app.window_ns), (None, App::default().window_ns));
}
