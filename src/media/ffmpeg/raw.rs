//! What ffmpeg-next has no safe words for: the only unsafe code of the program, each piece a few field accesses or one call.

#![allow(unsafe_code)]

use ffmpeg_next::ffi::{
    AVColorTransferCharacteristic, AVDiscard, AVDurationEstimationMethod, AVFieldOrder,
    AVPixelFormat, AVSEEK_FLAG_BACKWARD, av_guess_sample_aspect_ratio, av_seek_frame,
    av_write_frame, avio_flush,
};
use ffmpeg_next::format::context::{Input, Output};
use ffmpeg_next::{Error, Stream, StreamMut, filter};

mod texts;

pub(super) use texts::{attached, chapters, decode_subtitle, stream_tag, want_stream};

/// Ends the current fragment of a fragmenting muxer and hands its bytes to the stream behind it.
pub(super) fn flush_fragment(output: &mut Output) -> Result<(), Error> {
    // SAFETY: `output` owns a valid context with a `pb`, since it was made by `output_to_stream`; a null packet is the documented
    // way to ask for a flush and neither call keeps a pointer.
    let code = unsafe {
        let context = output.as_mut_ptr();
        let code = av_write_frame(context, std::ptr::null_mut());
        avio_flush((*context).pb);
        code
    };
    if code < 0 { Err(Error::from(code)) } else { Ok(()) }
}

/// Whether the duration is a guess from the bit rate, and no word of the container or its timestamps.
pub(super) fn duration_is_guessed(input: &Input) -> bool {
    // SAFETY: `input` owns a valid context; the field is plain data that `avformat_find_stream_info` has set.
    let method = unsafe { (*input.as_ptr()).duration_estimation_method };
    method == AVDurationEstimationMethod::AVFMT_DURATION_FROM_BITRATE
}

/// Tells the demuxer that packets of a stream are not wanted.
pub(super) fn ignore_stream(input: &mut Input, index: usize) {
    if let Some(mut stream) = input.stream_mut(index) {
        // SAFETY: the stream belongs to `input`, which is borrowed exclusively; the field is plain data for users to set.
        unsafe { (*stream.as_mut_ptr()).discard = AVDiscard::AVDISCARD_ALL };
    }
}

/// What the container says of a video stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coded {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) interlaced: bool,
}

/// Reads a video stream's coded size and field order.
pub(super) fn coded(stream: &Stream<'_>) -> Coded {
    // SAFETY: a stream of an opened input has codec parameters for as long as the input lives, which `stream` borrows.
    let (width, height, order) = unsafe {
        let parameters = (*stream.as_ptr()).codecpar;
        ((*parameters).width, (*parameters).height, (*parameters).field_order)
    };
    let progressive =
        matches!(order, AVFieldOrder::AV_FIELD_PROGRESSIVE | AVFieldOrder::AV_FIELD_UNKNOWN);
    Coded {
        width: u32::try_from(width).unwrap_or(0),
        height: u32::try_from(height).unwrap_or(0),
        interlaced: !progressive,
    }
}

/// What a stream's packets can be served by as they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) profile: i32,
    /// Whether pictures have 8 bits, 4:2:0.
    pub(super) yuv420: bool,
    /// Whether the transfer is one of high dynamic range.
    pub(super) hdr: bool,
    pub(super) sample_rate: i32,
    pub(super) channels: i32,
    pub(super) frame_size: i32,
    /// The decoder's configuration.
    pub(super) configuration: Vec<u8>,
}

/// Reads a stream's codec parameters.
pub(super) fn kept(stream: &Stream<'_>) -> Kept {
    // SAFETY: a stream of an opened input has codec parameters for as long as the input lives, which `stream` borrows; `extradata` is
    // null or has `extradata_size` bytes.
    unsafe {
        let of = (*stream.as_ptr()).codecpar;
        let length = usize::try_from((*of).extradata_size).unwrap_or(0);
        let configuration = if (*of).extradata.is_null() || length == 0 {
            Vec::new()
        } else {
            std::slice::from_raw_parts((*of).extradata, length).to_vec()
        };
        let hdr = matches!(
            (*of).color_trc,
            AVColorTransferCharacteristic::AVCOL_TRC_SMPTE2084
                | AVColorTransferCharacteristic::AVCOL_TRC_ARIB_STD_B67
        );
        Kept {
            profile: (*of).profile,
            yuv420: (*of).format == AVPixelFormat::AV_PIX_FMT_YUV420P as i32,
            hdr,
            sample_rate: (*of).sample_rate,
            channels: (*of).ch_layout.nb_channels,
            frame_size: (*of).frame_size,
            configuration,
        }
    }
}

/// Goes to the last key frame of a stream that is not behind a timestamp.
pub(super) fn seek(input: &mut Input, index: usize, timestamp: i64) -> Result<(), Error> {
    let index = i32::try_from(index).unwrap_or(-1);
    // SAFETY: `input` owns a valid context, which is borrowed exclusively; the call keeps no pointer.
    let code = unsafe { av_seek_frame(input.as_mut_ptr(), index, timestamp, AVSEEK_FLAG_BACKWARD) };
    if code < 0 { Err(Error::from(code)) } else { Ok(()) }
}

/// The shape of a pixel, of the container where it tells one, else of the codec; 0/1 where nobody knows.
pub(super) fn pixel_shape(input: &mut Input, index: usize) -> (i32, i32) {
    let context = {
        // SAFETY: only the pointer is taken; it is valid while `input` is.
        unsafe { input.as_mut_ptr() }
    };
    let Some(mut stream) = input.stream_mut(index) else { return (0, 1) };
    // SAFETY: both pointers belong to `input`, which is borrowed exclusively; a null frame is allowed.
    let shape =
        unsafe { av_guess_sample_aspect_ratio(context, stream.as_mut_ptr(), std::ptr::null_mut()) };
    (shape.num, shape.den)
}

/// Lets the muxer choose the codec's tag: the source's may belong to another container.
pub(super) fn clear_tag(stream: &mut StreamMut<'_>) {
    // SAFETY: the stream is borrowed exclusively from its output and has parameters from its making; the field is plain data.
    unsafe { (*(*stream.as_mut_ptr()).codecpar).codec_tag = 0 };
}

/// Bounds the threads of a filter graph; by default it starts one for each processor. Call it before the first filter is added.
pub(super) fn limit_threads(graph: &mut filter::Graph, threads: u16) {
    // SAFETY: the graph is valid and not configured yet; the field is plain data for users to set.
    unsafe { (*graph.as_mut_ptr()).nb_threads = i32::from(threads) };
}
