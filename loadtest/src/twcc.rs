//! Transport-wide congestion feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01): arrival
//! times of a connection's packets.
//!
//! Pure. Takes the sequence numbers of the header extension, returns RTCP packets. Called by
//! `viewer`.

use std::time::{Duration, Instant};

/// Time between two feedback packets. It is the initial value of libwebrtc, and two or three frames
/// at common rates.
const INTERVAL: Duration = Duration::from_millis(100);

/// Maximum arrivals in one feedback packet. At the limit the packet is due at once.
const ARRIVALS_MAX: usize = 512;

/// Maximum range of sequence numbers in one packet. A report after a larger jump begins behind the
/// jump.
const SPAN_MAX: i64 = 2000;

/// Resolution of arrival times.
const TICK_US: i64 = 250;

/// Resolution of the reference time, in ticks: 64 ms.
const BASE_TICKS: i64 = 256;

/// Minimum length of a run of equal symbols that is written as run-length chunk.
const RUN_MIN: usize = 8;

/// Symbols in one status vector chunk, two bits each.
const VECTOR_SYMBOLS: usize = 7;

const MISSING: u16 = 0;
const SMALL: u16 = 1;
const LARGE: u16 = 2;

/// Arrival times of one connection that are not yet reported.
#[derive(Debug)]
pub(crate) struct TwccReporter {
    /// Unwrapped sequence number, and arrival in microseconds of this crate's clock.
    arrivals: Vec<(i64, i64)>,
    newest: Option<i64>,
    /// First sequence number of the next report.
    next: i64,
    due: Option<Instant>,
    count: u8,
}

impl TwccReporter {
    /// A reporter without arrivals.
    pub(crate) fn new() -> Self {
        Self { arrivals: Vec::new(), newest: None, next: 0, due: None, count: 0 }
    }

    /// Notes the arrival of packet `number`.
    pub(crate) fn on_packet(&mut self, now: Instant, number: u16) {
        let unwrapped = match self.newest {
            None => {
                self.next = i64::from(number);
                i64::from(number)
            }
            // The low 16 bits of the distance, as a signed number.
            Some(newest) => newest + i64::from(number.wrapping_sub(newest as u16) as i16),
        };
        self.newest = Some(self.newest.map_or(unwrapped, |newest| newest.max(unwrapped)));
        let due = *self.due.get_or_insert(now + INTERVAL);
        if self.arrivals.len() < ARRIVALS_MAX {
            self.arrivals.push((unwrapped, crate::clock::since_start_us(now) as i64));
        }
        if self.arrivals.len() == ARRIVALS_MAX {
            self.due = Some(due.min(now));
        }
    }

    /// When [`Self::report`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// The feedback as one RTCP packet, if it is due.
    pub(crate) fn report(
        &mut self,
        now: Instant,
        sender_ssrc: u32,
        media_ssrc: u32,
    ) -> Option<Vec<u8>> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        self.due = None;
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.sort_unstable();
        arrivals.dedup_by_key(|(number, _)| *number);
        // A packet that arrives after it was reported missing is not reported again.
        let (first, last) = {
            let reported = arrivals.partition_point(|(number, _)| *number < self.next);
            arrivals.drain(..reported);
            (arrivals.first()?.0, arrivals.last()?.0)
        };
        let base = if last - self.next < SPAN_MAX { self.next } else { first.max(last - SPAN_MAX) };
        arrivals.retain(|(number, _)| *number >= base);
        self.next = last + 1;
        let (symbols, deltas, reference) = statuses(base, last, &arrivals)?;
        let mut packet = vec![0x80 | 15, 205, 0, 0];
        packet.extend_from_slice(&sender_ssrc.to_be_bytes());
        packet.extend_from_slice(&media_ssrc.to_be_bytes());
        packet.extend_from_slice(&(base as u16).to_be_bytes());
        packet.extend_from_slice(&(symbols.len() as u16).to_be_bytes());
        packet.extend_from_slice(&reference.to_be_bytes()[1..]);
        packet.push(self.count);
        self.count = self.count.wrapping_add(1);
        chunks(&symbols, &mut packet);
        packet.extend_from_slice(&deltas);
        let padding = packet.len().next_multiple_of(4) - packet.len();
        if padding > 0 {
            packet.resize(packet.len() + padding, 0);
            packet[0] |= 0x20;
            let end = packet.len() - 1;
            packet[end] = padding as u8;
        }
        let words = (packet.len() / 4 - 1) as u16;
        packet[2..4].copy_from_slice(&words.to_be_bytes());
        Some(packet)
    }
}

/// One symbol for each sequence number from `base` to `last`, the receive deltas, and the reference
/// time in units of 64 ms.
fn statuses(base: i64, last: i64, arrivals: &[(i64, i64)]) -> Option<(Vec<u16>, Vec<u8>, u32)> {
    let earliest = arrivals.iter().map(|(_, at)| *at).min()?;
    let reference = earliest / TICK_US / BASE_TICKS;
    let mut before = reference * BASE_TICKS;
    let (mut symbols, mut deltas) = (Vec::new(), Vec::new());
    let mut received = arrivals.iter().peekable();
    for number in base..=last {
        let Some((_, at)) = received.next_if(|(arrived, _)| *arrived == number) else {
            symbols.push(MISSING);
            continue;
        };
        // Two packets of one report are never eight seconds apart.
        let delta = (at / TICK_US - before).clamp(i64::from(i16::MIN), i64::from(i16::MAX));
        before += delta;
        if let Ok(small) = u8::try_from(delta) {
            symbols.push(SMALL);
            deltas.push(small);
        } else {
            symbols.push(LARGE);
            deltas.extend_from_slice(&(delta as i16).to_be_bytes());
        }
    }
    // The field has 24 bits; it wraps after twelve days.
    Some((symbols, deltas, (reference & 0xff_ffff) as u32))
}

fn chunks(mut symbols: &[u16], packet: &mut Vec<u8>) {
    while let Some(first) = symbols.first() {
        let run = symbols.iter().take_while(|symbol| *symbol == first).count();
        let (chunk, written) = if run >= RUN_MIN || run == symbols.len() {
            let run = run.min(0x1fff);
            ((first << 13) | run as u16, run)
        } else {
            let written = symbols.len().min(VECTOR_SYMBOLS);
            let vector = symbols.iter().take(written).enumerate();
            (vector.fold(0xc000, |chunk, (n, symbol)| chunk | (symbol << (12 - 2 * n))), written)
        };
        packet.extend_from_slice(&chunk.to_be_bytes());
        symbols = symbols.get(written..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use rtc_rtcp::transport_feedbacks::transport_layer_cc::{
        PacketStatusChunk, SymbolTypeTcc, TransportLayerCc,
    };

    /// What an independent parser reads from a report: received sequence numbers, and their times
    /// in ms since the first.
    fn read(packet: Vec<u8>) -> Vec<(u16, i64)> {
        let mut bytes = Bytes::from(packet);
        let all = rtc_rtcp::packet::unmarshal(&mut bytes).expect("is RTCP");
        let report = all[0].as_any().downcast_ref::<TransportLayerCc>().expect("is feedback");
        let mut symbols = Vec::new();
        for chunk in &report.packet_chunks {
            match chunk {
                PacketStatusChunk::RunLengthChunk(run) => symbols
                    .extend(std::iter::repeat_n(run.packet_status_symbol, run.run_length.into())),
                PacketStatusChunk::StatusVectorChunk(vector) => {
                    symbols.extend(&vector.symbol_list);
                }
            }
        }
        symbols.truncate(report.packet_status_count.into());
        let mut deltas = report.recv_deltas.iter();
        let mut at = i64::from(report.reference_time) * 64_000;
        let mut seen = Vec::new();
        for (n, symbol) in symbols.into_iter().enumerate() {
            if symbol != SymbolTypeTcc::PacketNotReceived {
                at += deltas.next().expect("each received packet has a delta").delta;
                seen.push((report.base_sequence_number.wrapping_add(n as u16), at));
            }
        }
        assert!(deltas.next().is_none());
        let first = seen[0].1;
        seen.into_iter().map(|(number, at)| (number, (at - first) / 1000)).collect()
    }

    #[test]
    fn independent_parser_reads_arrivals_and_gaps() {
        let mut twcc = TwccReporter::new();
        let start = Instant::now() + Duration::from_secs(1);
        let at = |ms| start + Duration::from_millis(ms);
        // Numbers are lost, out of order and late, and they wrap.
        for (number, ms) in
            [(65_533, 0), (65_534, 1), (0, 5), (65_535, 6), (3, 7), (4, 90), (5, 91), (6, 92)]
        {
            twcc.on_packet(at(ms), number);
        }
        assert_eq!(twcc.report(at(99), 1, 2), None, "not yet due");
        let got = read(twcc.report(at(100), 1, 2).expect("is due"));
        let expected = [(65_533, 0), (65_534, 1), (65_535, 6), (0, 5), (3, 7), (4, 90)];
        assert_eq!(&got[..6], &expected);
        assert_eq!(twcc.deadline(), None, "everything is reported");
        // The next report begins where this one ended: 7 and 8 are missing in it.
        twcc.on_packet(at(200), 9);
        assert_eq!(read(twcc.report(at(300), 1, 2).expect("is due")), [(9, 0)]);
    }

    #[test]
    fn long_runs_and_long_gaps_stay_within_one_packet() {
        let mut twcc = TwccReporter::new();
        let start = Instant::now() + Duration::from_secs(1);
        for number in 0..600 {
            twcc.on_packet(start, number);
        }
        assert!(twcc.deadline().is_some_and(|due| due <= start), "full, so due at once");
        let packet = twcc.report(start, 1, 2).expect("is due");
        assert!(packet.len() < 600, "one byte for each packet, and one run");
        assert_eq!(read(packet).len(), ARRIVALS_MAX);
        twcc.on_packet(start, 20_000);
        twcc.on_packet(start, 20_001);
        let packet = twcc.report(start + INTERVAL, 1, 2).expect("is due");
        assert_eq!(read(packet), [(20_000, 0), (20_001, 0)], "a jump is not loss");
    }
}
