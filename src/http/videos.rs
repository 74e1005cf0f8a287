//! Titles and their sources.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::Event as Sse;
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::{Deserialize, Serialize};

use super::error::{Answer, Problem};
use super::extract::{Caller, Document, Path, Query, named};
use super::extras::{Links, links};
use super::{App, Shared, event_stream, uploads};
use crate::domain::id::{CreatorId, SourceHash, Version, VideoId};
use crate::domain::video::{Video, VideoState};
use crate::library::{self, EditVideo, NewVideo, PAGE_MAX};

/// A title on the wire.
#[derive(Serialize)]
pub struct Shown {
    id: VideoId,
    creator: Author,
    title: String,
    description: String,
    msat_per_second: u64,
    preview_seconds: u32,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    version: Version,
    /// The version that is being made to take its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<InTheMaking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<u32>,
    created_ms: u64,
    /// SHA-256 of the last source that arrived whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_sha256: Option<SourceHash>,
    /// What lies around a published film; not in lists.
    #[serde(flatten)]
    around: Option<Links>,
}

#[derive(Serialize)]
struct InTheMaking {
    version: Version,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Author {
    id: CreatorId,
    name: String,
}

/// A title as its owner sees it, or anybody.
fn shown(app: &Shared, video: Video, owner: bool) -> Result<Shown, Problem> {
    let name = app.library.creator(video.creator).map(|creator| creator.name).unwrap_or_default();
    let ready = video.state == VideoState::Ready;
    let media = if ready { app.library.published(video.id, None).ok() } else { None };
    Ok(Shown {
        id: video.id,
        creator: Author { id: video.creator, name },
        state: video.state.word(),
        reason: reason(&video.state),
        next: video.next.filter(|_| owner).map(|next| InTheMaking {
            version: next.version,
            state: next.state.word(),
            reason: reason(&next.state),
        }),
        title: video.title,
        description: video.description,
        msat_per_second: video.price.get(),
        preview_seconds: video.preview_seconds,
        version: video.version,
        duration_ms: media.as_ref().map(|of| of.media.timeline.duration().millis()),
        segments: media.as_ref().map(|of| of.media.timeline.segments()),
        created_ms: video.created_ms,
        source_sha256: video.source_sha256,
        around: None,
    })
}

/// The same with what lies around it.
async fn shown_whole(app: &Shared, video: Video, owner: bool) -> Answer<Json<Shown>> {
    let ready = video.state == VideoState::Ready;
    let published = if ready { app.library.published(video.id, None).ok() } else { None };
    let mut shown = shown(app, video, owner)?;
    if let Some(published) = published {
        shown.around = Some(links(app, &published).await?);
    }
    Ok(Json(shown))
}

fn reason(state: &VideoState) -> Option<String> {
    match state {
        VideoState::Failed { reason } => Some(reason.clone()),
        _ => None,
    }
}

/// `POST /api/v1/videos`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    title: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    msat_per_second: u64,
    #[serde(default)]
    preview_seconds: u32,
}

/// A new draft.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Document(create): Document<Create>,
) -> Answer {
    let new = NewVideo {
        title: create.title,
        description: create.description,
        msat_per_second: create.msat_per_second,
        preview_seconds: create.preview_seconds,
    };
    let video = app.library.create_video(caller.creator()?, &new)?;
    Ok((StatusCode::CREATED, Json(shown(&app, video, true)?)).into_response())
}

/// `GET /api/v1/videos/{id}`: anyone may see a published title.
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Shown>> {
    let video = app.library.video(named(&id)?, caller.0)?;
    let owner = library::owns(caller.0, &video);
    shown_whole(&app, video, owner).await
}

/// `GET /api/v1/videos?cursor=`
#[derive(Deserialize)]
pub struct Page {
    cursor: Option<VideoId>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Listed {
    videos: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<VideoId>,
}

/// A creator's titles, oldest first; the operator sees all.
pub async fn list(State(app): State<App>, caller: Caller, Query(page): Query<Page>) -> Answer {
    let limit = page.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let videos = app.library.videos(caller.known()?, page.cursor, limit)?;
    let cursor = if videos.len() == limit { videos.last().map(|video| video.id) } else { None };
    let videos =
        videos.into_iter().map(|video| shown(&app, video, true)).collect::<Result<_, _>>()?;
    Ok(Json(Listed { videos, cursor }).into_response())
}

/// `PATCH /api/v1/videos/{id}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    title: Option<String>,
    description: Option<String>,
    msat_per_second: Option<u64>,
    preview_seconds: Option<u32>,
    subtitles_free: Option<bool>,
}

/// Changes a title.
pub async fn edit(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Document(edit): Document<Edit>,
) -> Answer<Json<Shown>> {
    let (id, role) = (named(&id)?, caller.known()?);
    let subtitles_free = edit.subtitles_free;
    let edit = EditVideo {
        title: edit.title,
        description: edit.description,
        msat_per_second: edit.msat_per_second,
        preview_seconds: edit.preview_seconds,
    };
    let video = app.library.edit_video(id, role, edit)?;
    if let Some(free) = subtitles_free {
        app.library.free_subtitles(id, role, free).await?;
    }
    shown_whole(&app, video, true).await
}

/// `DELETE /api/v1/videos/{id}`
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    app.library.delete_video(named(&id)?, caller.known()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/v1/videos/{id}/cancel`: ends what is being made of it; what is served stays.
pub async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    app.library.cancel_job(named(&id)?, caller.known()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT /api/v1/videos/{id}/source`: the file as the body, or with `Content-Range` the rest of one that broke off.
pub async fn source(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = named(&id)?;
    match uploads::put(&app, &caller, id, &headers, body).await? {
        Ok(()) => {
            let video = app.library.own_video(id, caller.known()?)?;
            Ok((StatusCode::ACCEPTED, Json(shown(&app, video, true)?)).into_response())
        }
        Err(more) => Ok(more),
    }
}

/// `GET /api/v1/videos/{id}/events`: state and progress as server-sent events, from the present one on.
pub async fn events(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Response> {
    let mut progress = app.library.progress(named(&id)?, caller.known()?)?;
    progress.mark_changed();
    Ok(event_stream(stream::unfold(progress, |mut progress| async move {
        // The sender is gone with the title: so is the stream.
        progress.changed().await.ok()?;
        let data = serde_json::to_string(&*progress.borrow_and_update()).unwrap_or_default();
        Some((Sse::default().event("progress").data(data), progress))
    })))
}
