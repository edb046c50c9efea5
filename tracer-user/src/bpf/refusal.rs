//! What the kernel says when it refuses something, on one line.

/// The head and the last line of a refusal: between them stands the verifier's log.
pub(super) fn shortened(reason: &str) -> String {
    const HEAD: usize = 120;
    const TAIL: usize = 200;
    let mut lines = reason.lines().map(str::trim).filter(|line| !line.is_empty());
    let head: String = lines.next().unwrap_or_default().chars().take(HEAD).collect();
    match lines.rfind(|line| !line.starts_with("processed ") && !line.starts_with("verification time")) {
        Some(last) => format!("{head}: {}", last.chars().take(TAIL).collect::<String>()),
        None => head,
    }
}

/// An error and its causes on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
