//! Extras as players and pages read them: pure text from records.

use std::fmt::Write as _;

use super::{Around, Made};
use crate::domain::subtitle::{escaped, timing};
use crate::domain::video::Ticks;

/// What a waveform's samples are counted in.
const SAMPLE_RATE: u32 = 48_000;

/// The storyboard as WebVTT: each cue names a sheet and a place in it (Media Fragments, section 4.2.2); `None` where there is none.
pub fn storyboard_vtt(made: &Made, end: Ticks) -> Option<String> {
    let board = made.storyboard.as_ref()?;
    let each = board.columns.saturating_mul(board.rows).max(1);
    let ends = board.tiles.iter().copied().skip(1).chain([end]);
    let mut text = "WEBVTT\n".to_owned();
    for ((number, start), end) in (0_u32..).zip(board.tiles.iter().copied()).zip(ends) {
        let start = if number == 0 { Ticks::new(0) } else { start };
        let place = number % each;
        let (column, row) =
            (place % board.columns.max(1), place.checked_div(board.columns).unwrap_or(0));
        let (width, height) = (board.tile_width, board.tile_height);
        let (x, y) = (column.saturating_mul(width), row.saturating_mul(height));
        let sheet = number / each;
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n{}\nsheet-{sheet}.jpg#xywh={x},{y},{width},{height}\n",
            timing(start, end)
        );
    }
    Some(text)
}

/// The chapters as WebVTT; `None` where there are none.
pub fn chapters_vtt(around: &Around) -> Option<String> {
    let chapters = &around.made.chapters;
    let mut text = "WEBVTT\n".to_owned();
    for (number, chapter) in (1..).zip(chapters) {
        let title = match chapter.title.as_str() {
            "" => format!("Chapter {number}"),
            title => escaped(title),
        };
        let _ = write!(text, "\n{}\n{title}\n", timing(chapter.start, chapter.end));
    }
    (!chapters.is_empty()).then_some(text)
}

/// The waveform in the JSON of `audiowaveform`, version 2: least and greatest value of each bucket in turn, of 8 bits; `None` where there is
/// none.
pub fn waveform_json(made: &Made) -> Option<String> {
    let waveform = made.waveform.as_ref()?;
    let data: Vec<i8> =
        waveform.peaks.iter().flat_map(|(least, greatest)| [*least, *greatest]).collect();
    let json = serde_json::json!({
        "version": 2,
        "channels": 1,
        "sample_rate": SAMPLE_RATE,
        "samples_per_pixel": waveform.samples_per_bucket,
        "bits": 8,
        "length": waveform.peaks.len(),
        "data": data,
    });
    Some(json.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::extras::{Chapter, Storyboard, Waveform};

    #[test]
    fn a_storyboard_names_sheets_and_places_without_a_gap() {
        let board = Storyboard {
            sheets: Vec::new(),
            columns: 2,
            rows: 1,
            tile_width: 160,
            tile_height: 90,
            interval: Ticks::from_millis(5_000),
            tiles: [1, 6, 12].map(|s| Ticks::from_millis(s * 1_000)).to_vec(),
        };
        let made = Made { storyboard: Some(board), ..Made::default() };
        assert_eq!(
            storyboard_vtt(&made, Ticks::from_millis(15_500)).unwrap(),
            "WEBVTT\n\n00:00:00.000 --> 00:00:06.000\nsheet-0.jpg#xywh=0,0,160,90\n\
             \n00:00:06.000 --> 00:00:12.000\nsheet-0.jpg#xywh=160,0,160,90\n\
             \n00:00:12.000 --> 00:00:15.500\nsheet-1.jpg#xywh=0,0,160,90\n"
        );
        assert_eq!(storyboard_vtt(&Made::default(), Ticks::new(1)), None);
    }

    #[test]
    fn chapters_are_escaped_and_a_waveform_has_the_usual_form() {
        let chapter = |start, end, title: &str| Chapter {
            start: Ticks::from_millis(start),
            end: Ticks::from_millis(end),
            title: title.to_owned(),
        };
        let chapters = vec![chapter(0, 1_000, "<b>A --> B"), chapter(1_000, 2_000, "")];
        let waveform = Waveform { samples_per_bucket: 480, peaks: vec![(-3, 4), (0, 0)] };
        let made = Made { chapters, waveform: Some(waveform), ..Made::default() };
        let json: serde_json::Value = serde_json::from_str(&waveform_json(&made).unwrap()).unwrap();
        assert_eq!(json["data"], serde_json::json!([-3, 4, 0, 0]));
        assert_eq!((&json["length"], &json["bits"]), (&2.into(), &8.into()));
        let around = Around { made, ..Around::default() };
        assert_eq!(
            chapters_vtt(&around).unwrap(),
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n&lt;b&gt;A --&gt; B\n\
             \n00:00:01.000 --> 00:00:02.000\nChapter 2\n"
        );
    }
}
