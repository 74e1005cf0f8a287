//! Use case: what viewers expect around a film, made after it is published, and subtitles that its creator sends.
//!
//! Everything lies in the object store, with one record beside it: of each version what was made of its source, and of the title what its
//! creator added, which outlives versions. A title without records is one without extras.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Error, Library, Published};
use crate::blobs::Extra;
use crate::domain::id::{Version, VideoId};
use crate::domain::subtitle::{self, Cue, Language};
use crate::domain::video::Ticks;
use crate::media::extras::{Chapter, Extras, ExtrasOrder, IFrames, Storyboard, Waveform};
use crate::store::Role;

mod kept;
mod written;

pub use kept::Kept;
pub use written::{chapters_vtt, storyboard_vtt, waveform_json};

/// The largest file of subtitles that is taken, in bytes.
pub const SUBTITLES_BYTES_MAX: usize = 4 << 20;
/// The largest segment of subtitles, in bytes: what is shown of it is read in seconds. Cues beyond it are left out.
pub const SEGMENT_BYTES_MAX: usize = 256 << 10;
/// What a cue has beside its text at most: its times and line ends.
const CUE_FRAME_BYTES: usize = 64;
/// Tracks that a creator may add to a title.
const UPLOADED_MAX: usize = 64;
/// Characters of a track's name.
const NAME_CHARS_MAX: usize = 100;

/// A track of subtitles, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    /// Its language, which is unlike any other's of the title.
    pub language: Language,
    /// Its name, unlike any other's as well.
    pub name: String,
    /// Whether it is shown to who chose nothing.
    pub default: bool,
    /// Whether it translates only what is foreign in the film.
    pub forced: bool,
    /// Which upload it is; `None` for one of the source. Two with the same number are the same bytes.
    pub upload: Option<u64>,
}

/// What was made of a version's source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Made {
    /// The poster's width and height.
    pub poster: Option<(u32, u32)>,
    /// Stills along the film.
    pub storyboard: Option<Storyboard>,
    /// How loud it is.
    pub waveform: Option<Waveform>,
    /// Its chapters.
    pub chapters: Vec<Chapter>,
    /// The I-frame rendition.
    pub iframes: Option<IFrames>,
    /// Subtitles of the source.
    tracks: Vec<Track>,
}

/// What a creator said of a title.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Said {
    /// Whether subtitles are free where the film is not.
    subtitles_free: bool,
    uploaded: Vec<Track>,
    /// Tracks of the source that are not wanted.
    hidden: Vec<Language>,
    /// Counts uploads.
    uploads: u64,
}

/// What there is around a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// What was made of the source.
    pub made: Made,
    /// All tracks of subtitles; of several that would be shown by default the first one is.
    pub subtitles: Vec<Track>,
    /// Whether subtitles are free where the film is not.
    pub subtitles_free: bool,
}

impl Around {
    fn of(made: Made, said: Said) -> Self {
        let replaced = |of: &Track| {
            said.hidden.contains(&of.language)
                || said.uploaded.iter().any(|by| by.language == of.language)
        };
        let mut subtitles: Vec<Track> =
            made.tracks.iter().filter(|of| !replaced(of)).chain(&said.uploaded).cloned().collect();
        let mut any = false;
        for n in 0..subtitles.len() {
            let names: Vec<String> = subtitles.iter().take(n).map(|of| of.name.clone()).collect();
            let Some(track) = subtitles.get_mut(n) else { continue };
            track.default &= !any;
            any |= track.default;
            if track.name.is_empty() {
                track.name = track.language.spoken().to_owned();
            }
            if names.contains(&track.name) {
                track.name = format!("{} ({})", track.name, track.language);
            }
        }
        Self { made, subtitles, subtitles_free: said.subtitles_free }
    }

    /// A track.
    pub fn track(&self, language: &Language) -> Option<&Track> {
        self.subtitles.iter().find(|track| track.language == *language)
    }
}

/// A file around a film.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// The poster.
    Poster,
    /// A sheet of the storyboard.
    Sheet(u32),
    /// The I-frame rendition.
    IFrames,
}

impl Library {
    /// Makes what viewers expect around a version of this length, with pictures or without, from its source, in an empty or absent work directory, and keeps it. What was made before
    /// is replaced.
    ///
    /// # Errors
    /// [`Error::Media`] where the worker fails, [`Error::Blobs`] where something cannot be kept; the film is as good without.
    pub async fn make_extras(
        &self,
        (video, version): (VideoId, Version),
        (duration, pictures): (Ticks, bool),
        source: &Path,
        work_dir: &Path,
        cancel: CancellationToken,
    ) -> Result<(), Error> {
        let io = |what| move |source| Error::Io { what, source };
        let output = work_dir.join("extras");
        if tokio::fs::try_exists(&output).await.unwrap_or(false) {
            tokio::fs::remove_dir_all(&output).await.map_err(io("clearing the work directory"))?;
        }
        tokio::fs::create_dir_all(&output).await.map_err(io("making the work directory"))?;
        let order = ExtrasOrder {
            source: source.to_owned(),
            output: output.clone(),
            options: self.parts.media.clone(),
            duration,
            pictures,
            // Of a film nobody looks at the shape of its sound.
            sound: !pictures,
        };
        let made = self.parts.transcoder.extras(order, cancel).await?;
        let kept = self.keep_extras(video, version, &output, made).await;
        self.ensure_wanted(video, version).await?;
        self.extras.changed(video);
        kept?;
        tokio::fs::remove_dir_all(&output).await.map_err(io("clearing the work directory"))
    }

    /// What was written for a title that was deleted meanwhile, or a version that was cancelled or swept, is removed.
    async fn ensure_wanted(&self, video: VideoId, version: Version) -> Result<(), Error> {
        let store = &self.parts.store;
        if store.video(video)?.is_none() {
            self.parts.blobs.delete(video).await?;
            return Ok(());
        }
        // The job first: it ends when its version is published.
        let made = store.job(video)?.is_some_and(|job| job.version == version);
        if !made && store.media(video, version)?.is_none() {
            self.parts.blobs.keep_only(video, version, &[]).await?;
        }
        Ok(())
    }

    async fn keep_extras(
        &self,
        video: VideoId,
        version: Version,
        from: &Path,
        extras: Extras,
    ) -> Result<(), Error> {
        let sheets = extras.storyboard.iter().flat_map(|board| &board.sheets);
        let sheets = (0..).zip(sheets).map(|(number, sheet)| (Extra::Sheet(number), &sheet.file));
        let poster = extras.poster.iter().map(|still| (Extra::Poster, &still.file));
        let files: Vec<(Extra, String)> =
            poster.chain(sheets).map(|(extra, file)| (extra, file.clone())).collect();
        let iframes = extras.iframes.iter().map(|of| (Extra::IFrames, of.file().to_owned()));
        for (extra, file) in files.into_iter().chain(iframes) {
            let read = tokio::fs::read(from.join(file)).await;
            let bytes = read.map_err(|source| Error::Io { what: "reading an extra", source })?;
            self.put(video, Some(version), &extra, bytes.into()).await?;
        }
        let mut tracks: Vec<Track> = Vec::new();
        for made in &extras.subtitles {
            let base = made.language.clone().unwrap_or_else(Language::undetermined);
            let taken = |language: &Language| tracks.iter().any(|of| of.language == *language);
            let others = (2..).map(|n| base.another(n));
            let mut names =
                std::iter::once(base.clone()).chain(others.take(extras.subtitles.len()));
            let Some(language) = names.find(|name| !taken(name)) else { continue };
            let text = subtitle::vtt(None, &made.cues);
            let extra = Extra::Subtitles(language.clone());
            self.put(video, Some(version), &extra, text.into()).await?;
            let (default, forced) = (made.default && !made.forced, made.forced);
            tracks.push(Track { language, name: made.name.clone(), default, forced, upload: None });
        }
        let record = Made {
            poster: extras.poster.map(|still| (still.width, still.height)),
            storyboard: extras.storyboard,
            waveform: extras.waveform,
            chapters: extras.chapters,
            iframes: extras.iframes,
            tracks,
        };
        // The last write: what it names is there.
        self.put(video, Some(version), &Extra::Record, json(&record)?).await
    }

    async fn put(
        &self,
        video: VideoId,
        version: Option<Version>,
        extra: &Extra,
        bytes: Bytes,
    ) -> Result<(), Error> {
        Ok(self.parts.blobs.put_extra(video, version, extra, bytes).await?)
    }

    /// What there is around a version.
    ///
    /// # Errors
    /// [`Error::Blobs`] where it cannot be read.
    pub async fn around(&self, published: &Published) -> Result<Arc<Around>, Error> {
        let (id, version) = (published.video.id, published.media.version);
        let now = self.parts.clock.now_ms();
        if let Some(known) = self.extras.around(id, version, now) {
            return Ok(known);
        }
        let changes = self.extras.changes();
        let made = self.record(id, Some(version)).await?;
        let around = Arc::new(Around::of(made, self.record(id, None).await?));
        self.extras.keep_around(id, version, Arc::clone(&around), now, changes);
        Ok(around)
    }

    async fn record<T: Default + for<'de> Deserialize<'de>>(
        &self,
        id: VideoId,
        version: Option<Version>,
    ) -> Result<T, Error> {
        let found = self.parts.blobs.extra(id, version, &Extra::Record).await?;
        let Some(bytes) = found else { return Ok(T::default()) };
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.into()))
    }

    /// A file around a version, whole.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none.
    pub async fn extra(&self, published: &Published, file: File) -> Result<Bytes, Error> {
        let extra = match file {
            File::Poster => Extra::Poster,
            File::Sheet(number) => Extra::Sheet(number),
            File::IFrames => Extra::IFrames,
        };
        let (id, version) = (published.video.id, published.media.version);
        let found = self.parts.blobs.extra(id, Some(version), &extra).await?;
        found.ok_or(Error::Missing("file"))
    }

    /// The cues of a track of a version.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is no such track.
    pub async fn cues(&self, published: &Published, track: &Track) -> Result<Arc<[Cue]>, Error> {
        let key = key(published, track);
        let (id, version) = (key.0, key.1);
        if let Some(known) = self.extras.cues(&key) {
            return Ok(known);
        }
        let extra = Extra::Subtitles(track.language.clone());
        let bytes = self.parts.blobs.extra(id, version, &extra).await?;
        let bytes = bytes.ok_or(Error::Missing("subtitles"))?;
        let parsed = tokio::task::spawn_blocking(move || subtitle::parse(&bytes)).await;
        let parsed = parsed.map_err(|error| damaged(error.into()))?;
        let cues: Arc<[Cue]> = parsed.map_err(|error| damaged(error.into()))?.into();
        self.extras.keep_cues(key, Arc::clone(&cues));
        Ok(cues)
    }

    /// A segment of a track: a WebVTT file of the cues that are shown within a span, in the film's own time, which begins at zero in the
    /// segments as well (RFC 8216, section 3.5).
    ///
    /// # Errors
    /// [`Error::Missing`] where there is no such track.
    pub async fn subtitle_segment(
        &self,
        published: &Published,
        track: &Track,
        span: (Ticks, Ticks),
    ) -> Result<Bytes, Error> {
        let key = (key(published, track), span);
        if let Some(known) = self.extras.segment(&key) {
            return Ok(known);
        }
        let cues = self.cues(published, track).await?;
        // All cues of a track are looked at: not on a thread that answers others.
        let written = tokio::task::spawn_blocking(move || segment(&cues, span)).await;
        let written: Bytes = written.map_err(|error| damaged(error.into()))?.into();
        self.extras.keep_segment(key, written.clone());
        Ok(written)
    }

    /// Takes subtitles of a title in a language; WebVTT or SRT. They take the place of those of this language.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the line where the text is neither; [`Error::Missing`] where the title is somebody else's.
    pub async fn put_subtitles(
        &self,
        id: VideoId,
        role: Role,
        language: Language,
        name: Option<&str>,
        bytes: Bytes,
    ) -> Result<(), Error> {
        self.own_video(id, role)?;
        if bytes.len() > SUBTITLES_BYTES_MAX {
            return Err(Error::TooLarge { max: SUBTITLES_BYTES_MAX as u64 });
        }
        let parse = move || subtitle::parse(&bytes).map(|cues| subtitle::vtt(None, &cues));
        let parsed = tokio::task::spawn_blocking(parse).await;
        let parsed = parsed.map_err(|error| damaged(error.into()))?;
        let invalid = |reason: String| Error::Invalid { field: "subtitles", reason };
        let written = parsed.map_err(|error| invalid(error.to_string()))?;
        let _turn = self.extras.turn().await;
        let mut said: Said = self.record(id, None).await?;
        let name = subtitle::name(name.unwrap_or_default(), NAME_CHARS_MAX);
        said.uploads = said.uploads.saturating_add(1);
        said.uploaded.retain(|of| of.language != language);
        said.hidden.retain(|of| *of != language);
        if said.uploaded.len() >= UPLOADED_MAX {
            return Err(invalid(format!("a title has at most {UPLOADED_MAX}: delete one first")));
        }
        let extra = Extra::Subtitles(language.clone());
        let upload = Some(said.uploads);
        said.uploaded.push(Track { language, name, default: false, forced: false, upload });
        self.put(id, None, &extra, written.into()).await?;
        self.put(id, None, &Extra::Record, json(&said)?).await?;
        self.extras.changed(id);
        self.ensure_there(id).await
    }

    /// Takes subtitles of a language away: what was sent, or else those of the source.
    ///
    /// # Errors
    /// [`Error::Missing`] where there are none, or the title is somebody else's.
    pub async fn delete_subtitles(
        &self,
        id: VideoId,
        role: Role,
        language: &Language,
    ) -> Result<(), Error> {
        let video = self.own_video(id, role)?;
        let _turn = self.extras.turn().await;
        let mut said: Said = self.record(id, None).await?;
        let made: Made = self.record(id, Some(video.version)).await?;
        let before = said.uploaded.len();
        said.uploaded.retain(|of| of.language != *language);
        let sent = said.uploaded.len() < before;
        let listed = made.tracks.iter().any(|of| of.language == *language);
        if !sent && (!listed || said.hidden.contains(language)) {
            return Err(Error::Missing("subtitles"));
        }
        if !sent {
            said.hidden.push(language.clone());
        }
        self.put(id, None, &Extra::Record, json(&said)?).await?;
        self.parts.blobs.delete_extra(id, None, &Extra::Subtitles(language.clone())).await?;
        self.extras.changed(id);
        self.ensure_there(id).await
    }

    /// Says whether subtitles are free where the film is not.
    ///
    /// # Errors
    /// [`Error::Missing`] where the title is somebody else's.
    pub async fn free_subtitles(&self, id: VideoId, role: Role, free: bool) -> Result<(), Error> {
        self.own_video(id, role)?;
        let _turn = self.extras.turn().await;
        let mut said: Said = self.record(id, None).await?;
        if said.subtitles_free != free {
            said.subtitles_free = free;
            self.put(id, None, &Extra::Record, json(&said)?).await?;
            self.extras.changed(id);
        }
        self.ensure_there(id).await
    }

    /// What is written while a title is deleted is removed.
    async fn ensure_there(&self, id: VideoId) -> Result<(), Error> {
        if self.parts.store.video(id)?.is_none() {
            self.parts.blobs.delete(id).await?;
            return Err(Error::Missing("title"));
        }
        Ok(())
    }
}

/// What names the cues of a track: what is uploaded belongs to all versions, and each upload is another text.
fn key(published: &Published, track: &Track) -> kept::Key {
    let version = track.upload.is_none().then_some(published.media.version);
    (published.video.id, version, track.language.clone(), track.upload)
}

/// The cues within a span, as many as fit.
fn segment(cues: &[Cue], span: (Ticks, Ticks)) -> String {
    let mut bytes = 0_usize;
    let shown = cues.iter().filter(|cue| cue.is_within(span)).take_while(|cue| {
        let text = subtitle::escaped(cue.text()).len();
        bytes = bytes.saturating_add(text).saturating_add(CUE_FRAME_BYTES);
        bytes <= SEGMENT_BYTES_MAX
    });
    subtitle::vtt(Some("X-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:0"), shown)
}

fn json(record: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(record).map(Bytes::from).map_err(|error| damaged(error.into()))
}

fn damaged(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Io { what: "what lies around a film", source: std::io::Error::other(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_bounded_whatever_spans_the_film() {
        let span = (Ticks::from_millis(1_000), Ticks::from_millis(5_000));
        let long = |n: u64| {
            Cue::new(Ticks::from_millis(n % 900), Ticks::from_millis(9_000), &"&".repeat(1_000))
        };
        let cues: Vec<Cue> = (0..20_000).filter_map(long).collect();
        let text = segment(&cues, span);
        assert!((SEGMENT_BYTES_MAX / 2..SEGMENT_BYTES_MAX + 256).contains(&text.len()));
        let read = subtitle::parse(text.as_bytes()).unwrap();
        assert!(read.iter().all(|cue| cue.text().len() == 1_000), "each is whole");
    }

    #[test]
    fn an_upload_takes_the_place_of_its_language_and_names_differ() {
        let track = |language: &str, name: &str, default, upload| Track {
            language: language.parse().unwrap(),
            name: name.to_owned(),
            default,
            forced: false,
            upload,
        };
        let tracks = vec![
            track("en", "English", true, None),
            track("de", "", true, None),
            track("en-x-2", "English", false, None),
            track("fr", "Français", false, None),
        ];
        let said = Said {
            uploaded: vec![track("de", "English", false, Some(1))],
            hidden: vec!["fr".parse().unwrap()],
            ..Said::default()
        };
        let around = Around::of(Made { tracks: tracks.clone(), ..Made::default() }, said);
        let names: Vec<_> = around.subtitles.iter().map(|of| of.name.as_str()).collect();
        assert_eq!(names, ["English", "English (en-x-2)", "English (de)"]);
        let around = Around::of(Made { tracks, ..Made::default() }, Said::default());
        let defaults: Vec<_> = around.subtitles.iter().map(|of| of.default).collect();
        assert_eq!(defaults, [true, false, false, false]);
        assert_eq!(around.subtitles[1].name, "de");
    }
}
