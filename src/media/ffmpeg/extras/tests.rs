//! On files that the `ffmpeg` command makes.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::*;
use crate::media::extras::{APART, LINES_MAX, checked};
use crate::media::ffmpeg::begin;
use crate::media::fixture;

/// Sources and what was made of them.
struct Bench {
    directory: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// Runs the command; the last argument is the file's name.
    fn ffmpeg(&self, arguments: &str) -> PathBuf {
        let mut arguments: Vec<&str> = arguments.split_whitespace().collect();
        let file = arguments.pop().unwrap();
        let made = Command::new("ffmpeg")
            .current_dir(self.directory.path())
            .args(["-nostdin", "-loglevel", "error", "-y"])
            .args(arguments)
            .arg(file)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.path(file)
    }

    fn extras(&self, source: &Path, seconds: u64, pictures: bool) -> Extras {
        begin();
        let output = self.path("out");
        // A second film in the same test begins anew.
        let _ = fs::remove_dir_all(&output);
        fs::create_dir(&output).unwrap();
        let order = ExtrasOrder {
            source: source.to_owned(),
            output: output.clone(),
            options: fixture::options(),
            duration: Ticks::from_millis(seconds * 1_000),
            pictures,
            sound: !pictures,
        };
        extras(&order, File::open(source).unwrap(), &mut || Ok(())).unwrap();
        let told = serde_json::from_slice(&fs::read(output.join(TOLD)).unwrap()).unwrap();
        checked(&output, &order, told).unwrap()
    }

    /// What `ffprobe` says of a file that was made.
    fn probe(&self, file: &str, entries: &str) -> String {
        let probed = Command::new("ffprobe")
            .args(["-loglevel", "warning", "-of", "csv=p=0", "-show_entries", entries])
            .arg(self.path("out").join(file))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&probed.stderr), "", "without a warning");
        String::from_utf8(probed.stdout).unwrap().trim().to_owned()
    }
}

#[test]
fn a_film_with_a_key_frame_a_second_has_a_still_each_five_seconds() {
    let bench = Bench::new();
    let film = bench.ffmpeg(
        "-f lavfi -i color=black:s=1280x720:r=10:d=5 -f lavfi -i testsrc2=s=1280x720:r=10:d=57 \
         -filter_complex [0][1]concat -g 10 -preset ultrafast film.mp4",
    );
    let made = bench.extras(&film, 62, true);
    let board = made.storyboard.unwrap();
    let seconds: Vec<u64> = board.tiles.iter().map(|tile| tile.millis() / 1_000).collect();
    assert_eq!(seconds, [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60]);
    assert_eq!((board.sheets.len(), board.interval), (1, APART));
    assert_eq!((board.tile_width, board.tile_height), (160, 90));
    assert_eq!((board.sheets[0].width, board.sheets[0].height), (800, 3 * 90));
    let poster = made.poster.unwrap();
    assert_eq!((poster.width, poster.height), (426, LINES_MAX));
    assert!(poster.bytes > 8_000, "the black beginning is no poster: {}", poster.bytes);
    let iframes = made.iframes.unwrap();
    assert_eq!((iframes.frames.len(), iframes.height), (13, LINES_MAX));
    assert!(iframes.codecs.starts_with("avc1."), "{}", iframes.codecs);
    let frames = bench.probe("iframes.mp4", "frame=key_frame,pts_time");
    let frames: Vec<&str> = frames
        .lines()
        .map(|line| line.trim_end_matches(','))
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(frames[..3], ["1,0.000000", "1,5.000000", "1,10.000000"]);
    assert_eq!(frames.len(), 13);
    assert_eq!(made.waveform, None);
}

#[test]
fn more_stills_than_one_sheet_holds_go_on_the_next() {
    let bench = Bench::new();
    let film =
        bench.ffmpeg("-f lavfi -i testsrc2=s=320x180:r=2:d=131 -g 10 -preset ultrafast film.mkv");
    let board = bench.extras(&film, 131, true).storyboard.unwrap();
    assert_eq!(board.tiles.len(), 27);
    let sizes: Vec<_> = board.sheets.iter().map(|sheet| (sheet.width, sheet.height)).collect();
    assert_eq!(sizes, [(800, 450), (800, 90)]);
    assert_eq!(bench.probe("sheet-1.jpg", "stream=width,height"), "800,90");
}

#[test]
fn stills_are_upright_and_a_small_picture_is_not_enlarged() {
    let bench = Bench::new();
    bench.ffmpeg("-f lavfi -i testsrc2=s=160x90:r=5:d=7 -g 5 -preset ultrafast flat.mp4");
    let film = bench.ffmpeg("-i flat.mp4 -c copy -metadata:s:v rotate=90 upright.mp4");
    let made = bench.extras(&film, 7, true);
    let poster = made.poster.unwrap();
    assert_eq!((poster.width, poster.height), (90, 160));
}

#[test]
fn subtitles_and_chapters_of_a_film_are_read_and_plain() {
    let bench = Bench::new();
    bench.write(
        "a.srt",
        "1\n00:00:01,000 --> 00:00:02,000\n<i>Hello</i> <script>alert(1)</script>\n\n\
         2\n00:00:03,500 --> 00:00:04,000\nA --> B & C\n\n",
    );
    bench.write(
        "b.ass",
        "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname\nStyle: Default,Arial\n\n\
         [Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n\
         Dialogue: 0,0:00:00.50,0:00:09.00,Default,,0,0,0,,{\\b1}Two\\Nlines{\\b0}\n",
    );
    bench.write(
        "meta.txt",
        ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=2000\ntitle=One\\\nTwo\n\
         [CHAPTER]\nTIMEBASE=1/1000\nSTART=2000\nEND=9000\ntitle=<b>\n",
    );
    let inputs = "-f lavfi -i testsrc2=s=160x90:r=5:d=6 -i a.srt -i b.ass -i meta.txt -map 0 -map 1 -map 2 \
                  -map_metadata 3 -metadata:s:s:0 language=eng -metadata:s:s:1 language=ger \
                  -metadata:s:s:1 title=Untertitel -disposition:s:1 forced -preset ultrafast";
    for (codecs, file) in [("-c:s:0 srt -c:s:1 ass", "film.mkv"), ("-c:s mov_text", "film.mp4")] {
        let film = bench.ffmpeg(&format!("{inputs} {codecs} {file}"));
        let made = bench.extras(&film, 6, true);
        let tracks: Vec<_> =
            made.subtitles.iter().map(|of| of.language.clone().unwrap().to_string()).collect();
        assert_eq!(tracks, ["en", "de"], "{file}");
        let cues = |n: usize| -> Vec<(u64, u64, &str)> {
            let cues = made.subtitles[n].cues.iter();
            cues.map(|cue| (cue.start().millis(), cue.end().millis(), cue.text())).collect()
        };
        let said = cues(0);
        assert_eq!(said[1], (3_500, 4_000, "A --> B & C"), "{file}");
        assert!(
            said[0].2.starts_with("Hello") && (said[0].0, said[0].1) == (1_000, 2_000),
            "{said:?}"
        );
        assert_eq!(cues(1), [(500, 6_000, "Two\nlines")], "no longer than the film: {file}");
        assert!(made.subtitles[1].forced && !made.subtitles[0].forced, "{file}");
        let chapters: Vec<_> = made
            .chapters
            .iter()
            .map(|of| (of.start.millis(), of.end.millis(), of.title.as_str()))
            .collect();
        assert_eq!(chapters, [(0, 2_000, "OneTwo"), (2_000, 6_000, "<b>")], "{file}");
    }
}

#[test]
fn a_recording_has_a_waveform_and_its_cover_as_poster() {
    let bench = Bench::new();
    bench.ffmpeg("-f lavfi -i testsrc2=s=3000x3000:d=1 -frames:v 1 cover.png");
    bench.ffmpeg(
        "-f lavfi -i sine=d=4:r=44100 -f lavfi -i anullsrc=r=44100:d=4 -filter_complex [0][1]concat=v=0:a=1 \
         sound.mp3",
    );
    let film = bench.ffmpeg(
        "-i sound.mp3 -i cover.png -map 0 -map 1 -c copy -disposition:v attached_pic -id3v2_version 3 song.mp3",
    );
    let made = bench.extras(&film, 8, false);
    let poster = made.poster.unwrap();
    assert_eq!((poster.width, poster.height), (LINES_MAX, LINES_MAX));
    assert_eq!(bench.probe("poster.jpg", "stream=codec_name,pix_fmt"), "mjpeg,yuvj420p");
    let waveform = made.waveform.unwrap();
    assert_eq!((waveform.peaks.len(), waveform.samples_per_bucket), (1_795, 214));
    assert!(waveform.peaks[100].1 > 10 && waveform.peaks[100].0 < -10, "{:?}", waveform.peaks[100]);
    assert_eq!(waveform.peaks[1_700], (0, 0), "the second half is silent");
    assert_eq!((made.storyboard, made.iframes), (None, None));
}

#[test]
fn a_cover_that_unpacks_to_too_many_pixels_or_is_no_picture_is_passed_over() {
    let bench = Bench::new();
    bench.ffmpeg("-f lavfi -i color=red:s=8000x8000:d=1 -frames:v 1 bomb.png");
    bench.ffmpeg("-f lavfi -i sine=d=1 sound.flac");
    let attach = "-map 0 -map 1 -c copy -disposition:v attached_pic";
    let film = bench.ffmpeg(&format!("-i sound.flac -i bomb.png {attach} bomb.flac"));
    let made = bench.extras(&film, 1, false);
    assert_eq!(made.poster, None);
    assert!(made.waveform.is_some(), "what else there is stays");
    bench.ffmpeg("-f lavfi -i color=red:s=80x80:d=1 -frames:v 1 small.png");
    let film = bench.ffmpeg(&format!("-i sound.flac -i small.png {attach} small.flac"));
    // The picture becomes an SVG that says it is a PNG.
    let mut bytes = fs::read(&film).unwrap();
    let at = bytes.windows(4).position(|four| four == b"\x89PNG").unwrap();
    bytes[at..at + 40].copy_from_slice(b"<svg><image href='file:///etc/passwd'/>!");
    fs::write(&film, bytes).unwrap();
    assert_eq!(bench.extras(&film, 1, false).poster, None);
}

#[test]
fn a_worker_that_lies_about_its_extras_is_not_believed() {
    let bench = Bench::new();
    let film =
        bench.ffmpeg("-f lavfi -i testsrc2=s=320x180:r=5:d=21 -g 5 -preset ultrafast film.mp4");
    let honest = bench.extras(&film, 21, true);
    let output = bench.path("out");
    let order = ExtrasOrder {
        source: film,
        output: output.clone(),
        options: fixture::options(),
        duration: Ticks::from_millis(21_000),
        pictures: true,
        sound: false,
    };
    let believed = |change: fn(&mut Extras)| {
        let mut told = honest.clone();
        change(&mut told);
        checked(&output, &order, told).is_ok()
    };
    assert!(believed(|_| ()));
    let lies: [fn(&mut Extras); 14] = [
        |of| of.poster.as_mut().unwrap().height = 241,
        |of| of.poster.as_mut().unwrap().width += 2,
        |of| of.poster.as_mut().unwrap().file = "../film.mp4".to_owned(),
        |of| of.poster.as_mut().unwrap().file = "sheet-0.jpg".to_owned(),
        |of| of.poster.as_mut().unwrap().bytes += 1,
        |of| of.storyboard.as_mut().unwrap().tiles[1] = Ticks::from_millis(4_999),
        |of| of.storyboard.as_mut().unwrap().tile_height = 241,
        |of| of.storyboard.as_mut().unwrap().interval = Ticks::from_millis(1_000),
        |of| of.storyboard.as_mut().unwrap().sheets.clear(),
        |of| of.storyboard.as_mut().unwrap().columns = u32::MAX,
        |of| of.iframes.as_mut().unwrap().frames[1].start = Ticks::from_millis(5_001),
        |of| of.iframes.as_mut().unwrap().frames[1].length += 1,
        |of| of.iframes.as_mut().unwrap().init = u64::MAX,
        |of| {
            let iframes = of.iframes.as_mut().unwrap();
            let second = iframes.frames.remove(1);
            iframes.frames[0].length += second.length;
        },
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        assert!(!believed(lie), "lie {number}");
    }
    // A file that is another's by a link is none.
    fs::remove_file(output.join("poster.jpg")).unwrap();
    std::os::unix::fs::symlink("sheet-0.jpg", output.join("poster.jpg")).unwrap();
    assert!(!believed(|_| ()));
}

#[test]
fn hdr_and_interlaced_films_have_stills_too() {
    let bench = Bench::new();
    let hdr = bench.ffmpeg(
        "-f lavfi -i testsrc2=s=640x360:r=5:d=6 -vf format=yuv420p10le -c:v libx265 -preset ultrafast \
         -x265-params log-level=error:keyint=5:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc hdr.mp4",
    );
    let fields = bench.ffmpeg(
        "-f lavfi -i testsrc2=s=720x576:r=25:d=6 -vf setsar=64/45 -flags +ildct+ilme -top 1 -c:v mpeg2video -g 12 \
         fields.ts",
    );
    for (film, size) in [(hdr, (426, 240)), (fields, (426, 240))] {
        let made = bench.extras(&film, 6, true);
        let poster = made.poster.unwrap();
        assert_eq!((poster.width, poster.height), size, "{}", film.display());
        assert_eq!(made.storyboard.unwrap().tiles.len(), 2);
    }
}

#[test]
fn a_track_of_a_million_cues_is_cut_and_the_rest_of_the_film_is_not() {
    let bench = Bench::new();
    let cue = "1\n00:00:01,000 --> 00:00:05,000\nover and over\n\n\
               2\n00:00:03,000 --> 00:00:02,000\nreversed\n\n";
    bench.write("many.srt", &cue.repeat(500_000));
    let film = bench.ffmpeg(
        "-f lavfi -i testsrc2=s=160x90:r=5:d=6 -i many.srt -g 5 -preset ultrafast -c:s srt film.mkv",
    );
    let made = bench.extras(&film, 6, true);
    assert!(made.subtitles.iter().all(|of| of.cues.len() <= crate::domain::subtitle::CUES_MAX));
    let cues = made.subtitles.iter().flat_map(|of| &of.cues);
    assert!(cues.clone().count() > 0 && cues.clone().all(|cue| cue.start() < cue.end()));
    assert_eq!(made.storyboard.unwrap().tiles.len(), 2);
}
