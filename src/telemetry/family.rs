//! Counters with labels, as Prometheus has them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

/// A counter for each combination of `K` labels' values. The values are few and fixed: never a name that comes
/// from outside.
#[derive(Debug)]
pub struct Family<const K: usize> {
    labels: [&'static str; K],
    counts: Mutex<BTreeMap<[&'static str; K], u64>>,
}

impl<const K: usize> Family<K> {
    /// One with these labels.
    pub fn new(labels: [&'static str; K]) -> Self {
        Self { labels, counts: Mutex::default() }
    }

    /// Counts one more.
    pub fn count(&self, values: [&'static str; K]) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(values).or_default() += 1;
    }

    /// The counters so far as `{label="value"}` and the count.
    pub fn rows(&self) -> Vec<(String, u64)> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |(values, count): (&[&'static str; K], &u64)| {
            let pairs: Vec<_> = self.labels.iter().copied().zip(values.iter().copied()).collect();
            (labels(&pairs), *count)
        };
        counts.iter().map(row).collect()
    }
}

/// `{label="value",...}`.
pub fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text = String::from("{");
    for (number, (label, value)) in pairs.iter().enumerate() {
        let comma = if number == 0 { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        // Writing to a String doesn't fail.
        let _ = write!(text, "{comma}{label}=\"{value}\"");
    }
    text.push('}');
    text
}

/// What a status comes to, as a label.
pub fn status_class(status: u16) -> &'static str {
    match status {
        429 => "429",
        ..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_what_prometheus_reads() {
        let family = Family::new(["end", "status"]);
        family.count(["b", "2xx"]);
        family.count(["a", "5xx"]);
        family.count(["b", "2xx"]);
        let rows = [("{end=\"a\",status=\"5xx\"}".to_owned(), 1), ("{end=\"b\",status=\"2xx\"}".to_owned(), 2)];
        assert_eq!(family.rows(), rows);
        assert_eq!(labels(&[("text", "a \"b\"\n\\c")]), r#"{text="a \"b\"\n\\c"}"#);
    }
}
