//! Joins a segment's pictures with its sound, and their init segments: a few boxes (ISO/IEC 14496-12) of parts that were checked.
//!
//! Each part has one track, numbered 1. In what is served the pictures are track 1 and the sound is track 2. Safe on hostile bytes, as
//! [`super::boxes`] is.

use bytes::Bytes;

use super::boxes::{BoxError, Boxes, HEADER, find, fragment};
use crate::domain::id::SegmentNumber;

/// The number of the sound's track beside pictures.
const SOUND_TRACK: u32 = 2;
/// `data-offset-present` (section 8.8.8.1).
const DATA_OFFSET: u32 = 0x1;

/// The served form of a part; `None` for `number` is the init segment.
pub(super) fn join(
    picture: Option<&[u8]>,
    sound: Option<&[u8]>,
    number: Option<SegmentNumber>,
) -> Result<Bytes, BoxError> {
    match (picture, sound, number) {
        (Some(picture), Some(sound), Some(number)) => segment(picture, sound, number),
        (Some(picture), Some(sound), None) => init(picture, sound),
        (Some(alone), None, _) | (None, Some(alone), _) => Ok(Bytes::copy_from_slice(alone)),
        (None, None, _) => Err(BoxError("neither pictures nor sound")),
    }
}

fn init(picture: &[u8], sound: &[u8]) -> Result<Bytes, BoxError> {
    let (shown, heard) = (find(picture, b"moov")?, find(sound, b"moov")?);
    let mut mvhd = find(shown, b"mvhd")?.to_vec();
    // `next_track_ID` is its last field (section 8.2.2).
    let next = mvhd.len().checked_sub(4).ok_or(BoxError("a box is cut off"))?;
    put(&mut mvhd, next, SOUND_TRACK + 1)?;
    let mut trak = Vec::new();
    let mut inside = Boxes(find(heard, b"trak")?);
    while let Some((kind, body)) = inside.next()? {
        let mut body = body.to_vec();
        if kind == b"tkhd" {
            let wide = body.first().copied() == Some(1);
            put(&mut body, if wide { 20 } else { 12 }, SOUND_TRACK)?;
        }
        push(&mut trak, kind, &[&body])?;
    }
    let trex = find(find(shown, b"mvex")?, b"trex")?;
    let mut other = find(find(heard, b"mvex")?, b"trex")?.to_vec();
    put(&mut other, 4, SOUND_TRACK)?;
    let mut mvex = Vec::new();
    push(&mut mvex, b"trex", &[trex])?;
    push(&mut mvex, b"trex", &[&other])?;
    let mut moov = Vec::new();
    push(&mut moov, b"mvhd", &[&mvhd])?;
    push(&mut moov, b"trak", &[find(shown, b"trak")?])?;
    push(&mut moov, b"trak", &[&trak])?;
    push(&mut moov, b"mvex", &[&mvex])?;
    let mut joined = Vec::new();
    push(&mut joined, b"ftyp", &[find(picture, b"ftyp")?])?;
    push(&mut joined, b"moov", &[&moov])?;
    Ok(joined.into())
}

fn segment(picture: &[u8], sound: &[u8], number: SegmentNumber) -> Result<Bytes, BoxError> {
    let parts = [(picture, 1), (sound, SOUND_TRACK)];
    let mut moof = Vec::new();
    let sequence = number.0.saturating_add(1).to_be_bytes();
    push(&mut moof, b"mfhd", &[&[0; 4], &sequence])?;
    let mut places = Vec::new();
    let mut data = Vec::new();
    for (part, track) in parts {
        let (from, content) = fragment(part)?;
        let before = whole(from)?;
        let traf = traf(find(from, b"traf")?, track)?;
        let base = moof.len().saturating_add(HEADER);
        push(&mut moof, b"traf", &[&traf.bytes])?;
        places.extend(
            traf.offsets.into_iter().map(|at| (base.saturating_add(at), before, data.len())),
        );
        data.extend_from_slice(content);
    }
    // Offsets count from the first byte of the `moof` (default-base-is-moof); the data moves by what stands before it now and then.
    let behind = whole(&moof)?;
    for (at, before, ahead) in places {
        let old = moof.get(at..).and_then(|rest| rest.first_chunk::<4>());
        let old = i64::from(i32::from_be_bytes(*old.ok_or(BoxError("a box is cut off"))?));
        let moved =
            i64::from(behind) - i64::from(before) + i64::try_from(ahead).unwrap_or(i64::MAX);
        let offset = old.checked_add(moved).and_then(|offset| i32::try_from(offset).ok());
        put(&mut moof, at, offset.ok_or(BoxError("data out of reach"))?.cast_unsigned())?;
    }
    let mut joined =
        Vec::with_capacity(moof.len().saturating_add(data.len()).saturating_add(2 * HEADER));
    push(&mut joined, b"moof", &[&moof])?;
    push(&mut joined, b"mdat", &[&data])?;
    Ok(joined.into())
}

/// A track's fragment under another number, and where in it the offsets of its runs stand.
struct Traf {
    bytes: Vec<u8>,
    offsets: Vec<usize>,
}

fn traf(from: &[u8], track: u32) -> Result<Traf, BoxError> {
    let mut traf = Traf { bytes: Vec::new(), offsets: Vec::new() };
    let mut inside = Boxes(from);
    while let Some((kind, body)) = inside.next()? {
        let mut body = body.to_vec();
        match kind {
            b"tfhd" => {
                // A base of its own would count from the file's beginning.
                if flags(&body)? & 0x1 != 0 {
                    return Err(BoxError("a base of its own"));
                }
                put(&mut body, 4, track)?;
            }
            b"trun" if flags(&body)? & DATA_OFFSET == 0 => {
                return Err(BoxError("a run without an offset"));
            }
            b"trun" => {
                traf.offsets.push(traf.bytes.len().saturating_add(HEADER).saturating_add(8));
            }
            _ => {}
        }
        push(&mut traf.bytes, kind, &[&body])?;
    }
    Ok(traf)
}

fn flags(body: &[u8]) -> Result<u32, BoxError> {
    let bytes = body.first_chunk().ok_or(BoxError("a box is cut off"))?;
    Ok(u32::from_be_bytes(*bytes) & 0x00ff_ffff)
}

/// The length of a box with its header.
fn whole(body: &[u8]) -> Result<u32, BoxError> {
    u32::try_from(body.len().saturating_add(HEADER)).map_err(|_| BoxError("a box too long"))
}

fn put(bytes: &mut [u8], at: usize, value: u32) -> Result<(), BoxError> {
    let place = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<4>());
    *place.ok_or(BoxError("a box is cut off"))? = value.to_be_bytes();
    Ok(())
}

fn push(to: &mut Vec<u8>, kind: &[u8; 4], parts: &[&[u8]]) -> Result<(), BoxError> {
    let body = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    let length =
        u32::try_from(body.saturating_add(HEADER)).map_err(|_| BoxError("a box too long"))?;
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(kind);
    parts.iter().for_each(|part| to.extend_from_slice(part));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::boxes::{self, Init, Kind};
    use crate::media::fixture;

    #[test]
    fn a_joined_segment_has_both_tracks_where_they_were() {
        let clip = fixture::clip();
        let number = SegmentNumber(1);
        let part = |name: &str| clip.files[name].as_slice();
        let joined = join(Some(part("240p-init.mp4")), Some(part("audio-init.mp4")), None).unwrap();
        let init = Init::parse(&joined).unwrap();
        let kinds: Vec<_> = init.tracks.iter().map(|track| (track.id, track.kind)).collect();
        assert_eq!(kinds, [(1, Kind::Video), (2, Kind::Audio)]);
        let (picture, sound) = (part("240p-1.m4s"), part("audio-1.m4s"));
        let joined = join(Some(picture), Some(sound), Some(number)).unwrap();
        let runs = boxes::segment(&joined, &init).unwrap();
        let alone = |bytes, kind| boxes::segment(bytes, &Init::of_part(kind)).unwrap()[0];
        let (shown, heard) = (alone(picture, Kind::Video), alone(sound, Kind::Audio));
        assert_eq!(runs, [shown, boxes::Run { id: 2, ..heard }]);
        // Some hundred bytes of boxes, not more.
        assert!(joined.len() < picture.len() + sound.len() + 8);
    }

    #[test]
    fn what_stands_alone_is_served_as_it_is() {
        assert_eq!(join(Some(b"x"), None, None).unwrap(), "x");
        assert_eq!(join(None, Some(b"y"), Some(SegmentNumber(0))).unwrap(), "y");
        assert!(join(None, None, None).is_err());
    }

    #[test]
    fn cut_off_and_altered_bytes_never_panic() {
        let clip = fixture::clip();
        let files = ["240p-init.mp4", "audio-init.mp4", "240p-1.m4s", "audio-1.m4s"];
        let files = files.map(|name| clip.files[name].clone());
        for (which, number) in [(0, None), (1, None), (2, Some(1)), (3, Some(1))] {
            let whole = &files[which];
            let number = number.map(SegmentNumber);
            let with = |bytes: &[u8]| {
                let (picture, sound) = if number.is_none() { (0, 1) } else { (2, 3) };
                let of = |at: usize| if at == which { bytes } else { files[at].as_slice() };
                join(Some(of(picture)), Some(of(sound)), number)
            };
            for end in (0..whole.len().min(1_500)).step_by(3) {
                let _ = with(&whole[..end]);
            }
            for at in 0..whole.len().min(1_500) {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x81;
                let _ = with(&bytes);
            }
        }
    }
}
