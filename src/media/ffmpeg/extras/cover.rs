//! The cover picture of a recording, made into its poster.

use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Dictionary, codec, decoder, frame};

use super::jpeg;
use super::pictures::{to_jpeg, within};
use crate::media::Error;
use crate::media::extras::{ExtrasOrder, LINES_MAX, POSTER, Still};
use crate::media::ffmpeg::raw;
use crate::media::ffmpeg::source::Source;

/// The largest cover that is read.
const COVER_BYTES_MAX: usize = 32 << 20;
/// The most pixels that a cover may unpack to: an album's has nine million at times, more than a picture of most films.
const COVER_PIXELS_MAX: u64 = 32 << 20;

/// The first attached picture that can be decoded. JPEG and PNG alone are: other formats have too many doors.
pub(super) fn cover(source: &Source, order: &ExtrasOrder) -> Result<Option<Still>, Error> {
    for stream in source.input().streams() {
        let id = stream.parameters().id();
        let attached = stream.disposition().contains(Disposition::ATTACHED_PIC);
        if !attached || !matches!(id, codec::Id::MJPEG | codec::Id::PNG) {
            continue;
        }
        let Some(packet) = raw::attached(&stream, COVER_BYTES_MAX) else { continue };
        let context = codec::Context::from_parameters(stream.parameters());
        let (Ok(context), Some(codec)) = (context, decoder::find(id)) else { continue };
        let mut settings = Dictionary::new();
        settings.set("threads", "1");
        settings.set("max_pixels", &COVER_PIXELS_MAX.to_string());
        let Ok(mut decoder) = context.decoder().open_as_with(codec, settings) else { continue };
        let mut picture = frame::Video::empty();
        // A cover that cannot be read is passed over; the next may be better.
        let decoded = decoder
            .send_packet(&packet)
            .and_then(|()| decoder.send_eof())
            .and_then(|()| decoder.receive_frame(&mut picture));
        if decoded.is_err() || picture.width() == 0 || picture.height() == 0 {
            continue;
        }
        let size = within(picture.width(), picture.height(), LINES_MAX);
        picture.set_pts(Some(0));
        let mut still = to_jpeg(&picture, size)?;
        return jpeg::write(&order.output, POSTER, &mut still).map(Some);
    }
    Ok(None)
}
