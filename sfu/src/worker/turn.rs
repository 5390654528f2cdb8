//! Plan of visits: the viewers to visit in one pass, and the streams that have packets for each.
//!
//! In a turn there is one pass over established viewers, and one for each step of a round of
//! joining viewers. A viewer is visited once in a pass, whatever number of its streams has packets:
//! one visit and one batch. Made by `fanout.rs`; its memory is used again in each pass. Knows keys
//! only.

use super::keys::SessionKey;
use crate::router::StreamId;

/// Visits of one pass, in the order in which their viewers were first added.
#[derive(Debug, Default)]
pub(super) struct TurnPlan {
    visits: Vec<Visit>,
    links: Vec<Link>,
    /// Marks by the session's position: the pass in which it was added last, and its visit in that
    /// pass.
    marks: Vec<Mark>,
    pass: u32,
}

/// One viewer's visit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    /// The viewer.
    pub viewer: SessionKey,
    first: u32,
    last: u32,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    stream: StreamId,
    next: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    pass: u32,
    visit: u32,
}

/// Value that ends a chain of links.
const END: u32 = u32::MAX;

impl TurnPlan {
    /// Begins a new plan.
    pub(super) fn begin(&mut self) {
        self.visits.clear();
        self.links.clear();
        self.pass = self.pass.wrapping_add(1);
        if self.pass == 0 {
            // Marks of four billion passes ago must not be mistaken for marks of this one.
            self.marks.fill(Mark::default());
            self.pass = 1;
        }
    }

    /// Adds viewers for whom this stream has packets.
    pub(super) fn add(&mut self, stream: StreamId, viewers: &[SessionKey]) {
        for &viewer in viewers {
            let link = self.links.len() as u32;
            self.links.push(Link { stream, next: END });
            let slot = viewer.position();
            if self.marks.len() <= slot {
                self.marks.resize(slot + 1, Mark::default());
            }
            let Some(mark) = self.marks.get_mut(slot) else { continue };
            let known = (mark.pass == self.pass).then_some(mark.visit as usize);
            let visit = known.and_then(|visit| self.visits.get_mut(visit));
            match visit.filter(|visit| visit.viewer == viewer) {
                Some(visit) => {
                    if let Some(last) = self.links.get_mut(visit.last as usize) {
                        last.next = link;
                    }
                    visit.last = link;
                }
                None => {
                    *mark = Mark { pass: self.pass, visit: self.visits.len() as u32 };
                    self.visits.push(Visit { viewer, first: link, last: link });
                }
            }
        }
    }

    /// The planned visits.
    pub(super) fn visits(&self) -> &[Visit] {
        &self.visits
    }

    /// The stream that has packets for a visit's viewer, if there is only one.
    pub(super) fn only_stream(&self, visit: &Visit) -> Option<StreamId> {
        let link = self.links.get(visit.first as usize)?;
        (visit.first == visit.last).then_some(link.stream)
    }

    /// Streams that have packets for a visit's viewer, in the order in which they were added.
    pub(super) fn streams(&self, visit: &Visit) -> impl Iterator<Item = StreamId> + Clone {
        let link = |at: u32| self.links.get(at as usize);
        let links = std::iter::successors(link(visit.first), move |found| link(found.next));
        links.map(|found| found.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(index: u32) -> StreamId {
        StreamId { index, generation: 0 }
    }

    fn planned(plan: &TurnPlan) -> Vec<(usize, Vec<u32>)> {
        let visits = plan.visits().iter();
        let streams = |visit| plan.streams(visit).map(|stream| stream.index).collect();
        visits.map(|visit| (visit.viewer.position(), streams(visit))).collect()
    }

    #[test]
    fn viewer_of_several_streams_is_visited_once_per_pass() {
        let [a, b, c] = [0, 1, 2].map(|slot| SessionKey::new(slot, 0));
        let mut plan = TurnPlan::default();
        for _ in 0..3 {
            plan.begin();
            plan.add(stream(7), &[a, b]);
            plan.add(stream(8), &[b, c]);
            plan.add(stream(9), &[b, a]);
            assert_eq!(planned(&plan), [(0, vec![7, 9]), (1, vec![7, 8, 9]), (2, vec![8])]);
        }
        plan.begin();
        assert!(planned(&plan).is_empty(), "the pass before is forgotten");
    }

    #[test]
    fn marks_of_old_passes_and_old_sessions_are_ignored() {
        let [old, new] = [SessionKey::new(0, 1), SessionKey::new(0, 2)];
        let mut plan = TurnPlan { pass: u32::MAX - 1, ..TurnPlan::default() };
        for _ in 0..3 {
            plan.begin();
            plan.add(stream(1), &[old]);
            assert_eq!(planned(&plan), [(0, vec![1])]);
        }
        plan.add(stream(2), &[new]);
        assert_eq!(planned(&plan), [(0, vec![1]), (0, vec![2])]);
    }
}
