//! Tests of the dependency descriptor reader.

use super::*;
use Indication::{Discardable, NotPresent, Required, Switch};

/// Writes descriptors from what the specification calls things, knowing nothing of the reader.
#[derive(Default, Clone)]
struct Bits(String);

impl Bits {
    fn f(mut self, value: u32, bits: usize) -> Self {
        self.0 += &format!("{value:032b}")[32 - bits..];
        self
    }

    /// `ns(n)` by its table: the first codes are one bit shorter.
    fn ns(self, value: u32, n: u32) -> Self {
        let bits = (0..).find(|bits| 1u32 << bits >= n).expect("few") as usize;
        let short = (1 << bits) - n;
        match value < short {
            true => self.f(value, bits - 1),
            false => self.f(value + short, bits),
        }
    }

    fn dtis(self, dtis: &str) -> Self {
        dtis.chars()
            .fold(self, |bits, dti| bits.f("-DSR".find(dti).expect("one of four") as u32, 2))
    }

    fn bytes(&self) -> Vec<u8> {
        let digits = self.0.as_bytes();
        let byte = |byte: &[u8]| {
            byte.iter().enumerate().fold(0, |all, (i, bit)| all | (bit - b'0') << (7 - i))
        };
        digits.chunks(8).map(byte).collect()
    }
}

/// A template: spatial and temporal id, indications, frame differences, chain differences.
type Kind<'a> = (u8, u8, &'a str, &'a [u32], &'a [u32]);

/// Three temporal layers: T0 is built on T0, T1 on T0, T2 on the frame before.
const L1T3: &[Kind<'_>] = &[
    (0, 0, "SSS", &[], &[0]),
    (0, 0, "SSS", &[4], &[4]),
    (0, 1, "-DS", &[2], &[2]),
    (0, 2, "--D", &[1], &[1]),
    (0, 2, "--D", &[1], &[3]),
];

/// Two spatial layers of two temporal ones; the upper is built on the lower in each picture.
const L2T2: &[Kind<'_>] = &[
    (0, 0, "SSSS", &[], &[0, 0]),
    (0, 0, "SSRR", &[4], &[4, 3]),
    (0, 1, "-D-R", &[2], &[2, 1]),
    (1, 0, "--SS", &[1], &[1, 1]),
    (1, 0, "--SS", &[4, 1], &[1, 1]),
    (1, 1, "---D", &[2, 1], &[3, 2]),
];

const FIRST_ID: u32 = 61;

fn mandatory(starts: bool, ends: bool, template: u32, number: u32) -> Bits {
    let id = (FIRST_ID + template) % 64;
    Bits::default().f(starts.into(), 1).f(ends.into(), 1).f(id, 6).f(number, 16)
}

fn structure(bits: Bits, kinds: &[Kind<'_>], chains: u32, sizes: &[(u32, u32)]) -> Bits {
    let targets = kinds[0].2.len() as u32;
    let mut bits = bits.f(FIRST_ID, 6).f(targets - 1, 5);
    for pair in kinds.windows(2) {
        let (before, after) = ((pair[0].0, pair[0].1), (pair[1].0, pair[1].1));
        let idc = match after {
            same if same == before => 0,
            (spatial, _) if spatial == before.0 => 1,
            _ => 2,
        };
        bits = bits.f(idc, 2);
    }
    bits = bits.f(3, 2);
    bits = kinds.iter().fold(bits, |bits, kind| bits.dtis(kind.2));
    for kind in kinds {
        bits = kind.3.iter().fold(bits, |bits, diff| bits.f(1, 1).f(diff - 1, 4)).f(0, 1);
    }
    bits = bits.ns(chains, targets + 1);
    if chains > 0 {
        bits = (0..targets).fold(bits, |bits, target| bits.ns(target * chains / targets, chains));
        for kind in kinds {
            bits = (0..chains as usize).fold(bits, |bits, chain| bits.f(kind.4[chain], 4));
        }
    }
    bits = bits.f(u32::from(!sizes.is_empty()), 1);
    sizes.iter().fold(bits, |bits, (width, height)| bits.f(width - 1, 16).f(height - 1, 16))
}

fn key(kinds: &[Kind<'_>], chains: u32, sizes: &[(u32, u32)]) -> Vec<u8> {
    structure(mandatory(true, false, 0, 7).f(0b10000, 5), kinds, chains, sizes).bytes()
}

fn frame(reader: &mut DependencyReader, seq: u64, bits: &Bits) -> DescribedFrame {
    reader.read(seq, &bits.bytes()).unwrap().frame.expect("its template is known")
}

#[test]
fn a_keyframe_announces_the_structure_and_later_frames_refer_to_it() {
    let mut reader = DependencyReader::default();
    let first = reader.read(10, &key(L1T3, 1, &[(1280, 720)])).unwrap();
    assert_eq!((first.starts_frame, first.ends_frame, first.frame_number), (true, false, 7));
    let described = first.frame.unwrap();
    assert!(described.keyframe && !described.indications.is_discardable());
    assert_eq!((described.spatial_id, described.temporal_id), (0, 0));
    assert_eq!(described.resolution, Some((1280, 720)));
    for (template, temporal_id, indications, discardable) in [
        (1, 0, [Switch, Switch, Switch], false),
        (2, 1, [NotPresent, Discardable, Switch], false),
        (3, 2, [NotPresent, NotPresent, Discardable], true),
        (4, 2, [NotPresent, NotPresent, Discardable], true),
    ] {
        let info = frame(&mut reader, 11, &mandatory(true, true, template, 8));
        assert!(!info.keyframe && info.resolution.is_none());
        assert_eq!(info.temporal_id, temporal_id);
        assert_eq!([0, 1, 2].map(|target| info.indications.of(target)), indications);
        assert_eq!(info.indications.of(3), NotPresent);
        assert_eq!(info.indications.is_discardable(), discardable);
    }
    let rest = reader.read(12, &mandatory(false, true, 0, 7).bytes()).unwrap();
    assert!(!rest.frame.unwrap().keyframe, "a later packet of the keyframe");
}

/// A vector written out by hand from appendix A, bit by bit.
#[test]
fn one_layer_without_chains_in_ten_bytes() {
    let bits = "1100 0000 0000 0000 0000 0001 \
        1 0000  000000 00000  11  10  0  0 1  0000000100111111 0000000010110011";
    let mut bits = Bits(bits.chars().filter(char::is_ascii_digit).collect());
    let mut reader = DependencyReader::default();
    // 24 mandatory bits, flags, id 0, one target, one template, S, no differences, no chains
    // (ns(2) of 0), one size.
    let info = frame(&mut reader, 1, &bits);
    assert!(info.keyframe);
    assert_eq!(info.resolution, Some((320, 180)));
    assert_eq!(info.indications.of(0), Switch);
    bits.0.truncate(bits.0.len() - 1);
    bits.0.truncate(bits.0.len() / 8 * 8);
    assert!(DependencyReader::default().read(1, &bits.bytes()).unwrap().frame.is_none());
}

#[test]
fn opens_lists_the_layers_that_may_begin_here() {
    let mut reader = DependencyReader::default();
    let sizes = [(320, 180), (640, 360)];
    let first = reader.read(1, &key(L2T2, 2, &sizes)).unwrap().frame.unwrap();
    assert_eq!(first.resolution, Some((640, 360)));
    assert!(first.opens.contains(1, 1) && first.opens.contains(3, 7), "all of a keyframe");
    let base = frame(&mut reader, 2, &mandatory(true, true, 1, 9));
    assert!(base.opens.contains(0, 1) && base.opens.contains(0, 7), "more frames");
    assert!(!base.opens.contains(1, 0) && !base.opens.contains(2, 0), "not a larger picture");
    let upper = frame(&mut reader, 3, &mandatory(true, true, 4, 10));
    assert_eq!((upper.spatial_id, upper.temporal_id), (1, 0));
    assert!(upper.opens.contains(1, 1) && !upper.opens.contains(0, 1));
    let top = frame(&mut reader, 4, &mandatory(true, true, 5, 12));
    assert_eq!((top.opens, top.temporal_id), (LayerSet::default(), 1));
}

#[test]
fn a_frame_may_deviate_from_its_template() {
    let mut reader = DependencyReader::default();
    reader.read(1, &key(L1T3, 1, &[])).unwrap();
    let custom = mandatory(true, true, 2, 8).f(0b00111, 5).dtis("-SS");
    // Frame differences of 4, 8 and 12 bits, then the chain.
    let custom = custom.f(1, 2).f(1, 4).f(2, 2).f(200, 8).f(3, 2).f(4000, 12).f(0, 2).f(9, 8);
    let info = frame(&mut reader, 2, &custom);
    assert_eq!(info.indications.of(1), Switch);
    assert!(info.opens.contains(0, 1) && info.opens.contains(0, 2) && !info.opens.contains(0, 0));
    let mut cut = custom.bytes();
    cut.pop();
    assert_eq!(reader.read(3, &cut).unwrap().frame, None, "cut short");
    // A keyframe that is attached to a template with differences is one only by deviation.
    let repeat = structure(mandatory(true, false, 1, 9).f(0b10000, 5), L1T3, 1, &[]);
    assert!(!frame(&mut reader, 4, &repeat).keyframe);
    let deviates = structure(mandatory(true, false, 1, 9).f(0b10010, 5), L1T3, 1, &[]);
    assert!(frame(&mut reader, 5, &deviates.f(0, 2)).keyframe);
}

#[test]
fn sizes_follow_the_active_decode_targets() {
    let mut reader = DependencyReader::default();
    reader.read(1, &key(L2T2, 2, &[(320, 180), (640, 360)])).unwrap();
    let told = |reader: &mut DependencyReader, active| {
        frame(reader, 2, &mandatory(true, true, 1, 8).f(0b01000, 5).f(active, 4)).resolution
    };
    assert_eq!(told(&mut reader, 0b0011), Some((320, 180)));
    assert_eq!(told(&mut reader, 0b0100), Some((640, 360)));
    assert_eq!(told(&mut reader, 0), None);
}

#[test]
fn without_its_structure_a_frame_is_not_described() {
    let mut reader = DependencyReader::default();
    let delta = mandatory(true, true, 1, 8).bytes();
    let early = reader.read(5, &delta).unwrap();
    assert!(early.starts_frame && early.frame.is_none() && !reader.is_refused());
    reader.read(6, &key(L1T3, 1, &[])).unwrap();
    let unknown = mandatory(true, true, L1T3.len() as u32, 8).bytes();
    assert_eq!(reader.read(7, &unknown).unwrap().frame, None, "no such template");
    assert_eq!(reader.read(8, &delta[..2]), None);
}

#[test]
fn frame_numbers_continue_and_nothing_else_changes() {
    let mut data = mandatory(true, false, 1, 0xfff0).f(0b01000, 5).f(0b11, 2).bytes();
    let before = data.clone();
    assert!(shift_frame_number(&mut data, 0x20));
    assert_eq!(DependencyReader::default().read(1, &data).unwrap().frame_number, 0x10);
    assert_eq!((data[0], &data[3..]), (before[0], &before[3..]));
    assert!(!shift_frame_number(&mut data[..2], 1));
}

#[test]
fn a_late_structure_does_not_replace_a_newer_one() {
    let mut reader = DependencyReader::default();
    reader.read(10, &key(L2T2, 2, &[])).unwrap();
    let late = reader.read(4, &key(L1T3, 1, &[(640, 360)])).unwrap();
    assert_eq!(late.frame.unwrap().resolution, Some((640, 360)), "it serves its own packet");
    let info = frame(&mut reader, 11, &mandatory(true, true, 5, 9));
    assert_eq!((info.spatial_id, info.temporal_id), (1, 1));
}

#[test]
fn structures_at_and_past_the_limits() {
    let template: Kind<'_> = (0, 0, "S", &[], &[0]);
    let layers = |spatial: u8, temporal: u8| -> Vec<Kind<'_>> {
        let ids = (0..spatial).flat_map(|s| (0..temporal).map(move |t| (s, t)));
        ids.map(|(s, t)| -> Kind<'_> { (s, t, "S", &[], &[0]) }).collect()
    };
    for (kinds, fits) in [
        (vec![template; TEMPLATES_MAX], true),
        (vec![template; TEMPLATES_MAX + 1], false),
        (layers(4, 8), true),
        (layers(5, 8), false),
        (layers(1, 9), false),
    ] {
        let mut reader = DependencyReader::default();
        let read = reader.read(1, &key(&kinds, 1, &[])).unwrap();
        assert_eq!((read.frame.is_some(), reader.is_refused()), (fits, !fits), "{kinds:?}");
        reader.read(2, &key(L1T3, 1, &[])).unwrap();
        assert!(!reader.is_refused(), "the next one is taken");
    }
    let all = "S".repeat(DECODE_TARGETS_MAX);
    let chains = vec![0; DECODE_TARGETS_MAX];
    let widest: Kind<'_> = (0, 0, &all, &[], &chains);
    let widest = key(&[widest], DECODE_TARGETS_MAX as u32, &[(u32::from(u16::MAX) + 1, 1)]);
    let read = DependencyReader::default().read(1, &widest).unwrap().frame.unwrap();
    assert_eq!(read.indications.of(DECODE_TARGETS_MAX - 1), Switch);
    assert_eq!(read.indications.of(DECODE_TARGETS_MAX), NotPresent);
    assert_eq!(read.resolution, Some((u16::MAX, 1)));
    assert_eq!(Indications(0b11).of(0), Required);
}

#[test]
fn descriptor_cut_anywhere_does_not_panic() {
    let whole = key(L2T2, 2, &[(320, 180), (640, 360)]);
    for cut in 0..whole.len() {
        let mut reader = DependencyReader::default();
        let read = reader.read(1, &whole[..cut]);
        assert_eq!(read.is_some(), cut >= 3);
        assert!(read.is_none_or(|read| read.frame.is_none()), "{cut}");
    }
}
