//! Characters that come with text pasted from a web page and look like others.

/// Why a character may not stand where a name, an address or a rule is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Looks like `-`.
    Dash,
    /// Looks like `"`.
    Quote,
    /// Looks like a space.
    Space,
    /// Cannot be seen.
    Invisible,
}

/// The kind and the Unicode name of a look-alike, `None` for every other character.
pub fn lookalike(c: char) -> Option<(Kind, &'static str)> {
    Some(match c {
        '\u{2010}' => (Kind::Dash, "HYPHEN"),
        '\u{2011}' => (Kind::Dash, "NON-BREAKING HYPHEN"),
        '\u{2012}' => (Kind::Dash, "FIGURE DASH"),
        '\u{2013}' => (Kind::Dash, "EN DASH"),
        '\u{2014}' => (Kind::Dash, "EM DASH"),
        '\u{2015}' => (Kind::Dash, "HORIZONTAL BAR"),
        '\u{2212}' => (Kind::Dash, "MINUS SIGN"),
        '\u{ff0d}' => (Kind::Dash, "FULLWIDTH HYPHEN-MINUS"),
        '\u{2018}' => (Kind::Quote, "LEFT SINGLE QUOTATION MARK"),
        '\u{2019}' => (Kind::Quote, "RIGHT SINGLE QUOTATION MARK"),
        '\u{201a}' | '\u{201b}' => (Kind::Quote, "SINGLE QUOTATION MARK"),
        '\u{201c}' => (Kind::Quote, "LEFT DOUBLE QUOTATION MARK"),
        '\u{201d}' => (Kind::Quote, "RIGHT DOUBLE QUOTATION MARK"),
        '\u{201e}' | '\u{201f}' => (Kind::Quote, "DOUBLE QUOTATION MARK"),
        '\u{2032}' => (Kind::Quote, "PRIME"),
        '\u{2033}' => (Kind::Quote, "DOUBLE PRIME"),
        '\u{ab}' | '\u{bb}' => (Kind::Quote, "ANGLE QUOTATION MARK"),
        '\u{a0}' => (Kind::Space, "NO-BREAK SPACE"),
        '\u{202f}' => (Kind::Space, "NARROW NO-BREAK SPACE"),
        '\u{2000}'..='\u{200a}' | '\u{205f}' => (Kind::Space, "TYPOGRAPHIC SPACE"),
        '\u{3000}' => (Kind::Space, "IDEOGRAPHIC SPACE"),
        '\u{ad}' => (Kind::Invisible, "SOFT HYPHEN"),
        '\u{200b}' => (Kind::Invisible, "ZERO WIDTH SPACE"),
        '\u{200c}' => (Kind::Invisible, "ZERO WIDTH NON-JOINER"),
        '\u{200d}' => (Kind::Invisible, "ZERO WIDTH JOINER"),
        '\u{200e}' | '\u{200f}' => (Kind::Invisible, "DIRECTION MARK"),
        '\u{2060}' => (Kind::Invisible, "WORD JOINER"),
        '\u{feff}' => (Kind::Invisible, "BYTE ORDER MARK"),
        _ => return None,
    })
}

/// Whether a character is one that is seen and nothing else: a terminal does not obey it, it does not turn text around, and
/// it takes the room that it seems to take.
pub fn is_harmless(c: char) -> bool {
    !(c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}' | '\u{13430}'..='\u{1345f}' | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
        ))
}

/// How a message names a character: `` EN DASH `–` U+2013 ``; what cannot be seen is not printed.
pub fn describe(c: char) -> String {
    let code = c as u32;
    match lookalike(c) {
        Some((Kind::Dash | Kind::Quote, name)) => format!("{name} `{c}` U+{code:04X}"),
        Some((_, name)) => format!("{name} U+{code:04X}"),
        None if c == ' ' => "a space".into(),
        None if c.is_control() => format!("CONTROL U+{code:04X}"),
        None => format!("`{c}` U+{code:04X}"),
    }
}

/// The line as it was before a word processor or a web page set it nicely.
pub fn plain(line: &str) -> String {
    let chars: Vec<char> = line.chars().collect();
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        match lookalike(c).map(|(kind, _)| kind) {
            None => out.push(c),
            Some(Kind::Quote) => out.push('"'),
            Some(Kind::Space) => out.push(' '),
            Some(Kind::Invisible) => {}
            Some(Kind::Dash) => {
                let starts_word = at == 0 || chars[at - 1].is_whitespace();
                let word = chars[at + 1..].iter().take_while(|c| !c.is_whitespace()).count();
                // Web pages set `--` as one dash; a single letter was a short option.
                let next = chars.get(at + 1).copied();
                out.push_str(match next {
                    Some('-') if starts_word && word == 2 => "",
                    Some(c) if starts_word && word > 1 && c != '-' => "--",
                    _ => "-",
                });
            }
        }
        at += 1;
    }
    out
}

/// So much of what a host says of itself fits into a message.
const MESSAGE: usize = 4096;

/// A text that came from elsewhere, for a message: what is too long for one is cut, and that is said.
pub fn shortened(mut text: String) -> String {
    if text.len() > MESSAGE {
        let end = (0..=MESSAGE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let rest = text.split_off(end);
        text.push_str(&format!(" … ({} more bytes)", rest.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pasted_lines_become_plain() {
        for (pasted, wanted) in [
            ("-p icmp –icmp-type any", "-p icmp --icmp-type any"),
            ("–A INPUT", "-A INPUT"),
            ("—-j ACCEPT", "-j ACCEPT"),
            ("−-dport 22", "--dport 22"),
            (":X – [0:0]", ":X - [0:0]"),
            ("--log-prefix “Firewall INPUT: ”", "--log-prefix \"Firewall INPUT: \""),
            ("-p tcp\u{a0}--dport\u{200b} 22", "-p tcp --dport 22"),
        ] {
            assert_eq!(plain(pasted), wanted);
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        assert_eq!(shortened("short".to_owned()), "short");
        let cut = shortened("a".to_owned() + &"ö".repeat(1 << 20));
        assert!(cut.len() < 4200 && cut.ends_with("ö … (2093058 more bytes)"), "{cut}");
    }
}
