//! How much of the origin one client may cost: look-ups past its rate are delayed, and refused only past a
//! few seconds of delay, since many clients never try a 429 again (PROTOCOL section 6).

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
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
}

impl ClientLimits {
    /// Allowances as configured.
    pub fn new(config: &LimitsConfig) -> Self {
        let quota = Quota::per_minute(config.upstream_per_minute).allow_burst(config.burst);
        Self { limiter: RateLimiter::dashmap(quota), clock: DefaultClock::default() }
    }

    /// Waits until this asker may cost the origin one request more. Jobs that can wait have limits of their
    /// own.
    ///
    /// # Errors
    /// [`Error::Busy`] where it would have to wait too long.
    pub async fn admit(&self, asker: &Asker) -> Result<()> {
        if asker.background {
            return Ok(());
        }
        let client = client(asker);
        let mut waited = Duration::ZERO;
        while let Err(not_yet) = self.limiter.check_key(&client) {
            let wait = not_yet.wait_time_from(self.clock.now());
            if waited + wait > LONGEST_DELAY {
                return Err(Error::Busy {
                    why: format!(
                        "{} asks for more that is not stored than limits.upstream_per_minute allows",
                        asker.label()
                    ),
                    retry_after: wait,
                });
            }
            waited += wait;
            tokio::time::sleep(wait).await;
        }
        self.forget_idle();
        Ok(())
    }

    fn forget_idle(&self) {
        if self.limiter.len() > MANY_CLIENTS {
            self.limiter.retain_recent();
        }
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

    #[tokio::test]
    async fn past_its_burst_a_client_is_told_when_to_come_back_and_others_are_not() {
        let limits = limits(1, 2);
        let one = asker("10.0.0.1", None);
        limits.admit(&one).await.unwrap();
        limits.admit(&one).await.unwrap();
        let Err(Error::Busy { retry_after, .. }) = limits.admit(&one).await else { panic!("admitted") };
        assert!((30..=60).contains(&retry_after.as_secs()), "{retry_after:?}");
        limits.admit(&asker("10.0.0.2", None)).await.unwrap();
        limits.admit(&asker("10.0.0.1", Some("ci"))).await.unwrap();
        limits.admit(&Asker { background: true, ..one }).await.unwrap();
    }

    #[tokio::test]
    async fn a_short_wait_is_a_delay_not_a_refusal() {
        let limits = limits(60 * 200, 1);
        for _ in 0..20 {
            limits.admit(&asker("10.0.0.1", None)).await.unwrap();
        }
    }

    #[test]
    fn ipv6_clients_of_one_network_share_an_allowance() {
        assert_eq!(client(&asker("2001:db8::1", None)), client(&asker("2001:db8::ffff", None)));
        assert_ne!(client(&asker("2001:db8::1", None)), client(&asker("2001:db8:0:1::1", None)));
    }
}
