//! Long diffs summed up: a chain of thousands of rules would hide the rest of a plan.

use crate::plan::DiffLine;

/// Most lines of one diff that are shown, unless all of them are asked for.
const MAX_LINES: usize = 100;

/// So many lines are shown from the start of a longer diff.
const FIRST_LINES: usize = 40;

/// So many lines are shown from its end.
const LAST_LINES: usize = 20;

/// The lines of a diff; of a long one the first and the last, and between them how many are left out.
pub fn excerpt(mut lines: Vec<DiffLine>, full: bool) -> Vec<DiffLine> {
    if full || lines.len() <= MAX_LINES {
        return lines;
    }
    let left_out = FIRST_LINES..lines.len() - LAST_LINES;
    let count = |sign| lines[left_out.clone()].iter().filter(|line| line.sign == sign).count();
    let (removed, added) = (count('-'), count('+'));
    let text = format!("{} lines left out (-{removed}, +{added}); add --full to print them", left_out.len());
    lines.splice(left_out, [DiffLine { sign: '…', text, origin: None }]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(count: usize) -> Vec<DiffLine> {
        let line = |n: usize| DiffLine {
            sign: if n.is_multiple_of(5) { '-' } else { '+' },
            text: n.to_string(),
            origin: None,
        };
        (0..count).map(line).collect()
    }

    #[test]
    fn a_long_diff_keeps_its_ends() {
        let short = excerpt(lines(5000), false);
        assert_eq!(short.len(), FIRST_LINES + 1 + LAST_LINES);
        assert_eq!((&*short[0].text, &*short[FIRST_LINES + LAST_LINES].text), ("0", "4999"));
        assert_eq!(short[FIRST_LINES].sign, '…');
        assert_eq!(short[FIRST_LINES].text, "4940 lines left out (-988, +3952); add --full to print them");
    }

    #[test]
    fn a_short_diff_and_one_asked_for_in_full_stay() {
        assert_eq!(excerpt(lines(MAX_LINES), false), lines(MAX_LINES));
        assert_eq!(excerpt(lines(5000), true), lines(5000));
    }
}
