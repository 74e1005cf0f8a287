//! What people upload, one kind a test.

use std::path::Path;

use sluice::media::{Error, Loudness, Options};

use crate::made::{Made, ffmpeg, ffprobe, make, options};

const PICTURE: &str = "-f lavfi -i testsrc2=s=320x240:r=25:d=3";
const SOUND: &str = "-f lavfi -i sine=f=440:d=3:r=48000";

async fn made(words: &str, options: &Options) -> Made {
    let directory = tempfile::tempdir().unwrap();
    let source = ffmpeg(directory.path(), words);
    make(&source, options, 300).await.unwrap_or_else(|error| panic!("{words}: {error}"))
}

/// Codec, width and height of the pictures; codec, rate and channels of the sound.
fn streams(file: &Path) -> String {
    let words = "-show_entries stream=codec_name,width,height,sample_rate,channels";
    ffprobe(file, words).replace('\n', " ")
}

async fn becomes(words: &str, rung: &str, shape: &str, frames: u64) {
    let made =
        made(words, &Options { crf: 30, loudness_lufs: Loudness::default(), ..options() }).await;
    let file = made.whole(rung);
    assert_eq!(streams(&file), shape, "{words}");
    assert_eq!(made.frames(), frames, "{words}");
    if frames > 0 {
        let count =
            ffprobe(&file, "-count_frames -select_streams v -show_entries stream=nb_read_frames");
        assert_eq!(count, frames.to_string(), "{words}");
    }
}

const BOTH: &str = "h264,160,120 aac,48000,2";

#[tokio::test]
async fn pictures_without_sound() {
    becomes(&format!("{PICTURE} a.mp4"), "120p", "h264,160,120", 75).await;
}

#[tokio::test]
async fn music_with_a_cover_and_in_every_usual_codec() {
    let cover =
        "-f lavfi -i color=red:s=300x300:d=0.04 -map 0:a -map 1:v -disposition:v attached_pic";
    becomes(&format!("{SOUND} {cover} -c:v mjpeg -c:a aac a.m4a"), "audio", "aac,48000,2", 0).await;
    for name in ["a.mp3", "a.flac", "a.opus", "a.ogg", "a.wav"] {
        becomes(&format!("{SOUND} {name}"), "audio", "aac,48000,2", 0).await;
    }
}

#[tokio::test]
async fn pictures_of_every_usual_kind() {
    let both = format!("{PICTURE} {SOUND}");
    for (words, shape, frames) in [
        ("-vf crop=319:239 -c:v ffv1 a.mkv", "h264,160,120 aac,48000,2", 75),
        ("-pix_fmt yuv444p -c:v libx264 a.mp4", BOTH, 75),
        ("-pix_fmt yuv420p10le -c:v libx265 -x265-params log-level=none a.mp4", BOTH, 75),
        (
            "-vf setsar=2/1 -flags +ildct+ilme -c:v mpeg2video -r 25 a.mpg",
            "h264,266,120 aac,48000,2",
            75,
        ),
        ("-output_ts_offset 1000 -c:v libx264 a.ts", BOTH, 75),
        ("-g 10000 -c:v libx264 a.mp4", BOTH, 75),
        ("-ac 6 -c:v libx264 a.mkv", BOTH, 75),
        ("-vf select='mod(n,5)' -fps_mode vfr -c:v libx264 a.mp4", BOTH, 74),
    ] {
        becomes(&format!("{both} {words}"), "120p", shape, frames).await;
    }
}

#[tokio::test]
async fn sound_that_outlasts_the_picture_is_heard_to_its_end() {
    let words = format!("{PICTURE} -f lavfi -i sine=d=6 -c:v libx264 a.mp4");
    becomes(&words, "120p", BOTH, 150).await;
}

#[tokio::test]
async fn what_is_no_media_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let film = ffmpeg(directory.path(), &format!("{PICTURE} -movflags +faststart a.mp4"));
    let whole = std::fs::read(&film).unwrap();
    for (bytes, reason) in [
        (&b""[..], "empty"),
        (b"hello", "not a video or audio file"),
        (&whole[..whole.len() / 2], "incomplete"),
    ] {
        let file = directory.path().join("bad");
        std::fs::write(&file, bytes).unwrap();
        match make(&file, &options(), 300).await {
            Err(Error::Source(told)) => assert!(told.contains(reason), "{told}"),
            other => panic!("{reason}: {:?}", other.map(|made| made.plan)),
        }
    }
}

#[tokio::test]
async fn a_film_whose_key_frames_fit_is_copied_packet_for_packet() {
    let directory = tempfile::tempdir().unwrap();
    let words = "-f lavfi -i testsrc2=s=160x120:r=25:d=7 -f lavfi -i sine=d=7:r=48000 -pix_fmt yuv420p \
                 -c:v libx264 -g 50 -bf 2 -sc_threshold 0 -c:a aac a.mp4";
    let source = ffmpeg(directory.path(), words);
    let made = make(&source, &options(), 300).await.unwrap();
    assert!(made.plan.pictures.as_ref().unwrap().copied.is_some(), "{:?}", made.survey);
    assert!(made.plan.sound.as_ref().unwrap().copied);
    let packets = |file: &Path| {
        let words = "-select_streams v -show_entries packet=size,flags";
        ffprobe(file, words)
    };
    let file = made.whole("120p");
    assert_eq!(packets(&file).lines().count(), 175);
    assert_eq!(crate::made::pictures(&file), crate::made::pictures(&source));
}
