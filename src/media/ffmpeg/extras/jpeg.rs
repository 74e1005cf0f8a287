//! Pictures to JPEG.

use std::path::Path;

use ffmpeg_next::util::color::{Range, Space};
use ffmpeg_next::{Dictionary, Packet, codec, encoder, format, frame};

use super::{failed, keep, signed};
use crate::media::Error;
use crate::media::extras::Still;

/// The quantiser: 2 is best and largest, 31 least; stills this small show little above 4.
const QUANTISER: &str = "4";

/// Encodes a picture in the format that JPEG wants (full range, 4:2:0) and writes it.
pub(super) fn write(output: &Path, file: &str, picture: &mut frame::Video) -> Result<Still, Error> {
    let (width, height) = (picture.width(), picture.height());
    let mjpeg = encoder::find_by_name("mjpeg")
        .ok_or_else(|| Error::Worker("FFmpeg was built without its JPEG encoder".to_owned()))?;
    let mut video =
        codec::Context::new_with_codec(mjpeg).encoder().video().map_err(failed("JPEG encoder"))?;
    video.set_width(width);
    video.set_height(height);
    video.set_format(format::Pixel::YUVJ420P);
    video.set_color_range(Range::JPEG);
    video.set_colorspace(Space::BT470BG);
    video.set_time_base((1, signed(25)));
    let mut settings = Dictionary::new();
    settings.set("qmin", QUANTISER);
    settings.set("qmax", QUANTISER);
    settings.set("flags", "+bitexact");
    settings.set("threads", "1");
    let mut encoder = video.open_with(settings).map_err(failed("JPEG encoder"))?;
    picture.set_pts(Some(0));
    encoder.send_frame(picture).map_err(failed("JPEG encoder"))?;
    encoder.send_eof().map_err(failed("JPEG encoder"))?;
    let mut packet = Packet::empty();
    encoder.receive_packet(&mut packet).map_err(failed("JPEG encoder"))?;
    let bytes = keep(output, file, packet.data().unwrap_or_default())?;
    Ok(Still { file: file.to_owned(), bytes, width, height })
}
