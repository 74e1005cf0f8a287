//! The child's side: opens its files, enters the sandbox, works, and tells.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::sys::signal::{Signal, raise};

use super::protocol::{Line, Task, Work};
use super::sandbox;
use crate::media::extras::ExtrasOrder;
use crate::media::{Error, Order, Told, ffmpeg};

/// The longest task: paths, and a plan of as many segments as there may be.
const TASK_BYTES_MAX: u64 = 16 << 20;
/// The largest file of a transcode: a segment.
const SEGMENT_BYTES_MAX: u64 = super::check::SEGMENT_BYTES_MAX;
/// The largest film that is made by repeating: two days of 720p.
const FILM_BYTES_MAX: u64 = 64 << 30;

/// What the executable does when it is started with the argument `worker`. Call it before any thread is started.
///
/// A result, or a failure that is the source's, is told on standard output with exit code 0; any other failure goes to standard
/// error with another code.
pub fn run_worker() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Source(reason)) => match say(&Line::Told(Told::Failed { reason })) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            let text = match error {
                // The parent adds whose failure it is.
                Error::Worker(text) => text,
                error => error.to_string(),
            };
            // The last chance to say anything; where it fails, the exit code remains.
            let _ = writeln!(std::io::stderr(), "{text}");
            ExitCode::FAILURE
        }
    }
}

/// A task whose files are open.
enum Opened {
    Survey(File),
    Piece(Box<Order>, File),
    Decode(File),
    Extras(ExtrasOrder, File),
    Repeat { clip: File, to: File, seconds: u64 },
}

fn work() -> Result<(), Error> {
    close_inherited();
    let Task { limits, work } = task()?;
    let (opened, output, file_bytes_max): (Opened, Option<PathBuf>, u64) = match work {
        Work::Survey { source } => (Opened::Survey(open(&source)?), None, 0),
        Work::Piece(order) => {
            let output = order.output.clone();
            let source = open(&order.source)?;
            (Opened::Piece(order, source), Some(output), SEGMENT_BYTES_MAX)
        }
        Work::Decode { file } => (Opened::Decode(open(&file)?), None, 0),
        Work::Extras(order) => {
            let output = order.output.clone();
            let source = open(&order.source)?;
            (Opened::Extras(order, source), Some(output), SEGMENT_BYTES_MAX)
        }
        Work::Repeat { clip, to, seconds } => {
            let (clip, to) = (open(&clip)?, create(&to)?);
            (Opened::Repeat { clip, to, seconds }, None, FILM_BYTES_MAX)
        }
    };
    sandbox::enter(&limits, output.as_deref(), file_bytes_max)
        .map_err(|error| Error::Worker(format!("the sandbox cannot be set up: {error}")))?;
    die_with_parent()?;
    ffmpeg::begin();
    let mut beat = || say(&Line::Alive);
    let answer = match opened {
        Opened::Survey(source) => Line::Surveyed(ffmpeg::survey(source, &limits, &mut beat)?),
        Opened::Piece(order, source) => {
            let mut tell = |told| say(&Line::Told(told));
            Line::Told(Told::Done { errors: ffmpeg::work(&order, source, &mut tell)? })
        }
        Opened::Decode(file) => Line::Decoded(ffmpeg::decode(file, &limits, &mut beat)?),
        Opened::Extras(order, source) => {
            Line::Extras { bytes: ffmpeg::extras(&order, source, &mut beat)? }
        }
        Opened::Repeat { clip, to, seconds } => {
            ffmpeg::repeat(clip, to, seconds, &mut beat)?;
            Line::Repeated
        }
    };
    say(&answer)
}

/// Reads the task up to the end of its line, byte by byte: what follows belongs to [`die_with_parent`].
fn task() -> Result<Task, Error> {
    let mut line = Vec::new();
    let read = BufReader::with_capacity(1, std::io::stdin().lock())
        .take(TASK_BYTES_MAX)
        .read_until(b'\n', &mut line);
    read.map_err(|source| Error::Io { what: "reading the task", source })?;
    serde_json::from_slice(&line).map_err(|error| Error::Worker(format!("the task: {error}")))
}

/// Ends this process when the parent closes the other end of standard input, which happens however the parent ends.
fn die_with_parent() -> Result<(), Error> {
    let watch = || {
        let mut stdin = std::io::stdin().lock();
        let mut byte = [0_u8; 1];
        while matches!(stdin.read(&mut byte), Ok(1)) {}
        // Nobody waits for an orderly end. It does not fail for a signal that exists.
        let _ = raise(Signal::SIGKILL);
    };
    let watcher = std::thread::Builder::new().name("parent".to_owned()).spawn(watch);
    watcher.map(drop).map_err(|source| Error::Io { what: "starting a thread", source })
}

/// Closes what a parent may have left open by mistake: the sandbox does not take away what is open already.
fn close_inherited() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    let open: Vec<i32> = entries.flatten().filter_map(number).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // The directory that was just read is among them and closed already.
        let _ = nix::unistd::close(descriptor);
    }
}

fn open(path: &Path) -> Result<File, Error> {
    let failed = |source| Error::Io { what: "opening the source", source };
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Error::Source("The source is not a plain file.".to_owned()));
    }
    Ok(file)
}

fn create(path: &Path) -> Result<File, Error> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    opened.map_err(|source| Error::Io { what: "creating the film", source })
}

fn say(line: &Line) -> Result<(), Error> {
    let failed = |source| Error::Io { what: "telling the parent", source };
    let mut text = serde_json::to_vec(line).map_err(|error| failed(error.into()))?;
    text.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&text).and_then(|()| stdout.flush()).map_err(failed)
}
