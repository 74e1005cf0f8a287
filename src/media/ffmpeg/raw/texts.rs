//! Texts and pictures that a container carries beside its tracks. Files name bytes text that are none: they are read as bytes, and only then
//! made into text.

use std::ffi::{CStr, c_char};

use ffmpeg_next::ffi::{
    AVDictionary, AVDiscard, AVSubtitleType, av_dict_get, avcodec_decode_subtitle2, avsubtitle_free,
};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Error, Packet, Rational, Stream, Subtitle, decoder, packet::Ref as _};

/// Tells the demuxer that packets of a stream are wanted after all.
pub(in crate::media::ffmpeg) fn want_stream(input: &mut Input, index: usize, keys_only: bool) {
    if let Some(mut stream) = input.stream_mut(index) {
        let discard =
            if keys_only { AVDiscard::AVDISCARD_NONKEY } else { AVDiscard::AVDISCARD_DEFAULT };
        // SAFETY: the stream belongs to `input`, which is borrowed exclusively; the field is plain data for users to set.
        unsafe { (*stream.as_mut_ptr()).discard = discard };
    }
}

/// A tag of a stream.
pub(in crate::media::ffmpeg) fn stream_tag(stream: &Stream<'_>, key: &CStr) -> Option<String> {
    // SAFETY: a stream of an opened input is valid for as long as `stream` borrows it; its metadata may be null, which means none.
    unsafe { tag((*stream.as_ptr()).metadata, key) }
}

/// The picture that is attached to a file as this stream.
pub(in crate::media::ffmpeg) fn attached(stream: &Stream<'_>, bytes_max: usize) -> Option<Packet> {
    // SAFETY: as above; `attached_pic` is a packet within the stream, empty where there is none, and its bytes are copied.
    let data = unsafe {
        let packet = &(*stream.as_ptr()).attached_pic;
        let size =
            usize::try_from(packet.size).ok().filter(|size| (1..=bytes_max).contains(size))?;
        if packet.data.is_null() {
            return None;
        }
        std::slice::from_raw_parts(packet.data, size)
    };
    Some(Packet::copy(data))
}

/// A chapter as the container has it: its time base, start, end, and title.
pub(in crate::media::ffmpeg) fn chapters(
    input: &Input,
    most: usize,
) -> Vec<(Rational, i64, i64, String)> {
    let read = |chapter: ffmpeg_next::Chapter<'_>| {
        // SAFETY: the chapter belongs to `input`, which is borrowed; its metadata may be null.
        let title = unsafe { tag((*chapter.as_ptr()).metadata, c"title") };
        (chapter.time_base(), chapter.start(), chapter.end(), title.unwrap_or_default())
    };
    input.chapters().take(most).map(read).collect()
}

/// Decodes a packet of text subtitles into events of ASS, the form that all of FFmpeg's text decoders give.
pub(in crate::media::ffmpeg) fn decode_subtitle(
    decoder: &mut decoder::Subtitle,
    packet: &Packet,
) -> Result<Vec<String>, Error> {
    let mut out = Subtitle::new();
    let mut got = 0;
    let mut events = Vec::new();
    // SAFETY: the decoder is open and borrowed exclusively, the packet is only read, and `out` is all zeroes, as the call wants it. Its
    // rectangles are valid until it is freed; what they point to is copied.
    unsafe {
        let subtitle = out.as_mut_ptr();
        let code = avcodec_decode_subtitle2(
            decoder.as_mut_ptr(),
            subtitle,
            &raw mut got,
            packet.as_ptr().cast_mut(),
        );
        if code < 0 {
            return Err(Error::from(code));
        }
        if got == 0 {
            return Ok(events);
        }
        for n in 0..usize::try_from((*subtitle).num_rects).unwrap_or(0) {
            let rect = *(*subtitle).rects.add(n);
            if (*rect).type_ == AVSubtitleType::SUBTITLE_ASS {
                events.extend(text((*rect).ass));
            }
        }
        avsubtitle_free(subtitle);
    }
    Ok(events)
}

/// # Safety
/// `dictionary` is null or valid.
unsafe fn tag(dictionary: *const AVDictionary, key: &CStr) -> Option<String> {
    // SAFETY: a null dictionary has no entries; the entry's value is a string of the dictionary's own.
    unsafe {
        let entry = av_dict_get(dictionary, key.as_ptr(), std::ptr::null(), 0);
        if entry.is_null() { None } else { text((*entry).value) }
    }
}

/// # Safety
/// `string` is null or ends with a zero.
unsafe fn text(string: *const c_char) -> Option<String> {
    if string.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    let bytes = unsafe { CStr::from_ptr(string) }.to_bytes();
    Some(String::from_utf8_lossy(bytes).into_owned())
}
