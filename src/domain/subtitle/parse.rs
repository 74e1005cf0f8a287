//! Reads WebVTT and SRT as creators send them: UTF-8, any line ends, with or without a byte order mark.

use super::{CUES_MAX, Cue};
use crate::domain::video::Ticks;

/// Bytes of one cue that are read: it shows a thousand characters, and has markup beside them.
const BLOCK_BYTES_MAX: usize = 16 << 10;

/// Why a file is no subtitles, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct SubtitleError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// The cues of a WebVTT or an SRT file, by their start. Styles, regions, positions and markup are left out.
///
/// # Errors
/// [`SubtitleError`] with the line where a text is neither.
pub fn parse(bytes: &[u8]) -> Result<Vec<Cue>, SubtitleError> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let breaks = before.iter().filter(|byte| **byte == b'\n').count();
        fault(breaks.saturating_add(1), "this is not UTF-8: save the file as UTF-8")
    })?;
    let mut lines = Lines::new(text);
    let srt = match lines.peek() {
        Some((_, first)) if is_signature(first) => {
            // The signature's own block: what else stands in it is a header.
            lines.skip_block();
            false
        }
        _ => true,
    };
    let mut cues = Vec::new();
    while let Some((at, line)) = lines.next_filled() {
        let kind = line.split([' ', '\t']).next().unwrap_or_default();
        if !srt && !line.contains("-->") && matches!(kind, "NOTE" | "STYLE" | "REGION") {
            lines.skip_block();
            continue;
        }
        let (at, times) = if line.contains("-->") {
            (at, line)
        } else {
            // Its number or name.
            match lines.peek().filter(|(_, next)| next.contains("-->")) {
                Some(next) => {
                    lines.next();
                    next
                }
                None => return Err(no_cue(at, srt && cues.is_empty())),
            }
        };
        let (start, end) = times_of(times).ok_or_else(|| {
            fault(
                at,
                "the times of a cue are `00:00:01.000 --> 00:00:02.000` (SRT: `00:00:01,000`)",
            )
        })?;
        if end <= start {
            return Err(fault(at, "this cue ends before it begins, or at once"));
        }
        let shown = lines
            .block()
            .into_iter()
            .map(|line| unmarked(line, srt))
            .collect::<Vec<_>>()
            .join("\n");
        if cues.len() >= CUES_MAX {
            return Err(fault(at, &format!("there are more than {CUES_MAX} cues")));
        }
        cues.extend(Cue::new(start, end, &shown));
    }
    if cues.is_empty() {
        return Err(fault(
            1,
            "there is no cue in this file: it is neither WebVTT nor SRT, or empty",
        ));
    }
    cues.sort_by_key(|cue| (cue.start, cue.end));
    Ok(cues)
}

fn is_signature(line: &str) -> bool {
    line.strip_prefix("WEBVTT").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
}

fn no_cue(line: usize, first: bool) -> SubtitleError {
    fault(
        line,
        if first {
            "this is neither WebVTT (it begins with WEBVTT) nor SRT (a number, then times)"
        } else {
            "a cue was expected here: a line with `-->` and its text, blank lines between cues"
        },
    )
}

fn fault(line: usize, reason: &str) -> SubtitleError {
    SubtitleError { line, reason: reason.to_owned() }
}

/// Both times of a line; settings behind them are passed over.
fn times_of(line: &str) -> Option<(Ticks, Ticks)> {
    let (start, rest) = line.split_once("-->")?;
    Some((time(start.trim())?, time(rest.split_whitespace().next()?)?))
}

/// `HH:MM:SS.mmm` or `MM:SS.mmm`; SRT has a comma.
fn time(text: &str) -> Option<Ticks> {
    let (clock, ms) = text.split_once(['.', ','])?;
    let number = |digits: &str| -> Option<u64> {
        let plain = (1..=6).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    let ms = (ms.len() == 3).then(|| number(ms)).flatten()?;
    let parts: Vec<u64> = clock.split(':').map(number).collect::<Option<_>>()?;
    let (hours, minutes, second) = match *parts.as_slice() {
        [minutes, seconds] => (0, minutes, seconds),
        [hours, minutes, seconds] => (hours, minutes, seconds),
        _ => return None,
    };
    if minutes > 59 || second > 59 {
        return None;
    }
    let seconds = hours.checked_mul(3_600)?.checked_add(minutes.checked_mul(60)?)?;
    let seconds = seconds.checked_add(second)?;
    Some(Ticks::from_millis(seconds.checked_mul(1_000)?.checked_add(ms)?))
}

/// A line without tags (`<i>`; in SRT `{\an8}` as well), its entities decoded.
fn unmarked(line: &str, srt: bool) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    // Where nothing closes a tag here, nothing closes a later one: no line is searched twice.
    let (mut tags, mut overrides) = (true, srt);
    while let Some(at) = rest.find(['<', '{', '&']) {
        let (before, from) = rest.split_at(at);
        plain.push_str(before);
        let whole = match from.as_bytes() {
            [b'<', next, ..] if tags && (next.is_ascii_alphanumeric() || *next == b'/') => {
                let whole = through(from, '>');
                tags = whole.is_some();
                whole.map(|(_, after)| ("", after))
            }
            [b'{', b'\\', ..] if overrides => {
                let whole = through(from, '}');
                overrides = whole.is_some();
                whole.map(|(_, after)| ("", after))
            }
            [b'&', ..] => entity(from),
            _ => None,
        };
        match whole {
            Some((shown, after)) => {
                plain.push_str(shown);
                rest = after;
            }
            None => {
                // A sign that means itself; all three are one byte long.
                let (sign, after) = from.split_at(1);
                plain.push_str(sign);
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

/// A text up to a sign and with it, and what is behind.
fn through(text: &str, end: char) -> Option<(&str, &str)> {
    text.find(end).and_then(|at| text.split_at_checked(at.saturating_add(end.len_utf8())))
}

/// What an entity at the start of a text stands for, and what is behind it; the entities are those that WebVTT has.
fn entity(text: &str) -> Option<(&'static str, &str)> {
    let entities = [
        ("&amp;", "&"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&nbsp;", "\u{a0}"),
        ("&lrm;", "\u{200e}"),
        ("&rlm;", "\u{200f}"),
        ("&quot;", "\""),
    ];
    entities.into_iter().find_map(|(name, shown)| Some((shown, text.strip_prefix(name)?)))
}

/// Lines with their numbers, whatever ends them.
struct Lines<'a> {
    rest: Option<&'a str>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: Some(text), number: 1 }
    }

    fn peek(&self) -> Option<(usize, &'a str)> {
        Self { rest: self.rest, number: self.number }.next()
    }

    fn next(&mut self) -> Option<(usize, &'a str)> {
        let rest = self.rest?;
        let number = self.number;
        self.number = number.saturating_add(1);
        let Some(end) = rest.find(['\n', '\r']) else {
            self.rest = None;
            return Some((number, rest));
        };
        let (line, after) = rest.split_at(end);
        let after = after.strip_prefix("\r\n").or_else(|| after.strip_prefix(['\n', '\r']));
        self.rest = after;
        Some((number, line))
    }

    /// The next line that is not blank.
    fn next_filled(&mut self) -> Option<(usize, &'a str)> {
        loop {
            let (number, line) = self.next()?;
            if !line.trim().is_empty() {
                return Some((number, line));
            }
        }
    }

    /// The lines up to a blank one; what is beyond [`BLOCK_BYTES_MAX`] is passed over.
    fn block(&mut self) -> Vec<&'a str> {
        let mut lines = Vec::new();
        let mut left = BLOCK_BYTES_MAX;
        while let Some((_, line)) = self.next().filter(|(_, line)| !line.trim().is_empty()) {
            let mut end = line.len().min(left);
            while !line.is_char_boundary(end) {
                end = end.saturating_sub(1);
            }
            if left > 0 {
                lines.extend(line.get(..end));
            }
            left = left.saturating_sub(line.len().saturating_add(1));
        }
        lines
    }

    fn skip_block(&mut self) {
        while self.next().is_some_and(|(_, line)| !line.trim().is_empty()) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<(u64, u64, String)> {
        let cues = parse(text.as_bytes()).unwrap();
        cues.iter().map(|c| (c.start().millis(), c.end().millis(), c.text().to_owned())).collect()
    }

    #[test]
    fn webvtt_and_srt_are_read_with_any_line_ends() {
        let vtt = "\u{feff}WEBVTT - a film\nX-TIMESTAMP-MAP=LOCAL:0\n\nSTYLE\n::cue { color: red }\n\n\
                   NOTE --\n\nname\n00:01.000 --> 00:02.500 align:left\n<v Ada><i>One</i> &amp; two\nthree\n\n\
                   100:00:03.000 --> 100:00:04.000\nfour\n";
        let expected = [
            (1_000, 2_500, "One & two\nthree".to_owned()),
            (360_003_000, 360_004_000, "four".into()),
        ];
        assert_eq!(shown(vtt), expected);
        assert_eq!(shown(&vtt.replace('\n', "\r\n")), expected);
        assert_eq!(shown(&vtt.replace('\n', "\r")), expected);
        let srt = "1\n00:00:01,000 --> 00:00:02,500\n{\\an8}<font color=\"red\">One</font> < 2 & {3}\n\n\n\
                   2\n00:00:00,500 --> 00:00:04,000\n\nzero";
        assert!(parse(srt.as_bytes()).is_err(), "a text where a cue was expected");
        let srt = srt.replace("4,000\n\n", "4,000\n");
        assert_eq!(
            shown(&srt),
            [(500, 4_000, "zero".into()), (1_000, 2_500, "One < 2 & {3}".to_owned())],
            "by their start, overlapping as they may"
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let line = |text: &[u8]| parse(text).unwrap_err().line;
        assert_eq!(line(b""), 1);
        assert_eq!(line(b"WEBVTT\n"), 1);
        assert_eq!(line(b"hello\nworld"), 1);
        assert_eq!(line(b"WEBVTT\n\n00:02.000 --> 00:01.000\nreversed"), 3);
        assert_eq!(line(b"WEBVTT\r\n\r\n00:01.000 --> 00:61.000\r\nx"), 3);
        assert_eq!(line(b"1\n00:00:01,000 --> 00:00:02,00\nx"), 2);
        assert_eq!(line(b"WEBVTT\n\n\xff\n"), 3);
        assert_eq!(line(b"WEBVTT\n\n99999999:00:00.000 --> 99999999:00:01.000\nx"), 3);
        assert_eq!(line(b"%PDF-1.4\n\n"), 1);
    }

    #[test]
    fn a_million_cues_are_refused() {
        let mut text = "WEBVTT\n".to_owned();
        for _ in 0..1_000_000 {
            text.push_str("\n00:01.000 --> 00:02.000\nx\n");
        }
        let error = parse(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("more than 20000 cues"), "{error}");
    }

    /// Each took minutes where the end of a tag was looked for from every sign.
    #[test]
    fn signs_that_nothing_closes_take_no_longer_than_other_text() {
        for sign in ["&", "<a", "{\\", "é&"] {
            let line = sign.repeat((4 << 20) / sign.len());
            let text = format!("1\n00:00:01,000 --> 00:00:02,000\n{line};");
            let cues = parse(text.as_bytes()).unwrap();
            assert!(cues[0].text().starts_with(sign), "{sign}");
            assert_eq!(cues[0].text().chars().count(), 1_000, "{sign}");
        }
        // The same of a line that is cut: each sign is looked at once.
        let line = "<a{\\".repeat(64 << 10);
        assert_eq!(unmarked(&line, true), line);
    }

    #[test]
    fn markup_goes_and_what_only_looks_like_it_stays() {
        for (line, plain) in [
            ("<b>a</b>", "a"),
            ("<script>alert(1)</script>", "alert(1)"),
            ("a <3 b", "a <3 b"),
            ("1 < 2 > 0", "1 < 2 > 0"),
            ("&lt;b&gt; &unknown; &", "<b> &unknown; &"),
            ("{\\i1}x{\\i0} {y}", "x {y}"),
            ("é<i>é", "éé"),
        ] {
            assert_eq!(unmarked(line, true), plain, "{line}");
        }
        assert_eq!(unmarked("{\\i1}x", false), "{\\i1}x", "WebVTT has no such thing");
    }
}
