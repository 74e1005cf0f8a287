//! Reads the boxes of init segments and fragments (ISO/IEC 14496-12), as far as checking what a worker made needs it.
//!
//! Safe on hostile bytes: every length is checked, nothing recurses with the input's depth and nothing is allocated by its word.

/// Bytes that are not the boxes they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed media: {0}")]
pub(crate) struct BoxError(pub(super) &'static str);

/// Tracks in an init segment, of which ours have two at most.
const TRACKS_MAX: usize = 8;
/// The samples of a track in a fragment, all its runs together: a segment has 90 seconds of 60 frames at most, which is 5,400.
const SAMPLES_MAX: u64 = 16_384;
/// The runs of a track in a fragment. The muxer writes one.
const RUNS_MAX: u32 = 16;
/// The largest `moof`: as many samples in two tracks, of 16 bytes each, and what stands around them.
const MOOF_BYTES_MAX: usize = 1 << 20;
/// A box's length and kind.
pub(super) const HEADER: usize = 8;
/// `default-base-is-moof` (section 8.8.7.1).
const BASE_IS_MOOF: u32 = 0x0002_0000;
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
    size: u32,
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
                let (duration, size, flags) = (fields.u32()?, fields.u32()?, fields.u32()?);
                for track in tracks.iter_mut().filter(|track| track.id == id) {
                    track.defaults = Defaults { duration, size, flags };
                }
            }
        }
        if tracks.is_empty() {
            return Err(BoxError("no track"));
        }
        Ok(Self { tracks })
    }

    /// Reads the init segment of a part: one track, of H.264 or AAC-LC, and nothing that gives its fragments another meaning than
    /// [`Init::of_part`] gives them.
    pub(crate) fn parse_part(bytes: &[u8], kind: Kind) -> Result<Self, BoxError> {
        let init = Self::parse(bytes)?;
        let ours = Self::of_part(kind);
        let same = |one: &Track, other: &Track| {
            (one.id, one.kind, one.timescale, one.defaults)
                == (other.id, other.kind, other.timescale, other.defaults)
        };
        let ([track], [planned]) = (init.tracks.as_slice(), ours.tracks.as_slice()) else {
            return Err(BoxError("more than one track"));
        };
        // Baseline, main and high are what is encoded and copied; what is encoded without loss is high 4:4:4 predictive.
        let coded = match kind {
            Kind::Video => ["avc1.42", "avc1.4d", "avc1.64", "avc1.f4"]
                .iter()
                .any(|c| track.codec.starts_with(c)),
            Kind::Audio => track.codec == "mp4a.40.2",
        };
        if !same(track, planned) || !coded {
            return Err(BoxError("a track of another make"));
        }
        let moov = find(bytes, b"moov")?;
        only(moov, &[b"mvhd", b"trak", b"mvex", b"udta"])?;
        only(find(moov, b"mvex")?, &[b"trex"])?;
        // No edit list: it would move the track in time.
        let trak = find(moov, b"trak")?;
        only(trak, &[b"tkhd", b"mdia"])?;
        let mdia = find(trak, b"mdia")?;
        only(mdia, &[b"mdhd", b"hdlr", b"minf"])?;
        let minf = find(mdia, b"minf")?;
        only(minf, &[if kind == Kind::Video { b"vmhd" } else { b"smhd" }, b"dinf", b"stbl"])?;
        let dinf = find(minf, b"dinf")?;
        only(dinf, &[b"dref"])?;
        // One entry, "in this file": another would have players fetch the data elsewhere.
        if find(dinf, b"dref")? != b"\0\0\0\0\0\0\0\x01\0\0\0\x0curl \0\0\0\x01" {
            return Err(BoxError("data elsewhere"));
        }
        let stbl = find(minf, b"stbl")?;
        only(stbl, &[b"stsd", b"stts", b"stsc", b"stsz", b"stco"])?;
        for table in [b"stts", b"stsc", b"stsz", b"stco"] {
            if find(stbl, table)?.iter().any(|byte| *byte != 0) {
                return Err(BoxError("samples outside of fragments"));
            }
        }
        if find(stbl, b"stsd")?.get(4..8) != Some(&[0, 0, 0, 1]) {
            return Err(BoxError("more than one sample description"));
        }
        Ok(init)
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

/// Reads a segment: one `moof` and one `mdat`, nothing else. All data belongs to the runs, which lie in it one behind the other.
pub(crate) fn segment(bytes: &[u8], init: &Init) -> Result<Vec<Run>, BoxError> {
    let (moof, data) = fragment(bytes)?;
    let mut place = moof.len().saturating_add(2 * HEADER) as u64;
    let end = place.saturating_add(data.len() as u64);
    let mut runs: Vec<Run> = Vec::new();
    let mut inside = Boxes(moof);
    if !matches!(inside.next()?, Some((b"mfhd", _))) {
        return Err(BoxError("no mfhd"));
    }
    while let Some((kind, body)) = inside.next()? {
        if kind != b"traf" {
            return Err(BoxError("a box that no fragment needs"));
        }
        let run = traf(body, init, &mut place)?;
        if runs.iter().any(|other| other.id == run.id) {
            return Err(BoxError("a track twice"));
        }
        runs.push(run);
    }
    if place != end {
        return Err(BoxError("data that belongs to no run, or runs without data"));
    }
    Ok(runs)
}

/// The bodies of the one `moof` and the one `mdat` that a segment is. Both have short headers, which [`super::join`] reckons with.
pub(super) fn fragment(bytes: &[u8]) -> Result<(&[u8], &[u8]), BoxError> {
    let mut top = Boxes(bytes);
    let Some((b"moof", moof)) = top.next()? else { return Err(BoxError("no moof")) };
    let Some((b"mdat", data)) = top.next()? else { return Err(BoxError("no mdat")) };
    if !top.0.is_empty() || data.is_empty() {
        return Err(BoxError("more or less than moof and mdat"));
    }
    if moof.len() > MOOF_BYTES_MAX {
        return Err(BoxError("a moof too long"));
    }
    if bytes.len() != moof.len().saturating_add(data.len()).saturating_add(2 * HEADER) {
        return Err(BoxError("a header of another length"));
    }
    Ok((moof, data))
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

/// `tfhd`, `tfdt` and runs, in this order. `place` is where the data goes on, from the first byte of the `moof`.
fn traf(body: &[u8], init: &Init, place: &mut u64) -> Result<Run, BoxError> {
    let mut inside = Boxes(body);
    let Some((b"tfhd", tfhd)) = inside.next()? else { return Err(BoxError("no tfhd")) };
    let mut tfhd = Fields(tfhd);
    let flags = tfhd.u32()?;
    let id = tfhd.u32()?;
    let Some(track) = init.tracks.iter().find(|track| track.id == id) else {
        return Err(BoxError("a track that the init segment does not have"));
    };
    if flags & 0x1 != 0 || flags & BASE_IS_MOOF == 0 {
        return Err(BoxError("a base of its own"));
    }
    let mut defaults = track.defaults;
    if flags & 0x2 != 0 && tfhd.u32()? != 1 {
        return Err(BoxError("another sample description"));
    }
    if flags & 0x8 != 0 {
        defaults.duration = tfhd.u32()?;
    }
    if flags & 0x10 != 0 {
        defaults.size = tfhd.u32()?;
    }
    if flags & 0x20 != 0 {
        defaults.flags = tfhd.u32()?;
    }
    let Some((b"tfdt", tfdt)) = inside.next()? else { return Err(BoxError("no tfdt")) };
    let mut tfdt = Fields(tfdt);
    let start = if tfdt.u32()? >> 24 == 1 { tfdt.u64()? } else { u64::from(tfdt.u32()?) };
    let mut run = Run { id, start, duration: 0, samples: 0, begins_with_key: false };
    let mut runs = 0_u32;
    while let Some((kind, body)) = inside.next()? {
        if kind != b"trun" {
            return Err(BoxError("a box that no track needs"));
        }
        runs = runs.saturating_add(1);
        if runs > RUNS_MAX {
            return Err(BoxError("too many runs"));
        }
        trun(body, defaults, &mut run, place)?;
    }
    if run.samples == 0 {
        return Err(BoxError("a track without samples"));
    }
    Ok(run)
}

fn trun(body: &[u8], defaults: Defaults, run: &mut Run, place: &mut u64) -> Result<(), BoxError> {
    let mut fields = Fields(body);
    let flags = fields.u32()?;
    let samples = u64::from(fields.u32()?);
    // The sum, since a run that leaves all to the defaults costs 16 bytes, however many samples it claims.
    let sum = run.samples.saturating_add(samples);
    if sum > SAMPLES_MAX {
        return Err(BoxError("too many samples"));
    }
    let offset = if flags & 0x1 != 0 { Some(u64::from(fields.u32()?)) } else { None };
    if offset != Some(*place) {
        return Err(BoxError("a run that is not where the data goes on"));
    }
    let first = if flags & 0x4 != 0 { Some(fields.u32()?) } else { None };
    for number in 0..samples {
        let duration = if flags & 0x100 != 0 { fields.u32()? } else { defaults.duration };
        let size = if flags & 0x200 != 0 { fields.u32()? } else { defaults.size };
        let own = if flags & 0x400 != 0 { fields.u32()? } else { defaults.flags };
        fields.skip(if flags & 0x800 != 0 { 4 } else { 0 })?;
        if number == 0 && run.samples == 0 {
            run.begins_with_key = first.unwrap_or(own) & NON_SYNC == 0;
        }
        run.duration = run.duration.saturating_add(u64::from(duration));
        *place = place.saturating_add(u64::from(size));
    }
    run.samples = sum;
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

/// Whether a body has boxes of these kinds alone, and none twice.
fn only(body: &[u8], kinds: &[&[u8; 4]]) -> Result<(), BoxError> {
    let mut left = kinds.to_vec();
    let mut boxes = Boxes(body);
    while let Some((kind, _)) = boxes.next()? {
        let Some(at) = left.iter().position(|wanted| *wanted == kind) else {
            return Err(BoxError("a box twice, or one that no init segment needs"));
        };
        left.swap_remove(at);
    }
    Ok(())
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
mod tests;
