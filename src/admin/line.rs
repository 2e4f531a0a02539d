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

/// Characters that turn the order of text around, so that a log shows another text than was written.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}
