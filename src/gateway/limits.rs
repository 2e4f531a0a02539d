//! How much of the origin one client may cost: look-ups past its rate are delayed, and refused only past a
//! few seconds of delay, since many clients never try a 429 again (PROTOCOL section 6).

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::DashMapStateStore,
};
use serde::{Deserialize, Serialize};

use super::{Asker, Error, Result};

/// Longest delay before a look-up is refused instead.
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// Clients that are remembered before those with a full allowance are forgotten.
const MANY_CLIENTS: usize = 10_000;
/// How often these are looked for: it means going through all of them.
const FORGET_EVERY: Duration = Duration::from_mins(1);

/// `[limits]`: requests that cost the origin something, for each client, and what a commit may cost. What is
/// stored costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// How many requests of a client may ask the origin in a minute, in the long run.
    pub upstream_per_minute: NonZeroU32,
    /// How many may do so at once, after a quiet time.
    pub burst: NonZeroU32,
    /// How many files and folders a commit may have for its list to be fetched and kept. Past it files are
    /// served by name, and a recursive listing is an error that says so.
    pub tree_nodes: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            upstream_per_minute: NonZeroU32::MIN.saturating_add(599),
            burst: NonZeroU32::MIN.saturating_add(999),
            tree_nodes: 500_000,
        }
    }
}

/// Who shares an allowance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Client {
    Name(Arc<str>),
    /// IPv6 hosts own a /64.
    Address(IpAddr),
}

/// The allowances of all clients.
pub struct ClientLimits {
    limiter: RateLimiter<Client, DashMapStateStore<Client>, DefaultClock>,
    clock: DefaultClock,
    burst: NonZeroU32,
    /// When idle clients were last looked for.
    looked: Mutex<Instant>,
}

impl ClientLimits {
    /// Allowances as configured.
    pub fn new(config: &LimitsConfig) -> Self {
        let burst = config.burst;
        let quota = Quota::per_minute(config.upstream_per_minute).allow_burst(burst);
        let limiter = RateLimiter::dashmap(quota);
        Self { limiter, clock: DefaultClock::default(), burst, looked: Mutex::new(Instant::now()) }
    }

    /// What `asker` pays for a look-up of so many requests to the origin, at most its whole allowance. Jobs that
    /// can wait have limits of their own.
    pub(super) fn fare<'a>(&'a self, asker: &'a Asker, requests: usize) -> Fare<'a> {
        let requests = u32::try_from(requests).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let of = (!asker.background).then(|| (self, asker, requests.min(self.burst)));
        Fare { of, waited: Duration::ZERO }
    }

    /// Takes what a look-up has cost beyond its fare, in as many pieces as it takes: whoever did it waits until the
    /// allowance has it.
    pub(super) async fn settle(&self, asker: &Asker, mut requests: usize) {
        while !asker.background && requests > 0 {
            let some = requests.min(self.burst.get() as usize);
            let Some(count) = u32::try_from(some).ok().and_then(NonZeroU32::new) else { return };
            while let Err(not_yet) = self.take(asker, count) {
                tokio::time::sleep(not_yet).await;
            }
            requests -= some;
        }
    }

    /// Takes requests from a client's allowance; else how long until they are there.
    fn take(&self, asker: &Asker, requests: NonZeroU32) -> std::result::Result<(), Duration> {
        self.forget_idle(Instant::now());
        match self.limiter.check_key_n(&client(asker), requests) {
            Ok(Err(not_yet)) => Err(not_yet.wait_time_from(self.clock.now())),
            // No more is ever asked for than fits.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Forgets clients with a full allowance, if it is time to; says whether it was.
    fn forget_idle(&self, now: Instant) -> bool {
        let Ok(mut looked) = self.looked.try_lock() else { return false };
        if now.saturating_duration_since(*looked) < FORGET_EVERY {
            return false;
        }
        *looked = now;
        drop(looked);
        if self.limiter.len() > MANY_CLIENTS {
            self.limiter.retain_recent();
        }
        true
    }
}

/// What a look-up costs the one who begins it.
#[derive(Debug)]
pub(super) struct Fare<'a> {
    of: Option<(&'a ClientLimits, &'a Asker, NonZeroU32)>,
    waited: Duration,
}

impl Fare<'_> {
    /// For what somebody has paid for already.
    pub(super) fn free() -> Self {
        Self { of: None, waited: Duration::ZERO }
    }

    /// Pays; else says how long to wait before the next try.
    pub(super) fn take(&self) -> std::result::Result<(), Duration> {
        self.of.map_or(Ok(()), |(limits, asker, requests)| limits.take(asker, requests))
    }

    /// Waits for the next try.
    ///
    /// # Errors
    /// [`Error::Busy`] where that would take too long.
    pub(super) async fn wait(&mut self, wait: Duration) -> Result<()> {
        if self.waited + wait > LONGEST_DELAY {
            let who = self.of.map(|(_, asker, _)| asker.label()).unwrap_or_default();
            return Err(Error::Busy {
                why: format!("{who} asks for more that is not stored than limits.upstream_per_minute allows"),
                retry_after: wait,
            });
        }
        self.waited += wait;
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

impl std::fmt::Debug for ClientLimits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientLimits").field("clients", &self.limiter.len()).finish_non_exhaustive()
    }
}

fn client(asker: &Asker) -> Client {
    match (&asker.name, asker.address) {
        (Some(name), _) => Client::Name(name.clone()),
        (None, IpAddr::V6(address)) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Client::Address(IpAddr::V6(Ipv6Addr::from_bits(network)))
        }
        (None, address) => Client::Address(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(address: &str, name: Option<&str>) -> Asker {
        Asker { address: address.parse().unwrap(), name: name.map(Into::into), background: false }
    }

    fn limits(per_minute: u32, burst: u32) -> ClientLimits {
        ClientLimits::new(&LimitsConfig {
            upstream_per_minute: per_minute.try_into().unwrap(),
            burst: burst.try_into().unwrap(),
            ..LimitsConfig::default()
        })
    }

    /// Pays as one who begins a look-up of so many requests.
    async fn pay(limits: &ClientLimits, asker: &Asker, requests: usize) -> Result<()> {
        let mut fare = limits.fare(asker, requests);
        while let Err(wait) = fare.take() {
            fare.wait(wait).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn past_its_burst_a_client_is_told_when_to_come_back_and_others_are_not() {
        let limits = limits(1, 2);
        let one = asker("10.0.0.1", None);
        pay(&limits, &one, 1).await.unwrap();
        pay(&limits, &one, 1).await.unwrap();
        let Err(Error::Busy { retry_after, .. }) = pay(&limits, &one, 1).await else { panic!("admitted") };
        assert!((30..=60).contains(&retry_after.as_secs()), "{retry_after:?}");
        pay(&limits, &asker("10.0.0.2", None), 1).await.unwrap();
        pay(&limits, &asker("10.0.0.1", Some("ci")), 1).await.unwrap();
        pay(&limits, &Asker { background: true, ..one }, 1).await.unwrap();
    }

    #[tokio::test]
    async fn a_short_wait_is_a_delay_not_a_refusal() {
        let limits = limits(60 * 200, 1);
        for _ in 0..20 {
            pay(&limits, &asker("10.0.0.1", None), 1).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_look_up_of_many_requests_costs_as_many_and_never_more_than_there_are() {
        let limits = limits(1, 50);
        let one = asker("10.0.0.1", None);
        pay(&limits, &one, 40).await.unwrap();
        assert!(pay(&limits, &one, 40).await.is_err(), "ten are left");
        pay(&limits, &one, 10).await.unwrap();
        pay(&limits, &asker("10.0.0.2", None), 1000).await.unwrap();
    }

    #[test]
    fn idle_clients_are_looked_for_once_a_minute() {
        let limits = limits(60 * 200, 1);
        let start = Instant::now();
        assert!(!limits.forget_idle(start));
        assert!(limits.forget_idle(start + FORGET_EVERY + Duration::from_secs(1)));
        assert!(!limits.forget_idle(start + FORGET_EVERY + Duration::from_secs(59)));
        assert!(limits.forget_idle(start + FORGET_EVERY + Duration::from_secs(62)));
    }

    #[test]
    fn ipv6_clients_of_one_network_share_an_allowance() {
        assert_eq!(client(&asker("2001:db8::1", None)), client(&asker("2001:db8::ffff", None)));
        assert_ne!(client(&asker("2001:db8::1", None)), client(&asker("2001:db8:0:1::1", None)));
    }
}
