//! Text out of the web pages that proxies answer with, for an error that a person reads.

/// The visible text of a page: tags, scripts and styles taken out, white space folded, at most 300
/// characters. Plain text goes through unharmed.
pub(super) fn visible_text(page: &str) -> String {
    let mut text = String::new();
    let mut rest = page;
    while let Some((before, after)) = rest.split_once('<') {
        text.push_str(before);
        text.push(' ');
        rest = after_element(after);
    }
    text.push_str(rest);
    for (entity, meaning) in
        [("&nbsp;", " "), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
    {
        text = text.replace(entity, meaning);
    }
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    words.join(" ").chars().take(300).collect()
}

/// What follows a tag, a comment, or an element whose content nobody sees.
fn after_element(after: &str) -> &str {
    if let Some(comment) = after.strip_prefix("!--") {
        return comment.split_once("-->").map_or("", |(_, rest)| rest);
    }
    let mut rest = after.split_once('>').map_or("", |(_, rest)| rest);
    for unseen in ["script", "style"] {
        let is_it = after.get(..unseen.len()).is_some_and(|name| name.eq_ignore_ascii_case(unseen));
        if is_it {
            let lower = rest.to_ascii_lowercase();
            rest = lower.find(&format!("</{unseen}")).map_or("", |at| &rest[at..]);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_page_gives_its_words() {
        let page = "<!DOCTYPE html><html><head><title>Blocked</title><style>p { color: red }</style></head>\n<!-- v2 -->\
            <body><script>if (1 < 2) { alert('x') }</script><p>Category:&nbsp;AI &amp; ML\r\n<br/>Ticket <b>42</b></body>";
        assert_eq!(visible_text(page), "Blocked Category: AI & ML Ticket 42");
        assert_eq!(visible_text("plain  text\n"), "plain text");
        assert_eq!(visible_text("<unfinished"), "");
        assert_eq!(visible_text(&"é".repeat(999)).chars().count(), 300);
    }
}
