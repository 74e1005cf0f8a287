//! The media worker: the same executable, started again with the argument `worker` as a sandboxed child.
//!
//! The task goes in as one line of JSON on standard input, which then stays open: when it closes, the server is gone and the child
//! ends itself. (A parent-death signal would be tied to the thread that started the child, and runtime threads come and go.) What
//! the child tells comes back as lines of JSON on standard output, and nothing of it is believed before [`check`] has looked.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio_util::sync::CancellationToken;

use bytes::Bytes;

use self::check::Checker;
use self::protocol::{Line, Task, Work};
use super::boxes::BoxError;
use super::extras::{self, Extras, ExtrasOrder};
use super::{Decoded, Error, Options, Order, Plan, Sink, Survey, Told, Transcoder, join};
use crate::domain::id::{RenditionName, SegmentNumber};
use crate::domain::video::Rendition;

mod check;
mod child;
mod protocol;
mod sandbox;

pub(super) use check::plain as plain_file;
pub use child::run_worker;
pub use sandbox::sandbox_support;

/// The longest line that is read: a survey with as many key frames as are told.
const LINE_BYTES_MAX: usize = 4 << 20;
/// The child says something every five seconds of work; after this long one call into FFmpeg hangs.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a child may take to end after its last word.
const GRACE: Duration = Duration::from_secs(10);
/// How often the output directory of a child is looked at: it fills by some hundred megabytes meanwhile.
const WATCH: Duration = Duration::from_secs(2);
/// Files in a child's output directory, each of which takes an inode. Those that are told of are moved away.
const FILES_MAX: u64 = 1 << 18;
/// Characters of what a child gives as a reason.
const WORDS_CHARS_MAX: usize = 300;
/// What of a child's standard error goes to the log. Damaged films complain about every frame.
const STDERR_LINES_MAX: usize = 50;
const STDERR_LINE_BYTES_MAX: usize = 500;
/// The last lines are kept for the reason of a failure.
const STDERR_TAIL: usize = 3;

/// Runs media work in child processes.
#[derive(Debug, Clone)]
pub struct Worker {
    exe: PathBuf,
    limits: Options,
    patience: Duration,
}

impl Worker {
    /// With this very executable. `limits` bound what runs without an order of its own.
    pub fn new(limits: Options) -> Self {
        // Unlike the path of the executable, this stays the running program after an upgrade has replaced the file.
        Self::at(PathBuf::from("/proc/self/exe"), limits)
    }

    /// With another executable, which must know the argument `worker`.
    pub fn at(exe: PathBuf, limits: Options) -> Self {
        Self { exe, limits, patience: PATIENCE }
    }

    /// With another patience for a child that says nothing.
    #[must_use]
    pub const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn spawn(&self) -> Result<Child, Error> {
        let mut command = Command::new(&self.exe);
        command.arg("worker").env_clear().current_dir("/").kill_on_drop(true);
        // Each of glibc's arenas reserves 64 MiB of address space: with many threads they alone would break the memory limit.
        command.env("MALLOC_ARENA_MAX", "2");
        if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", path);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(|source| Error::Io { what: "starting the media worker", source })
    }

    /// Runs one task; every line goes to `hear`, which answers with the result when it has it.
    async fn run<T, H: Hear<T>>(
        &self,
        limits: &Options,
        work: Work,
        hear: &mut H,
        cancel: &CancellationToken,
    ) -> Result<T, Error> {
        let output = output(&work);
        let task = Task { limits: limits.clone(), work };
        let mut task = serde_json::to_vec(&task).map_err(broken)?;
        task.push(b'\n');
        let mut child = self.spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(Error::Worker("it has no pipes".to_owned()));
        };
        let mut tail = VecDeque::new();
        let mut why = None;
        let talked = {
            let stop = CancellationToken::new();
            // A child that dies before it has read its task is told of by its status, not by the broken pipe.
            let talk = async {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Err(Error::Cancelled),
                    _ = stdin.write_all(&task) => {}
                }
                self.talk(stdout, hear, &stop).await
            };
            let log = log(stderr, &mut tail);
            let over = over(limits, output, cancel);
            tokio::pin!(talk, log, over);
            let mut logging = true;
            loop {
                tokio::select! {
                    biased;
                    // The child ends at once; a telling that has begun is finished, since half of it may be recorded.
                    error = &mut over, if why.is_none() => {
                        why = Some(error);
                        stop.cancel();
                        let _ = child.start_kill();
                    }
                    talked = &mut talk => {
                        if logging && talked.as_ref().is_ok_and(Option::is_none) {
                            log.await;
                        }
                        break talked;
                    }
                    () = &mut log, if logging => logging = false,
                }
            }
        };
        let talked = why.map_or(talked, Err);
        // What closed its output ends by itself, and how it ends is told; what must stop is stopped.
        let grace = if talked.is_ok() { GRACE } else { Duration::ZERO };
        let status = match tokio::time::timeout(grace, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                // It may have ended meanwhile: then there is nothing to kill.
                let _ = child.start_kill();
                child.wait().await
            }
        };
        let status = status.map_err(|source| Error::Io { what: "media worker", source })?;
        drop(stdin);
        match talked? {
            Some(answer) if status.success() => Ok(answer),
            _ => Err(ended(status, &tail)),
        }
    }

    /// Listens until the child closes its output, or until it shall stop, which is looked at between lines; `None` where it closed without
    /// a result.
    async fn talk<T, H: Hear<T>>(
        &self,
        stdout: ChildStdout,
        hear: &mut H,
        stop: &CancellationToken,
    ) -> Result<Option<T>, Error> {
        let mut lines = BufReader::new(stdout);
        let mut answer = None;
        loop {
            let line = tokio::time::timeout(self.patience, line(&mut lines, LINE_BYTES_MAX));
            let line = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Error::Cancelled),
                line = line => line,
            };
            let line = line.map_err(|_| {
                let seconds = self.patience.as_secs();
                Error::Worker(format!("it said nothing for {seconds} seconds"))
            })?;
            let Some(line) = line? else { return Ok(answer) };
            if answer.is_some() {
                return Err(Error::Worker("it spoke on after its last word".to_owned()));
            }
            let line: Line = serde_json::from_slice(&line).map_err(broken)?;
            if let Line::Told(Told::Failed { reason }) = line {
                return Err(Error::Source(words(&reason)));
            }
            answer = hear.hear(line).await?;
        }
    }
}

#[async_trait]
impl Transcoder for Worker {
    async fn survey(
        &self,
        source: PathBuf,
        options: Options,
        cancel: CancellationToken,
    ) -> Result<Survey, Error> {
        let work = Work::Survey { source: absolute(&source)? };
        self.run(&options, work, &mut Surveying, &cancel).await
    }

    async fn work(
        &self,
        order: Order,
        sink: &mut dyn Sink,
        cancel: CancellationToken,
    ) -> Result<(), Error> {
        let order =
            Order { source: absolute(&order.source)?, output: absolute(&order.output)?, ..order };
        let limits = order.options.clone();
        let checker = Checker::new(&order)?;
        let mut hear = Making { checker, sink };
        self.run(&limits, Work::Piece(Box::new(order)), &mut hear, &cancel).await
    }

    fn check(
        &self,
        plan: &Plan,
        rendition: &RenditionName,
        number: Option<SegmentNumber>,
        bytes: &[u8],
    ) -> Result<(), Error> {
        check::part(plan, rendition, number, bytes)
    }

    fn join(
        &self,
        picture: Option<&[u8]>,
        sound: Option<&[u8]>,
        number: Option<SegmentNumber>,
    ) -> Result<Bytes, Error> {
        join::join(picture, sound, number).map_err(malformed)
    }

    fn rendition(
        &self,
        plan: &Plan,
        name: &RenditionName,
        init: &[u8],
        sizes: &[u64],
    ) -> Result<Rendition, Error> {
        plan.rendition(name, init, sizes).map_err(malformed)
    }

    async fn decode(&self, file: PathBuf) -> Result<Decoded, Error> {
        let work = Work::Decode { file: absolute(&file)? };
        self.run(&self.limits, work, &mut Decoding, &CancellationToken::new()).await
    }

    async fn repeat(&self, clip: PathBuf, to: PathBuf, seconds: u64) -> Result<(), Error> {
        let (clip, to) = (absolute(&clip)?, absolute(&to)?);
        let mut part = to.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let work = Work::Repeat { clip, to: part.clone(), seconds };
        let done = self.run(&self.limits, work, &mut Repeating, &CancellationToken::new()).await;
        let moved = match done {
            Ok(()) => tokio::fs::rename(&part, &to).await,
            Err(error) => {
                // It may not exist; what failed is told already.
                let _ = tokio::fs::remove_file(&part).await;
                return Err(error);
            }
        };
        moved.map_err(|source| Error::Io { what: "naming the film", source })
    }

    async fn extras(&self, order: ExtrasOrder, cancel: CancellationToken) -> Result<Extras, Error> {
        let order = ExtrasOrder {
            source: absolute(&order.source)?,
            output: absolute(&order.output)?,
            ..order
        };
        let work = Work::Extras(order.clone());
        let bytes = self.run(&order.options, work, &mut AroundIt, &cancel).await?;
        let checked = tokio::task::spawn_blocking(move || told_extras(&order, bytes)).await;
        checked.map_err(|error| Error::Worker(error.to_string()))?
    }
}

/// Reads what a child wrote of its extras, and checks it and all files.
fn told_extras(order: &ExtrasOrder, bytes: u64) -> Result<Extras, Error> {
    if bytes > extras::TOLD_BYTES_MAX {
        return Err(Error::Worker("it told too much of its extras".to_owned()));
    }
    let path = order.output.join(extras::TOLD);
    let read = check::plain(&path, bytes);
    let read = read.map_err(|source| Error::Io { what: "reading the extras", source })?;
    let told =
        read.ok_or_else(|| Error::Worker("it told of extras that are not there".to_owned()))?;
    extras::checked(&order.output, order, serde_json::from_slice(&told).map_err(broken)?)
}

/// What makes a result out of a child's lines.
#[async_trait]
trait Hear<T>: Send {
    async fn hear(&mut self, line: Line) -> Result<Option<T>, Error>;
}

struct Surveying;

#[async_trait]
impl Hear<Survey> for Surveying {
    async fn hear(&mut self, line: Line) -> Result<Option<Survey>, Error> {
        match line {
            Line::Surveyed(survey) => check::survey(&survey).map(|()| Some(survey)),
            Line::Alive => Ok(None),
            line => Err(out_of_place(&line)),
        }
    }
}

struct Making<'a> {
    checker: Checker,
    sink: &'a mut dyn Sink,
}

#[async_trait]
impl Hear<()> for Making<'_> {
    async fn hear(&mut self, line: Line) -> Result<Option<()>, Error> {
        let told = match line {
            Line::Told(told) => told,
            Line::Alive => return Ok(None),
            line => return Err(out_of_place(&line)),
        };
        match told {
            Told::Done { errors } => {
                self.checker.done()?;
                if errors > 0 {
                    tracing::info!(errors, "the source is damaged in places");
                }
                Ok(Some(()))
            }
            told => {
                if self.checker.told(&told).await? {
                    self.sink.told(told).await?;
                }
                Ok(None)
            }
        }
    }
}

struct Decoding;

#[async_trait]
impl Hear<Decoded> for Decoding {
    async fn hear(&mut self, line: Line) -> Result<Option<Decoded>, Error> {
        match line {
            Line::Decoded(decoded) => Ok(Some(decoded)),
            Line::Alive => Ok(None),
            line => Err(out_of_place(&line)),
        }
    }
}

struct Repeating;

#[async_trait]
impl Hear<()> for Repeating {
    async fn hear(&mut self, line: Line) -> Result<Option<()>, Error> {
        match line {
            Line::Repeated => Ok(Some(())),
            Line::Alive => Ok(None),
            line => Err(out_of_place(&line)),
        }
    }
}

struct AroundIt;

#[async_trait]
impl Hear<u64> for AroundIt {
    async fn hear(&mut self, line: Line) -> Result<Option<u64>, Error> {
        match line {
            Line::Extras { bytes } => Ok(Some(bytes)),
            Line::Alive => Ok(None),
            line => Err(out_of_place(&line)),
        }
    }
}

/// Why a child must end before it does so by itself: it was cancelled, takes too long, or leaves too much where it writes.
async fn over(limits: &Options, output: Option<PathBuf>, cancel: &CancellationToken) -> Error {
    let longest = Duration::from_secs(limits.piece_max_seconds);
    tokio::select! {
        biased;
        () = cancel.cancelled() => Error::Cancelled,
        () = tokio::time::sleep(longest) => Error::Source(format!(
            "This file takes longer than the {} seconds that a media worker is allowed.",
            limits.piece_max_seconds
        )),
        () = overflow(output, limits.output_max_bytes) => {
            Error::Source("What is made of this file is larger than is allowed.".to_owned())
        }
    }
}

/// Returns when more lies in a directory than may. What was told of is moved away: the rest is what a child never tells of.
async fn overflow(output: Option<PathBuf>, bytes_max: u64) {
    let Some(output) = output else { return std::future::pending().await };
    loop {
        tokio::time::sleep(WATCH).await;
        let output = output.clone();
        let beyond = tokio::task::spawn_blocking(move || beyond(&output, bytes_max)).await;
        if beyond.unwrap_or(false) {
            return;
        }
    }
}

/// Whether the files of a flat directory have more bytes than may be, or are too many. What vanishes while it is looked at does not count.
fn beyond(directory: &Path, bytes_max: u64) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    let (mut bytes, mut files) = (0_u64, 0_u64);
    for entry in entries.flatten() {
        // Space may be reserved behind a file's end.
        let size = entry.metadata().map_or(0, |of| of.len().max(of.blocks().saturating_mul(512)));
        (bytes, files) = (bytes.saturating_add(size), files.saturating_add(1));
        if bytes > bytes_max || files > FILES_MAX {
            return true;
        }
    }
    false
}

/// Where a child writes files that it tells of.
fn output(work: &Work) -> Option<PathBuf> {
    match work {
        Work::Piece(order) => Some(order.output.clone()),
        Work::Extras(order) => Some(order.output.clone()),
        Work::Survey { .. } | Work::Decode { .. } | Work::Repeat { .. } => None,
    }
}

/// What a child says, fit for records and logs: one line of some length.
fn words(said: &str) -> String {
    said.chars().filter(|c| !c.is_control()).take(WORDS_CHARS_MAX).collect()
}

fn out_of_place(line: &Line) -> Error {
    Error::Worker(format!("it answered what was not asked: {}", line.word()))
}

fn malformed(error: BoxError) -> Error {
    Error::Worker(error.to_string())
}

fn broken(error: serde_json::Error) -> Error {
    // It quotes what was said.
    Error::Worker(format!("its words make no sense: {}", words(&error.to_string())))
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Io { what: "media path", source })
}

/// A line without its end; `None` at the end of the output.
async fn line(
    from: &mut (impl AsyncBufRead + Unpin),
    bytes_max: usize,
) -> Result<Option<Vec<u8>>, Error> {
    let mut line = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    let mut from = from.take(limit);
    let read = from.read_until(b'\n', &mut line).await;
    let read = read.map_err(|source| Error::Io { what: "media worker", source })?;
    if read == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(Error::Worker("it broke off, or said too much, in a line".to_owned()));
    }
    Ok(Some(line))
}

/// Puts the first lines of a child's standard error into the log, and keeps the last.
async fn log(stderr: ChildStderr, tail: &mut VecDeque<String>) {
    let mut lines = BufReader::new(stderr);
    let mut told = 0_usize;
    while let Some(line) = clipped(&mut lines, STDERR_LINE_BYTES_MAX).await {
        if told < STDERR_LINES_MAX {
            tracing::debug!(line, "media worker");
        }
        told = told.saturating_add(1);
        if tail.len() >= STDERR_TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
}

/// A line, cut to a length; what is longer is read and forgotten. `None` at the end or where reading fails.
async fn clipped(from: &mut BufReader<impl AsyncRead + Unpin>, bytes_max: usize) -> Option<String> {
    let mut kept: Vec<u8> = Vec::new();
    let mut any = false;
    loop {
        let buffer = from.fill_buf().await.ok()?;
        if buffer.is_empty() {
            break;
        }
        any = true;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let part = end.and_then(|end| buffer.get(..end)).unwrap_or(buffer);
        let room = bytes_max.saturating_sub(kept.len());
        kept.extend(part.iter().take(room));
        let used = end.map_or(buffer.len(), |end| end.saturating_add(1));
        from.consume(used);
        if end.is_some() {
            break;
        }
    }
    any.then(|| {
        let text = String::from_utf8_lossy(&kept);
        text.chars().filter(|c| !c.is_control()).collect()
    })
}

/// Why a child ended without a result.
fn ended(status: ExitStatus, tail: &VecDeque<String>) -> Error {
    let signal = status.signal().and_then(|number| Signal::try_from(number).ok());
    let how = match (signal, status.code()) {
        // The limit is the operator's, and this source will reach it again.
        (Some(Signal::SIGXCPU), _) => {
            return Error::Source(
                "This file takes more processor time than a media worker is allowed.".to_owned(),
            );
        }
        (Some(signal), _) => format!("ended by {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "ended".to_owned(),
    };
    if tail.is_empty() {
        return Error::Worker(how);
    }
    let tail: Vec<&str> = tail.iter().map(String::as_str).collect();
    Error::Worker(format!("{how}: {}", tail.join("; ")))
}

#[cfg(test)]
mod tests;
