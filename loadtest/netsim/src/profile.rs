//! What a link does to datagrams: numbers with units, and their form as one line of text.
//!
//! Read by `link.rs`; written by tests, by scenario tables and on the relay's command line.

use std::str::FromStr;
use std::time::Duration;

use crate::{Loss, Trace};

/// A queue of so many bytes unless told otherwise: 300 ms at 4 Mbit/s.
const QUEUE_BYTES: u32 = 150_000;

/// How much later a reordered datagram comes unless told otherwise.
const REORDER_BY: Duration = Duration::from_millis(20);

/// Delays above this are mistakes.
const DELAY_MAX_MS: f64 = 60_000.0;

/// The impairments of one direction, in the order in which a datagram meets them.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Largest IP packet in bytes; larger datagrams vanish, as behind a router that sends no word.
    pub mtu: u32,
    /// Drops what comes faster, without a queue.
    pub police: Option<Policer>,
    /// How fast the queue is emptied; `None`: at once.
    pub rate: Option<Trace>,
    /// Bytes that may wait (with the one that is leaving) before the tail is dropped. Propagation is not counted.
    pub queue_bytes: u32,
    /// Loss behind the queue: what is lost has used its share of the rate.
    pub loss: Loss,
    /// Share (0 to 1) of datagrams that come twice, one right after the other.
    pub duplicate: f64,
    /// Propagation.
    pub delay: Duration,
    /// On top of the delay: 0 to this, normal around its half and cut off at three deviations (RFC 8868, 4.5).
    pub jitter: Duration,
    /// Jitter may turn datagrams around (RBPDV); else one that would overtake waits (NR-BPDV).
    pub jitter_reorders: bool,
    /// Share (0 to 1) of datagrams that come [`Self::reorder_by`] later than their turn.
    pub reorder: f64,
    /// How much later.
    pub reorder_by: Duration,
}

/// A token bucket without a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policer {
    /// Tokens, in bits per second.
    pub bits_per_s: u64,
    /// Size of the bucket in bytes.
    pub burst_bytes: u32,
}

impl Default for Profile {
    /// A perfect link.
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
    /// Nothing but delay.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// The keys of the text form with their units, for help texts.
    pub const KEYS: &'static str = "\
delay=MS, jitter=MS (order is kept), jitter-reorder=MS, loss=PERCENT, burst=PACKETS (mean length of a loss burst, with \
loss), reorder=PERCENT, reorder-by=MS (20), duplicate=PERCENT, rate=KBPS, queue=BYTES (150000, with rate), police=KBPS, \
police-burst=BYTES (16000, with police), mtu=BYTES (1500)";
}

impl FromStr for Profile {
    type Err = String;

    /// Reads `key=value,key=value`; see [`Self::KEYS`]. The empty text is a perfect link.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut profile = Self::default();
        let (mut loss, mut burst, mut police_burst) = (0.0, None, None);
        let mut seen: Vec<&str> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) =
                part.split_once('=').ok_or(format!("{part}: KEY=VALUE is wanted"))?;
            if seen.contains(&key) {
                return Err(format!("{key} stands twice"));
            }
            seen.push(key);
            let number = |max: f64| match value.parse::<f64>() {
                Ok(number) if (0.0..=max).contains(&number) => Ok(number),
                _ => Err(format!("{key}={value}: a number from 0 to {max} is wanted")),
            };
            let share = || Ok::<_, String>(number(100.0)? / 100.0);
            let time = || Ok::<_, String>(Duration::from_secs_f64(number(DELAY_MAX_MS)? / 1e3));
            let bits = || match number(1e8)? * 1e3 {
                bits if bits >= 1_000.0 => Ok(bits as u64),
                _ => Err(format!("{key}={value}: at least 1 kbit/s")),
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
                _ => return Err(format!("{key} is not known; there are: {}", Self::KEYS)),
            }
        }
        if let (Some(police), Some(bytes)) = (&mut profile.police, police_burst) {
            police.burst_bytes = bytes;
        }
        for (key, with) in [("burst", "loss"), ("police-burst", "police")] {
            if seen.contains(&key) && !seen.contains(&with) {
                return Err(format!("{key} is of no use without {with}"));
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
    fn every_key_is_read_in_its_unit() {
        let text = "delay=50,jitter=30,loss=2,burst=8,reorder=5,reorder-by=12.5,duplicate=1,\
                    rate=4000,queue=64000,police-burst=9000,police=1000,mtu=1280";
        let profile: Profile = text.parse().expect("a sound profile");
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
    fn what_makes_no_sense_is_refused_by_name() {
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
