//! Memory of all request bodies: who holds how much of it, and whose body gives way when there is none left.
//!
//! A body that arrives slowly must not keep others out. So when the memory is used up, the newcomer gets
//! that of the oldest unfinished body of the client network that holds most in unfinished ones. Pure but
//! for its lock. Called by `body.rs`; shown by `metrics.rs`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Maximum bytes of all bodies that are read or worked on: 1,024 of the longest.
pub const BODIES_MAX: usize = 64 * 1024 * 1024;
/// The same for those of one client network: an eighth, so that no network can use up what all need.
/// Clients on this machine, also behind a proxy that is not trusted, count in total only.
pub const BODIES_PER_NETWORK: usize = BODIES_MAX / 8;

/// Minimum bytes by which the memory of a body grows.
const CAPACITY_STEP: usize = 4 * 1024;

/// Memory of request bodies. Cheap to clone; clones count the same bytes.
#[derive(Debug, Clone, Default)]
pub struct BodyBudget(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// Bytes of all bodies.
    all: usize,
    /// What each client network holds; clients of none are together under `None`.
    networks: HashMap<Option<IpAddr>, Network>,
    last: u64,
    refused: [u64; NotTaken::ALL.len()],
}

#[derive(Debug, Default)]
struct Network {
    /// Bytes of all its bodies.
    all: usize,
    /// Bytes of the unfinished ones.
    unfinished: usize,
    /// Unfinished bodies, the oldest first.
    bodies: BTreeMap<u64, Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    bytes: usize,
    gives_way: Arc<Notify>,
}

/// Why a body was not taken: the label of its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// It was the oldest of the heaviest network when another one needed memory.
    GaveWay,
    /// No other unfinished body was there to give way.
    Refused,
    /// It came too slowly.
    Slow,
    /// It took too long in all.
    Late,
}

impl NotTaken {
    /// Every reason, in the order of the metric.
    const ALL: [Self; 4] = [Self::GaveWay, Self::Refused, Self::Slow, Self::Late];

    fn label(self) -> &'static str {
        match self {
            Self::GaveWay => "gave_way",
            Self::Refused => "no_memory",
            Self::Slow => "slow",
            Self::Late => "late",
        }
    }
}

/// A body with its part of the budget, which it gives back when dropped.
#[derive(Debug)]
pub struct Collected {
    bytes: Vec<u8>,
    part: Part,
    network: Option<IpAddr>,
    budget: BodyBudget,
}

/// Part of the budget that a body has.
#[derive(Debug)]
enum Part {
    /// More of it comes, and it may have to give way. The budget knows it by this number.
    Unfinished { id: u64, gives_way: Arc<Notify> },
    /// It is whole, and nobody takes its memory.
    Whole,
    /// None.
    Nothing,
}

impl BodyBudget {
    /// A body of this network, empty yet.
    pub fn begin(&self, network: Option<IpAddr>) -> Collected {
        let gives_way = Arc::new(Notify::new());
        let mut held = self.lock();
        held.last += 1;
        let id = held.last;
        let unfinished = Unfinished { bytes: 0, gives_way: gives_way.clone() };
        held.networks.entry(network).or_default().bodies.insert(id, unfinished);
        drop(held);
        let part = Part::Unfinished { id, gives_way };
        Collected { bytes: Vec::new(), part, network, budget: self.clone() }
    }

    /// Bodies that were not taken since the start, by label, every label included.
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        let refused = self.lock().refused;
        NotTaken::ALL.iter().map(|reason| reason.label()).zip(refused).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Counts more bytes of an unfinished body. Others give way to it, but it does not itself.
    fn grow(&mut self, network: Option<IpAddr>, id: u64, bytes: usize) -> Result<(), NotTaken> {
        if !self.make_room(network, id, bytes) {
            self.count(NotTaken::Refused);
            return Err(NotTaken::Refused);
        }
        let here = self.networks.get_mut(&network).ok_or(NotTaken::GaveWay)?;
        let body = here.bodies.get_mut(&id).ok_or(NotTaken::GaveWay)?;
        body.bytes += bytes;
        here.unfinished += bytes;
        here.all += bytes;
        self.all += bytes;
        Ok(())
    }

    fn make_room(&mut self, network: Option<IpAddr>, id: u64, bytes: usize) -> bool {
        loop {
            let here = self.networks.get(&network).map_or(0, |here| here.all);
            let from = if network.is_some() && here + bytes > BODIES_PER_NETWORK {
                network
            } else if self.all + bytes > BODIES_MAX {
                let heaviest = self.networks.iter().max_by_key(|(_, held)| held.unfinished);
                heaviest.and_then(|(network, _)| *network)
            } else {
                return true;
            };
            let held = self.networks.get(&from).filter(|held| held.unfinished > 0);
            let oldest = held.and_then(|held| held.bodies.keys().next()).copied();
            let oldest = oldest.filter(|oldest| *oldest != id);
            let Some(body) = oldest.and_then(|oldest| self.remove(from, oldest)) else {
                return false;
            };
            body.gives_way.notify_one();
            self.count(NotTaken::GaveWay);
        }
    }

    /// Takes an unfinished body out, and gives its bytes back.
    fn remove(&mut self, network: Option<IpAddr>, id: u64) -> Option<Unfinished> {
        let here = self.networks.get_mut(&network)?;
        let body = here.bodies.remove(&id)?;
        here.unfinished -= body.bytes;
        self.give_back(network, body.bytes);
        Some(body)
    }

    /// Keeps the bytes of a body that is whole; false if it gave way.
    fn finish(&mut self, network: Option<IpAddr>, id: u64) -> bool {
        let Some(here) = self.networks.get_mut(&network) else { return false };
        let Some(body) = here.bodies.remove(&id) else { return false };
        here.unfinished -= body.bytes;
        self.give_back(network, 0);
        true
    }

    fn give_back(&mut self, network: Option<IpAddr>, bytes: usize) {
        self.all -= bytes;
        let Some(here) = self.networks.get_mut(&network) else { return };
        here.all -= bytes;
        if here.all == 0 && here.bodies.is_empty() {
            self.networks.remove(&network);
        }
    }

    fn count(&mut self, reason: NotTaken) {
        if let Some(count) = self.refused.get_mut(reason as usize) {
            *count += 1;
        }
    }
}

impl Collected {
    /// Appends bytes.
    ///
    /// # Errors
    /// There is no memory for them. Then the body has lost what it had.
    pub fn extend(&mut self, data: &[u8]) -> Result<(), NotTaken> {
        let grown = match self.part {
            Part::Unfinished { id, .. } => self.budget.lock().grow(self.network, id, data.len()),
            Part::Whole | Part::Nothing => Err(NotTaken::Refused),
        };
        match grown {
            Ok(()) => {
                // In steps: a vector that doubles would hold twice what is counted.
                if self.bytes.capacity() - self.bytes.len() < data.len() {
                    self.bytes.reserve_exact(data.len().max(CAPACITY_STEP));
                }
                self.bytes.extend_from_slice(data);
            }
            Err(_) => self.release(),
        }
        grown
    }

    /// Counts why the body is not taken.
    pub fn count(&self, reason: NotTaken) {
        self.budget.lock().count(reason);
    }

    /// Resolves when the body must give way.
    pub async fn gives_way(&self) {
        match &self.part {
            Part::Unfinished { gives_way, .. } => gives_way.notified().await,
            Part::Whole | Part::Nothing => std::future::pending().await,
        }
    }

    /// The body is whole: from now on it does not give way.
    ///
    /// # Errors
    /// It gave way.
    pub fn finish(&mut self) -> Result<(), NotTaken> {
        if let Part::Unfinished { id, .. } = self.part {
            if !self.budget.lock().finish(self.network, id) {
                self.release();
                return Err(NotTaken::GaveWay);
            }
            self.part = Part::Whole;
        }
        Ok(())
    }

    /// Gives the memory back.
    pub fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes).len();
        match std::mem::replace(&mut self.part, Part::Nothing) {
            Part::Unfinished { id, .. } => drop(self.budget.lock().remove(self.network, id)),
            Part::Whole => self.budget.lock().give_back(self.network, bytes),
            Part::Nothing => {}
        }
    }
}

impl AsRef<[u8]> for Collected {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: usize = 64 * 1024;

    fn network(n: u32) -> Option<IpAddr> {
        Some(IpAddr::from((0xc000_0200 + n).to_be_bytes()))
    }

    /// An unfinished body of so many bytes.
    fn begun(budget: &BodyBudget, of: Option<IpAddr>, bytes: usize) -> Result<Collected, NotTaken> {
        let mut body = budget.begin(of);
        body.extend(&vec![0; bytes]).map(|()| body)
    }

    fn whole(budget: &BodyBudget, of: Option<IpAddr>, bytes: usize) -> Result<Collected, NotTaken> {
        let mut body = begun(budget, of, bytes)?;
        body.finish().map(|()| body)
    }

    fn is_empty(budget: &BodyBudget) -> bool {
        let held = budget.lock();
        held.all == 0 && held.networks.is_empty()
    }

    #[test]
    fn whole_bodies_of_one_network_have_an_eighth_of_the_memory_and_all_together_the_whole() {
        let budget = BodyBudget::default();
        let mut held = Vec::new();
        for n in 0..8 {
            let bodies = (0..BODIES_PER_NETWORK / LONG).map(|_| whole(&budget, network(n), LONG));
            held.extend(bodies.map(Result::unwrap));
            assert_eq!(whole(&budget, network(n), 1).unwrap_err(), NotTaken::Refused);
        }
        assert_eq!(budget.lock().all, BODIES_MAX);
        assert!(
            whole(&budget, network(9), 1).is_err(),
            "all memory is taken, and nobody gives way"
        );
        held.pop();
        drop(whole(&budget, network(9), LONG).unwrap());
        // Loopback counts in total only.
        held.truncate(BODIES_MAX / LONG / 2);
        held.extend((0..BODIES_MAX / LONG / 2).map(|_| whole(&budget, None, LONG).unwrap()));
        assert!(whole(&budget, None, LONG).is_err());
        assert_eq!(
            budget.refused(),
            [("gave_way", 0), ("no_memory", 10), ("slow", 0), ("late", 0)]
        );
        drop(held);
        assert!(is_empty(&budget));
    }

    #[test]
    fn slow_bodies_of_twelve_networks_give_way_to_every_other() {
        let budget = BodyBudget::default();
        let mut slow: Vec<_> = (0..BODIES_MAX / LONG)
            .map(|n| begun(&budget, network(n as u32 % 12), LONG).unwrap())
            .collect();
        assert_eq!(budget.lock().all, BODIES_MAX);
        for n in 0..50 {
            let of = [network(20 + n), None][n as usize % 2];
            drop(whole(&budget, of, 6_000).unwrap());
        }
        let [gave_way, refused] = [0, 1].map(|at| budget.refused()[at].1);
        assert!(gave_way <= 50 && refused == 0, "{gave_way}, {refused}");
        let ended: Vec<_> = slow.iter_mut().map(|body| body.finish().is_err()).collect();
        assert_eq!(ended.iter().filter(|ended| **ended).count() as u64, gave_way);
        assert!(!ended[120..].contains(&true), "the oldest of the networks that hold most");
        drop(slow);
        assert!(is_empty(&budget));
    }

    #[test]
    fn full_network_gives_way_to_itself_alone() {
        let budget = BodyBudget::default();
        let other = begun(&budget, network(1), LONG).unwrap();
        let mut here: Vec<_> = (0..BODIES_PER_NETWORK / LONG)
            .map(|_| begun(&budget, network(0), LONG).unwrap())
            .collect();
        let mut next = begun(&budget, network(0), 1).unwrap();
        assert_eq!(here[0].extend(&[0]), Err(NotTaken::GaveWay));
        assert_eq!(next.finish(), Ok(()));
        assert!(here.iter_mut().skip(1).all(|body| body.finish().is_ok()));
        let mut last = begun(&budget, network(0), LONG - 1).unwrap();
        assert_eq!(last.extend(&[0]), Err(NotTaken::Refused), "a body does not give way to itself");
        assert!(other.as_ref().len() == LONG && last.as_ref().is_empty());
    }

    #[test]
    fn bodies_that_gave_way_or_are_released_give_their_memory_back_once() {
        let budget = BodyBudget::default();
        let mut body = begun(&budget, None, 10).unwrap();
        body.release();
        assert!(is_empty(&budget) && body.as_ref().is_empty());
        assert_eq!(body.extend(&[0]), Err(NotTaken::Refused), "it has no part any more");
        let many: Vec<_> =
            (0..BODIES_MAX / LONG + 9).map(|_| begun(&budget, None, LONG).unwrap()).collect();
        assert_eq!(budget.lock().all, BODIES_MAX);
        drop(many);
        assert!(is_empty(&budget));
    }
}
