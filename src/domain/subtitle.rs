//! Subtitles: languages, cues, and the WebVTT that is made of them.
//!
//! The text of a cue is plain from the moment it is made: what a creator's file calls markup is taken out, and what could be read as markup
//! is escaped when it is written, so that nothing in a cue can begin another cue, a style sheet or a script.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::id::IdError;
use super::video::Ticks;

mod parse;

pub use parse::{SubtitleError, parse};

/// The media type of WebVTT (W3C WebVTT, section 8.2).
pub const VTT_TYPE: &str = "text/vtt; charset=utf-8";
/// Cues of one track: three hours of one a second are 10,800.
pub const CUES_MAX: usize = 20_000;
/// Characters of one cue; two lines of forty are usual.
const CUE_CHARS_MAX: usize = 1_000;
/// Lines of one cue.
const CUE_LINES_MAX: usize = 12;
/// Characters of a language tag: what RFC 5646, section 4.4.1, asks programs to take at least.
const LANGUAGE_CHARS_MAX: usize = 35;

/// A language tag (BCP 47: RFC 5646, section 2.1), well-formed and in its canonical case. It is plain enough for paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Language(String);

impl Language {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Nobody knows which (ISO 639-2).
    pub fn undetermined() -> Self {
        Self("und".to_owned())
    }

    /// The `n`th track of a language, told from the others by a private-use subtag.
    #[must_use]
    pub fn another(&self, n: usize) -> Self {
        let base: String = self.0.chars().take(LANGUAGE_CHARS_MAX.saturating_sub(6)).collect();
        format!("{base}-x-{n}").parse().unwrap_or_else(|_| Self(format!("und-x-{n}")))
    }

    /// Without what tells it from other tracks of the same language.
    #[must_use]
    pub fn spoken(&self) -> &str {
        self.0.split_once("-x-").map_or(&self.0, |(spoken, _)| spoken)
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Language {
    type Err = IdError;

    /// In any case, as BCP 47 has it.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let subtags: Vec<String> = text.split('-').map(str::to_ascii_lowercase).collect();
        if text.len() > LANGUAGE_CHARS_MAX || !is_well_formed(&subtags) {
            return Err(IdError("language (BCP 47, such as en or pt-BR)"));
        }
        // RFC 5646, section 2.1.1: regions in capitals, scripts with one, and neither behind a singleton.
        let single = subtags.iter().position(|subtag| subtag.len() == 1).unwrap_or(usize::MAX);
        let cased = subtags.iter().enumerate().map(|(n, subtag)| match subtag.len() {
            2 if n > 0 && n < single => subtag.to_ascii_uppercase(),
            4 if n > 0 && n < single && is_alpha(subtag) => {
                let (first, rest) = subtag.split_at(1);
                format!("{}{rest}", first.to_ascii_uppercase())
            }
            _ => subtag.clone(),
        });
        Ok(Self(cased.collect::<Vec<_>>().join("-")))
    }
}

impl TryFrom<String> for Language {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Language> for String {
    fn from(language: Language) -> Self {
        language.0
    }
}

fn is_alpha(subtag: &str) -> bool {
    subtag.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// The grammar of RFC 5646, section 2.1, without the tags that it keeps for history's sake.
fn is_well_formed(subtags: &[String]) -> bool {
    let alnum = |subtag: &str| {
        (1..=8).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let Some((first, rest)) = subtags.split_first() else { return false };
    if !subtags.iter().all(|subtag| alnum(subtag)) || !is_alpha(first) || first.len() < 2 {
        return false;
    }
    // What may still come: 0 extended language, 1 script, 2 region, 3 variants, 4 extensions.
    let mut stage = 0_u8;
    let mut extended = 0_u8;
    let mut rest = rest.iter().map(String::as_str).peekable();
    while let Some(subtag) = rest.next() {
        let digits = subtag.bytes().all(|byte| byte.is_ascii_digit());
        let next = match subtag.len() {
            1 => {
                // An extension, or private use; something follows, and private use takes all that does.
                let mut any = false;
                while rest.next_if(|next| subtag == "x" || next.len() > 1).is_some() {
                    any = true;
                }
                if !any {
                    return false;
                }
                4
            }
            2 if is_alpha(subtag) && stage < 2 => 2,
            3 if digits && stage < 2 => 2,
            3 if is_alpha(subtag) && stage == 0 && first.len() < 4 && extended < 3 => {
                extended = extended.saturating_add(1);
                0
            }
            4 if is_alpha(subtag) && stage < 1 => 1,
            4 if subtag.starts_with(|c: char| c.is_ascii_digit()) && stage < 4 => 3,
            5..=8 if stage < 4 => 3,
            _ => return false,
        };
        stage = next;
    }
    true
}

/// A text and when it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cue {
    /// When it appears.
    start: Ticks,
    /// When it goes.
    end: Ticks,
    /// Plain lines, none of them empty.
    text: String,
}

impl Cue {
    /// A cue; `None` where it shows nothing, or ends before it begins.
    pub fn new(start: Ticks, end: Ticks, text: &str) -> Option<Self> {
        let text = plain(text);
        (start < end && !text.is_empty()).then_some(Self { start, end, text })
    }

    /// When it appears.
    pub const fn start(&self) -> Ticks {
        self.start
    }

    /// When it goes.
    pub const fn end(&self) -> Ticks {
        self.end
    }

    /// Its lines.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is shown at any time of a span.
    pub fn is_within(&self, (start, end): (Ticks, Ticks)) -> bool {
        self.start < end && self.end > start
    }
}

/// Lines without control characters, none of them empty, none too long.
fn plain(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut left = CUE_CHARS_MAX;
    for line in text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) {
        let line: String = line.chars().filter(|c| !c.is_control()).take(left).collect();
        let line = line.trim();
        if !line.is_empty() && lines.len() < CUE_LINES_MAX {
            left = left.saturating_sub(line.chars().count());
            lines.push(line.to_owned());
        }
    }
    lines.join("\n")
}

/// A name as one line for lists and playlists: without control characters, quotes and what tags are made of, cut to a length.
pub fn name(text: &str, chars_max: usize) -> String {
    let plain =
        text.chars().filter(|c| !c.is_control() && !matches!(c, '"' | '\u{2028}' | '\u{2029}'));
    let plain: String = plain.take(chars_max).collect();
    plain.trim().to_owned()
}

/// A WebVTT file (W3C WebVTT, section 4). `header` is put behind the signature, a line of its own.
pub fn vtt<'a>(header: Option<&str>, cues: impl IntoIterator<Item = &'a Cue>) -> String {
    let mut text = String::from("WEBVTT\n");
    if let Some(header) = header {
        text.push_str(header);
        text.push('\n');
    }
    for cue in cues {
        text.push('\n');
        text.push_str(&timing(cue.start, cue.end));
        text.push('\n');
        text.push_str(&escaped(&cue.text));
        text.push('\n');
    }
    text
}

/// The line of a cue's times.
pub fn timing(start: Ticks, end: Ticks) -> String {
    let mut line = String::new();
    for (ticks, between) in [(start, " --> "), (end, "")] {
        let ms = ticks.millis();
        let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
        let (seconds, ms) = (ms / 1_000 % 60, ms % 1_000);
        // Writing to a string does not fail.
        let _ = write!(line, "{hours:02}:{minutes:02}:{seconds:02}.{ms:03}{between}");
    }
    line
}

/// Text as WebVTT has it: no tag, no entity and no arrow but those that are written out.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_is_well_formed_and_has_one_spelling() {
        for (text, canonical) in [
            ("en", "en"),
            ("EN-us", "en-US"),
            ("zh-HANT-tw", "zh-Hant-TW"),
            ("es-419", "es-419"),
            ("de-1996", "de-1996"),
            ("zh-yue-HK", "zh-yue-HK"),
            ("en-x-2", "en-x-2"),
            ("sl-rozaj-biske", "sl-rozaj-biske"),
            ("en-a-bbb-x-a", "en-a-bbb-x-a"),
        ] {
            assert_eq!(text.parse::<Language>().unwrap().as_str(), canonical);
        }
        for bad in [
            "",
            "e",
            "1a",
            "en-",
            "-en",
            "en_US",
            "en--US",
            "en-x",
            "en-US-US",
            "en-abcdefghi",
            "../x",
            "en\n",
            "en-US-Latn",
            "x-mine",
            "abcdefghi",
            "en-a-x-b-",
            "ën",
            "en-aaaaaaaa-bbbbbbbb-cccccccc-dddddddd",
        ] {
            assert!(bad.parse::<Language>().is_err(), "{bad}");
        }
        let english: Language = "en".parse().unwrap();
        assert_eq!((english.another(2).as_str(), english.another(2).spoken()), ("en-x-2", "en"));
    }

    #[test]
    fn nothing_in_a_cue_can_begin_another() {
        let hostile =
            "<script>alert(1)</script>\r\n\r\n00:00.000 --> 99:00.000\n\n\u{2028}NOTE\u{0}&";
        let cue = Cue::new(Ticks::new(0), Ticks::from_millis(3_723_004), hostile).unwrap();
        let text = vtt(None, [&cue]);
        assert_eq!(
            text,
            "WEBVTT\n\n00:00:00.000 --> 01:02:03.004\n\
             &lt;script&gt;alert(1)&lt;/script&gt;\n00:00.000 --&gt; 99:00.000\nNOTE&amp;\n"
        );
        assert_eq!(parse(text.as_bytes()).unwrap(), [cue], "it is read as it was written");
    }

    #[test]
    fn a_cue_that_shows_nothing_is_none() {
        let cue = |start, end, text| Cue::new(Ticks::new(start), Ticks::new(end), text);
        assert!(cue(0, 1, "a").is_some());
        for (start, end, text) in [(1, 1, "a"), (2, 1, "a"), (0, 1, " \n\t\u{7}")] {
            assert_eq!(cue(start, end, text), None);
        }
        let long = cue(0, 1, &"x\n".repeat(5_000)).unwrap();
        assert_eq!(long.text().lines().count(), CUE_LINES_MAX);
    }
}
