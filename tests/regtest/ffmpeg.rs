//! What the `ffmpeg` and `ffprobe` of this machine say of the bytes. Where they are missing, the tests fail.

use std::path::Path;
use std::process::{Command, Output};

use crate::world::server::{run, utf8};

fn checked(output: &Output) -> String {
    let wrong = utf8(&output.stderr);
    assert!(output.status.success() && wrong.is_empty(), "{}: {wrong}", output.status);
    utf8(&output.stdout)
}

/// Decodes everything, with not one complaint.
pub async fn decodes(input: &Path) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(input).args(["-f", "null", "-"]);
    checked(&run(command).await);
}

/// The pictures of the video track, each decoded, and its height.
pub async fn frames_and_height(input: &Path) -> (u32, u32) {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-count_frames", "-select_streams", "v:0"]);
    command.args(["-show_entries", "stream=height,nb_read_frames", "-of", "csv=p=0"]).arg(input);
    let text = checked(&run(command).await);
    // A playlist's stream is listed once more, under its program.
    let line = text.lines().find(|line| !line.is_empty()).unwrap_or_default();
    let (height, frames) = line.trim_end_matches(',').split_once(',').expect(&text);
    (frames.parse().expect(&text), height.parse().expect(&text))
}
