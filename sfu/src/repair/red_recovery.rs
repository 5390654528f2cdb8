//! Recovery of lost audio packets from RED (RFC 2198).
//!
//! A publisher that sends RED mostly negotiated no NACK. For viewers without RED the redundant
//! blocks are the only repair of that track. Owns the newest sequence number and timestamp of one
//! track. A block tells its age and no sequence number, so only a block that fits exactly one
//! packet is recovered. Called by `worker/publisher.rs` for each described packet, which forwards
//! what was recovered like any other packet.

use crate::rtp::red::{RedBlock, red_blocks};

/// Longest loss in packets that is searched for; browsers repeat up to nine.
pub const RECOVERED_MAX: usize = 9;

/// A lost packet that was recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered<'a> {
    /// Extended sequence number.
    pub ext_seq: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Payload, never empty.
    pub payload: &'a [u8],
}

/// Recovery state of one incoming audio track.
#[derive(Debug, Default)]
pub struct RedRecovery {
    /// Number and timestamp of the newest packet.
    newest: Option<(u64, u32)>,
}

impl RedRecovery {
    /// Takes a packet and returns the lost packets directly before it that it contains, oldest
    /// first. `red` is its payload if it is RED.
    pub fn on_packet<'a>(
        &mut self,
        ext_seq: u64,
        timestamp: u32,
        red: Option<&'a [u8]>,
    ) -> [Option<Recovered<'a>>; RECOVERED_MAX] {
        let mut found = [None; RECOVERED_MAX];
        let before = self.newest.filter(|(newest, _)| ext_seq > *newest);
        if self.newest.is_none() || before.is_some() {
            self.newest = Some((ext_seq, timestamp));
        }
        let Some(((newest, last), red)) = before.zip(red) else { return found };
        let missing = ext_seq - newest - 1;
        let span = timestamp.wrapping_sub(last);
        if missing == 0 || missing > RECOVERED_MAX as u64 || span >= 1 << 31 {
            return found;
        }
        let within = |block: &RedBlock<'_>| (1..span).contains(&block.age);
        let Some(blocks) = red_blocks(red) else { return found };
        let lost = blocks.clone().filter(within).count() as u64;
        let numbered = (newest + 1..).zip(blocks.filter(within));
        for ((next, block), place) in numbered.zip(&mut found) {
            // As many blocks as packets are missing: they fit in order. Otherwise the packets must
            // be equally far apart in time.
            let number = match lost == missing {
                true => Some(next),
                false => steps_of(block.age, span, missing + 1).map(|back| ext_seq - back),
            };
            *place = number.filter(|_| !block.data.is_empty()).map(|ext_seq| Recovered {
                ext_seq,
                timestamp: timestamp.wrapping_sub(block.age),
                payload: block.data,
            });
        }
        found
    }
}

/// Number of steps that `age` is, if `span` is divided into `steps` equal ones; `None` unless
/// whole.
fn steps_of(age: u32, span: u32, steps: u64) -> Option<u64> {
    let (age, span) = (u64::from(age), u64::from(span));
    let step = span.checked_div(steps).filter(|step| step * steps == span)?;
    let back = age.checked_div(step)?;
    (back * step == age && (1..steps).contains(&back)).then_some(back)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RED payload with these ages; each block is one byte, its age in steps of 960.
    fn red(ages: &[u32]) -> Vec<u8> {
        let mut payload: Vec<u8> = ages
            .iter()
            .flat_map(|age| [0xef, (age >> 6) as u8, (age << 2) as u8, 1])
            .chain([111])
            .collect();
        payload.extend(ages.iter().map(|age| (age / 960) as u8));
        payload.push(0);
        payload
    }

    /// Packets recovered from this packet: number, timestamp and first byte.
    fn back(line: &mut RedRecovery, seq: u64, time: u32, ages: &[u32]) -> Vec<(u64, u32, u8)> {
        let payload = red(ages);
        let found = line.on_packet(seq, time, Some(&payload));
        found.into_iter().flatten().map(|r| (r.ext_seq, r.timestamp, r.payload[0])).collect()
    }

    fn line(seq: u64, time: u32) -> RedRecovery {
        let mut line = RedRecovery::default();
        assert_eq!(back(&mut line, seq, time, &[960]), [], "nothing is known of what was before");
        line
    }

    #[test]
    fn one_lost_packet_is_recovered_from_the_next() {
        let mut line = line(10, 9_600);
        assert_eq!(back(&mut line, 11, 10_560, &[960]), [], "nothing is missing");
        assert_eq!(back(&mut line, 13, 12_480, &[960]), [(12, 11_520, 1)]);
        assert_eq!(back(&mut line, 13, 12_480, &[960]), [], "again");
        assert_eq!(back(&mut line, 12, 11_520, &[960]), [], "late");
        assert_eq!(back(&mut line, 14, 13_440, &[960]), []);
    }

    #[test]
    fn of_two_lost_packets_the_contained_one_is_recovered() {
        let mut line = line(10, 9_600);
        assert_eq!(back(&mut line, 13, 12_480, &[960]), [(12, 11_520, 1)]);
        assert_eq!(back(&mut line, 16, 15_360, &[1_920, 960]), [(14, 13_440, 2), (15, 14_400, 1)]);
        assert_eq!(back(&mut line, 19, 18_240, &[1_920]), [(17, 16_320, 2)]);
    }

    #[test]
    fn dtx_pauses_are_resolved_by_the_block_count_alone() {
        // DTX: 400 ms after the packet before, and the lost packet 20 ms before this one.
        let mut line = line(10, 9_600);
        let now = 9_600 + 19_200;
        assert_eq!(back(&mut line, 12, now, &[960]), [(11, now - 960, 1)]);
        assert_eq!(back(&mut line, 15, now + 7_000, &[960]), [], "one of two, and which?");
        assert_eq!(back(&mut line, 17, now + 8_000, &[960]).len(), 1);
    }

    #[test]
    fn blocks_before_the_newest_or_after_the_packet_recover_nothing() {
        let mut first = line(10, 9_600);
        assert_eq!(back(&mut first, 12, 11_520, &[1_920]), [], "the newest itself");
        let mut first = line(10, 9_600);
        assert_eq!(back(&mut first, 12, 11_520, &[4_800]), [], "before it");
        let mut first = line(10, 9_600);
        assert_eq!(back(&mut first, 12, 9_600, &[960]), [], "time stood still");
        let mut first = line(10, 9_600);
        assert_eq!(back(&mut first, 12, 5_000, &[960]), [], "time went back");
        let mut first = line(10, 9_600);
        let far = 11 + RECOVERED_MAX as u64;
        assert_eq!(back(&mut first, far, 9_600 + 960 * (far as u32 - 10), &[960]).len(), 1);
        let mut first = line(10, 9_600);
        assert_eq!(
            back(&mut first, far + 1, 9_600 + 960 * (far as u32 - 9), &[960]),
            [],
            "too far"
        );
    }

    #[test]
    fn empty_blocks_and_packets_without_red_recover_nothing() {
        let mut line = line(10, 9_600);
        let empty = [0xef, 0x0f, 0x00, 0, 111, 9];
        assert_eq!(line.on_packet(12, 11_520, Some(&empty)), [None; RECOVERED_MAX]);
        assert_eq!(line.on_packet(14, 13_440, None), [None; RECOVERED_MAX]);
        assert_eq!(back(&mut line, 16, 15_360, &[960]), [(15, 14_400, 1)]);
    }

    proptest::proptest! {
        /// Whatever a publisher sends, recovered numbers and times lie between the newest packet
        /// and this one. Blocks may come in any order and repeat; the worker takes each number
        /// once.
        #[test]
        fn only_missing_packets_are_recovered(
            steps in proptest::collection::vec(
                (0u64..14, 0u32..20_000, proptest::collection::vec(0u32..1 << 14, 0..12)), 1..60),
        ) {
            let mut line = RedRecovery::default();
            let (mut seq, mut time) = (100u64, u32::MAX - 50_000);
            let mut newest: Option<(u64, u32)> = None;
            for (ahead, ticks, ages) in steps {
                seq = (seq + ahead).saturating_sub(1);
                time = time.wrapping_add(ticks);
                let found = back(&mut line, seq, time, &ages);
                for (number, at, _) in found {
                    let (_, since) = newest.expect("something was before");
                    proptest::prop_assert!(number < seq && number > newest.map_or(0, |(n, _)| n));
                    proptest::prop_assert!(at.wrapping_sub(since) < time.wrapping_sub(since));
                }
                if newest.is_none_or(|(newest, _)| seq > newest) {
                    newest = Some((seq, time));
                }
            }
        }
    }
}
