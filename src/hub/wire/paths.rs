//! The body of a paths-info request (PROTOCOL 4.3).

use serde::Deserialize;

use crate::hub::{ParseError, route};

/// Which paths a client asks about. A path that no repo can hold is a path that is not there: it is left
/// out of the answer by whoever looks, so it is kept as text here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathsInfoRequest {
    /// The paths, as asked.
    pub paths: Vec<String>,
    /// Whether last commit and scan of each file are wanted too.
    pub expand: bool,
}

#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    paths: OneOrMore,
    #[serde(default)]
    expand: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        Self::More(Vec::new())
    }
}

impl PathsInfoRequest {
    /// Reads JSON where the content type says so, else a form: Python sends
    /// `paths=a&paths=b&expand=False`, JavaScript `{"paths": ["a", "b"], "expand": true}`.
    ///
    /// # Errors
    /// The body is not the JSON that it should be. (Every text is a form.)
    pub fn parse(content_type: Option<&str>, body: &[u8]) -> Result<Self, ParseError> {
        let is_json =
            content_type.is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with("application/json"));
        if is_json {
            let json: Json = serde_json::from_slice(body).map_err(|_| {
                let problem = r#"paths-info takes {"paths": ["a", "b"], "expand": false}, or the same as a form"#;
                ParseError::new("body", &String::from_utf8_lossy(body), problem)
            })?;
            let paths = match json.paths {
                OneOrMore::One(path) => vec![path],
                OneOrMore::More(paths) => paths,
            };
            return Ok(Self { paths, expand: json.expand });
        }
        let mut request = Self::default();
        for (key, value) in form_urlencoded::parse(body) {
            match &*key {
                "paths" | "paths[]" => request.paths.push(value.into_owned()),
                "expand" => request.expand = route::is_true(&value),
                _ => {}
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_json_mean_the_same() {
        let expected = PathsInfoRequest { paths: vec!["a".into(), "sub dir/filé #1 100%.txt".into()], expand: false };
        let form = b"paths=a&paths=sub+dir%2Ffil%C3%A9+%231+100%25.txt&expand=False";
        let json = r#"{"paths": ["a", "sub dir/filé #1 100%.txt"], "expand": false}"#;
        let form_type = Some("application/x-www-form-urlencoded");
        assert_eq!(PathsInfoRequest::parse(form_type, form), Ok(expected.clone()));
        assert_eq!(PathsInfoRequest::parse(None, form), Ok(expected.clone()));
        assert_eq!(PathsInfoRequest::parse(Some("application/json; charset=utf-8"), json.as_bytes()), Ok(expected));
        let one = PathsInfoRequest::parse(Some("application/json"), br#"{"paths": "a", "expand": true}"#).unwrap();
        assert!(one.paths == ["a"] && one.expand);
        assert!(PathsInfoRequest::parse(None, b"paths=a&expand=True").unwrap().expand);
    }

    #[test]
    fn broken_json_says_what_would_do() {
        let error = PathsInfoRequest::parse(Some("application/json"), b"{\"paths\": 1}").unwrap_err();
        assert!(error.to_string().contains("or the same as a form"), "{error}");
    }
}
