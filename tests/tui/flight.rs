//! A request in flight that is opened, and what becomes of it.

use tracer_user::{
    source::heads::{Head, Heads},
    tui::{Place, ShownHeads},
};

use super::*;

/// So many seconds later, with these in flight.
fn at(seconds: u64, open: Vec<OpenRequest>) -> Snapshot {
    let now = WallTime(START + (300 + seconds) * SECOND);
    Snapshot { wall: now, watermark: now, open, ..snapshot() }
}

/// The same request, so many seconds later.
fn older(open: OpenRequest, seconds: u64) -> OpenRequest {
    OpenRequest { age_ns: open.age_ns + seconds * SECOND, ..open }
}

/// What it becomes when it ends.
fn ended(open: &OpenRequest, seconds: u64) -> Transaction {
    let start = open.start;
    Transaction {
        start_time: start,
        request_end: open.request_end,
        response_start: Some(WallTime(START + (299 + seconds) * SECOND)),
        end_time: WallTime(START + (300 + seconds) * SECOND),
        duration_ns: (START + (300 + seconds) * SECOND - start.0) as i64,
        operation: "GET /item/{id}".into(),
        conn: open.conn,
        ordinal: open.ordinal,
        seq: 77,
        ..transaction(0)
    }
}

const ENTER: [Key; 1] = [Key::Enter];

#[test]
fn enter_opens_a_request_in_flight_with_all_that_is_known_of_it() {
    for (step, ends, named) in [
        (Step::Reading, "reading  ", "reading: the last byte of the request has not been seen"),
        (Step::Waiting, "waiting  ", "waiting: the answer has not begun"),
        (Step::Sending, "sending  ", "sending: the last byte of the answer has not been seen"),
    ] {
        let feed = feed(busy(), &[at(0, vec![open(9, 50_000, Step::Waiting), open(2, 20_000, step)])]);
        let mut app = App::default();
        press(&feed, (120, 40), &mut app, &typed("3j"));
        let screen = press(&feed, (120, 40), &mut app, &ENTER);
        assert_eq!(app.place(), Place::Detail);
        insta::assert_snapshot!(format!("flight_{ends}").trim().to_owned(), screen.text());
        let text = screen.text();
        for known in [
            "GET /item/2  ",
            "20.0s so far",
            "served by shop",
            "target      /item/2?q=1",
            "10.0.0.7:40000",
            "127.0.0.1:80",
            "shop  pid 100  tid 103",
            "0000000000000002-2",
            named,
            "start       22:18:00.000000000 UTC",
            "seen        22:18:20.000000000 UTC",
            "80 request",
        ] {
            assert!(text.contains(known), "{known}: {text}");
        }
        assert!(!text.contains("tracer_stopped") && !text.contains("number"), "{text}");
        // One bar has an open end, at the right edge: that of the step it is in; the parts before it are closed.
        let bars: Vec<String> = screen
            .lines()
            .into_iter()
            .filter(|line| line.contains('█') && !line.starts_with("in flight"))
            .collect();
        let (last, before) = bars.split_last().unwrap();
        assert!(last.starts_with(ends) && last.ends_with('▸'), "{bars:?}");
        assert!(before.iter().all(|bar| !bar.contains('▸')), "{bars:?}");
        // Queue before the start; the rest adds up to the age: 0.1 of it read, 0.65 waited, 0.25 sent.
        let times: Vec<&str> = bars.iter().map(|bar| bar.split_whitespace().nth(1).unwrap()).collect();
        let want: &[&str] = match step {
            Step::Reading => &["4.00s", "20.0s"],
            Step::Waiting => &["4.00s", "2.00s", "18.0s"],
            Step::Sending => &["4.00s", "2.00s", "13.0s", "5.00s"],
        };
        assert_eq!(times, want);
        // Esc leads back to where it was opened.
        press(&feed, (120, 40), &mut app, &[Key::Escape]);
        assert_eq!((app.place(), app.active.selected), (Place::View(View::Active), 1));
    }
}

#[test]
fn an_opened_request_is_followed_until_it_ends_and_is_then_its_transaction() {
    let (mine, other) = (open(2, 20_000, Step::Reading), open(5, 40_000, Step::Waiting));
    let feed = feed(busy(), &[at(0, vec![other.clone(), mine.clone()])]);
    let mut app = App::default();
    press(&feed, (120, 40), &mut app, &typed("3j"));
    press(&feed, (120, 40), &mut app, &ENTER);
    let shown = |app: &mut App| press(&feed, (120, 40), app, &[]).text();
    let observe = |snapshot: Snapshot, rows: Vec<Transaction>| fill(&feed, rows, &[snapshot]);
    // Older, and a step further, wherever it stands in the list.
    let further = older(open(2, 20_000, Step::Waiting), 3);
    observe(at(3, vec![further.clone()]), Vec::new());
    let text = shown(&mut app);
    assert!(text.contains("GET /item/2  waiting  23.0s so far"), "{text}");
    // What else ends, on this connection too, is not it.
    let same_conn = Transaction { ordinal: 1, seq: 70, ..ended(&further, 4) };
    let same_number = Transaction { conn: ConnId(99), seq: 71, ..ended(&further, 4) };
    observe(at(4, vec![older(further.clone(), 1)]), vec![same_conn, same_number]);
    let text = shown(&mut app);
    assert!(text.contains("waiting  24.0s so far") && app.detail.is_none(), "{text}");
    assert!(text.contains("on the same connection\n "), "its neighbour is listed: {text}");
    // It has ended, and its transaction waits behind the watermark.
    observe(at(5, vec![older(other.clone(), 5)]), Vec::new());
    let text = shown(&mut app);
    assert!(text.contains("no longer in flight") && text.contains("24.0s so far"), "{text}");
    observe(at(6, vec![older(other, 6)]), vec![ended(&further, 5)]);
    let text = shown(&mut app);
    assert!(
        text.starts_with("txray") && text.contains("GET /item/{id}  200  25.0s  served by shop"),
        "{text}"
    );
    assert!(
        text.contains("number 77")
            && !text.contains("so far")
            && !text.contains('▸'.to_string().repeat(2).as_str())
    );
    assert_eq!((app.place(), app.flight.is_none()), (Place::Detail, true));
    assert_eq!(app.detail.as_ref().map(|row| row.seq), Some(77));
    press(&feed, (120, 40), &mut app, &[Key::Escape]);
    assert_eq!(app.place(), Place::View(View::Active));
}

#[test]
fn a_frozen_screen_keeps_the_request_as_it_was_and_lets_it_go_on_afterwards() {
    let mine = open(2, 20_000, Step::Waiting);
    let feed = feed(busy(), &[at(0, vec![mine.clone()])]);
    let mut app = App::default();
    // Frozen first: the list is that of the instant, and so is what is opened from it.
    let screen = press(&feed, (120, 40), &mut app, &typed("3 "));
    fill(&feed, vec![ended(&mine, 1)], &[at(2, Vec::new())]);
    let seen = screen.model.seen(&app, &screen.layout);
    app.key(Key::Enter, &seen);
    let area = Rect::new(0, 0, 120, 40);
    let heading = Heading::default();
    let frozen = screen_after(&feed, area, MANY, &mut app, &heading, Some(&screen.model)).text();
    assert!(frozen.contains("GET /item/2  waiting  20.0s so far"), "{frozen}");
    app.paused = None;
    let text = press(&feed, (120, 40), &mut app, &[]).text();
    assert!(text.contains("GET /item/{id}  200  21.0s"), "{text}");
}

#[test]
fn without_a_request_in_flight_enter_opens_nothing() {
    let feed = feed(busy(), &[at(0, Vec::new())]);
    let mut app = App::default();
    press(&feed, (80, 24), &mut app, &typed("3"));
    press(&feed, (80, 24), &mut app, &ENTER);
    assert_eq!((app.place(), app.flight), (Place::View(View::Active), None));
}

#[test]
fn what_a_request_in_flight_says_of_itself_moves_no_terminal_and_tells_no_secret() {
    let bad = OpenRequest {
        path: Bytes::from_static(b"/\x1b[2J\xff"),
        target: Some(Bytes::from_static(b"/\x1b[2J\xff?sig=s3cret")),
        comm: *b"\x1b[2Jevil\xff\n\0\0\0\0\0\0",
        service: "\u{202e}shop".into(),
        ..open(2, 20_000, Step::Sending)
    };
    let feed = feed(busy(), &[at(0, vec![bad])]);
    let mut app = App::default();
    press(&feed, (80, 50), &mut app, &typed("3"));
    let mut screen = press(&feed, (80, 50), &mut app, &ENTER);
    let head =
        Head::Whole(Bytes::from_static(b"GET /?sig=s3cret HTTP/1.1\r\nCookie: s3cret\r\nA: \x1b[2J\r\n\r\n"));
    let heads = Heads { request: head, response: Head::NotFound };
    screen.model = screen.model.with_heads(ShownHeads::Known(heads.into()));
    screen.buffer = Buffer::empty(screen.buffer.area);
    draw(&mut screen.buffer, &screen.model, &app, MANY);
    let text = screen.text();
    assert!(text.contains("Cookie: REDACTED") && text.contains("?sig=REDACTED"), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
    for cell in &screen.buffer.content {
        assert!(!cell.symbol().chars().any(|c| c.is_control() || c == '\u{202e}'), "{:?}", cell.symbol());
    }
}

#[test]
fn the_head_of_an_answer_that_has_not_begun_is_not_shown_though_a_recording_may_hold_it() {
    let head = |text: &'static str| Head::Whole(Bytes::from_static(text.as_bytes()));
    let heads =
        Heads { request: head("GET / HTTP/1.1\r\n\r\n"), response: head("HTTP/1.1 204 Later\r\n\r\n") };
    for (step, shown) in [(Step::Waiting, false), (Step::Sending, true)] {
        let feed = feed(busy(), &[at(0, vec![open(2, 20_000, step)])]);
        let mut app = App::default();
        press(&feed, (80, 50), &mut app, &typed("3"));
        let mut screen = press(&feed, (80, 50), &mut app, &ENTER);
        screen.model = screen.model.with_heads(ShownHeads::Known(heads.clone().into()));
        draw(&mut screen.buffer, &screen.model, &app, MANY);
        let text = screen.text();
        assert!(text.contains("GET / HTTP/1.1"), "{text}");
        assert_eq!(text.contains("204 Later"), shown, "{text}");
        assert_eq!(text.contains("response head  the answer has not begun"), !shown, "{text}");
    }
}
