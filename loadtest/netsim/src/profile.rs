//! The impairments of a link, and their text form.
//!
//! Read by `link`. Written by tests, by scenario tables, and on the relay's command line.

use std::str::FromStr;
use std::time::Duration;

use crate::{Loss, Trace};

/// Default size of the queue in bytes: 300 ms at 4 Mbit/s.
const QUEUE_BYTES: u32 = 150_000;

/// Default delay of a reordered datagram.
const REORDER_BY: Duration = Duration::from_millis(20);

/// Maximum delay. Larger values are refused, because they are probably mistakes.
const DELAY_MAX_MS: f64 = 60_000.0;

/// The impairments of one direction, in the order in which they apply to a datagram.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Maximum IP packet in bytes. Larger datagrams are dropped without an ICMP error, as by some
    /// routers.
    pub mtu: u32,
    /// Drops datagrams above a rate, without a queue.
    pub police: Option<Policer>,
    /// Rate at which datagrams leave the queue; `None` if they leave at once.
    pub rate: Option<Trace>,
    /// Maximum bytes in the queue, the leaving datagram included. Above it new datagrams are
    /// dropped. Datagrams that have left the queue and propagate are not counted.
    pub queue_bytes: u32,
    /// Loss after the queue: a lost datagram has used its share of the rate.
    pub loss: Loss,
    /// Share (0 to 1) of datagrams that arrive twice, one immediately after the other.
    pub duplicate: f64,
    /// Propagation delay.
    pub delay: Duration,
    /// Additional delay of 0 to this value. It is normally distributed around half of it, and cut
    /// off at three standard deviations (RFC 8868 section 4.5).
    pub jitter: Duration,
    /// Whether jitter may change the order (RBPDV). If not, a datagram that would overtake another
    /// waits (NR-BPDV).
    pub jitter_reorders: bool,
    /// Share (0 to 1) of datagrams that arrive [`Self::reorder_by`] late.
    pub reorder: f64,
    /// Delay of reordered datagrams.
    pub reorder_by: Duration,
}

/// A token bucket without a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policer {
    /// Rate in bits per second.
    pub bits_per_s: u64,
    /// Size of the bucket in bytes.
    pub burst_bytes: u32,
}

impl Default for Profile {
    /// A link without impairments.
    fn default() -> Self {
        Self {
            mtu: 1_500,
            police: None,
            rate: None,
            queue_bytes: QUEUE_BYTES,
            loss: Loss::None,
            duplicate: 0.0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            jitter_reorders: false,
            reorder: 0.0,
            reorder_by: REORDER_BY,
        }
    }
}

impl Profile {
    /// A link with delay only.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// The keys of the text form with their units, for error messages.
    const KEYS: &'static str = "\
delay=MS, jitter=MS (order is kept), jitter-reorder=MS, loss=PERCENT, burst=PACKETS (mean length of a loss burst, with \
loss), reorder=PERCENT, reorder-by=MS (20), duplicate=PERCENT, rate=KBPS, queue=BYTES (150000, with rate), police=KBPS, \
police-burst=BYTES (16000, with police), mtu=BYTES (1500)";
}

impl FromStr for Profile {
    type Err = String;

    /// Parses `key=value,key=value`, in the units of `Self::KEYS`. The empty text is a link without
    /// impairments.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut profile = Self::default();
        let (mut loss, mut burst, mut police_burst) = (0.0, None, None);
        let mut seen: Vec<&str> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or(format!("{part}: expected KEY=VALUE"))?;
            if seen.contains(&key) {
                return Err(format!("{key} is given twice"));
            }
            seen.push(key);
            let number = |max: f64| match value.parse::<f64>() {
                Ok(number) if (0.0..=max).contains(&number) => Ok(number),
                _ => Err(format!("{key}={value}: expected a number from 0 to {max}")),
            };
            let share = || Ok::<_, String>(number(100.0)? / 100.0);
            let time = || Ok::<_, String>(Duration::from_secs_f64(number(DELAY_MAX_MS)? / 1e3));
            let bits = || match number(1e8)? * 1e3 {
                bits if bits >= 1_000.0 => Ok(bits as u64),
                _ => Err(format!("{key}={value}: expected at least 1 kbit/s")),
            };
            let bytes = || Ok::<_, String>(number(1e9)? as u32);
            match key {
                "delay" => profile.delay = time()?,
                "jitter" | "jitter-reorder" => {
                    profile.jitter = time()?;
                    profile.jitter_reorders = key == "jitter-reorder";
                }
                "loss" => loss = share()?,
                "burst" => burst = Some(number(10_000.0)?),
                "reorder" => profile.reorder = share()?,
                "reorder-by" => profile.reorder_by = time()?,
                "duplicate" => profile.duplicate = share()?,
                "rate" => profile.rate = Some(Trace::constant(bits()?)),
                "queue" => profile.queue_bytes = bytes()?,
                "police" => {
                    let burst_bytes = police_burst.unwrap_or(16_000);
                    profile.police = Some(Policer { bits_per_s: bits()?, burst_bytes });
                }
                "police-burst" => police_burst = Some(bytes()?),
                "mtu" => profile.mtu = bytes()?,
                _ => return Err(format!("{key} is unknown; known keys: {}", Self::KEYS)),
            }
        }
        if let (Some(police), Some(bytes)) = (&mut profile.police, police_burst) {
            police.burst_bytes = bytes;
        }
        for (key, with) in [("burst", "loss"), ("police-burst", "police")] {
            if seen.contains(&key) && !seen.contains(&with) {
                return Err(format!("{key} needs {with}"));
            }
        }
        profile.loss = match burst {
            _ if loss == 0.0 => Loss::None,
            Some(_) if loss == 1.0 => Loss::Random(1.0),
            Some(length) => Loss::bursts(loss, length),
            None => Loss::Random(loss),
        };
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_parsed_in_its_unit() {
        let text = "delay=50,jitter=30,loss=2,burst=8,reorder=5,reorder-by=12.5,duplicate=1,\
                    rate=4000,queue=64000,police-burst=9000,police=1000,mtu=1280";
        let profile: Profile = text.parse().expect("a valid profile");
        let expected = Profile {
            mtu: 1_280,
            police: Some(Policer { bits_per_s: 1_000_000, burst_bytes: 9_000 }),
            rate: Some(Trace::constant(4_000_000)),
            queue_bytes: 64_000,
            loss: Loss::bursts(0.02, 8.0),
            duplicate: 0.01,
            delay: Duration::from_millis(50),
            jitter: Duration::from_millis(30),
            jitter_reorders: false,
            reorder: 0.05,
            reorder_by: Duration::from_micros(12_500),
        };
        assert_eq!(profile, expected);
        assert_eq!("".parse(), Ok(Profile::default()));
        assert!("jitter-reorder=5".parse::<Profile>().is_ok_and(|p| p.jitter_reorders));
    }

    #[test]
    fn invalid_profiles_are_refused_with_the_key() {
        for text in [
            "loss",
            "loss=101",
            "loss=-1",
            "loss=NaN",
            "rate=0",
            "burst=3",
            "police-burst=1",
            "x=1",
            "delay=1,delay=2",
        ] {
            let key = text.split('=').next().unwrap_or_default();
            let error = text.parse::<Profile>().expect_err(text);
            assert!(error.contains(key), "{text}: {error}");
        }
    }
}
