//! The I-frame rendition: each still encoded by itself, in a fragment of its own.

use std::path::{Path, PathBuf};

use ffmpeg_next::util::color::{Primaries, Range, Space, TransferCharacteristic};
use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::util::picture;
use ffmpeg_next::{Dictionary, Error as FfmpegError, Packet, codec, encoder, format, frame};

use super::{failed, keep, signed};
use crate::domain::video::{TICKS_PER_SECOND, Ticks};
use crate::media::extras::{IFRAMES, IFrame, IFrames};
use crate::media::ffmpeg::fragment::Muxer;
use crate::media::grid::Rate;
use crate::media::{Error, Options};

/// Scrubbing shows pictures small and briefly.
const CRF: &str = "28";
/// What the encoder is told of the rate, which decides the level: about that of the stills.
const RATE: Rate = Rate { num: 1, den: 5 };

/// Encodes stills and gathers the file.
pub(super) struct Maker {
    output: PathBuf,
    size: (u32, u32),
    encoder: encoder::video::Encoder,
    muxer: Muxer,
    file: Vec<u8>,
    init: u64,
    frames: Vec<IFrame>,
    /// The last picture, whose length the next one tells.
    held: Option<(Packet, Ticks)>,
}

impl Maker {
    pub(super) fn begin(output: &Path, size: (u32, u32), options: &Options) -> Result<Self, Error> {
        let x264 = encoder::find_by_name("libx264")
            .ok_or_else(|| Error::Worker("FFmpeg was built without libx264".to_owned()))?;
        let mut video = codec::Context::new_with_codec(x264)
            .encoder()
            .video()
            .map_err(failed("video encoder"))?;
        video.set_width(size.0);
        video.set_height(size.1);
        video.set_format(format::Pixel::YUV420P);
        video.set_time_base((1, i32::try_from(TICKS_PER_SECOND).unwrap_or(90_000)));
        video.set_frame_rate(Some((signed(RATE.num), signed(RATE.den))));
        video.set_aspect_ratio((1, 1));
        video.set_colorspace(Space::BT709);
        video.set_color_range(Range::MPEG);
        video.set_color_primaries(Primaries::BT709);
        video.set_color_transfer_characteristic(TransferCharacteristic::BT709);
        let mut settings = Dictionary::new();
        settings.set("preset", &options.preset);
        // Each picture comes out as it goes in.
        settings.set("tune", "zerolatency");
        settings.set("crf", CRF);
        settings.set("g", "1");
        settings.set("bf", "0");
        settings.set("forced-idr", "1");
        settings.set("flags", "+cgop+global_header");
        settings.set("threads", "1");
        let encoder = video.open_with(settings).map_err(failed("video encoder"))?;
        let (muxer, init) = Muxer::begin(Some((encoder.as_ref(), RATE)), None)?;
        Ok(Self {
            output: output.to_owned(),
            size,
            encoder,
            muxer,
            init: u64::try_from(init.len()).unwrap_or(0),
            file: init,
            frames: Vec::new(),
            held: None,
        })
    }

    /// Takes the next picture.
    pub(super) fn picture(&mut self, picture: &mut frame::Video, at: Ticks) -> Result<(), Error> {
        picture.set_kind(picture::Type::I);
        picture.set_pts(i64::try_from(at.get()).ok());
        self.encoder.send_frame(picture).map_err(failed("video encoder"))?;
        self.drain()
    }

    fn drain(&mut self) -> Result<(), Error> {
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(FfmpegError::Eof | FfmpegError::Other { errno: EAGAIN }) => return Ok(()),
                Err(error) => return Err(failed("video encoder")(error)),
            }
            let start =
                Ticks::new(packet.pts().and_then(|pts| u64::try_from(pts).ok()).unwrap_or(0));
            self.write_held(start)?;
            self.held = Some((packet, start));
        }
    }

    /// Writes the picture that was held as a fragment up to `end`.
    fn write_held(&mut self, end: Ticks) -> Result<(), Error> {
        let Some((packet, start)) = self.held.take() else { return Ok(()) };
        self.muxer.still(packet, start.get(), end.since(start).get())?;
        let fragment = self.muxer.cut()?;
        let length = |bytes: &[u8]| u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.frames.push(IFrame { offset: length(&self.file), length: length(&fragment), start });
        self.file.extend(fragment);
        Ok(())
    }

    /// Writes the file; the last picture is shown up to the film's end.
    pub(super) fn finish(mut self, end: Ticks) -> Result<IFrames, Error> {
        self.encoder.send_eof().map_err(failed("video encoder"))?;
        self.drain()?;
        self.write_held(end)?;
        let bytes = keep(&self.output, IFRAMES, &self.file)?;
        Ok(IFrames {
            bytes,
            init: self.init,
            width: self.size.0,
            height: self.size.1,
            codecs: String::new(),
            frames: self.frames,
        })
    }
}
