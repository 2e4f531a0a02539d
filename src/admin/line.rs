//! What a person writes down for others to read: one line, of which a log or a terminal shows what stands there.

use super::{Error, Result};

/// Longest reason or other text of a person's, in characters.
const LONGEST: usize = 1000;

/// The text of `field`: not empty, of one line, without control characters.
///
/// # Errors
/// [`Error::Invalid`], with what to write.
pub fn line(field: &str, text: &str) -> Result<String> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Error::Invalid(format!("{field}: write one line that others will understand")));
    }
    if text.chars().count() > LONGEST || text.contains(|c: char| c.is_control() || is_direction(c)) {
        return Err(Error::Invalid(format!(
            "{field}: write one line of at most {LONGEST} characters, without control characters"
        )));
    }
    Ok(text.to_owned())
}

/// Text of strangers as a terminal may show it: what would move the cursor, or turn the order around, is written out.
pub fn shown(text: &str) -> String {
    let written_out = |c: char| c.is_control() || is_direction(c);
    text.chars().flat_map(|c| if written_out(c) { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Characters that turn the order of text around, so that a log shows another text than was written.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_write_is_shown_without_moving_the_cursor_or_turning_the_order() {
        assert_eq!(shown("mit\u{1b}[2K\r\u{202e}é"), "mit\\u{1b}[2K\\r\\u{202e}é");
    }
}
