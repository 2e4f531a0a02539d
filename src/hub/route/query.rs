//! The queries of the API's read routes: read with the spellings of all clients, printed in one.
//!
//! Keys that are not named here are ignored. Booleans come as `true`, `True` or `1`; anything else is false,
//! and so is an absent key. Lists are repeated keys, with or without `[]`. A number that is none, or 0, is
//! absent: an answer in one page is what every client accepts (PROTOCOL 4.4).

use std::fmt;

use form_urlencoded::byte_serialize;

/// `GET /api/{kind}s/{repo}[/revision/{revision}]` (PROTOCOL 4.1).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InfoQuery {
    /// Sizes and ids beside the names of the files.
    pub blobs: bool,
    /// The repo's security scan.
    pub security_status: bool,
    /// Everything there is.
    pub full: bool,
    /// Only these properties; all when empty. Without repetitions, in the order asked.
    pub expand: Vec<String>,
}

/// `GET /api/{kind}s/{repo}/tree/...` (PROTOCOL 4.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeQuery {
    /// Files of all folders below, too.
    pub recursive: bool,
    /// Last commit and scan of each file.
    pub expand: bool,
    /// Entries a page.
    pub limit: Option<u32>,
    /// Where the page starts; see [`crate::hub::read_cursor`].
    pub cursor: Option<String>,
}

/// `GET /api/{kind}s/{repo}/commits/{revision}` (PROTOCOL 4.5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitsQuery {
    /// Commits a page.
    pub limit: Option<u32>,
    /// Which page, from 0; the key is `p`.
    pub page: Option<u32>,
    /// Titles and messages as HTML too: `expand[]=formatted`.
    pub formatted: bool,
}

/// `GET /api/{kind}s` (PROTOCOL section 2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Text in the id.
    pub search: Option<String>,
    /// The owner.
    pub author: Option<String>,
    /// Tags that a repo must all have; `pipeline_tag`, `library` and `tags` are older spellings of it.
    pub filter: Vec<String>,
    /// The property to sort by.
    pub sort: Option<String>,
    /// Repos a page.
    pub limit: Option<u32>,
    /// Files and card of each repo, too.
    pub full: bool,
    /// Where the page starts: what a `Link` of ours named.
    pub cursor: Option<String>,
    /// Only these properties; the usual ones when empty.
    pub expand: Vec<String>,
}

fn pairs(query: Option<&str>) -> impl Iterator<Item = (String, String)> {
    form_urlencoded::parse(query.unwrap_or("").as_bytes()).map(|(key, value)| {
        let key = key.strip_suffix("[]").map(str::to_owned).unwrap_or(key.into_owned());
        (key, value.into_owned())
    })
}

/// A boolean in the spelling of any client.
pub(in crate::hub) fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value == "1"
}

fn number(value: &str) -> Option<u32> {
    value.parse().ok().filter(|n| *n > 0)
}

fn add_once(list: &mut Vec<String>, value: String) {
    let is_boolean = value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false");
    if !value.is_empty() && !is_boolean && !list.contains(&value) {
        list.push(value);
    }
}

fn some(value: String) -> Option<String> {
    Some(value).filter(|value| !value.is_empty())
}

impl InfoQuery {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let mut read = Self::default();
        for (key, value) in pairs(query) {
            match key.as_str() {
                "blobs" => read.blobs = is_true(&value),
                "securityStatus" => read.security_status = is_true(&value),
                "full" => read.full = is_true(&value),
                "expand" => add_once(&mut read.expand, value),
                _ => {}
            }
        }
        read
    }
}

impl TreeQuery {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let mut read = Self::default();
        for (key, value) in pairs(query) {
            match key.as_str() {
                "recursive" => read.recursive = is_true(&value),
                "expand" => read.expand = is_true(&value),
                "limit" => read.limit = number(&value),
                "cursor" => read.cursor = some(value),
                _ => {}
            }
        }
        read
    }
}

impl CommitsQuery {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let mut read = Self::default();
        for (key, value) in pairs(query) {
            match key.as_str() {
                "limit" => read.limit = number(&value),
                "p" => read.page = number(&value),
                "expand" => read.formatted |= value == "formatted",
                _ => {}
            }
        }
        read
    }
}

impl ListQuery {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let mut read = Self::default();
        for (key, value) in pairs(query) {
            match key.as_str() {
                "search" => read.search = some(value),
                "author" => read.author = some(value),
                "filter" | "pipeline_tag" | "library" | "tags" => add_once(&mut read.filter, value),
                "sort" => read.sort = some(value),
                "limit" => read.limit = number(&value),
                "full" => read.full = is_true(&value),
                "cursor" => read.cursor = some(value),
                "expand" => add_once(&mut read.expand, value),
                _ => {}
            }
        }
        read
    }
}

/// Whether `refs` is asked for pull requests.
pub(super) fn includes_prs(query: Option<&str>) -> bool {
    pairs(query).any(|(key, value)| key == "include_prs" && is_true(&value))
}

/// Whether this is git's request for refs to push to.
pub(super) fn is_push(query: Option<&str>) -> bool {
    pairs(query).any(|(key, value)| key == "service" && value == "git-receive-pack")
}

/// Writes `?a=b&c=d`, or nothing.
struct Writer<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    separator: char,
}

impl<'a, 'b> Writer<'a, 'b> {
    fn new(out: &'a mut fmt::Formatter<'b>) -> Self {
        Self { out, separator: '?' }
    }

    fn pair(&mut self, key: &str, value: impl fmt::Display) -> fmt::Result {
        write!(self.out, "{}{key}=", self.separator)?;
        self.separator = '&';
        byte_serialize(value.to_string().as_bytes()).try_for_each(|piece| self.out.write_str(piece))
    }

    fn flag(&mut self, key: &str, value: bool) -> fmt::Result {
        if value { self.pair(key, "true") } else { Ok(()) }
    }

    fn each<T: fmt::Display>(&mut self, key: &str, values: impl IntoIterator<Item = T>) -> fmt::Result {
        values.into_iter().try_for_each(|value| self.pair(key, value))
    }
}

impl fmt::Display for InfoQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut writer = Writer::new(f);
        writer.flag("blobs", self.blobs)?;
        writer.flag("securityStatus", self.security_status)?;
        writer.flag("full", self.full)?;
        writer.each("expand", &self.expand)
    }
}

impl fmt::Display for TreeQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut writer = Writer::new(f);
        writer.flag("recursive", self.recursive)?;
        writer.flag("expand", self.expand)?;
        writer.each("limit", self.limit)?;
        writer.each("cursor", &self.cursor)
    }
}

impl fmt::Display for CommitsQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut writer = Writer::new(f);
        writer.each("limit", self.limit)?;
        writer.each("p", self.page)?;
        writer.each("expand", self.formatted.then_some("formatted"))
    }
}

impl fmt::Display for ListQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut writer = Writer::new(f);
        writer.each("search", &self.search)?;
        writer.each("author", &self.author)?;
        writer.each("filter", &self.filter)?;
        writer.each("sort", &self.sort)?;
        writer.each("limit", self.limit)?;
        writer.flag("full", self.full)?;
        writer.each("cursor", &self.cursor)?;
        writer.each("expand", &self.expand)
    }
}
