//! Panics through probed functions: each call is written down as it ends, NAME|ARGUMENTS|RETURNED|END.

use std::{hint::black_box, io::BufRead as _, panic};

#[inline(never)]
fn parse(text: &str, n: i64) -> i64 {
    if n % 4 == 3 {
        println!("panics::parse|[\"{text}\",{n}]|null|unwound");
        panic!("{text} is bad");
    }
    let r = n * 2 - text.len() as i64;
    println!("panics::parse|[\"{text}\",{n}]|{r}|answered");
    black_box(r)
}

#[inline(never)]
fn handle(text: &str, n: i64) -> i64 {
    let r = panic::catch_unwind(|| parse(text, n)).unwrap_or(-1);
    println!("panics::handle|[\"{text}\",{n}]|{r}|answered");
    black_box(r)
}

#[inline(never)]
fn all(n: i64) -> bool {
    for i in 0..12 {
        black_box(handle(black_box(&format!("text {i}")), black_box(i)));
    }
    println!("panics::all|[{n}]|{}|answered", n % 2 == 1);
    black_box(n % 2 == 1)
}

fn main() {
    panic::set_hook(Box::new(|_| {}));
    println!("ready");
    for (n, _) in (1..).zip(std::io::stdin().lock().lines()) {
        black_box(all(black_box(n)));
        println!("done");
    }
}
