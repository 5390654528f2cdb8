//! A rate that changes over time, and its two text forms.
//!
//! Never opens a file: the caller reads the text. Called by `link` for each datagram.

use std::time::Duration;

/// Maximum steps of one trace. A longer text is refused.
const STEPS_MAX: usize = 100_000;

/// Bits that one line of a Mahimahi trace lets pass.
const OPPORTUNITY_BITS: u64 = 1_500 * 8;

/// Length of the spans over which the lines of a Mahimahi trace are summed.
const BIN_MS: u64 = 10;

/// A rate in bits per second as a function of the time since the link began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Time from which a rate holds, and the rate. The first time is 0, and times increase.
    steps: Vec<(Duration, u64)>,
    /// Time after which the trace starts again.
    period: Option<Duration>,
}

impl Trace {
    /// A constant rate in bits per second (at least 1,000).
    #[must_use]
    pub fn constant(bits_per_s: u64) -> Self {
        Self { steps: vec![(Duration::ZERO, bits_per_s.max(1_000))], period: None }
    }

    /// Parses a trace. There are two forms; `#` begins a comment in both.
    ///
    /// *Steps*: each line has a time in ms, and the rate in kbit/s from then on (0 is an outage:
    /// datagrams wait). The first time is 0. A last line `MS repeat` makes the trace start again at
    /// that time.
    ///
    /// ```text
    /// 0      4000
    /// 10000  800     # ten seconds in, the rate falls
    /// 20000  4000
    /// 30000  repeat
    /// ```
    ///
    /// *Mahimahi*: each line has one number, a time in ms at which 1,500 bytes may pass. The last
    /// time is the period. The lines are converted to a rate over spans of 10 ms.
    ///
    /// # Errors
    /// What is wrong, with the number of the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lines = (1..).zip(text.lines().map(|line| line.split('#').next().unwrap_or_default()));
        let words: Vec<(usize, Vec<&str>)> = lines
            .map(|(number, line)| (number, line.split_whitespace().collect::<Vec<_>>()))
            .filter(|(_, words)| !words.is_empty())
            .collect();
        if words.is_empty() {
            return Err("the trace is empty".to_owned());
        }
        if words.len() > STEPS_MAX {
            return Err(format!("more than {STEPS_MAX} lines"));
        }
        if words.iter().all(|(_, words)| words.len() == 1) {
            Self::mahimahi(&words)
        } else {
            Self::steps(&words)
        }
    }

    fn steps(lines: &[(usize, Vec<&str>)]) -> Result<Self, String> {
        let mut trace = Self { steps: Vec::new(), period: None };
        let mut last = None;
        for (number, words) in lines {
            let &[at, rate] = &words[..] else {
                return Err(format!("line {number}: expected a time in ms and a rate in kbit/s"));
            };
            if trace.period.is_some() {
                return Err(format!("line {number}: no line may follow `repeat`"));
            }
            let at = Duration::from_millis(number_of(*number, at)?);
            if last.map_or(!at.is_zero(), |last| at <= last) {
                return Err(format!("line {number}: times must begin at 0 and increase"));
            }
            last = Some(at);
            if rate == "repeat" {
                trace.period = Some(at);
                continue;
            }
            let kbps = number_of(*number, rate)?;
            let bits = kbps.checked_mul(1_000).filter(|bits| *bits <= RATE_MAX);
            trace.steps.push((
                at,
                bits.ok_or(format!("line {number}: {kbps} is above the maximum rate"))?,
            ));
        }
        trace.checked()
    }

    fn mahimahi(lines: &[(usize, Vec<&str>)]) -> Result<Self, String> {
        let mut bins: Vec<u64> = Vec::new();
        let mut last = 0;
        for (number, words) in lines {
            let at = number_of(*number, words[0])?;
            if at < last {
                return Err(format!("line {number}: times must not decrease"));
            }
            last = at;
            // A time at the end of a span belongs to that span, because times begin at 1.
            let bin = usize::try_from(at.saturating_sub(1) / BIN_MS).unwrap_or(usize::MAX);
            if bin >= STEPS_MAX {
                return Err(format!("line {number}: longer than {} s", STEPS_MAX / 100));
            }
            bins.resize(bins.len().max(bin + 1), 0);
            bins[bin] += OPPORTUNITY_BITS * 1_000 / BIN_MS;
        }
        let steps = (0..).zip(bins).map(|(n, rate)| (Duration::from_millis(n * BIN_MS), rate));
        let steps: Vec<_> = steps.collect();
        let period = Duration::from_millis(steps.len() as u64 * BIN_MS);
        Self { steps, period: Some(period) }.checked()
    }

    /// Refuses a trace in which a datagram might wait for ever.
    fn checked(self) -> Result<Self, String> {
        let always_continues = match self.period {
            Some(_) => self.steps.iter().any(|(_, rate)| *rate > 0),
            None => self.steps.last().is_some_and(|(_, rate)| *rate > 0),
        };
        if always_continues {
            Ok(self)
        } else {
            Err("a trace must end with a rate above 0, or repeat one".to_owned())
        }
    }

    /// When the last of `bits` has left, if the first leaves at `from`.
    pub(crate) fn departure(&self, from: Duration, bits: u64) -> Duration {
        let mut at = from;
        let mut left = u128::from(bits) * NS_PER_S;
        loop {
            let (rate, until) = self.step(at);
            let span = until.map(|until| until.saturating_sub(at));
            let done = span.map_or(u128::MAX, |span| span.as_nanos().saturating_mul(rate.into()));
            if rate > 0 && done >= left {
                let ns = left.div_ceil(rate.into());
                return at + Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX));
            }
            // `checked` ensures that a rate above 0 follows.
            at = until.unwrap_or(Duration::MAX);
            left = left.saturating_sub(done);
        }
    }

    /// The rate at the time `at`, and until when it holds.
    fn step(&self, at: Duration) -> (u64, Option<Duration>) {
        let into = match self.period.map(|period| period.as_nanos()) {
            Some(period) if period > 0 => nanos(at.as_nanos() % period),
            _ => at,
        };
        let round = at.saturating_sub(into);
        let next = self.steps.partition_point(|(from, _)| *from <= into);
        let rate = next.checked_sub(1).and_then(|now| self.steps.get(now)).map_or(0, |step| step.1);
        let until = self.steps.get(next).map(|step| step.0).or(self.period);
        (rate, until.map(|until| round + until))
    }
}

const NS_PER_S: u128 = 1_000_000_000;

/// Maximum rate in bits per second.
const RATE_MAX: u64 = 100_000_000_000;

fn nanos(ns: u128) -> Duration {
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

fn number_of(line: usize, word: &str) -> Result<u64, String> {
    // Eleven days in ms, or 1 Tbit/s in kbit/s. More is probably a mistake.
    let number = word.parse::<u64>().ok().filter(|number| *number <= 1_000_000_000);
    number.ok_or(format!("line {line}: {word:?} is not a number from 0 to 1000000000"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn steps_apply_and_datagrams_wait_during_an_outage() {
        let trace = Trace::parse("# two seconds\n0 1000\n1000 0\n1500 2000 # back\n2000 repeat\n");
        let trace = trace.expect("a valid trace");
        assert_eq!(trace.departure(ms(0), 10_000), ms(10));
        // Half before the outage, half after it at twice the rate.
        assert_eq!(trace.departure(ms(990), 20_000), ms(1_505));
        // Across the end of the period.
        assert_eq!(trace.departure(ms(1_990), 30_000), ms(2_010));
        assert_eq!((trace.step(ms(3_200)).0, trace.step(ms(3_700)).0), (0, 2_000_000));
    }

    #[test]
    fn mahimahi_trace_becomes_a_rate() {
        // One packet each ms for 100 ms, then none for 100 ms.
        let text: String = (1..=100).chain([200]).map(|ms| format!("{ms}\n")).collect();
        let trace = Trace::parse(&text).expect("a valid trace");
        assert_eq!(trace.step(ms(50)).0, 12_000_000);
        assert_eq!(trace.step(ms(150)).0, 0);
        assert_eq!(trace.step(ms(250)).0, 12_000_000);
        assert_eq!(trace.departure(ms(0), 12_000 * 100), ms(100));
    }

    #[test]
    fn invalid_traces_are_refused_with_the_line() {
        for (text, word) in [
            ("", "empty"),
            ("0 1000\n5 x", "line 2"),
            ("5 1000\n6 1000", "line 1"),
            ("0 1000\n0 2000", "line 2"),
            ("0 1000\n9 repeat\n10 1", "line 3"),
            ("0 1000\n10 0", "above 0"),
            ("0 0\n10 repeat", "above 0"),
            ("0 1000 7", "line 1"),
            ("7\n3", "line 2"),
            ("9999999999", "line 1"),
        ] {
            let error = Trace::parse(text).expect_err(text);
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }
}
