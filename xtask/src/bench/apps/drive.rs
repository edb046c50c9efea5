//! The series of requests: one after the other with a pause between, then several clients at once, each one after the other.

use std::{thread, time::Duration};

use anyhow::{Result, bail};

use super::{App, http::Client, now_ns};

/// Behind a request that is alone: what the application does after its answer is not taken for the next one's.
const PAUSE: Duration = Duration::from_millis(20);
/// Behind one among several: longer than the step of the database's clock, so that it shows which of a client's requests a statement is of.
const SHORT_PAUSE: Duration = Duration::from_millis(4);

/// A request to be made.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: String,
}

/// A request that was made.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) number: u32,
    pub(super) client: u32,
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) status: u16,
    pub(super) client_port: u16,
    /// From before the request was written until its answer was read.
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

/// One client.
pub(super) fn serial(app: &dyn App, first: u32, n: u32) -> Result<Vec<Asked>> {
    let plan = (first..first + n).map(|number| (number, app.ask(number, 0))).collect();
    run(app.port(), plan, 0, PAUSE)
}

/// All clients at once, each with a connection of its own.
pub(super) fn at_once(app: &dyn App, first: u32, clients: u32, of_each: u32) -> Result<Vec<Asked>> {
    // What is asked is put together before: an application is not one that threads may share.
    let mut plans = Vec::new();
    for of in 0..clients {
        let numbers = (0..of_each).map(|i| first + of * of_each + i);
        plans.push((of, numbers.map(|number| (number, app.ask(number, of))).collect::<Vec<_>>()));
    }
    let port = app.port();
    let results: Vec<Result<Vec<Asked>>> = thread::scope(|scope| {
        let threads: Vec<_> = plans
            .into_iter()
            .map(|(of, plan)| scope.spawn(move || run(port, plan, of, SHORT_PAUSE)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|result| result.unwrap_or_else(|_| bail!("a client panicked"))).collect()
    });
    let mut asked = Vec::new();
    for result in results {
        asked.extend(result?);
    }
    Ok(asked)
}

/// One request after the other on one connection.
fn run(port: u16, plan: Vec<(u32, Ask)>, of: u32, pause: Duration) -> Result<Vec<Asked>> {
    let mut client = Client::open(port)?;
    let mut asked = Vec::new();
    for (number, ask) in plan {
        let from_ns = now_ns()?;
        let answer = client.ask(&ask)?;
        let to_ns = now_ns()?;
        if answer.status >= 400 {
            bail!(
                "{} {}: {} {}",
                ask.method,
                ask.target,
                answer.status,
                String::from_utf8_lossy(&answer.body)
            );
        }
        asked.push(Asked {
            number,
            client: of,
            method: ask.method,
            target: ask.target,
            status: answer.status,
            client_port: client.local_port()?,
            from_ns,
            to_ns,
        });
        thread::sleep(pause);
    }
    Ok(asked)
}
