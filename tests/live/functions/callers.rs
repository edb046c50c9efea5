//! Calls a function through a trait, a generic function and a closure, and writes down who called it: N|0|CALLERS, the innermost first.

use std::{cell::RefCell, hint::black_box, io::BufRead as _, thread, time::Duration};

thread_local! {
    static PATH: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

struct Enter;

impl Enter {
    fn new(name: &'static str) -> Enter {
        PATH.with_borrow_mut(|path| path.push(name));
        Enter
    }
}

impl Drop for Enter {
    fn drop(&mut self) {
        PATH.with_borrow_mut(|path| drop(path.pop()));
    }
}

#[inline(never)]
fn work(n: i64) -> i64 {
    let callers = PATH.with_borrow(|path| path.iter().rev().copied().collect::<Vec<_>>().join(";"));
    println!("{n}|0|{callers}");
    if n % 10 == 3 {
        thread::sleep(Duration::from_millis(250));
    }
    black_box(n)
}

trait Shape {
    fn area(&self, n: i64) -> i64;
}

struct Square;

impl Shape for Square {
    #[inline(never)]
    fn area(&self, n: i64) -> i64 {
        let _enter = Enter::new("<callers::Square as callers::Shape>::area");
        black_box(work(black_box(n)))
    }
}

#[inline(never)]
fn twice<S: Shape + ?Sized>(shape: &S, n: i64) -> i64 {
    let _enter = Enter::new("callers::twice");
    black_box(shape.area(black_box(n))) + black_box(shape.area(black_box(n + 1)))
}

#[inline(never)]
fn climb(steps: u32, n: i64) -> i64 {
    let _enter = Enter::new("callers::climb");
    black_box(if steps == 0 { work(n) } else { climb(black_box(steps - 1), n) })
}

fn main() {
    let _enter = Enter::new("callers::main");
    println!("ready");
    for _ in std::io::stdin().lock().lines() {
        let shape: Box<dyn Shape> = black_box(Box::new(Square));
        black_box(twice(&*shape, 102));
        black_box(climb(7, 203));
        black_box(climb(7, 204));
        black_box(climb(3, 303));
        println!("done");
    }
}
