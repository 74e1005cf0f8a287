//! Reads the boxes of init segments and fragments (ISO/IEC 14496-12), as far as checking what a worker made needs it.
//!
//! Safe on hostile bytes: every length is checked, nothing recurses with the input's depth and nothing is allocated by its word.

/// Bytes that are not the boxes they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed media: {0}")]
pub(crate) struct BoxError(pub(super) &'static str);

/// Tracks in an init segment, of which ours have two at most.
const TRACKS_MAX: usize = 8;
/// Samples in a fragment: an hour at 240 frames a second.
const SAMPLES_MAX: u32 = 864_000;
/// `sample_is_non_sync_sample` (section 8.8.3.1).
const NON_SYNC: u32 = 0x0001_0000;

/// What a track carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Pictures.
    Video,
    /// Sound.
    Audio,
}

/// A track of an init segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Track {
    /// Its number.
    pub(crate) id: u32,
    /// What it carries.
    pub(crate) kind: Kind,
    /// Units in a second.
    pub(crate) timescale: u32,
    /// The RFC 6381 codec string.
    pub(crate) codec: String,
    defaults: Defaults,
}

/// What a fragment leaves out (`trex`, then `tfhd`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Defaults {
    duration: u32,
    flags: u32,
}

/// An init segment: `ftyp`, then `moov`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Init {
    /// Its tracks in order.
    pub(crate) tracks: Vec<Track>,
}

impl Init {
    /// Reads an init segment.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BoxError> {
        let mut top = Boxes(bytes);
        if !matches!(top.next()?, Some((b"ftyp", _))) {
            return Err(BoxError("no ftyp"));
        }
        let Some((b"moov", moov)) = top.next()? else { return Err(BoxError("no moov")) };
        if top.next()?.is_some() {
            return Err(BoxError("more than ftyp and moov"));
        }
        let mut tracks = Vec::new();
        let mut inside = Boxes(moov);
        while let Some((kind, body)) = inside.next()? {
            if kind == b"trak" {
                if tracks.len() >= TRACKS_MAX {
                    return Err(BoxError("too many tracks"));
                }
                tracks.push(track(body)?);
            }
        }
        let mut extends = Boxes(find(moov, b"mvex")?);
        while let Some((kind, body)) = extends.next()? {
            if kind == b"trex" {
                let mut fields = Fields(body);
                fields.skip(4)?;
                let id = fields.u32()?;
                fields.skip(4)?;
                let duration = fields.u32()?;
                fields.skip(4)?;
                let flags = fields.u32()?;
                for track in tracks.iter_mut().filter(|track| track.id == id) {
                    track.defaults = Defaults { duration, flags };
                }
            }
        }
        if tracks.is_empty() {
            return Err(BoxError("no track"));
        }
        Ok(Self { tracks })
    }

    /// What a part of a worker is read with when its own init segment is not at hand: one track, as all of them are made.
    pub(crate) fn of_part(kind: Kind) -> Self {
        let (timescale, codec) = match kind {
            Kind::Video => (90_000, "avc1"),
            Kind::Audio => (48_000, "mp4a"),
        };
        let (codec, defaults) = (codec.to_owned(), Defaults::default());
        Self { tracks: vec![Track { id: 1, kind, timescale, codec, defaults }] }
    }

    /// The codec strings of all tracks, joined by commas.
    pub(crate) fn codecs(&self) -> String {
        let codecs: Vec<&str> = self.tracks.iter().map(|track| track.codec.as_str()).collect();
        codecs.join(",")
    }
}

/// One track's part of a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The track's number.
    pub(crate) id: u32,
    /// The first sample's decode time, in the track's units.
    pub(crate) start: u64,
    /// The sum of the samples' durations, in the track's units.
    pub(crate) duration: u64,
    /// How many samples there are.
    pub(crate) samples: u64,
    /// Whether the first sample can be decoded by itself.
    pub(crate) begins_with_key: bool,
}

/// Reads a segment: one `moof` and one `mdat`, nothing else.
pub(crate) fn segment(bytes: &[u8], init: &Init) -> Result<Vec<Run>, BoxError> {
    let mut top = Boxes(bytes);
    let Some((b"moof", moof)) = top.next()? else { return Err(BoxError("no moof")) };
    let Some((b"mdat", data)) = top.next()? else { return Err(BoxError("no mdat")) };
    if top.next()?.is_some() || data.is_empty() {
        return Err(BoxError("more or less than moof and mdat"));
    }
    let mut runs: Vec<Run> = Vec::new();
    let mut inside = Boxes(moof);
    while let Some((kind, body)) = inside.next()? {
        if kind == b"traf" {
            let run = traf(body, init)?;
            if runs.iter().any(|other| other.id == run.id) {
                return Err(BoxError("a track twice"));
            }
            runs.push(run);
        }
    }
    Ok(runs)
}

fn track(trak: &[u8]) -> Result<Track, BoxError> {
    let mut tkhd = Fields(find(trak, b"tkhd")?);
    let wide = tkhd.u32()? >> 24 == 1;
    tkhd.skip(if wide { 16 } else { 8 })?;
    let id = tkhd.u32()?;
    let mdia = find(trak, b"mdia")?;
    let mut mdhd = Fields(find(mdia, b"mdhd")?);
    let wide = mdhd.u32()? >> 24 == 1;
    mdhd.skip(if wide { 16 } else { 8 })?;
    let timescale = mdhd.u32()?;
    let mut hdlr = Fields(find(mdia, b"hdlr")?);
    hdlr.skip(8)?;
    let kind = match hdlr.take(4)? {
        b"vide" => Kind::Video,
        b"soun" => Kind::Audio,
        _ => return Err(BoxError("a track that is neither video nor audio")),
    };
    let stbl = find(find(mdia, b"minf")?, b"stbl")?;
    let mut stsd = Fields(find(stbl, b"stsd")?);
    stsd.skip(8)?;
    let Some((entry, body)) = Boxes(stsd.0).next()? else {
        return Err(BoxError("no sample entry"));
    };
    let codec = match (kind, entry) {
        (Kind::Video, b"avc1") => avc(body)?,
        (Kind::Audio, b"mp4a") => aac(body)?,
        _ => return Err(BoxError("another codec than H.264 and AAC")),
    };
    if timescale == 0 {
        return Err(BoxError("no timescale"));
    }
    Ok(Track { id, kind, timescale, codec, defaults: Defaults::default() })
}

/// `avc1.PPCCLL`: profile, constraints and level as the decoder configuration has them (RFC 6381, section 3.3).
fn avc(entry: &[u8]) -> Result<String, BoxError> {
    let mut fields = Fields(entry);
    fields.skip(78)?;
    let mut config = Fields(find(fields.0, b"avcC")?);
    config.skip(1)?;
    Ok(format!("avc1.{}", hex::encode(config.take(3)?)))
}

/// `mp4a.OO.A`: object type indication and audio object type (RFC 6381, section 3.3), out of the `esds` box (ISO/IEC 14496-14).
fn aac(entry: &[u8]) -> Result<String, BoxError> {
    let mut fields = Fields(entry);
    fields.skip(28)?;
    let mut fields = Fields(find(fields.0, b"esds")?);
    fields.skip(4)?;
    let mut es = Fields(fields.descriptor(3)?);
    es.skip(3)?;
    let mut config = Fields(es.descriptor(4)?);
    let indication = config.take(1)?.first().copied().unwrap_or(0);
    config.skip(12)?;
    let kind = config.descriptor(5)?.first().map_or(0, |byte| byte >> 3);
    Ok(format!("mp4a.{indication:02x}.{kind}"))
}

fn traf(body: &[u8], init: &Init) -> Result<Run, BoxError> {
    let mut tfhd = Fields(find(body, b"tfhd")?);
    let flags = tfhd.u32()?;
    let id = tfhd.u32()?;
    let Some(track) = init.tracks.iter().find(|track| track.id == id) else {
        return Err(BoxError("a track that the init segment does not have"));
    };
    let mut defaults = track.defaults;
    tfhd.skip(if flags & 0x1 != 0 { 8 } else { 0 })?;
    tfhd.skip(if flags & 0x2 != 0 { 4 } else { 0 })?;
    if flags & 0x8 != 0 {
        defaults.duration = tfhd.u32()?;
    }
    tfhd.skip(if flags & 0x10 != 0 { 4 } else { 0 })?;
    if flags & 0x20 != 0 {
        defaults.flags = tfhd.u32()?;
    }
    let mut tfdt = Fields(find(body, b"tfdt")?);
    let start = if tfdt.u32()? >> 24 == 1 { tfdt.u64()? } else { u64::from(tfdt.u32()?) };
    let mut run = Run { id, start, duration: 0, samples: 0, begins_with_key: false };
    let mut inside = Boxes(body);
    while let Some((kind, body)) = inside.next()? {
        if kind == b"trun" {
            trun(body, defaults, &mut run)?;
        }
    }
    if run.samples == 0 {
        return Err(BoxError("a track without samples"));
    }
    Ok(run)
}

fn trun(body: &[u8], defaults: Defaults, run: &mut Run) -> Result<(), BoxError> {
    let mut fields = Fields(body);
    let flags = fields.u32()?;
    let samples = fields.u32()?;
    if samples > SAMPLES_MAX {
        return Err(BoxError("too many samples"));
    }
    fields.skip(if flags & 0x1 != 0 { 4 } else { 0 })?;
    let first = if flags & 0x4 != 0 { Some(fields.u32()?) } else { None };
    for number in 0..samples {
        let duration = if flags & 0x100 != 0 { fields.u32()? } else { defaults.duration };
        fields.skip(if flags & 0x200 != 0 { 4 } else { 0 })?;
        let own = if flags & 0x400 != 0 { fields.u32()? } else { defaults.flags };
        fields.skip(if flags & 0x800 != 0 { 4 } else { 0 })?;
        if number == 0 && run.samples == 0 {
            run.begins_with_key = first.unwrap_or(own) & NON_SYNC == 0;
        }
        run.duration = run.duration.saturating_add(u64::from(duration));
    }
    run.samples = run.samples.saturating_add(u64::from(samples));
    Ok(())
}

/// The body of the first box of a kind.
pub(super) fn find<'a>(body: &'a [u8], wanted: &[u8; 4]) -> Result<&'a [u8], BoxError> {
    let mut boxes = Boxes(body);
    while let Some((kind, body)) = boxes.next()? {
        if kind == wanted {
            return Ok(body);
        }
    }
    Err(BoxError("a box is missing"))
}

/// Boxes that follow one another.
pub(super) struct Boxes<'a>(pub(super) &'a [u8]);

impl<'a> Boxes<'a> {
    #[expect(clippy::type_complexity, reason = "a name for the pair would say less")]
    pub(super) fn next(&mut self) -> Result<Option<(&'a [u8; 4], &'a [u8])>, BoxError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let mut fields = Fields(self.0);
        let short = fields.u32()?;
        let Some((kind, rest)) = fields.0.split_first_chunk::<4>() else {
            return Err(BoxError("a box is cut off"));
        };
        let mut fields = Fields(rest);
        let (size, header) = match short {
            0 => return Err(BoxError("a box without a size")),
            1 => (fields.u64()?, 16),
            short => (u64::from(short), 8),
        };
        let body = size.checked_sub(header).and_then(|body| usize::try_from(body).ok());
        let Some((body, rest)) = body.and_then(|body| fields.0.split_at_checked(body)) else {
            return Err(BoxError("a box is cut off"));
        };
        self.0 = rest;
        Ok(Some((kind, body)))
    }
}

/// Big-endian fields that follow one another.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], BoxError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(BoxError("a box is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), BoxError> {
        self.take(bytes).map(|_| ())
    }

    fn u32(&mut self) -> Result<u32, BoxError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(BoxError("a box is cut off"))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    fn u64(&mut self) -> Result<u64, BoxError> {
        Ok(u64::from(self.u32()?) << 32 | u64::from(self.u32()?))
    }

    /// The body of an MPEG-4 descriptor of a kind (ISO/IEC 14496-1, section 8.3.3: seven bits of length a byte, four bytes at most).
    fn descriptor(&mut self, wanted: u8) -> Result<&'a [u8], BoxError> {
        if self.take(1)? != [wanted] {
            return Err(BoxError("a descriptor is missing"));
        }
        let mut length = 0_usize;
        for _ in 0..4 {
            let byte = self.take(1)?.first().copied().unwrap_or(0);
            length = length << 7 | usize::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return self.take(length);
            }
        }
        Err(BoxError("a descriptor without an end"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::fixture;

    #[test]
    fn what_the_muxer_writes_is_read() {
        let clip = fixture::clip();
        let init = Init::parse(&clip.served("240p", None)).unwrap();
        let kinds: Vec<(Kind, u32)> =
            init.tracks.iter().map(|track| (track.kind, track.timescale)).collect();
        assert_eq!(kinds, [(Kind::Video, 90_000), (Kind::Audio, 48_000)]);
        assert!(init.codecs().starts_with("avc1.42") && init.codecs().ends_with(",mp4a.40.2"));
        let runs = segment(&clip.served("240p", Some(1)), &init).unwrap();
        assert_eq!((runs[0].start, runs[0].duration, runs[0].samples), (180_000, 180_000, 50));
        assert!(runs[0].begins_with_key);
        assert_eq!(runs[1].start % 1_024, 0);
        assert_eq!(runs[1].duration, runs[1].samples * 1_024);
    }

    #[test]
    fn cut_off_and_altered_bytes_never_panic() {
        let clip = fixture::clip();
        let init = &clip.served("240p", None);
        let parsed = Init::parse(init).unwrap();
        let whole = &clip.served("120p", Some(1));
        // Behind the moof there is only data.
        let moof = u32::from_be_bytes(whole[..4].try_into().unwrap()) as usize + 16;
        for end in 0..init.len() {
            assert!(Init::parse(&init[..end]).is_err());
        }
        for end in 0..moof {
            assert!(segment(&whole[..end], &parsed).is_err());
        }
        for at in 0..init.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = init.clone();
                bytes[at] = value;
                let _ = Init::parse(&bytes);
            }
        }
        for at in 0..moof {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = segment(&bytes, &parsed);
            }
        }
    }

    #[test]
    fn sizes_that_lie_are_errors() {
        let of = |bytes: &[u8]| Boxes(bytes).next().map(|found| found.map(|(kind, _)| *kind));
        assert_eq!(of(b""), Ok(None));
        assert_eq!(of(b"\0\0\0\x08free"), Ok(Some(*b"free")));
        assert_eq!(of(b"\0\0\0\x01free\0\0\0\0\0\0\0\x10"), Ok(Some(*b"free")));
        for bad in [
            &b"\0\0\0\0free"[..],
            b"\0\0\0\x07free",
            b"\0\0\0\x09free",
            b"\0\0\0\x01free\0\0\0\0\0\0\0\x0f",
            b"\0\0\0\x01free\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\0\0\0",
        ] {
            assert!(of(bad).is_err());
        }
    }
}
