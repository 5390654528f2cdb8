//! Keys of one worker's sessions, for maps and queues that do not know sessions.

/// Position of a session in its worker's table, with the generation of that position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SessionKey {
    index: u32,
    generation: u32,
}

impl SessionKey {
    /// The key of a position and its generation.
    pub(super) fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }

    /// Position in the table; a small number that is used again.
    pub(super) fn position(self) -> usize {
        self.index as usize
    }

    pub(super) fn index(self) -> u32 {
        self.index
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
    }
}
