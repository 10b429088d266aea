//! Many host names in few words: `kvm[01-39,41].dc1`.

use std::collections::BTreeMap;

/// What stands before and after the number, and the numbers with their widths.
type NamePattern = (String, String, Vec<(u64, usize)>);

/// Folds names that differ in one number. The order is that of first mention.
pub fn fold_names<S: AsRef<str>>(names: &[S]) -> String {
    // Around the last run of digits: prefix and suffix make the family, the digits the member.
    let mut families: Vec<NamePattern> = Vec::new();
    let mut index: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut order: Vec<Result<usize, String>> = Vec::new();
    for name in names.iter().map(AsRef::as_ref) {
        let Some((prefix, digits, suffix)) = split(name) else {
            order.push(Err(name.to_owned()));
            continue;
        };
        // What is counted on has to stay a number, and its width one that can be written.
        let Some(number) = digits.parse().ok().filter(|number| *number < u64::MAX && digits.len() <= 20)
        else {
            order.push(Err(name.to_owned()));
            continue;
        };
        let key = (prefix.to_owned(), suffix.to_owned());
        let at = *index.entry(key.clone()).or_insert_with(|| {
            families.push((key.0, key.1, Vec::new()));
            order.push(Ok(families.len() - 1));
            families.len() - 1
        });
        families[at].2.push((number, digits.len()));
    }
    let words: Vec<String> = order
        .into_iter()
        .map(|item| match item {
            Err(name) => name,
            Ok(at) => fold_family(&mut families[at]),
        })
        .collect();
    words.join(", ")
}

/// The first run of digits that can tell hosts apart, with what stands around it.
fn split(name: &str) -> Option<(&str, &str, &str)> {
    let label_end = name.find('.').unwrap_or(name.len());
    let is_address = name.chars().all(|c| c.is_ascii_digit() || c == '.' || c == ':');
    if is_address {
        return None;
    }
    let label = &name[..label_end];
    let end = label.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = label[..end].trim_end_matches(|c: char| c.is_ascii_digit()).len();
    Some((&name[..start], &name[start..end], &name[end..]))
}

fn fold_family((prefix, suffix, members): &mut NamePattern) -> String {
    members.sort_unstable();
    members.dedup();
    let mut ranges: Vec<String> = Vec::new();
    let mut at = 0;
    while at < members.len() {
        let (first, width) = members[at];
        let mut last = first;
        // `9` and `10` count on as `09` and `10` do, but not `9` and `010`.
        let same_style =
            |next: (u64, usize)| next.1 == width || (plain(first, width) && plain(next.0, next.1));
        while let Some(next) = members.get(at + 1).copied().filter(|n| n.0 == last + 1 && same_style(*n)) {
            at += 1;
            last = next.0;
        }
        at += 1;
        ranges.push(if first == last {
            format!("{first:0width$}")
        } else {
            format!("{first:0width$}-{last:0width$}")
        });
    }
    match ranges.as_slice() {
        [one] if !one.contains('-') => format!("{prefix}{one}{suffix}"),
        _ => format!("{prefix}[{}]{suffix}", ranges.join(",")),
    }
}

/// Whether a number is written without leading zeros.
fn plain(number: u64, width: usize) -> bool {
    number.to_string().len() == width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds() {
        assert_eq!(fold_names(&["kvm01", "kvm02", "kvm03", "kvm41"]), "kvm[01-03,41]");
        assert_eq!(fold_names(&["kvm9", "kvm10", "web", "kvm11"]), "kvm[9-11], web");
        assert_eq!(fold_names(&["kvm01.dc1", "kvm02.dc1", "kvm01.dc2"]), "kvm[01-02].dc1, kvm01.dc2");
        assert_eq!(fold_names(&["10.0.0.1", "10.0.0.2"]), "10.0.0.1, 10.0.0.2");
        let many: Vec<String> = (1..=412).filter(|i| *i != 411).map(|i| format!("kvm{i:03}")).collect();
        assert_eq!(fold_names(&many), "kvm[001-410,412]");
    }
}
