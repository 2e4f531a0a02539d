//! The repos that a repo names beyond itself, for people.

use std::io;

use bytesize::ByteSize;

use crate::gateway::{References, Standing};

/// One line for each, with who names it and what policy says.
pub(super) fn write_references(out: &mut dyn io::Write, references: &References) -> io::Result<()> {
    if !references.repos.is_empty() {
        writeln!(out, "  names beyond itself:")?;
    }
    for reference in &references.repos {
        let named = reference.named_by.iter().map(|by| format!("{} {} {}", by.repo, by.file, by.field));
        let named = named.collect::<Vec<_>>().join("; ");
        let standing = match (reference.standing, &reference.why) {
            (Standing::Allowed, _) => {
                let size = ByteSize::b(reference.bytes.unwrap_or_default());
                let stored = ByteSize::b(reference.stored_bytes.unwrap_or_default());
                let licence = reference.licence.as_deref().unwrap_or("unknown");
                format!("allowed, licence {licence}, {size}, {stored} of it stored")
            }
            (Standing::Denied, why) => format!("denied: {}", why.as_deref().unwrap_or_default()),
            (Standing::Unknown, why) => format!("not known: {}", why.as_deref().unwrap_or_default()),
        };
        writeln!(out, "    {}@{} ({named}): {standing}", reference.repo, reference.revision)?;
    }
    for problem in &references.unread {
        writeln!(out, "  not read, and so may name more: {problem}")?;
    }
    Ok(())
}
