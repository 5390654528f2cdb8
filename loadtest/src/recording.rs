//! The file that `--record` writes: frames in a container that any decoder reads.
//!
//! Called by `viewer`. Never opens the file itself.

use crate::options::Codec;

/// The bytes of a file with `frames`: Annex B for H.264, which needs no container; IVF for VP8.
pub(crate) fn container(codec: Codec, fps: u32, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    if codec == Codec::Vp8 {
        // 32 bytes of header (the size is only a hint, 640x360), and 12 bytes before each frame.
        file.extend_from_slice(b"DKIF\0\0\x20\0VP80\x80\x02\x68\x01");
        file.extend_from_slice(&fps.to_le_bytes());
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&(frames.len() as u32).to_le_bytes());
        file.extend_from_slice(&[0; 4]);
    }
    for (n, frame) in frames.iter().enumerate() {
        if codec == Codec::Vp8 {
            file.extend_from_slice(&(frame.len() as u32).to_le_bytes());
            file.extend_from_slice(&(n as u64).to_le_bytes());
        }
        file.extend_from_slice(frame);
    }
    file
}
