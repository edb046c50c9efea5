//! Licences, bans and sources of every package in the lock file, as `deny.toml` has them.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::shell::{cargo, output, workspace_root};

/// The part of `deny.toml` that is checked here.
#[derive(Debug, Deserialize)]
struct Deny {
    licenses: Licences,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licences {
    allow: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
struct Ban {
    name: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// Fails with one line per package that breaks a rule.
pub(crate) fn check() -> Result<()> {
    let file = workspace_root().join("deny.toml");
    let deny: Deny = toml::from_str(&fs::read_to_string(&file)?).context("deny.toml")?;
    let metadata: Metadata =
        serde_json::from_str(&output(&mut cargo(["metadata", "--format-version", "1", "--locked"]))?)?;
    let faults = faults(&deny, &metadata.packages);
    if !faults.is_empty() {
        bail!(
            "{} of {} packages break deny.toml:\n  {}",
            faults.len(),
            metadata.packages.len(),
            faults.join("\n  ")
        );
    }
    report_versions(&metadata.packages);
    println!("lint: licences, bans and sources of {} packages are fine", metadata.packages.len());
    Ok(())
}

fn faults(deny: &Deny, packages: &[Package]) -> Vec<String> {
    let mut faults = Vec::new();
    for package in packages {
        let Package { name, version, license, source } = package;
        match license {
            None => faults.push(format!("{name} {version}: no licence stated")),
            Some(expression) => match is_allowed(expression, &deny.licenses.allow) {
                Ok(true) => {}
                Ok(false) => faults.push(format!("{name} {version}: licence `{expression}` is not allowed")),
                Err(error) => faults.push(format!("{name} {version}: licence `{expression}`: {error:#}")),
            },
        }
        if let Some(ban) = deny.bans.deny.iter().find(|ban| &ban.name == name) {
            faults.push(format!("{name} {version} is banned: {}", ban.reason));
        }
        // A package of the workspace has no source; all others come from the one registry.
        if source.as_deref().is_some_and(|source| !source.starts_with("registry+")) {
            faults.push(format!("{name} {version} comes from {}", source.as_deref().unwrap_or_default()));
        }
    }
    faults
}

/// Names packages that are there in several versions: a warning, as `deny.toml` says.
fn report_versions(packages: &[Package]) {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        println!("lint: note: {name} is there in {} versions: {}", versions.len(), versions.join(", "));
    }
}

/// Whether an SPDX expression can be met with allowed licences alone.
fn is_allowed(expression: &str, allowed: &[String]) -> Result<bool> {
    // The old form of `OR`, which crates.io still has.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let answer = any(&mut words, allowed)?;
    match words.next() {
        None => Ok(answer),
        Some(word) => bail!("`{word}` was not expected"),
    }
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    let mut answer = all(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        answer |= all(words, allowed)?;
    }
    Ok(answer)
}

fn all(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    let mut answer = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        answer &= one(words, allowed)?;
    }
    Ok(answer)
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    match words.next() {
        Some("(") => {
            let answer = any(words, allowed)?;
            if words.next() != Some(")") {
                bail!("a bracket is not closed");
            }
            Ok(answer)
        }
        Some(licence) => {
            let mut licence = licence.to_owned();
            if words.next_if_eq(&"WITH").is_some() {
                licence = format!("{licence} WITH {}", words.next().context("nothing after WITH")?);
            }
            Ok(allowed.contains(&licence))
        }
        None => bail!("it ends too early"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Vec<String> {
        ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"].map(str::to_owned).to_vec()
    }

    #[test]
    fn one_allowed_alternative_is_enough_and_every_conjunct_is_needed() {
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT/GPL-3.0-only", true),
            ("GPL-3.0-only OR MIT", true),
            ("MIT AND GPL-3.0-only", false),
            ("(MIT OR GPL-3.0-only) AND Unicode-3.0", true),
            ("MIT AND (GPL-3.0-only OR LGPL-2.1-only)", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("GPL-2.0-only WITH Classpath-exception-2.0", false),
        ] {
            assert_eq!(is_allowed(expression, &allowed()).unwrap(), expected, "{expression}");
        }
    }

    #[test]
    fn an_expression_that_is_not_understood_is_an_error() {
        for expression in ["", "MIT OR", "(MIT", "MIT MIT", "MIT)"] {
            assert!(is_allowed(expression, &allowed()).is_err(), "{expression}");
        }
    }

    #[test]
    fn a_missing_licence_a_ban_and_a_foreign_source_are_faults() {
        let deny = Deny {
            licenses: Licences { allow: allowed() },
            bans: Bans { deny: vec![Ban { name: "bad".into(), reason: "it is bad".into() }] },
        };
        let package = |name: &str, license: Option<&str>, source: Option<&str>| Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(str::to_owned),
            source: source.map(str::to_owned),
        };
        let packages = [
            package("fine", Some("MIT"), Some("registry+index")),
            package("own", Some("MIT"), None),
            package("bad", Some("MIT"), Some("registry+index")),
            package("silent", None, Some("registry+index")),
            package("forked", Some("MIT"), Some("git+somewhere")),
        ];
        let faults = faults(&deny, &packages);
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].contains("it is bad"));
        assert!(faults[1].starts_with("silent"));
        assert!(faults[2].starts_with("forked"));
    }
}
