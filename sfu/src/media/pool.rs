//! Pool of one worker's packet buffers, which are reused instead of freed.
//!
//! A buffer is handed out only while nothing else holds it (`Arc::get_mut`), so a packet that
//! another worker still reads is never touched. The pool keeps a handle to each of its buffers,
//! therefore the last handle is always dropped here and never on another core.
//!
//! Owns how many buffers each publisher holds, wherever they are: in packet caches, in keyframes, at
//! other workers. Never decides whose packets are evicted: `worker/pool_relief.rs` does. Called by
//! `worker/publisher.rs` for each packet, and by `worker/stream.rs` for what its caches give back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::warm::warm;

use super::packet::{PACKET_BYTES_MAX, Packet};

/// Bytes of a small buffer; Opus packets fit.
const SMALL_BYTES: usize = 320;

/// Bytes of one cache line.
const CACHE_LINE_BYTES: usize = 64;

/// Returned buffers that are tried before a new one is allocated. Readers release in order, so the
/// oldest are free first.
const PROBES: usize = 8;

/// Returned buffers that are taken back when one is handed out, although there are free ones.
const TAKEN_BACK: usize = 2;

/// Part of the buffers below which the pool is short: one of eight. Cached packets are evicted then,
/// so that these are there for publishers that need few.
const RESERVE: usize = 8;

/// Share of the buffers from which on a publisher pays first while the pool is short: one of 32, 2,048
/// by default. A publisher of 10 Mbit/s holds 1,600. Once half of the reserve is used up, a publisher
/// gets no buffer that is above it and holds more than half of what the largest one holds.
const SHARE: usize = 32;

/// Part of the buffers that is evicted at a time: one of 64, and half of what a publisher holds who
/// pays at its share.
const RELIEF: usize = 64;

/// Buffers that are tried at a time whether others still read them.
const RECLAIM_MAX: usize = 256;

/// Time for which buffers that nobody needs are kept.
pub const UNUSED_AFTER: Duration = Duration::from_secs(10);

/// Unused buffers of each class that are never freed.
const SPARE: usize = 64;

/// Buffers of each class that are freed, and that are tried whether others still read them, in one
/// step.
const TIDIED_PER_STEP: usize = 64;

/// Time between two of these steps.
const TIDY_EVERY: Duration = Duration::from_millis(10);

/// A publisher as the pool knows it. Buffers are counted for it until nothing holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HolderId(u32);

/// Size class of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferSize {
    /// [`SMALL_BYTES`].
    Small,
    /// [`PACKET_BYTES_MAX`].
    Large,
}

impl BufferSize {
    /// The class for a packet of so many bytes; `None` if it is too large.
    pub fn of(bytes: usize) -> Option<Self> {
        match bytes {
            0..=SMALL_BYTES => Some(Self::Small),
            _ if bytes <= PACKET_BYTES_MAX => Some(Self::Large),
            _ => None,
        }
    }
}

/// Bytes of all buffers of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolBytes {
    /// Of buffers that are allocated.
    pub allocated: u64,
    /// Of buffers among these that hold a packet.
    pub used: u64,
}

/// Why packets were evicted from packet caches before they were old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvictionCause {
    /// Their publisher held as much as one may.
    SessionLimit,
    /// The pool was short, and their publisher or its network held most.
    PoolShort,
}

/// Packets that were evicted so far, by cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evictions {
    /// [`EvictionCause::SessionLimit`].
    pub session_limit: u64,
    /// [`EvictionCause::PoolShort`].
    pub pool_short: u64,
}

/// Bounded pool in two size classes. At the limit [`PacketPool::take`] returns `None` and the
/// packet is dropped with `DropReason::PoolExhausted`.
#[derive(Debug)]
pub struct PacketPool {
    small: SizeClass,
    large: SizeClass,
    holders: Vec<Holder>,
    vacant: Vec<HolderId>,
    evictions: Evictions,
    /// Time of the next step of [`Self::tidy`]; `None` while nothing is to be freed or tried.
    next_tidy: Option<Instant>,
    /// Time since which buffers are watched that nobody needs.
    watched_since: Option<Instant>,
}

/// Buffers of one publisher.
#[derive(Debug, Default)]
struct Holder {
    small: u32,
    large: u32,
    left: bool,
}

impl Holder {
    fn count(&mut self, size: BufferSize) -> &mut u32 {
        match size {
            BufferSize::Small => &mut self.small,
            BufferSize::Large => &mut self.large,
        }
    }
}

impl Evictions {
    /// Each cause as a metric label, with its packets.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [("session_limit", self.session_limit), ("pool_short", self.pool_short)].into_iter()
    }
}

impl PacketPool {
    /// Creates a pool of at most `limit` buffers of each class; memory is allocated when needed.
    pub fn new(limit: usize) -> Self {
        Self {
            small: SizeClass::new(SMALL_BYTES, limit),
            large: SizeClass::new(PACKET_BYTES_MAX, limit),
            holders: Vec::new(),
            vacant: Vec::new(),
            evictions: Evictions::default(),
            next_tidy: None,
            watched_since: None,
        }
    }

    /// A publisher that holds nothing yet. Ends with [`Self::leave`].
    pub fn enter(&mut self) -> HolderId {
        let id = self.vacant.pop().unwrap_or(HolderId(self.holders.len() as u32));
        match self.holders.get_mut(id.0 as usize) {
            Some(vacant) => *vacant = Holder::default(),
            None => self.holders.push(Holder::default()),
        }
        id
    }

    /// Ends a publisher. Its buffers are counted for it until nothing holds them.
    pub fn leave(&mut self, id: HolderId) {
        if let Some(holder) = self.holders.get_mut(id.0 as usize).filter(|holder| !holder.left) {
            holder.left = true;
            if holder.small + holder.large == 0 {
                self.vacant.push(id);
            }
        }
    }

    /// Reads the buffer that is next for this size, so that it is in the CPU caches by then.
    pub fn warm(&self, bytes: usize) {
        let class = self.class_for(bytes);
        if let Some(packet) = class.free.back() {
            packet.warm();
            for line in packet.buffer().chunks(CACHE_LINE_BYTES) {
                warm!(line.first().copied());
            }
        }
    }

    /// A buffer of a publisher for `bytes` bytes that nothing else holds: `Arc::get_mut` on it
    /// succeeds.
    pub fn take(&mut self, bytes: usize, id: HolderId) -> Option<Arc<Packet>> {
        let size = BufferSize::of(bytes)?;
        if self.class(size).free.is_empty() {
            self.try_returned(size, PROBES);
        } else {
            self.take_back(size);
        }
        let held = self.held_by(id, size);
        let class = self.class(size);
        if class.left() <= class.limit / RESERVE / 2 && held > class.fair {
            return None;
        }
        let mut packet = self.class(size).take()?;
        Arc::get_mut(&mut packet)?.set_holder(id);
        if let Some(holder) = self.holders.get_mut(id.0 as usize) {
            *holder.count(size) += 1;
        }
        Some(packet)
    }

    /// Returns a buffer; other holders may still be reading it.
    pub fn give(&mut self, mut packet: Arc<Packet>) {
        let size = size_of_buffer(&packet);
        if Arc::get_mut(&mut packet).is_some() {
            self.free(packet);
        } else {
            self.class(size).returned.push_back(packet);
        }
    }

    /// The class that a packet of so many bytes is of, if it is not too large for both.
    fn class_for(&self, bytes: usize) -> &SizeClass {
        if bytes <= SMALL_BYTES { &self.small } else { &self.large }
    }

    /// Whether so few buffers are left for a packet of `bytes` that cached packets have to go.
    #[inline]
    pub fn is_short_for(&self, bytes: usize) -> bool {
        let class = self.class_for(bytes);
        class.left() <= class.limit / RESERVE
    }

    /// Buffers of a class that a publisher holds.
    pub fn held_by(&self, id: HolderId, size: BufferSize) -> usize {
        let holder = self.holders.get(id.0 as usize);
        holder.map_or(0, |holder| match size {
            BufferSize::Small => holder.small as usize,
            BufferSize::Large => holder.large as usize,
        })
    }

    /// Buffers of a class from which on a publisher pays first while the pool is short.
    pub fn share(&self) -> usize {
        self.large.limit / SHARE
    }

    /// Notes how many buffers of a class the publisher holds that holds most.
    pub fn note_most(&mut self, size: BufferSize, held: usize) {
        let class = self.class(size);
        class.fair = (class.limit / SHARE).max(held / 2);
    }

    /// Packets to evict at a time while the pool is short.
    pub fn relief(&self) -> usize {
        (self.large.limit / RELIEF).max(PROBES)
    }

    /// Tries returned buffers of a class whether others still read them, the oldest first and a
    /// bounded number.
    pub fn reclaim(&mut self, size: BufferSize) {
        self.try_returned(size, RECLAIM_MAX);
    }

    /// Notes that a second passed: returned buffers are tried by and by, and those that nobody
    /// needed for [`UNUSED_AFTER`] are freed.
    pub fn sweep(&mut self, now: Instant) {
        let is_over = |since| now.saturating_duration_since(since) >= UNUSED_AFTER;
        let over = self.watched_since.is_none_or(is_over);
        if over {
            self.watched_since = Some(now);
        }
        for class in [&mut self.small, &mut self.large] {
            class.untried = class.returned.len() + class.read.len();
            if over {
                class.surplus = class.least_free.saturating_sub(SPARE);
                class.least_free = class.free.len();
            }
        }
        if [&self.small, &self.large].into_iter().any(SizeClass::is_untidy) {
            self.next_tidy.get_or_insert(now);
        }
    }

    /// Time at which [`Self::tidy`] is to be called.
    pub fn next_tidy(&self) -> Option<Instant> {
        self.next_tidy
    }

    /// Frees some buffers that nobody needs, and tries some that were returned, if it is time.
    pub fn tidy(&mut self, now: Instant) {
        if self.next_tidy.is_none_or(|at| now < at) {
            return;
        }
        let mut rest = false;
        for size in [BufferSize::Small, BufferSize::Large] {
            let tried = self.class(size).untried.min(TIDIED_PER_STEP);
            self.class(size).untried -= tried;
            self.try_returned(size, tried);
            let class = self.class(size);
            class.shrink();
            rest |= class.is_untidy();
        }
        self.next_tidy = rest.then_some(now + TIDY_EVERY);
    }

    /// Counts packets that were evicted.
    pub fn count_evicted(&mut self, cause: EvictionCause, packets: usize) {
        match cause {
            EvictionCause::SessionLimit => self.evictions.session_limit += packets as u64,
            EvictionCause::PoolShort => self.evictions.pool_short += packets as u64,
        }
    }

    /// Packets that were evicted so far.
    pub fn evictions(&self) -> Evictions {
        self.evictions
    }

    /// Bytes of the buffers.
    pub fn bytes(&self) -> PoolBytes {
        let classes = [&self.small, &self.large];
        let sum = |count: fn(&SizeClass) -> usize| {
            classes.iter().map(|class| (count(class) * class.bytes) as u64).sum()
        };
        PoolBytes {
            allocated: sum(|class| class.allocated),
            used: sum(|class| class.allocated - class.free.len()),
        }
    }

    /// Buffers allocated now, in both classes.
    #[cfg(feature = "internals")]
    pub fn allocated(&self) -> usize {
        self.small.allocated + self.large.allocated
    }

    fn class(&mut self, size: BufferSize) -> &mut SizeClass {
        match size {
            BufferSize::Small => &mut self.small,
            BufferSize::Large => &mut self.large,
        }
    }

    /// Takes back a buffer that nothing else holds.
    fn free(&mut self, packet: Arc<Packet>) {
        let size = size_of_buffer(&packet);
        let id = packet.holder();
        if let Some(holder) = self.holders.get_mut(id.0 as usize)
            && let Some(less) = holder.count(size).checked_sub(1)
        {
            *holder.count(size) = less;
            if holder.left && holder.small + holder.large == 0 {
                self.vacant.push(id);
            }
        }
        self.class(size).free.push_back(packet);
    }

    /// Takes back returned buffers whose time has come, so that they are not many: readers release them
    /// in order, a little later than we do.
    fn take_back(&mut self, size: BufferSize) {
        for _ in 0..TAKEN_BACK {
            let oldest = self.class(size).returned.front_mut();
            if oldest.is_none_or(|packet| Arc::get_mut(packet).is_none()) {
                return;
            }
            let packet = self.class(size).returned.pop_front();
            packet.into_iter().for_each(|packet| self.free(packet));
        }
    }

    /// Tries the oldest returned buffers, and then those that were tried before.
    fn try_returned(&mut self, size: BufferSize, max: usize) {
        let class = self.class(size);
        let queues = [class.returned.len(), class.read.len()];
        for n in 0..max.min(queues[0] + queues[1]) {
            let class = self.class(size);
            let queue = if n < queues[0] { &mut class.returned } else { &mut class.read };
            let Some(mut packet) = queue.pop_front() else { return };
            match Arc::get_mut(&mut packet).is_some() {
                true => self.free(packet),
                false => class.read.push_back(packet),
            }
        }
    }
}

fn size_of_buffer(packet: &Packet) -> BufferSize {
    match packet.buffer().len() {
        SMALL_BYTES => BufferSize::Small,
        _ => BufferSize::Large,
    }
}

#[derive(Debug)]
struct SizeClass {
    bytes: usize,
    limit: usize,
    allocated: usize,
    /// Buffers of a publisher that gets no more of the last ones.
    fair: usize,
    /// Buffers that nothing else holds, the last used at the back.
    free: VecDeque<Arc<Packet>>,
    /// Returned while others may still read them, oldest first.
    returned: VecDeque<Arc<Packet>>,
    /// Returned, tried, and still held: packets of a kept keyframe, or of a slow worker.
    read: VecDeque<Arc<Packet>>,
    /// Buffers of the last two that are to be tried since the last sweep.
    untried: usize,
    /// The fewest free buffers since [`PacketPool::watched_since`].
    least_free: usize,
    /// Free buffers that are to be freed.
    surplus: usize,
}

impl SizeClass {
    fn new(bytes: usize, limit: usize) -> Self {
        let empty = VecDeque::new;
        Self {
            bytes,
            limit,
            allocated: 0,
            fair: limit / SHARE,
            free: empty(),
            returned: empty(),
            read: empty(),
            untried: 0,
            least_free: 0,
            surplus: 0,
        }
    }

    /// Buffers that can be handed out, allocated or not.
    fn left(&self) -> usize {
        self.limit - self.allocated + self.free.len()
    }

    fn take(&mut self) -> Option<Arc<Packet>> {
        let packet = self.free.pop_back().or_else(|| {
            let can_grow = self.allocated < self.limit;
            self.allocated += usize::from(can_grow);
            can_grow.then(|| Arc::new(Packet::with_capacity(self.bytes)))
        });
        self.least_free = self.least_free.min(self.free.len());
        packet
    }

    /// Frees some of the surplus, beginning with the buffers that were used longest ago.
    fn shrink(&mut self) {
        for _ in 0..self.surplus.min(TIDIED_PER_STEP) {
            self.surplus -= 1;
            if self.free.len() <= SPARE || self.free.pop_front().is_none() {
                self.surplus = 0;
                return;
            }
            self.allocated -= 1;
        }
    }

    fn is_untidy(&self) -> bool {
        self.surplus + self.untried > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn buffer_that_is_still_read_is_not_handed_out_again() {
        let mut pool = PacketPool::new(2);
        let id = pool.enter();
        let first = pool.take(1200, id).unwrap();
        let reader = Arc::clone(&first);
        pool.give(first);
        let mut second = pool.take(1200, id).unwrap();
        assert!(Arc::get_mut(&mut second).is_some());
        assert!(!Arc::ptr_eq(&reader, &second));
        assert_eq!(pool.allocated(), 2);
        assert!(pool.take(1200, id).is_none(), "at the limit");
        assert_eq!(pool.held_by(id, BufferSize::Large), 2, "a reader holds one of them");
        drop(reader);
        assert!(pool.take(1200, id).is_some(), "the reader is done");
        assert_eq!(pool.allocated(), 2);
    }

    #[test]
    fn classes_by_size_and_nothing_beyond_the_largest() {
        let mut pool = PacketPool::new(4);
        let id = pool.enter();
        assert_eq!(pool.take(100, id).unwrap().buffer().len(), SMALL_BYTES);
        assert_eq!(pool.take(SMALL_BYTES + 1, id).unwrap().buffer().len(), PACKET_BYTES_MAX);
        assert!(pool.take(PACKET_BYTES_MAX + 1, id).is_none());
    }

    #[test]
    fn last_buffers_are_left_to_publishers_within_their_share() {
        let mut pool = PacketPool::new(64);
        let [greedy, other] = [pool.enter(), pool.enter()];
        let mut taken: Vec<_> = (0..56).map(|_| pool.take(1200, greedy).unwrap()).collect();
        assert!(pool.is_short_for(1200) && !pool.is_short_for(100), "eight are left of one class");
        taken.extend((0..4).map(|_| pool.take(1200, greedy).unwrap()));
        assert!(pool.take(1200, greedy).is_none(), "it holds more than two, and four are left");
        assert!(pool.take(100, greedy).is_some(), "the other class has enough");
        taken.extend((0..3).map(|_| pool.take(1200, other).unwrap()));
        assert!(pool.take(1200, other).is_none(), "two are its share, and it may go one beyond");
        taken.drain(..4).for_each(|packet| pool.give(packet));
        assert!(pool.take(1200, greedy).is_some(), "five are left");
        assert_eq!(pool.held_by(greedy, BufferSize::Large), 57);
        pool.note_most(BufferSize::Large, 57);
        assert!(pool.take(1200, other).is_some() && pool.take(1200, greedy).is_none());
    }

    /// Packets of kept keyframes counted as left, which hid that the pool was empty.
    #[test]
    fn returned_buffers_that_others_hold_are_not_left() {
        let mut pool = PacketPool::new(64);
        let id = pool.enter();
        let readers: Vec<_> = (0..60)
            .map(|_| {
                let packet = pool.take(1200, id).unwrap();
                let reader = Arc::clone(&packet);
                pool.give(packet);
                reader
            })
            .collect();
        assert!(pool.is_short_for(1200));
        pool.reclaim(BufferSize::Large);
        assert!(pool.is_short_for(1200) && pool.held_by(id, BufferSize::Large) == 60);
        drop(readers);
        pool.reclaim(BufferSize::Large);
        assert!(!pool.is_short_for(1200) && pool.held_by(id, BufferSize::Large) == 0);
    }

    #[test]
    fn buffers_that_nobody_needed_for_a_while_are_freed_step_by_step() {
        let mut pool = PacketPool::new(4_096);
        let id = pool.enter();
        let start = Instant::now();
        let freed_at_once = std::cell::Cell::new(0);
        let run = |pool: &mut PacketPool, from: u32, seconds: u32| {
            for step in from * 100..(from + seconds) * 100 {
                let now = start + step * 10 * MS;
                if step % 100 == 0 {
                    pool.sweep(now);
                }
                let before = pool.allocated();
                pool.tidy(now);
                freed_at_once.set(freed_at_once.get().max(before - pool.allocated()));
                // It needs a hundred all the time.
                let needed: Vec<_> = (0..100).map(|_| pool.take(1200, id).unwrap()).collect();
                needed.into_iter().for_each(|packet| pool.give(packet));
            }
        };
        run(&mut pool, 0, 15);
        assert_eq!(pool.allocated(), 100);
        let burst: Vec<_> = (0..3_000).map(|_| pool.take(1200, id).unwrap()).collect();
        let read = Arc::clone(&burst[0]);
        burst.into_iter().for_each(|packet| pool.give(packet));
        run(&mut pool, 15, 4);
        assert_eq!(pool.allocated(), 3_000, "some time has to pass");
        run(&mut pool, 19, 17);
        assert_eq!(pool.allocated(), 100 + SPARE + 1, "one is read");
        assert_eq!(freed_at_once.get(), TIDIED_PER_STEP);
        drop(read);
        run(&mut pool, 36, 25);
        assert_eq!(pool.allocated(), 100 + SPARE);
        assert_eq!(pool.bytes().allocated, (100 + SPARE as u64) * PACKET_BYTES_MAX as u64);
        assert_eq!((pool.bytes().used, pool.next_tidy()), (0, None));
    }

    #[test]
    fn returned_buffers_are_taken_back_while_others_are_free() {
        let mut pool = PacketPool::new(4_096);
        let id = pool.enter();
        let spare: Vec<_> = (0..100).map(|_| pool.take(1200, id).unwrap()).collect();
        spare.into_iter().for_each(|packet| pool.give(packet));
        let mut readers = VecDeque::new();
        for _ in 0..1_000 {
            let packet = pool.take(1200, id).unwrap();
            readers.push_back(Arc::clone(&packet));
            pool.give(packet);
            if readers.len() > 20 {
                readers.pop_front();
            }
        }
        assert!(pool.held_by(id, BufferSize::Large) <= 22);
        assert_eq!(pool.allocated(), 100);
    }

    #[test]
    fn place_of_a_publisher_is_used_again_once_nothing_of_it_is_held() {
        let mut pool = PacketPool::new(4);
        let first = pool.enter();
        let packet = pool.take(1200, first).unwrap();
        pool.leave(first);
        let second = pool.enter();
        assert_ne!(second, first, "a packet of it is still there");
        pool.give(packet);
        assert_eq!(pool.enter(), first);
        pool.leave(second);
        pool.leave(second);
        assert_eq!([pool.enter(), pool.enter()], [second, HolderId(2)]);
    }
}
