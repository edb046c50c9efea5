//! The same in Rust: see serves.c.
use std::{
    hint::black_box,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

#[inline(never)]
fn inner(ms: u64, rests: bool) -> u64 {
    if rests {
        thread::sleep(Duration::from_millis(ms));
        return 0;
    }
    let (mut sum, until) = (ms, Instant::now() + Duration::from_millis(ms));
    while Instant::now() < until {
        for i in 0..1_000_000 {
            sum = black_box(sum.wrapping_mul(2862933555777941757).wrapping_add(i));
        }
    }
    sum
}

#[cfg_attr(within, inline(always))]
#[cfg_attr(not(within), inline(never))]
fn middle(ms: u64, rests: bool) -> u64 {
    let room = black_box(vec![1u8; 300]);
    inner(ms, rests).wrapping_add(u64::from(room[(ms % 300) as usize]))
}

#[inline(never)]
fn outer(path: &str) -> u64 {
    black_box(middle(path[6..].parse().unwrap(), path.starts_with("/rest/")))
}

fn serve(mut conn: TcpStream) {
    let mut text = [0; 2048];
    loop {
        let Ok(length @ 1..) = conn.read(&mut text) else { return };
        let head = String::from_utf8_lossy(&text[..length]).into_owned();
        let body = outer(head.split(' ').nth(1).unwrap()).to_string();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if conn.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("port {}", listener.local_addr().unwrap().port());
    for conn in listener.incoming() {
        thread::spawn(|| serve(conn.unwrap()));
    }
}
