//! What ffmpeg-next has no safe words for: the only unsafe code of the program, each piece a few field accesses or one call.

#![allow(unsafe_code)]

use ffmpeg_next::ffi::{
    AVDiscard, AVDurationEstimationMethod, AVFieldOrder, av_guess_sample_aspect_ratio,
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
