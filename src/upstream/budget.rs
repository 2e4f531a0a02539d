//! The Hub's request budget: what its `RateLimit` headers say is left, who may use it, and how a 429 is
//! waited out (PROTOCOL 5.1 and 6).
//!
//! Each class of requests has a window of its own. Nobody asks while a class is known to be spent; one
//! request goes first when its window ends, and the others follow only when that one was not turned away.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::{sync::MutexGuard, time::Instant};

use super::{Error, ErrorKind, Purpose, Result};

/// Nothing waits longer than this: windows last five minutes, and a longer wait is an outage.
const LONGEST_WAIT: Duration = Duration::from_mins(15);

/// A time from a header is cut to this many seconds, so that nonsense does not overflow a clock.
const LONGEST_BELIEVED_S: u64 = 24 * 3600;

/// After a 429 that doesn't say how long.
const UNTOLD_WAIT: Duration = Duration::from_secs(10);

/// What the Hub counts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetClass {
    /// `/api/...`: 500 in five minutes for anonymous callers.
    Api,
    /// `/resolve/` and `/raw/`: 3,000 in five minutes.
    Resolvers,
    /// All else on the endpoint.
    Pages,
}

impl BudgetClass {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Api, Self::Resolvers, Self::Pages];

    /// As the Hub's headers name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Resolvers => "resolvers",
            Self::Pages => "pages",
        }
    }
}

/// What is known of one class, for readyz and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetStatus {
    /// Which class.
    pub class: BudgetClass,
    /// Requests left in this window, as the Hub said and we have counted since.
    pub left: Option<u64>,
    /// Requests in a whole window.
    pub quota: Option<u64>,
    /// Until the window ends.
    pub resets_in: Option<Duration>,
    /// For how long a 429 keeps everybody waiting.
    pub limited_for: Option<Duration>,
}

/// The budget of all classes.
#[derive(Debug, Default)]
pub(super) struct Budget {
    classes: [Class; 3],
}

#[derive(Debug, Default)]
struct Class {
    window: Mutex<Window>,
    /// Held by the one that waits for the window to end and asks first; one for each purpose.
    turns: [tokio::sync::Mutex<()>; 2],
}

#[derive(Debug, Default)]
struct Window {
    left: Option<u64>,
    quota: Option<u64>,
    resets: Option<Instant>,
    limited_until: Option<Instant>,
}

/// Leave to send one request. Keep it until the answer was noted: whoever waits behind it goes on then.
pub(super) struct Pass<'a> {
    _first_after_a_wait: Option<MutexGuard<'a, ()>>,
}

impl Budget {
    /// Waits until a request of this class may be sent. Dropping the future gives up the place.
    pub(super) async fn enter(&self, class: BudgetClass, purpose: Purpose) -> Result<Pass<'_>> {
        let class = &self.classes[class as usize];
        if class.take(purpose).is_none() {
            return Ok(Pass { _first_after_a_wait: None });
        }
        let turn = class.turns[purpose as usize].lock().await;
        let mut waited = false;
        while let Some(kind) = class.take(purpose) {
            let (ErrorKind::RateLimited { retry_after } | ErrorKind::BudgetSpent { retry_after }) = kind else {
                return Err(Error::new(kind));
            };
            if retry_after > LONGEST_WAIT {
                return Err(Error::new(kind));
            }
            tokio::time::sleep(retry_after).await;
            waited = true;
        }
        Ok(Pass { _first_after_a_wait: waited.then_some(turn) })
    }

    /// Takes in what an answer says of its class; `asked` counts where it doesn't name one.
    pub(super) fn note(&self, asked: BudgetClass, status: StatusCode, headers: &HeaderMap) {
        let now = Instant::now();
        let limit = header(headers, "ratelimit").and_then(parse_limit);
        let named =
            limit.as_ref().and_then(|limit| BudgetClass::ALL.into_iter().find(|class| class.name() == limit.name));
        let mut window = self.classes[named.unwrap_or(asked) as usize].lock();
        if let Some(limit) = &limit {
            window.left = Some(limit.left);
            window.resets = Some(now + limit.resets_in);
            if let Some((_, quota)) = header(headers, "ratelimit-policy")
                .and_then(|value| member(value).find(|(name, _)| *name == limit.name))
                .and_then(|(name, parameters)| Some((name, parameter(parameters, "q")?)))
            {
                window.quota = Some(quota);
            }
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            // A little later than told: the Hub's clock is not ours.
            let later = Duration::from_millis(fastrand::u64(200..1200));
            window.limited_until = Some(now + wait_after_429(headers) + later);
        }
    }

    pub(super) fn status(&self) -> Vec<BudgetStatus> {
        let now = Instant::now();
        let until = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now)).filter(|left| !left.is_zero());
        let one = |class: BudgetClass| {
            let window = self.classes[class as usize].lock();
            let resets_in = until(window.resets);
            BudgetStatus {
                class,
                left: window.left.filter(|_| resets_in.is_some()),
                quota: window.quota,
                resets_in,
                limited_for: until(window.limited_until),
            }
        };
        BudgetClass::ALL.into_iter().map(one).collect()
    }
}

impl Class {
    fn lock(&self) -> std::sync::MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one request, or says why it has to wait.
    fn take(&self, purpose: Purpose) -> Option<ErrorKind> {
        let now = Instant::now();
        let mut window = self.lock();
        if let Some(until) = window.limited_until.filter(|until| *until > now) {
            return Some(ErrorKind::RateLimited { retry_after: until - now });
        }
        let Some(resets) = window.resets.filter(|resets| *resets > now) else {
            (window.left, window.resets) = (None, None);
            return None;
        };
        let left = window.left?;
        if left == 0 {
            return Some(ErrorKind::RateLimited { retry_after: resets - now });
        }
        if purpose == Purpose::Background && window.quota.is_some_and(|quota| left <= quota / 10) {
            return Some(ErrorKind::BudgetSpent { retry_after: resets - now });
        }
        window.left = Some(left - 1);
        None
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Limit {
    name: String,
    left: u64,
    resets_in: Duration,
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The members of `"api";r=0;t=55` and of `"fixed window";"api";q=500;w=300`: the last quoted name and the
/// parameters.
fn member(value: &str) -> impl Iterator<Item = (&str, &str)> {
    value.split(',').filter_map(|member| {
        let mut quoted = member.rsplitn(3, '"');
        let (parameters, name) = (quoted.next()?, quoted.next()?);
        Some((name, parameters))
    })
}

fn parameter(parameters: &str, key: &str) -> Option<u64> {
    parameters.split(';').find_map(|pair| pair.trim().strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

fn parse_limit(value: &str) -> Option<Limit> {
    let (name, parameters) = member(value).next()?;
    let (left, resets_in) = (parameter(parameters, "r")?, parameter(parameters, "t")?);
    let resets_in = Duration::from_secs(resets_in.min(LONGEST_BELIEVED_S));
    Some(Limit { name: name.to_owned(), left, resets_in })
}

/// How long a 429 wants us to wait: until the window ends, else as `Retry-After` says.
pub(super) fn wait_after_429(headers: &HeaderMap) -> Duration {
    let limit = header(headers, "ratelimit").and_then(parse_limit);
    let told = limit.filter(|limit| limit.left == 0).map(|limit| limit.resets_in);
    told.or_else(|| retry_after(headers)).unwrap_or(UNTOLD_WAIT)
}

/// `Retry-After` in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = if let Ok(seconds) = value.parse::<u64>() {
        seconds
    } else {
        let date = OffsetDateTime::parse(value, &Rfc2822).ok()?;
        (date - OffsetDateTime::now_utc()).whole_seconds().try_into().unwrap_or(0)
    };
    Some(Duration::from_secs(seconds.min(LONGEST_BELIEVED_S)))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    const API: BudgetClass = BudgetClass::Api;

    fn answer(limit: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit", limit.parse().unwrap());
        headers.insert("ratelimit-policy", "\"fixed window\";\"api\";q=500;w=300".parse().unwrap());
        headers
    }

    async fn is_let_through(budget: &Budget, purpose: Purpose) -> bool {
        tokio::time::timeout(Duration::from_millis(1), budget.enter(API, purpose)).await.is_ok()
    }

    #[test]
    fn the_hubs_headers_are_read() {
        let limit = parse_limit("\"api\";r=12;t=55").unwrap();
        assert_eq!(limit, Limit { name: "api".into(), left: 12, resets_in: Duration::from_secs(55) });
        let budget = Budget::default();
        budget.note(BudgetClass::Pages, StatusCode::OK, &answer("\"api\";r=12;t=55"));
        let status = &budget.status()[0];
        assert_eq!((status.left, status.quota), (Some(12), Some(500)), "the named class is the one that counts");
        for nonsense in ["", "api;r=1;t=2", "\"api\"", "\"api\";r=x;t=1", "\"api\";r=1"] {
            assert_eq!(parse_limit(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |value: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]));
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("Sat, 23 May 2020 11:21:10 GMT"), Some(Duration::ZERO));
        assert_eq!(of("soon"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_tenth_is_kept_for_clients() {
        let budget = Budget::default();
        budget.note(API, StatusCode::OK, &answer("\"api\";r=51;t=100"));
        assert!(is_let_through(&budget, Purpose::Background).await, "51 of 500 are more than a tenth");
        assert!(!is_let_through(&budget, Purpose::Background).await);
        assert!(is_let_through(&budget, Purpose::Client).await);
        tokio::time::advance(Duration::from_secs(101)).await;
        assert!(is_let_through(&budget, Purpose::Background).await, "a new window");
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_429_one_goes_first_and_the_rest_wait_for_its_answer() {
        let budget = Arc::new(Budget::default());
        budget.note(API, StatusCode::TOO_MANY_REQUESTS, &answer("\"api\";r=0;t=20"));
        let sent = Arc::new(AtomicUsize::new(0));
        for _ in 0..10 {
            let (budget, sent) = (budget.clone(), sent.clone());
            tokio::spawn(async move {
                loop {
                    let pass = budget.enter(API, Purpose::Client).await.unwrap();
                    // The first three are turned away again.
                    if sent.fetch_add(1, Ordering::SeqCst) >= 3 {
                        budget.note(API, StatusCode::OK, &answer("\"api\";r=400;t=300"));
                        break;
                    }
                    budget.note(API, StatusCode::TOO_MANY_REQUESTS, &answer("\"api\";r=0;t=20"));
                    drop(pass);
                }
            });
        }
        for expected in [0, 1, 2, 3] {
            assert_eq!(sent.load(Ordering::SeqCst), expected);
            tokio::time::sleep(Duration::from_secs(22)).await;
        }
        assert_eq!(sent.load(Ordering::SeqCst), 13);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_leaves_the_way_free() {
        let budget = Budget::default();
        budget.note(API, StatusCode::TOO_MANY_REQUESTS, &answer("\"api\";r=0;t=20"));
        assert!(!is_let_through(&budget, Purpose::Client).await);
        tokio::time::advance(Duration::from_secs(22)).await;
        assert!(is_let_through(&budget, Purpose::Client).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_beyond_all_windows_is_an_error_that_says_how_long() {
        let budget = Budget::default();
        budget.note(API, StatusCode::TOO_MANY_REQUESTS, &answer("\"api\";r=0;t=7200"));
        let error = budget.enter(API, Purpose::Client).await.err().unwrap();
        assert!(error.retry_after().unwrap() >= Duration::from_hours(2));
    }
}
