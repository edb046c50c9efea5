//! Statements in a form in which two tellings of one can be compared: without literals, spaces and repetitions.

/// `SELECT a FROM b WHERE c IN (1, 2)` as `selectafrombwherecin(?)`.
pub(super) fn shape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        if char == '\'' {
            // Two of them are one within.
            while let Some(inner) = rest.next() {
                if inner == '\'' && rest.next_if_eq(&'\'').is_none() {
                    break;
                }
            }
            out.push('?');
        } else if char.is_alphanumeric() || "_$".contains(char) {
            let mut word = char.to_lowercase().collect::<String>();
            while let Some(next) = rest.next_if(|next| next.is_alphanumeric() || "_$.".contains(*next)) {
                word.extend(next.to_lowercase());
            }
            let is_literal = char.is_ascii_digit() || ["true", "false", "null"].contains(&&*word);
            out.push_str(if is_literal { "?" } else { &word });
        } else if !char.is_whitespace() && char != ';' {
            out.push(char);
        }
    }
    for (many, one) in [("%s", "?"), ("-?", "?")] {
        out = out.replace(many, one);
    }
    for (many, one) in [("?,?", "?"), ("(?),(?)", "(?)")] {
        while out.contains(many) {
            out = out.replace(many, one);
        }
    }
    without_lists(&out)
}

/// `in($2,$3)` as `in($2)`.
fn without_lists(text: &str) -> String {
    let mut parts = text.split("in($");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (list, behind) = part.split_once(')').unwrap_or((part, ""));
        let first = list.split(',').next().unwrap_or_default();
        out.push_str(&format!("in(${first}){behind}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::shape;

    #[test]
    fn two_tellings_of_one_statement_are_the_same() {
        let logged = "SELECT a, t1.b FROM t1\n   WHERE c='it''s' AND d IN (1, 2.5) AND e=$1";
        let shown = "SELECT a, t1.b FROM t1 WHERE c = ? AND d IN (?) AND e = $1";
        assert_eq!(shape(logged), shape(shown));
        assert_ne!(shape(logged), shape(&shown.replace("t1.b", "t1.a")));
        assert_eq!(shape("SELECT true WHERE a IN ($2, $3)"), shape("SELECT ? WHERE a IN ($2)"));
        assert_eq!(shape("INSERT INTO a VALUES (%s,%s)"), shape("INSERT INTO a VALUES ('x', NULL)"));
    }
}
