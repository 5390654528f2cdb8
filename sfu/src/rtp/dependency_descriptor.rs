//! The dependency descriptor (AV1 RTP specification 1.0, appendix A): frames, layers and their
//! dependencies, in a header extension that stays readable when the payload is encrypted.
//!
//! Owns the layout and the structure that a stream announced last, to which later descriptors
//! refer. Never looks at a payload and never decides what is forwarded. Called by
//! `worker/packet_inspector.rs` for each packet that carries it, with one [`DependencyReader`] for
//! each incoming layer.

use super::codec::bits::BitReader;
use super::layer_set::{LayerSet, SPATIAL_LAYERS_MAX, TEMPORAL_LAYERS_MAX};

/// Maximum templates of one structure: the 6-bit id has no more. A structure with more is refused.
pub const TEMPLATES_MAX: usize = 64;

/// Maximum decode targets, and so chains, of one structure: the format cannot count further.
pub const DECODE_TARGETS_MAX: usize = 32;

/// Layers of one stream, the bits of a [`LayerSet`].
const LAYERS: usize = SPATIAL_LAYERS_MAX as usize * TEMPORAL_LAYERS_MAX as usize;

// First byte.
const STARTS_FRAME: u8 = 0x80;
const ENDS_FRAME: u8 = 0x40;
const TEMPLATE_ID: u8 = 0x3f;

// The five flags behind the mandatory fields.
const HAS_STRUCTURE: u32 = 0x10;
const HAS_ACTIVE_TARGETS: u32 = 0x08;
const CUSTOM_INDICATIONS: u32 = 0x04;
const CUSTOM_DIFFS: u32 = 0x02;
const CUSTOM_CHAINS: u32 = 0x01;

/// Content of one descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// First packet of a frame, which is one spatial layer of a picture.
    pub starts_frame: bool,
    /// Last packet of a frame.
    pub ends_frame: bool,
    /// Counts frames in decoding order, modulo 2^16.
    pub frame_number: u16,
    /// The frame; `None` while the structure that it refers to is not known.
    pub frame: Option<DescribedFrame>,
}

/// One frame by its template and the deviations from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DescribedFrame {
    /// The packet begins a keyframe: a structure is attached, and the frame is built on no other.
    pub keyframe: bool,
    /// Spatial layer, 0 to 3.
    pub spatial_id: u8,
    /// Temporal layer, 0 to 7.
    pub temporal_id: u8,
    /// Role of the frame in each decode target.
    pub indications: Indications,
    /// Layers that one may begin to receive up to with this frame, if it can be decoded. Layers
    /// that the stream does not have count as the next lower one.
    pub opens: LayerSet,
    /// Largest size in pixels among the active decode targets; only known where a structure is
    /// attached or the active targets change.
    pub resolution: Option<(u16, u16)>,
}

/// Role of a frame in a decode target (AV1 RTP specification table A.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indication {
    /// Not part of the decode target.
    NotPresent,
    /// Part of it, and no other frame of it depends on this one.
    Discardable,
    /// Everything later in it can be decoded if this frame can.
    Switch,
    /// Part of it, and others may depend on this one.
    Required,
}

/// The indications of a frame for up to [`DECODE_TARGETS_MAX`] decode targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Indications(u64);

impl Indications {
    /// Role of the frame in this decode target; not present in those past the last.
    pub fn of(self, target: usize) -> Indication {
        if target >= DECODE_TARGETS_MAX {
            return Indication::NotPresent;
        }
        match self.0 >> (2 * target) & 3 {
            0 => Indication::NotPresent,
            1 => Indication::Discardable,
            2 => Indication::Switch,
            _ => Indication::Required,
        }
    }

    /// Whether no frame of any decode target depends on this one.
    pub fn is_discardable(self) -> bool {
        // Both indications that are more have the upper bit of their pair set.
        self.0 & 0xaaaa_aaaa_aaaa_aaaa == 0
    }

    fn read(r: &mut BitReader<'_>, targets: usize) -> Option<Self> {
        let mut all = 0;
        for target in 0..targets {
            all |= u64::from(r.bits(2)?) << (2 * target);
        }
        Some(Self(all))
    }
}

/// Reader of the descriptors of one stream, in whatever order they come.
#[derive(Debug, Default)]
pub struct DependencyReader {
    structure: Option<Box<Structure>>,
    /// Extended sequence number of the packet that carried the structure.
    structure_seq: u64,
    refused: bool,
}

impl DependencyReader {
    /// Reads the descriptor of the packet with this extended sequence number. A structure in it
    /// replaces the one before, unless the packet is an older, late one. `None` if its mandatory
    /// fields are cut short.
    pub fn read(&mut self, ext_seq: u64, data: &[u8]) -> Option<Descriptor> {
        let &[first, high, low, ref extended @ ..] = data else { return None };
        let mut descriptor = Descriptor {
            starts_frame: first & STARTS_FRAME != 0,
            ends_frame: first & ENDS_FRAME != 0,
            frame_number: u16::from_be_bytes([high, low]),
            frame: None,
        };
        let mut r = BitReader::plain(extended);
        // Five bits are there or none.
        let flags = r.bits(5).unwrap_or(0);
        let newest = ext_seq >= self.structure_seq;
        let attached = (flags & HAS_STRUCTURE != 0).then(|| Structure::read(&mut r));
        let frame = match (&attached, &self.structure) {
            (Some(Some(attached)), _) => attached.frame(first & TEMPLATE_ID, flags, &mut r),
            (None, Some(known)) => known.frame(first & TEMPLATE_ID, flags, &mut r),
            (Some(None), _) | (None, None) => None,
        };
        descriptor.frame = frame.map(|frame| DescribedFrame {
            keyframe: frame.keyframe && descriptor.starts_frame,
            ..frame
        });
        if let Some(structure) = attached.filter(|_| newest) {
            self.structure_seq = ext_seq;
            self.refused = frame.is_none();
            match (structure.filter(|_| frame.is_some()), &mut self.structure) {
                (Some(structure), Some(place)) => **place = structure,
                (Some(structure), place) => *place = Some(Box::new(structure)),
                (None, place) => *place = None,
            }
        }
        Some(descriptor)
    }

    /// Whether the last structure was malformed or beyond the limits. The stream's descriptors then
    /// describe nothing until the next one.
    pub fn is_refused(&self) -> bool {
        self.refused
    }
}

/// Adds to the frame number of a descriptor in place. After a source switch the frame numbers must
/// continue from those before: a receiver takes a keyframe with a lower one for an old one. Returns
/// false, and changes nothing, without the mandatory fields.
pub fn shift_frame_number(data: &mut [u8], by: u16) -> bool {
    let [_, high, low, ..] = data else { return false };
    [*high, *low] = u16::from_be_bytes([*high, *low]).wrapping_add(by).to_be_bytes();
    true
}

/// Structure that a stream announces with a keyframe: its templates and its decode targets.
#[derive(Debug, Clone, Copy)]
struct Structure {
    /// Template id of the first template.
    first_id: u8,
    templates: [Template; TEMPLATES_MAX],
    template_count: usize,
    target_count: usize,
    chain_count: u32,
    /// Spatial layer of each decode target.
    target_spatial: [u8; DECODE_TARGETS_MAX],
    /// Decode target that serves each bit of a [`LayerSet`], if there is one.
    serves: [Option<u8>; LAYERS],
    /// Size of each spatial layer.
    sizes: Option<[(u16, u16); SPATIAL_LAYERS_MAX as usize]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Template {
    spatial_id: u8,
    temporal_id: u8,
    indications: Indications,
    opens: LayerSet,
    /// Whether the frame depends on no other.
    independent: bool,
}

impl Structure {
    /// `template_dependency_structure()` (section A.8.2). `None` if it ends early or has more
    /// layers or templates than we take.
    fn read(r: &mut BitReader<'_>) -> Option<Self> {
        let mut structure = Self {
            first_id: r.bits(6)? as u8,
            templates: [Template::default(); TEMPLATES_MAX],
            template_count: 0,
            target_count: r.bits(5)? as usize + 1,
            chain_count: 0,
            target_spatial: [0; DECODE_TARGETS_MAX],
            serves: [None; LAYERS],
            sizes: None,
        };
        let spatial_layers = structure.read_layers(r)?;
        let targets = structure.target_count;
        for template in structure.known_mut() {
            template.indications = Indications::read(r, targets)?;
        }
        for template in structure.known_mut() {
            template.independent = true;
            while r.flag()? {
                template.independent = false;
                r.skip(4)?; // fdiff_minus_one
            }
        }
        structure.read_chains(r)?;
        structure.place_targets();
        for at in 0..structure.template_count {
            let indications = structure.templates.get(at)?.indications;
            let opens = structure.opens(indications);
            structure.templates.get_mut(at)?.opens = opens;
        }
        if r.flag()? {
            let mut sizes = [(0, 0); SPATIAL_LAYERS_MAX as usize];
            for size in sizes.iter_mut().take(spatial_layers) {
                // Each side is coded less one; 65,536 does not fit our type.
                let mut side = || Some(r.bits(16)?.saturating_add(1).min(u16::MAX.into()) as u16);
                *size = (side()?, side()?);
            }
            structure.sizes = Some(sizes);
        }
        Some(structure)
    }

    /// Reads `template_layers()` and returns the number of spatial layers.
    fn read_layers(&mut self, r: &mut BitReader<'_>) -> Option<usize> {
        let mut template = Template::default();
        loop {
            *self.templates.get_mut(self.template_count)? = template;
            self.template_count += 1;
            match r.bits(2)? {
                0 => {}
                1 => template.temporal_id += 1,
                2 => (template.spatial_id, template.temporal_id) = (template.spatial_id + 1, 0),
                _ => return Some(usize::from(template.spatial_id) + 1),
            }
            if template.temporal_id >= TEMPORAL_LAYERS_MAX
                || template.spatial_id >= SPATIAL_LAYERS_MAX
            {
                return None;
            }
        }
    }

    /// Reads `template_chains()`: of chains only their number is needed, to read past them.
    fn read_chains(&mut self, r: &mut BitReader<'_>) -> Option<()> {
        let targets = self.target_count as u32;
        self.chain_count = non_symmetric(r, targets + 1)?;
        if self.chain_count > 0 {
            for _ in 0..targets {
                non_symmetric(r, self.chain_count)?; // decode_target_protected_by
            }
            r.skip(self.template_count as u32 * self.chain_count * 4)?;
        }
        Some(())
    }

    /// A decode target is as large as the largest frame in it (`decode_target_layers()`).
    fn place_targets(&mut self) {
        let mut layers = [(0, 0); DECODE_TARGETS_MAX];
        for (target, layer) in layers.iter_mut().enumerate().take(self.target_count) {
            for template in self.known() {
                if template.indications.of(target) != Indication::NotPresent {
                    *layer = (template.spatial_id.max(layer.0), template.temporal_id.max(layer.1));
                }
            }
        }
        self.target_spatial = layers.map(|(spatial, _)| spatial);
        for (place, serves) in self.serves.iter_mut().enumerate() {
            let wanted = (place as u8 / TEMPORAL_LAYERS_MAX, place as u8 % TEMPORAL_LAYERS_MAX);
            let fitting = layers.iter().enumerate().take(self.target_count);
            *serves = fitting
                .filter(|(_, (spatial, temporal))| *spatial <= wanted.0 && *temporal <= wanted.1)
                .max_by_key(|(_, layer)| **layer)
                .map(|(target, _)| target as u8);
        }
    }

    /// The layers whose decode target has a switch here.
    fn opens(&self, indications: Indications) -> LayerSet {
        let mut opens = LayerSet::default();
        for (place, target) in self.serves.iter().enumerate() {
            if target.is_some_and(|t| indications.of(usize::from(t)) == Indication::Switch) {
                let place = place as u8;
                opens = opens.with(place / TEMPORAL_LAYERS_MAX, place % TEMPORAL_LAYERS_MAX);
            }
        }
        opens
    }

    /// Reads what follows the structure: active targets and `frame_dependency_definition()`.
    fn frame(&self, template_id: u8, flags: u32, r: &mut BitReader<'_>) -> Option<DescribedFrame> {
        let attached = flags & HAS_STRUCTURE != 0;
        let mut active = attached.then_some(u32::MAX);
        if flags & HAS_ACTIVE_TARGETS != 0 {
            active = Some(r.bits(self.target_count as u32)?);
        }
        let index = usize::from(template_id.wrapping_sub(self.first_id) & TEMPLATE_ID);
        let template = self.known().get(index)?;
        let (mut indications, mut opens) = (template.indications, template.opens);
        if flags & CUSTOM_INDICATIONS != 0 {
            indications = Indications::read(r, self.target_count)?;
            opens = self.opens(indications);
        }
        let mut independent = template.independent;
        if flags & CUSTOM_DIFFS != 0 {
            independent = true;
            loop {
                match r.bits(2)? {
                    0 => break,
                    nibbles => r.skip(4 * nibbles)?,
                }
                independent = false;
            }
        }
        if flags & CUSTOM_CHAINS != 0 {
            r.skip(8 * self.chain_count)?;
        }
        Some(DescribedFrame {
            keyframe: attached && independent,
            spatial_id: template.spatial_id,
            temporal_id: template.temporal_id,
            indications,
            opens,
            resolution: active.and_then(|active| self.size(active)),
        })
    }

    /// The size of the largest spatial layer that an active decode target has.
    fn size(&self, active: u32) -> Option<(u16, u16)> {
        let spatial = self.target_spatial.iter().enumerate().take(self.target_count);
        let largest =
            spatial.filter(|(target, _)| active >> target & 1 != 0).map(|(_, id)| *id).max()?;
        self.sizes?.get(usize::from(largest)).copied()
    }

    fn known(&self) -> &[Template] {
        self.templates.get(..self.template_count).unwrap_or(&[])
    }

    fn known_mut(&mut self) -> &mut [Template] {
        self.templates.get_mut(..self.template_count).unwrap_or(&mut [])
    }
}

/// `ns(n)`: a number below `n`, which is at least 1 (AV1 section 4.10.7).
fn non_symmetric(r: &mut BitReader<'_>, n: u32) -> Option<u32> {
    let width = n.ilog2() + 1;
    let short = (1 << width) - n;
    let value = r.bits(width - 1)?;
    if value < short { Some(value) } else { Some((value << 1) - short + r.bit()?) }
}

#[cfg(test)]
mod tests;
