//! Text subtitles to cues. FFmpeg's decoders make events of ASS of all of them, whose markup is taken out here.

use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Packet, Rescale, codec, decoder, media};

use crate::domain::subtitle::{CUES_MAX, Cue, Language};
use crate::domain::video::Ticks;
use crate::media::extras::{NAME_CHARS_MAX, SUBTITLES_MAX, Subtitles};
use crate::media::ffmpeg::raw;
use crate::media::ffmpeg::source::{Source, Track, ticks};

/// A cue without a length of its own is shown so long.
const SHOWN: i64 = 3 * 90_000;
/// Bytes of text of all tracks: more is no film's.
const TEXT_BYTES_MAX: usize = 8 << 20;

/// The text tracks of a source.
pub(super) struct Texts {
    lanes: Vec<Lane>,
    bytes: usize,
}

struct Lane {
    track: Track,
    decoder: decoder::Subtitle,
    made: Subtitles,
}

impl Texts {
    /// Opens a decoder for each track of text; pictures of text are left out.
    pub(super) fn begin(source: &mut Source) -> Self {
        let found: Vec<_> = source
            .input()
            .streams()
            .filter(|stream| stream.parameters().medium() == media::Type::Subtitle)
            .filter(|stream| is_text(stream.parameters().id()))
            .take(SUBTITLES_MAX)
            .filter_map(|stream| {
                let context = codec::Context::from_parameters(stream.parameters()).ok()?;
                let mut context = context.decoder();
                context.set_packet_time_base(stream.time_base());
                let decoder = context.subtitle().ok()?;
                let shown = |flag| stream.disposition().contains(flag);
                let name = raw::stream_tag(&stream, c"title").unwrap_or_default();
                let made = Subtitles {
                    language: raw::stream_tag(&stream, c"language").and_then(|tag| language(&tag)),
                    name: name.chars().take(NAME_CHARS_MAX).collect(),
                    forced: shown(Disposition::FORCED),
                    default: shown(Disposition::DEFAULT),
                    cues: Vec::new(),
                };
                Some((stream.index(), decoder, made))
            })
            .collect();
        let lane = |(index, decoder, made)| {
            Some(Lane { track: source.want(index, false)?, decoder, made })
        };
        Self { lanes: found.into_iter().filter_map(lane).collect(), bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Takes a packet, if it is of one of the tracks.
    pub(super) fn take(&mut self, source: &Source, packet: &Packet) {
        let index = packet.stream();
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.track.index == index) else {
            return;
        };
        let Some(pts) = packet.pts() else { return };
        let start = source.since_origin(&lane.track, pts).rescale(lane.track.time_base, ticks());
        let length = packet.duration().rescale(lane.track.time_base, ticks());
        let length = if length > 0 { length } else { SHOWN };
        // What cannot be decoded is left out.
        let events = raw::decode_subtitle(&mut lane.decoder, packet).unwrap_or_default();
        let text = events.iter().map(|event| said(event)).collect::<Vec<_>>().join("\n");
        let at = |ticks: i64| Ticks::new(u64::try_from(ticks).unwrap_or(0));
        let cue = Cue::new(at(start), at(start.saturating_add(length)), &text);
        if let Some(cue) = cue.filter(|_| lane.made.cues.len() < CUES_MAX) {
            self.bytes = self.bytes.saturating_add(cue.text().len());
            if self.bytes <= TEXT_BYTES_MAX {
                lane.made.cues.push(cue);
            }
        }
    }

    /// All tracks that have a text.
    pub(super) fn finish(self) -> Vec<Subtitles> {
        self.lanes.into_iter().map(|lane| lane.made).filter(|made| !made.cues.is_empty()).collect()
    }
}

const fn is_text(id: codec::Id) -> bool {
    matches!(
        id,
        codec::Id::MOV_TEXT
            | codec::Id::SUBRIP
            | codec::Id::SRT
            | codec::Id::ASS
            | codec::Id::SSA
            | codec::Id::WEBVTT
            | codec::Id::TEXT
    )
}

/// The text of an event: what stands behind eight commas, without overrides (`{...}`), and without drawings.
fn said(event: &str) -> String {
    let text = event.splitn(9, ',').nth(8).unwrap_or_default();
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    let mut drawing = false;
    while let Some(at) = rest.find(['{', '\\']) {
        let (before, from) = rest.split_at(at);
        if !drawing {
            plain.push_str(before);
        }
        if let Some((tags, after)) = from.strip_prefix('{').and_then(|tags| tags.split_once('}')) {
            for tag in tags.split('\\') {
                // `\p1` begins a drawing, `\p0` ends it; `\pos` and `\pbo` are others.
                let scale =
                    tag.strip_prefix('p').and_then(|scale| scale.trim().parse::<u32>().ok());
                drawing = scale.map_or(drawing, |scale| scale > 0);
            }
            rest = after;
            continue;
        }
        let mut signs = from.chars();
        match (signs.next(), from.get(1..2)) {
            (Some('\\'), Some("N" | "n")) => plain.push('\n'),
            (Some('\\'), Some("h")) => plain.push(' '),
            (sign, _) => {
                plain.extend(sign.filter(|_| !drawing));
                rest = signs.as_str();
                continue;
            }
        }
        rest = from.get(2..).unwrap_or_default();
    }
    if !drawing {
        plain.push_str(rest);
    }
    plain
}

/// A container's language: a tag, or three letters of ISO 639-2, of which BCP 47 wants the shortest form.
fn language(tag: &str) -> Option<Language> {
    const SHORT: [(&str, &str); 48] = [
        ("ara", "ar"),
        ("bul", "bg"),
        ("cat", "ca"),
        ("ces", "cs"),
        ("cze", "cs"),
        ("chi", "zh"),
        ("zho", "zh"),
        ("dan", "da"),
        ("deu", "de"),
        ("ger", "de"),
        ("dut", "nl"),
        ("nld", "nl"),
        ("ell", "el"),
        ("gre", "el"),
        ("eng", "en"),
        ("est", "et"),
        ("fas", "fa"),
        ("per", "fa"),
        ("fin", "fi"),
        ("fra", "fr"),
        ("fre", "fr"),
        ("heb", "he"),
        ("hin", "hi"),
        ("hrv", "hr"),
        ("hun", "hu"),
        ("ind", "id"),
        ("ita", "it"),
        ("jpn", "ja"),
        ("kor", "ko"),
        ("lav", "lv"),
        ("lit", "lt"),
        ("may", "ms"),
        ("nor", "no"),
        ("pol", "pl"),
        ("por", "pt"),
        ("ron", "ro"),
        ("rum", "ro"),
        ("rus", "ru"),
        ("slk", "sk"),
        ("slo", "sk"),
        ("slv", "sl"),
        ("spa", "es"),
        ("srp", "sr"),
        ("swe", "sv"),
        ("tha", "th"),
        ("tur", "tr"),
        ("ukr", "uk"),
        ("vie", "vi"),
    ];
    let tag = tag.trim().to_ascii_lowercase().replace('_', "-");
    let short = SHORT.iter().find(|(long, _)| *long == tag).map(|(_, short)| *short);
    // Longer words are names of languages rather than tags.
    let primary = tag.split('-').next().map_or(0, str::len);
    let tag = short.or_else(|| (primary <= 3).then_some(tag.as_str()))?;
    tag.parse().ok().filter(|language| *language != Language::undetermined())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_of_ass_goes_and_the_text_stays() {
        let event = |text: &str| said(&format!("0,0,Default,,0,0,0,,{text}"));
        assert_eq!(event("{\\i1}Hello{\\i0}, you\\Nthere\\hnow"), "Hello, you\nthere now");
        assert_eq!(event("{\\p1}m 0 0 l 1 1{\\p0}seen"), "seen");
        assert_eq!(event("{\\pos(1,2)}a, b"), "a, b");
        assert_eq!(event("{open \\ and <script>"), "{open \\ and <script>");
        assert_eq!(said("too,few"), "");
    }

    #[test]
    fn three_letters_become_two_where_there_are_two() {
        let of = |tag| language(tag).map(|language| language.to_string());
        assert_eq!(of("eng").as_deref(), Some("en"));
        assert_eq!(of("pt_BR").as_deref(), Some("pt-BR"));
        assert_eq!(of("gsw").as_deref(), Some("gsw"));
        assert_eq!((of("und"), of("English\n"), of("")), (None, None, None));
    }
}
