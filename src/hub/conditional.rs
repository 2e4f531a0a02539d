//! `If-Match`, `If-None-Match` and `If-Range` (RFC 9110 section 13), judged against a file's etag: its
//! [`BlobId`], always strong.
//!
//! Conditions by date are ignored: the Hub sends no `Last-Modified`, so no client has a date of ours.

use super::BlobId;

/// What the conditions of a GET or HEAD come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Answer as if there were none.
    Met,
    /// The client has this content: 304.
    NotModified,
    /// The client wants other content than there is: 412.
    Failed,
}

impl Condition {
    /// Judges both headers, in the order of RFC 9110 section 13.2.2. Of a header that came in several lines,
    /// pass the lines joined by commas.
    pub fn of(if_match: Option<&str>, if_none_match: Option<&str>, etag: &BlobId) -> Self {
        if if_match.is_some_and(|header| !if_match_holds(header, etag)) {
            return Self::Failed;
        }
        if if_none_match.is_some_and(|header| if_none_match_hits(header, etag)) {
            return Self::NotModified;
        }
        Self::Met
    }
}

/// Whether a `Range` counts beside this `If-Range`. It holds one strong etag; for anything else, a date too,
/// the whole file is sent (RFC 9110 section 13.1.5).
pub fn if_range_holds(if_range: Option<&str>, etag: &BlobId) -> bool {
    let Some(header) = if_range else { return true };
    matches!(tags(header).collect::<Vec<_>>().as_slice(), [tag] if tag.is_strong_match(etag))
}

fn if_match_holds(header: &str, etag: &BlobId) -> bool {
    header.trim() == "*" || tags(header).any(|tag| tag.is_strong_match(etag))
}

/// `If-None-Match` compares weakly: clients may have stored our etag behind a proxy that weakened it.
fn if_none_match_hits(header: &str, etag: &BlobId) -> bool {
    header.trim() == "*" || tags(header).any(|tag| tag.opaque == etag.to_string())
}

/// An etag as a client sends it.
#[derive(Debug, PartialEq, Eq)]
struct Tag<'a> {
    weak: bool,
    opaque: &'a str,
}

impl Tag<'_> {
    fn is_strong_match(&self, etag: &BlobId) -> bool {
        !self.weak && self.opaque == etag.to_string()
    }
}

/// The well-formed etags at the head of a list. A comma between quotes is part of an etag.
fn tags(header: &str) -> impl Iterator<Item = Tag<'_>> {
    let mut rest = header;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let weak = rest.starts_with("W/");
        let quoted = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"')?;
        let (opaque, after) = quoted.split_once('"')?;
        rest = after;
        Some(Tag { weak, opaque })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: &str = "ce013625030ba8dba906f756967f9e9ca394464a";

    fn etag() -> BlobId {
        BlobId::Git(OID.parse().unwrap())
    }

    fn none_match(header: &str) -> Condition {
        Condition::of(None, Some(header), &etag())
    }

    #[test]
    fn a_client_that_has_the_content_gets_no_body() {
        let (strong, weak) = (format!("\"{OID}\""), format!("W/\"{OID}\""));
        for hit in
            [strong.clone(), weak.clone(), "*".into(), format!("\"a,b\" , {weak}"), format!("\"x\",{strong}, \"y\"")]
        {
            assert_eq!(none_match(&hit), Condition::NotModified, "{hit}");
        }
        for miss in ["", "\"other\"", OID, &format!("\"{OID}-gzip\""), &format!("\"{OID}"), &format!("\"x{OID}\"")] {
            assert_eq!(none_match(miss), Condition::Met, "{miss}");
        }
        assert_eq!(Condition::of(None, None, &etag()), Condition::Met);
    }

    #[test]
    fn if_match_takes_strong_etags_only_and_is_judged_first() {
        let (strong, weak) = (format!("\"{OID}\""), format!("W/\"{OID}\""));
        assert_eq!(Condition::of(Some(&strong), None, &etag()), Condition::Met);
        assert_eq!(Condition::of(Some("*"), None, &etag()), Condition::Met);
        assert_eq!(Condition::of(Some(&format!("\"x\", {strong}")), None, &etag()), Condition::Met);
        assert_eq!(Condition::of(Some(&weak), None, &etag()), Condition::Failed);
        assert_eq!(Condition::of(Some("\"x\""), Some(&strong), &etag()), Condition::Failed);
        assert_eq!(Condition::of(Some(&strong), Some(&strong), &etag()), Condition::NotModified);
    }

    #[test]
    fn a_range_counts_only_for_the_same_content() {
        assert!(if_range_holds(None, &etag()));
        assert!(if_range_holds(Some(&format!("\"{OID}\"")), &etag()));
        for other in [format!("W/\"{OID}\""), "\"x\"".into(), "Tue, 24 Nov 2026 06:00:00 GMT".into(), "*".into()] {
            assert!(!if_range_holds(Some(&other), &etag()), "{other}");
        }
    }
}
