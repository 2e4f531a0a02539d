//! `.env` in the working directory: variables that the environment doesn't have.
//!
//! `dotenvy` reads it. What stands here keeps count of the lines, so that a mistake is named by its line and never
//! by its text, which may be a secret; and refuses a bare `$`, since a value that is silently changed by what it
//! happens to look like is a riddle ("signature does not match").

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    path::Path,
};

/// The variables of a file; none where there is no such file. The first of two of one name counts.
///
/// # Errors
/// What is wrong, with the file's name and the line, without its text.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let named = |problem: String| format!("{}: {problem}", path.display());
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes).map_err(|_| named("not UTF-8: save it as UTF-8".into()))?;
            parse(&text).map_err(named)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(named(error.to_string())),
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Its reader takes the end of a file for the end of a value only after a line break.
    let text = format!("{text}\n");
    let lines = Lines { rest: Cell::new(text.as_bytes()), read: Cell::new(0), since: RefCell::default() };
    let mut variables = BTreeMap::new();
    for entry in dotenvy::from_read_iter(&lines) {
        let raw = std::mem::take(&mut *lines.since.borrow_mut());
        let line = lines.read.get();
        let (name, value) = entry.map_err(|error| {
            let text = match &error {
                dotenvy::Error::LineParse(text, _) => text.as_str(),
                _ => "",
            };
            let first = (line + 1).saturating_sub(text.lines().count().max(1));
            format!("line {first}: write NAME=value, and a value with spaces, quotes, # or $ in single quotes")
        })?;
        if has_bare_dollar(&raw) {
            return Err(format!(
                "line {line}: {name} has a $, and nothing is put in for $NAME here: write the value in single quotes"
            ));
        }
        variables.entry(name).or_insert(value);
    }
    Ok(variables)
}

/// Whether a `$` stands outside of single quotes and comments, where `dotenvy` would replace it and what follows.
fn has_bare_dollar(raw: &str) -> bool {
    let entry = raw.lines().skip_while(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    let (mut single, mut double, mut escaped) = (false, false, false);
    for line in entry {
        let mut before = ' ';
        for c in line.chars() {
            match c {
                _ if escaped => escaped = false,
                '\\' if !single => escaped = true,
                '\'' if !double => single = !single,
                '"' if !single => double = !double,
                '#' if !single && !double && before.is_whitespace() => break,
                '$' if !single => return true,
                _ => {}
            }
            before = c;
        }
    }
    false
}

/// Gives a reader one line at a time, and so knows where it is.
struct Lines<'t> {
    rest: Cell<&'t [u8]>,
    read: Cell<usize>,
    /// What was read since somebody looked.
    since: RefCell<String>,
}

impl io::Read for &Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.rest.get();
        let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let (now, later) = rest.split_at(line.min(buffer.len()));
        buffer[..now.len()].copy_from_slice(now);
        self.rest.set(later);
        self.read.set(self.read.get() + usize::from(now.ends_with(b"\n")));
        self.since.borrow_mut().push_str(&String::from_utf8_lossy(now));
        Ok(now.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_read_as_the_plain_mirror_has_them() {
        let text = "\u{feff}# the mirror\r\nHF_TOKEN=hf_abc\r\n\nexport MINIO_BUCKET = models  # where\n\
                    HF_REPOS=\"org/a, org/b@v1\"\nMINIO_SECRET_KEY='pa$$ w#rd'\nEMPTY=\nHF_TOKEN=second\nLAST=x";
        let read = parse(text).unwrap();
        let value = |name: &str| read.get(name).map(String::as_str);
        assert_eq!(value("HF_TOKEN"), Some("hf_abc"));
        assert_eq!(value("MINIO_BUCKET"), Some("models"));
        assert_eq!(value("HF_REPOS"), Some("org/a, org/b@v1"));
        assert_eq!(value("MINIO_SECRET_KEY"), Some("pa$$ w#rd"));
        assert_eq!((value("EMPTY"), value("LAST")), (Some(""), Some("x")));
        assert_eq!(parse("").unwrap().len() + parse("# only\n\n").unwrap().len(), 0);
    }

    #[test]
    fn a_mistake_is_named_by_its_line_and_never_by_its_text() {
        let cases = [
            ("A=1\nhush\n", "line 2: write NAME=value"),
            ("# x\n\nA=1\nB=hush hush\n", "line 4: write NAME=value"),
            ("A='hush\nB=2\nC=3\n", "line 1: write NAME=value"),
            ("A=1\n\nB=\"hush\n\n", "line 3: write NAME=value"),
            ("A=1\n=hush\n", "line 2: write NAME=value"),
            ("A=1\nKEY=hu$sh\n", "line 2: KEY has a $"),
            ("# a comment with $HOME\nA=1 # and $HOME\nKEY=\"${hush}\"\n", "line 3: KEY has a $"),
        ];
        for (text, expected) in cases {
            let error = parse(text).expect_err(text);
            assert!(error.starts_with(expected) && !error.contains("hu"), "{text:?}: {error}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join(".env")).unwrap(), BTreeMap::new());
        std::fs::write(dir.path().join(".env"), b"A=\xff").unwrap();
        assert!(read(&dir.path().join(".env")).unwrap_err().contains(".env: not UTF-8"));
    }
}
