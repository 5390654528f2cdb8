//! The streams of one worker by their small global index.

use std::sync::Arc;

use super::stream::LocalStream;
use crate::media::PacketPool;
use crate::router::{StreamId, StreamShared};

/// Streams that have a publisher or a viewer on this worker.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Option<LocalStream>>);

impl Streams {
    /// The stream, if it is open here and the id is not of an earlier generation.
    pub(super) fn get(&self, id: StreamId) -> Option<&LocalStream> {
        self.0.get(id.index as usize)?.as_ref().filter(|stream| stream.shared.id == id)
    }

    /// The stream, if it is open here and the id is not of an earlier generation.
    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut LocalStream> {
        self.0.get_mut(id.index as usize)?.as_mut().filter(|stream| stream.shared.id == id)
    }

    /// The stream, which is opened if it was not open.
    pub(super) fn open(&mut self, shared: &Arc<StreamShared>) -> &mut LocalStream {
        let index = shared.id.index as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        let slot = &mut self.0[index];
        slot.take_if(|stream| stream.shared.id != shared.id);
        slot.get_or_insert_with(|| LocalStream::new(Arc::clone(shared)))
    }

    /// Closes the stream if it has neither publisher nor viewers here any more.
    pub(super) fn close_unused(&mut self, id: StreamId, pool: &mut PacketPool) {
        if self.get(id).is_some_and(LocalStream::is_unused)
            && let Some(slot) = self.0.get_mut(id.index as usize)
            && let Some(mut stream) = slot.take()
        {
            stream.clear(pool);
        }
    }

    /// All open streams.
    pub(super) fn iter(&self) -> impl Iterator<Item = &LocalStream> {
        self.0.iter().flatten()
    }

    /// Ids of all open streams.
    pub(super) fn ids(&self) -> Vec<StreamId> {
        self.iter().map(|stream| stream.shared.id).collect()
    }
}
