//! One log line, put together without an allocation: `tracing`'s formatter costs several times as much, and
//! every request writes one.

use std::{
    cell::RefCell,
    fmt::{Display, Write as _},
};

use time::OffsetDateTime;

use super::LogFormat;

thread_local! {
    static BUFFER: RefCell<String> = const { RefCell::new(String::new()) };
    /// A second since 1970 and its text: thousands of lines share one.
    static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
}

/// A line that is being filled.
#[derive(Debug)]
pub struct Line<'a> {
    format: LogFormat,
    text: &'a mut String,
}

impl Line<'_> {
    /// Makes a line with the time and `target`, has `fill` add to it, and hands it to `done`.
    pub(super) fn make(format: LogFormat, target: &str, fill: impl FnOnce(&mut Line<'_>), done: impl FnOnce(&[u8])) {
        BUFFER.with_borrow_mut(|text| {
            text.clear();
            start(text, format, OffsetDateTime::now_utc(), target);
            fill(&mut Line { format, text });
            text.push_str(if format == LogFormat::Json { "}\n" } else { "\n" });
            done(text.as_bytes());
        });
    }

    /// Adds a text. Whatever is in it, the line stays one line and its fields stay apart.
    pub fn text(&mut self, key: &str, value: impl Display) {
        self.key(key);
        match self.format {
            LogFormat::Json => {
                self.text.push('"');
                let _ = write!(Escaped(self.text), "{value}");
                self.text.push('"');
            }
            LogFormat::Text => {
                let start = self.text.len();
                let _ = write!(self.text, "{value}");
                let value = &self.text[start..];
                let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'=' && b != b'\\' || b >= 0x80;
                if value.is_empty() || !value.bytes().all(plain) || value.chars().any(char::is_control) {
                    let value = self.text.split_off(start);
                    self.text.push('"');
                    let _ = Escaped(self.text).write_str(&value);
                    self.text.push('"');
                }
            }
        }
    }

    /// Adds a word of our own, in which nothing needs escaping.
    pub fn word(&mut self, key: &str, value: &'static str) {
        self.key(key);
        let quote = if self.format == LogFormat::Json { "\"" } else { "" };
        self.text.push_str(quote);
        self.text.push_str(value);
        self.text.push_str(quote);
    }

    /// Adds a number.
    pub fn number(&mut self, key: &str, value: impl Into<u64>) {
        self.key(key);
        self.text.push_str(itoa::Buffer::new().format(value.into()));
    }

    // `write!` would be a quarter of what a line costs.
    fn key(&mut self, key: &str) {
        let (before, after) = match self.format {
            LogFormat::Json => (",\"", "\":"),
            LogFormat::Text => (" ", "="),
        };
        self.text.push_str(before);
        self.text.push_str(key);
        self.text.push_str(after);
    }
}

fn start(text: &mut String, format: LogFormat, now: OffsetDateTime, target: &str) {
    if format == LogFormat::Json {
        text.push_str("{\"timestamp\":\"");
    }
    SECOND.with_borrow_mut(|(second, shown)| {
        if *second != now.unix_timestamp() {
            *second = now.unix_timestamp();
            shown.clear();
            let (year, month, day) = now.to_calendar_date();
            let (hour, minute, second) = now.to_hms();
            let month = u8::from(month);
            let _ = write!(shown, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        }
        text.push_str(shown);
    });
    let _ = write!(text, ".{:06}Z", now.microsecond());
    let (before, after) = match format {
        LogFormat::Json => ("\",\"level\":\"INFO\",\"target\":\"", "\""),
        LogFormat::Text => ("  INFO ", ":"),
    };
    text.push_str(before);
    text.push_str(target);
    text.push_str(after);
}

/// Escapes as a JSON string does, and does not write anything that could end a line.
struct Escaped<'a>(&'a mut String);

impl std::fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // Nearly all there is to write is plain.
        let plain = |b: u8| matches!(b, b' '..=b'~') && b != b'"' && b != b'\\';
        let (start, rest) = text.split_at(text.bytes().position(|b| !plain(b)).unwrap_or(text.len()));
        self.0.push_str(start);
        for c in rest.chars() {
            match c {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                    write!(self.0, "\\u{:04x}", u32::from(c))?;
                }
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat, fill: impl FnOnce(&mut Line<'_>)) -> String {
        let mut made = String::new();
        Line::make(format, "access", fill, |bytes| made = String::from_utf8(bytes.to_vec()).unwrap());
        made
    }

    #[test]
    fn a_json_line_is_one_json_object_whatever_its_values() {
        let made = line(LogFormat::Json, |line| {
            line.text("path", "a\"b\\c\nd\u{85}é");
            line.number("bytes", 7_u64);
        });
        assert_eq!(made.matches('\n').count(), 1);
        let object: serde_json::Value = serde_json::from_str(&made).unwrap();
        assert_eq!(object["path"], "a\"b\\c\nd\u{85}é");
        assert_eq!(object["bytes"], 7);
        assert_eq!(object["target"], "access");
        assert_eq!(object["timestamp"].as_str().unwrap().len(), "2026-11-24T06:00:00.000000Z".len());
    }

    #[test]
    fn a_text_line_quotes_what_could_pass_for_another_field_or_line() {
        let made = line(LogFormat::Text, |line| {
            line.text("plain", "a/b.c");
            line.text("forged", "x status=200\nnext");
            line.text("empty", "");
            line.number("status", 404_u16);
        });
        assert!(
            made.ends_with("INFO access: plain=a/b.c forged=\"x status=200\\u000anext\" empty=\"\" status=404\n"),
            "{made}"
        );
    }
}
