//! FFmpeg as an independent decoder of what the generator sends and receives.
//!
//! It is looked for in `$FFMPEG`, in the path, and in Python's `imageio_ffmpeg`. Without an FFmpeg
//! the test fails.

use std::process::{Command, Stdio};

/// Decodes `file`, whose format is that of `extension`. FFmpeg must decode all `frames` frames and
/// print no warning.
pub(crate) fn assert_decodes(file: &[u8], extension: &str, frames: usize) {
    let ffmpeg = find().expect(
        "an ffmpeg to decode with: pip install imageio-ffmpeg==0.8.1, or name one in FFMPEG",
    );
    let dir = tempfile::tempdir().expect("a directory for the recording");
    let path = dir.path().join(format!("recording.{extension}"));
    std::fs::write(&path, file).expect("the recording is written");
    let output = Command::new(ffmpeg)
        .args(["-nostdin", "-v", "warning", "-err_detect", "explode", "-i"])
        .arg(&path)
        .args(["-fps_mode", "passthrough", "-f", "framemd5", "-"])
        .output()
        .expect("ffmpeg runs");
    let warnings = String::from_utf8_lossy(&output.stderr);
    let decoded = String::from_utf8_lossy(&output.stdout);
    let count = decoded.lines().filter(|line| !line.starts_with('#')).count();
    assert!(output.status.success() && warnings.trim().is_empty(), "{extension}: {warnings}");
    assert_eq!(count, frames, "{extension}: frames decoded");
}

/// The path of an FFmpeg that runs.
pub(crate) fn find() -> Option<String> {
    let python = || {
        let script = "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())";
        let output = Command::new("python3").args(["-c", script]).output().ok()?;
        String::from_utf8(output.stdout).ok().map(|path| path.trim().to_owned())
    };
    let runs = |path: &String| {
        let mut command = Command::new(path);
        command.arg("-version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    std::env::var("FFMPEG")
        .ok()
        .filter(runs)
        .or_else(|| Some("ffmpeg".to_owned()).filter(runs))
        .or_else(|| python().filter(runs))
}
