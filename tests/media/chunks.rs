//! Chunks that workers encode apart are the film that one worker makes.

use sluice::media::Piece;

use crate::made::{ffmpeg, make, options, pictures};

const FILM: &str =
    "-f lavfi -i testsrc2=s=320x240:r=25:d=13 -f lavfi -i sine=f=440:d=13 -pix_fmt yuv420p";

async fn same(words: &str) {
    let directory = tempfile::tempdir().unwrap();
    let source = ffmpeg(directory.path(), words);
    let whole = make(&source, &options(), 1_000).await.unwrap();
    let chunks = make(&source, &options(), 4).await.unwrap();
    let count = |pieces: &[Piece]| {
        pieces.iter().filter(|piece| matches!(piece, Piece::Pictures { .. })).count()
    };
    assert_eq!((count(&whole.pieces), count(&chunks.pieces)), (1, 3), "{words}");
    let (whole, chunks, frames) = (whole.whole("120p"), chunks.whole("120p"), whole.frames());
    let (one, other) = (pictures(&whole), pictures(&chunks));
    assert_eq!(one.len() as u64, frames);
    let different: Vec<usize> =
        (0..one.len().max(other.len())).filter(|n| one.get(*n) != other.get(*n)).collect();
    assert!(different.is_empty(), "{words}: {different:?}");
}

#[tokio::test]
async fn a_film_with_closed_groups_and_b_frames_is_the_same_in_chunks() {
    same(&format!("{FILM} -c:v libx264 -g 25 -bf 3 a.mp4")).await;
}

#[tokio::test]
async fn a_film_with_open_groups_is_the_same_in_chunks() {
    same(&format!("{FILM} -c:v libx264 -g 30 -bf 3 -x264-params open-gop=1 a.mkv")).await;
}

#[tokio::test]
async fn a_film_of_another_rate_whose_frames_come_unevenly_is_the_same_in_chunks() {
    same(&format!("{FILM} -vf select='mod(n,7)' -fps_mode vfr -c:v libx264 -g 20 a.mp4")).await;
}

#[tokio::test]
async fn an_interlaced_film_is_the_same_in_chunks() {
    same(&format!("{FILM} -c:v libx264 -g 25 -flags +ildct+ilme -x264-params tff=1 a.mp4")).await;
}
