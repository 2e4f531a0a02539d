//! Which client asks, by its `User-Agent`: only where clients need different answers to the same question.
//! A guess that nothing of safety hangs on; anyone can send any name.

/// A client of the Hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// Python's `huggingface_hub`, called by a program.
    HuggingfaceHub(ClientVersion),
    /// The `hf` command line of `huggingface_hub`; it goes by its older name, `huggingface-cli`.
    HfCli(ClientVersion),
    /// Python's `transformers`, through this version of `huggingface_hub`, where it names one.
    Transformers(Option<ClientVersion>),
    /// Python's `datasets`, through this version of `huggingface_hub`, where it names one.
    Datasets(Option<ClientVersion>),
    /// Rust's `hf-hub` from 1.0 on.
    HfHubRust1,
    /// Rust's `hf-hub` before 1.0.
    HfHubRust0,
    /// `@huggingface/hub` and other JavaScript.
    Js,
    /// llama.cpp.
    LlamaCpp,
    /// git or git-lfs.
    Git,
    /// All others: curl, browsers, ...
    Other,
}

/// The first two numbers of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientVersion {
    /// The first.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

/// What a client makes of a file of more than [`SizeRule::LIMIT_BYTES`] over plain HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeRule {
    /// It fetches it.
    Fine,
    /// It fetches it if HEAD announces no size, and refuses an announced one.
    OmitSize,
    /// It fetches it in no way: not with the size announced, not without.
    Refuses,
}

impl SizeRule {
    /// The largest size in bytes that every client fetches over plain HTTP: `MAX_HTTP_DOWNLOAD_SIZE` of
    /// `huggingface_hub`.
    pub const LIMIT_BYTES: u64 = 50_000_000_000;
}

impl ClientKind {
    /// Reads a `User-Agent`: products `name/version`, separated by `;` or blanks.
    pub fn of(user_agent: Option<&str>) -> Self {
        let text = user_agent.unwrap_or("");
        let version_of = |name: &str| products(text).find(|(product, _)| product.eq_ignore_ascii_case(name));
        let has = |name: &str| version_of(name).is_some();
        let hub = version_of("hf_hub").map(|(_, version)| ClientVersion::parse(version));
        // The command line states itself first; a program's libraries may name anything further on.
        let first = products(text).next().map(|(product, _)| product.to_ascii_lowercase()).unwrap_or_default();
        match (first.as_str(), hub) {
            ("huggingface-cli", Some(hub)) => Self::HfCli(hub),
            (_, hub) if has("transformers") => Self::Transformers(hub),
            (_, hub) if has("datasets") => Self::Datasets(hub),
            (_, Some(hub)) => Self::HuggingfaceHub(hub),
            ("git" | "git-lfs", None) => Self::Git,
            ("node" | "undici" | "deno" | "bun" | "transformers.js", None) => Self::Js,
            (name, None) if name.starts_with("llama-cpp") || name.starts_with("llama.cpp") => Self::LlamaCpp,
            _ => match version_of("hf-hub") {
                Some((_, version)) if ClientVersion::parse(version).major >= 1 => Self::HfHubRust1,
                Some(_) => Self::HfHubRust0,
                None => Self::Other,
            },
        }
    }

    /// The version of Python's `huggingface_hub` that makes the request, where one does.
    pub fn hub_version(self) -> Option<ClientVersion> {
        match self {
            Self::HuggingfaceHub(version) | Self::HfCli(version) => Some(version),
            Self::Transformers(version) | Self::Datasets(version) => version,
            _ => None,
        }
    }

    /// Whether a refusal should carry `X-Error-Code: GatedRepo` (PROTOCOL 5.4): Python's libraries show the
    /// reason only with it, the command line only without it, and the others do not care.
    pub fn shows_gated_reason(self) -> bool {
        !matches!(self, Self::HfCli(_))
    }

    /// What becomes of a file above [`SizeRule::LIMIT_BYTES`] (PROTOCOL section 6). The limit came with `huggingface_hub`
    /// 0.31; since 1.31 a file whose size HEAD does not announce passes it, before that a size was required.
    /// Rust, JavaScript and all others have no limit.
    pub fn refuses_size_over_50gb(self) -> SizeRule {
        match self.hub_version() {
            Some(version) if version >= SIZE_OPTIONAL => SizeRule::OmitSize,
            Some(version) if version >= SIZE_LIMITED => SizeRule::Refuses,
            _ => SizeRule::Fine,
        }
    }

    /// Whether every request of a download says so by `X-HF-Download-Counter`, and those of `HfFileSystem` don't.
    pub fn marks_downloads(self) -> bool {
        self.hub_version().is_some_and(|version| version >= DOWNLOADS_MARKED)
    }
}

/// Read in the sources of 1.31.0 and 1.32.0: `flag_as_download_call` is on `hf_hub_download` and `snapshot_download`.
const DOWNLOADS_MARKED: ClientVersion = ClientVersion { major: 1, minor: 32 };
/// Read in the sources of 0.30.2 and 0.31.4.
const SIZE_LIMITED: ClientVersion = ClientVersion { major: 0, minor: 31 };
/// Read in the sources of 1.30.0 and 1.31.0.
const SIZE_OPTIONAL: ClientVersion = ClientVersion { major: 1, minor: 31 };

impl ClientVersion {
    /// The first two numbers; what is missing or no number is 0.
    fn parse(text: &str) -> Self {
        let mut numbers = text.split('.').map(|part| {
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            part[..end].parse().unwrap_or(0)
        });
        Self { major: numbers.next().unwrap_or(0), minor: numbers.next().unwrap_or(0) }
    }
}

fn products(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split([';', ' ', '\t']).filter(|part| !part.is_empty()).map(|part| part.split_once('/').unwrap_or((part, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32) -> ClientVersion {
        ClientVersion { major, minor }
    }

    #[test]
    fn clients_are_known_by_what_they_really_send() {
        for (user_agent, kind) in [
            ("unknown/None; hf_hub/2.4.0; python/3.11.2", ClientKind::HuggingfaceHub(version(2, 4))),
            ("unknown/None; hf_hub/0.23.5; python/3.11.2; torch/2.9.0", ClientKind::HuggingfaceHub(version(0, 23))),
            ("sentence-transformers/5.1; hf_hub/1.0.0rc2; python/3", ClientKind::HuggingfaceHub(version(1, 0))),
            ("huggingface-cli/None; hf_hub/1.33.0; python/3.11.2", ClientKind::HfCli(version(1, 33))),
            ("huggingface-cli/2.4.0; hf_hub/2.4.0; python/3.11.2", ClientKind::HfCli(version(2, 4))),
            (
                "unknown/None; hf_hub/2.4.0; python/3.11.2; transformers/5.23.0; session_id/1; file_type/config",
                ClientKind::Transformers(Some(version(2, 4))),
            ),
            ("transformers/4.30.0; python/3.8", ClientKind::Transformers(None)),
            ("datasets/5.2.0; hf_hub/1.33.0; python/3.11.2", ClientKind::Datasets(Some(version(1, 33)))),
            ("hf-hub/1.0.0", ClientKind::HfHubRust1),
            ("unknown/None; hf-hub/0.4.3; rust/unknown", ClientKind::HfHubRust0),
            ("node", ClientKind::Js),
            ("llama-cpp", ClientKind::LlamaCpp),
            ("llama-cpp/b6000", ClientKind::LlamaCpp),
            ("git/2.47.3", ClientKind::Git),
            ("git-lfs/3.3.0 (GitHub; linux amd64; go 1.19.8)", ClientKind::Git),
            ("curl/8.14.1", ClientKind::Other),
            ("; ;/hf_hub", ClientKind::Other),
        ] {
            assert_eq!(ClientKind::of(Some(user_agent)), kind, "{user_agent}");
        }
        assert_eq!(ClientKind::of(None), ClientKind::Other);
    }

    #[test]
    fn only_the_command_line_hides_the_reason_of_a_gated_refusal() {
        assert!(!ClientKind::HfCli(version(2, 4)).shows_gated_reason());
        assert!(ClientKind::HuggingfaceHub(version(2, 4)).shows_gated_reason());
        assert!(ClientKind::Other.shows_gated_reason());
    }

    #[test]
    fn downloads_are_told_from_file_systems_since_1_32() {
        assert!(!ClientKind::HuggingfaceHub(version(1, 31)).marks_downloads());
        assert!(ClientKind::HuggingfaceHub(version(1, 32)).marks_downloads());
        assert!(ClientKind::Datasets(Some(version(2, 4))).marks_downloads());
        assert!(!ClientKind::Other.marks_downloads());
    }

    #[test]
    fn what_refuses_a_large_file_depends_on_the_hub_version_beneath() {
        for (kind, rule) in [
            (ClientKind::HuggingfaceHub(version(0, 23)), SizeRule::Fine),
            (ClientKind::HuggingfaceHub(version(0, 30)), SizeRule::Fine),
            (ClientKind::HuggingfaceHub(version(0, 36)), SizeRule::Refuses),
            (ClientKind::HuggingfaceHub(version(1, 30)), SizeRule::Refuses),
            (ClientKind::HfCli(version(1, 33)), SizeRule::OmitSize),
            (ClientKind::Transformers(Some(version(2, 4))), SizeRule::OmitSize),
            (ClientKind::Transformers(None), SizeRule::Fine),
            (ClientKind::HfHubRust1, SizeRule::Fine),
        ] {
            assert_eq!(kind.refuses_size_over_50gb(), rule, "{kind:?}");
        }
    }
}
