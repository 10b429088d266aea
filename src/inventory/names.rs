//! Host names and the ranges that stand for many of them.

/// A key of `hosts:` stands for no more hosts than this.
const MAX_RANGE: usize = 100_000;

/// The names that a pattern like `kvm[01-40,50].dc1` stands for; just itself without `[ ]`.
///
/// Errors: a lowercase fragment.
pub fn expand(pattern: &str) -> Result<Vec<String>, String> {
    let mut names = vec![String::new()];
    let mut rest = pattern;
    while let Some(start) = rest.find(['[', ']']) {
        let Some(inner) = rest[start..].strip_prefix('[') else {
            return Err(format!("`{pattern}` has a `]` without `[`"));
        };
        let Some(end) = inner.find(']') else {
            return Err(format!("`{pattern}` has a `[` without `]`"));
        };
        let choices = choices(&inner[..end]).map_err(|why| format!("`{pattern}` {why}"))?;
        if names.len().saturating_mul(choices.len()) > MAX_RANGE {
            return Err(format!("`{pattern}` stands for more than {MAX_RANGE} hosts"));
        }
        let before = &rest[..start];
        names = names
            .iter()
            .flat_map(|name| choices.iter().map(move |choice| format!("{name}{before}{choice}")))
            .collect();
        rest = &inner[end + 1..];
    }
    for name in &mut names {
        name.push_str(rest);
    }
    Ok(names)
}

fn choices(text: &str) -> Result<Vec<String>, String> {
    let mut choices = Vec::new();
    for part in text.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| {
            let right = !text.is_empty() && text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
            right.then(|| text.parse::<usize>().ok()).flatten()
        };
        let (Some(from), Some(to)) = (number(low), number(high)) else {
            return Err(format!("has `[{text}]`, which is not a range such as `[01-40]`"));
        };
        if from > to {
            return Err(format!("has the range `{part}`, which ends before it starts"));
        }
        if to - from >= MAX_RANGE {
            return Err(format!("stands for more than {MAX_RANGE} hosts"));
        }
        let width = low.len();
        choices.extend((from..=to).map(|n| format!("{n:0width$}")));
    }
    Ok(choices)
}

/// Why a text is not a valid host name.
pub fn check_host(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 253 {
        return Err("is not a valid host name".into());
    }
    if name.starts_with("{{") {
        return Err("is a template, and an inventory has none: write the value".into());
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("does not start with a letter or digit".into());
    }
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-".contains(*c)) {
        Some(bad) => Err(format!("has {}", crate::characters::describe(bad))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (pattern, names) in [
            ("kvm1", "kvm1"),
            ("kvm[08-11].dc1", "kvm08.dc1 kvm09.dc1 kvm10.dc1 kvm11.dc1"),
            ("r[1-2]k[1,3]", "r1k1 r1k3 r2k1 r2k3"),
            ("[9-10]", "9 10"),
        ] {
            assert_eq!(expand(pattern).unwrap().join(" "), names);
        }
        for wrong in ["k[1-", "k]1", "k[]", "k[a-b]", "k[3-1]", "k[0-99999999]", "k[1-900][1-900]", "k[-1]"] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }
}
